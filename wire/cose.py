"""COSE_Sign1 (RFC 9052) with Ed25519: the envelope of manifests, credentials, withdrawal lists and reference values.

Untagged, deterministically encoded, empty unprotected header, exactly the protected labels {1: -8, 4: kid, 16: typ}.
What is signed is told apart by `typ`, so that no structure passes for another.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wire import cbor
from wire.errors import WireError

ALG, KID, TYP = 1, 4, 16
EDDSA = -8

MANIFEST = "cloister-manifest+cbor"
CREDENTIAL = "cloister-credential+cwt"
WITHDRAWN = "cloister-withdrawn+cbor"
REFERENCE_VALUES = "cloister-reference-values+json"


class MalformedEnvelopeError(WireError):
    """The bytes are no COSE_Sign1 of this profile."""


class BadSignatureError(WireError):
    """The signature does not verify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A parsed envelope; nothing in it is authentic before `verify`."""

    protected: bytes
    kid: bytes
    typ: str
    payload: bytes
    signature: bytes


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])  # RFC 9052, 4.4


def sign(payload: bytes, *, kid: bytes, typ: str, key: Ed25519PrivateKey) -> bytes:
    """The whole envelope."""
    protected = cbor.encode({ALG: EDDSA, KID: kid, TYP: typ})
    return cbor.encode([protected, {}, payload, key.sign(_to_be_signed(protected, payload))])


def parse(data: bytes, *, typ: str, limit: int) -> Sign1:
    """Parse an envelope of this `typ` and at most `limit` bytes. Raises: MalformedEnvelopeError. Does not verify."""
    if len(data) > limit:
        raise MalformedEnvelopeError(f"longer than {limit} bytes")
    try:
        outer = cbor.decode(data)
        protected_raw = outer[0] if isinstance(outer, list) and len(outer) == 4 else None
        if not isinstance(outer, list) or not isinstance(protected_raw, bytes):
            raise MalformedEnvelopeError("not an array of four, the first a byte string")
        protected = cbor.decode(protected_raw)
    except cbor.MalformedCborError as error:
        raise MalformedEnvelopeError(str(error)) from None
    _, unprotected, payload, signature = outer
    if unprotected != {} or not isinstance(payload, bytes) or not isinstance(signature, bytes) or len(signature) != 64:
        raise MalformedEnvelopeError("not an empty unprotected header, a payload and a 64-byte signature")
    if not isinstance(protected, dict) or protected.keys() != {ALG, KID, TYP} or protected[ALG] != EDDSA or protected[TYP] != typ:
        raise MalformedEnvelopeError(f"the protected header is not EdDSA, kid and typ {typ}")
    kid = protected[KID]
    if not isinstance(kid, bytes) or len(kid) != 32:
        raise MalformedEnvelopeError("kid is not 32 bytes")
    return Sign1(protected=protected_raw, kid=kid, typ=typ, payload=payload, signature=signature)


def verify(envelope: Sign1, key: Ed25519PublicKey) -> None:
    """Raises: BadSignatureError."""
    try:
        key.verify(envelope.signature, _to_be_signed(envelope.protected, envelope.payload))
    except InvalidSignature:
        raise BadSignatureError("the signature does not verify") from None
