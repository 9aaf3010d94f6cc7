"""Evidence: the service config, the session's public key and the attestation document that binds both (protocol.md).

`user_data` in the document is `H("cloister/1 evidence\\0" || H(config) || pk)`; everything here is untrusted until
`attestation` has verified and appraised it.
"""

from dataclasses import dataclass
import hashlib

from wire import cbor
from wire.errors import WireError
from wire.fields import Fields
from wire.frame import EVIDENCE_BODY_MAX
from wire.keys import WeakKeyError, load_public
from wire.manifest_codec import NUMBER_MAX

VERSION = 1
CONFIG_MAX = 1024
PK_BYTES = 1184 + 32
NONCE_BYTES = 32
EVIDENCE_LABEL = b"cloister/1 evidence\0"
KMS_USER_DATA = hashlib.sha384(b"cloister/1 kms\0").digest()
CALLERS_ANYONE, CALLERS_ISSUERS = 0, 1


class MalformedEvidenceBodyError(WireError):
    """The evidence body or its config does not parse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The service config, the same for every caller: integer keys 1..8 in this order on the wire.

    `callers`: CALLERS_ANYONE or CALLERS_ISSUERS; `audit_key`: None until there is an audit log; seconds for durations.
    """

    owner_key: bytes
    manifest_digest: bytes
    sequence: int
    not_after: int
    callers: int
    audit_key: bytes | None
    session_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A parsed evidence body; `config_raw` and `pk` are the bytes that the document binds."""

    config_raw: bytes
    config: Config
    pk: bytes
    document: bytes


def encode_config(config: Config) -> bytes:
    """Deterministic CBOR, at most 1,024 bytes."""
    return cbor.encode(
        {
            1: VERSION,
            2: config.owner_key,
            3: config.manifest_digest,
            4: config.sequence,
            5: config.not_after,
            6: config.callers,
            7: config.audit_key,
            8: config.session_seconds,
        }
    )


def parse_config(raw: bytes) -> Config:
    """Raises: MalformedEvidenceBodyError, for an owner or audit key of small order too."""
    if len(raw) > CONFIG_MAX:
        raise MalformedEvidenceBodyError("the config exceeds 1,024 bytes")
    try:
        fields = Fields(cbor.decode(raw), "config", MalformedEvidenceBodyError)
    except cbor.MalformedCborError as error:
        raise MalformedEvidenceBodyError(f"the config is not deterministic CBOR: {error}") from None
    fields.integer(1, VERSION, VERSION)
    owner_key, digest = fields.octets(2, 32, 32), fields.octets(3, 48, 48)
    sequence, not_after = fields.integer(4, 1, NUMBER_MAX), fields.integer(5, 1, NUMBER_MAX)
    callers = fields.integer(6, CALLERS_ANYONE, CALLERS_ISSUERS)
    audit_key = fields.take(7)
    session_seconds = fields.integer(8, 1, 86_400)
    fields.done()
    if audit_key is not None and not isinstance(audit_key, bytes):
        raise MalformedEvidenceBodyError("config.7 is neither null nor a key")
    try:
        for key in (owner_key, audit_key):
            if key is not None:
                load_public(key)
    except WeakKeyError as error:
        raise MalformedEvidenceBodyError(f"the config holds a bad key: {error}") from None
    return Config(
        owner_key=owner_key,
        manifest_digest=digest,
        sequence=sequence,
        not_after=not_after,
        callers=callers,
        audit_key=audit_key,
        session_seconds=session_seconds,
    )


def encode_evidence_body(config_raw: bytes, pk: bytes, document: bytes) -> bytes:
    """`u16be n || config[n] || pk[1216] || document`. Raises ValueError where a part exceeds its bound."""
    body = len(config_raw).to_bytes(2, "big") + config_raw + pk + document
    if len(config_raw) > CONFIG_MAX or len(pk) != PK_BYTES or not document or len(body) > EVIDENCE_BODY_MAX:
        raise ValueError("config, key or document out of bounds")
    return body


def parse_evidence_body(body: bytes) -> Evidence:
    """Split and parse a body. Raises: MalformedEvidenceBodyError. The document is not looked into."""
    if len(body) > EVIDENCE_BODY_MAX:
        raise MalformedEvidenceBodyError("an evidence body exceeds its frame")
    length = int.from_bytes(body[:2], "big")
    config_raw, rest = body[2 : 2 + length], body[2 + length :]
    if len(rest) <= PK_BYTES:
        raise MalformedEvidenceBodyError("the evidence body is cut short")
    return Evidence(config_raw=config_raw, config=parse_config(config_raw), pk=rest[:PK_BYTES], document=rest[PK_BYTES:])


def user_data(config_raw: bytes, pk: bytes) -> bytes:
    """What the document's user_data must equal: 48 bytes."""
    return hashlib.sha384(EVIDENCE_LABEL + hashlib.sha384(config_raw).digest() + pk).digest()
