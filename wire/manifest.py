"""The manifest: everything that an owner decides about a deployment, signed by the owner key, measured as PCR17.

Deterministic CBOR with text keys inside COSE_Sign1 whose kid is the owner key itself. The signature is verified over
the raw payload *before* it is parsed. Its values stand in `wire.manifest_values`.
"""

from dataclasses import dataclass
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire import cbor, cose
from wire.feed import MANIFEST_MAX
from wire.keys import load_public
from wire.manifest_codec import MalformedManifestError, parse
from wire.manifest_render import render
from wire.manifest_values import (
    Anyone,
    Audit,
    Intake,
    Issuers,
    Kms,
    Limits,
    Manifest,
    Model,
    Part,
    Pipeline,
    Quota,
    Runtime,
    Step,
    Tensor,
)

__all__ = [
    "Anyone",
    "Audit",
    "Intake",
    "Issuers",
    "Kms",
    "Limits",
    "MalformedManifestError",
    "Manifest",
    "Model",
    "Part",
    "Pipeline",
    "Quota",
    "Runtime",
    "SignedManifest",
    "Step",
    "Tensor",
    "encode",
    "encryption_context",
    "extended",
    "open_envelope",
    "owner_hash",
    "owner_measurement",
    "parse",
    "sign",
]

NOT_AFTER_MAX_SECONDS = 90 * 86_400
OWNER_LABEL = b"cloister/1 owner\0"
PCR_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedManifest:
    """A manifest whose signature verified under the key that its envelope names; who that key is, the appraiser knows."""

    owner_key: bytes
    payload: bytes
    manifest: Manifest

    @property
    def digest(self) -> bytes:
        """SHA-384 of the payload: what PCR17 is extended with."""
        return hashlib.sha384(self.payload).digest()


def owner_hash(owner_key: bytes) -> str:
    """Lower-case hex SHA-384 of the raw owner key: the encryption context's `cloister-owner`."""
    return hashlib.sha384(owner_key).hexdigest()


def encryption_context(owner_key: bytes, model: str, epoch: int) -> dict[str, str]:
    """The exact KMS encryption context of a model's parts (kms.md)."""
    return {"cloister-format": "1", "cloister-owner": owner_hash(owner_key), "cloister-model": model, "cloister-epoch": str(epoch)}


def owner_measurement(owner_key: bytes) -> bytes:
    """The 48 bytes that PCR16 is extended with."""
    return hashlib.sha384(OWNER_LABEL + owner_key).digest()


def extended(measurement: bytes) -> bytes:
    """The value of a PCR that was zero and was extended once with `measurement`."""
    return hashlib.sha384(bytes(PCR_BYTES) + measurement).digest()


def encode(manifest: Manifest) -> bytes:
    """The payload to sign. Raises ValueError for a manifest that `parse` would refuse, naming the field."""
    value = render(manifest)
    try:
        parse(value)
    except MalformedManifestError as error:
        raise ValueError(str(error)) from None
    return cbor.encode(value)


def sign(payload: bytes, owner: Ed25519PrivateKey) -> bytes:
    """The envelope as the parent stores and the enclave opens it."""
    return cose.sign(payload, kid=owner.public_key().public_bytes_raw(), typ=cose.MANIFEST, key=owner)


def open_envelope(data: bytes) -> SignedManifest:
    """Verify the owner's signature with the key in the envelope, then parse the payload.

    Raises: MalformedEnvelopeError, WeakKeyError, BadSignatureError; MalformedManifestError once the signature verified.
    Not checked: whose key it is, time, sequence.
    """
    envelope = cose.parse(data, typ=cose.MANIFEST, limit=MANIFEST_MAX)
    cose.verify(envelope, load_public(envelope.kid))
    try:
        value = cbor.decode(envelope.payload)
    except cbor.MalformedCborError as error:
        raise MalformedManifestError(str(error)) from None
    manifest = parse(value)
    if isinstance(manifest.callers, Issuers) and envelope.kid in manifest.callers.keys:
        raise MalformedManifestError("callers.issuers holds the owner key, which signs nothing but manifests and lists")
    return SignedManifest(owner_key=envelope.kid, payload=envelope.payload, manifest=manifest)
