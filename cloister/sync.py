"""The SDK for programs without an event loop: the same client, its work done on a thread of its own.

    with sync.connect("tcp:parent.example:8443", reference_values, identity=identity) as client:
        answer = client.infer("cancer", {"x": numpy.zeros((1, 30), numpy.float32)})

A client may be used from several threads at once: their requests share its session.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
import os
import threading
from typing import Any, Self, TypeVar
import weakref

from numpy.typing import NDArray

from attestation import AWS_ROOTS, AttestationResult, ReferenceValues, Root
from cloister import api
from cloister.api import ANSWER_BYTES_DEFAULT, Answer
from cloister.session import CallerIdentity
from cloister.tensors import Raw
from wire.endpoint import Endpoint
from wire.handshake import HANDSHAKE_SECONDS

T = TypeVar("T")


class _Loop:
    """An event loop on a thread, which ends with `stop` or with the process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="cloister", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start `work` on the thread. Raises: RuntimeError in a forked child, which has no such thread, or after `stop`."""
        if self.process != os.getpid() or self.loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed, or of the process that this one was forked from")
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and wait; an interrupted wait cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread; what still runs is dropped."""
        if self.process == os.getpid() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout=5.0)


class Client:
    """A client of one appliance; made by `connect`. Methods, arguments and errors are those of `cloister.Client`."""

    def __init__(self, loop: _Loop, client: api.Client) -> None:
        self._loop = loop
        self._client = client
        self._stop = weakref.finalize(self, loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def attestation(self) -> AttestationResult:
        """The appraised evidence of the session in use. Raises RuntimeError where there is none."""
        return self._client.attestation

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any] | Raw],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = 60.0,
        repeatable: bool = False,
    ) -> Answer:
        """Run a model on arrays by input name and wait for the answer."""
        return self._loop.run(self._client.infer(model, inputs, version=version, outputs=outputs, timeout=timeout, repeatable=repeatable))

    def submit(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any] | Raw],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = 60.0,
        repeatable: bool = False,
    ) -> "Future[Answer]":
        """Start the same and return at once; cancelling the future cancels the request at the enclave too."""
        return self._loop.submit(
            self._client.infer(model, inputs, version=version, outputs=outputs, timeout=timeout, repeatable=repeatable)
        )

    def ready(self, model: str | None = None, version: str | None = None, *, timeout: float | None = 10.0) -> bool:
        """Whether the enclave (or one model) answers inference requests now."""
        return self._loop.run(self._client.ready(model, version, timeout=timeout))

    def metadata(self, model: str | None = None, version: str | None = None, *, timeout: float | None = 10.0) -> dict[str, Any]:
        """The server's metadata, or a model's."""
        return self._loop.run(self._client.metadata(model, version, timeout=timeout))

    def close(self) -> None:
        """End the session in an orderly way, and the thread. Closing twice is fine."""
        if self._stop.alive:
            try:
                self._loop.run(self._client.close())
            finally:
                self._stop()


def connect(
    endpoint: Endpoint | str,
    reference_values: ReferenceValues,
    *,
    identity: CallerIdentity | None = None,
    roots: tuple[Root, ...] = AWS_ROOTS,
    answer_bytes: int = ANSWER_BYTES_DEFAULT,
    timeout: float = HANDSHAKE_SECONDS,
) -> Client:
    """Attest the appliance and open a first session, as `cloister.connect` does."""
    loop = _Loop()
    try:
        work = api.connect(endpoint, reference_values, identity=identity, roots=roots, answer_bytes=answer_bytes, timeout=timeout)
        return Client(loop, loop.run(work))
    except BaseException:
        loop.stop()
        raise
