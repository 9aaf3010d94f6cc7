"""Every model that the enclave serves: load at boot, run on request, each isolated as the manifest says."""

import asyncio
from collections.abc import Callable, Sequence
import os
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import ModelError, RequestError, WorkersGoneError
from enclave.memory import WeightsFolder
from enclave.pool import WorkerPool
from enclave.tensor import TensorView
from enclave.worker import Description
from enclave.zygote import Zygote
from wire.errors import BootFailure, Code
from wire.manifest_values import Model

if TYPE_CHECKING:
    from enclave.inline import InlineRunner


class ModelHost:
    """The models of one enclave. `load` blocks and belongs to boot; `infer` belongs to one event loop.

    `folder`: a memory-backed folder for weights (ValueError if it is not). `on_lost` is called for each worker that ended
    unexpectedly.
    """

    def __init__(self, zygote: Zygote, folder: Path, *, on_lost: Callable[[], None] = lambda: None) -> None:
        self._zygote = zygote
        self._weights = WeightsFolder(folder)
        self._on_lost = on_lost
        self._runners: dict[tuple[str, str], WorkerPool | InlineRunner] = {}

    def create_weights(self) -> int:
        """The descriptor of an empty file in memory, to be filled with a model's `weights` part and given to `load`."""
        return self._weights.create()

    def load(self, model: Model, graph: bytes | memoryview, weights: int | None = None) -> None:
        """Load one model from its opened parts. Raises: ModelError; WorkersGoneError; OSError where memory is short."""
        path = None if weights is None else self._weights.finish(weights)
        if (path is None) is any(part.name == "weights" for part in model.parts):
            raise ModelError(BootFailure.MODEL_REFUSED)
        description = Description(
            inputs=model.inputs,
            outputs=model.outputs,
            reject_non_finite=model.reject_non_finite,
            threads=max(1, len(os.sched_getaffinity(0)) // model.runtime.workers),
            memory_bytes=model.runtime.memory_bytes,
            weights=None if path is None else str(path),
        )
        runner = self._runner(model, description, graph)
        self._runners[model.id, model.version] = runner
        try:
            runner.start()
        except ModelError as error:
            if error.boot_failure is BootFailure.MODEL_LOAD and self._zygote.gone:  # it took its workers along
                raise WorkersGoneError from None
            raise

    def _runner(self, model: Model, description: Description, graph: bytes | memoryview) -> "WorkerPool | InlineRunner":
        if model.isolation == "inline":
            # ONNX Runtime stays out of this process unless a manifest wants it in.
            from enclave.inline import InlineRunner as Inline  # noqa: PLC0415

            return Inline(model, description, graph)
        return WorkerPool(model, description, graph, self._zygote, self._on_lost)

    def ready(self, model: Model) -> bool:
        """Whether the model can answer now."""
        runner = self._runners.get((model.id, model.version))
        return runner is not None and runner.ready

    async def infer(
        self, model: Model, inputs: Sequence[TensorView], outputs: Sequence[int] | None = None, *, deadline: float | None = None
    ) -> list[TensorView]:
        """Run one model. `inputs` in the signature's order and fitting it; `outputs` by their place in it (None: all);
        `deadline` in the loop's time.

        Raises: RequestError.
        """
        runner = self._runners.get((model.id, model.version))
        if runner is None:
            raise RequestError(Code.MODEL_NOT_READY)
        if sum(len(tensor.data) for tensor in inputs) > model.runtime.request_bytes:
            raise RequestError(Code.REQUEST_TOO_LARGE)
        return await runner.infer(inputs, range(len(model.outputs)) if outputs is None else outputs, deadline)

    async def watch(self) -> None:
        """Watch every worker, and wait until there is nothing left to fork them from, which ends the enclave.

        A worker that died before is replaced at once, not at the cost of the first request. Raises: WorkersGoneError.
        """
        loop = asyncio.get_running_loop()
        for runner in self._runners.values():
            if isinstance(runner, WorkerPool):
                runner.attach(loop)
        gone = asyncio.Event()
        loop.add_reader(self._zygote.fileno(), gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._zygote.fileno())
        raise WorkersGoneError

    def close(self) -> None:
        """End every model; the zygote is its owner's to close."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
        self._weights.remove()
