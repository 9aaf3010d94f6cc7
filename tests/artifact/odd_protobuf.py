"""Write a message as no library would: fields twice, split, of another wire type, numbers overlong or beyond 32 bits.

What a reader makes of the bytes is the reader's affair: that is what they are for.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = 0, 1, 2, 3, 4, 5
_FIXED = {FieldDescriptor.TYPE_FLOAT: FIXED32, FieldDescriptor.TYPE_DOUBLE: FIXED64}


class Oddity(Enum):
    """What becomes of one field."""

    ABSENT = auto()
    TWICE = auto()  # a number with another one behind it
    SPLIT = auto()  # a message in two halves, which a reader merges or counts twice
    OVERLONG = auto()  # number, length or tag with more bytes than it needs
    BEYOND = auto()  # another number and 2**32, which a reader of 32 bits does not see
    PACKED = auto()
    UNPACKED = auto()
    FIXED = auto()
    GROUP = auto()
    EMPTY = auto()
    MOVED = auto()  # under the next field's number too


def varint(value: int, *, least: int = 1) -> bytes:
    """At least that many bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value or len(out) < least:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out[-1] &= 0x7F
    return bytes(out)


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _block(number: int, content: bytes) -> bytes:
    return _tag(number, BYTES) + varint(len(content)) + content


class Writer:
    """Writes messages; `oddities` by the running number of the field that each befalls."""

    def __init__(self, oddities: Mapping[int, Oddity]) -> None:
        self._oddities = oddities
        self.fields = 0

    def message(self, message: Message) -> bytes:
        """The message, its fields in order."""
        return b"".join(self._fields(message))

    def _fields(self, message: Message) -> list[bytes]:
        written = []
        for descriptor, value in message.ListFields():
            for item in value if descriptor.is_repeated else (value,):
                at, self.fields = self.fields, self.fields + 1
                written.append(self._field(descriptor, item, self._oddities.get(at)))
        return written

    def _field(self, descriptor: Any, value: Any, oddity: Oddity | None) -> bytes:
        number = descriptor.number
        if isinstance(value, Message):
            return _odd_block(number, self._fields(value), oddity)
        if descriptor.type in _FIXED:
            wire = _FIXED[descriptor.type]
            return b"" if oddity is Oddity.ABSENT else _tag(number, wire) + bytes(8 if wire == FIXED64 else 4)
        if isinstance(value, str | bytes):
            content = value.encode() if isinstance(value, str) else value
            return _odd_block(number, [content[: len(content) // 2], content[len(content) // 2 :]], oddity)
        return _odd_number(number, int(value), oddity)


def _odd_block(number: int, pieces: list[bytes], oddity: Oddity | None) -> bytes:
    content = b"".join(pieces)
    plain, middle = _block(number, content), len(pieces) // 2
    match oddity:
        case Oddity.ABSENT:
            return b""
        case Oddity.TWICE:
            return plain + plain
        case Oddity.SPLIT:
            return _block(number, b"".join(pieces[:middle])) + _block(number, b"".join(pieces[middle:]))
        case Oddity.OVERLONG:
            return varint(number << 3 | BYTES, least=4) + varint(len(content), least=5) + content
        case Oddity.GROUP:
            return _tag(number, GROUP) + content + _tag(number, GROUP_END)
        case Oddity.EMPTY:
            return _block(number, b"") + plain
        case Oddity.MOVED:
            return plain + _block(number + 1, content)
        case Oddity.UNPACKED | Oddity.BEYOND:
            return plain + _tag(number, VARINT) + b"\x01"
        case Oddity.FIXED | Oddity.PACKED:
            return _tag(number, FIXED32) + bytes(4)
        case None:
            return plain


def _odd_number(number: int, value: int, oddity: Oddity | None) -> bytes:
    plain, other = _tag(number, VARINT) + varint(value), _tag(number, VARINT) + varint(value ^ 1)
    match oddity:
        case Oddity.ABSENT:
            return b""
        case Oddity.TWICE:
            return plain + other
        case Oddity.SPLIT:
            return other + plain
        case Oddity.OVERLONG:
            return varint(number << 3, least=5) + varint(value, least=10)
        case Oddity.BEYOND:
            return _tag(number, VARINT) + varint((value ^ 1) + (1 << 32))
        case Oddity.PACKED:
            return _block(number, varint(value))
        case Oddity.FIXED:
            return _tag(number, FIXED64) + value.to_bytes(8, "little", signed=True)
        case Oddity.EMPTY:
            return _block(number, b"") + plain
        case Oddity.UNPACKED:
            return plain + _block(number, varint(value ^ 1))
        case _:
            return plain
