"""Attestation documents under a root of the tests' own, each deviation from the profile one argument away."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
import hashlib

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.chain import Root

NOW = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)
DOCUMENT_TIME = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
PROTECTED = bytes.fromhex("a1013822")
INSTANCE = "i-0123456789abcdef0"
MODULE_ID = f"{INSTANCE}-enc0123456789abcde"
NONCE = bytes(range(32))
CURVES = {"p384": ec.SECP384R1, "p256": ec.SECP256R1}
REMOVED = object()


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One certificate. `usage`: (digitalSignature, keyCertSign) or None; `basic`: (CA, pathLen, critical) or None."""

    name: str
    begins: datetime
    ends: datetime
    basic: tuple[bool, int | None, bool] | None
    usage: tuple[bool, bool] | None
    key: str = "p384"
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    issuer: str | None = None
    signer: str | None = None


def _spec(name: str, before: timedelta, after: timedelta, path_length: int | None) -> Spec:
    return Spec(name=name, begins=DOCUMENT_TIME - before, ends=DOCUMENT_TIME + after, basic=(True, path_length, True), usage=(True, True))


SPECS: tuple[Spec, ...] = (
    _spec("root", timedelta(days=2000), timedelta(days=9000), None),
    _spec("regional", timedelta(days=5), timedelta(days=15), 2),
    _spec("zonal", timedelta(days=2), timedelta(days=4), 1),
    _spec("instance", timedelta(hours=6), timedelta(hours=18), 0),
    Spec(
        name="leaf",
        begins=DOCUMENT_TIME - timedelta(hours=1),
        ends=DOCUMENT_TIME + timedelta(hours=2),
        basic=(False, None, True),
        usage=(True, False),
    ),
)


def key(name: str, kind: str = "p384") -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """One key per name and kind for the whole run."""
    return _key(name, kind)


@cache
def _key(_: str, kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(CURVES[kind]())


def _dn(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(spec: Spec, issuer: Spec) -> bytes:
    """The DER of one certificate."""
    public = key(spec.name, spec.key).public_key()
    builder = x509.CertificateBuilder(
        _dn(spec.issuer or issuer.name), _dn(spec.name), public, int(hashlib.sha256(spec.name.encode()).hexdigest()[:16], 16)
    )
    builder = builder.not_valid_before(spec.begins).not_valid_after(spec.ends)
    if spec.basic is not None:
        ca, length, critical = spec.basic
        if ca or length is None:
            builder = builder.add_extension(x509.BasicConstraints(ca, length), critical)
        else:  # the library refuses to build what RFC 5280 forbids
            raw = x509.UnrecognizedExtension(x509.BasicConstraints.oid, bytes([0x30, 3, 2, 1, length]))
            builder = builder.add_extension(raw, critical)
    if spec.usage is not None:
        signs, certifies = spec.usage
        usage = x509.KeyUsage(signs, False, False, False, False, certifies, False, False, False)
        builder = builder.add_extension(usage, certifies)
    for extension, critical in spec.extensions:
        builder = builder.add_extension(extension, critical)
    signer = key(spec.signer or issuer.name, "p384" if spec.signer else issuer.key)
    return builder.sign(signer, spec.digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def chain(specs: tuple[Spec, ...] = SPECS) -> tuple[bytes, ...]:
    """DER, root first; each signed by its predecessor, the first by itself."""
    return tuple(certificate(spec, specs[max(place - 1, 0)]) for place, spec in enumerate(specs))


def changed(name: str, **changes: object) -> tuple[Spec, ...]:
    """The specs with one certificate changed."""
    return tuple(replace(spec, **changes) if spec.name == name else spec for spec in SPECS)  # type: ignore[arg-type]


def raw_signature(signer: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """r || s."""
    r, s = decode_dss_signature(signer.sign(message, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


@cache
def root_der() -> bytes:
    """The tests' root, one for the whole run."""
    return certificate(SPECS[0], SPECS[0])


def root_pem() -> bytes:
    """The same as a person might have it."""
    return x509.load_der_x509_certificate(root_der()).public_bytes(Encoding.PEM)


def roots() -> tuple[Root, ...]:
    """The tests' root as trust anchor."""
    return (Root(partition="aws", sha256=hashlib.sha256(root_der()).digest()),)


def pcrs() -> dict[int, bytes]:
    """PCR0 to PCR15 as in a production enclave: PCR4 that of the instance."""
    values = {index: bytes(48) for index in range(16)}
    values |= {index: hashlib.sha384(b"measured %d" % index).digest() for index in (0, 1, 2, 3)}
    values[4] = hashlib.sha384(bytes(48) + INSTANCE.encode()).digest()
    return values


def fields(ders: tuple[bytes, ...] | None = None, **changes: object) -> dict[object, object]:
    """The payload's members in AWS's order; a change to REMOVED leaves one out."""
    ders = ders or default_chain()
    members: dict[object, object] = {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": int(DOCUMENT_TIME.timestamp() * 1000),
        "pcrs": pcrs(),
        "certificate": ders[-1],
        "cabundle": list(ders[:-1]),
        "public_key": None,
        "user_data": None,
        "nonce": NONCE,
    }
    members.update(changes)
    return {name: value for name, value in members.items() if value is not REMOVED}


@cache
def default_chain() -> tuple[bytes, ...]:
    """The chain of the profile."""
    return under_root(SPECS)


def under_root(specs: tuple[Spec, ...]) -> tuple[bytes, ...]:
    """A chain of these certificates under the run's one root."""
    return (root_der(), *chain(specs)[1:])


def indefinite(members: dict[object, object]) -> bytes:
    """The payload as AWS has encoded it since 2025-08."""
    return b"\xbf" + b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in members.items()) + b"\xff"


def envelope(
    payload: bytes,
    *,
    protected: object = PROTECTED,
    unprotected: object = None,
    signature: bytes | None = None,
    context: str = "Signature1",
) -> bytes:
    """The COSE_Sign1, signed by the leaf's key unless `signature` is given."""
    if signature is None:
        signer = key("leaf")
        signature = raw_signature(signer, cbor2.dumps([context, PROTECTED, b"", payload]))  # type: ignore[arg-type]
    return cbor2.dumps([protected, {} if unprotected is None else unprotected, payload, signature])


def document(ders: tuple[bytes, ...] | None = None, **changes: object) -> bytes:
    """A whole document: what `attestation.verify.verify` accepts at NOW, but for the changes."""
    return envelope(indefinite(fields(ders, **changes)))


_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
# One deviation from the profile each, of any certificate below the root; the first two are none.
DEVIATIONS: dict[str, dict[str, object]] = {
    "as-it-should-be": {},
    "unknown-extension": {"extensions": ((_UNKNOWN, False),)},
    "unknown-critical-extension": {"extensions": ((_UNKNOWN, True),)},
    "no-basic-constraints": {"basic": None},
    "other-basic-constraints": {"basic": (False, None, True)},
    "no-key-usage": {"usage": None},
    "both-key-usages": {"usage": (True, True)},
    "no-key-usage-bit": {"usage": (False, False)},
    "sha256": {"digest": hashes.SHA256()},
    "sha512": {"digest": hashes.SHA512()},
    "other-issuer-name": {"issuer": "someone else"},
    "other-signer": {"signer": "someone else"},
    "begins-late": {"begins": DOCUMENT_TIME + timedelta(seconds=1)},
    "ended-before": {"ends": DOCUMENT_TIME - timedelta(seconds=1)},
    "ends-then": {"ends": DOCUMENT_TIME},
}
