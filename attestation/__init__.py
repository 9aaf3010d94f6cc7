"""Verify and appraise AWS Nitro Enclaves evidence: strict, offline, for a relying party.

`evaluate` is all that most callers need. `attestation.verify` says whether a document is AWS's, `attestation.appraise`
whether what it says is acceptable. Time, roots and reference values are arguments; nothing here does I/O.
"""

from datetime import datetime

from attestation import appraise, verify
from attestation.appraise import AttestationResult
from attestation.chain import AWS_ROOTS, Root
from attestation.checks import Check
from attestation.errors import (
    AppraisalError,
    AttestationError,
    MalformedEvidenceError,
    MalformedReferenceValuesError,
    Mismatch,
    UntrustedEvidenceError,
)
from attestation.values import Measurement, ReferenceValues
from attestation.verify import Claims
from wire.evidence import MalformedEvidenceBodyError, parse_evidence_body

__all__ = [
    "AWS_ROOTS",
    "AppraisalError",
    "AttestationError",
    "AttestationResult",
    "Check",
    "Claims",
    "MalformedEvidenceError",
    "MalformedReferenceValuesError",
    "Measurement",
    "Mismatch",
    "ReferenceValues",
    "Root",
    "UntrustedEvidenceError",
    "evaluate",
]


def evaluate(
    evidence_body: bytes,
    *,
    nonce: bytes,
    reference_values: ReferenceValues,
    now: datetime,
    roots: tuple[Root, ...] = AWS_ROOTS,
) -> AttestationResult:
    """Parse, verify and appraise the body of an evidence frame at `now` (an aware datetime).

    `nonce`: the 32 bytes of the challenge. Raises: MalformedEvidenceError, UntrustedEvidenceError, AppraisalError.
    """
    try:
        evidence = parse_evidence_body(evidence_body)
    except MalformedEvidenceBodyError as error:
        raise MalformedEvidenceError(Check.EVIDENCE_BODY, str(error)) from None
    claims = verify.verify(evidence.document, now=now, roots=roots)
    return appraise.appraise(claims, evidence, nonce=nonce, reference_values=reference_values, now=now)
