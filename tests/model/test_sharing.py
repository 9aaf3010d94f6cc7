"""Workers of one model share its weights: no process has a copy of its own."""

import asyncio
import os
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from enclave.model import ModelHost
from enclave.tensor import TensorView
from enclave.zygote import Zygote
from tests.model import graphs
from wire.manifest_values import Runtime, Tensor

SIDE = 4096  # 64 MiB of FP32


def _matmul() -> tuple[bytes, bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """x @ w with w, which ONNX Runtime would pack anew, as external data."""
    values = np.full((SIDE, SIDE), 0.5, np.float32)
    held = numpy_helper.from_array(values, "w")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(values.nbytes))):
        entry = held.external_data.add()
        entry.key, entry.value = key, value
    inputs, outputs = (graphs.tensor("x", "FP32", (1, SIDE)),), (graphs.tensor("y", "FP32", (1, SIDE)),)
    return graphs.graph([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs, outputs, [held]), values.tobytes(), inputs, outputs


def _own_bytes(pid: int) -> int:
    """Anonymous memory of a process (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def test_workers_share_the_weights(host: ModelHost, zygote: Zygote) -> None:
    """Two workers that have both computed with 64 MiB of weights hold less than that of their own, both together."""
    before = set(_children(zygote.pid))
    idle = _own_bytes(zygote.pid)
    graph, weights, inputs, outputs = _matmul()
    model = graphs.model(inputs, outputs, weights=True, runtime=Runtime(workers=2))
    descriptor = host.create_weights()
    os.write(descriptor, weights)
    host.load(model, graph, descriptor)
    row = np.ones((1, SIDE), np.float32)
    view = TensorView(name="x", datatype="FP32", shape=(1, SIDE), data=row.tobytes(), path="inputs[0]")

    async def both() -> list[list[TensorView]]:
        return await asyncio.gather(host.infer(model, [view]), host.infer(model, [view]))

    assert [bytes(found[0].data) for found in asyncio.run(both())] == [np.full(SIDE, SIDE / 2, np.float32).tobytes()] * 2
    workers = set(_children(zygote.pid)) - before
    assert len(workers) == 2
    assert sum(max(0, _own_bytes(pid) - idle) for pid in workers) < len(weights)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
