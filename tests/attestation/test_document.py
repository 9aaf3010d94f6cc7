"""Parsing a document: each check of 1xx to 3xx refuses what it is for, and any bytes give a value or our error."""

import cbor2
from hypothesis import example, given
from hypothesis import strategies as st
import pytest

from attestation import document
from attestation.checks import Check
from attestation.errors import MalformedEvidenceError
from tests.attestation import forge
from tests.attestation.forge import REMOVED

SIGNATURE = bytes(96)
DER = b"\x30" * 100
FIELDS = {"ders": (DER, DER)}


def refused(data: bytes) -> Check:
    """The check that refuses these bytes."""
    with pytest.raises(MalformedEvidenceError) as caught:
        document.parse(data)
    return caught.value.check


def enveloped(payload: bytes) -> bytes:
    """An envelope nobody signed: parsing does not look."""
    return forge.envelope(payload, signature=SIGNATURE)


def with_fields(**changes: object) -> bytes:
    """A document whose payload differs in these members."""
    return enveloped(forge.indefinite(forge.fields((DER, DER), **changes)))


def raw_payload(extra: bytes) -> bytes:
    """A document whose payload has one more member, encoded as given."""
    body = forge.indefinite(forge.fields((DER, DER)))
    return enveloped(body[:-1] + extra + b"\xff")


def test_a_document_is_parsed_into_its_members() -> None:
    """Every member arrives as it was sent, certificates root first."""
    parsed = document.parse(with_fields(public_key=b"k", user_data=b"", extra=1))
    assert parsed.module_id == forge.MODULE_ID
    assert parsed.timestamp == int(forge.DOCUMENT_TIME.timestamp() * 1000)
    assert dict(parsed.pcrs) == forge.pcrs()
    assert parsed.chain == (DER, DER)
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == (b"k", b"", forge.NONCE)
    assert parsed.unknown_keys == ("extra",)
    assert parsed.signature == SIGNATURE


def test_definite_and_indefinite_maps_are_the_same_document() -> None:
    """AWS changed the encoding in 2025; both are read alike."""
    members = forge.fields((DER, DER))
    old, new = document.parse(enveloped(cbor2.dumps(members))), document.parse(enveloped(forge.indefinite(members)))
    assert (old.module_id, old.timestamp, dict(old.pcrs)) == (new.module_id, new.timestamp, dict(new.pcrs))


def test_one_tag_18_is_allowed() -> None:
    """The document may carry the COSE_Sign1 tag, as AWS's text says."""
    assert document.parse(b"\xd2" + with_fields()).module_id == forge.MODULE_ID


@pytest.mark.parametrize("size", [0, document.DOCUMENT_MAX + 1])
def test_size_limits_come_first(size: int) -> None:
    """An empty document and one of more than 32,768 bytes are refused for their size alone."""
    assert refused(b"\x84" * size) == Check.DOCUMENT_SIZE


def test_the_largest_size_is_not_refused_for_it() -> None:
    """32,768 bytes are looked into."""
    assert refused(b"\x84" * document.DOCUMENT_MAX) != Check.DOCUMENT_SIZE


@pytest.mark.parametrize(
    ("extra", "check"),
    [
        (b"\x61x\x19\x01", Check.CBOR_TRUNCATED),
        (b"\x61x\x9a\xff\xff\xff\xff", Check.CBOR_COUNT),
        (b"\x61x\xba\x00\x01\xff\xff", Check.CBOR_COUNT),
        (b"\x61x\x18\x01", Check.CBOR_NOT_SHORTEST_FORM),
        (b"\x61x\x58\x01a", Check.CBOR_NOT_SHORTEST_FORM),
        (b"\x61x\x5f\x41a\xff", Check.CBOR_INDEFINITE_STRING),
        (b"\x61x\x7f\x61a\xff", Check.CBOR_INDEFINITE_STRING),
        (b"\x61x\x1c", Check.CBOR_RESERVED),
        (b"\x61x\x1f", Check.CBOR_RESERVED),
        (b"\x61x\xc1\x01", Check.CBOR_TAG),
        (b"\x61x\xf9\x00\x00", Check.CBOR_FLOAT_OR_SIMPLE),
        (b"\x61x\xf5", Check.CBOR_FLOAT_OR_SIMPLE),
        (b"\x61x\xf7", Check.CBOR_FLOAT_OR_SIMPLE),
        (b"\x41x\x01", Check.CBOR_KEY_TYPE),
        (b"\xf6\x01", Check.CBOR_KEY_TYPE),
        (b"\x61x\x01\x61x\x01", Check.CBOR_DUPLICATE_KEY),
        (b"\x65nonce\xf6", Check.CBOR_DUPLICATE_KEY),
        (b"\x61x" + b"\x81" * 8 + b"\x01", Check.CBOR_DEPTH),
        (b"\x61x\x61\xff", Check.CBOR_TEXT),
        (b"\x61x\x82\x01\xff", Check.CBOR_BREAK),
    ],
)
def test_cbor_rules(extra: bytes, check: Check) -> None:
    """Each encoding that the profile forbids is refused by its own number, inside the payload too."""
    assert refused(raw_payload(extra)) == check


def test_depth_eight_is_the_last_that_passes() -> None:
    """A value at depth 8 is read, one deeper is not."""
    assert document.parse(raw_payload(b"\x61x" + b"\x81" * 6 + b"\x01")).unknown_keys == ("x",)
    assert refused(raw_payload(b"\x61x" + b"\x81" * 7 + b"\x01")) == Check.CBOR_DEPTH


def test_nothing_follows_the_document_or_the_payload() -> None:
    """One byte after the envelope or the payload map is refused."""
    assert refused(with_fields() + b"\0") == Check.CBOR_TRAILING_BYTES
    assert refused(enveloped(forge.indefinite(forge.fields((DER, DER))) + b"\0")) == Check.CBOR_TRAILING_BYTES


PAYLOAD = forge.indefinite(forge.fields((DER, DER)))


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (cbor2.dumps({}), Check.COSE_ARRAY),
        (cbor2.dumps([forge.PROTECTED, {}, PAYLOAD]), Check.COSE_ARRAY),
        (cbor2.dumps([forge.PROTECTED, {}, PAYLOAD, SIGNATURE, 0]), Check.COSE_ARRAY),
        (b"\x9f" + cbor2.dumps([forge.PROTECTED, {}, PAYLOAD, SIGNATURE])[1:] + b"\xff", Check.COSE_ARRAY),
        (b"\xd2\xd2" + cbor2.dumps([forge.PROTECTED, {}, PAYLOAD, SIGNATURE]), Check.CBOR_TAG),
        (b"\xd1" + cbor2.dumps([forge.PROTECTED, {}, PAYLOAD, SIGNATURE]), Check.CBOR_TAG),
        (forge.envelope(PAYLOAD, protected=b"\xa1\x01\x26", signature=SIGNATURE), Check.COSE_PROTECTED),
        (forge.envelope(PAYLOAD, protected=b"\xbf\x01\x38\x22\xff", signature=SIGNATURE), Check.COSE_PROTECTED),
        (forge.envelope(PAYLOAD, protected=b"", signature=SIGNATURE), Check.COSE_PROTECTED),
        (forge.envelope(PAYLOAD, protected={1: -35}, signature=SIGNATURE), Check.COSE_PROTECTED),
        (forge.envelope(PAYLOAD, unprotected={4: b"x"}, signature=SIGNATURE), Check.COSE_UNPROTECTED),
        (forge.envelope(PAYLOAD, unprotected=b"", signature=SIGNATURE), Check.COSE_UNPROTECTED),
        (forge.envelope(PAYLOAD, unprotected=[], signature=SIGNATURE), Check.COSE_UNPROTECTED),
        (forge.envelope(b"", signature=SIGNATURE), Check.COSE_PAYLOAD),
        (forge.envelope(bytes(16_385), signature=SIGNATURE), Check.COSE_PAYLOAD),
        (cbor2.dumps([forge.PROTECTED, {}, None, SIGNATURE]), Check.COSE_PAYLOAD),
        (forge.envelope(PAYLOAD, signature=bytes(95)), Check.COSE_SIGNATURE_SIZE),
        (forge.envelope(PAYLOAD, signature=bytes(97)), Check.COSE_SIGNATURE_SIZE),
        (cbor2.dumps([forge.PROTECTED, {}, PAYLOAD, "x" * 96]), Check.COSE_SIGNATURE_SIZE),
    ],
)
def test_cose_rules(data: bytes, check: Check) -> None:
    """Every part of the envelope is what the profile fixes, byte for byte."""
    assert refused(data) == check


def test_a_payload_of_16384_bytes_is_read() -> None:
    """The limit itself passes."""
    short = len(forge.indefinite(forge.fields((DER, DER), x="")))
    payload = forge.indefinite(forge.fields((DER, DER), x="x" * (16_384 - short - 2)))
    assert len(payload) == 16_384
    assert document.parse(enveloped(payload)).unknown_keys == ("x",)


NO_PCRS: dict[int, bytes] = {}
TEXT_INDEX: dict[int | str, bytes] = {0: bytes(48), 1: bytes(48), 2: bytes(48), "0": bytes(48)}
CHANGES: list[tuple[dict[str, object], Check]] = [
    ({"module_id": REMOVED}, Check.MODULE_ID),
    ({"module_id": ""}, Check.MODULE_ID),
    ({"module_id": b"i-0"}, Check.MODULE_ID),
    ({"digest": REMOVED}, Check.DIGEST),
    ({"digest": "SHA512"}, Check.DIGEST),
    ({"timestamp": REMOVED}, Check.TIMESTAMP),
    ({"timestamp": 0}, Check.TIMESTAMP),
    ({"timestamp": -1}, Check.TIMESTAMP),
    ({"timestamp": 1 << 53}, Check.TIMESTAMP),
    ({"timestamp": "1"}, Check.TIMESTAMP),
    ({"pcrs": REMOVED}, Check.PCRS),
    ({"pcrs": NO_PCRS}, Check.PCRS),
    ({"pcrs": [bytes(48)] * 3}, Check.PCRS),
    ({"pcrs": {index: bytes(48) for index in range(33)}}, Check.PCRS),
    ({"pcrs": {**forge.pcrs(), 32: bytes(48)}}, Check.PCR_INDEX),
    ({"pcrs": {**forge.pcrs(), -1: bytes(48)}}, Check.PCR_INDEX),
    ({"pcrs": TEXT_INDEX}, Check.PCR_INDEX),
    ({"pcrs": {**forge.pcrs(), 5: bytes(32)}}, Check.PCR_LENGTH),
    ({"pcrs": {**forge.pcrs(), 5: bytes(64)}}, Check.PCR_LENGTH),
    ({"pcrs": {**forge.pcrs(), 5: "x" * 48}}, Check.PCR_LENGTH),
    ({"pcrs": {0: bytes(48), 1: bytes(48)}}, Check.PCR_REQUIRED),
    ({"pcrs": {1: bytes(48), 2: bytes(48)}}, Check.PCR_REQUIRED),
    ({"pcrs": {0: bytes(48), 2: bytes(48)}}, Check.PCR_REQUIRED),
    ({"certificate": REMOVED}, Check.CERTIFICATE),
    ({"certificate": b""}, Check.CERTIFICATE),
    ({"certificate": bytes(1025)}, Check.CERTIFICATE),
    ({"cabundle": REMOVED}, Check.CABUNDLE),
    ({"cabundle": []}, Check.CABUNDLE),
    ({"cabundle": {0: DER}}, Check.CABUNDLE),
    ({"cabundle": [DER, b""]}, Check.CABUNDLE_ENTRY),
    ({"cabundle": [DER, bytes(1025)]}, Check.CABUNDLE_ENTRY),
    ({"cabundle": [DER, None]}, Check.CABUNDLE_ENTRY),
    ({"public_key": bytes(1025)}, Check.PUBLIC_KEY),
    ({"public_key": "k"}, Check.PUBLIC_KEY),
    ({"user_data": bytes(1025)}, Check.USER_DATA),
    ({"user_data": 0}, Check.USER_DATA),
    ({"nonce": bytes(1025)}, Check.NONCE_FIELD),
    ({"nonce": [1]}, Check.NONCE_FIELD),
    ({"nitrotpm_pcrs": NO_PCRS}, Check.NITROTPM),
    ({"pcrs": REMOVED, "nitrotpm_pcrs": {0: bytes(48)}}, Check.NITROTPM),
    ({"module_id": "i-0123456789abcdef0-tpm0123456789abcdef"}, Check.NITROTPM),
]


@pytest.mark.parametrize(("changes", "check"), CHANGES)
def test_payload_rules(changes: dict[str, object], check: Check) -> None:
    """Every member has its type and bounds, each with a number of its own."""
    assert refused(with_fields(**changes)) == check


@pytest.mark.parametrize("payload", [cbor2.dumps([]), cbor2.dumps("text"), cbor2.dumps(0)])
def test_the_payload_is_a_map(payload: bytes) -> None:
    """Anything else is refused."""
    assert refused(enveloped(payload)) == Check.PAYLOAD_MAP


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
@pytest.mark.parametrize(("sent", "read"), [(None, None), (REMOVED, None), (b"", b""), (bytes(1024), bytes(1024))])
def test_optional_fields(name: str, sent: object, read: bytes | None) -> None:
    """Null and absent are the same; empty and 1,024 bytes occur in genuine documents."""
    assert getattr(document.parse(with_fields(**{name: sent})), name) == read


def test_extreme_values_that_pass() -> None:
    """32 PCRs, the last timestamp and certificates of 1,024 bytes are of the profile."""
    pcrs = {index: bytes(48) for index in range(32)}
    parsed = document.parse(with_fields(pcrs=pcrs, timestamp=(1 << 53) - 1, certificate=bytes(1024), cabundle=[bytes(1024)]))
    assert (len(parsed.pcrs), parsed.timestamp) == (32, (1 << 53) - 1)


def judged(data: bytes) -> None:
    """A value or our error; anything else fails the test."""
    try:
        document.parse(data)
    except MalformedEvidenceError:
        return


@given(st.binary(max_size=400))
@example(b"\xd2")
@example(b"\x9b" + b"\xff" * 8)
@example(b"\x5b" + b"\xff" * 8)
@example(b"\x81" * 30_000)
def test_any_bytes_give_a_document_or_our_error(data: bytes) -> None:
    """No bytes raise anything else."""
    judged(data)


@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 8))
def test_a_damaged_document_gives_a_document_or_our_error(place: int, value: int, cut: int) -> None:
    """Neither does a good document with a byte changed and its end cut."""
    good = with_fields()
    data = bytearray(good)
    data[place % len(data)] = value
    judged(bytes(data[: len(data) - cut]))


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=60) | st.text(max_size=20) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(0, 40), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(document.KNOWN)), CBOR), st.booleans())
def test_any_payload_gives_a_document_or_our_error(changes: dict[str, object], indefinite: bool) -> None:
    """Neither does any CBOR value in any member."""
    members = forge.fields((DER, DER), **changes)
    judged(enveloped(forge.indefinite(members) if indefinite else cbor2.dumps(members)))
