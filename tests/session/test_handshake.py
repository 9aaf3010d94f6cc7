"""Properties 1, 2, 3 and 7 of the protocol at the handshake: who is sealed to, what is replayed, what is changed, who may call."""

from dataclasses import dataclass, replace
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import pytest

from attestation.appraise import AttestationResult
from attestation.checks import Check
from attestation.errors import AppraisalError, AttestationError
from cloister import session as caller_side
from cloister.session import CallerIdentity, CallerSession, SessionRefused
from enclave.session import EnclaveSession, SessionViolation, State
from tests.session.world import Enclave, accepted, an_enclave, identity, offered, opened, result, send
from tests.wire.examples import CALLER, ISSUER, NOW, OTHER_ISSUER, a_credential, key, public
from wire import evidence as wire_evidence
from wire import handshake, seal
from wire.credential import issue
from wire.errors import Code
from wire.evidence import KMS_USER_DATA, encode_config, encode_evidence_body, parse_config, parse_evidence_body
from wire.frame import FrameType, encode
from wire.manifest import Anyone, Issuers, Limits, Quota
from wire.message import encode as message
from wire.record import CLOSE_CODE, Kind, RecordSealer
from wire.seal import SealError

# Property 1: nothing is sealed to a key that was not in appraised evidence


def _sibling_parts(enclave: Enclave) -> tuple[CallerSession, bytes, bytes]:
    """A caller that challenged, the genuine evidence body for it, and a genuine sibling's for another nonce."""
    caller, other = CallerSession(answer_bytes=1 << 16), CallerSession(answer_bytes=1 << 16)
    _, _, evidence = offered(enclave, caller)
    _, _, sibling = offered(an_enclave(callers=Anyone()), other)
    return caller, evidence[5:], sibling[5:]


@pytest.mark.parametrize(("part", "check"), [("pk", Check.BINDING), ("config", Check.BINDING), ("document", Check.NONCE)])
def test_part_of_a_genuine_sibling_is_refused(part: str, check: Check) -> None:
    """Property 1: pk, config or document of a genuine sibling session in this session's evidence is refused by its check."""
    caller, body, sibling = _sibling_parts(an_enclave())
    mine, other = parse_evidence_body(body), parse_evidence_body(sibling)
    parts = {"config": mine.config_raw, "pk": mine.pk, "document": mine.document}
    parts[part] = {"config": other.config_raw, "pk": other.pk, "document": other.document}[part]
    spliced = encode_evidence_body(parts["config"], parts["pk"], parts["document"])
    given = caller.evidence(encode(FrameType.EVIDENCE, spliced))
    with pytest.raises(AppraisalError) as caught:
        result(given, caller.nonce)
    assert check in {mismatch.check for mismatch in caught.value.mismatches}


def test_whole_genuine_evidence_for_another_nonce_is_refused() -> None:
    """Property 1: evidence that is genuine throughout but for another challenge."""
    caller, _, sibling = _sibling_parts(an_enclave())
    with pytest.raises(AppraisalError) as caught:
        result(caller.evidence(encode(FrameType.EVIDENCE, sibling)), caller.nonce)
    assert [mismatch.check for mismatch in caught.value.mismatches] == [Check.NONCE]


def test_result_of_another_session_seals_nothing() -> None:
    """Property 1: a genuine result of a sibling session is refused, and the session is over."""
    caller, other = CallerSession(answer_bytes=1 << 16), CallerSession(answer_bytes=1 << 16)
    enclave = an_enclave()
    _, _, evidence = offered(enclave, caller)
    _, _, sibling = offered(enclave, other)
    caller.evidence(evidence)
    genuine = result(sibling[5:], other.nonce)
    with pytest.raises(ValueError, match="not made from"):
        caller.open(genuine, None)
    assert caller.state is caller_side.State.OVER


def test_result_of_the_same_nonce_but_other_evidence_seals_nothing() -> None:
    """Property 1: the parent asks two enclaves with one nonce and swaps the evidence after it was appraised."""
    caller = CallerSession(answer_bytes=1 << 16)
    enclave = an_enclave()
    machine, challenge, evidence = offered(enclave, caller)
    twin = EnclaveSession(enclave.terms)
    swapped = twin.offer(enclave.document(*twin.challenge(challenge)))
    caller.evidence(evidence)
    with pytest.raises(ValueError, match="not made from"):
        caller.open(result(swapped[5:], caller.nonce), None)
    assert machine.state is State.OFFERED


def test_result_of_another_nonce_seals_nothing() -> None:
    """Property 1: evidence that was appraised against another nonce than the session's own."""
    caller = CallerSession(answer_bytes=1 << 16)
    _, _, evidence = offered(an_enclave(), caller)
    body = caller.evidence(evidence)
    genuine = result(body, caller.nonce)
    caller._nonce = bytes(32)
    with pytest.raises(ValueError, match="not made from"):
        caller.open(genuine, None)


def test_result_is_made_by_appraisal_alone() -> None:
    """Property 1: no result with another key can be made from a genuine one."""
    caller = CallerSession(answer_bytes=1 << 16)
    _, _, evidence = offered(an_enclave(), caller)
    genuine = result(caller.evidence(evidence), caller.nonce)
    with pytest.raises((TypeError, ValueError)):
        replace(genuine, pk=bytes(1216))  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        genuine.pk = bytes(1216)  # type: ignore[misc]


def test_open_seals_to_the_attested_key() -> None:
    """Property 1: the opening opens with the session's own key and with no sibling's."""
    session, other = opened(an_enclave(), identity()), opened(an_enclave(), identity())
    assert session.enclave.state is State.OPEN
    assert len(session.frames["open"]) == len(other.frames["open"]) == 5237


def test_attested_key_that_is_none_is_an_evidence_error() -> None:
    """A key of low order in genuine evidence: nothing is sealed and the session is over."""
    caller, enclave = CallerSession(answer_bytes=1 << 16), an_enclave()
    machine = EnclaveSession(enclave.terms)
    nonce, _ = machine.challenge(caller.challenge())
    pk = parse_evidence_body(machine.offer(b"d")[5:]).pk[:1184] + bytes(32)
    document = enclave.document(nonce, wire_evidence.user_data(enclave.terms.config_raw, pk))
    body = caller.evidence(encode(FrameType.EVIDENCE, encode_evidence_body(enclave.terms.config_raw, pk, document)))
    with pytest.raises(SealError):
        caller.open(result(body, caller.nonce), None)
    assert caller.state is caller_side.State.OVER


def test_evidence_for_kms_is_no_evidence_for_a_caller() -> None:
    """Property 8, the caller's half: user_data and nonce of KMS evidence each refuse it."""
    caller, enclave = CallerSession(answer_bytes=1 << 16), an_enclave()
    machine, _, _ = offered(enclave, caller)
    for nonce in (None, caller.nonce):
        body = encode_evidence_body(enclave.terms.config_raw, bytes(1216), enclave.document(nonce, KMS_USER_DATA))
        with pytest.raises(AppraisalError) as caught:
            result(body, caller.nonce)
        assert Check.BINDING in {mismatch.check for mismatch in caught.value.mismatches}
    assert machine.state is State.OFFERED


# Property 2: replay and cross-wiring


def test_handshake_replayed_to_another_session_does_not_open() -> None:
    """Property 2: challenge, open and records of one session are nothing to a fresh one of the same enclave."""
    enclave = an_enclave()
    session = accepted(enclave)
    _, frames = send(session, message(path="/v2"))
    fresh = EnclaveSession(enclave.terms)
    fresh.offer(enclave.document(*fresh.challenge(session.frames["challenge"])))
    with pytest.raises(SessionViolation):
        fresh.open(session.frames["open"], now=NOW)
    assert fresh.state is State.OVER
    third = accepted(enclave)
    with pytest.raises(SessionViolation):
        third.enclave.record(frames[0])


def test_one_open_per_session() -> None:
    """Property 2: a second open is refused whether the first one opened or not."""
    session = opened(an_enclave(), identity())
    with pytest.raises(RuntimeError):
        session.enclave.open(session.frames["open"], now=NOW)
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(an_enclave(), caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    with pytest.raises(SessionViolation):
        machine.open(opening[:-1] + bytes([opening[-1] ^ 1]), now=NOW)
    with pytest.raises(RuntimeError):
        machine.open(opening, now=NOW)


def test_cross_wired_enclaves_do_not_understand_each_other() -> None:
    """Property 2: two genuine enclaves of one image and manifest, the streams swapped after the evidence."""
    one, other = CallerSession(answer_bytes=1 << 16), CallerSession(answer_bytes=1 << 16)
    enclaves = an_enclave(), an_enclave()
    machines = [offered(enclave, caller) for enclave, caller in zip(enclaves, (one, other), strict=True)]
    openings = [
        caller.open(result(caller.evidence(evidence), caller.nonce), identity())
        for caller, (_, _, evidence) in zip((one, other), machines, strict=True)
    ]
    for machine, opening in zip((machines[1][0], machines[0][0]), openings, strict=True):
        with pytest.raises(SessionViolation):
            machine.open(opening, now=NOW)


def test_records_of_a_sibling_are_refused_in_both_directions() -> None:
    """Property 2: a sibling session of the same enclave and caller has other keys."""
    enclave = an_enclave()
    session, sibling = accepted(enclave), accepted(enclave)
    (number, frames), (same, others) = send(session, message(path="/v2")), send(sibling, message(path="/v2"))
    assert number == same
    session.enclave.record(frames[0])
    sibling.enclave.record(others[0])
    answer = bytes(next(sibling.enclave.answer(same, message())))
    with pytest.raises(caller_side.SessionViolation):
        session.caller.record(answer)


# Property 3 at the handshake

OFFSETS = [0, 3, 4, 5, 6]


def _flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


@pytest.mark.parametrize("at", [*OFFSETS, 20, 37])
def test_flipped_challenge_comes_to_nothing(at: int) -> None:
    """Property 3: header and version are refused by the enclave, a changed nonce by the caller's appraisal."""
    caller, enclave = CallerSession(answer_bytes=1 << 16), an_enclave()
    challenge = _flipped(caller.challenge(), at)
    machine = EnclaveSession(enclave.terms)
    if at < 6:
        with pytest.raises(SessionViolation):
            machine.challenge(challenge)
        assert machine.state is State.OVER
        return
    body = caller.evidence(machine.offer(enclave.document(*machine.challenge(challenge))))
    with pytest.raises(AppraisalError) as caught:
        result(body, caller.nonce)
    assert [mismatch.check for mismatch in caught.value.mismatches] == [Check.NONCE]


def test_flipped_evidence_is_never_accepted() -> None:
    """Property 3: a flipped byte anywhere in the evidence is refused by the frame, the verification or the appraisal."""
    caller = CallerSession(answer_bytes=1 << 16)
    _, _, evidence = offered(an_enclave(), caller)
    result(evidence[5:], caller.nonce)
    for at in [*OFFSETS, *range(7, len(evidence), 131), len(evidence) - 1]:
        twin = CallerSession(answer_bytes=1 << 16)
        twin.challenge()
        try:
            body = twin.evidence(_flipped(evidence, at))
        except caller_side.SessionViolation:
            assert at < 5
            continue
        with pytest.raises(AttestationError):
            result(body, caller.nonce)


@pytest.mark.parametrize("at", [*OFFSETS, 5 + 1087, 5 + 1088, 5 + 1119, 5 + 1120, 3000, 5236])
def test_flipped_open_is_one_undetailed_error(at: int) -> None:
    """Property 3: encapsulation, ciphertext, tag or header changed: the same words, no frame, the key gone."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(an_enclave(), caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    with pytest.raises(SessionViolation) as caught:
        machine.open(_flipped(opening, at), now=NOW)
    assert str(caught.value) == "the session is over"
    assert caught.value.__cause__ is None
    assert machine.state is State.OVER


@pytest.mark.parametrize("at", [*OFFSETS, 500, 1024 + 5 + 5 + 15])
def test_flipped_accept_is_one_undetailed_error(at: int) -> None:
    """Property 3: the enclave's first record changed."""
    session = opened(an_enclave(), identity())
    with pytest.raises(caller_side.SessionViolation) as caught:
        session.caller.accept(_flipped(session.frames["accept"], at))
    assert str(caught.value) == "the session is over"
    assert session.caller.state is caller_side.State.OVER


@pytest.mark.parametrize("size", [4095, 4097])
def test_opening_of_another_size_does_not_open(size: int) -> None:
    """An opening that another protocol sealed genuinely to the key is refused without a word."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, challenge, evidence = offered(an_enclave(), caller)
    th1 = handshake.transcript1(challenge, evidence)
    sealed = seal.seal(parse_evidence_body(evidence[5:]).pk, bytes(size), handshake.hpke_info(th1))
    with pytest.raises(SessionViolation):
        machine.open(encode(FrameType.OPEN, sealed), now=NOW)


# Property 7: the credential matrix


def _refused(enclave: Enclave, who: CallerIdentity | None) -> Code | None:
    """The code that the caller is told; the enclave's record has the size of an acceptance."""
    session = opened(enclave, who)
    assert session.enclave.state is State.OVER
    assert len(session.frames["accept"]) == len(opened(an_enclave(), identity()).frames["accept"])
    with pytest.raises(SessionRefused) as caught:
        session.caller.accept(session.frames["accept"])
    assert session.caller.state is caller_side.State.OVER
    return caught.value.code


def test_caller_with_a_credential_is_admitted() -> None:
    """Property 7: subject, models, quota and lifetime come from the credential, capped by the manifest."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(an_enclave(), caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    admitted = machine.open(opening, now=NOW).caller
    assert admitted is not None
    assert (admitted.account, admitted.models) == ((public(ISSUER), "ward 3"), frozenset({"tumour"}))
    assert admitted.quota == a_credential().quota
    assert admitted.seconds == 660  # until the enclave would refuse it: 60 s after exp


@pytest.mark.parametrize("quota", [Quota(requests=5, bytes=1 << 30), Quota(requests=500, bytes=5), None])
def test_quota_is_the_smaller_of_manifest_and_credential(quota: Quota | None) -> None:
    """Per field: what the manifest allows, what the credential allows."""
    enclave = an_enclave()
    enclave.terms = replace(enclave.terms, quota=quota)
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(enclave, caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    admitted = machine.open(opening, now=NOW).caller
    assert admitted is not None
    own = a_credential().quota
    quota = own if quota is None else quota
    assert admitted.quota == Quota(requests=min(own.requests, quota.requests), bytes=min(own.bytes, quota.bytes))


def test_session_is_no_longer_than_the_manifest_allows() -> None:
    """A long credential does not lengthen a session."""
    session = opened(an_enclave(limits=Limits(session_seconds=100)), identity())
    assert session.caller.accept(session.frames["accept"]).seconds == 100


MATRIX: dict[str, tuple[dict[str, object], Code]] = {
    "expired": ({"issued": NOW - 4000, "not_before": NOW - 4000, "expires": NOW - 400}, Code.CREDENTIAL_EXPIRED),
    "not yet valid": ({"issued": NOW + 4000, "not_before": NOW + 4000, "expires": NOW + 8000}, Code.CREDENTIAL_NOT_YET_VALID),
    "other deployment": ({"audience": "bank"}, Code.CREDENTIAL_WRONG_AUDIENCE),
    "lifetime": ({"expires": NOW + 40 * 86_400}, Code.CREDENTIAL_LIFETIME),
    "other key": ({"key": public(9)}, Code.CALLER_BAD_SIGNATURE),
}


@pytest.mark.parametrize("name", MATRIX)
def test_credential_rule_broken_is_refused_with_its_code(name: str) -> None:
    """Property 7: exp, nbf, aud, lifetime and the caller's key, each alone."""
    changes, code = MATRIX[name]
    assert _refused(an_enclave(), identity(**changes)) is code


def test_missing_credential_is_refused() -> None:
    """Property 7: an enclave with issuers admits nobody without."""
    assert _refused(an_enclave(), None) is Code.CREDENTIAL_REQUIRED


@pytest.mark.parametrize("keys", [(), (public(OTHER_ISSUER),)], ids=["empty", "other"])
def test_credential_of_no_issuer_is_refused(keys: tuple[bytes, ...]) -> None:
    """Property 7: another issuer, and issuers that are empty."""
    assert _refused(an_enclave(callers=Issuers(keys=keys)), identity()) is Code.CREDENTIAL_UNKNOWN_ISSUER


def test_malformed_credential_is_refused() -> None:
    """Property 7: bytes that are none."""
    assert _refused(an_enclave(), replace(identity(), credential=b"\x80")) is Code.CREDENTIAL_MALFORMED


@dataclass
class _Recorder:
    """Signs with the caller's key, or repeats what was signed before."""

    signature: bytes = b""

    def sign(self, data: bytes) -> bytes:
        self.signature = self.signature or key(CALLER).sign(data)
        return self.signature


def test_signature_of_another_session_is_refused() -> None:
    """Property 7: the caller's genuine signature of one session under the same credential in another."""
    recorder: Any = _Recorder()
    who = CallerIdentity(credential=identity().credential, key=recorder)
    enclave = an_enclave()
    assert opened(enclave, who).enclave.state is State.OPEN
    assert _refused(enclave, who) is Code.CALLER_BAD_SIGNATURE


def test_same_signature_with_a_new_secret_is_refused() -> None:
    """Property 7: whoever holds a session's signature but not its secret opens nothing with one of his own."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, challenge, evidence = offered(an_enclave(), caller)
    who = identity()
    th1 = handshake.transcript1(challenge, evidence)
    signature = who.key.sign(handshake.to_be_signed(th1, bytes(32), who.credential))
    opening = handshake.Opening(secret=b"\x01" * 32, signature=signature, credential=who.credential)
    sealed = seal.seal(parse_evidence_body(evidence[5:]).pk, handshake.encode_opening(opening), handshake.hpke_info(th1))
    assert machine.open(encode(FrameType.OPEN, sealed), now=NOW).code is Code.CALLER_BAD_SIGNATURE


def test_key_of_small_order_is_never_in_a_credential() -> None:
    """Property 7: neither issued nor, were it issued, accepted."""
    with pytest.raises(ValueError, match="claim"):
        issue(a_credential(key=b"\x01" + bytes(31)), key(ISSUER))


def test_enclave_that_takes_anyone_is_not_shown_who_calls() -> None:
    """A caller with a credential does not send it where nobody asks."""
    enclave = an_enclave(callers=Anyone())
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(enclave, caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    admitted = machine.open(opening, now=NOW).caller
    assert admitted is not None
    assert (admitted.account, admitted.models) == (None, None)


def test_credential_shown_to_everyones_enclave_is_refused() -> None:
    """With callers "anyone" an opening has no credential and no signature."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, challenge, evidence = offered(an_enclave(callers=Anyone()), caller)
    th1 = handshake.transcript1(challenge, evidence)
    opening = handshake.Opening(secret=bytes(32), signature=bytes(64), credential=b"c")
    sealed = seal.seal(parse_evidence_body(evidence[5:]).pk, handshake.encode_opening(opening), handshake.hpke_info(th1))
    assert machine.open(encode(FrameType.OPEN, sealed), now=NOW).code is Code.OPEN_MALFORMED


def test_refusal_for_whoever_opens() -> None:
    """A full enclave says so to whoever opens, before it judges a credential."""
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, evidence = offered(an_enclave(), caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), None)
    assert machine.open(opening, now=NOW, refuse=Code.SESSION_LIMIT).code is Code.SESSION_LIMIT


# the accept record


def _accept(change: dict[int, int] | None, kind: Kind = Kind.ACCEPT, message_id: int = 0) -> CallerSession:
    """A caller that was sent another first record by a broken enclave that holds the keys."""
    caller = CallerSession(answer_bytes=1 << 16)
    enclave = an_enclave()
    machine, _, evidence = offered(enclave, caller)
    opening = caller.open(result(caller.evidence(evidence), caller.nonce), identity())
    pair = machine._pair
    assert isinstance(pair, seal.SessionKeyPair)
    secret = handshake.parse_opening(pair.open(opening[5:], handshake.hpke_info(machine._th1))).secret
    sealer = RecordSealer(handshake.session_keys(secret, handshake.transcript2(machine._th1, opening)).s2c)
    frame = sealer.seal(kind, message_id, (bytes(1024),)) if change is None else sealer.control(kind, message_id, change)
    caller.accept(bytes(frame))
    return caller


def test_accept_of_this_version_is_taken() -> None:
    """Three positive numbers, the seconds within the attested config's."""
    assert _accept({1: 3600, 2: 1024, 3: 1}).state is caller_side.State.OPEN


@pytest.mark.parametrize(
    ("fields", "kind", "number"),
    [
        ({1: 3601, 2: 1024, 3: 1}, Kind.ACCEPT, 0),
        ({1: 0, 2: 1024, 3: 1}, Kind.ACCEPT, 0),
        ({1: 3600, 2: 0, 3: 1}, Kind.ACCEPT, 0),
        ({1: 3600, 2: 1024, 3: 0}, Kind.ACCEPT, 0),
        ({1: 3600, 2: 1024}, Kind.ACCEPT, 0),
        ({1: 3600, 2: 1024, 3: 1, 4: 1}, Kind.ACCEPT, 0),
        ({1: 3600, 2: 1024, 3: 1}, Kind.ACCEPT, 1),
        ({1: 3600, 2: 1024, 3: 1}, Kind.CANCEL, 0),
        ({1: 3600, 2: 1024, 3: 1}, Kind.CLOSE, 0),
        ({}, Kind.CLOSE, 0),
        ({CLOSE_CODE: 1}, Kind.CLOSE, 1),
        (None, Kind.END, 1),
        (None, Kind.ACCEPT, 0),
    ],
)
def test_first_record_that_is_no_accept_ends_the_session(fields: dict[int, int] | None, kind: Kind, number: int) -> None:
    """Another kind, id, field, or a longer session than was attested."""
    with pytest.raises(caller_side.SessionViolation):
        _accept(fields, kind, number)


def test_unknown_close_code_is_told_as_none() -> None:
    """A code of a later version refuses the session all the same."""
    with pytest.raises(SessionRefused) as caught:
        _accept({CLOSE_CODE: 60_000}, Kind.CLOSE, 0)
    assert caught.value.code is None


# the machine itself


def test_methods_out_of_order_are_misuse() -> None:
    """Each state takes one thing."""
    caller, machine = CallerSession(answer_bytes=1 << 16), EnclaveSession(an_enclave().terms)
    session = opened(an_enclave(), identity())
    calls: list[Any] = [
        lambda: caller.evidence(b""),
        lambda: caller.accept(b""),
        lambda: caller.record(b""),
        lambda: caller.request([]),
        lambda: machine.offer(b"d"),
        lambda: machine.open(b"", now=0),
        lambda: machine.record(b""),
        lambda: machine.answer(1, []),
        session.caller.challenge,
        lambda: session.enclave.challenge(b""),
    ]
    for call in calls:
        with pytest.raises(RuntimeError):
            call()


def test_nothing_is_sent_before_accept() -> None:
    """The caller has keys once it sealed its opening, and says nothing under them before it opened accept."""
    session = opened(an_enclave(), identity())
    assert session.caller.close() is None
    assert session.caller.cancel(1) is None
    session.caller._open.add(1)
    assert session.caller.cancel(1) is None
    with pytest.raises(RuntimeError):
        session.caller.request(message())
    with pytest.raises(RuntimeError):
        session.caller.open(None, None)  # type: ignore[arg-type]
    assert session.caller.state is caller_side.State.OPENING


@pytest.mark.parametrize(("code", "text"), [(Code.CREDENTIAL_EXPIRED, "credential-expired"), (None, "session refused")])
def test_refusal_has_the_codes_name(code: Code | None, text: str) -> None:
    """What a person reads of a refused session."""
    assert str(SessionRefused(code)) == text


def test_dropped_session_is_over() -> None:
    """After `drop` neither side has a key."""
    session = accepted()
    session.caller.drop()
    session.enclave.drop()
    assert session.caller.close() is None
    assert session.enclave.close(Code.OK) is None
    assert not session.enclave.mid_message
    caller = CallerSession(answer_bytes=1 << 16)
    machine, _, _ = offered(an_enclave(), caller)
    pair = machine._pair
    machine.drop()
    assert pair is not None
    with pytest.raises(SealError):
        pair.open(seal.seal(pair.public, bytes(4096), b"info"), b"info")


@pytest.mark.parametrize("frame", [encode(FrameType.RECORD, bytes(33)), encode(FrameType.CHALLENGE, bytes(34)), b"", bytes(38)])
def test_other_first_frame_is_a_violation(frame: bytes) -> None:
    """The enclave's machine judges the whole frame itself."""
    machine = EnclaveSession(an_enclave().terms)
    with pytest.raises(SessionViolation):
        machine.challenge(frame)


def test_evidence_is_offered_once() -> None:
    """One document per challenge."""
    machine, _, _ = offered(an_enclave(), CallerSession(answer_bytes=1))
    with pytest.raises(RuntimeError):
        machine.offer(b"document")


def test_document_that_does_not_fit_is_misuse() -> None:
    """No evidence frame over 24 KiB is made."""
    machine = EnclaveSession(an_enclave().terms)
    machine.challenge(CallerSession(answer_bytes=1).challenge())
    with pytest.raises(ValueError, match="bounds"):
        machine.offer(bytes(24 * 1024))


def test_each_session_has_its_own_nonce_key_and_secret() -> None:
    """Nothing of one session appears in another's frames."""
    one, other = opened(an_enclave(), identity()), opened(an_enclave(), identity())
    for name in ("challenge", "open", "accept"):
        assert one.frames[name] != other.frames[name]
    keys = [parse_evidence_body(session.frames["evidence"][5:]).pk for session in (one, other)]
    assert keys[0] != keys[1]


def test_config_tags_nobody() -> None:
    """The same config for every caller, whatever its credential."""
    enclave = an_enclave()
    bodies = [parse_evidence_body(opened(enclave, who).frames["evidence"][5:]) for who in (identity(), identity(subject="other"))]
    assert bodies[0].config_raw == bodies[1].config_raw == encode_config(parse_config(enclave.terms.config_raw))


def test_frames_of_different_callers_have_equal_lengths() -> None:
    """Property 6: handshakes of callers with short and long credentials are of equal lengths, evidence aside."""
    sizes = set()
    for who in (identity(), identity(subject="s" * 100, models=tuple(f"model{at}" for at in range(20)))):
        frames = opened(an_enclave(), who).frames
        sizes.add(tuple(len(frames[name]) for name in ("challenge", "open", "accept")))
    assert sizes == {(38, 5237, 1050)}


def test_digest_of_the_result_is_over_the_body() -> None:
    """The session compares what appraisal computed: SHA-256 of the evidence body."""
    caller = CallerSession(answer_bytes=1 << 16)
    _, _, evidence = offered(an_enclave(), caller)
    got = result(caller.evidence(evidence), caller.nonce)
    assert isinstance(got, AttestationResult)
    assert got.evidence_digest == hashlib.sha256(evidence[5:]).digest()
    assert isinstance(key(CALLER), Ed25519PrivateKey)
