"""Models chained in the enclave: the right tensors meet, and what goes wrong in between is the model's failure."""

import asyncio
import contextlib
from typing import Any, cast

import numpy as np
from onnx import helper
import pytest

from enclave import pipeline
from enclave.errors import RequestError
from enclave.limits import Memory
from enclave.model import ModelHost
from enclave.tensor import TensorView
from tests.model import graphs
from wire.errors import Code
from wire.manifest import Model, Pipeline, Runtime, Step, Tensor

tensor = graphs.tensor


def scaled(host: ModelHost, name: str, factor: float, **options: Any) -> Model:
    inputs, outputs = (tensor("in"),), (tensor("out"),)
    constant = helper.make_tensor("k", 1, [1], [factor])
    model = graphs.model(inputs, outputs, name=name, **options)
    host.load(model, graphs.graph([helper.make_node("Mul", ["in", "k"], ["out"])], inputs, outputs, [constant]))
    return model


def view(name: str, values: list[float]) -> TensorView:
    array = np.array(values, np.float32)
    return TensorView(name=name, datatype="FP32", shape=array.shape, data=array.tobytes(), path="inputs[0]")


def free(size: int) -> None:
    """As much memory as anybody wants."""


def run(
    host: ModelHost, models: list[Model], made: Pipeline, inputs: list[TensorView], wanted: list[int], **options: Any
) -> list[TensorView]:
    def find(name: str, version: str) -> Model:
        return next(model for model in models if (model.id, model.version) == (name, version))

    return asyncio.run(pipeline.infer(host, made, find, inputs, wanted, deadline=options.get("deadline"), reserve=free))


def chain(*steps: Step, inputs: tuple[Tensor, ...] = (tensor("a"),), outputs: tuple[Tensor, ...] = (tensor("b"),)) -> Pipeline:
    return Pipeline(id="p", version="1", steps=steps, inputs=inputs, outputs=outputs)


def step(model: str, source: str, target: str) -> Step:
    return Step(model=model, version="1", inputs=(("in", source),), outputs=(("out", target),))


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_steps_pass_tensors_on(host: ModelHost, isolation: str) -> None:
    """Each step reads what the pipeline or an earlier step gave; only wanted outputs of the pipeline come out, under its names."""
    two, three = scaled(host, "two", 2, isolation=isolation), scaled(host, "three", 3, isolation=isolation)
    made = chain(step("two", "a", "m"), step("three", "m", "b"), step("three", "a", "c"), outputs=(tensor("b"), tensor("c"), tensor("m")))
    found = run(host, [two, three], made, [view("a", [1, 2])], [1, 0])
    assert [(t.name, np.frombuffer(t.data, np.float32).tolist()) for t in found] == [("c", [3, 6]), ("b", [6, 12])]


def test_a_step_may_fail(host: ModelHost) -> None:
    """A failure of a later step on data that no caller sent is MODEL_FAILED, without a field."""
    two = scaled(host, "two", 3e38)
    strict = scaled(host, "strict", 1, reject_non_finite=True)
    made = chain(step("two", "a", "m"), step("strict", "m", "b"))
    with pytest.raises(RequestError) as info:
        run(host, [two, strict], made, [view("a", [10])], [0])
    assert (info.value.code, info.value.field) == (Code.MODEL_FAILED, "")


def test_the_callers_fault_is_named(host: ModelHost) -> None:
    """A refusal of the caller's own tensor in the first step names it as in a plain request."""
    strict = scaled(host, "strict", 1, reject_non_finite=True)
    with pytest.raises(RequestError) as info:
        run(host, [strict], chain(step("strict", "a", "b")), [view("a", [float("nan")])], [0])
    assert (info.value.code, info.value.field) == (Code.NON_FINITE_INPUT, "inputs[0].data")


def test_a_dimension_that_a_later_step_fixes(host: ModelHost) -> None:
    """A shape that a step does not take is WRONG_SHAPE for the caller's tensor and MODEL_FAILED for an inner one."""
    inputs, outputs = (tensor("in", "FP32", (2,)),), (tensor("out", "FP32", (2,)),)
    fixed = graphs.model(inputs, outputs, name="fixed")
    host.load(fixed, graphs.graph([helper.make_node("Identity", ["in"], ["out"])], inputs, outputs))
    two = scaled(host, "two", 2)
    assert len(run(host, [fixed], chain(step("fixed", "a", "b")), [view("a", [1, 2])], [0])) == 1
    host_free = chain(step("fixed", "a", "b"))
    with pytest.raises(RequestError) as info:
        asyncio.run(_infer(host, [fixed], host_free, [view("a", [1, 2, 3])]))
    assert (info.value.code, info.value.field) == (Code.WRONG_SHAPE, "inputs[0].shape")
    with pytest.raises(RequestError) as info:
        asyncio.run(_infer(host, [two, fixed], chain(step("two", "a", "m"), step("fixed", "m", "b")), [view("a", [1, 2, 3])]))
    assert (info.value.code, info.value.field) == (Code.MODEL_FAILED, "")


async def _infer(host: ModelHost, models: list[Model], made: Pipeline, inputs: list[TensorView]) -> list[TensorView]:
    return await pipeline.infer(
        host, made, lambda name, _: next(m for m in models if m.id == name), inputs, [0], deadline=None, reserve=free
    )


def test_an_output_that_is_not_the_pipelines(host: ModelHost) -> None:
    """An output whose shape the pipeline's signature does not name never leaves."""
    two = scaled(host, "two", 2)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.MODEL_FAILED):
        run(host, [two], chain(step("two", "a", "b"), outputs=(tensor("b", "FP32", (2,)),)), [view("a", [1, 2, 3])], [0])


def test_an_inner_tensor_that_is_too_large(host: ModelHost) -> None:
    """An inner tensor beyond the next model's limit is the model's failure; the caller's own is REQUEST_TOO_LARGE."""
    two = scaled(host, "two", 2)
    small = scaled(host, "small", 1, runtime=Runtime(request_bytes=4, answer_bytes=4))
    for made, code in (
        (chain(step("two", "a", "m"), step("small", "m", "b")), Code.MODEL_FAILED),
        (chain(step("small", "a", "b")), Code.REQUEST_TOO_LARGE),
    ):
        with pytest.raises(RequestError) as info:
            asyncio.run(_infer_again(two, small, made))
        assert info.value.code is code


async def _infer_again(two: Model, small: Model, made: Pipeline) -> list[TensorView]:
    class Host:
        """The two models' limits without their workers, because a model belongs to one event loop."""

        async def infer(self, model: Model, inputs: list[TensorView], outputs: list[int], *, deadline: float | None) -> list[TensorView]:
            if sum(len(t.data) for t in inputs) > model.runtime.request_bytes:
                raise RequestError(Code.REQUEST_TOO_LARGE)
            return [TensorView(name="out", datatype="FP32", shape=inputs[0].shape, data=inputs[0].data)]

    models = {"two": two, "small": small}
    return await pipeline.infer(Host(), made, lambda name, _: models[name], [view("a", [1, 2])], [0], deadline=None, reserve=free)  # type: ignore[arg-type]


class Scripted:
    """Each step's outcome, said beforehand."""

    def __init__(self, *outcomes: Code) -> None:
        self.outcomes = list(outcomes)

    async def infer(self, model: Model, inputs: list[TensorView], outputs: list[int], *, deadline: float | None) -> list[TensorView]:
        code = self.outcomes.pop(0)
        if code is not Code.OK:
            raise RequestError(code)
        return [TensorView(name="out", datatype="FP32", shape=inputs[0].shape, data=inputs[0].data)]


@pytest.mark.parametrize("code", [Code.OUT_OF_MEMORY, Code.WORKER_LOST, Code.BUSY, Code.DEADLINE_EXPIRED, Code.ANSWER_TOO_LARGE])
def test_what_is_not_about_data_keeps_its_code(code: Code) -> None:
    """A later step that is out of memory, time or workers says so; only what is about inner data is MODEL_FAILED."""
    one = graphs.model((tensor("in"),), (tensor("out"),), name="one")
    made = chain(step("one", "a", "m"), step("one", "m", "b"))
    scripted: Any = Scripted(Code.OK, code)
    with pytest.raises(RequestError, check=lambda error: error.code is code):
        asyncio.run(pipeline.infer(scripted, made, lambda *_: one, [view("a", [1])], [0], deadline=None, reserve=free))


def test_what_is_kept_between_steps_is_reserved() -> None:
    """Each step's outputs are counted while the pipeline runs; where they do not fit the request is refused, and all is given back."""
    one = graphs.model((tensor("in"),), (tensor("out"),), name="one")
    made = chain(step("one", "a", "m"), step("one", "m", "b"))
    size = Memory.FREE + 4
    wide = view("a", [1.0] * (size // 4))
    for room, refused in ((2 * size, False), (2 * size - 1, True)):
        memory, scripted = Memory(room), Scripted(Code.OK, Code.OK)
        fails = pytest.raises(RequestError, check=lambda error: error.code is Code.BUSY) if refused else contextlib.nullcontext()
        with fails, memory.hold() as reserve:
            asyncio.run(pipeline.infer(cast("Any", scripted), made, lambda *_: one, [wide], [0], deadline=None, reserve=reserve))
        assert scripted.outcomes == []
        assert memory.take(room)


def test_no_step_begins_after_the_deadline() -> None:
    """The steps' own host is not even asked."""
    one = graphs.model((tensor("in"),), (tensor("out"),), name="one")
    scripted: Any = Scripted(Code.OK)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.DEADLINE_EXPIRED):
        asyncio.run(
            pipeline.infer(scripted, chain(step("one", "a", "b")), lambda *_: one, [view("a", [1])], [0], deadline=0.0, reserve=free)
        )
    assert scripted.outcomes == [Code.OK]


def test_the_deadline_holds_between_steps(host: ModelHost) -> None:
    """A pipeline does not begin a step after its deadline."""
    two = scaled(host, "two", 2)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.DEADLINE_EXPIRED):
        run(host, [two], chain(step("two", "a", "b")), [view("a", [1])], [0], deadline=0.0, reserve=free)
