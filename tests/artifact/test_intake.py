"""The enclave's judgement of a graph before ONNX Runtime sees it."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from onnx import FunctionProto, ModelProto, SparseTensorProto, TensorProto, TrainingInfoProto, helper, numpy_helper
import pytest

from enclave import intake
from enclave.errors import ModelError
from enclave.protobuf import MalformedProtobufError, fields, message, signed, varint
from tests.artifact import graphs
from wire.errors import BootFailure
from wire.manifest import Intake

LIMITS = Intake(max_bytes=1 << 20, max_nodes=50, max_elements=1000)


def refused(graph: bytes, *, limits: Intake = LIMITS, weights: int = 0) -> bool:
    """Whether the graph is refused, with the one code that says so."""
    try:
        intake.judge(graph, intake=limits, weights=weights)
    except ModelError as error:
        assert error.boot_failure is BootFailure.MODEL_REFUSED
        return True
    return False


def sparse(name: str, size: int = 8) -> SparseTensorProto:
    """A sparse tensor of one element."""
    values = numpy_helper.from_array(np.ones(1, np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [size])


def _constant(size: int) -> FunctionProto:
    """A function that holds one tensor of `size` elements."""
    return graphs.function("f", [("", "Abs")], constants=[graphs.tensor("c", (size,))])


ACCEPTED: dict[str, tuple[ModelProto, int]] = {
    "a plain model": (graphs.model(), 0),
    "weights outside, where the weights part is": (
        graphs.model(initializers=[graphs.outside("w", location="weights", offset="64", length="64")]),
        128,
    ),
    "an odd count of four-bit weights": (
        graphs.changed(
            lambda m: m.graph.initializer.append(
                TensorProto(
                    name="q",
                    data_type=TensorProto.INT4,
                    dims=[5],
                    data_location=TensorProto.EXTERNAL,
                    external_data=[{"key": "location", "value": "weights"}, {"key": "length", "value": "3"}],
                )
            )
        ),
        3,
    ),
    "branches": (graphs.model([graphs.branch(helper.make_node("Identity", ["x"], ["z"]))]), 0),
    "deep branches": (graphs.model([graphs.nested(4)]), 0),
    "a function of its own": (graphs.laughs(1, 2), 0),
    "functions as deep as allowed": (graphs.laughs(15, 1), 0),
    "functions as deep as allowed, the innermost first": (graphs.laughs(15, 1, backwards=True), 0),
    "a function that unfolds to exactly the elements allowed": (
        graphs.model(
            [helper.make_node("f", ["x"], ["y"], domain="own")] * 9, functions=[_constant(111)], initializers=[graphs.tensor("w", (1,))]
        ),
        0,
    ),
    "machine learning operators": (graphs.model([helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")]), 0),
    "contributed operators": (graphs.model([helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]), 0),
    "a constant": (graphs.model([helper.make_node("Constant", [], ["y"], value=graphs.tensor("c"))]), 0),
    "a sparse constant": (graphs.model([helper.make_node("Constant", [], ["y"], sparse_value=sparse("s"))]), 0),
    "a scalar": (graphs.model(initializers=[graphs.tensor("w", ())]), 0),
    "an empty tensor": (graphs.model(initializers=[graphs.tensor("w", (0, 4))]), 0),
    "exactly the nodes allowed": (graphs.model([helper.make_node("Identity", ["x"], ["y"])] * 50), 0),
    "exactly the elements allowed": (graphs.model(initializers=[graphs.tensor("w", (10, 100))]), 0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_ordinary_models_pass(name: str) -> None:
    """What ONNX Runtime's CPU build loads from two parts passes."""
    made, weights = ACCEPTED[name]
    assert not refused(made.SerializeToString(), weights=weights)


def _outside(**where: str) -> ModelProto:
    return graphs.model(initializers=[graphs.outside("w", **where)])


def _strings_outside() -> ModelProto:
    made = _outside(**INSIDE)
    made.graph.initializer[0].data_type = TensorProto.STRING
    return made


def _named_twice() -> ModelProto:
    made = _outside(**INSIDE)
    made.graph.initializer[0].external_data.add(key="location", value="weights")
    return made


INSIDE = {"location": "weights", "length": "64"}
REFUSED: dict[str, tuple[ModelProto, int]] = {
    "a custom operator": (graphs.model([helper.make_node("Mine", ["x"], ["y"], domain="com.example")]), 0),
    "a custom operator in a branch": (graphs.model([graphs.branch(helper.make_node("Mine", ["x"], ["z"], domain="com.example"))]), 0),
    "a custom operator in a function": (
        graphs.model([helper.make_node("f", ["x"], ["y"], domain="own")], functions=[graphs.function("f", [("com.example", "Mine")])]),
        0,
    ),
    "a custom operator in a function that nothing calls": (graphs.model(functions=[graphs.function("f", [("com.example", "Mine")])]), 0),
    "a function that is not there": (graphs.model([helper.make_node("g", ["x"], ["y"], domain="own")]), 0),
    "a function that calls itself": (graphs.model(functions=[graphs.function("f", [("own", "f")])]), 0),
    "functions that call each other": (
        graphs.model(functions=[graphs.function("f", [("own", "g")]), graphs.function("g", [("own", "f")])]),
        0,
    ),
    "a function twice": (graphs.model(functions=[graphs.function("f", [("", "Abs")])] * 2), 0),
    "functions that unfold": (graphs.laughs(6, 3), 0),
    "functions that unfold, called by the domain's other name": (graphs.laughs(6, 3, domain="", called="ai.onnx"), 0),
    "functions that unfold, declared by the domain's other name": (graphs.laughs(6, 3, domain="ai.onnx", called=""), 0),
    "a function twice, under both names of the domain": (
        graphs.model(functions=[graphs.function("f", [("", "Abs")], domain=domain) for domain in ("", "ai.onnx")]),
        0,
    ),
    "functions too deep in one another": (graphs.laughs(16, 1), 0),
    "functions too deep in one another, the innermost first": (graphs.laughs(16, 1, backwards=True), 0),
    "a function that unfolds to too many elements": (
        graphs.model([helper.make_node("f", ["x"], ["y"], domain="own")] * 9, functions=[_constant(112)], initializers=[]),
        0,
    ),
    "too many nodes": (graphs.model([helper.make_node("Identity", ["x"], ["y"])] * 51), 0),
    "too many nodes, in branches": (graphs.model([graphs.branch(helper.make_node("Identity", ["x"], ["z"]))] * 26), 0),
    "too many nodes, in functions": (
        graphs.model(functions=[graphs.function(f"f{n}", [("", "Abs")] * 13) for n in range(4)]),
        0,
    ),
    "branches too deep": (graphs.model([graphs.nested(17)]), 0),
    "too many elements": (graphs.model(initializers=[graphs.tensor("w", (11, 100))]), 0),
    "too many elements together": (graphs.model(initializers=[graphs.tensor("w", (6, 100)), graphs.tensor("v", (6, 100))]), 0),
    "a bomb of dimensions": (
        _outside(location="weights", length="64")
        and graphs.model(initializers=[TensorProto(name="w", data_type=1, dims=[1 << 40, 1 << 40])]),
        0,
    ),
    "a bomb behind a zero": (graphs.model(initializers=[TensorProto(name="w", data_type=1, dims=[0, 1 << 62, 1 << 62])]), 0),
    "too many dimensions": (graphs.model(initializers=[TensorProto(name="w", data_type=1, dims=[1] * 65)]), 0),
    "a negative dimension": (graphs.model(initializers=[TensorProto(name="w", data_type=1, dims=[-1])]), 0),
    "a bomb in a constant": (
        graphs.model([helper.make_node("Constant", [], ["y"], value=TensorProto(name="c", data_type=1, dims=[1 << 40]))]),
        0,
    ),
    "a bomb in a list of tensors": (
        graphs.model([helper.make_node("Mine", [], ["y"], values=[TensorProto(name="c", data_type=1, dims=[1 << 40])])]),
        0,
    ),
    "a bomb in a sparse constant": (graphs.model([helper.make_node("Constant", [], ["y"], sparse_value=sparse("s", 1 << 40))]), 0),
    "a bomb in a sparse initialiser": (graphs.changed(lambda m: m.graph.sparse_initializer.append(sparse("s", 1 << 40))), 0),
    "a bomb in a branch": (
        graphs.model(
            [graphs.branch(helper.make_node("Abs", ["x"], ["z"]), initializers=[TensorProto(name="v", data_type=1, dims=[1 << 40])])]
        ),
        0,
    ),
    "data in another file": (_outside(location="other", length="64"), 64),
    "data in another folder": (_outside(location="../weights", length="64"), 64),
    "data at an absolute path": (_outside(location="/weights", length="64"), 64),
    "data without a place": (_outside(length="64"), 64),
    "data without a length": (_outside(location="weights"), 64),
    "data with an unknown key": (_outside(**INSIDE, basepath="/"), 64),
    "data named twice": (
        _named_twice(),
        64,
    ),
    "data beyond the end": (_outside(**INSIDE, offset="1"), 64),
    "data without a weights part": (_outside(**INSIDE), 0),
    "data of another length than its shape": (_outside(location="weights", length="60"), 64),
    "a negative offset": (_outside(**INSIDE, offset="-1"), 64),
    "a signed length": (_outside(location="weights", length="+64"), 64),
    "a length in other digits": (_outside(location="weights", length="٦٤"), 64),
    "an endless offset": (_outside(**INSIDE, offset="0" * 17), 64),
    "strings outside": (
        graphs.changed(
            lambda m: m.graph.initializer[0].CopyFrom(graphs.outside("w", **INSIDE)) or setattr(m.graph.initializer[0], "data_type", 8)
        ),
        64,
    ),
    "a place without being outside": (
        graphs.changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="weights")),
        64,
    ),
    "a constant outside": (
        graphs.model([helper.make_node("Constant", [], ["y"], value=graphs.outside("c", **INSIDE))]),
        64,
    ),
    "a branch's weights outside": (
        graphs.model([graphs.branch(helper.make_node("Abs", ["x"], ["z"]), initializers=[graphs.outside("v", **INSIDE)])]),
        64,
    ),
    "a sparse tensor's values outside": (
        graphs.changed(lambda m: m.graph.sparse_initializer.append(SparseTensorProto(values=graphs.outside("v", **INSIDE), dims=[8]))),
        64,
    ),
    "no graph": (ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 20)]), 0),
    "no operator set": (graphs.changed(lambda m: m.ClearField("opset_import")), 0),
    "a training graph": (graphs.changed(lambda m: m.training_info.append(TrainingInfoProto())), 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_refused(name: str) -> None:
    """Each thing that the profile or the manifest's limits exclude is refused before ONNX Runtime sees it."""
    made, weights = REFUSED[name]
    assert refused(made.SerializeToString(), weights=weights)


def test_the_size_counts_both_parts() -> None:
    """The byte limit holds for graph and weights together."""
    graph = graphs.model().SerializeToString()
    limits = Intake(max_bytes=len(graph) + 10, max_nodes=50, max_elements=1000)
    assert not refused(graph, limits=limits, weights=10)
    assert refused(graph, limits=limits, weights=11)


def test_the_other_format_of_onnx_runtime_is_refused() -> None:
    """Bytes that ONNX Runtime would take for its own format are refused, even where they are ONNX too."""
    made = graphs.model()
    made.ClearField("ir_version")
    made.producer_name = ""
    made.doc_string = "ORTM"
    graph = made.SerializeToString()
    doc = b"\x32\x04ORTM"
    rest = graph.replace(doc, b"")
    assert not refused(doc + rest)
    assert refused(b"\x32\x06  ORTM" + rest)


def test_what_stands_twice_is_refused() -> None:
    """A second graph, operator name or data location, of which another reader might take the other, is refused."""
    graph = graphs.model().SerializeToString()
    assert refused(graph + graph)
    node = helper.make_node("Abs", ["x"], ["y"])
    raw = graphs.model([node]).SerializeToString()
    inner = node.SerializeToString()
    twice = inner + b"\x22\x03Abs"
    where = raw.index(inner)
    body = raw[:where].replace(bytes((0x0A, len(inner))), bytes((0x0A, len(twice)))) + twice + raw[where + len(inner) :]
    assert refused(body)


@given(st.binary(max_size=300), st.integers(0, 200))
@settings(max_examples=400, deadline=None)
def test_any_bytes_pass_or_are_refused(data: bytes, keep: int) -> None:
    """Any bytes: accepted, or our one error."""
    refused(graphs.model().SerializeToString()[:keep] + data)


@given(st.integers(0, 400), st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_any_flipped_bit_passes_or_is_refused(at: int, bit: int) -> None:
    """A model with one bit changed: accepted, or our one error."""
    graph = bytearray(graphs.laughs(2, 2).SerializeToString())
    graph[at % len(graph)] ^= 1 << bit
    refused(bytes(graph), weights=64)


def test_varints() -> None:
    """Ten bytes at most, unsigned 64 bits, the sign where it is asked for."""
    assert varint(memoryview(b"\xac\x02"), 0) == (300, 2)
    assert signed(varint(memoryview(b"\xff" * 9 + b"\x01"), 0)[0]) == -1
    for broken in (b"", b"\x80", b"\x80" * 10 + b"\x01"):
        with pytest.raises(MalformedProtobufError):
            varint(memoryview(broken), 0)


@pytest.mark.parametrize("data", [b"\x0b", b"\x0c", b"\x0f", b"\x00\x01", b"\x0a\x05abc", b"\x09\x01", b"\x0d\x01", b"\x08", b"\x0a"])
def test_malformed_fields(data: bytes) -> None:
    """Groups, reserved types, field 0 and lengths beyond the end are refused."""
    with pytest.raises(MalformedProtobufError):
        list(fields(memoryview(data)))


def test_wire_types_are_the_ones_asked_for() -> None:
    """A string where a number is asked for, or the other way round, is refused, and a number that protobuf would cut short."""
    made = message(memoryview(b"\x08\x01\x12\x01\x80\x1d\0\0\0\0"))
    assert (made.number(1), made.number(9), made.one(9)) == (1, 0, None)
    for call in (lambda: made.one(1), lambda: made.number(2), lambda: made.number(3), lambda: made.text(2), lambda: made.text(1)):
        with pytest.raises(MalformedProtobufError):
            call()
    for odd in (b"\x08\x01\x08\x01", b"\x0a\x01\x01", b"\x09" + bytes(8), b"\x08\x81\x80\x80\x80\x10", b"\x08" + b"\xff" * 9 + b"\x01"):
        with pytest.raises(MalformedProtobufError):
            message(memoryview(odd)).number(1)
    assert message(memoryview(b"\x08\xff\xff\xff\xff\x07")).number(1) == (1 << 31) - 1
    with pytest.raises(MalformedProtobufError):
        message(memoryview(b"\x0a\x01a\x0a\x01b")).text(1)


@pytest.mark.parametrize("field", ["09" + "00" * 8, "0d" + "00" * 4], ids=["64 bits", "32 bits"])
def test_a_number_of_fixed_size_is_not_read_as_a_varint(field: str) -> None:
    """Neither as a number nor as one of several, also beside a good one."""
    for data in (field, field + "0801", "0801" + field):
        read = message(memoryview(bytes.fromhex(data)))
        for of in (read.number, read.numbers):
            with pytest.raises(MalformedProtobufError):
                of(1)
