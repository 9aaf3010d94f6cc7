"""Models chained inside the enclave: each step's outputs are kept for later steps; only the pipeline's own outputs leave."""

import asyncio
from collections.abc import Callable, Sequence

from enclave.errors import RequestError
from enclave.model import ModelHost
from enclave.tensor import TensorView
from wire.errors import Code
from wire.manifest_values import Model, Pipeline, Step
from wire.tensor import fits

Find = Callable[[str, str], Model]
"""The manifest's model of this id and version; the manifest's own check made sure that each step's is there."""


async def infer(
    host: ModelHost,
    pipeline: Pipeline,
    find: Find,
    inputs: Sequence[TensorView],
    outputs: Sequence[int],
    *,
    deadline: float | None,
    reserve: Callable[[int], None],
) -> list[TensorView]:
    """Run every step in order; the pipeline's wanted outputs by their place. Raises: RequestError.

    `reserve` is told the bytes of each step's outputs, which are kept until the last step has run; it may raise.
    """
    known = {tensor.name: tensor for tensor in inputs}
    for step in pipeline.steps:
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            raise RequestError(Code.DEADLINE_EXPIRED)
        made = await _run(host, find(step.model, step.version), step, known, deadline)
        reserve(sum(len(tensor.data) for tensor in made.values()))
        known |= made
    found = [(pipeline.outputs[at], known[pipeline.outputs[at].name]) for at in outputs]
    if not all(fits(tensor.shape, wanted.shape) for wanted, tensor in found):
        raise RequestError(Code.MODEL_FAILED)
    return [tensor for _, tensor in found]


async def _run(host: ModelHost, model: Model, step: Step, known: dict[str, TensorView], deadline: float | None) -> dict[str, TensorView]:
    """One step's outputs under their names in the pipeline."""
    sources = dict(step.inputs)
    inputs = [known[sources[tensor.name]] for tensor in model.inputs]
    for tensor, given in zip(model.inputs, inputs, strict=True):
        if not fits(given.shape, tensor.shape):  # a free dimension of one step that is fixed in the next
            raise RequestError(Code.WRONG_SHAPE, f"{given.path}.shape") if given.path else RequestError(Code.MODEL_FAILED)
    places = {tensor.name: at for at, tensor in enumerate(model.outputs)}
    try:
        outputs = await host.infer(model, inputs, [places[name] for name, _ in step.outputs], deadline=deadline)
    except RequestError as error:
        inner = any(not tensor.path for tensor in inputs)
        if error.field.startswith(".") or (error.code is Code.REQUEST_TOO_LARGE and inner):  # about data that no caller sent
            raise RequestError(Code.MODEL_FAILED) from None
        raise
    return {
        name: TensorView(name=name, datatype=tensor.datatype, shape=tensor.shape, data=tensor.data)
        for (_, name), tensor in zip(step.outputs, outputs, strict=True)
    }
