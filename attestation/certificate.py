"""One certificate of the Nitro PKI under the profile (docs/verification.md, checks 402 to 410): pure rules, no signature.

`cryptography` parses; every rule is ours, because no stock policy accepts AWS's certificates: no AKI, SKI, EKU or SAN in
the leaf, a keyUsage that is not critical.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.x509.oid import ExtensionOID

from attestation.checks import Check
from attestation.errors import MalformedEvidenceError, UntrustedEvidenceError

E = TypeVar("E", bound=x509.ExtensionType)

# AlgorithmIdentifier {ecdsa-with-SHA384}, no parameters (RFC 5758, 3.2).
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_CRITICAL = frozenset((ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A parsed certificate whose key and algorithm are of the profile; `issuer` and `subject` are DER."""

    der: bytes
    issuer: bytes
    subject: bytes
    begins: datetime
    ends: datetime
    key: EllipticCurvePublicKey
    basic_constraints: x509.Extension[x509.BasicConstraints] | None
    key_usage: x509.KeyUsage | None


def _skip(der: bytes, at: int) -> int:
    """The offset after the DER element at `at`; `der` was parsed before, so that its lengths are sound."""
    first = der[at + 1]
    if first < 0x80:
        return at + 2 + first
    size = first & 0x7F
    return at + 2 + size + int.from_bytes(der[at + 2 : at + 2 + size], "big")


def _inner_algorithm(tbs: bytes) -> bytes:
    """The AlgorithmIdentifier inside TBSCertificate: after version and serial number (RFC 5280, 4.1)."""
    first = tbs[1]
    start = 2 if first < 0x80 else 2 + (first & 0x7F)
    start = _skip(tbs, start)  # [0] version
    start = _skip(tbs, start)  # serialNumber
    return tbs[start : _skip(tbs, start)]


def _outer_algorithm(der: bytes, tbs: bytes) -> bytes:
    start = der.index(tbs) + len(tbs)
    return der[start : _skip(der, start)]


def _extension(extensions: x509.Extensions, kind: type[E]) -> x509.Extension[E] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def parse(der: bytes, where: str) -> Certificate:
    """Parse one certificate and apply what every certificate must meet (402 to 405).

    Raises: MalformedEvidenceError (402), UntrustedEvidenceError.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        version, serial = certificate.version, certificate.serial_number
        names = certificate.issuer.public_bytes(), certificate.subject.public_bytes()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception:  # noqa: BLE001 - only calls of `cryptography` stand above; fuzzing found TypeError beside its documented errors
        raise MalformedEvidenceError(Check.CERTIFICATE_ENCODING, where) from None
    if version is not x509.Version.v3 or serial <= 0:  # RFC 5280, 4.1.2.2
        raise MalformedEvidenceError(Check.CERTIFICATE_ENCODING, where)
    try:
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - likewise
        raise UntrustedEvidenceError(Check.CERTIFICATE_KEY, where) from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise UntrustedEvidenceError(Check.CERTIFICATE_KEY, where)
    tbs = certificate.tbs_certificate_bytes
    if _inner_algorithm(tbs) != _ECDSA_SHA384 or _outer_algorithm(der, tbs) != _ECDSA_SHA384:
        raise UntrustedEvidenceError(Check.CERTIFICATE_ALGORITHM, where)
    if any(extension.critical and extension.oid not in _CRITICAL for extension in extensions):
        raise UntrustedEvidenceError(Check.CRITICAL_EXTENSION, where)
    usage = _extension(extensions, x509.KeyUsage)
    return Certificate(
        der=der,
        issuer=names[0],
        subject=names[1],
        begins=begins,
        ends=ends,
        key=key,
        basic_constraints=_extension(extensions, x509.BasicConstraints),
        key_usage=None if usage is None else usage.value,
    )


def check_ca(certificate: Certificate, below: int, where: str) -> None:
    """Apply the rules for a CA with `below` further CAs under it (406 to 408). Raises: UntrustedEvidenceError."""
    constraints = certificate.basic_constraints
    if constraints is None or not constraints.critical or not constraints.value.ca:
        raise UntrustedEvidenceError(Check.CA_BASIC_CONSTRAINTS, where)
    allowed = constraints.value.path_length
    if allowed is not None and below > allowed:
        raise UntrustedEvidenceError(Check.CA_PATH_LENGTH, where)
    if certificate.key_usage is None or not certificate.key_usage.key_cert_sign:
        raise UntrustedEvidenceError(Check.CA_KEY_USAGE, where)


def check_leaf(certificate: Certificate, where: str) -> None:
    """Apply the rules for the leaf (409, 410). Raises: UntrustedEvidenceError."""
    constraints = certificate.basic_constraints
    # A pathLen without CA is no basicConstraints (RFC 5280, 4.2.1.9): refused when parsed, 402.
    if constraints is not None and constraints.value.ca:
        raise UntrustedEvidenceError(Check.LEAF_BASIC_CONSTRAINTS, where)
    usage = certificate.key_usage
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise UntrustedEvidenceError(Check.LEAF_KEY_USAGE, where)
