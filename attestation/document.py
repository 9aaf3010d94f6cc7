"""Parse an attestation document (docs/verification.md, checks 1xx to 3xx): bytes to fields, nothing verified yet.

The document is an untagged COSE_Sign1 whose payload map is definite or, since 2025-08, indefinite. Every byte of the
envelope is fixed or bounded, so that a document has two encodings at most: with and without tag 18.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attestation.checks import Check
from attestation.errors import MalformedEvidenceError
from wire import cbor
from wire.cbor import CborRule, MalformedCborError

# Largest genuine document seen: 7.9 KB (three fields of 1,024 bytes); four times that bounds the work on a bomb.
DOCUMENT_MAX = 32_768
PAYLOAD_MAX = 16_384  # AWS, attestation document specification
FIELD_MAX = 1_024
CERTIFICATE_MAX = 1_024
PCR_BYTES = 48
PCR_COUNT = 32
TIMESTAMP_END = 1 << 53  # exact in every language that reads it as a double
PROTECTED = bytes.fromhex("a1013822")  # {1: -35}, ES384
SIGNATURE_BYTES = 96
TAG_SIGN1 = 0xD2
ARRAY_OF_FOUR = 0x84

_CBOR_CHECKS: dict[CborRule, Check] = {
    CborRule.TRUNCATED: Check.CBOR_TRUNCATED,
    CborRule.TRAILING: Check.CBOR_TRAILING_BYTES,
    CborRule.NOT_SHORTEST: Check.CBOR_NOT_SHORTEST_FORM,
    CborRule.INDEFINITE_STRING: Check.CBOR_INDEFINITE_STRING,
    CborRule.RESERVED: Check.CBOR_RESERVED,
    CborRule.TAG: Check.CBOR_TAG,
    CborRule.SIMPLE: Check.CBOR_FLOAT_OR_SIMPLE,
    CborRule.KEY_TYPE: Check.CBOR_KEY_TYPE,
    CborRule.DUPLICATE_KEY: Check.CBOR_DUPLICATE_KEY,
    CborRule.DEPTH: Check.CBOR_DEPTH,
    CborRule.COUNT: Check.CBOR_COUNT,
    CborRule.TEXT: Check.CBOR_TEXT,
    CborRule.BREAK: Check.CBOR_BREAK,
}
KNOWN = frozenset(
    ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce", "nitrotpm_pcrs")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDocument:
    """What a document says, unverified. `timestamp` is in milliseconds since 1970; certificates are DER, root first.

    `payload` and `signature` are the received bytes that `verify` checks; `unknown_keys` are keys that AWS may have added.
    """

    module_id: str
    digest: str
    timestamp: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    unknown_keys: tuple[str, ...]
    payload: bytes
    signature: bytes

    @property
    def chain(self) -> tuple[bytes, ...]:
        """Root first, leaf last."""
        return (*self.cabundle, self.certificate)


def _decode(data: bytes, part: str) -> cbor.Value:
    try:
        return cbor.decode_evidence(data)
    except MalformedCborError as error:
        raise MalformedEvidenceError(_CBOR_CHECKS[error.rule], f"{part}, byte {error.offset}") from None


def _octets(value: cbor.Value, least: int, most: int, check: Check, where: str = "") -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise MalformedEvidenceError(check, where)
    return value


def _optional(fields: dict[cbor.Key, cbor.Value], name: str, check: Check) -> bytes | None:
    value = fields.get(name)
    return None if value is None else _octets(value, 0, FIELD_MAX, check)


def _envelope(data: bytes) -> tuple[bytes, bytes]:
    """Payload and signature of the COSE_Sign1."""
    if not 1 <= len(data) <= DOCUMENT_MAX:
        raise MalformedEvidenceError(Check.DOCUMENT_SIZE, f"{len(data)} bytes")
    body = data[1:] if data[0] == TAG_SIGN1 else data
    outer = _decode(body, "envelope")
    if not isinstance(outer, list) or len(outer) != 4 or body[0] != ARRAY_OF_FOUR:
        raise MalformedEvidenceError(Check.COSE_ARRAY)
    protected, unprotected, payload, signature = outer
    if protected != PROTECTED:
        raise MalformedEvidenceError(Check.COSE_PROTECTED)
    if unprotected != {}:
        raise MalformedEvidenceError(Check.COSE_UNPROTECTED)
    return (
        _octets(payload, 1, PAYLOAD_MAX, Check.COSE_PAYLOAD),
        _octets(signature, SIGNATURE_BYTES, SIGNATURE_BYTES, Check.COSE_SIGNATURE_SIZE),
    )


def _pcrs(value: cbor.Value) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT:
        raise MalformedEvidenceError(Check.PCRS)
    pcrs: dict[int, bytes] = {}
    for index, item in value.items():
        if not isinstance(index, int) or not 0 <= index < PCR_COUNT:
            raise MalformedEvidenceError(Check.PCR_INDEX)
        pcrs[index] = _octets(item, PCR_BYTES, PCR_BYTES, Check.PCR_LENGTH, f"PCR{index}")
    for index in (0, 1, 2):
        if index not in pcrs:
            raise MalformedEvidenceError(Check.PCR_REQUIRED, f"PCR{index}")
    return MappingProxyType(dict(sorted(pcrs.items())))


def _cabundle(value: cbor.Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not value:
        raise MalformedEvidenceError(Check.CABUNDLE)
    return tuple(_octets(item, 1, CERTIFICATE_MAX, Check.CABUNDLE_ENTRY, f"entry {place}") for place, item in enumerate(value))


def _fields(payload: bytes) -> dict[cbor.Key, cbor.Value]:
    fields = _decode(payload, "payload")
    if not isinstance(fields, dict):
        raise MalformedEvidenceError(Check.PAYLOAD_MAP)
    module_id = fields.get("module_id")
    # A NitroTPM document has the same PKI and layout; its PCRs are another thing (`i-...-tpm...` in module_id).
    if "nitrotpm_pcrs" in fields or (isinstance(module_id, str) and "-tpm" in module_id):
        raise MalformedEvidenceError(Check.NITROTPM)
    return fields


def parse(data: bytes) -> AttestationDocument:
    """Parse one document. Raises: MalformedEvidenceError. Not checked: certificates, signature, time, meaning."""
    payload, signature = _envelope(data)
    fields = _fields(payload)
    module_id, digest, timestamp = fields.get("module_id"), fields.get("digest"), fields.get("timestamp")
    if not isinstance(module_id, str) or not module_id:
        raise MalformedEvidenceError(Check.MODULE_ID)
    if digest != "SHA384":
        raise MalformedEvidenceError(Check.DIGEST)
    if not isinstance(timestamp, int) or not 0 < timestamp < TIMESTAMP_END:
        raise MalformedEvidenceError(Check.TIMESTAMP)
    return AttestationDocument(
        module_id=module_id,
        digest="SHA384",
        timestamp=timestamp,
        pcrs=_pcrs(fields.get("pcrs")),
        certificate=_octets(fields.get("certificate"), 1, CERTIFICATE_MAX, Check.CERTIFICATE),
        cabundle=_cabundle(fields.get("cabundle")),
        public_key=_optional(fields, "public_key", Check.PUBLIC_KEY),
        user_data=_optional(fields, "user_data", Check.USER_DATA),
        nonce=_optional(fields, "nonce", Check.NONCE_FIELD),
        unknown_keys=tuple(sorted(str(key) for key in fields if key not in KNOWN)),
        payload=payload,
        signature=signature,
    )


def signed_bytes(document: AttestationDocument) -> bytes:
    """The Sig_structure that the leaf key signed (RFC 9052, 4.4), over the payload as received."""
    return cbor.encode(["Signature1", PROTECTED, b"", document.payload])
