"""Walk protobuf wire format without building anything: (field number, wire type, value), bounded by the bytes given.

Groups, field number 0, varints over ten bytes and lengths beyond the end are refused. Two libraries that read the same
bytes may still disagree where a field that is meant once stands twice; `Message.one` refuses that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class MalformedProtobufError(Exception):
    """The bytes are not protobuf, or not of the shape asked for."""


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned value at `at`, and where it ends. Raises: MalformedProtobufError."""
    value = shift = 0
    for end in range(at, min(at + 10, len(data))):
        byte = data[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, end + 1
        shift += 7
    raise MalformedProtobufError


def signed(value: int) -> int:
    """The int64 that an unsigned varint stands for."""
    return value - (1 << 64) if value >> 63 else value


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Every field in order; a number for wire types 0, 1 and 5, the content for 2. Raises: MalformedProtobufError."""
    at, size = 0, len(data)
    while at < size:
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value: int | memoryview
            value, at = varint(data, at)
        elif wire == BYTES:
            length, at = varint(data, at)
            value = data[at : at + length]
            at += length
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
            value = int.from_bytes(data[at : at + length], "little")
            at += length
        else:
            raise MalformedProtobufError
        if at > size or not 0 < number < 1 << 29:
            raise MalformedProtobufError
        yield number, wire, value


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of one message, by number."""

    found: dict[int, list[tuple[int, int | memoryview]]]

    def many(self, number: int) -> list[memoryview]:
        """A repeated field of messages, strings or bytes. Raises: MalformedProtobufError for another wire type."""
        values = [value for wire, value in self.found.get(number, ()) if wire == BYTES and isinstance(value, memoryview)]
        if len(values) != len(self.found.get(number, ())):
            raise MalformedProtobufError
        return values

    def one(self, number: int) -> memoryview | None:
        """A message, string or bytes field that stands at most once. Raises: MalformedProtobufError."""
        values = self.many(number)
        if len(values) > 1:
            raise MalformedProtobufError
        return values[0] if values else None

    def number(self, number: int) -> int:
        """A field of type int32 or enum that stands at most once, as a varint that is not negative; 0 where it is absent.

        What protobuf would cut to 32 bits, or would not take for this field's, is refused. Raises: MalformedProtobufError.
        """
        found = self.found.get(number, ())
        if not found:
            return 0
        (wire, value), *more = found
        if more or wire != VARINT or not isinstance(value, int) or value >= 1 << 31:
            raise MalformedProtobufError
        return value

    def numbers(self, number: int) -> list[int]:
        """A repeated varint field, packed or not, as signed values. Raises: MalformedProtobufError."""
        values: list[int] = []
        for wire, value in self.found.get(number, ()):
            if wire == VARINT and isinstance(value, int):
                values.append(signed(value))
            elif wire == BYTES and isinstance(value, memoryview):
                at = 0
                while at < len(value):
                    item, at = varint(value, at)
                    values.append(signed(item))
            else:
                raise MalformedProtobufError
        return values

    def text(self, number: int) -> str:
        """A string field that stands at most once; empty where it is absent. Raises: MalformedProtobufError."""
        value = self.one(number)
        try:
            return "" if value is None else bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedProtobufError from None


def message(data: memoryview) -> Message:
    """All fields of one message; nothing in them is looked at. Raises: MalformedProtobufError."""
    found: dict[int, list[tuple[int, int | memoryview]]] = {}
    for number, wire, value in fields(data):
        found.setdefault(number, []).append((wire, value))
    return Message(found)
