"""What the intake's walk accepts, the ONNX library reads no larger, no further and nowhere else."""

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, inliner

from enclave import intake
from enclave.errors import ModelError
from tests.artifact import graphs
from tests.artifact.odd_models import WEIGHTS, models
from tests.artifact.odd_protobuf import Oddity, Writer
from tests.artifact.onnx_reading import Reading, read
from wire.manifest import Intake
from wire.onnx_profile import DEPTH_MAX

WIDE = Intake(max_bytes=1 << 20, max_nodes=10_000, max_elements=1_000_000)


def accepted(data: bytes, limits: Intake = WIDE) -> bool:
    """Whether the walk takes the model."""
    try:
        intake.judge(data, intake=limits, weights=WEIGHTS)
    except ModelError:
        return False
    return True


def compared(data: bytes) -> Reading | None:
    """The library's reading of what the walk accepts, which is exactly as large and within every rule; None: refused."""
    if not accepted(data):
        return None
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return None  # nobody reads it
    reading = read(model)
    nodes, elements = reading.nodes, reading.elements
    assert accepted(data, Intake(max_bytes=len(data) + WEIGHTS, max_nodes=nodes, max_elements=elements))
    assert not nodes or not accepted(data, Intake(max_bytes=len(data) + WEIGHTS, max_nodes=nodes - 1, max_elements=elements))
    assert not elements or not accepted(data, Intake(max_bytes=len(data) + WEIGHTS, max_nodes=nodes, max_elements=elements - 1))
    assert reading.foreign == frozenset()
    assert max(reading.graphs, reading.functions) <= DEPTH_MAX
    for external in reading.external:
        assert (external.initialiser, external.location, external.length) == (True, "weights", external.size)
        assert 0 <= external.offset <= external.offset + external.size <= WEIGHTS
    assert model.HasField("graph")
    assert not model.training_info
    return reading


@given(models())
@settings(max_examples=250, deadline=None)
def test_models_are_as_large_as_they_are_read(model: ModelProto) -> None:
    """Nodes and elements are counted as the library reads them, to the one; operators, depth and data elsewhere are within the rules."""
    event("refused" if compared(model.SerializeToString()) is None else "accepted")


def _everything() -> ModelProto:
    """A model that is accepted and has every kind of place for nodes and tensors."""
    inside, outside = graphs.tensor("w"), graphs.outside("v", location="weights", offset="64", length="64")
    inside.data_location = TensorProto.DEFAULT
    sparse = SparseTensorProto(values=inside, indices=inside, dims=[4, 4])
    inner = helper.make_graph([helper.make_node("f", ["x"], ["z"], domain="own")], "b", [], [], [inside])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner),
        helper.make_node("Constant", [], ["d"], value=inside),
        helper.make_node("Constant", [], ["e"], sparse_value=sparse),
        NodeProto(op_type="Many", attribute=[AttributeProto(tensors=[inside], graphs=[inner], sparse_tensors=[sparse])]),
        helper.make_node("g", ["x"], ["h"], domain="ai.onnx"),
    ]
    functions = [
        graphs.function("f", [("", "g")], constants=[inside]),
        graphs.function("g", [("", "Abs")], domain="", constants=[inside]),
    ]
    functions[0].attribute_proto.append(AttributeProto(name="a", t=inside))
    made = graphs.model(nodes, initializers=[inside, outside], functions=functions)
    made.graph.sparse_initializer.append(sparse)
    return made


EVERYTHING = _everything()


def test_every_field_written_oddly_hides_nothing() -> None:
    """Each field of a model that has everything, in every odd form: what is accepted is what the library reads."""
    plain = Writer({})
    assert compared(plain.message(EVERYTHING)) is not None
    outcomes = {oddity: [compared(Writer({at: oddity}).message(EVERYTHING)) is not None for at in range(plain.fields)] for oddity in Oddity}
    assert all(True in outcome for outcome in outcomes.values())
    assert [oddity for oddity, outcome in outcomes.items() if False not in outcome] == [Oddity.OVERLONG]


@given(models(), st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(Oddity)), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_odd_encodings_hide_nothing(model: ModelProto, oddities: list[tuple[int, Oddity]]) -> None:
    """Fields twice, split, of other wire types, overlong or beyond 32 bits: what is accepted is what the library reads."""
    plain = Writer({})
    plain.message(model)
    data = Writer({at % max(1, plain.fields): oddity for at, oddity in oddities}).message(model)
    event("refused" if compared(data) is None else "accepted")


@given(models(), st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=3))
@settings(max_examples=250, deadline=None)
def test_flipped_bytes_hide_nothing(model: ModelProto, flips: list[tuple[int, int]]) -> None:
    """Some bytes changed anywhere."""
    data = bytearray(model.SerializeToString())
    for at, flip in flips:
        data[at % len(data)] ^= flip
    event("refused" if compared(bytes(data)) is None else "accepted")


@given(models(), models(), st.sampled_from(["graph", "functions", "neither", "both"]), st.integers(0, 1 << 20))
@settings(max_examples=100, deadline=None)
def test_models_put_together_hide_nothing(one: ModelProto, other: ModelProto, left: str, cut: int) -> None:
    """A second serialised model, or what is left of it, behind the first, which protobuf merges, or somewhere within it."""
    for name in ("graph", "functions"):
        if left not in (name, "both"):
            other.ClearField(name)
    if left == "graph":
        one.ClearField("graph")
    first, second = one.SerializeToString(), other.SerializeToString()
    at = cut % (2 * len(first))
    event("refused" if compared(first[:at] + second + first[at:]) is None else "accepted")


# Message and field number of everything from which a node or a tensor can be reached: what the walk goes through, or refuses.
WALKED = {
    ("ModelProto", 7),
    ("ModelProto", 20),  # refused
    ("ModelProto", 25),
    ("FunctionProto", 7),
    ("FunctionProto", 11),
    ("GraphProto", 1),
    ("GraphProto", 5),
    ("GraphProto", 15),
    ("NodeProto", 5),
    ("AttributeProto", 5),
    ("AttributeProto", 6),
    ("AttributeProto", 10),
    ("AttributeProto", 11),
    ("AttributeProto", 22),
    ("AttributeProto", 23),
    ("SparseTensorProto", 1),
    ("SparseTensorProto", 2),
    ("TrainingInfoProto", 1),
    ("TrainingInfoProto", 2),
}


def _types(of: Descriptor) -> dict[str, Descriptor]:
    found, rest = {}, [of]
    while rest:
        one = rest.pop()
        if one.name not in found:
            found[one.name] = one
            rest += [field.message_type for field in one.fields if field.message_type is not None]
    return found


def test_every_way_to_a_node_or_tensor_is_walked() -> None:
    """The installed ONNX has no field, new ones neither, that leads to a node or tensor and that the walk does not know."""
    counted = {"NodeProto", "TensorProto", "SparseTensorProto"}
    ways = {
        (name, field.number)
        for name, message in _types(ModelProto.DESCRIPTOR).items()
        for field in message.fields
        if field.message_type is not None and counted & _types(field.message_type).keys()
    }
    assert ways == WALKED


@given(models())
@settings(max_examples=100, deadline=None)
def test_functions_unfold_as_the_library_unfolds_them(model: ModelProto) -> None:
    """The library's own inliner makes no more of an accepted model than the walk counted."""
    reading = compared(model.SerializeToString())
    if reading is None or not model.functions:
        return
    try:
        unfolded = read(inliner.inline_local_functions(model))
    except RuntimeError:
        return
    event("unfolded")
    assert (unfolded.nodes <= reading.nodes, unfolded.elements <= reading.elements) == (True, True)
