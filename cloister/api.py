"""The SDK: `connect` attests an appliance and returns a client whose every request is sealed to the attested key.

    async with await connect("tcp:parent.example:8443", reference_values, identity=identity) as client:
        answer = await client.infer("cancer", {"x": numpy.zeros((1, 30), numpy.float32)})

A session is replaced by itself at a random 50 to 90 % of its lifetime, the new one attested before the old one ends.
`cloister.sync` has the same client for programs without an event loop.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
import json
import random
from typing import Any, Self

from numpy.typing import NDArray

from attestation import AWS_ROOTS, AttestationResult, ReferenceValues, Root, evaluate
from cloister import tensors
from cloister.connection import Connection, Opening, open_session
from cloister.errors import CloisterError, DeadlineError, MalformedAnswerError, RequestRefusedError, SessionLostError, UnreachableError
from cloister.session import Accepted, CallerIdentity
from cloister.tensors import Raw
from wire import endpoint as endpoints
from wire.endpoint import Endpoint
from wire.errors import Code
from wire.handshake import HANDSHAKE_SECONDS
from wire.message import DEADLINE_MS_MAX, Message, Refused, encode
from wire.record import Octets

ANSWER_BYTES_DEFAULT = 128 << 20
RENEW_FROM, RENEW_TO = 0.5, 0.9
RENEW_AGAIN_SECONDS = 5.0
OLD_SECONDS = 60.0  # what a replaced session's open messages get
# The session ended before the enclave took the message: another session may take it.
_NOT_TAKEN = frozenset({Code.SESSION_EXPIRED, Code.SESSION_IDLE, Code.SHUTTING_DOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's outputs by name, the model and version that gave them, and the evidence that they came from."""

    outputs: dict[str, NDArray[Any]] = field(repr=False)
    model: str
    version: str
    attestation: AttestationResult = field(repr=False)


@dataclass(slots=True, kw_only=True)
class _Session:
    connection: Connection
    accepted: Accepted
    renew_at: float

    @property
    def usable(self) -> bool:
        return self.connection.is_alive and self.connection.age < self.accepted.seconds

    @property
    def due(self) -> bool:
        return self.connection.age >= self.renew_at


class Client:
    """A client of one appliance; several requests may be in flight at once. Made by `connect`."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._current: _Session | None = None
        self._opens: asyncio.Task[_Session] | None = None
        self._old: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def attestation(self) -> AttestationResult:
        """The appraised evidence of the session in use. Raises RuntimeError on a closed client."""
        if self._current is None or self._current.connection.result is None:
            raise RuntimeError("the client has no session")
        return self._current.connection.result

    async def _open(self) -> _Session:
        connection, accepted = await open_session(self._opening)
        renew_at = accepted.seconds * random.SystemRandom().uniform(RENEW_FROM, RENEW_TO)
        self._retire(self._current)
        self._current = _Session(connection=connection, accepted=accepted, renew_at=renew_at)
        return self._current

    def _retire(self, old: _Session | None) -> None:
        """A session that is replaced: what is under way on it still ends well."""
        if old is not None and old.connection.is_alive:
            task = asyncio.get_running_loop().create_task(old.connection.close(seconds=OLD_SECONDS))
            self._old.add(task)
            task.add_done_callback(self._old.discard)

    def _opening_task(self) -> "asyncio.Task[_Session]":
        if self._opens is None or self._opens.done():
            self._opens = asyncio.get_running_loop().create_task(self._open())
            self._opens.add_done_callback(lambda task: task.cancelled() or task.exception())  # a failure is seen by whoever waits
        return self._opens

    async def _session(self) -> _Session:
        """A usable session; one that is due is used while its successor is opened beside it."""
        if self._closed:
            raise RuntimeError("the client is closed")
        current = self._current
        if current is not None and current.usable:
            if current.due:
                current.renew_at = current.connection.age + RENEW_AGAIN_SECONDS  # should it fail, not with every request
                self._opening_task()
            return current
        return await asyncio.shield(self._opening_task())

    async def _request(self, pieces: Sequence[Octets], *, repeatable: bool) -> tuple[Message, AttestationResult]:
        """Send and wait; once again by itself where nothing was sent, or where the request may be repeated."""
        lost: SessionLostError | None = None  # the request may have run
        for again in (True, False):
            try:
                session = await self._session()
            except CloisterError as error:
                if again and isinstance(error, UnreachableError | SessionLostError):
                    continue
                raise lost or error from None
            try:
                answer, result = await self._exchange(session, pieces)
            except (UnreachableError, SessionLostError) as error:
                sent = error if isinstance(error, SessionLostError) and error.sent else None
                if not again or (sent and not repeatable):
                    raise sent or lost or error from None
                lost = sent
            else:
                if answer.status not in _NOT_TAKEN or not again:
                    return answer, result
                if self._current is session:
                    self._current = None
                    self._retire(session)
        raise SessionLostError(sent=False)  # the second round has returned or raised

    async def _exchange(self, session: _Session, pieces: Sequence[Octets]) -> tuple[Message, AttestationResult]:
        if sum(memoryview(piece).nbytes for piece in pieces) > session.accepted.request_bytes:
            raise RequestRefusedError(Code.REQUEST_TOO_LARGE)
        answer = await session.connection.request(pieces)
        result = session.connection.result
        if isinstance(answer, Refused) and answer.too_large:
            raise RequestRefusedError(Code.ANSWER_TOO_LARGE)
        if result is None or isinstance(answer, Refused):
            raise MalformedAnswerError
        return answer, result

    async def call(
        self, path: str, body: bytes = b"", parts: Sequence[Octets] = (), *, seconds: float | None = None, repeatable: bool = False
    ) -> tuple[Message, AttestationResult]:
        """One message to `path`: JSON and binary tensors in, the whole answer out; the sidecar's door.

        Raises: RequestRefusedError for an error answer; DeadlineError; what `connect` raises.
        """
        milliseconds = 0 if seconds is None else min(max(1, int(seconds * 1000)), DEADLINE_MS_MAX)
        pieces = encode(path=path, json=body, tensors=parts, deadline_ms=milliseconds)
        try:
            async with asyncio.timeout(seconds):
                answer, result = await self._request(pieces, repeatable=repeatable)
        except TimeoutError:
            raise DeadlineError from None
        if answer.status != Code.OK:
            raise _refusal(answer)
        return answer, result

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any] | Raw],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = 60.0,  # noqa: ASYNC109 - the deadline travels to the enclave with the request
        repeatable: bool = False,
    ) -> Answer:
        """Run a model on arrays by input name; `outputs` selects, `timeout` in seconds, `repeatable` allows one repetition
        after the session broke when the model may already have run.

        Raises: RequestRefusedError (the enclave's code and field), DeadlineError, SessionLostError, EvidenceRefusedError,
        UnreachableError; ValueError for arrays that no datatype fits.
        """
        body, parts = tensors.encode_request(inputs, outputs=outputs)
        message, result = await self.call(_path(model, version, "infer"), body, parts, seconds=timeout, repeatable=repeatable)
        try:
            answer = tensors.decode_answer(message.json, message.tensors)
        except tensors.MalformedTensorsError:
            raise MalformedAnswerError from None
        return Answer(outputs=answer.outputs, model=answer.model, version=answer.version, attestation=result)

    async def ready(self, model: str | None = None, version: str | None = None, *, timeout: float | None = 10.0) -> bool:  # noqa: ASYNC109
        """Whether the enclave (or one model) answers inference requests now."""
        path = "/v2/health/ready" if model is None else _path(model, version, "ready")
        try:
            await self.call(path, seconds=timeout, repeatable=True)
        except RequestRefusedError as error:
            if error.code is Code.MODEL_NOT_READY:
                return False
            raise
        return True

    async def metadata(self, model: str | None = None, version: str | None = None, *, timeout: float | None = 10.0) -> dict[str, Any]:  # noqa: ASYNC109
        """The server's metadata, or a model's: name, versions, inputs and outputs as the v2 protocol gives them."""
        message, _ = await self.call("/v2" if model is None else _path(model, version, ""), seconds=timeout, repeatable=True)
        return _object(message)

    async def close(self) -> None:
        """End the session in an orderly way; requests in flight get five seconds. Closing twice is fine."""
        self._closed = True
        if self._opens is not None and not self._opens.done():
            self._opens.cancel()
            await asyncio.wait((self._opens,))
        current, self._current = self._current, None
        for task in tuple(self._old):
            task.cancel()
        if current is not None:
            await current.connection.close()
        await asyncio.gather(*self._old, return_exceptions=True)


def _path(model: str, version: str | None, action: str) -> str:
    path = f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}")
    return path + (f"/{action}" if action else "")


def _object(message: Message) -> dict[str, Any]:
    try:
        value = json.loads(bytes(message.json))
    except (ValueError, RecursionError):
        raise MalformedAnswerError from None
    if not isinstance(value, dict):
        raise MalformedAnswerError
    return value


def _refusal(message: Message) -> CloisterError:
    try:
        code = Code(message.status)
    except ValueError:
        return MalformedAnswerError()
    if code is Code.DEADLINE_EXPIRED:
        return DeadlineError()
    named = _object(message).get("field", "")
    return RequestRefusedError(code, named if isinstance(named, str) else "")


async def connect(
    endpoint: Endpoint | str,
    reference_values: ReferenceValues,
    *,
    identity: CallerIdentity | None = None,
    roots: tuple[Root, ...] = AWS_ROOTS,
    answer_bytes: int = ANSWER_BYTES_DEFAULT,
    timeout: float = HANDSHAKE_SECONDS,  # noqa: ASYNC109 - bounds every later handshake of the client too
) -> Client:
    """Attest the appliance behind `endpoint` against `reference_values` and open a first session.

    `identity`: credential and key, None where the reference values accept "anyone". `roots`: AWS's unless you verify a
    simulated world. Raises: EvidenceRefusedError (nothing was sealed), SessionRefusedError, UnreachableError.
    """

    def judge(body: bytes, nonce: bytes) -> AttestationResult:
        return evaluate(body, nonce=nonce, reference_values=reference_values, now=datetime.now(UTC), roots=roots)

    where = endpoints.parse(endpoint) if isinstance(endpoint, str) else endpoint
    client = Client(Opening(endpoint=where, judge=judge, identity=identity, answer_bytes=answer_bytes, seconds=timeout))
    await client._session()
    return client
