"""Models in worker processes and inline: results, limits, faults, and callers that go away."""

import asyncio
from collections.abc import Callable
import os
from pathlib import Path
import signal

import numpy as np
from onnx import TensorProto, helper
import pytest

from enclave.errors import ModelError, RequestError
from enclave.model import ModelHost
from enclave.tensor import TensorView
from enclave.zygote import Zygote
from tests.model import graphs
from wire.errors import BootFailure, Code
from wire.manifest import Model, Runtime
from wire.tensor import ITEM_BYTES, join_bytes

BOTH = pytest.mark.parametrize("isolation", ["process", "inline"])


def view(name: str, array: np.ndarray, datatype: str = "FP32", path: str = "inputs[0]") -> TensorView:
    return TensorView(name=name, datatype=datatype, shape=array.shape, data=array.tobytes(), path=path)


def loaded(host: ModelHost, made: tuple[bytes, tuple, tuple], **options: object) -> Model:
    model = graphs.model(made[1], made[2], **options)  # type: ignore[arg-type]
    host.load(model, made[0])
    return model


@BOTH
def test_two_inputs_give_two_outputs(host: ModelHost, isolation: str) -> None:
    """A model answers with each of its outputs, in the signature's order, whatever the isolation."""
    model = loaded(host, graphs.double_sum(), isolation=isolation)
    a, b = np.array([1, 2], np.float32), np.array([10, 20], np.float32)
    found = asyncio.run(host.infer(model, [view("a", a), view("b", b)]))
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in found] == [
        ("sum", "FP32", (2,), (a + b).tobytes()),
        ("difference", "FP32", (2,), (a - b).tobytes()),
    ]


@BOTH
def test_one_output_is_selected(host: ModelHost, isolation: str) -> None:
    """Only the wanted outputs come back."""
    model = loaded(host, graphs.double_sum(), isolation=isolation)
    a = np.array([1, 2], np.float32)
    found = asyncio.run(host.infer(model, [view("a", a), view("b", a)], [1]))
    assert [(t.name, bytes(t.data)) for t in found] == [("difference", bytes(8))]


@BOTH
@pytest.mark.parametrize("datatype", list(ITEM_BYTES))
def test_every_datatype_passes_through(host: ModelHost, isolation: str, datatype: str) -> None:
    """Each datatype of the protocol comes back bit for bit, empty tensors and scalars of shape [1] too."""
    model = loaded(host, graphs.identity(datatype), isolation=isolation)
    if datatype == "BYTES":
        data, count = join_bytes([b"", b"a\0b", "\u00e9\U0001f512".encode()]), 3
    elif datatype == "BOOL":
        data, count = b"\0\1\1", 3
    else:
        data, count = bytes(range(1, 1 + 3 * ITEM_BYTES[datatype])), 3
    sent = TensorView(name="x", datatype=datatype, shape=(count,), data=data, path="inputs[0]")
    empty = TensorView(name="x", datatype=datatype, shape=(0,), data=b"", path="inputs[0]")

    async def both() -> list[TensorView]:
        return [*await host.infer(model, [sent]), *await host.infer(model, [empty])]

    assert [(t.shape, bytes(t.data)) for t in asyncio.run(both())] == [((count,), data), ((0,), b"")]


@BOTH
def test_weights_come_from_memory(host: ModelHost, isolation: str) -> None:
    """External data is read from a memory-backed file that the host made, and from nowhere else."""
    values = np.arange(2000, dtype=np.float32)
    graph, weights, inputs, outputs = graphs.weighted(values)
    model = graphs.model(inputs, outputs, weights=True, isolation=isolation)
    descriptor = host.create_weights()
    os.write(descriptor, weights)
    host.load(model, graph, descriptor)
    found = asyncio.run(host.infer(model, [view("x", values)]))
    assert bytes(found[0].data) == (values * 2).tobytes()


def test_weights_on_a_disk_are_refused(zygote: Zygote) -> None:
    """The folder for weights must be backed by memory."""
    with pytest.raises(ValueError, match="memory"):
        ModelHost(zygote, Path("/proc"))


@BOTH
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((graphs.tensor("z"),), (graphs.tensor("y"),)),
        ((graphs.tensor("x", "FP64"),), (graphs.tensor("y"),)),
        ((graphs.tensor("x", "FP32", (-1, -1)),), (graphs.tensor("y"),)),
        ((graphs.tensor("x"), graphs.tensor("w")), (graphs.tensor("y"),)),
        ((graphs.tensor("x"),), (graphs.tensor("q"),)),
        ((graphs.tensor("x"),), (graphs.tensor("y", "INT32"),)),
        ((graphs.tensor("x"),), (graphs.tensor("y", "FP32", ()),)),
    ],
)
def test_another_signature_is_refused(host: ModelHost, isolation: str, inputs: tuple, outputs: tuple) -> None:
    """A model whose names, datatypes or ranks are not the manifest's stops the boot."""
    with pytest.raises(ModelError) as info:
        host.load(graphs.model(inputs, outputs, isolation=isolation), graphs.identity()[0])
    assert info.value.boot_failure is BootFailure.MODEL_SIGNATURE


def test_a_fixed_dimension_is_the_manifests(host: ModelHost) -> None:
    """The manifest may fix a dimension that the model leaves free, but not free or change one that the model fixes."""
    free, fixed = graphs.identity(shape=(-1,))[0], graphs.identity(shape=(3,))[0]
    three, four, any_ = ((graphs.tensor("x", "FP32", s),) for s in ((3,), (4,), (-1,)))
    host.load(graphs.model(three, (graphs.tensor("y"),), name="narrowed"), free)
    for inputs in (four, any_):
        with pytest.raises(ModelError) as info:
            host.load(graphs.model(inputs, (graphs.tensor("y", "FP32", (3,)),), name="other"), fixed)
        assert info.value.boot_failure is BootFailure.MODEL_SIGNATURE


@BOTH
@pytest.mark.parametrize("graph", [b"", b"\xff" * 100, graphs.identity()[0][:-7]])
def test_bytes_that_are_no_model_are_refused(host: ModelHost, isolation: str, graph: bytes) -> None:
    """What ONNX Runtime does not load stops the boot with a code."""
    made = graphs.identity()
    with pytest.raises(ModelError):
        host.load(graphs.model(made[1], made[2], isolation=isolation), graph)


@BOTH
def test_strings_in_and_bfloat16_out_are_refused_at_boot(host: ModelHost, isolation: str) -> None:
    """A model that would load and then fail every request is refused instead."""
    inputs, outputs = (graphs.tensor("s", "BYTES", (1,)), graphs.tensor("x", "FP32", (1,))), (graphs.tensor("y", "BF16", (1,)),)
    made = graphs.graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)], inputs, outputs)
    with pytest.raises(ModelError, check=lambda error: error.boot_failure is BootFailure.MODEL_REFUSED):
        host.load(graphs.model(inputs, outputs, isolation=isolation), made)


def test_a_part_that_the_manifest_has_not_is_refused(host: ModelHost) -> None:
    """Weights without a weights part, and a weights part without weights, are refused."""
    made = graphs.identity()
    with pytest.raises(ModelError):
        host.load(graphs.model(made[1], made[2]), made[0], host.create_weights())
    with pytest.raises(ModelError):
        host.load(graphs.model(made[1], made[2], weights=True), made[0])


def test_a_model_that_is_not_loaded_is_not_ready(host: ModelHost) -> None:
    """A model of the manifest that never loaded answers MODEL_NOT_READY."""
    made = graphs.identity()
    model = graphs.model(made[1], made[2])
    assert not host.ready(model)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.MODEL_NOT_READY):
        asyncio.run(host.infer(model, []))


@BOTH
@pytest.mark.parametrize(
    ("datatype", "data", "count", "code"),
    [
        ("BOOL", b"\0\2", 2, Code.INVALID_VALUE),
        ("BYTES", join_bytes([b"\xff"]), 1, Code.INVALID_VALUE),
        ("BYTES", join_bytes([b"a"]) + b"\0", 1, Code.WRONG_DATA_SIZE),
        ("BYTES", b"\2\0\0\0a", 1, Code.WRONG_DATA_SIZE),
        ("BYTES", join_bytes([b"abc"])[:5], 1, Code.WRONG_DATA_SIZE),
    ],
)
def test_content_is_judged_and_the_field_is_named(
    host: ModelHost, isolation: str, datatype: str, data: bytes, count: int, code: Code
) -> None:
    """BOOL bytes other than 0 and 1, BYTES with wrong prefixes or that are no UTF-8: refused, naming the data field."""
    model = loaded(host, graphs.identity(datatype), isolation=isolation)
    sent = TensorView(name="x", datatype=datatype, shape=(count,), data=data, path="inputs[4]")
    with pytest.raises(RequestError) as info:
        asyncio.run(host.infer(model, [sent]))
    assert (info.value.code, info.value.field) == (code, "inputs[4].data")


@pytest.mark.parametrize(
    ("datatype", "bits"), [("FP16", "<u2 7e00"), ("BF16", "<u2 7f80"), ("FP32", "<u4 ff800000"), ("FP64", "<u8 7ff8000000000001")]
)
@BOTH
def test_non_finite_values_pass_unless_refused(host: ModelHost, isolation: str, datatype: str, bits: str) -> None:
    """NaN and infinity pass through bit for bit, or are refused where the manifest says reject_non_finite."""
    kind, value = bits.split()
    data = np.array([int(value, 16)], kind).tobytes()
    sent = TensorView(name="x", datatype=datatype, shape=(1,), data=data, path="inputs[0]")
    lax = loaded(host, graphs.identity(datatype), name="lax", isolation=isolation)
    strict = loaded(host, graphs.identity(datatype), name="strict", isolation=isolation, reject_non_finite=True)

    async def run() -> bytes:
        with pytest.raises(RequestError) as info:
            await host.infer(strict, [sent])
        assert (info.value.code, info.value.field) == (Code.NON_FINITE_INPUT, "inputs[0].data")
        return bytes((await host.infer(lax, [sent]))[0].data)

    assert asyncio.run(run()) == data


def test_a_shape_bomb_is_refused_and_the_worker_lives(host: ModelHost, lost: list[int]) -> None:
    """An allocation beyond the memory limit is OUT_OF_MEMORY for its caller; the next request is answered by the same worker."""
    runtime = Runtime(memory_bytes=64 << 20, request_bytes=1 << 20, answer_bytes=1 << 20)
    model = loaded(host, graphs.bomb(), runtime=runtime)

    async def run() -> list[TensorView]:
        for size in (1 << 28, 1 << 40):
            with pytest.raises(RequestError) as info:
                await host.infer(model, [view("n", np.array([size]), "INT64")])
            assert info.value.code is Code.OUT_OF_MEMORY
        return await host.infer(model, [view("n", np.array([1000]), "INT64")])

    assert bytes(asyncio.run(run())[0].data) == bytes(4)
    assert lost == []


@BOTH
def test_a_failing_model_is_model_failed(host: ModelHost, isolation: str) -> None:
    """An error inside the model is MODEL_FAILED, without text, and the next request is answered."""
    model = loaded(host, graphs.double_sum(), isolation=isolation)
    two, three = np.ones(2, np.float32), np.ones(3, np.float32)

    async def run() -> int:
        with pytest.raises(RequestError) as info:
            await host.infer(model, [view("a", two), view("b", three)])
        assert (info.value.code, info.value.field) == (Code.MODEL_FAILED, "")
        return len(await host.infer(model, [view("a", two), view("b", two)]))

    assert asyncio.run(run()) == 2


@BOTH
def test_an_output_that_is_not_the_signatures_fails_the_request(host: ModelHost, isolation: str) -> None:
    """An output whose shape the manifest does not name never leaves."""
    inputs, outputs = (graphs.tensor("x"),), (graphs.tensor("y", "FP32", (2,)),)
    graph = graphs.graph([helper.make_node("Identity", ["x"], ["y"])], inputs, (graphs.tensor("y"),))
    model = graphs.model(inputs, outputs, isolation=isolation)
    host.load(model, graph)

    async def run() -> TensorView:
        with pytest.raises(RequestError) as info:
            await host.infer(model, [view("x", np.ones(3, np.float32))])
        assert info.value.code is Code.MODEL_FAILED
        return (await host.infer(model, [view("x", np.ones(2, np.float32))]))[0]

    assert asyncio.run(run()).shape == (2,)


@BOTH
@pytest.mark.parametrize("more", [1, 4096, 8192])
def test_a_long_answer_is_refused(host: ModelHost, isolation: str, more: int) -> None:
    """Outputs beyond answer_bytes are ANSWER_TOO_LARGE, and no worker ends for them, by however little they are longer."""
    model = loaded(host, graphs.zeros(), isolation=isolation)

    async def run() -> int:
        with pytest.raises(RequestError) as info:
            await host.infer(model, [view("n", np.array([(1 << 18) + more]), "INT64")])
        assert info.value.code is Code.ANSWER_TOO_LARGE
        return len((await host.infer(model, [view("n", np.array([1 << 18]), "INT64")]))[0].data)

    assert asyncio.run(run()) == 1 << 20


@BOTH
def test_a_long_request_is_refused(host: ModelHost, isolation: str) -> None:
    """Inputs beyond request_bytes are REQUEST_TOO_LARGE before anything is copied."""
    model = loaded(host, graphs.identity(), isolation=isolation)
    with pytest.raises(RequestError) as info:
        asyncio.run(host.infer(model, [view("x", np.ones((1 << 18) + 1, np.float32))]))
    assert info.value.code is Code.REQUEST_TOO_LARGE


def test_a_run_beyond_the_time_limit_is_ended(host: ModelHost, lost: list[int], until: Callable) -> None:
    """A run longer than runtime.seconds is killed; its caller learns DEADLINE_EXPIRED, the next one is answered by a new worker."""
    model = loaded(host, graphs.spin(), runtime=Runtime(seconds=1))

    async def run() -> list[TensorView]:
        with pytest.raises(RequestError) as info:
            await host.infer(model, [view("n", np.array(1 << 40), "INT64")])
        assert info.value.code is Code.DEADLINE_EXPIRED
        await until(lambda: host.ready(model))
        return await host.infer(model, [view("n", np.array(3), "INT64")])

    assert bytes(asyncio.run(run())[0].data) == np.array(3).tobytes()
    assert lost == [1]


@BOTH
def test_a_deadline_passes_without_ending_the_worker(host: ModelHost, lost: list[int], isolation: str) -> None:
    """A caller's own deadline ends its wait, not the worker: a caller cannot make others wait for a reload."""
    model = loaded(host, graphs.spin(), isolation=isolation)

    async def run() -> list[TensorView]:
        deadline = asyncio.get_running_loop().time() + 0.02
        with pytest.raises(RequestError) as info:
            await host.infer(model, [view("n", np.array(1 << 20), "INT64")], deadline=deadline)
        assert info.value.code is Code.DEADLINE_EXPIRED
        return await host.infer(model, [view("n", np.array(3), "INT64")])

    assert bytes(asyncio.run(run())[0].data) == np.array(3).tobytes()
    assert lost == []


@BOTH
def test_a_caller_that_goes_away_hurts_nobody(host: ModelHost, lost: list[int], isolation: str) -> None:
    """Requests cancelled while they run or wait leave the worker as it was; each other caller gets its own answer."""
    model = loaded(host, graphs.spin(), isolation=isolation)

    async def run() -> list[int]:
        gone = [asyncio.create_task(host.infer(model, [view("n", np.array(200_000), "INT64")])) for _ in range(8)]
        stay = [asyncio.create_task(host.infer(model, [view("n", np.array(n), "INT64")])) for n in range(8)]
        await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        found = await asyncio.gather(*stay)
        assert all(isinstance(result, asyncio.CancelledError) for result in await asyncio.gather(*gone, return_exceptions=True))
        return [int(np.frombuffer(answer[0].data, np.int64)[0]) for answer in found]

    assert asyncio.run(run()) == list(range(8))
    assert lost == []


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return [int(child) for child in children.read().split()]


def test_a_dead_worker_fails_its_request_alone(host: ModelHost, zygote: Zygote, lost: list[int], until: Callable) -> None:
    """A worker that dies fails the request that it ran with WORKER_LOST; a waiting one is answered by the next worker."""
    model = loaded(host, graphs.spin())

    async def run() -> bytes:
        running = asyncio.create_task(host.infer(model, [view("n", np.array(1 << 40), "INT64")]))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(host.infer(model, [view("n", np.array(3), "INT64")]))
        await asyncio.sleep(0.02)
        for child in _children(zygote.pid):
            os.kill(child, signal.SIGKILL)
        with pytest.raises(RequestError) as info:
            await running
        assert info.value.code is Code.WORKER_LOST
        return bytes((await waiting)[0].data)

    assert asyncio.run(run()) == np.array(3).tobytes()
    assert lost == [1]


def test_an_idle_worker_that_dies_is_replaced(host: ModelHost, zygote: Zygote, lost: list[int], until: Callable) -> None:
    """A worker that dies between requests is started again without a caller."""
    model = loaded(host, graphs.identity(), runtime=Runtime(workers=2))

    async def run() -> bytes:
        await host.infer(model, [view("x", np.ones(1, np.float32))])
        before = set(_children(zygote.pid))
        for child in before:
            os.kill(child, signal.SIGKILL)
        await until(lambda: len(lost) == 2 and host.ready(model))
        return bytes((await host.infer(model, [view("x", np.ones(1, np.float32))]))[0].data)

    assert asyncio.run(run()) == np.ones(1, np.float32).tobytes()


def test_workers_run_side_by_side(host: ModelHost) -> None:
    """With two workers a short request does not wait for a long one."""
    model = loaded(host, graphs.spin(), runtime=Runtime(workers=2))

    async def run() -> bool:
        slow = asyncio.create_task(host.infer(model, [view("n", np.array(1 << 40), "INT64")]))
        await asyncio.sleep(0)
        await host.infer(model, [view("n", np.array(3), "INT64")])
        done = slow.done()
        slow.cancel()
        return done

    assert asyncio.run(run()) is False


def test_too_many_waiting_requests_are_refused(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound of waiting requests the answer is BUSY at once."""
    monkeypatch.setattr("enclave.pool.WAITING_MAX", 2)
    model = loaded(host, graphs.spin())

    async def run() -> Code:
        tasks = [asyncio.create_task(host.infer(model, [view("n", np.array(1 << 40), "INT64")])) for _ in range(3)]
        await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(5):  # at once, not when patience ends
                with pytest.raises(RequestError) as info:
                    await host.infer(model, [view("n", np.array(3), "INT64")])
            return info.value.code
        finally:
            for task in tasks:
                task.cancel()

    assert asyncio.run(run()) is Code.BUSY


def test_memory_is_given_back(host: ModelHost) -> None:
    """A thousand requests and fifty cancelled ones leave no descriptor behind."""
    model = loaded(host, graphs.identity())
    sent = view("x", np.ones(8, np.float32))

    async def run() -> tuple[int, int]:
        await host.infer(model, [sent])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(1000):
            await host.infer(model, [sent])
        for _ in range(50):
            task = asyncio.create_task(host.infer(model, [sent]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(run())
    assert before == after


def test_an_inline_model_has_no_worker(host: ModelHost, zygote: Zygote) -> None:
    """Isolation is what the manifest says: `process` starts a worker, `inline` none."""
    before = set(_children(zygote.pid))
    loaded(host, graphs.identity(), isolation="inline", name="in")
    assert set(_children(zygote.pid)) <= before
    loaded(host, graphs.identity(), isolation="process", name="out")
    assert set(_children(zygote.pid)) - before


def test_an_inline_model_that_ended_is_not_ready(host: ModelHost) -> None:
    """After its end an inline model refuses, and says that it is not ready."""
    model = loaded(host, graphs.identity(), isolation="inline")
    assert host.ready(model)
    host._runners[model.id, model.version].close()
    assert not host.ready(model)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.MODEL_NOT_READY):
        asyncio.run(host.infer(model, [view("x", np.ones(1, np.float32))]))


def test_too_many_inline_requests_are_refused(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inline model has the same bound of waiting requests."""
    monkeypatch.setattr("enclave.inline.WAITING_MAX", 1)
    model = loaded(host, graphs.spin(), isolation="inline")

    async def run() -> list[Code | None]:
        asked = (host.infer(model, [view("n", np.array(50_000), "INT64")]) for _ in range(4))
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [result.code if isinstance(result, RequestError) else None for result in found]

    assert asyncio.run(run()) == [None, None, Code.BUSY, Code.BUSY]
