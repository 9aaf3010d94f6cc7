"""Is the document AWS's? Two entry points: `verify` for now, `verify_archive` for the document's own moment.

Both parse, follow the chain to a pinned root, check the validity periods at the document's timestamp, and verify the
document's signature; `verify` adds the verifier's clock (docs/verification.md, checks 5xx). What is authentic need not
be what you want: that is `attestation.appraise`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation import chain as chains
from attestation import document as documents
from attestation.chain import AWS_ROOTS, Chain, PathCache, Root
from attestation.checks import Check
from attestation.document import AttestationDocument
from attestation.errors import UntrustedEvidenceError

# How far the verifier's clock and the document may lie apart, either way. Leaves are not backdated: a slow clock sees
# documents, and so certificates, from the future. There is no tolerance on the end of a certificate.
TOLERANCE = timedelta(seconds=300)

_CACHE = PathCache()


class Moment(StrEnum):
    """When the chain was found valid: at the verifier's clock and the document's timestamp, or at the latter alone."""

    NOW = "now"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What an authentic document says. `timestamp` is the NSM's clock; `pcrs` holds the locked PCRs alone.

    `moment` is DOCUMENT where the chain was judged at the document's own time: such claims are never appraised.
    `certificates` are DER, root first; `digest` is the SHA-256 of the document as received, no identity: its signature has a twin.
    """

    partition: str
    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    unknown_keys: tuple[str, ...]
    certificates: tuple[bytes, ...]
    expires: datetime
    digest: bytes
    moment: Moment


def _check_signature(document: AttestationDocument, chain: Chain) -> None:
    half = documents.SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part, "big") for part in (document.signature[:half], document.signature[half:]))
    try:
        chain.leaf.key.verify(encode_dss_signature(r, s), documents.signed_bytes(document), ECDSA(SHA384()))
    except InvalidSignature:
        raise UntrustedEvidenceError(Check.COSE_SIGNATURE) from None


def _check_document_time(chain: Chain, at: datetime) -> None:
    count = len(chain.certificates)
    for index, certificate in enumerate(chain.certificates):
        if at < certificate.begins:
            raise UntrustedEvidenceError(Check.BEGINS_AFTER_DOCUMENT, chains.place(index, count))
        if at > certificate.ends:
            raise UntrustedEvidenceError(Check.ENDED_BEFORE_DOCUMENT, chains.place(index, count))


def _check_clock(chain: Chain, at: datetime, now: datetime) -> None:
    # That no certificate begins more than 300 s after now follows from 501 and 503.
    if at - now > TOLERANCE:
        raise UntrustedEvidenceError(Check.CLOCK_BEHIND, f"by {(at - now).total_seconds():.0f} s")
    count = len(chain.certificates)
    for index, certificate in enumerate(chain.certificates):
        if now > certificate.ends:
            raise UntrustedEvidenceError(Check.EXPIRED, chains.place(index, count))
    if now - at > TOLERANCE:
        raise UntrustedEvidenceError(Check.CLOCK_AHEAD, f"by {(now - at).total_seconds():.0f} s")


def _authentic(data: bytes, roots: tuple[Root, ...], now: datetime | None) -> Claims:
    document = documents.parse(data)
    chain = chains.parse(document.chain, roots)
    # Milliseconds below 2^53 exceed datetime's years; the chain could not be valid then.
    try:
        at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=document.timestamp)
    except OverflowError:
        raise UntrustedEvidenceError(Check.ENDED_BEFORE_DOCUMENT) from None
    _check_document_time(chain, at)
    if now is not None:
        _check_clock(chain, at, now)
    chains.check_path(chain, at, _CACHE)
    _check_signature(document, chain)
    return Claims(
        partition=chain.root.partition,
        module_id=document.module_id,
        timestamp=at,
        pcrs=document.pcrs,
        public_key=document.public_key,
        user_data=document.user_data,
        nonce=document.nonce,
        unknown_keys=document.unknown_keys,
        certificates=document.chain,
        expires=min(certificate.ends for certificate in chain.certificates),
        digest=hashlib.sha256(data).digest(),
        moment=Moment.DOCUMENT if now is None else Moment.NOW,
    )


def verify(data: bytes, *, now: datetime, roots: tuple[Root, ...] = AWS_ROOTS) -> Claims:
    """The claims of a document that a root vouches for at `now` (an aware datetime).

    Raises: MalformedEvidenceError, UntrustedEvidenceError. Not checked: who made the document for whom, and when it was
    asked for; freshness comes from the nonce, which `appraise` demands.
    """
    if now.tzinfo is None:
        raise ValueError("now must be an aware datetime")
    return _authentic(data, roots, now)


def verify_archive(data: bytes, *, roots: tuple[Root, ...] = AWS_ROOTS) -> Claims:
    """The claims of a document that a root vouched for at the document's own timestamp, for forensics.

    Raises: MalformedEvidenceError, UntrustedEvidenceError. Not checked: any clock, hence nothing about now.
    """
    return _authentic(data, roots, None)
