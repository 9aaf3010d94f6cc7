"""Small genuine values that the tests of `wire` and of the sessions start from; every key is made from a fixed seed."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire import manifest
from wire.credential import Credential
from wire.evidence import CALLERS_ISSUERS, Config
from wire.manifest import Audit, Issuers, Kms, Limits, Manifest, Model, Part, Pipeline, Quota, Step, Tensor

NOW = 1_800_000_000


def key(seed: int) -> Ed25519PrivateKey:
    """The private key of this seed."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def public(seed: int) -> bytes:
    """The raw public key of this seed."""
    return key(seed).public_key().public_bytes_raw()


OWNER, ISSUER, OTHER_ISSUER, CALLER = 1, 2, 3, 4


def part(name: str = "graph", seed: int = 7) -> Part:
    """A part whose digests are made up."""
    return Part(
        name=name,
        length=1000,
        artifact_length=1200,
        artifact_sha256=bytes([seed]) * 32,
        header_sha256=bytes([seed + 1]) * 32,
        commitment=bytes([seed + 2]) * 32,
    )


def model(name: str = "tumour", **changes: object) -> Model:
    """A model of one input and one output."""
    values: dict[str, object] = {
        "id": name,
        "version": "1",
        "parts": (part(), part("weights", 20)),
        "inputs": (Tensor(name="x", datatype="FP32", shape=(-1, 30)),),
        "outputs": (Tensor(name="y", datatype="FP32", shape=(-1, 2)),),
        "card": (("licence", "none"),),
    }
    return Model(**(values | changes))  # type: ignore[arg-type]


def a_manifest(**changes: object) -> Manifest:
    """A manifest with every optional field set: two models in a pipeline, issuers, quota and audit."""
    values: dict[str, object] = {
        "deployment": "clinic",
        "sequence": 3,
        "not_after": NOW + 1000,
        "epoch": 1,
        "models": (model(), model("report", inputs=(Tensor(name="a", datatype="FP32", shape=(-1, 2)),), answer_padding=4096)),
        "pipelines": (
            Pipeline(
                id="both",
                version="1",
                steps=(
                    Step(model="tumour", version="1", inputs=(("x", "x"),), outputs=(("y", "between"),)),
                    Step(model="report", version="1", inputs=(("a", "between"),), outputs=(("y", "y"),)),
                ),
                inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 30)),),
                outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 2)),),
            ),
        ),
        "kms": Kms(
            key_arn="arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            host="kms.eu-central-1.amazonaws.com",
            ca_bundle=b"-----BEGIN CERTIFICATE-----\n",
        ),
        "callers": Issuers(keys=(public(ISSUER), public(OTHER_ISSUER))),
        "quota": Quota(requests=100, bytes=1 << 30),
        "audit": Audit(checkpoint_seconds=60),
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def a_config(**changes: object) -> Config:
    """A service config, of the manifest above."""
    values: dict[str, object] = {
        "owner_key": public(OWNER),
        "manifest_digest": bytes(range(48)),
        "sequence": 3,
        "not_after": NOW + 1000,
        "callers": CALLERS_ISSUERS,
        "audit_key": None,
        "session_seconds": Limits().session_seconds,
    }
    return Config(**(values | changes))  # type: ignore[arg-type]


def a_credential(**changes: object) -> Credential:
    """A credential for the deployment above, valid for an hour around NOW."""
    values: dict[str, object] = {
        "issuer": "clinic IT",
        "subject": "ward 3",
        "audience": "clinic",
        "issued": NOW - 1800,
        "not_before": NOW - 1800,
        "expires": NOW + 1800,
        "key": public(CALLER),
        "models": ("tumour",),
        "quota": Quota(requests=10, bytes=1 << 20),
    }
    return Credential(**(values | changes))  # type: ignore[arg-type]


def signed_manifest() -> bytes:
    """The manifest above in its envelope."""
    return manifest.sign(manifest.encode(a_manifest()), key(OWNER))
