"""Is authentic evidence of what you want? Claims against reference values (docs/verification.md, checks 6xx).

Every check is made and every mismatch reported, as values; one is enough to refuse. A value that is missing from the
document is a mismatch, never a pass. Pure: time, nonce and reference values are arguments.
"""

from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
import hashlib
import hmac
import re

from attestation.checks import Check
from attestation.errors import AppraisalError, Mismatch
from attestation.values import ZERO, Measurement, ReferenceValues, pcr16_of, pcr17_of
from attestation.verify import Claims, Moment
from wire import evidence as wire_evidence
from wire.evidence import Config, Evidence

_MODULE_ID = re.compile(r"(i-[0-9a-f]+)-enc[0-9a-f]+")
_APPRAISED = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """Evidence that passed every check: the only thing that a request is ever sealed to.

    Made by `appraise` alone; `dataclasses.replace` and the constructor refuse. `pk` is the attested session key,
    `config` and `config_raw` the service config, `evidence_digest` the SHA-256 of the whole evidence body, `measurement`
    the accepted image, `nonce` the verifier's.
    """

    claims: Claims
    config: Config
    config_raw: bytes
    pk: bytes
    nonce: bytes
    measurement: Measurement
    evidence_digest: bytes
    appraised_at: datetime
    witness: InitVar[object]

    def __post_init__(self, witness: object) -> None:
        if witness is not _APPRAISED:
            raise TypeError("an AttestationResult is made by appraise alone")


def _text(value: bytes | None) -> str:
    return "absent" if value is None else value.hex()


def pcr4_of(instance_id: str) -> bytes:
    """PCR4 of an enclave on this instance: the id extends it as it is, without an inner hash."""
    return hashlib.sha384(ZERO + instance_id.encode()).digest()


def debug(pcrs: Mapping[int, bytes]) -> Mismatch | None:
    """Whether PCR0, PCR1 and PCR2 are a debug enclave's: one zero among them is enough to refuse (601)."""
    zero = [f"PCR{index}" for index in (0, 1, 2) if pcrs.get(index) == ZERO]
    return Mismatch(check=Check.DEBUG, expected="not zero", actual=f"{', '.join(zero)} zero") if zero else None


def matching(pcrs: Mapping[int, bytes], measurements: tuple[Measurement, ...]) -> Measurement | None:
    """The accepted image that `pcrs` are of: every PCR of one tuple equal, none missing (603)."""
    return next((item for item in measurements if all(pcrs.get(index) == value for index, value in item.pcrs.items())), None)


def _measurements(pcrs: Mapping[int, bytes], accepted: tuple[Measurement, ...]) -> Mismatch | None:
    if matching(pcrs, accepted) is not None:
        return None
    # The nearest tuple says what to look at: which of its PCRs differ.
    nearest = min(accepted, key=lambda item: sum(pcrs.get(index) != value for index, value in item.pcrs.items()))
    differs = [index for index, value in nearest.pcrs.items() if pcrs.get(index) != value]
    return Mismatch(
        check=Check.MEASUREMENTS,
        expected=", ".join(f"PCR{index} {nearest.pcrs[index].hex()}" for index in differs),
        actual=", ".join(f"PCR{index} {_text(pcrs.get(index))}" for index in differs),
    )


def _equal(check: Check, expected: bytes, actual: bytes | None) -> Mismatch | None:
    return None if actual == expected else Mismatch(check=check, expected=expected.hex(), actual=_text(actual))


def _one_of(check: Check, accepted: tuple[bytes, ...], actual: bytes | None) -> Mismatch | None:
    if not accepted or actual in accepted:
        return None
    return Mismatch(check=check, expected=" or ".join(value.hex() for value in accepted), actual=_text(actual))


def _nonce(expected: bytes, actual: bytes | None) -> Mismatch | None:
    if actual is not None and hmac.compare_digest(expected, actual):
        return None
    return Mismatch(check=Check.NONCE, expected=expected.hex(), actual=_text(actual))


def _module_instance(claims: Claims) -> Mismatch | None:
    named = _MODULE_ID.fullmatch(claims.module_id)
    if named is None:
        return Mismatch(check=Check.MODULE_INSTANCE, expected="module_id of the form i-...-enc...", actual=ascii(claims.module_id))
    return _equal(Check.MODULE_INSTANCE, pcr4_of(named[1]), claims.pcrs.get(4))


def _platform(claims: Claims, nonce: bytes, values: ReferenceValues) -> Iterator[Mismatch | None]:
    """What the document alone decides."""
    pcrs = claims.pcrs
    yield debug(pcrs)
    yield _nonce(nonce, claims.nonce)
    yield _measurements(pcrs, values.measurements)
    yield _equal(Check.OWNER, values.pcr16, pcrs.get(16))
    if values.pcr17 is not None:
        yield _equal(Check.MANIFEST, values.pcr17, pcrs.get(17))
    yield _one_of(Check.ROLE, values.pcr3, pcrs.get(3))
    yield _one_of(Check.INSTANCE, values.pcr4, pcrs.get(4))
    yield _module_instance(claims)
    if claims.public_key is not None:
        yield Mismatch(check=Check.PURPOSE, expected="null", actual=f"{len(claims.public_key)} bytes")
    if claims.partition != values.partition:
        yield Mismatch(check=Check.PARTITION, expected=values.partition, actual=claims.partition)


def _service(claims: Claims, evidence: Evidence, values: ReferenceValues, now: datetime) -> Iterator[Mismatch | None]:
    """What the config and the session key beside the document decide."""
    config = evidence.config
    yield _equal(Check.BINDING, wire_evidence.user_data(evidence.config_raw, evidence.pk), claims.user_data)
    yield _equal(Check.CONFIG_OWNER, pcr16_of(config.owner_key), claims.pcrs.get(16))
    yield _equal(Check.CONFIG_MANIFEST, pcr17_of(config.manifest_digest), claims.pcrs.get(17))
    if values.min_sequence is not None and config.sequence < values.min_sequence:
        yield Mismatch(check=Check.SEQUENCE, expected=f"at least {values.min_sequence}", actual=str(config.sequence))
    if now.timestamp() > config.not_after:
        yield Mismatch(check=Check.MANIFEST_EXPIRED, expected=f"not_after from {int(now.timestamp())}", actual=str(config.not_after))
    if config.callers == wire_evidence.CALLERS_ANYONE and not values.accept_anyone:
        yield Mismatch(check=Check.ANYONE, expected="callers authenticated by issuers", actual="anyone")


def _current(claims: Claims, values: ReferenceValues, now: datetime, max_age: timedelta) -> Iterator[Mismatch | None]:
    """What time and withdrawals decide."""
    age = now - claims.timestamp
    if age > max_age:
        yield Mismatch(check=Check.AGE, expected=f"at most {max_age.total_seconds():.0f} s", actual=f"{age.total_seconds():.0f} s")
    if values.withdrawn is None:
        return
    withdrawals = values.withdrawn.withdrawals
    if now.timestamp() > withdrawals.not_after:
        yield Mismatch(
            check=Check.WITHDRAWALS_EXPIRED,
            expected=f"a list of withdrawals valid at {int(now.timestamp())}",
            actual=f"not_after {withdrawals.not_after}",
        )
    entry = withdrawals.withdrawal_of(claims.pcrs)
    if entry is not None:
        names = ", ".join(f"PCR{index} {value.hex()}" for index, value in entry.pcrs.items())
        yield Mismatch(check=Check.WITHDRAWN, expected="not withdrawn", actual=f"{names} withdrawn: {entry.reason}")


def mismatches(
    claims: Claims,
    evidence: Evidence | None,
    *,
    nonce: bytes,
    reference_values: ReferenceValues,
    now: datetime,
    max_age: timedelta | None = None,
) -> tuple[Mismatch, ...]:
    """Every check that fails, in the order of their numbers; empty for evidence that passes. `appraise` for use."""
    allowed = timedelta(seconds=reference_values.max_age)
    found = list(_platform(claims, nonce, reference_values))
    if evidence is None:
        found.append(Mismatch(check=Check.BINDING_MISSING, expected="config and session key", actual="a bare document"))
    else:
        found.extend(_service(claims, evidence, reference_values, now))
    found.extend(_current(claims, reference_values, now, allowed if max_age is None else min(allowed, max_age)))
    return tuple(sorted((item for item in found if item is not None), key=lambda item: item.check))


def appraise(
    claims: Claims,
    evidence: Evidence | None,
    *,
    nonce: bytes,
    reference_values: ReferenceValues,
    now: datetime,
    max_age: timedelta | None = None,
) -> AttestationResult:
    """Judge live claims and the evidence body that they came from; None for a bare document, which never passes.

    `nonce`: the 32 bytes that the verifier asked with. `max_age` can only tighten what the reference values allow.
    Raises: AppraisalError with every mismatch; ValueError for misuse: archived claims, another document's claims, a nonce
    of another length, a naive `now`.
    """
    if claims.moment is not Moment.NOW:
        raise ValueError("archived claims are not appraised: appraisal is live")
    if len(nonce) != wire_evidence.NONCE_BYTES or now.tzinfo is None:
        raise ValueError("the nonce has 32 bytes, now is an aware datetime")
    if evidence is not None and hashlib.sha256(evidence.document).digest() != claims.digest:
        raise ValueError("the claims are of another document than the evidence's")
    found = mismatches(claims, evidence, nonce=nonce, reference_values=reference_values, now=now, max_age=max_age)
    measurement = matching(claims.pcrs, reference_values.measurements)
    if found or evidence is None or measurement is None:
        raise AppraisalError(found)
    return AttestationResult(
        claims=claims,
        config=evidence.config,
        config_raw=evidence.config_raw,
        pk=evidence.pk,
        nonce=nonce,
        measurement=measurement,
        evidence_digest=hashlib.sha256(wire_evidence.encode_evidence_body(evidence.config_raw, evidence.pk, evidence.document)).digest(),
        appraised_at=now,
        witness=_APPRAISED,
    )
