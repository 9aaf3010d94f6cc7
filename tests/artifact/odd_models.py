"""Hypothesis strategies for ONNX models: every place where nodes and tensors may stand, most of them filled as the intake allows."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorAnnotation,
    TensorProto,
    TrainingInfoProto,
    ValueInfoProto,
    helper,
)

WEIGHTS = 256  # bytes of the weights part
Draw = Callable[[st.SearchStrategy[Any]], Any]
Name = tuple[str, str, str]  # domain, operator, overload

_seldom = st.sampled_from([False] * 29 + [True])
_dims = st.sampled_from([[], [2, 3], [4], [0, 3], [1, 2, 5]] * 12 + [[1 << 33, 1 << 33], [-1], [1] * 65])
_types = st.sampled_from([1, 7, 9, 10, 11, 16, 21, 22, 25, 15] * 6 + [8, 0, 99])
_standard = st.sampled_from(
    [("", "Abs", ""), ("", "If", ""), ("ai.onnx", "Loop", ""), ("ai.onnx.ml", "Scaler", ""), ("com.microsoft", "Gelu", "")]
)
_strange = st.sampled_from([("com.example", "Mine", ""), ("own", "Mine", ""), ("own", "f", "b"), ("", "f", ""), ("own", "f", "")])


@st.composite
def tensors(draw: Draw, *, outside: bool = False) -> TensorProto:
    """A tensor with its data in one field, in several or in none; elsewhere if `outside`."""
    made = TensorProto(name=draw(st.sampled_from("uvw")), dims=draw(_dims), data_type=draw(_types))
    for name, values in (("float_data", [0.5]), ("int32_data", [7]), ("int64_data", [1 << 40]), ("string_data", [b"s"])):
        if draw(_seldom):
            getattr(made, name).extend(values)
    if draw(st.booleans()):
        made.raw_data = bytes(draw(st.integers(0, 8)))
    if outside or draw(_seldom):
        _elsewhere(draw, made)
    if draw(_seldom):
        made.segment.begin, made.segment.end = 0, 1 << 40
    return made


def _elsewhere(draw: Draw, made: TensorProto) -> None:
    elements = 1
    for size in made.dims:
        elements *= size
    made.data_location = TensorProto.DEFAULT if draw(_seldom) else TensorProto.EXTERNAL
    bits = {7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4, 25: 2, 15: 128}.get(made.data_type, 32)
    size = -(-elements * bits // 8)
    lengths, offsets = [str(size)] * 30 + [str(size + 1), f"+{size}", f" {size}", "9" * 17], ["", "0", "64"] * 4 + ["-8", "+8", "250"]
    made.external_data.add(key="location", value=draw(st.sampled_from(["weights"] * 40 + ["other", "../weights", ""])))
    made.external_data.add(key="length", value=draw(st.sampled_from(lengths)))
    if offset := draw(st.sampled_from(offsets)):
        made.external_data.add(key="offset", value=offset)
    if draw(_seldom):
        made.external_data.add(key=draw(st.sampled_from(["checksum", "basepath", "length"])), value="1")
    if draw(_seldom):
        del made.external_data[:]


@st.composite
def sparse_tensors(draw: Draw) -> SparseTensorProto:
    """A sparse tensor."""
    return SparseTensorProto(values=draw(tensors()), indices=draw(tensors()), dims=draw(_dims))


@st.composite
def attributes(draw: Draw, depth: int, functions: tuple[Name, ...]) -> AttributeProto:
    """An attribute of any kind, whatever its type says."""
    made = AttributeProto(name="a", type=draw(st.integers(0, 14)))
    for kind in draw(st.lists(st.sampled_from(["t", "tensors", "sparse", "sparses", "g", "graphs", "plain", "tp", "ref"]), max_size=2)):
        match kind:
            case "t":
                made.t.CopyFrom(draw(tensors()))
            case "tensors":
                made.tensors.append(draw(tensors()))
            case "sparse":
                made.sparse_tensor.CopyFrom(draw(sparse_tensors()))
            case "sparses":
                made.sparse_tensors.append(draw(sparse_tensors()))
            case "g" if depth:
                made.g.CopyFrom(draw(graphs(depth - 1, functions)))
            case "graphs" if depth:
                made.graphs.append(draw(graphs(depth - 1, functions)))
            case "tp":
                made.tp.CopyFrom(helper.make_tensor_type_proto(1, [1 << 40]))
            case "ref":
                made.ref_attr_name = "r"
            case _:
                made.i, made.f, made.s = 3, 0.5, b"s"
                made.ints.extend([1 << 50, -1])
    return made


@st.composite
def nodes(draw: Draw, depth: int, functions: tuple[Name, ...]) -> NodeProto:
    """A call of an operator or of one of the functions, with attributes of any kind."""
    calls = st.sampled_from(functions) if functions and draw(st.booleans()) else _standard
    domain, operator, overload = draw(_strange if draw(_seldom) else calls)
    if domain in ("", "ai.onnx") and draw(st.booleans()):
        domain = "ai.onnx" if domain == "" else ""
    made = NodeProto(op_type=operator, domain=domain, overload=overload, input=["x"], output=["y"])
    made.attribute.extend(draw(st.lists(attributes(depth, functions), max_size=2)))
    return made


@st.composite
def graphs(draw: Draw, depth: int, functions: tuple[Name, ...]) -> GraphProto:
    """A graph whose nodes have bodies `depth` deep."""
    made = GraphProto(name="g", node=draw(st.lists(nodes(depth, functions), max_size=3)))
    made.initializer.extend(draw(st.lists(tensors(outside=draw(st.sampled_from([False] * 7 + [True]))), max_size=1)))
    if draw(_seldom):
        made.sparse_initializer.append(draw(sparse_tensors()))
    if draw(_seldom):
        made.quantization_annotation.append(TensorAnnotation(tensor_name="w"))
        made.quantization_annotation[0].quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
        made.metadata_props.add(key="k", value="v")
        made.input.append(ValueInfoProto(name="x", type=helper.make_tensor_type_proto(1, [1 << 40])))
    return made


@st.composite
def _function(draw: Draw, name: Name, functions: tuple[Name, ...]) -> FunctionProto:
    made = FunctionProto(domain=name[0], name=name[1], overload=name[2], input=["x"], output=["y"])
    made.node.extend(draw(st.lists(nodes(1, functions), max_size=3)))
    made.opset_import.add(domain="", version=20)
    if draw(st.booleans()):
        made.attribute_proto.append(draw(attributes(1, functions)))
    return made


@st.composite
def models(draw: Draw) -> ModelProto:
    """A model that the intake accepts more often than not, with functions that call each other."""
    declared = draw(
        st.lists(st.tuples(st.sampled_from(["own", "", "ai.onnx"]), st.sampled_from("fgh"), st.sampled_from(["", "", "a"])), max_size=4)
    )
    made = ModelProto(ir_version=10, graph=draw(graphs(2, tuple(declared))))
    made.graph.initializer.extend(draw(st.lists(tensors(outside=True), max_size=2)))
    for at, name in enumerate(declared):
        made.functions.append(draw(_function(name, tuple(declared if draw(_seldom) else declared[at + 1 :]))))
    for at in range(draw(st.sampled_from([0] * 8 + [15, 16, 17, 40]))):  # a chain, the innermost first
        made.functions.append(
            FunctionProto(domain="chain", name=str(at), node=[NodeProto(op_type=str(at - 1), domain="chain")] if at else [])
        )
    if draw(st.booleans()):
        backwards = list(made.functions)[::-1]
        del made.functions[:]
        made.functions.extend(backwards)
    for domain in ("", "own"):
        made.opset_import.add(domain=domain, version=20)
    if draw(_seldom):
        made.training_info.append(TrainingInfoProto(initialization=draw(graphs(0, ()))))
    if draw(_seldom):
        made.metadata_props.add(key="k", value="v")
    return made
