"""The `Recipient` of a request: the attestation document fully verified, or nothing (kms.md).

A document that does not verify never counts as an absent one: the request is refused, whatever the policy says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.chain import Root
from attestation.checks import Check
from attestation.errors import AttestationError, MalformedEvidenceError
from attestation.verify import Claims, verify
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.shapes import Value

ALGORITHM = "RSAES_OAEP_SHA_256"
RSA_BITS = 2_048
_TIME = frozenset((Check.CLOCK_AHEAD, Check.CLOCK_BEHIND, Check.EXPIRED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """A verified document and the RSA key in it."""

    claims: Claims
    public_key: RSAPublicKey


def _rsa(data: bytes | None) -> RSAPublicKey:
    try:
        key = load_der_public_key(data or b"")
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size != RSA_BITS:
        raise KmsError(ErrorCode.VALIDATION, "the attestation document holds no RSA-2048 public key")
    return key


def open_recipient(value: Value, *, roots: tuple[Root, ...], now: datetime) -> Recipient | None:
    """The verified recipient of a request; None where the request has none.

    Raises: KmsError, ValidationException for a malformed or stale document (five minutes), AccessDeniedException for one
    that the roots do not vouch for.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("KeyEncryptionAlgorithm") != ALGORITHM:
        raise KmsError(ErrorCode.VALIDATION, f"Recipient.KeyEncryptionAlgorithm must be {ALGORITHM}")
    document = value.get("AttestationDocument")
    if not isinstance(document, bytes):
        raise KmsError(ErrorCode.VALIDATION, "Recipient.AttestationDocument must not be null")
    try:
        claims = verify(document, now=now, roots=roots)
    except MalformedEvidenceError as error:
        raise KmsError(ErrorCode.VALIDATION, f"the attestation document is malformed: {error}") from None
    except AttestationError as error:
        stale = _TIME & set(error.checks)
        raise KmsError(
            ErrorCode.VALIDATION if stale else ErrorCode.ACCESS_DENIED, f"the attestation document is refused: {error}"
        ) from None
    return Recipient(claims=claims, public_key=_rsa(claims.public_key))


def condition_keys(recipient: Recipient | None) -> Mapping[str, tuple[str, ...]]:
    """The kms:RecipientAttestation keys: lower-case hex, one per PCR in the document, none without a document."""
    if recipient is None:
        return {}
    keys = {f"kms:recipientattestation:pcr{index}": (value.hex(),) for index, value in recipient.claims.pcrs.items()}
    return {**keys, "kms:recipientattestation:imagesha384": (recipient.claims.pcrs[0].hex(),)}
