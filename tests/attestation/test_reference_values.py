"""Reference values: none that check too little, one strict file format, an owner's signature that means something."""

import base64
from dataclasses import replace
import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation import reference_values, strict_json, withdrawn
from attestation.checks import Check
from attestation.errors import MalformedReferenceValuesError
from attestation.reference_values import open_signed, parse, render, sign, take_in
from attestation.values import ZERO, Measurement, ReferenceValues, pcr16_of
from attestation.withdrawn import Withdrawal, Withdrawals
from tests.attestation import parties
from tests.attestation.parties import MEASUREMENT, OTHER_KEY, OWNER, OWNER_KEY, VALUES, values
from wire import cbor, cose

OTHER = hashlib.sha384(b"other").digest()


def refused(data: bytes) -> Check:
    """The check that refuses a file."""
    with pytest.raises(MalformedReferenceValuesError) as caught:
        parse(data)
    return caught.value.check


def members(signed: bool = False) -> dict[str, Any]:
    """A good file's members."""
    value: dict[str, Any] = json.loads(sign(VALUES, OWNER) if signed else render(VALUES))
    return value


def file(value: object) -> bytes:
    """As a file."""
    return json.dumps(value).encode()


FULL = values(
    measurements=(MEASUREMENT, Measurement(pcr0=OTHER, pcr1=OTHER, pcr2=OTHER, pcr8=OTHER)),
    pcr17=OTHER,
    pcr3=(OTHER,),
    pcr4=(OTHER, MEASUREMENT.pcr0),
    partition="aws-us-gov",
    max_age=60,
    accept_anyone=True,
    withdrawn=parties.withdrawals(Withdrawal(pcrs={0: OTHER}, reason="leaked")),
)


@pytest.mark.parametrize("held", [VALUES, FULL, values(owner_key=None)])
def test_a_file_reads_back_as_what_was_written(held: ReferenceValues) -> None:
    """Every member survives."""
    assert parse(render(held)) == held


def test_a_signed_file_reads_back_and_says_who_signed() -> None:
    """With the signature verified under the owner key."""
    assert parse(sign(FULL, OWNER)) == FULL
    assert open_signed(sign(FULL, OWNER), owner_key=OWNER_KEY) == FULL


@pytest.mark.parametrize(
    "changes",
    [
        {"measurements": ()},
        {"measurements": (MEASUREMENT,) * 17},
        {"pcr16": ZERO},
        {"pcr16": bytes(32)},
        {"pcr17": None, "min_sequence": None},
        {"pcr17": ZERO},
        {"min_sequence": 0},
        {"min_sequence": 1 << 53},
        {"pcr3": (ZERO,)},
        {"pcr4": (bytes(47),)},
        {"pcr4": (OTHER,) * 65},
        {"partition": ""},
        {"partition": "AWS"},
        {"max_age": 0},
        {"max_age": 301},
        {"sequence": 0},
        {"sequence": 1 << 53},
        {"owner_key": OTHER_KEY},
        {"owner_key": bytes(31)},
        {"owner_key": b"\1" + bytes(31), "pcr16": pcr16_of(b"\1" + bytes(31))},
        {"withdrawn": parties.withdrawals(owner=parties.OTHER_OWNER)},
        {"owner_key": None, "withdrawn": parties.withdrawals()},
    ],
)
def test_values_that_check_too_little_cannot_be_constructed(changes: dict[str, object]) -> None:
    """No image, no owner, no floor, a debug zero, another's list: ValueError, and a file of them is refused."""
    with pytest.raises(ValueError):
        values(**changes)


@pytest.mark.parametrize("name", ["pcr0", "pcr1", "pcr2", "pcr8"])
def test_a_measurement_is_whole_and_not_zero(name: str) -> None:
    """A debug enclave's zeros are no measurement (T5), nor are half of one."""
    for bad in (ZERO, bytes(32), b""):
        with pytest.raises(ValueError, match="PCR"):
            replace(MEASUREMENT, **{name: bad})  # type: ignore[arg-type]


def test_a_label_is_printable() -> None:
    """Labels reach terminals."""
    for bad in ("\x1b[2J", "x" * 101):
        with pytest.raises(ValueError, match="label"):
            replace(MEASUREMENT, label=bad)


@pytest.mark.parametrize("name", sorted(set(reference_values.MEMBERS)))
def test_every_member_is_required(name: str) -> None:
    """A member that is left out is never a default."""
    value = members()
    del value[name]
    assert refused(file(value)) == Check.REFERENCE_VALUES


WRONG: list[tuple[str, object]] = [
    ("format", "cloister-reference-values/2"),
    ("sequence", "1"),
    ("sequence", True),
    ("partition", 1),
    ("owner_key", OWNER_KEY.hex().upper()),
    ("owner_key", "abc"),
    ("measurements", {}),
    ("measurements", []),
    ("measurements", [1]),
    ("measurements", 1),
    ("measurements", [{"pcr0": OTHER.hex(), "pcr1": OTHER.hex()}]),
    ("measurements", [{"pcr0": OTHER.hex(), "pcr1": OTHER.hex(), "pcr2": OTHER.hex(), "pcr5": OTHER.hex()}]),
    ("measurements", [{"pcr0": ZERO.hex(), "pcr1": OTHER.hex(), "pcr2": OTHER.hex()}]),
    ("measurements", [{"pcr0": OTHER.hex(), "pcr1": OTHER.hex(), "pcr2": OTHER.hex(), "label": 1}]),
    ("pcr16", None),
    ("pcr16", "0x" + OTHER.hex()),
    ("pcr17", 5),
    ("min_sequence", None),
    ("min_sequence", "5"),
    ("pcr3", OTHER.hex()),
    ("pcr4", [None]),
    ("max_age", 1000),
    ("accept_anyone", 0),
    ("accept_anyone", "false"),
    ("withdrawn", 1),
    ("withdrawn", "not base64!"),
    ("unknown", None),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_every_member_has_its_type(name: str, value: object) -> None:
    """And an unknown member is refused, for it might have been meant as a check."""
    assert refused(file({**members(), name: value})) == Check.REFERENCE_VALUES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"format": 1.5}',
        b'{"format": NaN}',
        b'{"sequence": ' + b"9" * 5000 + b"}",
        b'{"pcr16": "a", "pcr16": "b"}',
        b'{"label": "\\ud800"}',
        b" " * 300_000,
    ],
)
def test_a_file_is_strict_json(data: bytes) -> None:
    """Duplicate members, floats, bombs and other encodings are refused."""
    assert refused(data) == Check.REFERENCE_VALUES


def test_json_is_bounded() -> None:
    """A value that is good but for its length is refused at the first byte too many."""
    assert 1 == strict_json.parse(b"1" + b" " * 9, limit=10)
    with pytest.raises(strict_json.MalformedJsonError):
        strict_json.parse(b"1" + b" " * 10, limit=10)


def test_a_duplicate_member_never_hides_another() -> None:
    """The file as a whole is good but for a second `pcr16`."""
    data = render(VALUES).replace(b'"pcr17"', b'"pcr16": "' + OTHER.hex().encode() + b'", "pcr17"', 1)
    assert refused(data) == Check.REFERENCE_VALUES
    with pytest.raises(strict_json.MalformedJsonError, match="twice"):
        strict_json.parse(b'{"a": 1, "b": {"c": 1, "c": 1}}')


def test_the_measurement_of_an_image_is_read_from_both_tools() -> None:
    """`cloister image measure --json` and nitro-cli name the registers otherwise; anything else is refused by name."""
    ours = {"pcrs": {str(index): value.hex() for index, value in MEASUREMENT.pcrs.items()}}
    theirs = {"Measurements": {f"PCR{index}": value.hex() for index, value in MEASUREMENT.pcrs.items()}}
    found = [reference_values.measurement_of(json.loads(json.dumps(value))) for value in (ours, theirs)]
    assert [item.pcrs for item in found] == [MEASUREMENT.pcrs] * 2
    for bad in ({}, [], {"pcrs": []}, {"pcrs": {}}, {"Measurements": {"PCR0": "00"}}):
        with pytest.raises(MalformedReferenceValuesError):
            reference_values.measurement_of(json.loads(json.dumps(bad)))


def test_an_edited_file_is_refused() -> None:
    """The signature is over what the file says, member by member."""
    edited = {**members(signed=True), "min_sequence": 1}
    assert refused(file(edited)) == Check.REFERENCE_VALUES_SIGNATURE


def test_a_damaged_signature_is_refused_even_where_none_is_demanded() -> None:
    """A signature that is there must verify."""
    value = members(signed=True)
    raw = base64.b64decode(value["signature"])
    flipped = base64.b64encode(raw[:-1] + bytes((raw[-1] ^ 1,))).decode("ascii")
    for bad in (flipped, value["signature"][:-4] + "AAA=", "", "AAAA"):
        assert refused(file({**value, "signature": bad})) == Check.REFERENCE_VALUES_SIGNATURE


def test_another_signer_is_refused() -> None:
    """Someone else's valid signature over the same members is not the owner's."""
    theirs = replace(VALUES, owner_key=OTHER_KEY, pcr16=pcr16_of(OTHER_KEY))
    signed_by_them = json.loads(sign(theirs, parties.OTHER_OWNER))
    foreign = cose.sign(
        strict_json.canonical(members()),
        kid=OTHER_KEY,
        typ=cose.REFERENCE_VALUES,
        key=parties.OTHER_OWNER,
    )
    envelope = base64.b64encode(foreign).decode()
    assert refused(file({**members(), "signature": envelope})) == Check.REFERENCE_VALUES_OWNER
    with pytest.raises(MalformedReferenceValuesError) as caught:
        open_signed(file(signed_by_them), owner_key=OWNER_KEY)
    assert caught.value.check == Check.REFERENCE_VALUES_OWNER


def test_an_envelope_of_another_type_is_no_signature() -> None:
    """What the owner signed as a manifest or a list does not pass for reference values."""
    envelope = cose.sign(strict_json.canonical(members()), kid=OWNER_KEY, typ=cose.WITHDRAWN, key=OWNER)
    value = {**members(), "signature": base64.b64encode(envelope).decode()}
    assert refused(file(value)) == Check.REFERENCE_VALUES_SIGNATURE


def test_an_update_is_signed_and_newer() -> None:
    """A file from anywhere needs the owner's signature and a sequence above the one held."""
    newer = sign(replace(VALUES, sequence=4), OWNER)
    assert open_signed(newer, owner_key=OWNER_KEY, after=3).sequence == 4
    for data, after, check in (
        (render(VALUES), None, Check.REFERENCE_VALUES_SIGNATURE),
        (newer, 4, Check.REFERENCE_VALUES_SEQUENCE),
        (newer, 5, Check.REFERENCE_VALUES_SEQUENCE),
    ):
        with pytest.raises(MalformedReferenceValuesError) as caught:
            open_signed(data, owner_key=OWNER_KEY, after=after)
        assert caught.value.check == check


def test_a_list_taken_in_leaves_the_signature() -> None:
    """A list that came later stands beside what the owner signed; of the two the one with the higher sequence counts."""
    signed = sign(replace(VALUES, withdrawn=parties.withdrawals(sequence=3)), OWNER)
    taken = take_in(signed, parties.withdrawals(sequence=5))
    opened = open_signed(taken, owner_key=OWNER_KEY)
    assert opened == replace(VALUES, withdrawn=parties.withdrawals(sequence=5)) == parse(taken)
    assert {k: v for k, v in json.loads(taken).items() if k != "newer_withdrawn"} == json.loads(signed)
    assert parse(take_in(taken, parties.withdrawals(sequence=6))).withdrawn == parties.withdrawals(sequence=6)
    older = {**json.loads(signed), "newer_withdrawn": base64.b64encode(parties.withdrawals(sequence=2).envelope).decode()}
    assert parse(file(older)).withdrawn == parties.withdrawals(sequence=3)
    assert refused(file({**json.loads(taken), "min_sequence": 1})) == Check.REFERENCE_VALUES_SIGNATURE


def test_a_list_is_taken_in_from_the_owner_alone_and_never_an_older_one() -> None:
    """Another owner's list is refused, in a file as on the way into it; so is one older than that held, on either place."""
    signed = sign(replace(VALUES, withdrawn=parties.withdrawals(sequence=3)), OWNER)
    foreign = parties.withdrawals(owner=parties.OTHER_OWNER, sequence=9)
    for data, listed, check in (
        (signed, foreign, Check.WITHDRAWALS_SIGNATURE),
        (signed, parties.withdrawals(sequence=2), Check.WITHDRAWALS_SEQUENCE),
        (take_in(signed, parties.withdrawals(sequence=5)), parties.withdrawals(sequence=4), Check.WITHDRAWALS_SEQUENCE),
    ):
        with pytest.raises(MalformedReferenceValuesError) as caught:
            take_in(data, listed)
        assert caught.value.check == check
    inside = {**json.loads(signed), "newer_withdrawn": base64.b64encode(foreign.envelope).decode()}
    assert refused(file(inside)) == Check.WITHDRAWALS_SIGNATURE
    for value, check in ((None, Check.REFERENCE_VALUES), ("", Check.WITHDRAWALS), ("AAAA", Check.WITHDRAWALS)):
        assert refused(file({**json.loads(signed), "newer_withdrawn": value})) == check


def test_only_the_owner_signs() -> None:
    """Signing with another key is misuse."""
    with pytest.raises(ValueError, match="owner"):
        sign(VALUES, parties.OTHER_OWNER)


@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_our_error(data: bytes) -> None:
    """No bytes raise anything else."""
    refused(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*reference_values.MEMBERS, "signature"]), JSON, min_size=1))
def test_any_member_gives_values_or_our_error(changes: dict[str, object]) -> None:
    """Neither does any JSON value in any member."""
    try:
        parse(file({**members(), **changes}))
    except MalformedReferenceValuesError:
        return


LISTED = Withdrawals(
    owner_key=OWNER_KEY,
    sequence=2,
    issued=parties.NOW,
    not_after=parties.NOW + 60,
    entries=(Withdrawal(pcrs={0: OTHER, 17: OTHER}, reason="leaked"),),
)


def test_a_list_of_withdrawals_reads_back() -> None:
    """Signed, opened, equal; and the envelope is kept to be passed on."""
    envelope = withdrawn.sign(LISTED, OWNER)
    opened = withdrawn.open_envelope(envelope)
    assert (opened.withdrawals, opened.envelope) == (LISTED, envelope)


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0},
        {"sequence": 1 << 53},
        {"issued": 0},
        {"not_after": parties.NOW},
        {"not_after": parties.NOW + 90 * 86_400 + 1},
        {"entries": LISTED.entries * 257},
    ],
)
def test_a_list_is_bounded_in_time_and_size(changes: dict[str, Any]) -> None:
    """It ends after it begins, lives for 90 days at most, and has a sequence."""
    with pytest.raises(ValueError):
        replace(LISTED, **changes)


@pytest.mark.parametrize(("pcrs", "reason"), [({}, ""), ({5: OTHER}, ""), ({0: bytes(32)}, ""), ({0: OTHER}, "x" * 201)])
def test_a_withdrawal_names_whole_registers(pcrs: dict[int, bytes], reason: str) -> None:
    """An entry without registers would withdraw everything."""
    with pytest.raises(ValueError):
        Withdrawal(pcrs=pcrs, reason=reason)


def opened(data: bytes) -> Check:
    """The check that refuses an envelope."""
    with pytest.raises(MalformedReferenceValuesError) as caught:
        withdrawn.open_envelope(data)
    return caught.value.check


def payload(**changes: Any) -> bytes:
    """A validly signed list whose payload differs."""
    value: Any = {
        "version": 1,
        "sequence": 2,
        "issued": parties.NOW,
        "not_after": parties.NOW + 60,
        "entries": [{"pcrs": {0: OTHER}, "reason": ""}],
    }
    return cose.sign(cbor.encode(value | changes), kid=OWNER_KEY, typ=cose.WITHDRAWN, key=OWNER)


BAD: list[dict[str, Any]] = [
    {"version": 2},
    {"sequence": 0},
    {"issued": parties.NOW + 100},
    {"extra": 1},
    {"entries": {}},
    {"entries": [1]},
    {"entries": [{"pcrs": {}, "reason": ""}]},
    {"entries": [{"pcrs": {0: OTHER}}]},
    {"entries": [{"pcrs": {0: OTHER}, "reason": "\x1b"}]},
    {"entries": [{"pcrs": {"0": OTHER}, "reason": ""}]},
    {"entries": [{"pcrs": [OTHER], "reason": ""}]},
    {"entries": [{"pcrs": {0: OTHER, "1": OTHER}, "reason": ""}]},
    {"entries": [{"pcrs": {0: OTHER}, "reason": "", "more": 1}]},
]


@pytest.mark.parametrize("changes", BAD)
def test_a_signed_list_is_still_parsed_strictly(changes: dict[str, object]) -> None:
    """The owner's signature makes no malformed list good."""
    assert withdrawn.open_envelope(payload())
    assert opened(payload(**changes)) == Check.WITHDRAWALS


def test_a_list_is_signed_by_the_key_it_names() -> None:
    """A damaged signature, an envelope of another type and any bytes are refused."""
    envelope = withdrawn.sign(LISTED, OWNER)
    assert opened(envelope[:-1] + bytes([envelope[-1] ^ 1])) == Check.WITHDRAWALS_SIGNATURE
    manifest = cose.sign(b"", kid=OWNER_KEY, typ=cose.MANIFEST, key=OWNER)
    assert opened(manifest) == Check.WITHDRAWALS
    with pytest.raises(ValueError, match="owner"):
        withdrawn.sign(LISTED, parties.OTHER_OWNER)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_list(data: bytes) -> None:
    """No bytes raise anything else."""
    opened(data)
