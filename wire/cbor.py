"""Strict CBOR (RFC 8949): the decoder that every signed or attested structure goes through, and the deterministic encoder.

`decode_evidence` takes what AWS emits: indefinite maps and arrays, since 2025-08. `decode` takes deterministic encoding
alone (RFC 8949, 4.2.1), where one value has one encoding. Both refuse chunked strings, numbers not in shortest form,
tags, floats, simple values, duplicate keys, keys other than text and integers, trailing bytes and depth over 8, and
check every count against the bytes left before they allocate.
"""

from enum import StrEnum

import cbor2

from wire.errors import WireError

DEPTH_MAX = 8

Key = int | str
Value = int | bytes | str | bool | None | list["Value"] | dict[Key, "Value"]


class CborRule(StrEnum):
    """Which rule the bytes broke."""

    TRUNCATED = "truncated"
    TRAILING = "trailing-bytes"
    NOT_SHORTEST = "not-shortest-form"
    INDEFINITE_STRING = "indefinite-string"
    INDEFINITE_CONTAINER = "indefinite-container"
    RESERVED = "reserved-additional-information"
    TAG = "tag"
    SIMPLE = "float-or-simple-value"
    KEY_TYPE = "key-type"
    DUPLICATE_KEY = "duplicate-key"
    KEY_ORDER = "key-order"
    DEPTH = "depth"
    COUNT = "count-exceeds-bytes"
    TEXT = "text-not-utf8"
    BREAK = "unexpected-break"


class MalformedCborError(WireError):
    """The bytes are not CBOR of the profile; `rule` says which rule they break, `offset` where."""

    def __init__(self, rule: CborRule, offset: int) -> None:
        super().__init__(f"{rule.value} at byte {offset}")
        self.rule = rule
        self.offset = offset


class _Break(Exception):
    pass


class _Decoder:
    def __init__(self, data: bytes, *, deterministic: bool) -> None:
        self.data = data
        self.at = 0
        self.deterministic = deterministic

    def fail(self, rule: CborRule) -> MalformedCborError:
        return MalformedCborError(rule, self.at)

    def head(self) -> tuple[int, int | None]:
        """Major type and argument; None is indefinite length (or break, for major type 7)."""
        if self.at >= len(self.data):
            raise self.fail(CborRule.TRUNCATED)
        first = self.data[self.at]
        major, info = first >> 5, first & 31
        if info < 24:
            self.at += 1
            return major, info
        if info == 31:
            if major not in (2, 3, 4, 5, 7):
                raise self.fail(CborRule.RESERVED)
            self.at += 1
            return major, None
        if info > 27:
            raise self.fail(CborRule.RESERVED)
        if major == 7:
            raise self.fail(CborRule.SIMPLE)
        size = 1 << (info - 24)
        if self.at + 1 + size > len(self.data):
            raise self.fail(CborRule.TRUNCATED)
        value = int.from_bytes(self.data[self.at + 1 : self.at + 1 + size], "big")
        if value < (24 if size == 1 else 1 << (4 * size)):
            raise self.fail(CborRule.NOT_SHORTEST)
        self.at += 1 + size
        return major, value

    def item(self, depth: int) -> Value:
        if depth > DEPTH_MAX:
            raise self.fail(CborRule.DEPTH)
        start = self.at
        major, argument = self.head()
        match major:
            case 0 if argument is not None:
                return argument
            case 1 if argument is not None:
                return -1 - argument
            case 2 | 3:
                return self.string(major, argument, start)
            case 4:
                return self.array(argument, depth)
            case 5:
                return self.map(argument, depth)
            case 7 if argument is None:
                self.at = start
                raise _Break
            case 7 if argument == 22:
                return None
            case 7 if argument in (20, 21) and self.deterministic:
                return argument == 21
        self.at = start
        raise self.fail(CborRule.TAG if major == 6 else CborRule.SIMPLE)

    def string(self, major: int, length: int | None, start: int) -> bytes | str:
        if length is None:
            self.at = start
            raise self.fail(CborRule.INDEFINITE_STRING)
        if length > len(self.data) - self.at:
            raise self.fail(CborRule.TRUNCATED)
        raw = self.data[self.at : self.at + length]
        self.at += length
        if major == 2:
            return raw
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedCborError(CborRule.TEXT, start) from None

    def count(self, argument: int | None, least_bytes: int) -> int | None:
        if argument is None and self.deterministic:
            raise self.fail(CborRule.INDEFINITE_CONTAINER)
        if argument is not None and argument * least_bytes > len(self.data) - self.at:
            raise self.fail(CborRule.COUNT)
        return argument

    def more(self, done: int, count: int | None) -> bool:
        """Whether another element follows; takes the break of an indefinite container."""
        if count is not None:
            return done < count
        if self.at >= len(self.data):
            raise self.fail(CborRule.TRUNCATED)
        if self.data[self.at] == 0xFF:
            self.at += 1
            return False
        return True

    def array(self, argument: int | None, depth: int) -> list[Value]:
        count = self.count(argument, 1)
        items: list[Value] = []
        while self.more(len(items), count):
            items.append(self.item(depth + 1))
        return items

    def map(self, argument: int | None, depth: int) -> dict[Key, Value]:
        count = self.count(argument, 2)
        entries: dict[Key, Value] = {}
        last = b""
        while self.more(len(entries), count):
            start = self.at
            key = self.item(depth + 1)
            if isinstance(key, bool) or not isinstance(key, int | str):
                self.at = start
                raise self.fail(CborRule.KEY_TYPE)
            if key in entries:
                raise MalformedCborError(CborRule.DUPLICATE_KEY, start)
            encoded = self.data[start : self.at]
            if self.deterministic and encoded <= last:
                raise MalformedCborError(CborRule.KEY_ORDER, start)
            last = encoded
            entries[key] = self.item(depth + 1)
        return entries


def _decode(data: bytes, *, deterministic: bool) -> Value:
    decoder = _Decoder(bytes(data), deterministic=deterministic)
    try:
        value = decoder.item(1)
    except _Break:
        raise decoder.fail(CborRule.BREAK) from None
    if decoder.at != len(decoder.data):
        raise decoder.fail(CborRule.TRAILING)
    return value


def decode_evidence(data: bytes) -> Value:
    """Decode one item of the evidence profile: containers definite or indefinite, no booleans. Raises: MalformedCborError."""
    return _decode(data, deterministic=False)


def decode(data: bytes) -> Value:
    """Decode one deterministically encoded item; booleans are allowed. Raises: MalformedCborError.

    A value that it returns gives the same bytes back through `encode`.
    """
    return _decode(data, deterministic=True)


def _sorted(value: Value) -> Value:
    match value:
        case dict():
            return dict(sorted(((key, _sorted(item)) for key, item in value.items()), key=lambda pair: cbor2.dumps(pair[0])))
        case list():
            return [_sorted(item) for item in value]
        case bool() | int() | bytes() | str() | None:
            return value
    raise ValueError("only integers, bytes, text, booleans, null, lists and maps are encoded")


def encode(value: Value) -> bytes:
    """Deterministic encoding (RFC 8949, 4.2.1). Raises ValueError for a value that `decode` would not return."""
    data: bytes = cbor2.dumps(_sorted(value))
    try:
        decode(data)
    except MalformedCborError as error:
        raise ValueError(f"not encodable: {error}") from None
    return data
