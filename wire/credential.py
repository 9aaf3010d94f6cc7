"""Callers' credentials: an untagged COSE_Sign1 over a CWT (RFC 8392), issued offline by one of the manifest's issuers.

The credential binds the caller's own Ed25519 key (`cnf`), with which the caller signs each session's opening. There is no
revocation: the lifetime is it. Times are Unix seconds; both ends of the validity have 60 s of tolerance.
"""

from dataclasses import dataclass
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire import cbor, cose
from wire.errors import Code, WireError
from wire.fields import Fields
from wire.handshake import CREDENTIAL_MAX, to_be_signed
from wire.keys import WeakKeyError, load_public
from wire.manifest_codec import ID, NUMBER_MAX
from wire.manifest_values import Issuers, Quota

SKEW_SECONDS = 60
NAME = r"[^\x00-\x1f\x7f]{1,128}"
MODELS_MAX = 32
_ISS, _SUB, _AUD, _EXP, _NBF, _IAT, _CNF = 1, 2, 3, 4, 5, 6, 8
_COSE_KEY = 1
_KTY, _CRV, _X, _OKP, _ED25519 = 1, -1, -2, 1, 6


class CredentialError(WireError):
    """The credential is refused; `code` is the row of the fixed table."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name.lower().replace("_", "-"))
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The claims: who (`subject`) may call which models of which deployment (`audience`) with which key until when."""

    issuer: str
    subject: str
    audience: str
    issued: int
    not_before: int
    expires: int
    key: bytes
    models: tuple[str, ...]
    quota: Quota


def issuer_kid(issuer_key: bytes) -> bytes:
    """SHA-256 of the raw issuer key."""
    return hashlib.sha256(issuer_key).digest()


def _claims(credential: Credential) -> bytes:
    return cbor.encode(
        {
            _ISS: credential.issuer,
            _SUB: credential.subject,
            _AUD: credential.audience,
            _EXP: credential.expires,
            _NBF: credential.not_before,
            _IAT: credential.issued,
            _CNF: {_COSE_KEY: {_KTY: _OKP, _CRV: _ED25519, _X: credential.key}},
            "models": list(credential.models),
            "quota": {"requests": credential.quota.requests, "bytes": credential.quota.bytes},
        }
    )


class _MalformedClaimsError(WireError):
    pass


def _parse_claims(payload: bytes) -> Credential:
    fields = Fields(cbor.decode(payload), "", _MalformedClaimsError)
    cnf = fields.inner(_CNF)
    key = cnf.inner(_COSE_KEY)
    cnf.done()
    key.integer(_KTY, _OKP, _OKP)
    key.integer(_CRV, _ED25519, _ED25519)
    raw = key.octets(_X, 32, 32)
    key.done()
    load_public(raw)
    models = fields.items("models", 1, MODELS_MAX)
    names = tuple(name for name in models if isinstance(name, str) and re.fullmatch(ID, name))
    if len(names) != len(models):
        raise fields.fail("models", "an array of model ids")
    quota = fields.inner("quota")
    requests, size = quota.integer("requests", 1, NUMBER_MAX), quota.integer("bytes", 1, NUMBER_MAX)
    quota.done()
    credential = Credential(
        issuer=fields.text(_ISS, NAME),
        subject=fields.text(_SUB, NAME),
        audience=fields.text(_AUD, ID),
        expires=fields.integer(_EXP, 1, NUMBER_MAX),
        not_before=fields.integer(_NBF, 1, NUMBER_MAX),
        issued=fields.integer(_IAT, 1, NUMBER_MAX),
        key=raw,
        models=names,
        quota=Quota(requests=requests, bytes=size),
    )
    fields.done()
    return credential


def _parse(envelope: cose.Sign1) -> Credential:
    try:
        return _parse_claims(envelope.payload)
    except WireError:
        raise CredentialError(Code.CREDENTIAL_MALFORMED) from None


def parse(data: bytes) -> Credential:
    """The claims of a credential as its holder reads them, with nothing verified. Raises: CredentialError."""
    try:
        return _parse(cose.parse(data, typ=cose.CREDENTIAL, limit=CREDENTIAL_MAX))
    except cose.MalformedEnvelopeError:
        raise CredentialError(Code.CREDENTIAL_MALFORMED) from None


def issue(credential: Credential, issuer: Ed25519PrivateKey) -> bytes:
    """Sign a credential. Raises ValueError for one that `accept` would refuse whatever the time, or over 1,024 bytes."""
    issuer_key = issuer.public_key().public_bytes_raw()
    if credential.key == issuer_key or not credential.not_before < credential.expires:
        raise ValueError("the caller's key is the issuer's, or the validity is empty")
    data = cose.sign(_claims(credential), kid=issuer_kid(issuer_key), typ=cose.CREDENTIAL, key=issuer)
    try:
        if parse(data) != credential:
            raise ValueError("the credential does not survive its encoding")
    except CredentialError:
        raise ValueError("a claim is out of bounds, or the credential exceeds 1,024 bytes") from None
    return data


def accept(data: bytes, issuers: Issuers, *, deployment: str, owner_key: bytes, now: float) -> tuple[bytes, Credential]:
    """Judge a credential as the enclave does; its issuer's key and its claims. Raises: CredentialError with the first broken rule.

    Not checked: which model is asked for (per request), the session's signature (`accept_signature`).
    """
    if not data:
        raise CredentialError(Code.CREDENTIAL_REQUIRED)
    try:
        envelope = cose.parse(data, typ=cose.CREDENTIAL, limit=CREDENTIAL_MAX)
    except cose.MalformedEnvelopeError:
        raise CredentialError(Code.CREDENTIAL_MALFORMED) from None
    issuer = next((key for key in issuers.keys if issuer_kid(key) == envelope.kid), None)
    if issuer is None:
        raise CredentialError(Code.CREDENTIAL_UNKNOWN_ISSUER)
    try:
        cose.verify(envelope, load_public(issuer))
    except (cose.BadSignatureError, WeakKeyError):
        raise CredentialError(Code.CREDENTIAL_BAD_SIGNATURE) from None
    credential = _parse(envelope)
    if credential.key in (*issuers.keys, owner_key):
        raise CredentialError(Code.CREDENTIAL_MALFORMED)
    if credential.audience != deployment:
        raise CredentialError(Code.CREDENTIAL_WRONG_AUDIENCE)
    if credential.expires - min(credential.issued, credential.not_before) > issuers.max_lifetime:
        raise CredentialError(Code.CREDENTIAL_LIFETIME)
    if now >= credential.expires + SKEW_SECONDS:
        raise CredentialError(Code.CREDENTIAL_EXPIRED)
    if now < max(credential.not_before, credential.issued) - SKEW_SECONDS:
        raise CredentialError(Code.CREDENTIAL_NOT_YET_VALID)
    return issuer, credential


def accept_signature(credential: Credential, signature: bytes, *, th1: bytes, secret: bytes, data: bytes) -> None:
    """The caller's signature over this session, this secret and this credential. Raises: CredentialError."""
    try:
        load_public(credential.key).verify(signature, to_be_signed(th1, secret, data))
    except (InvalidSignature, WeakKeyError):
        raise CredentialError(Code.CALLER_BAD_SIGNATURE) from None
