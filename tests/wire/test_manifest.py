"""The manifest: comes back whole; each field broken in turn is refused by a text that names it."""

from collections.abc import Iterator
import contextlib
import copy
import hashlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.wire.examples import ISSUER, OTHER_ISSUER, OWNER, a_manifest, key, model, part, public, signed_manifest
from wire import cbor, cose, manifest
from wire.keys import WeakKeyError
from wire.manifest import (
    Anyone,
    Intake,
    Issuers,
    Limits,
    MalformedManifestError,
    Manifest,
    Model,
    Pipeline,
    Quota,
    Runtime,
    Step,
    Tensor,
)
from wire.manifest_codec import DATATYPES
from wire.manifest_render import render

GENUINE: Any = render(a_manifest())
STEPS: Any = GENUINE["pipelines"][0]["steps"]


def _set(path: str, value: object) -> Any:
    """The genuine manifest with one place changed; path like `models.0.parts.1.length`."""
    root = copy.deepcopy(GENUINE)
    node, *rest = root, *path.split(".")
    for name in rest[:-1]:
        node = node[int(name) if isinstance(node, list) else name]
    last = int(rest[-1]) if isinstance(node, list) else rest[-1]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return root


ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
tensors = st.lists(
    st.builds(Tensor, name=names, datatype=st.sampled_from(DATATYPES), shape=st.lists(st.integers(-1, 1 << 40), max_size=4).map(tuple)),
    min_size=1,
    max_size=3,
    unique_by=lambda tensor: tensor.name,
).map(tuple)
parts = st.sampled_from([(part(),), (part(), part("weights"))])
models = st.lists(
    st.builds(
        Model,
        id=ids,
        version=ids,
        parts=parts,
        inputs=tensors,
        outputs=tensors,
        intake=st.builds(Intake, max_nodes=st.integers(1, 1 << 24)),
        runtime=st.builds(Runtime, workers=st.integers(1, 64), seconds=st.integers(1, 3600)),
        reject_non_finite=st.booleans(),
        isolation=st.sampled_from(["process", "inline"]),
        answer_padding=st.none() | st.integers(1024, 1 << 30),
        card=st.dictionaries(names, names, max_size=3).map(lambda card: tuple(sorted(card.items()))),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda item: (item.id, item.version),
).map(tuple)
manifests = st.builds(
    a_manifest,
    deployment=ids,
    sequence=st.integers(1, (1 << 53) - 1),
    not_after=st.integers(1, (1 << 53) - 1),
    epoch=st.integers(1, (1 << 53) - 1),
    models=models,
    pipelines=st.just(()),
    callers=st.just(Anyone()) | st.builds(Issuers, keys=st.just((public(ISSUER),)), max_lifetime=st.integers(60, 30 * 86_400)),
    quota=st.none() | st.builds(Quota, requests=st.integers(1, 1 << 40), bytes=st.integers(1, 1 << 40)),
    limits=st.builds(Limits, sessions=st.integers(1, 65_536), open_messages=st.integers(1, 1024)),
    audit=st.none() | st.just(a_manifest().audit),
)


@settings(max_examples=60)
@given(manifests)
def test_manifest_comes_back(value: Manifest) -> None:
    """Every field of every manifest survives its encoding."""
    assert manifest.parse(cbor.decode(manifest.encode(value))) == value


def test_example_with_a_pipeline_comes_back() -> None:
    """Pipelines, issuers, quota and audit included."""
    assert manifest.parse(GENUINE) == a_manifest()


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_is_taken(datatype: str) -> None:
    """All datatypes of the inference protocol that ONNX Runtime has."""
    tensor = (Tensor(name="x", datatype=datatype, shape=()),)
    value = a_manifest(models=(model(inputs=tensor),), pipelines=())
    assert manifest.parse(render(value)) == value


KEY_ARN = a_manifest().kms.key_arn
# place: (name that the text must hold, bad values); ... removes the field
BROKEN: dict[str, tuple[str, list[object]]] = {
    "version": ("version", [0, 2, "1", True]),
    "deployment": ("deployment", ["", "-a", "a b", "a" * 65, 1, "a\n"]),
    "sequence": ("sequence", [0, -1, 1 << 53, True, "1", None]),
    "not_after": ("not_after", [0, 1 << 53, None, False]),
    "epoch": ("epoch", [0, 1 << 53, "1"]),
    "models": ("models", [[], {}, [GENUINE["models"][0]] * 257, ["x"]]),
    "models.0.id": (r"models\[0\]\.id", ["", "a/b", 1]),
    "models.0.version": (r"models\[0\]\.version", ["", 1]),
    "models.0.parts": (r"models\[0\]\.parts", [[], [GENUINE["models"][0]["parts"][1]], GENUINE["models"][0]["parts"][::-1], {}]),
    "models.0.parts.0.name": ("parts", ["weights", "other", 1]),
    "models.0.parts.1.name": ("parts", ["graph"]),
    "models.0.parts.0.length": (r"parts\[0\]\.length", [0, (1 << 40) + 1, True]),
    "models.0.parts.0.artifact_length": (r"parts\[0\]\.artifact_length", [0, (1 << 40) + 1]),
    "models.0.parts.0.artifact_sha256": (r"parts\[0\]\.artifact_sha256", [bytes(31), bytes(33), "a" * 32]),
    "models.0.parts.0.header_sha256": (r"parts\[0\]\.header_sha256", [bytes(31), bytes(33)]),
    "models.0.parts.0.commitment": (r"parts\[0\]\.commitment", [bytes(31), bytes(33)]),
    "models.0.inputs": (r"models\[0\]\.inputs", [[], GENUINE["models"][0]["inputs"] * 2, GENUINE["models"][0]["inputs"] * 257]),
    "models.0.outputs": (r"models\[0\]\.outputs", [[], GENUINE["models"][0]["outputs"] * 2]),
    "models.0.inputs.0.name": (r"inputs\[0\]\.name", ["", "a" * 129, "a\n", 1]),
    "models.0.inputs.0.datatype": (r"inputs\[0\]\.datatype", ["", "STRING", "FP32|FP64", "fp32"]),
    "models.0.inputs.0.shape": (r"inputs\[0\]\.shape", [[-2], [1 << 53], [True], ["1"], [1] * 17, None]),
    "models.0.intake.max_bytes": (r"intake\.max_bytes", [0, (1 << 40) + 1]),
    "models.0.intake.max_nodes": (r"intake\.max_nodes", [0, (1 << 24) + 1]),
    "models.0.intake.max_elements": (r"intake\.max_elements", [0, (1 << 40) + 1]),
    "models.0.runtime.memory_bytes": (r"runtime\.memory_bytes", [(1 << 20) - 1, (1 << 40) + 1]),
    "models.0.runtime.seconds": (r"runtime\.seconds", [0, 3601]),
    "models.0.runtime.request_bytes": (r"runtime\.request_bytes", [0, (1 << 30) + 1]),
    "models.0.runtime.answer_bytes": (r"runtime\.answer_bytes", [0, (1 << 30) + 1]),
    "models.0.runtime.workers": (r"runtime\.workers", [0, 65]),
    "models.0.reject_non_finite": ("reject_non_finite", [0, None, "no"]),
    "models.0.isolation": ("isolation", ["none", "", None]),
    "models.0.answer_padding": ("answer_padding", [0, 1023, (1 << 30) + 1, True, "1024"]),
    "models.0.card": ("card", [[], {"a": 1}, {1: "a"}, {str(at): "" for at in range(65)}]),
    "pipelines": ("pipelines", [None, {}, GENUINE["pipelines"] * 257, GENUINE["pipelines"] * 2]),
    "pipelines.0.id": (r"pipelines\[0\]\.id", ["", 1]),
    "pipelines.0.version": (r"pipelines\[0\]\.version", ["", 1]),
    "pipelines.0.steps": (
        r"pipelines\[0\]\.(steps|outputs)",
        [[], STEPS * 9, STEPS[:1]],
    ),
    "pipelines.0.steps.0.model": (r"steps\[0\]", ["other", "", 1]),
    "pipelines.0.steps.0.version": (r"steps\[0\]", ["2", ""]),
    "pipelines.0.steps.0.inputs": (
        r"steps\[0\]\.inputs",
        [[], [["x", "none"]], [["z", "x"]], [["x", "x"], ["x", "x"]], [["x"]], [["x", 1]], ["xx"], [["x", "x", "x"]]],
    ),
    "pipelines.0.steps.1.inputs": (r"steps\[1\]\.inputs", [[["a", "x"]]]),
    "pipelines.0.steps.0.outputs": (
        r"steps\[0\]\.outputs",
        [[], [["y", "x"]], [["z", "between"]], [["y", "between"], ["y", "more"]], [["y"]]],
    ),
    "pipelines.0.inputs": (r"pipelines\[0\]", [[], GENUINE["pipelines"][0]["inputs"] * 2]),
    "pipelines.0.inputs.0.datatype": (r"pipelines\[0\]", ["FP64", "x"]),
    "pipelines.0.inputs.0.shape": (r"pipelines\[0\]", [[-1, 31], [-1], [-1, 30, 1]]),
    "pipelines.0.outputs": (r"pipelines\[0\]", [[], GENUINE["pipelines"][0]["outputs"] * 2]),
    "pipelines.0.outputs.0.name": (r"pipelines\[0\]\.outputs", ["none", ""]),
    "pipelines.0.outputs.0.shape": (r"pipelines\[0\]\.outputs", [[-1, 3], [2]]),
    "pipelines.0.outputs.0.datatype": (r"pipelines\[0\]\.outputs", ["INT8"]),
    "pipelines.0.answer_padding": ("answer_padding", [1023]),
    "kms": ("kms", [None, []]),
    "kms.key_arn": (
        "key_arn",
        [
            "",
            KEY_ARN.replace(":key/", ":alias/"),
            KEY_ARN.replace(":key/", ":key/mrk-"),
            KEY_ARN + "\n",
            KEY_ARN + ",x",
            KEY_ARN.upper(),
            KEY_ARN.replace("arn:aws:", "arn:other:"),
            KEY_ARN.replace("111122223333", "1111"),
        ],
    ),
    "kms.host": ("host", ["", "a_b", "-a", "a-", "A.B", "a..b", "a." * 127 + "a", "a" * 64, "a\n", "a:443", "a/"]),
    "kms.ca_bundle": ("ca_bundle", [b"", bytes(256 * 1024 + 1), "pem"]),
    "callers": ("callers", ["", "Anyone", "any", None, [], {}, b"anyone"]),
    "callers.issuers": (
        r"callers\.issuers",
        [[], [bytes(32)], [b"\x01" + bytes(31)], [public(1), public(1)], ["k" * 32], [bytes(31)], [public(at) for at in range(10, 19)]],
    ),
    "callers.max_lifetime": (r"callers\.max_lifetime", [0, 59, 30 * 86_400 + 1, None]),
    "quota": ("quota", [[], 0]),
    "quota.requests": (r"quota\.requests", [0, 1 << 53]),
    "quota.bytes": (r"quota\.bytes", [0, 1 << 53]),
    "limits": ("limits", [None]),
    "limits.sessions": (r"limits\.sessions", [0, 65_537]),
    "limits.handshakes": (r"limits\.handshakes", [0, 4097]),
    "limits.session_seconds": (r"limits\.session_seconds", [59, 86_401]),
    "limits.idle_seconds": (r"limits\.idle_seconds", [9, 86_401]),
    "limits.open_messages": (r"limits\.open_messages", [0, 1025]),
    "limits.unsent_bytes": (r"limits\.unsent_bytes", [(1 << 20) - 1, (1 << 36) + 1]),
    "platform": ("platform", [None]),
    "platform.clocksources": ("clocksources", [[], [""], ["a b"], ["ä"], [1], ["tsc"] * 9]),
    "audit": ("audit", [[], 0]),
    "audit.checkpoint_seconds": ("checkpoint_seconds", [0, 86_401]),
}


def _cases() -> Iterator[tuple[str, str, object]]:
    for path, (name, values) in BROKEN.items():
        for value in values:
            yield path, name, value


@pytest.mark.parametrize(("path", "name", "value"), list(_cases()))
def test_field_broken_is_refused_by_name(path: str, name: str, value: object) -> None:
    """Every field in turn: what it may not be is refused by a text that names it."""
    with pytest.raises(MalformedManifestError, match=name):
        manifest.parse(_set(path, value))


def _fields(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and not path.endswith(".card"):
        for name, item in value.items():
            yield f"{path}.{name}".lstrip(".")
            yield from _fields(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _fields(item, f"{path}.{at}")


ALL_FIELDS = list(_fields(GENUINE))


@pytest.mark.parametrize("path", ALL_FIELDS)
def test_missing_field_is_refused_by_name(path: str) -> None:
    """No field has a default on the wire."""
    with pytest.raises(MalformedManifestError, match=path.rsplit(".", 1)[-1]):
        manifest.parse(_set(path, ...))


@pytest.mark.parametrize("path", sorted({path.rsplit(".", 1)[0] if "." in path else "" for path in ALL_FIELDS}))
def test_unknown_field_is_refused_by_name(path: str) -> None:
    """No map takes a field that this version does not know."""
    with pytest.raises(MalformedManifestError, match=r"surprise is unknown"):
        manifest.parse(_set(f"{path}.surprise".lstrip("."), 1))


@pytest.mark.parametrize("value", [None, [], "x", 0, b""])
def test_payload_that_is_no_map_is_refused(value: cbor.Value) -> None:
    """A manifest is a map."""
    with pytest.raises(MalformedManifestError):
        manifest.parse(value)


def test_two_models_of_one_name_and_version_are_refused() -> None:
    """Also a pipeline may not have a model's name and version; another version is another thing."""
    for value in (a_manifest(models=(model(), model()), pipelines=()), a_manifest(models=(model(), model("report"), model("both")))):
        with pytest.raises(MalformedManifestError, match="twice"):
            manifest.parse(render(value))
    manifest.parse(render(a_manifest(models=(model(), model(version="2")), pipelines=())))


def test_encode_refuses_what_parse_refuses() -> None:
    """An owner learns of a bad field before signing, by name."""
    with pytest.raises(ValueError, match="sequence"):
        manifest.encode(a_manifest(sequence=0))


def test_pipeline_joins_free_dimensions() -> None:
    """A free dimension fits any; a wrong rank or datatype between two steps is refused."""
    pipeline = a_manifest().pipelines[0]
    for shape, fits in (((-1, 2), True), ((5, -1), True), ((-1, 3), False), ((2,), False)):
        report = model("report", inputs=(Tensor(name="a", datatype="FP32", shape=shape),))
        value = render(a_manifest(models=(model(), report)))
        if fits:
            assert manifest.parse(value).pipelines == (pipeline,)
        else:
            with pytest.raises(MalformedManifestError, match=r"steps\[1\]"):
                manifest.parse(value)


def test_pipeline_step_sees_only_earlier_tensors() -> None:
    """A step that takes what a later one gives is refused."""
    first, second = a_manifest().pipelines[0].steps
    pipeline = Pipeline(
        id="p", version="1", steps=(second, first), inputs=a_manifest().pipelines[0].inputs, outputs=a_manifest().pipelines[0].outputs
    )
    with pytest.raises(MalformedManifestError, match=r"steps\[0\]\.inputs"):
        manifest.parse(render(a_manifest(pipelines=(pipeline,))))
    assert isinstance(first, Step)


# the envelope


def test_envelope_opens() -> None:
    """Owner key, payload, digest and values of a signed manifest."""
    signed = manifest.open_envelope(signed_manifest())
    assert signed.owner_key == public(OWNER)
    assert signed.manifest == a_manifest()
    assert signed.digest == hashlib.sha384(signed.payload).digest()


def _envelope(payload: bytes, *, kid: bytes | None = None, typ: str = cose.MANIFEST, signer: int = OWNER) -> bytes:
    return cose.sign(payload, kid=public(OWNER) if kid is None else kid, typ=typ, key=key(signer))


def test_signature_is_verified_before_the_payload_is_parsed() -> None:
    """An unsigned payload is never parsed: garbage under a bad signature fails by its signature."""
    with pytest.raises(cose.BadSignatureError):
        manifest.open_envelope(_envelope(b"\xff", signer=ISSUER))
    with pytest.raises(MalformedManifestError):
        manifest.open_envelope(_envelope(b"\xff"))


@pytest.mark.parametrize("typ", [cose.CREDENTIAL, cose.WITHDRAWN, cose.REFERENCE_VALUES])
def test_other_documents_of_the_owner_are_no_manifest(typ: str) -> None:
    """`typ` tells what the owner key signed."""
    with pytest.raises(cose.MalformedEnvelopeError):
        manifest.open_envelope(_envelope(manifest.encode(a_manifest()), typ=typ))


def test_owner_key_of_small_order_is_refused() -> None:
    """With key 01 00.. a signature that nobody made would verify; the key is refused first."""
    payload = manifest.encode(a_manifest())
    outer = cbor.decode(_envelope(payload, kid=b"\x01" + bytes(31)))
    assert isinstance(outer, list)
    outer[3] = b"\x01" + bytes(63)
    with pytest.raises(WeakKeyError):
        manifest.open_envelope(cbor.encode(outer))


def test_issuer_key_that_is_the_owners_is_refused() -> None:
    """Owner and issuers are never the same key."""
    value = a_manifest(callers=Issuers(keys=(public(OTHER_ISSUER), public(OWNER))))
    with pytest.raises(MalformedManifestError, match=r"callers\.issuers"):
        manifest.open_envelope(manifest.sign(manifest.encode(value), key(OWNER)))


def test_callers_without_issuers_have_none_to_compare() -> None:
    """Where anyone may call, the envelope opens."""
    value = a_manifest(callers=Anyone())
    assert manifest.open_envelope(manifest.sign(manifest.encode(value), key(OWNER))).manifest == value


def test_envelope_over_a_mebibyte_is_refused() -> None:
    """The limit stands before everything."""
    with pytest.raises(cose.MalformedEnvelopeError, match="longer"):
        manifest.open_envelope(bytes((1 << 20) + 1))


@given(st.binary(max_size=300))
def test_any_payload_gives_a_manifest_or_our_error(data: bytes) -> None:
    """Any signed payload: a manifest, or MalformedManifestError."""
    with contextlib.suppress(MalformedManifestError):
        manifest.open_envelope(_envelope(data))


any_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 1 << 60), st.binary(max_size=40), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.sampled_from(ALL_FIELDS), any_value)
def test_any_value_anywhere_gives_a_manifest_or_our_error(path: str, value: object) -> None:
    """Whatever stands in any one field: a manifest, or MalformedManifestError."""
    with contextlib.suppress(MalformedManifestError):
        manifest.parse(_set(path, value))


# measurements


def test_measurements_are_the_protocols() -> None:
    """PCR16 is extended with H(label || owner key); a PCR that was zero then holds H(48 zeros || that)."""
    owner = public(OWNER)
    assert manifest.owner_measurement(owner) == hashlib.sha384(b"cloister/1 owner\0" + owner).digest()
    assert manifest.extended(b"m") == hashlib.sha384(bytes(48) + b"m").digest()
    assert manifest.owner_hash(owner) == hashlib.sha384(owner).hexdigest()
    assert manifest.encryption_context(owner, "tumour", 4) == {
        "cloister-format": "1",
        "cloister-owner": hashlib.sha384(owner).hexdigest(),
        "cloister-model": "tumour",
        "cloister-epoch": "4",
    }


def test_region_is_the_arns() -> None:
    """The KMS region is the key's."""
    assert a_manifest().kms.region == "eu-central-1"
