"""What a verification can say no with: one class per stage, the check that refused as data.

Messages name the check and where it broke; they never carry bytes of the document.
"""

from dataclasses import dataclass

from attestation.checks import TEXT, Check


class AttestationError(Exception):
    """Anything that this package refuses; `checks` are the refusing checks, in the order of their numbers."""

    checks: tuple[Check, ...] = ()


class _SingleError(AttestationError):
    def __init__(self, check: Check, where: str = "") -> None:
        super().__init__(f"check {check.value} ({check.reason}) does not hold: {TEXT[check]}" + (f" [{where}]" if where else ""))
        self.check = check
        self.checks = (check,)
        self.where = where


class MalformedEvidenceError(_SingleError):
    """The bytes are no evidence of the profile: checks 1xx, 2xx without 206, 3xx, 402 and 7xx."""


class UntrustedEvidenceError(_SingleError):
    """The pinned root does not vouch for the document: check 206, 4xx without 402, and 5xx."""


class MalformedReferenceValuesError(_SingleError):
    """Reference values or a list of withdrawals that cannot be used: checks 8xx."""


class MalformedImageError(_SingleError):
    """The bytes are no Enclave Image File that Nitro would measure as its sections say: checks 9xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One appraisal check that failed: what the reference values want and what the evidence has, as short texts."""

    check: Check
    expected: str
    actual: str


class AppraisalError(AttestationError):
    """Authentic evidence of something that the reference values do not accept; `mismatches` holds every one (6xx)."""

    def __init__(self, mismatches: tuple[Mismatch, ...]) -> None:
        super().__init__("; ".join(f"check {item.check.value} ({item.check.reason})" for item in mismatches))
        self.mismatches = mismatches
        self.checks = tuple(item.check for item in mismatches)
