"""A model inside the enclave's own process (isolation `inline`): for owners who trust it with the enclave's keys.

Faster by one hop. Neither the memory limit nor the end of a late run can be enforced here; a late run keeps its thread.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enclave.engine import Engine, Output
from enclave.errors import RequestError, RunError
from enclave.pool import WAITING_MAX
from enclave.tensor import TensorView
from enclave.worker import Description
from wire.errors import Code
from wire.manifest_values import Model


class InlineRunner:
    """One session, run in at most `runtime.workers` threads at once."""

    def __init__(self, model: Model, description: Description, graph: bytes | memoryview) -> None:
        self.model = model
        self._description = description
        self._graph: bytes | memoryview = graph
        self._engine: Engine | None = None
        self._threads = ThreadPoolExecutor(max_workers=model.runtime.workers, thread_name_prefix="model")
        self._open = 0

    def start(self) -> None:
        """Load the model (blocking; boot only). Raises: ModelError."""
        weights = self._description.weights
        self._engine = Engine(
            self._description.signature,
            self._graph,
            weights=None if weights is None else Path(weights),
            prepack=True,
            threads=self._description.threads,
        )
        self._graph = b""

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._engine is not None

    def close(self) -> None:
        """Take no more requests; a run under way is not waited for."""
        self._engine = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def infer(self, inputs: Sequence[TensorView], wanted: Sequence[int], deadline: float | None) -> list[TensorView]:
        """The wanted outputs for inputs in the signature's order; `deadline` in the loop's time. Raises: RequestError."""
        engine = self._engine
        if engine is None:
            raise RequestError(Code.MODEL_NOT_READY)
        if self._open >= WAITING_MAX + self.model.runtime.workers:
            raise RequestError(Code.BUSY)
        loop = asyncio.get_running_loop()
        patience = loop.time() + self.model.runtime.seconds
        tensors = [(tensor.shape, memoryview(tensor.data)) for tensor in inputs]
        self._open += 1
        future = loop.run_in_executor(self._threads, engine.run, tensors, wanted)
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout_at(patience if deadline is None else min(deadline, patience)):
                found = await asyncio.shield(future)
        except TimeoutError:
            raise RequestError(Code.DEADLINE_EXPIRED) from None
        except RunError as error:
            raise RequestError(error.code, "" if error.input is None else f"{inputs[error.input].path}.data") from None
        return self._views(found, wanted)

    def _done(self, future: asyncio.Future[list[Output]]) -> None:
        self._open -= 1
        if not future.cancelled():
            future.exception()  # taken, even if nobody waits for it any more

    def _views(self, found: Sequence[Output], wanted: Sequence[int]) -> list[TensorView]:
        if sum(len(output.data) for output in found) > self.model.runtime.answer_bytes:
            raise RequestError(Code.ANSWER_TOO_LARGE)
        tensors = [self.model.outputs[at] for at in wanted]
        return [
            TensorView(name=tensor.name, datatype=tensor.datatype, shape=output.shape, data=output.data)
            for tensor, output in zip(tensors, found, strict=True)
        ]
