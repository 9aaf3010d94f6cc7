"""Appraisal: every check of 6xx refuses what it alone is for, all mismatches are reported at once."""

from dataclasses import replace
from datetime import datetime, timedelta
import hashlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

import attestation
from attestation import appraise, verify
from attestation.appraise import AttestationResult
from attestation.checks import Check
from attestation.errors import AppraisalError, AttestationError, MalformedEvidenceError
from attestation.values import Measurement, ReferenceValues, pcr16_of, pcr17_of
from attestation.withdrawn import Withdrawal
from tests.attestation import forge, parties
from tests.attestation.forge import NONCE, NOW, REMOVED
from tests.attestation.parties import CONFIG, MEASUREMENT, PK, values
from wire import evidence as wire_evidence

OTHER = hashlib.sha384(b"other").digest()


def judged(
    body: bytes,
    reference_values: ReferenceValues = parties.VALUES,
    *,
    nonce: bytes = NONCE,
    now: datetime = NOW,
) -> AttestationResult:
    """The whole path, as a caller takes it."""
    return attestation.evaluate(body, nonce=nonce, reference_values=reference_values, now=now, roots=forge.roots())


def checks(body: bytes, reference_values: ReferenceValues = parties.VALUES, **arguments: object) -> tuple[Check, ...]:
    """Every check that refuses the evidence."""
    try:
        judged(body, reference_values, **arguments)  # type: ignore[arg-type]
    except AttestationError as error:
        return error.checks
    return ()


def pcrs(**changes: bytes | None) -> dict[int, bytes]:
    """The registers with some changed (`pcr0=value`) or absent (`pcr0=None`)."""
    found = parties.pcrs() | {int(name[3:]): value for name, value in changes.items() if value is not None}
    return {index: value for index, value in found.items() if changes.get(f"pcr{index}", b"") is not None}


def test_good_evidence_gives_a_result_that_carries_what_was_proven() -> None:
    """Config, session key, claims, nonce, the matching image and the digest of the whole body."""
    body = parties.evidence_body()
    result = judged(body)
    assert (result.config, result.pk, result.nonce, result.measurement) == (CONFIG, PK, NONCE, MEASUREMENT)
    assert result.config_raw == wire_evidence.encode_config(CONFIG)
    assert result.claims.module_id == forge.MODULE_ID
    assert result.evidence_digest == hashlib.sha256(body).digest()
    assert result.appraised_at == NOW


def test_a_result_is_made_by_appraisal_alone() -> None:
    """Neither the constructor nor `replace` gives a result for another key (T1)."""
    result = judged(parties.evidence_body())
    with pytest.raises((ValueError, TypeError), match="witness"):  # ValueError before Python 3.13
        replace(result, pk=bytes(1216))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        replace(result, pk=bytes(1216), witness=object())
    with pytest.raises(AttributeError):
        result.pk = bytes(1216)  # type: ignore[misc]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_debug_enclaves_are_refused(index: int) -> None:
    """Zero in any of PCR0, PCR1 and PCR2 is a debug enclave; nothing in the reference values accepts it (T5)."""
    assert checks(parties.evidence_body(pcrs=pcrs(**{f"pcr{index}": bytes(48)}))) == (Check.DEBUG, Check.MEASUREMENTS)
    zero = dict.fromkeys(("pcr0", "pcr1", "pcr2"), bytes(48))
    assert checks(parties.evidence_body(pcrs=pcrs(**zero))) == (Check.DEBUG, Check.MEASUREMENTS)


@pytest.mark.parametrize("nonce", [None, REMOVED, b"", NONCE[:31], NONCE + b"\0", bytes(32)])
def test_the_nonce_is_the_verifiers_own(nonce: object) -> None:
    """Missing, empty, a prefix, an extension, another: refused (T4)."""
    assert checks(parties.evidence_body(nonce=nonce)) == (Check.NONCE,)


@pytest.mark.parametrize("name", ["pcr0", "pcr1", "pcr2"])
def test_the_image_is_three_registers_together(name: str) -> None:
    """One differing register refuses, the other two notwithstanding (T6)."""
    assert checks(parties.evidence_body(pcrs=pcrs(**{name: OTHER}))) == (Check.MEASUREMENTS,)


def test_registers_of_two_accepted_images_are_no_image() -> None:
    """During an upgrade two tuples are accepted, never a mixture."""
    second = Measurement(pcr0=OTHER, pcr1=OTHER, pcr2=OTHER, label="next")
    rolling = values(measurements=(MEASUREMENT, second))
    assert judged(parties.evidence_body(), rolling).measurement == MEASUREMENT
    assert judged(parties.evidence_body(pcrs=pcrs(pcr0=OTHER, pcr1=OTHER, pcr2=OTHER)), rolling).measurement == second
    assert checks(parties.evidence_body(pcrs=pcrs(pcr0=OTHER)), rolling) == (Check.MEASUREMENTS,)


def test_the_images_signer_counts_where_it_is_given() -> None:
    """PCR8 is part of its tuple: another and a missing one are mismatches."""
    signed = values(measurements=(replace(MEASUREMENT, pcr8=OTHER),))
    assert checks(parties.evidence_body(pcrs=pcrs(pcr8=OTHER)), signed) == ()
    assert checks(parties.evidence_body(), signed) == (Check.MEASUREMENTS,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr8=None)), signed) == (Check.MEASUREMENTS,)


def test_the_owner_is_pcr16() -> None:
    """Another owner's manifest, validly signed by that owner, is refused; so is an unlocked register (T9a)."""
    theirs = replace(CONFIG, owner_key=parties.OTHER_KEY)
    assert checks(parties.evidence_body(theirs)) == (Check.OWNER,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr16=None))) == (Check.OWNER, Check.CONFIG_OWNER)


def test_the_config_is_that_of_pcr16_and_pcr17() -> None:
    """An image that reports another owner or manifest than it measured is refused."""
    assert checks(parties.evidence_body(replace(CONFIG, owner_key=parties.OTHER_KEY), pcrs=parties.pcrs())) == (Check.CONFIG_OWNER,)
    assert checks(parties.evidence_body(replace(CONFIG, manifest_digest=OTHER), pcrs=parties.pcrs())) == (Check.CONFIG_MANIFEST,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr17=None))) == (Check.CONFIG_MANIFEST,)


def test_a_pinned_manifest_is_pcr17() -> None:
    """Where PCR17 is given, another manifest of the same owner is refused, and a missing register too."""
    pinned = values(pcr17=pcr17_of(CONFIG.manifest_digest), min_sequence=None)
    assert checks(parties.evidence_body(), pinned) == ()
    assert checks(parties.evidence_body(replace(CONFIG, manifest_digest=OTHER)), pinned) == (Check.MANIFEST,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr17=None)), pinned) == (Check.MANIFEST, Check.CONFIG_MANIFEST)


@pytest.mark.parametrize(("sequence", "refused"), [(4, (Check.SEQUENCE,)), (5, ()), (6, ())])
def test_an_older_manifest_is_below_the_floor(sequence: int, refused: tuple[Check, ...]) -> None:
    """The rollback floor is the relying party's (T9b)."""
    assert checks(parties.evidence_body(replace(CONFIG, sequence=sequence))) == refused


def test_role_and_instance_count_where_they_are_given() -> None:
    """PCR3 and PCR4 equal one of the accepted values; missing is a mismatch."""
    own = forge.pcrs()
    assert checks(parties.evidence_body(), values(pcr3=(OTHER, own[3]), pcr4=(own[4], OTHER))) == ()
    assert checks(parties.evidence_body(), values(pcr3=(OTHER,))) == (Check.ROLE,)
    assert checks(parties.evidence_body(), values(pcr4=(OTHER,))) == (Check.INSTANCE,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr3=None)), values(pcr3=(own[3],))) == (Check.ROLE,)


def test_pcr4_is_the_instance_that_module_id_names() -> None:
    """Another PCR4, none, and a module id of another form are inconsistent."""
    assert checks(parties.evidence_body(pcrs=pcrs(pcr4=OTHER))) == (Check.MODULE_INSTANCE,)
    assert checks(parties.evidence_body(pcrs=pcrs(pcr4=None))) == (Check.MODULE_INSTANCE,)
    assert checks(parties.evidence_body(module_id="i-0-enc0-x")) == (Check.MODULE_INSTANCE,)
    assert checks(parties.evidence_body(module_id=forge.INSTANCE)) == (Check.MODULE_INSTANCE,)


def test_config_and_session_key_are_bound() -> None:
    """A config or key of a sibling session beside this document is refused (T1, T7)."""
    good = parties.evidence()
    swapped_key = wire_evidence.encode_evidence_body(good.config_raw, bytes(1216), good.document)
    longer = wire_evidence.encode_config(replace(CONFIG, session_seconds=7200))
    swapped_config = wire_evidence.encode_evidence_body(longer, PK, good.document)
    for body in (swapped_key, swapped_config, parties.evidence_body(user_data=None), parties.evidence_body(user_data=bytes(48))):
        assert checks(body) == (Check.BINDING,)


def test_evidence_for_kms_is_not_for_callers() -> None:
    """Its nonce, its binding and its public key each refuse it."""
    body = parties.evidence_body(nonce=None, user_data=wire_evidence.KMS_USER_DATA, public_key=b"rsa")
    assert checks(body) == (Check.NONCE, Check.BINDING, Check.PURPOSE)
    assert checks(parties.evidence_body(public_key=b"")) == (Check.PURPOSE,)


def test_a_bare_document_never_passes() -> None:
    """Without config and session key the binding cannot be judged, and everything else still is."""
    document = parties.evidence().document
    claims = verify.verify(document, now=NOW, roots=forge.roots())
    with pytest.raises(AppraisalError) as caught:
        appraise.appraise(claims, None, nonce=bytes(32), reference_values=parties.VALUES, now=NOW)
    assert caught.value.checks == (Check.NONCE, Check.BINDING_MISSING)


@pytest.mark.parametrize(("seconds", "refused"), [(60, ()), (61, (Check.AGE,))])
def test_the_document_is_not_older_than_allowed(seconds: int, refused: tuple[Check, ...]) -> None:
    """The reference values may allow less than the 300 s of the clock rule."""
    now = forge.DOCUMENT_TIME + timedelta(seconds=seconds)
    assert checks(parties.evidence_body(), values(max_age=60), now=now) == refused


def test_an_argument_tightens_the_age_and_never_widens_it() -> None:
    """`max_age` of the call is bounded by that of the reference values."""
    evidence = parties.evidence()
    now = forge.DOCUMENT_TIME + timedelta(seconds=100)
    claims = verify.verify(evidence.document, now=now, roots=forge.roots())

    def refused(allowed: int, max_age: int) -> tuple[Check, ...]:
        try:
            appraise.appraise(
                claims,
                evidence,
                nonce=NONCE,
                reference_values=values(max_age=allowed),
                now=now,
                max_age=timedelta(seconds=max_age),
            )
        except AppraisalError as error:
            return error.checks
        return ()

    assert [refused(300, 200), refused(300, 99), refused(99, 300)] == [(), (Check.AGE,), (Check.AGE,)]


@pytest.mark.parametrize(("left", "refused"), [(0, ()), (-1, (Check.MANIFEST_EXPIRED,))])
def test_an_expired_manifest_is_refused(left: int, refused: tuple[Check, ...]) -> None:
    """not_after is the last second that counts (T9b)."""
    assert checks(parties.evidence_body(replace(CONFIG, not_after=parties.NOW + left))) == refused


def test_an_enclave_open_to_anyone_is_accepted_only_on_purpose() -> None:
    """`accept_anyone` is false unless the relying party says otherwise."""
    body = parties.evidence_body(replace(CONFIG, callers=wire_evidence.CALLERS_ANYONE))
    assert checks(body) == (Check.ANYONE,)
    assert checks(body, values(accept_anyone=True)) == ()


def test_the_partition_is_the_expected_one() -> None:
    """Evidence of another partition's root is authentic and not wanted."""
    assert checks(parties.evidence_body(), values(partition="aws-us-gov")) == (Check.PARTITION,)


@pytest.mark.parametrize("index", [0, 1, 2, 16, 17])
def test_a_withdrawn_measurement_is_refused(index: int) -> None:
    """An image, an owner or a manifest that the owner took back (T33)."""
    entry = Withdrawal(pcrs={index: parties.pcrs()[index]}, reason="leaked")
    assert checks(parties.evidence_body(), values(withdrawn=parties.withdrawals(entry))) == (Check.WITHDRAWN,)


def test_only_what_is_listed_as_a_whole_is_withdrawn() -> None:
    """An entry of two registers withdraws evidence that has both."""
    own = parties.pcrs()
    half = Withdrawal(pcrs={0: own[0], 17: OTHER}, reason="an old manifest on this image")
    whole = Withdrawal(pcrs={0: own[0], 17: own[17]}, reason="this manifest on this image")
    assert checks(parties.evidence_body(), values(withdrawn=parties.withdrawals(half))) == ()
    assert checks(parties.evidence_body(), values(withdrawn=parties.withdrawals(half, whole))) == (Check.WITHDRAWN,)


@pytest.mark.parametrize(("left", "refused"), [(0, ()), (-1, (Check.WITHDRAWALS_EXPIRED,))])
def test_an_expired_list_of_withdrawals_refuses_everything(left: int, refused: tuple[Check, ...]) -> None:
    """Nobody can keep a newer list from a relying party for longer than the list lives (T33)."""
    held = parties.withdrawals(not_after=parties.NOW + left)
    assert checks(parties.evidence_body(), values(withdrawn=held)) == refused


def test_all_mismatches_are_reported_at_once() -> None:
    """Fifteen reasons in one refusal, in the order of their numbers, as values."""
    config = replace(CONFIG, owner_key=parties.OTHER_KEY, sequence=1, not_after=parties.NOW - 1, callers=wire_evidence.CALLERS_ANYONE)
    registers = pcrs(pcr0=bytes(48), pcr4=OTHER)
    reference_values = values(
        pcr3=(OTHER,),
        pcr4=(pcr16_of(parties.OWNER_KEY),),
        pcr17=OTHER,
        partition="elsewhere",
        max_age=1,
        withdrawn=parties.withdrawals(Withdrawal(pcrs={1: registers[1]}, reason=""), not_after=parties.NOW - 1),
    )
    body = parties.evidence_body(config, pcrs=registers, user_data=b"", nonce=b"", public_key=b"")
    assert checks(body, reference_values) == (
        Check.DEBUG,
        Check.NONCE,
        Check.MEASUREMENTS,
        Check.MANIFEST,
        Check.SEQUENCE,
        Check.ROLE,
        Check.INSTANCE,
        Check.MODULE_INSTANCE,
        Check.BINDING,
        Check.CONFIG_OWNER,
        Check.PURPOSE,
        Check.AGE,
        Check.MANIFEST_EXPIRED,
        Check.ANYONE,
        Check.PARTITION,
        Check.WITHDRAWN,
        Check.WITHDRAWALS_EXPIRED,
    )


def test_a_mismatch_says_what_was_wanted_and_what_was_there() -> None:
    """As short texts for people, naming only the registers that differ."""
    with pytest.raises(AppraisalError) as caught:
        judged(parties.evidence_body(pcrs=pcrs(pcr1=OTHER)))
    (mismatch,) = caught.value.mismatches
    assert (mismatch.expected, mismatch.actual) == (f"PCR1 {MEASUREMENT.pcr1.hex()}", f"PCR1 {OTHER.hex()}")


def test_misuse_is_told_from_refusal() -> None:
    """Archived claims, another document's claims, a short nonce and a naive clock are the caller's mistakes."""
    evidence, other = parties.evidence(), parties.evidence(extra=1)
    claims = verify.verify(evidence.document, now=NOW, roots=forge.roots())
    archived = verify.verify_archive(evidence.document, roots=forge.roots())
    for wrong in (
        {"claims": archived},
        {"evidence": other},
        {"nonce": NONCE[:31]},
        {"now": NOW.replace(tzinfo=None)},
    ):
        arguments = {"claims": claims, "evidence": evidence, "nonce": NONCE, "now": NOW} | wrong
        with pytest.raises(ValueError):
            appraise.appraise(
                arguments.pop("claims"),  # type: ignore[arg-type]
                arguments.pop("evidence"),  # type: ignore[arg-type]
                reference_values=parties.VALUES,
                **arguments,  # type: ignore[arg-type]
            )


@given(st.binary(max_size=1500))
def test_any_body_gives_a_result_or_our_error(body: bytes) -> None:
    """No bytes raise anything else."""
    with pytest.raises(AttestationError):
        judged(body)


def test_a_malformed_body_is_malformed_evidence() -> None:
    """The evidence body has a number of its own."""
    body = parties.evidence_body()
    for bad in (b"", body[:1000], b"\xff\xff" + body[2:], body[:2] + b"\x00" + body[3:]):
        with pytest.raises(MalformedEvidenceError) as caught:
            judged(bad)
        assert caught.value.check == Check.EVIDENCE_BODY


def test_evaluate_verifies_the_document_it_appraises() -> None:
    """A document whose signature fails is refused before appraisal, and by the product's roots altogether."""
    body = parties.evidence_body()
    assert checks(body[:-1] + bytes([body[-1] ^ 1])) == (Check.COSE_SIGNATURE,)
    with pytest.raises(AttestationError) as caught:
        attestation.evaluate(body, nonce=NONCE, reference_values=parties.VALUES, now=NOW)
    assert caught.value.checks == (Check.ROOT,)
