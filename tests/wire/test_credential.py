"""The credential matrix: each rule broken alone gives its own code; the borders of every validity are exact."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.wire.examples import CALLER, ISSUER, NOW, OTHER_ISSUER, OWNER, a_credential, key, public
from wire import cbor, cose, credential
from wire.credential import Credential, CredentialError, accept, accept_signature, issue, issuer_kid, parse
from wire.errors import Code
from wire.handshake import to_be_signed
from wire.manifest import Issuers, Quota

ISSUERS = Issuers(keys=(public(OTHER_ISSUER), public(ISSUER)))
TH1 = bytes(range(48))
SECRET = bytes(range(32))


def _accept(data: bytes, *, issuers: Issuers = ISSUERS, now: float = NOW, deployment: str = "clinic") -> Credential:
    return accept(data, issuers, deployment=deployment, owner_key=public(OWNER), now=now)[1]


def _refused(data: bytes, *, issuers: Issuers = ISSUERS, now: float = NOW, deployment: str = "clinic") -> Code:
    with pytest.raises(CredentialError) as caught:
        _accept(data, issuers=issuers, now=now, deployment=deployment)
    return caught.value.code


def _claims(changes: Mapping[cbor.Key, object]) -> bytes:
    """The example's claims with some changed (... removes), signed by the issuer."""
    claims = cbor.decode(cose.parse(issue(a_credential(), key(ISSUER)), typ=cose.CREDENTIAL, limit=1024).payload)
    assert isinstance(claims, dict)
    changed: Any = {name: value for name, value in {**claims, **changes}.items() if value is not ...}
    return cose.sign(cbor.encode(changed), kid=issuer_kid(public(ISSUER)), typ=cose.CREDENTIAL, key=key(ISSUER))


@pytest.mark.parametrize("issuer", [ISSUER, OTHER_ISSUER])
def test_credential_of_each_issuer_is_accepted(issuer: int) -> None:
    """A credential by any of the manifest's issuers comes back as issued."""
    assert _accept(issue(a_credential(), key(issuer))) == a_credential()


def test_missing_credential_has_its_own_code() -> None:
    """Nothing at all is told apart from something bad."""
    assert _refused(b"") is Code.CREDENTIAL_REQUIRED
    assert str(CredentialError(Code.CREDENTIAL_REQUIRED)) == "credential-required"


def test_unknown_issuer_is_refused() -> None:
    """An issuer that the manifest does not name, and any issuer where it names none."""
    assert _refused(issue(a_credential(), key(9))) is Code.CREDENTIAL_UNKNOWN_ISSUER
    assert _refused(issue(a_credential(), key(ISSUER)), issuers=Issuers(keys=())) is Code.CREDENTIAL_UNKNOWN_ISSUER


def test_signature_by_another_than_the_named_issuer_is_refused() -> None:
    """The kid of one issuer under another's signature."""
    genuine = cose.parse(issue(a_credential(), key(ISSUER)), typ=cose.CREDENTIAL, limit=1024)
    forged = cose.sign(genuine.payload, kid=issuer_kid(public(OTHER_ISSUER)), typ=cose.CREDENTIAL, key=key(ISSUER))
    assert _refused(forged) is Code.CREDENTIAL_BAD_SIGNATURE


def test_signature_is_judged_before_the_claims() -> None:
    """Malformed claims under a bad signature are refused for the signature."""
    forged = cose.sign(b"\xff", kid=issuer_kid(public(ISSUER)), typ=cose.CREDENTIAL, key=key(9))
    assert _refused(forged) is Code.CREDENTIAL_BAD_SIGNATURE


def test_issuer_of_small_order_signs_nothing() -> None:
    """An issuer key of small order, were it in the list, verifies nothing."""
    weak = b"\x01" + bytes(31)
    payload = cose.parse(issue(a_credential(), key(ISSUER)), typ=cose.CREDENTIAL, limit=1024).payload
    outer = cbor.decode(cose.sign(payload, kid=issuer_kid(weak), typ=cose.CREDENTIAL, key=key(9)))
    assert isinstance(outer, list)
    outer[3] = b"\x01" + bytes(63)
    assert _refused(cbor.encode(outer), issuers=Issuers(keys=(weak,))) is Code.CREDENTIAL_BAD_SIGNATURE


@pytest.mark.parametrize("typ", [cose.MANIFEST, cose.WITHDRAWN, cose.REFERENCE_VALUES])
def test_another_type_is_no_credential(typ: str) -> None:
    """What an issuer signed for another purpose is no credential."""
    payload = cose.parse(issue(a_credential(), key(ISSUER)), typ=cose.CREDENTIAL, limit=1024).payload
    assert _refused(cose.sign(payload, kid=issuer_kid(public(ISSUER)), typ=typ, key=key(ISSUER))) is Code.CREDENTIAL_MALFORMED


def test_other_deployment_is_refused() -> None:
    """aud is the deployment's id, exactly."""
    data = issue(a_credential(audience="clinic-2"), key(ISSUER))
    assert _refused(data) is Code.CREDENTIAL_WRONG_AUDIENCE
    _accept(data, deployment="clinic-2")


def test_validity_has_exact_borders() -> None:
    """60 s of tolerance at both ends and not a second more."""
    data = issue(a_credential(), key(ISSUER))
    _accept(data, now=NOW + 1800 + 59.9)
    assert _refused(data, now=NOW + 1800 + 60) is Code.CREDENTIAL_EXPIRED
    _accept(data, now=NOW - 1800 - 60)
    assert _refused(data, now=NOW - 1800 - 60.1) is Code.CREDENTIAL_NOT_YET_VALID


def test_future_issuance_is_refused() -> None:
    """iat counts like nbf: what was issued in the future is not valid yet."""
    data = issue(a_credential(issued=NOW + 61), key(ISSUER))
    assert _refused(data) is Code.CREDENTIAL_NOT_YET_VALID
    _accept(issue(a_credential(issued=NOW + 60), key(ISSUER)))


@pytest.mark.parametrize("start", ["issued", "not_before"])
def test_lifetime_over_the_manifests_maximum_is_refused(start: str) -> None:
    """exp minus the earlier of iat and nbf; the maximum itself passes."""
    data = issue(a_credential(**{start: NOW + 1800 - 7200}), key(ISSUER))
    _accept(data, issuers=replace(ISSUERS, max_lifetime=7200))
    assert _refused(data, issuers=replace(ISSUERS, max_lifetime=7199)) is Code.CREDENTIAL_LIFETIME


@pytest.mark.parametrize("owner_of_the_key", [OWNER, ISSUER, OTHER_ISSUER])
def test_key_of_owner_or_issuer_is_no_callers_key(owner_of_the_key: int) -> None:
    """Owner, issuer and caller keys are never the same key."""
    cnf: cbor.Value = {1: {1: 1, -1: 6, -2: public(owner_of_the_key)}}
    assert _refused(_claims({8: cnf})) is Code.CREDENTIAL_MALFORMED


KEY: dict[cbor.Key, cbor.Value] = {1: 1, -1: 6, -2: public(CALLER)}
MALFORMED: list[dict[Any, Any]] = [
    *({name: ...} for name in (1, 2, 3, 4, 5, 6, 8, "models", "quota")),
    {1: ""}, {1: 5}, {1: "a\n"}, {1: "a" * 129}, {2: ""}, {2: b"ward"}, {2: "\x00"},
    {3: ""}, {3: "a b"}, {3: ["clinic"]},
    {4: 0}, {4: "x"}, {4: 1 << 53}, {5: -1}, {5: True}, {6: None}, {6: 1 << 53},
    {8: {}}, {8: {1: KEY, 2: 0}}, {8: {2: KEY}}, {8: KEY}, {8: {1: []}},
    {8: {1: KEY | {1: 2}}}, {8: {1: KEY | {-1: 4}}}, {8: {1: KEY | {-2: bytes(31)}}}, {8: {1: KEY | {-2: b"\x01" + bytes(31)}}},
    {8: {1: KEY | {-3: 0}}}, {8: {1: {1: 1, -1: 6}}},
    {"models": []}, {"models": [""]}, {"models": ["a b"]}, {"models": [1]}, {"models": "tumour"}, {"models": [f"m{n}" for n in range(33)]},
    {"quota": {}}, {"quota": {"requests": 0, "bytes": 1}}, {"quota": {"requests": 1, "bytes": 0}}, {"quota": None},
    {"quota": {"requests": 1, "bytes": 1, "more": 1}}, {"quota": {"requests": True, "bytes": 1}},
    {7: b"cti"}, {"admin": True},
]  # fmt: skip


@pytest.mark.parametrize("changes", MALFORMED, ids=lambda changes: ascii(changes)[:40])
def test_malformed_claims_are_refused(changes: dict[cbor.Key, object]) -> None:
    """Every claim in turn: missing, of another type, out of range, unknown; a key of small order."""
    assert _refused(_claims(changes)) is Code.CREDENTIAL_MALFORMED


def test_envelope_over_1024_bytes_is_refused() -> None:
    """The limit stands before the signature."""
    assert _refused(_claims({"models": [f"{'m' * 60}{at}" for at in range(16)]})) is Code.CREDENTIAL_MALFORMED


# the session's signature


def _signed(secret: bytes = SECRET, th1: bytes = TH1, by: int = CALLER) -> tuple[Credential, bytes, bytes]:
    data = issue(a_credential(), key(ISSUER))
    return a_credential(), key(by).sign(to_be_signed(th1, secret, data)), data


def test_callers_signature_is_accepted() -> None:
    """The key that the credential names, over this session, this secret and this credential."""
    accepted, signature, data = _signed()
    accept_signature(accepted, signature, th1=TH1, secret=SECRET, data=data)


@pytest.mark.parametrize("case", ["other session", "new secret", "other credential", "other key", "no signature", "weak key"])
def test_callers_signature_elsewhere_is_refused(case: str) -> None:
    """Another session's signature, the same with a new secret, under another credential or key: refused alike."""
    accepted, signature, data = _signed(by=9 if case == "other key" else CALLER)
    th1, secret = TH1, SECRET
    match case:
        case "other session":
            th1 = bytes(48)
        case "new secret":
            secret = bytes(32)
        case "other credential":
            data += b"\0"
        case "no signature":
            signature = bytes(64)
        case "weak key":
            accepted, signature = replace(accepted, key=b"\x01" + bytes(31)), b"\x01" + bytes(63)
    with pytest.raises(CredentialError) as caught:
        accept_signature(accepted, signature, th1=th1, secret=secret, data=data)
    assert caught.value.code is Code.CALLER_BAD_SIGNATURE


# issuing


@pytest.mark.parametrize(
    "changes",
    [
        {"key": public(ISSUER)},
        {"key": b"\x01" + bytes(31)},
        {"not_before": NOW + 1800},
        {"models": ()},
        {"models": ("a b",)},
        {"subject": ""},
        {"audience": "a b"},
        {"expires": 1 << 53},
        {"quota": Quota(requests=0, bytes=1)},
        {"models": tuple(f"{'m' * 60}{at}" for at in range(16))},
    ],
)
def test_credential_that_no_enclave_would_accept_is_not_issued(changes: dict[str, object]) -> None:
    """The issuer learns of it, not the caller."""
    with pytest.raises(ValueError, match=r".*"):
        issue(a_credential(**changes), key(ISSUER))


def test_holder_reads_the_claims() -> None:
    """`parse` gives the claims with nothing verified, and the same refusal for what is none."""
    assert parse(issue(a_credential(), key(9))) == a_credential()
    for bad in (b"", b"\xff", _claims({1: ...})):
        with pytest.raises(CredentialError) as caught:
            parse(bad)
        assert caught.value.code is Code.CREDENTIAL_MALFORMED


def test_kid_is_sha256_of_the_issuer_key() -> None:
    """The kid does not carry the key itself."""
    assert issuer_kid(b"key").hex() == "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
    assert credential.SKEW_SECONDS == 60


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    """Any bytes, also as signed claims: CredentialError and nothing else."""
    for candidate in (data, cose.sign(data, kid=issuer_kid(public(ISSUER)), typ=cose.CREDENTIAL, key=key(ISSUER))):
        with pytest.raises(CredentialError):
            _accept(candidate)


GENUINE = issue(a_credential(), key(ISSUER))


@settings(max_examples=200)
@given(st.integers(0, len(GENUINE) - 1), st.integers(1, 255))
def test_every_changed_byte_is_refused(at: int, change: int) -> None:
    """No byte of a credential is outside its signature."""
    with pytest.raises(CredentialError):
        _accept(GENUINE[:at] + bytes([GENUINE[at] ^ change]) + GENUINE[at + 1 :])
