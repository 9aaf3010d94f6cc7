"""The models of the shared world: small, each there for one thing that a test wants to see."""

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from simulator.hostile.small import shift_model
from simulator.owner import ModelSpec
from tests.model.graphs import ONNX_TYPES, bomb, double_sum, graph, identity, spin, tensor
from wire.manifest import Runtime

LARGE = 64 << 20
FEATURES, CLASSES = 16, 3


def network(seed: int = 5) -> bytes:
    """x FP32 [-1, 16] -> p FP32 [-1, 3]: two dense layers and a softmax with fixed random weights."""
    random = np.random.default_rng(seed)
    shapes = {"w1": (FEATURES, 32), "b1": (32,), "w2": (32, CLASSES), "b2": (CLASSES,)}
    constants = [numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    return graph(nodes, [tensor("x", shape=(-1, FEATURES))], [tensor("p", shape=(-1, CLASSES))], constants)


def every_type() -> bytes:
    """in_T -> out_T unchanged, for every datatype T of the inference protocol but BF16, which ONNX Runtime takes in no one
    model with BYTES from Python."""
    names = [name for name in ONNX_TYPES if name != "BF16"]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names]
    return graph(nodes, [tensor(f"in_{name}", name) for name in names], [tensor(f"out_{name}", name) for name in names])


def _spec(name: str, onnx: bytes, version: str = "1", **settings: Any) -> ModelSpec:
    return ModelSpec(id=name, version=version, onnx=onnx, settings=settings)


def specs() -> list[ModelSpec]:
    """Everything that the shared world serves."""
    return [
        _spec("shift", shift_model(1.0)),
        _spec("shift", shift_model(2.0), "2"),
        _spec("network", network(), runtime=Runtime(workers=2)),
        _spec("spin", spin()[0], runtime=Runtime(seconds=2)),
        _spec("copy", identity()[0], runtime=Runtime(request_bytes=LARGE, answer_bytes=LARGE)),
        _spec("careful", shift_model(1.0), reject_non_finite=True, answer_padding=4096),
        _spec("bomb", bomb()[0], runtime=Runtime(memory_bytes=64 << 20)),
        _spec("types", every_type()),
        _spec("brain", identity("BF16")[0]),
        _spec("cancer", identity("FP32", (-1, 30))[0]),
        _spec("two", double_sum()[0], isolation="inline"),
    ]
