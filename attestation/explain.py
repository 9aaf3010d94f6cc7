"""Judge evidence for a person: the refusal is the report, so nothing is raised for it. Pure.

What is given decides what can be said: a bare document is authentic at best, a whole evidence body with reference values
and nonce is accepted or rejected.
"""

from dataclasses import dataclass
from datetime import datetime

from attestation import appraise, document, verify
from attestation.chain import Root
from attestation.checks import TEXT, Check
from attestation.document import AttestationDocument
from attestation.errors import AttestationError, MalformedEvidenceError, Mismatch
from attestation.report import Proof, Report, Verdict, links, registers
from attestation.report_words import cannot_know, could_still
from attestation.source import printable
from attestation.values import ReferenceValues
from attestation.verify import TOLERANCE, Claims, Moment
from wire.evidence import Evidence, MalformedEvidenceBodyError, parse_evidence_body


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to judge and how: `data` is a whole evidence body or a bare document; `moment` NOW is live."""

    data: bytes

    roots: tuple[Root, ...]
    now: datetime
    moment: Moment
    reference_values: ReferenceValues | None = None
    nonce: bytes | None = None


def split(data: bytes) -> tuple[Evidence | None, bytes]:
    """An evidence body and its document, or None and the bytes themselves where they are a bare document.

    A document begins with 84 or d2, a body with the two bytes of a length of at most 1,024. Raises: MalformedEvidenceError.
    """
    if data[:1] in (b"\x84", b"\xd2"):
        return None, data
    try:
        evidence = parse_evidence_body(data)
    except MalformedEvidenceBodyError as error:
        raise MalformedEvidenceError(Check.EVIDENCE_BODY, str(error)) from None
    return evidence, evidence.document


_YOURS = "you: your reference values"
_ON_IMAGE = frozenset((Check.OWNER, Check.MANIFEST, Check.BINDING, Check.SEQUENCE, Check.MANIFEST_EXPIRED))
_ORIGIN = (Check.ROOT, Check.CHAIN_NAMES, Check.CHAIN_SIGNATURES, Check.CHAIN_EXACT, Check.COSE_SIGNATURE)


def _proof(statement: str, by: str, *checks: Check) -> Proof:
    return Proof(statement=statement, by=by, checks=checks)


def _proofs(question: Question, evidence: Evidence | None, claims: Claims, failed: frozenset[Check]) -> tuple[Proof, ...]:
    live = question.moment is Moment.NOW
    moment = "now" if live else "at the document's own moment"
    origin = f"an enclave named {printable(claims.module_id)} made this document; its certificates were valid {moment}"
    rows = [_proof(origin, f"the pinned root of {claims.partition}: the signing key's certificates lead to it", *_ORIGIN)]
    if live:
        clocks = f"its clock and yours differ by at most {TOLERANCE.seconds} s"
        rows.append(_proof(clocks, "the document and your clock", Check.CLOCK_BEHIND, Check.CLOCK_AHEAD))
    if question.reference_values is not None:
        image = "the enclave runs one of the images that you accept, not in debug mode"
        rows.append(_proof(image, _YOURS, Check.DEBUG, Check.MEASUREMENTS))
        rows.append(_proof("its manifest is signed by the owner that you expect", _YOURS, Check.OWNER))
        if question.reference_values.pcr17 is not None:
            rows.append(_proof("its manifest is the very one that you expect", _YOURS, Check.MANIFEST))
    if question.reference_values is not None and question.nonce is not None:
        rows.append(_proof("it was made after you asked: it carries your nonce", "you: your nonce", Check.NONCE))
    if question.reference_values is not None and evidence is not None:
        own = "the session key and the service config are the enclave's own"
        rows.append(_proof(own, "the measured image", Check.BINDING, Check.CONFIG_OWNER, Check.CONFIG_MANIFEST))
        rows.append(_proof("the manifest has not expired", "the owner", Check.MANIFEST_EXPIRED))
        if question.reference_values.min_sequence is not None:
            rows.append(_proof("its manifest is not older than you accept", _YOURS, Check.SEQUENCE))
    # What the image vouches for is worth what the image is.
    stranger = bool(failed & {Check.DEBUG, Check.MEASUREMENTS})
    return tuple(row for row in rows if not failed.intersection(row.checks) and not (stranger and _ON_IMAGE.intersection(row.checks)))


def _refusals(error: AttestationError) -> tuple[Mismatch, ...]:
    where = getattr(error, "where", "")
    return tuple(Mismatch(check=check, expected=TEXT[check], actual=where or "it is not so") for check in error.checks)


def _judge(question: Question, evidence: Evidence | None, claims: Claims) -> tuple[Verdict, tuple[Mismatch, ...]]:
    values = question.reference_values
    if values is None:
        return Verdict.AUTHENTIC, ()
    live = question.moment is Moment.NOW
    # Without a nonce that somebody asked with, nothing is appraised; what can be compared still is.
    found = appraise.mismatches(
        claims,
        evidence,
        nonce=question.nonce or b"",
        reference_values=values,
        now=question.now if live else claims.timestamp,
    )
    if question.nonce is None:
        found = tuple(item for item in found if item.check is not Check.NONCE)
    if found:
        return Verdict.REJECTED, found
    return (Verdict.ACCEPTED if live and question.nonce is not None else Verdict.AUTHENTIC), ()


def explain(question: Question) -> Report:
    """Judge and say everything. Raises nothing."""
    parsed: AttestationDocument | None = None
    evidence: Evidence | None = None
    claims: Claims | None = None
    values = question.reference_values
    try:
        evidence, raw = split(question.data)
        parsed = document.parse(raw)
        live = question.moment is Moment.NOW
        claims = verify.verify(raw, now=question.now, roots=question.roots) if live else verify.verify_archive(raw, roots=question.roots)
        verdict, refusals = _judge(question, evidence, claims)
    except AttestationError as error:
        verdict = Verdict.MALFORMED if isinstance(error, MalformedEvidenceError) else Verdict.UNTRUSTED
        refusals = _refusals(error)
    failed = frozenset(item.check for item in refusals)
    return Report(
        verdict=verdict,
        moment=question.moment,
        judged_at=question.now,
        refusals=refusals,
        proofs=() if claims is None else _proofs(question, evidence, claims, failed),
        registers=() if claims is None else registers(claims, values),
        chain=() if parsed is None else links(parsed.chain),
        document=parsed,
        claims=claims,
        evidence=evidence,
        reference_values=values,
        unknown=cannot_know(live=question.moment is Moment.NOW, whole=evidence is not None, compared=values is not None),
        attacker=() if claims is None else could_still(values, compared=verdict is Verdict.ACCEPTED),
    )
