"""What the owner's tools refuse to seal, and the signature that they read."""

from pathlib import Path
import pickle

from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, TrainingInfoProto, helper
import pytest

from enclave import intake
from owner.errors import ModelRefusedError, Refusal
from owner.onnx_file import judge
from tests.artifact import graphs, test_intake
from wire.manifest import Intake, Tensor

NOWHERE = Path("/nonexistent")


def refusal(data: bytes, folder: Path = NOWHERE) -> Refusal:
    """Why the bytes are refused."""
    with pytest.raises(ModelRefusedError) as caught:
        judge(data, folder)
    return caught.value.refusal


def test_the_signature_is_read() -> None:
    """Names, datatypes and shapes come from the file; initialisers among the inputs, as old files have them, are none."""
    made = graphs.model(
        inputs=[
            graphs.value("x", ["n", 4]),
            graphs.value("w", [4, 4]),
            graphs.value("s", [], TensorProto.STRING),
            graphs.value("b", [-5, "m", 3], TensorProto.BFLOAT16),
        ],
        outputs=[graphs.value("y", [None, 4]), graphs.value("i", [2], TensorProto.INT64)],
    )
    read = judge(made.SerializeToString(), NOWHERE)
    assert read.inputs == (
        Tensor(name="x", datatype="FP32", shape=(-1, 4)),
        Tensor(name="s", datatype="BYTES", shape=()),
        Tensor(name="b", datatype="BF16", shape=(-1, -1, 3)),
    )
    assert read.outputs == (Tensor(name="y", datatype="FP32", shape=(-1, 4)), Tensor(name="i", datatype="INT64", shape=(2,)))
    assert read.opset == 20


@pytest.mark.parametrize("data", [pickle.dumps({}, protocol) for protocol in (2, 3, 4, 5)] + [b"PK\x03\x04rest"])
def test_pickles_are_refused(data: bytes) -> None:
    """Pickles and PyTorch's archives of them are refused unread."""
    assert refusal(data) is Refusal.PICKLE


def _sequence() -> ModelProto:
    made = graphs.model()
    made.graph.output.append(helper.make_tensor_sequence_value_info("p", TensorProto.FLOAT, None))
    return made


REFUSED: dict[str, tuple[bytes, Refusal]] = {
    "nothing": (b"", Refusal.NOT_ONNX),
    "text": (b"# a model", Refusal.NOT_ONNX),
    "a graph without nodes": (graphs.model([]).SerializeToString(), Refusal.NOT_ONNX),
    "no operator set": (graphs.changed(lambda m: m.ClearField("opset_import")).SerializeToString(), Refusal.NOT_ONNX),
    "a field that ONNX has not": (graphs.model().SerializeToString() + b"\xf8\x7f\x01", Refusal.NOT_ONNX),
    "training": (graphs.changed(lambda m: m.training_info.append(TrainingInfoProto())).SerializeToString(), Refusal.TRAINING),
    "a sequence as output": (_sequence().SerializeToString(), Refusal.NOT_A_TENSOR),
    "complex numbers": (graphs.model(inputs=[graphs.value("x", [1], TensorProto.COMPLEX64)]).SerializeToString(), Refusal.DATATYPE),
    "no rank": (graphs.model(outputs=[graphs.value("y", None)]).SerializeToString(), Refusal.UNKNOWN_RANK),
    "no inputs": (graphs.model(inputs=[]).SerializeToString(), Refusal.NO_SIGNATURE),
    "only initialisers as inputs": (graphs.model(inputs=[graphs.value("w", [4, 4])]).SerializeToString(), Refusal.NO_SIGNATURE),
    "no outputs": (graphs.model(outputs=[]).SerializeToString(), Refusal.NO_SIGNATURE),
    "strings in, bfloat16 out": (
        graphs.model(
            inputs=[graphs.value("s", [], TensorProto.STRING)], outputs=[graphs.value("b", [1], TensorProto.BFLOAT16)]
        ).SerializeToString(),
        Refusal.DATATYPE,
    ),
    "a name too long": (graphs.model(inputs=[graphs.value("x" * 129, [1])]).SerializeToString(), Refusal.NAME),
    "a name with a newline": (graphs.model(outputs=[graphs.value("y\n", [1])]).SerializeToString(), Refusal.NAME),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_their_reason(name: str) -> None:
    """Each kind of file that cannot be served is refused with its own reason."""
    data, expected = REFUSED[name]
    assert expected == refusal(data)


CUSTOM = [name for name in test_intake.REFUSED if name.startswith(("a custom", "a function that is not there"))]


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_operators_are_refused(name: str) -> None:
    """An operator that ONNX Runtime does not bring along is refused wherever it stands."""
    assert refusal(test_intake.REFUSED[name][0].SerializeToString()) is Refusal.CUSTOM_OPERATOR


@pytest.mark.parametrize("name", test_intake.ACCEPTED)
def test_what_the_enclave_takes_is_sealed(name: str, tmp_path: Path) -> None:
    """The owner's judgement, by the ONNX library, is no stricter than the enclave's, by a walk of its own."""
    made, weights = test_intake.ACCEPTED[name]
    (tmp_path / "weights").write_bytes(bytes(weights))
    judge(made.SerializeToString(), tmp_path)


# --- data in other files


@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "sub/weights", ".", "..", ""])
def test_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    """External data is named without a folder, so that sealing reads nothing from elsewhere."""
    made = graphs.model(initializers=[graphs.outside("w", location=location)])
    assert refusal(made.SerializeToString(), tmp_path) is Refusal.OUTSIDE_DATA


def test_links_and_missing_files_are_refused(tmp_path: Path) -> None:
    """External data is a regular file beside the model, not a link to one."""
    made = graphs.model(initializers=[graphs.outside("w", location="data")]).SerializeToString()
    assert refusal(made, tmp_path) is Refusal.OUTSIDE_DATA
    (tmp_path / "real").write_bytes(bytes(64))
    (tmp_path / "data").symlink_to("real")
    assert refusal(made, tmp_path) is Refusal.OUTSIDE_DATA
    (tmp_path / "data").unlink()
    (tmp_path / "data").write_bytes(bytes(64))
    judge(made, tmp_path)


@pytest.mark.parametrize("name", ["a constant outside", "a branch's weights outside", "a sparse tensor's values outside"])
def test_only_initialisers_have_external_data(name: str, tmp_path: Path) -> None:
    """Constants, subgraphs and sparse tensors keep their data inside."""
    (tmp_path / "weights").write_bytes(bytes(64))
    assert refusal(test_intake.REFUSED[name][0].SerializeToString(), tmp_path) is Refusal.OUTSIDE_DATA


def test_external_data_without_a_place_is_refused(tmp_path: Path) -> None:
    """External data that says not where is refused."""
    made = graphs.model(initializers=[TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)])
    assert refusal(made.SerializeToString(), tmp_path) is Refusal.OUTSIDE_DATA


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
@example(b"=\0\0\0\0", 151)
def test_any_bytes_are_judged(data: bytes, keep: int) -> None:
    """Any bytes: a model that the enclave's intake takes too, or our error."""
    graph = graphs.model().SerializeToString()[:keep] + data
    try:
        judged = judge(graph, NOWHERE)
    except ModelRefusedError:
        return
    intake.judge(judged.proto.SerializeToString(), intake=Intake())
