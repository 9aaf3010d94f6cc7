"""Splitting and sealing: what comes out opens in the enclave's reader to a model that computes the same."""

from collections.abc import Mapping
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
import onnxruntime as ort
import pytest

from enclave import artifact as reader
from enclave import intake
from owner.errors import ModelRefusedError, Refusal, SealError
from owner.onnx_file import judge
from owner.seal import Sealing, seal_model, seal_part, sealing
from owner.weights import SPLIT_ABOVE, Split, split
from tests.artifact import graphs, make
from wire import artifact
from wire.manifest import Intake, Part, encryption_context

OWNER = bytes(range(32))
RANDOM = np.random.default_rng(7)


class Kms:
    """Remembers what it was asked to encrypt, as nobody should."""

    def __init__(self, **answer: object) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.answer = answer

    def encrypt(self, **asked: Any) -> Mapping[str, object]:
        """A blob that is no secret."""
        self.asked.append(asked)
        return {"KeyId": asked["KeyId"], "CiphertextBlob": b"wrapped" + bytes((len(self.asked),)), **self.answer}


class Outs:
    """Files in memory."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def open(self, name: str) -> io.BytesIO:
        """A file that is kept when it is closed."""
        outs = self.data

        class Out(io.BytesIO):
            def close(self) -> None:
                outs[name] = self.getvalue()
                super().close()

        return Out()


def opened(data: bytes, part: Part, data_key: bytes) -> bytes:
    """The part through the enclave's reader."""

    def fetch(offset: int, length: int) -> list[bytes]:
        return [data[offset : offset + length]]

    head = reader.read_header(fetch, part, key_arn=make.ARN, context=encryption_context(OWNER, "m", 3))
    sink = bytearray(part.length)
    reader.open_part(fetch, part, data_key, reader.MemorySink(sink), header=head)
    return bytes(sink)


def big(dtype: str = "f4") -> ModelProto:
    """A model whose weights take more than the threshold."""
    weights = RANDOM.random((1024, 1024)).astype(dtype)
    return graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        initializers=[numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones(1024, dtype), "b")],
        inputs=[graphs.value("x", ["n", 1024])],
        outputs=[graphs.value("y", ["n", 1024])],
    )


def computed(graph: bytes, weights: bytes, folder: Path) -> Any:
    """What ONNX Runtime makes of a graph with its weights beside it."""
    (folder / "weights").write_bytes(weights)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((2, 1024), np.float32)})[0]


def sealed(made: ModelProto, folder: Path = Path("/nonexistent")) -> tuple[tuple[Part, ...], Outs, Kms]:
    """A model sealed for owner, model and epoch of these tests."""
    kms, outs = Kms(), Outs()
    whom = sealing(kms, key_arn=make.ARN, owner_key=OWNER, model="m", epoch=3)
    return seal_model(judge(made.SerializeToString(), folder), whom, outs.open), outs, kms


def test_a_big_model_becomes_two_parts(tmp_path: Path) -> None:
    """Graph and weights open in the enclave's reader, pass its intake, and compute what the model computed, bit for bit."""
    made = big()
    parts, outs, kms = sealed(made)
    assert [part.name for part in parts] == ["graph", "weights"]
    graph, weights = (opened(outs.data[p.name], p, asked["Plaintext"]) for p, asked in zip(parts, kms.asked, strict=True))
    intake.judge(graph, intake=Intake(), weights=len(weights))
    assert len(graph) < 1000
    assert len(weights) == 4 * 1024 * 1024 + 4096
    plain = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"x": np.ones((2, 1024), np.float32)})[0]
    assert np.array_equal(expected, computed(graph, weights, tmp_path))


def test_a_small_model_stays_whole() -> None:
    """Up to 2 MiB of initialisers the graph is the only part, and is the model."""
    made = graphs.model()
    parts, outs, kms = sealed(made)
    (part,) = parts
    assert made == ModelProto.FromString(opened(outs.data["graph"], part, kms.asked[0]["Plaintext"]))


def test_the_threshold() -> None:
    """Exactly 2 MiB of initialisers stay; one element more is split."""
    count = SPLIT_ABOVE // 4
    for more, expected in ((0, 0), (1, SPLIT_ABOVE + 4)):
        made = graphs.model(initializers=[numpy_helper.from_array(np.ones(count + more, np.float32), "w")])
        assert expected == split(judge(made.SerializeToString(), Path("/nonexistent"))).length


def test_what_is_pinned_is_what_was_written() -> None:
    """Lengths, digests and commitment of a part are those of its artifact, which names key, context and provider."""
    parts, outs, kms = sealed(big())
    for part, asked in zip(parts, kms.asked, strict=True):
        data = outs.data[part.name]
        head = artifact.parse_header(data)
        assert (len(data), hashlib.sha256(data).digest()) == (part.artifact_length, part.artifact_sha256)
        assert (hashlib.sha256(head.raw).digest(), head.commitment) == (part.header_sha256, part.commitment)
        assert encryption_context(OWNER, "m", 3) == dict(head.context) == asked["EncryptionContext"]
        assert [("aws-kms", make.ARN)] == [(key.provider, key.info) for key in head.data_keys]
        assert make.ARN == asked["KeyId"]
        assert artifact.FRAME_BYTES == head.frame_length


def test_every_part_has_a_key_of_its_own() -> None:
    """Parts, and repeated sealings of the same bytes, share neither data key nor message id."""
    first, second = sealed(big()), sealed(big())
    keys = [asked["Plaintext"] for run in (first, second) for asked in run[2].asked]
    ids = [artifact.parse_header(data).message_id for run in (first, second) for data in run[1].data.values()]
    assert (4, 4, {32}) == (len(set(keys)), len(set(ids)), {len(key) for key in keys})


def test_no_weight_leaves_unsealed() -> None:
    """Neither weights nor tensor names stand in an artifact."""
    made = big()
    made.graph.initializer[0].name = made.graph.node[0].input[1] = "canary-weight-name"
    raw = bytes(made.graph.initializer[0].raw_data)
    _, outs, _ = sealed(made)
    for data in outs.data.values():
        assert b"canary" not in data
        assert not any(raw[at : at + 16] in data for at in range(0, len(raw), 65_536))


@pytest.mark.parametrize("answer", [{"KeyId": "alias/model"}, {"KeyId": None}, {"CiphertextBlob": None}])
def test_another_key_than_asked_for(answer: dict[str, object]) -> None:
    """A KMS answer that names another key, or has no blob, seals nothing."""
    whom = Sealing(kms=Kms(**answer), key_arn=make.ARN, context={})
    out = io.BytesIO()
    with pytest.raises(SealError):
        seal_part("graph", (b"model",), 5, whom, out)
    assert out.getvalue() == b""


@pytest.mark.parametrize("plaintext", [(b"mode",), (b"mod", b"el", b"s"), (b"models",), ()])
def test_a_plaintext_of_another_length(plaintext: tuple[bytes, ...]) -> None:
    """A model that shrinks or grows while it is sealed is an error, not a shorter artifact."""
    with pytest.raises(SealError):
        seal_part("graph", plaintext, 5, Sealing(kms=Kms(), key_arn=make.ARN, context={}), io.BytesIO())


def test_progress_counts_the_plaintext() -> None:
    """Progress adds up to the length of the parts."""
    told: list[int] = []
    kms, outs = Kms(), Outs()
    whom = sealing(kms, key_arn=make.ARN, owner_key=OWNER, model="m", epoch=3)
    parts = seal_model(judge(big().SerializeToString(), Path("/nonexistent")), whom, outs.open, told.append)
    assert sum(part.length for part in parts) == sum(told)


# --- splitting


def whole(made: Split) -> bytes:
    """The weights file."""
    return b"".join(bytes(piece) for piece in made.stream())


def test_data_beside_the_model_is_folded_in(tmp_path: Path) -> None:
    """External data, in two files with offsets, becomes the one weights part, or the graph's own where it is small."""
    big_, small = RANDOM.random((1024, 1024)).astype("f4"), RANDOM.random((4, 4)).astype("f4")
    (tmp_path / "a").write_bytes(b"skipped" + big_.tobytes() + b"more")
    (tmp_path / "b").write_bytes(small.tobytes())
    made = graphs.model(
        initializers=[
            graphs.outside("w", (1024, 1024), location="a", offset="7", length=str(big_.nbytes)),
            graphs.outside("v", (4, 4), location="b"),
        ]
    )
    cut = split(judge(made.SerializeToString(), tmp_path))
    intake.judge(cut.graph, intake=Intake(), weights=cut.length)
    assert big_.tobytes() == whole(cut)
    kept = ModelProto.FromString(cut.graph).graph.initializer[1]
    assert np.array_equal(small, numpy_helper.to_array(kept))
    together = split(judge(made.SerializeToString(), tmp_path), above=1 << 30)
    assert np.array_equal(big_, numpy_helper.to_array(ModelProto.FromString(together.graph).graph.initializer[0]))


@pytest.mark.parametrize(
    "where", [{"offset": "60"}, {"length": "65"}, {"offset": "x"}, {"offset": "-4"}, {"length": "-1"}, {"offset": "65"}]
)
def test_data_beyond_its_file(tmp_path: Path, where: dict[str, str]) -> None:
    """Offsets and lengths that do not lie in the file are refused."""
    (tmp_path / "a").write_bytes(bytes(64))
    made = graphs.model(initializers=[graphs.outside("w", location="a", **{"length": "64", **where})])
    with pytest.raises(ModelRefusedError) as caught:
        split(judge(made.SerializeToString(), tmp_path))
    assert caught.value.refusal is Refusal.OUTSIDE_DATA


def test_typed_fields_are_split_too() -> None:
    """Numbers kept in typed fields, as some exporters write them, give the same bytes; strings stay in the graph."""
    numbers = RANDOM.random(600_000).astype("f4")
    made = graphs.model(
        initializers=[
            helper.make_tensor("w", TensorProto.FLOAT, [600_000], numbers),
            helper.make_tensor("i", TensorProto.INT64, [300], range(300)),
            helper.make_tensor("s", TensorProto.STRING, [1], [b"text" * 1000]),
            helper.make_tensor("e", TensorProto.FLOAT, [0], []),
            helper.make_tensor("h", TensorProto.FLOAT16, [600], [1.0] * 600),
            TensorProto(name="n", data_type=TensorProto.FLOAT, dims=[400]),
        ]
    )
    assert not made.graph.initializer[0].raw_data
    cut = split(judge(made.SerializeToString(), Path("/nonexistent")))
    intake.judge(cut.graph, intake=Intake(), weights=cut.length)
    data = whole(cut)
    assert numbers.tobytes() == data[: numbers.nbytes]
    assert np.arange(300).tobytes() == data[-2400:]
    left = ModelProto.FromString(cut.graph).graph.initializer
    assert [TensorProto.EXTERNAL] * 2 + [TensorProto.DEFAULT] * 4 == [t.data_location for t in left]


def test_tensors_start_where_they_can_be_mapped() -> None:
    """Large tensors start on a page, the others on 64 bytes; small ones stay in the graph."""
    sizes = (100, 700_000, 5000, 300, 70_000)
    made = graphs.model(initializers=[numpy_helper.from_array(np.ones(size, "u1" if size == 100 else "f4"), f"t{size}") for size in sizes])
    cut = split(judge(made.SerializeToString(), Path("/nonexistent")))
    offsets = {len(data): offset for offset, data in cut.weights}
    assert offsets.keys() == {2_800_000, 20_000, 1200, 280_000}
    assert all(offset % (4096 if size >= 65_536 else 64) == 0 for size, offset in offsets.items())
    assert cut.length == len(whole(cut))


def test_the_model_itself_is_not_changed() -> None:
    """Splitting leaves the judged model as it was."""
    judged = judge(big().SerializeToString(), Path("/nonexistent"))
    before = judged.proto.SerializeToString(deterministic=True)
    split(judged)
    assert before == judged.proto.SerializeToString(deterministic=True)
