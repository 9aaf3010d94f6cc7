"""The signature section of an image: who signed its PCR0, and PCR8 of who that is.

CBOR, one array of one map, whose byte strings AWS writes as arrays of integers: {signing_certificate: PEM, signature:
COSE_Sign1 over {register_index: 0, register_value: PCR0}}. The certificate is its own authority: PCR8 pins it.
"""

from dataclasses import dataclass
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import eif_format
from attestation.checks import Check
from attestation.errors import MalformedImageError
from wire import cbor

# COSE algorithm to curve, hash and size of one half of the signature (RFC 9053, 2.1).
_ALGORITHMS: dict[int, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm, int]] = {
    -7: (ec.SECP256R1, hashes.SHA256(), 32),
    -35: (ec.SECP384R1, hashes.SHA384(), 48),
    -36: (ec.SECP521R1, hashes.SHA512(), 66),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Whose certificate signed the image: `subject` in RFC 4514 form, SHA-256 of the DER, and the PCR8 that it gives."""

    subject: str
    certificate_sha256: bytes
    pcr8: bytes


def _fail(where: str) -> MalformedImageError:
    return MalformedImageError(Check.EIF_SIGNATURE_FORM, where)


def _decode(data: bytes, where: str) -> cbor.Value:
    try:
        return cbor.decode_evidence(data)
    except cbor.MalformedCborError as error:
        raise _fail(f"{where}: {error}") from None


def _octets(value: cbor.Value, where: str) -> bytes:
    """A byte string as AWS writes it: an array of integers from 0 to 255."""
    if not isinstance(value, list) or not all(isinstance(item, int) and 0 <= item <= 255 for item in value):
        raise _fail(f"{where} is not an array of integers")
    return bytes(item for item in value if isinstance(item, int))


def _members(value: cbor.Value, names: tuple[str, ...], where: str) -> dict[cbor.Key, cbor.Value]:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise _fail(f"{where} is not a map of {' and '.join(names)}")
    return value


def _certificate(pem: bytes) -> tuple[object, str, bytes]:
    """The public key, the subject in RFC 4514 form, and the DER of the one certificate in `pem`."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        read = [(item.public_key(), item.subject.rfc4514_string(), item.public_bytes(Encoding.DER)) for item in certificates]
    except Exception:  # noqa: BLE001 - only calls of `cryptography` stand above; its documented errors are not all that it raises
        raise _fail("signing_certificate is no certificate in PEM") from None
    if len(read) != 1:
        raise _fail("signing_certificate is not one certificate")
    return read[0]


def _verify(key: object, protected: bytes, payload: bytes, signature: bytes) -> None:
    header = _decode(protected, "protected header")
    algorithm = header.get(1) if isinstance(header, dict) and len(header) == 1 else None
    if not isinstance(algorithm, int) or algorithm not in _ALGORITHMS:
        raise _fail("the algorithm is not one of ECDSA")
    curve, digest, half = _ALGORITHMS[algorithm]
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise _fail("the algorithm is not the certificate key's")
    if len(signature) != 2 * half:
        raise _fail("the signature has another size")
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), cbor.encode(["Signature1", protected, b"", payload]), ec.ECDSA(digest))
    except InvalidSignature:
        raise MalformedImageError(Check.EIF_SIGNATURE) from None


def check(section: bytes, pcr0: bytes) -> Signer:
    """Verify the section's data against the image's own PCR0. Raises: MalformedImageError (914 to 917)."""
    value = _decode(section, "section")
    if not isinstance(value, list) or len(value) != 1:
        raise _fail("not an array of one")
    members = _members(value[0], ("signing_certificate", "signature"), "the signature")
    key, subject, der = _certificate(_octets(members["signing_certificate"], "signing_certificate"))
    outer = _decode(_octets(members["signature"], "signature"), "COSE")
    match outer:
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature] if not unprotected:
            pass
        case _:
            raise _fail("not a COSE_Sign1 with an empty unprotected header")
    register = _members(_decode(payload, "payload"), ("register_index", "register_value"), "the payload")
    if register["register_index"] != 0:
        raise MalformedImageError(Check.EIF_SIGNATURE_REGISTER)
    if _octets(register["register_value"], "register_value") != pcr0:
        raise MalformedImageError(Check.EIF_SIGNATURE_VALUE)
    _verify(key, protected, payload, signature)
    return Signer(
        subject=subject,
        certificate_sha256=hashlib.sha256(der).digest(),
        pcr8=eif_format.pcr(hashlib.sha384(der).digest()),
    )


def build(pcr0: bytes, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    """The section's data. Deterministic (RFC 6979): the same image and key give the same bytes."""
    algorithm = next((number for number, (curve, _, _) in _ALGORITHMS.items() if isinstance(key.curve, curve)), None)
    if algorithm is None or certificate.public_key() != key.public_key():
        raise ValueError("the key is not the certificate's, or its curve is not P-256, P-384 or P-521")
    _, digest, half = _ALGORITHMS[algorithm]
    protected = cbor.encode({1: algorithm})
    payload = cbor.encode({"register_index": 0, "register_value": list(pcr0)})
    to_be_signed = cbor.encode(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(to_be_signed, ec.ECDSA(digest, deterministic_signing=True)))
    envelope = cbor.encode([protected, {}, payload, r.to_bytes(half, "big") + s.to_bytes(half, "big")])
    pem = certificate.public_bytes(Encoding.PEM)
    # A list of one map whose keys stand in AWS's order, which readers of others demand; a sorted map would turn them round.
    parts: tuple[cbor.Value, ...] = ("signing_certificate", list(pem), "signature", list(envelope))
    return b"\x81\xa2" + b"".join(cbor.encode(part) for part in parts)
