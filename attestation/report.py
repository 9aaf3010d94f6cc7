"""What a judgement means, as plain rows that a terminal, a web page and a program are given alike. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509

from attestation import appraise, chain, document
from attestation.checks import Check
from attestation.document import AttestationDocument
from attestation.errors import Mismatch
from attestation.report_words import meaning
from attestation.source import printable
from attestation.values import ZERO, ReferenceValues
from attestation.verify import Claims, Moment
from wire.evidence import Evidence


class Verdict(StrEnum):
    """The answer, strongest first."""

    ACCEPTED = "ACCEPTED"
    AUTHENTIC = "AUTHENTIC, NOT APPRAISED"
    REJECTED = "REJECTED"
    UNTRUSTED = "NOT AUTHENTIC"
    MALFORMED = "MALFORMED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Something that was shown: the statement, who vouches for it, and the checks that showed it."""

    statement: str
    by: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """One PCR beside what the reference values want of it. `verdict`: equal, differs, missing, or empty if not compared."""

    index: int
    measures: str
    value: bytes | None
    expected: tuple[bytes, ...]
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One certificate of the chain, root first."""

    place: str
    subject: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The judgement and everything that a person needs to believe it or not."""

    verdict: Verdict
    moment: Moment
    judged_at: datetime
    refusals: tuple[Mismatch, ...]
    proofs: tuple[Proof, ...]
    registers: tuple[Register, ...]
    chain: tuple[Link, ...]
    document: AttestationDocument | None
    claims: Claims | None
    evidence: Evidence | None
    reference_values: ReferenceValues | None
    unknown: tuple[str, ...]
    attacker: tuple[str, ...]


def links(certificates: tuple[bytes, ...]) -> tuple[Link, ...]:
    """The chain for the eye; certificates that do not parse end it."""
    found = []
    for place, der in enumerate(certificates):
        try:
            item = x509.load_der_x509_certificate(der)
            subject = printable(item.subject.rfc4514_string())
            begins, ends = item.not_valid_before_utc, item.not_valid_after_utc
        except Exception:  # noqa: BLE001 - whatever `cryptography` says no with: nothing here is judged
            break
        found.append(Link(place=chain.place(place, len(certificates)), subject=subject, begins=begins, ends=ends))
    return tuple(found)


def _expected(index: int, claims: Claims, values: ReferenceValues) -> tuple[bytes, ...]:
    match index:
        case 0 | 1 | 2 | 8:
            # The tuple that matches, or every accepted value.
            match_ = appraise.matching(claims.pcrs, values.measurements)
            tuples = values.measurements if match_ is None else (match_,)
            return tuple(dict.fromkeys(item.pcrs[index] for item in tuples if index in item.pcrs))
        case 3:
            return values.pcr3
        case 4:
            return values.pcr4
        case 16:
            return (values.pcr16,)
        case 17:
            return () if values.pcr17 is None else (values.pcr17,)
        case _:
            return ()


def registers(claims: Claims, values: ReferenceValues | None) -> tuple[Register, ...]:
    """PCR by PCR, those that are zero and mean nothing left out."""
    rows = []
    for index in range(document.PCR_COUNT):
        value = claims.pcrs.get(index)
        expected = () if values is None else _expected(index, claims, values)
        if not expected and (value is None or (value == ZERO and index not in (0, 1, 2))):
            continue
        verdict = "" if not expected else "missing" if value is None else "equal" if value in expected else "differs"
        rows.append(Register(index=index, measures=meaning(index), value=value, expected=expected, verdict=verdict))
    return tuple(rows)
