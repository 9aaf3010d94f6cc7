"""The bytes that a person has: a document as raw bytes, base64 or hex, and certificates as PEM or DER. No I/O."""

import base64
import binascii
import hashlib
import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chain import Root

# Twice the largest thing that any command reads, as hex with line breaks.
INPUT_MAX = 1 << 20
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")


def decode(data: bytes) -> bytes:
    """Raw bytes from raw, hex or base64 (either alphabet, line breaks allowed); anything else is taken as raw.

    A document begins with 84 or d2 and a body with a length below 1,024, neither of which is a printable text.
    """
    text = b"".join(data.split())
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    if _BASE64.fullmatch(text):
        padded = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(padded + b"=" * (-len(padded) % 4), validate=True)
        except binascii.Error:
            return data
    return data


def root(data: bytes, partition: str) -> Root:
    """The trust anchor that is pinned by this certificate, PEM or DER. Raises ValueError for anything else."""
    try:
        certificates = x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        ders = [certificate.public_bytes(Encoding.DER) for certificate in certificates]
    except Exception:  # noqa: BLE001 - only calls of `cryptography` stand above
        raise ValueError("not a certificate, PEM or DER") from None
    if len(ders) != 1:
        raise ValueError("a root file holds one certificate")
    return Root(partition=partition, sha256=hashlib.sha256(ders[0]).digest())


def printable(text: str) -> str:
    """The text with everything that a terminal would act on escaped."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)
