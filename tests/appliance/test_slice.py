"""The whole path on a booted simulated world: a caller attests, seals, asks, and reads the model's own answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cloister.api import Client
from cloister.errors import DeadlineError, RequestRefusedError
from cloister.tensors import Raw
from simulator.world import World
from tests.appliance.models import FEATURES, network
from wire.errors import Code

Callers = Callable[..., Coroutine[Any, Any, Client]]
X = np.arange(4, dtype=np.float32).reshape(1, 4)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


def test_equal_to_plain_onnxruntime(callers: Callers) -> None:
    """An answer through the sealed path equals plain ONNX Runtime's, bit for bit."""
    rows = np.random.default_rng(1).normal(size=(50, FEATURES)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(network(), options, providers=["CPUExecutionProvider"]).run(["p"], {"x": rows})[0]

    async def work() -> None:
        async with await callers() as client:
            answer = await client.infer("network", {"x": rows})
        assert plain.tobytes() == answer.outputs["p"].tobytes()
        assert ("network", "1") == (answer.model, answer.version)
        assert "simulated" == answer.attestation.claims.partition

    run(work())


def test_ready_and_metadata(callers: Callers) -> None:
    """Server and models are ready and describe themselves as the inference protocol says."""

    async def work() -> None:
        async with await callers() as client:
            assert await client.ready()
            assert await client.ready("shift") and await client.ready("shift", "1")
            assert "cloister" == (await client.metadata())["name"]
            metadata = await client.metadata("shift")
        assert {
            "name": "shift",
            "versions": ["1", "2"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
        } == metadata

    run(work())


def test_versions(callers: Callers) -> None:
    """A version is served where it is asked for, the manifest's last one where none is."""

    async def work() -> None:
        async with await callers() as client:
            for version, by, said in (("1", 1, "1"), ("2", 2, "2"), (None, 2, "2")):
                answer = await client.infer("shift", {"x": X}, version=version)
                assert (X + by).tolist() == answer.outputs["y"].tolist()
                assert said == answer.version

    run(work())


def test_several_requests_in_flight(callers: Callers) -> None:
    """A hundred requests of one session, more than the enclave takes at once, are each answered with their own answer."""

    async def one(client: Client, number: int) -> None:
        data = np.full((1, 4), number, np.float32)
        model, by = (("shift", 2), ("careful", 1))[number % 2]
        assert (data + by).tolist() == (await client.infer(model, {"x": data})).outputs["y"].tolist()

    async def work() -> None:
        async with await callers() as client:
            await asyncio.gather(*(one(client, number) for number in range(100)))

    run(work())


def test_slow_request_overtaken(callers: Callers) -> None:
    """A long request does not hold up a short one behind it on the same session."""

    async def work() -> None:
        async with await callers() as client:
            slow = asyncio.create_task(client.infer("spin", {"n": np.array(10**9)}, timeout=20))
            await client.infer("shift", {"x": X})
            await client.infer("shift", {"x": X})
            assert not slow.done()
            slow.cancel()
            await asyncio.wait((slow,))
            assert slow.cancelled()
            assert await client.ready("shift")

    run(work())


@pytest.mark.parametrize("mebibytes", [1, 8, 64])
def test_large_tensors(callers: Callers, mebibytes: int) -> None:
    """Tensors of 1 to 64 MiB come back whole."""
    data = np.random.default_rng(mebibytes).integers(0, 2**31, size=mebibytes << 18, dtype=np.int32).view(np.float32)

    async def work() -> None:
        async with await callers() as client:
            answer = await client.infer("copy", {"x": data})
        assert data.tobytes() == answer.outputs["y"].tobytes()

    run(work())


def test_every_datatype(callers: Callers) -> None:
    """Every datatype that the protocol names goes in and comes out unchanged, bytes and bfloat16 included."""
    plain = {
        "BOOL": np.array([True, False]),
        "UINT8": np.array([0, 255], np.uint8),
        "UINT16": np.array([0, 65535], np.uint16),
        "UINT32": np.array([0, 2**32 - 1], np.uint32),
        "UINT64": np.array([0, 2**64 - 1], np.uint64),
        "INT8": np.array([-128, 127], np.int8),
        "INT16": np.array([-32768, 32767], np.int16),
        "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
        "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
        "FP16": np.array([0.5, np.inf], np.float16),
        "FP32": np.array([0.1, np.nan], np.float32),
        "FP64": np.array([0.1, -0.0], np.float64),
        "BYTES": np.array(["", "größe"], dtype=object),
    }
    inputs: dict[str, Any] = {f"in_{name}": array for name, array in plain.items()}
    brain = np.array([0x3F80, 0x7FC0], np.uint16)

    async def work() -> None:
        async with await callers() as client:
            answer = await client.infer("types", inputs)
            bits = await client.infer("brain", {"x": Raw(datatype="BF16", array=brain)})
        for name, array in plain.items():
            found = answer.outputs[f"out_{name}"]
            if name == "BYTES":
                assert [b"", "größe".encode()] == found.tolist()
            else:
                assert (array.dtype, array.tobytes()) == (found.dtype, found.tobytes())
        assert brain.tobytes() == bits.outputs["y"].tobytes()

    run(work())


def test_outputs_selected(callers: Callers) -> None:
    """Only the outputs asked for come back; a model that runs inline answers like one in a worker."""
    a, b = np.array([3.0], np.float32), np.array([1.0], np.float32)

    async def work() -> None:
        async with await callers() as client:
            answer = await client.infer("two", {"a": a, "b": b}, outputs=["difference"])
        assert {"difference": [2.0]} == {name: value.tolist() for name, value in answer.outputs.items()}

    run(work())


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], Code, str]] = [
    ("nothing", {"x": X}, {}, Code.MODEL_NOT_AUTHORISED, ""),
    ("shift", {"x": X}, {"version": "3"}, Code.UNKNOWN_VERSION, ""),
    ("shift", {}, {}, Code.MISSING_INPUT, "inputs[x]"),
    ("shift", {"z": X}, {}, Code.UNEXPECTED_INPUT, "inputs[0].name"),
    ("shift", {"x": X, "z": X}, {}, Code.UNEXPECTED_INPUT, "inputs[1].name"),
    ("shift", {"x": X.astype(np.float64)}, {}, Code.WRONG_DATATYPE, "inputs[0].datatype"),
    ("shift", {"x": X[0]}, {}, Code.WRONG_RANK, "inputs[0].shape"),
    ("shift", {"x": X[:, :3]}, {}, Code.WRONG_SHAPE, "inputs[0].shape"),
    ("shift", {"x": X}, {"outputs": ["z"]}, Code.UNKNOWN_OUTPUT, "outputs[0].name"),
    ("careful", {"x": X * np.nan}, {}, Code.NON_FINITE_INPUT, "inputs[0].data"),
    ("bomb", {"n": np.array([1 << 34])}, {}, Code.OUT_OF_MEMORY, ""),
    ("bomb", {"n": np.array([-1])}, {}, Code.MODEL_FAILED, ""),
    ("shift", {"x": np.zeros((1 << 23, 4), np.float32)}, {}, Code.REQUEST_TOO_LARGE, ""),
    ("a/b", {"x": X}, {}, Code.UNKNOWN_PATH, ""),
]


@pytest.mark.parametrize(("model", "inputs", "options", "code", "field"), REFUSALS)
def test_refusals(callers: Callers, model: str, inputs: dict[str, Any], options: dict[str, Any], code: Code, field: str) -> None:
    """A bad request is refused with its code and field, and the session serves the next one."""

    async def work() -> None:
        async with await callers() as client:
            before = client.attestation
            with pytest.raises(RequestRefusedError) as refused:
                await client.infer(model, inputs, **options)
            assert (code, field) == (refused.value.code, refused.value.field)
            assert (X + 2).tolist() == (await client.infer("shift", {"x": X})).outputs["y"].tolist()
            assert client.attestation is before

    run(work())


def test_not_a_number_passes(callers: Callers) -> None:
    """NaN and infinity reach a model whose manifest does not refuse them."""
    data = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)

    async def work() -> None:
        async with await callers() as client:
            answer = await client.infer("shift", {"x": data})
        assert np.array_equal(data + np.float32(2), answer.outputs["y"], equal_nan=True)

    run(work())


def test_deadline(callers: Callers) -> None:
    """A request past its deadline ends with DeadlineError, its worker is replaced, and the session lives on."""

    async def work() -> None:
        async with await callers() as client:
            with pytest.raises(DeadlineError) as late:
                await client.infer("spin", {"n": np.array(10**12)}, timeout=0.3)
            assert Code.DEADLINE_EXPIRED is late.value.code
            assert 5 == (await client.infer("spin", {"n": np.array(5)}, timeout=45)).outputs["count"]

    run(work())


def test_cancelled(callers: Callers) -> None:
    """A cancelled request frees its place; the caller sees only the cancellation."""

    async def work() -> None:
        async with await callers() as client:
            tasks = [asyncio.create_task(client.infer("spin", {"n": np.array(10**7)}, timeout=30)) for _ in range(40)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert (X + 2).tolist() == (await client.infer("shift", {"x": X})).outputs["y"].tolist()

    run(work())


def test_disconnect_hurts_nobody(world: World, callers: Callers) -> None:
    """A caller that vanishes in the middle of sending, or of waiting, fails no request of another."""

    async def vanish(client: Client, data: Any) -> None:
        work = asyncio.create_task(client.infer("copy", {"x": data}))
        await asyncio.sleep(0.01)
        current = client._current
        assert current is not None
        current.connection.abort()
        await asyncio.wait((work,))
        await client.close()

    async def work() -> None:
        async with await callers("steady") as steady:
            large = np.zeros(4 << 20, np.float32)
            gone = [asyncio.create_task(vanish(await callers("fleeting"), large)) for _ in range(6)]
            for number in range(60):
                data = np.full((1, 4), number, np.float32)
                assert (data + 2).tolist() == (await steady.infer("shift", {"x": data})).outputs["y"].tolist()
            await asyncio.gather(*gone)
            answer = await steady.infer("copy", {"x": large})
            assert large.tobytes() == answer.outputs["y"].tobytes()

    run(work())
