"""Small ONNX models for the tests of this folder, made on the spot."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wire.manifest import Model, Part, Runtime, Tensor

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def _info(tensor: Tensor) -> object:
    return helper.make_tensor_value_info(tensor.name, ONNX_TYPES[tensor.datatype], [None if size < 0 else size for size in tensor.shape])


def graph(nodes: Sequence[object], inputs: Sequence[Tensor], outputs: Sequence[Tensor], constants: Sequence[object] = ()) -> bytes:
    """A serialised model."""
    made = helper.make_graph(list(nodes), "g", [_info(t) for t in inputs], [_info(t) for t in outputs], list(constants))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def tensor(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1,)) -> Tensor:
    """A tensor of a signature."""
    return Tensor(name=name, datatype=datatype, shape=shape)


def part(name: str, length: int) -> Part:
    """A part whose digests nobody in this folder looks at."""
    return Part(name=name, length=length, artifact_length=length, artifact_sha256=bytes(32), header_sha256=bytes(32), commitment=bytes(32))


def model(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    name: str = "m",
    version: str = "1",
    isolation: str = "process",
    runtime: Runtime | None = None,
    reject_non_finite: bool = False,
    weights: bool = False,
) -> Model:
    """A manifest's entry for such a model."""
    return Model(
        id=name,
        version=version,
        parts=(part("graph", 1), part("weights", 1)) if weights else (part("graph", 1),),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        runtime=Runtime(request_bytes=1 << 20, answer_bytes=1 << 20) if runtime is None else runtime,
        isolation=isolation,
        reject_non_finite=reject_non_finite,
    )


def identity(datatype: str = "FP32", shape: tuple[int, ...] = (-1,)) -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """x -> y, unchanged."""
    inputs, outputs = (tensor("x", datatype, shape),), (tensor("y", datatype, shape),)
    return graph([helper.make_node("Identity", ["x"], ["y"])], inputs, outputs), inputs, outputs


def double_sum() -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """a, b -> a + b and a - b."""
    inputs, outputs = (tensor("a"), tensor("b")), (tensor("sum"), tensor("difference"))
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return graph(nodes, inputs, outputs), inputs, outputs


def bomb() -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """n -> the sum of n zeros, made in memory first."""
    inputs, outputs = (tensor("n", "INT64", (1,)),), (tensor("total", "FP32", ()),)
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["zeros"]), helper.make_node("ReduceSum", ["zeros"], ["total"], keepdims=0)]
    return graph(nodes, inputs, outputs), inputs, outputs


def zeros() -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """n -> n zeros."""
    inputs, outputs = (tensor("n", "INT64", (1,)),), (tensor("y"),)
    return graph([helper.make_node("ConstantOfShape", ["n"], ["y"])], inputs, outputs), inputs, outputs


def spin() -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """n -> n, counted up one by one: takes as long as the caller says."""
    inputs, outputs = (tensor("n", "INT64", ()),), (tensor("count", "INT64", ()),)
    body = helper.make_graph(
        [
            helper.make_node("Add", ["count_in", "one"], ["count_out"]),
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("count_in", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("count_out", TensorProto.INT64, []),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(1, dtype=np.int64), "one"),
        numpy_helper.from_array(np.array(0, dtype=np.int64), "zero"),
        numpy_helper.from_array(np.array(True), "true"),
    ]
    return graph([helper.make_node("Loop", ["n", "true", "zero"], ["count"], body=body)], inputs, outputs, constants), inputs, outputs


def weighted(values: np.ndarray) -> tuple[bytes, bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """x -> x + w with w as external data: graph and weights."""
    held = numpy_helper.from_array(values, "w")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(values.nbytes))):
        entry = held.external_data.add()
        entry.key, entry.value = key, value
    inputs, outputs = (tensor("x", "FP32", values.shape),), (tensor("y", "FP32", values.shape),)
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], inputs, outputs, [held]), values.tobytes(), inputs, outputs
