"""Authenticity: time, signature, and the two entry points, each limit met and exceeded by one step."""

from datetime import UTC, datetime, timedelta, timezone
import hashlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation import verify
from attestation.checks import Check
from attestation.errors import AttestationError, MalformedEvidenceError, UntrustedEvidenceError
from attestation.verify import Moment
from tests.attestation import forge
from tests.attestation.forge import DOCUMENT_TIME, NOW, changed, under_root

# Damaged certificates have odd serial numbers, about which the parser warns before it refuses them.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

SECOND = timedelta(seconds=1)
LEAF_END = DOCUMENT_TIME + timedelta(hours=2)


def live(data: bytes, now: datetime = NOW) -> Check | None:
    """The check that refuses a document live, None where it passes."""
    try:
        verify.verify(data, now=now, roots=forge.roots())
    except AttestationError as error:
        return error.checks[0]
    return None


def archived(data: bytes) -> Check | None:
    """The check that refuses a document at its own moment, None where it passes."""
    try:
        verify.verify_archive(data, roots=forge.roots())
    except AttestationError as error:
        return error.checks[0]
    return None


def test_claims_are_what_the_document_says() -> None:
    """Every claim of an accepted document, and which root vouched for it."""
    data = forge.document(public_key=b"k", user_data=b"u", extra=0)
    claims = verify.verify(data, now=NOW, roots=forge.roots())
    assert (claims.partition, claims.module_id, claims.timestamp) == ("aws", forge.MODULE_ID, DOCUMENT_TIME)
    assert dict(claims.pcrs) == forge.pcrs()
    assert (claims.public_key, claims.user_data, claims.nonce, claims.unknown_keys) == (b"k", b"u", forge.NONCE, ("extra",))
    assert claims.certificates == forge.default_chain()
    assert claims.expires == LEAF_END
    assert claims.digest == hashlib.sha256(data).digest()
    assert claims.moment is Moment.NOW


def test_archived_claims_say_so() -> None:
    """What was judged at the document's own moment cannot pass for a live verdict."""
    assert verify.verify_archive(forge.document(), roots=forge.roots()).moment is Moment.DOCUMENT


def test_the_tests_root_means_nothing_to_the_product() -> None:
    """Without an explicit root only AWS's are trusted (T1)."""
    with pytest.raises(UntrustedEvidenceError) as caught:
        verify.verify(forge.document(), now=NOW)
    assert caught.value.check == Check.ROOT
    with pytest.raises(UntrustedEvidenceError):
        verify.verify_archive(forge.document())


@pytest.mark.parametrize(
    ("now", "check"),
    [
        (DOCUMENT_TIME - timedelta(seconds=300), None),
        (DOCUMENT_TIME - timedelta(seconds=301), Check.CLOCK_BEHIND),
        (DOCUMENT_TIME + timedelta(seconds=300), None),
        (DOCUMENT_TIME + timedelta(seconds=301), Check.CLOCK_AHEAD),
        (LEAF_END, Check.CLOCK_AHEAD),
        (LEAF_END + SECOND, Check.EXPIRED),
        (datetime(2019, 1, 1, tzinfo=UTC), Check.CLOCK_BEHIND),
    ],
)
def test_the_clock_may_differ_by_300_seconds(now: datetime, check: Check | None) -> None:
    """A clock ahead, a clock behind and an expired certificate are told apart (T3)."""
    assert live(forge.document(), now) == check


def test_another_time_zone_is_the_same_moment() -> None:
    """Aware datetimes compare as moments; naive ones are misuse."""
    assert live(forge.document(), NOW.astimezone(timezone(timedelta(hours=9)))) is None
    with pytest.raises(ValueError, match="aware"):
        verify.verify(forge.document(), now=NOW.replace(tzinfo=None), roots=forge.roots())


@pytest.mark.parametrize("name", ["regional", "zonal", "instance", "leaf"])
def test_no_certificate_begins_after_the_document(name: str) -> None:
    """There is no tolerance at the document's timestamp: both clocks are AWS's."""
    assert live(forge.document(under_root(changed(name, begins=DOCUMENT_TIME)))) is None
    late = forge.document(under_root(changed(name, begins=DOCUMENT_TIME + SECOND)))
    assert (live(late), archived(late)) == (Check.BEGINS_AFTER_DOCUMENT, Check.BEGINS_AFTER_DOCUMENT)


@pytest.mark.parametrize("name", ["regional", "zonal", "instance", "leaf"])
def test_no_certificate_ended_before_the_document(name: str) -> None:
    """The end of a certificate is its last valid second, for the document and for the verifier."""
    assert archived(forge.document(under_root(changed(name, ends=DOCUMENT_TIME)))) is None
    over = forge.document(under_root(changed(name, ends=DOCUMENT_TIME - SECOND)))
    assert (live(over), archived(over)) == (Check.ENDED_BEFORE_DOCUMENT, Check.ENDED_BEFORE_DOCUMENT)


@pytest.mark.parametrize("name", ["regional", "zonal", "instance", "leaf"])
def test_a_certificate_that_expired_since_is_refused_live_alone(name: str) -> None:
    """There is no tolerance on notAfter; the archive judges the document's moment."""
    data = forge.document(under_root(changed(name, ends=NOW - SECOND)))
    assert (live(data), archived(data)) == (Check.EXPIRED, None)
    assert live(forge.document(under_root(changed(name, ends=NOW)))) is None


@pytest.mark.parametrize("timestamp", [1, (1 << 53) - 1, 253_402_300_799_000])
def test_timestamps_far_from_the_chain_are_refused(timestamp: int) -> None:
    """The first millisecond, the last of datetime's years and the largest number of the profile."""
    check = Check.BEGINS_AFTER_DOCUMENT if timestamp == 1 else Check.ENDED_BEFORE_DOCUMENT
    assert (live(forge.document(timestamp=timestamp)), archived(forge.document(timestamp=timestamp))) == (check, check)


def _signed(message_change: str) -> bytes:
    payload = forge.indefinite(forge.fields())
    match message_change:
        case "context":
            return forge.envelope(payload, context="Signature")
        case "other payload":
            good = forge.envelope(forge.indefinite(forge.fields(nonce=bytes(32))))
            return forge.envelope(payload, signature=good[-96:])
        case "instance key":
            key = forge.key("instance")
            return forge.envelope(payload, signature=forge.raw_signature(key, b"x"))  # type: ignore[arg-type]
        case "zeros":
            return forge.envelope(payload, signature=bytes(96))
        case _:
            return forge.envelope(payload, signature=b"\xff" * 96)


@pytest.mark.parametrize("change", ["context", "other payload", "instance key", "zeros", "ones"])
def test_the_leaf_key_signed_these_bytes(change: str) -> None:
    """A signature over anything else, by anyone else, or of no meaning, is refused."""
    assert (live(_signed(change)), archived(_signed(change))) == (Check.COSE_SIGNATURE, Check.COSE_SIGNATURE)


ORDER_P384 = int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16)


def test_both_twins_of_a_signature_verify() -> None:
    """Half of AWS's documents are high-s: low-s is never demanded, and no signature is an identity."""
    data = forge.document()
    s = int.from_bytes(data[-48:], "big")
    twin = data[:-48] + (ORDER_P384 - s).to_bytes(48, "big")
    assert (live(data), live(twin)) == (None, None)
    claims, other = (verify.verify(item, now=NOW, roots=forge.roots()) for item in (data, twin))
    assert claims.digest != other.digest


def test_malformed_and_untrusted_are_different_errors() -> None:
    """Bytes that do not parse and bytes that nobody vouches for have a class each; neither returns claims."""
    with pytest.raises(MalformedEvidenceError):
        verify.verify(b"", now=NOW, roots=forge.roots())
    with pytest.raises(UntrustedEvidenceError):
        verify.verify(_signed("zeros"), now=NOW, roots=forge.roots())


GOOD = forge.document()


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused_with_our_error(place: int, flip: int) -> None:
    """No byte of a document is free."""
    damaged = bytearray(GOOD)
    damaged[place] ^= flip
    assert archived(bytes(damaged)) is not None


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_error(data: bytes) -> None:
    """No bytes raise anything else, and random ones are no document."""
    assert archived(data) is not None


def test_messages_carry_no_bytes_of_the_document() -> None:
    """An error names check and place; what a hostile document says is not repeated."""
    with pytest.raises(AttestationError) as caught:
        verify.verify(forge.document(module_id="\x1b[2J secret", timestamp=1), now=NOW, roots=forge.roots())
    assert "secret" not in str(caught.value)
