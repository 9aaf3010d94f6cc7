"""Strict CBOR: one rule, one refusal; compared with cbor2 on everything that is accepted."""

from collections.abc import Callable
import enum

import cbor2
from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire.cbor import DEPTH_MAX, CborRule, MalformedCborError, Value, decode, decode_evidence, encode

numbers = st.integers(-(1 << 64), (1 << 64) - 1)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.binary(max_size=40), st.text(max_size=40))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(numbers, st.text(max_size=9)), inner, max_size=5),
    ),
    max_leaves=12,
)

# (rule, bytes): what both profiles refuse
REFUSED: list[tuple[CborRule, str]] = [
    (CborRule.TRUNCATED, ""),
    (CborRule.TRUNCATED, "18"),
    (CborRule.TRUNCATED, "1b00000001"),
    (CborRule.TRUNCATED, "42ff"),
    (CborRule.TRUNCATED, "61"),
    (CborRule.TRAILING, "0000"),
    (CborRule.TRAILING, "80f6"),
    (CborRule.NOT_SHORTEST, "1817"),
    (CborRule.NOT_SHORTEST, "1900ff"),
    (CborRule.NOT_SHORTEST, "1a0000ffff"),
    (CborRule.NOT_SHORTEST, "1b00000000ffffffff"),
    (CborRule.NOT_SHORTEST, "5800"),
    (CborRule.NOT_SHORTEST, "b800"),
    (CborRule.INDEFINITE_STRING, "5f4100ff"),
    (CborRule.INDEFINITE_STRING, "7f6161ff"),
    (CborRule.RESERVED, "1c"),
    (CborRule.RESERVED, "1f"),
    (CborRule.RESERVED, "3f"),
    (CborRule.RESERVED, "df"),
    (CborRule.RESERVED, "fe"),
    (CborRule.TAG, "c000"),
    (CborRule.TAG, "d28443a10126"),
    (CborRule.SIMPLE, "f7"),
    (CborRule.SIMPLE, "e0"),
    (CborRule.SIMPLE, "f818"),
    (CborRule.SIMPLE, "f90000"),
    (CborRule.SIMPLE, "fb0000000000000000"),
    (CborRule.KEY_TYPE, "a1400 0".replace(" ", "")),
    (CborRule.KEY_TYPE, "a1f600"),
    (CborRule.KEY_TYPE, "a18000"),
    (CborRule.DUPLICATE_KEY, "a200000001"),
    (CborRule.DUPLICATE_KEY, "a2616100616101"),
    (CborRule.COUNT, "9b7fffffffffffffff"),
    (CborRule.COUNT, "bb7fffffffffffffff"),
    (CborRule.COUNT, "8200"),
    (CborRule.COUNT, "a20000"),
    (CborRule.TEXT, "61ff"),
    (CborRule.TEXT, "62c328"),
    (CborRule.BREAK, "ff"),
    (CborRule.BREAK, "81ff"),
    (CborRule.BREAK, "a100ff"),
    (CborRule.DEPTH, "81" * DEPTH_MAX + "00"),
    (CborRule.DEPTH, "a100" * DEPTH_MAX + "80"),
]
# what only the deterministic profile refuses
DETERMINISTIC: list[tuple[CborRule, str]] = [
    (CborRule.INDEFINITE_CONTAINER, "9fff"),
    (CborRule.INDEFINITE_CONTAINER, "bfff"),
    (CborRule.KEY_ORDER, "a201000000"),
    (CborRule.KEY_ORDER, "a2616200616100"),
    (CborRule.KEY_ORDER, "a220000000"),
]
# what only the evidence profile refuses
EVIDENCE: list[tuple[CborRule, str]] = [
    (CborRule.SIMPLE, "f5"),
    (CborRule.SIMPLE, "f4"),
    (CborRule.TRUNCATED, "9f"),
    (CborRule.TRUNCATED, "bf0000"),
    (CborRule.BREAK, "bf00ff"),
    (CborRule.DUPLICATE_KEY, "bf00000000ff"),
    (CborRule.KEY_TYPE, "bf400000ff"),
]


def _rule(read: Callable[[bytes], Value], data: str) -> CborRule:
    with pytest.raises(MalformedCborError) as caught:
        read(bytes.fromhex(data))
    assert 0 <= caught.value.offset <= len(data) // 2
    return caught.value.rule


@pytest.mark.parametrize("read", [decode, decode_evidence])
@pytest.mark.parametrize(("rule", "data"), REFUSED)
def test_both_profiles_refuse(read: Callable[[bytes], Value], rule: CborRule, data: str) -> None:
    """Each rule of the profile has bytes that break it alone, refused by its name."""
    assert _rule(read, data) == rule


def test_refusal_says_rule_and_place() -> None:
    """An owner whose document is refused learns where; a peer never sees this text."""
    with pytest.raises(MalformedCborError, match=r"^tag at byte 1$"):
        decode(b"\x81\xc0\x00")


@pytest.mark.parametrize(("rule", "data"), DETERMINISTIC)
def test_deterministic_profile_refuses(rule: CborRule, data: str) -> None:
    """Indefinite containers and unordered keys are the evidence profile's alone."""
    assert _rule(decode, data) == rule
    decode_evidence(bytes.fromhex(data))


@pytest.mark.parametrize(("rule", "data"), EVIDENCE)
def test_evidence_profile_refuses(rule: CborRule, data: str) -> None:
    """The evidence profile has no booleans; its indefinite containers end properly."""
    assert _rule(decode_evidence, data) == rule


def test_evidence_profile_takes_indefinite_containers() -> None:
    """What AWS emits: maps and arrays of indefinite length, keys in any order."""
    assert decode_evidence(bytes.fromhex("bf6162019f0203ff00ff".replace("9f0203ff00", "61619f0203ff"))) == {"b": 1, "a": [2, 3]}


def test_deepest_value_is_taken() -> None:
    """A value at depth 8 is taken, at depth 9 it is not."""
    assert decode(bytes.fromhex("81" * (DEPTH_MAX - 1) + "00")) == [[[[[[[0]]]]]]]


@pytest.mark.parametrize(
    "data", ["00", "17", "1818", "1bffffffffffffffff", "20", "3bffffffffffffffff", "40", "60", "80", "a0", "f4", "f5", "f6"]
)
def test_border_values_are_taken(data: str) -> None:
    """Smallest and largest numbers, empty strings and containers, the three simple values."""
    assert encode(decode(bytes.fromhex(data))) == bytes.fromhex(data)


@given(values)
def test_encoding_is_cbor2s_canonical_form_and_comes_back(value: Value) -> None:
    """Every value comes back; its bytes are those that cbor2 reads to the same value."""
    try:
        data = encode(value)
    except ValueError:
        return  # deeper than eight
    assert decode(data) == value
    assert cbor2.loads(data) == value


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_give_a_value_or_our_error(data: bytes, evidence: bool) -> None:
    """Any bytes: a value that cbor2 reads alike and that, if deterministic, has no other bytes; or MalformedCborError."""
    try:
        value = (decode_evidence if evidence else decode)(data)
    except MalformedCborError:
        return
    assert cbor2.loads(data) == value
    if not evidence:
        assert encode(value) == data


@given(values, st.integers(0, 200), st.integers(0, 255))
def test_damaged_encodings_give_a_value_or_our_error(value: Value, at: int, byte: int) -> None:
    """One changed byte in a genuine encoding: another value with one encoding, or MalformedCborError."""
    try:
        data = bytearray(encode(value))
    except ValueError:
        return
    data[at % len(data)] = byte
    try:
        other = decode(bytes(data))
    except MalformedCborError:
        return
    assert encode(other) == data


class _Number(enum.IntEnum):
    SEVEN = 7


def test_enumerations_are_encoded_as_their_numbers() -> None:
    """A code is a number on the wire."""
    assert encode({_Number.SEVEN: _Number.SEVEN}) == bytes.fromhex("a10707")


@pytest.mark.parametrize("value", [1.5, {1.5: 0}, {None: 0}, {True: 0}, {b"a": 0}, (1, 2), 1 << 64, -(1 << 64) - 1, object(), "\ud800"])
def test_value_outside_the_profile_is_misuse(value: object) -> None:
    """Floats, tuples, odd keys, numbers over 64 bits and lone surrogates are not encoded."""
    with pytest.raises(ValueError, match=r".*"):
        encode(value)  # type: ignore[arg-type]


def test_value_too_deep_is_misuse() -> None:
    """What decode would refuse is not encoded."""
    deep: Value = 0
    for _ in range(DEPTH_MAX):
        deep = [deep]
    with pytest.raises(ValueError, match="depth"):
        encode(deep)
