"""Messages: a 24-byte header, path, JSON and tensors, padded so that only a size bucket is seen (protocol.md).

`u16 status | u16 path length | u32 JSON length | u64 tensor length | u32 deadline ms | 4 zero bytes`, big endian; the
JSON is padded with spaces so that tensors start at a multiple of 64; zeros follow to max(1,024, Padmé(all before)).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import re
import struct
from typing import NamedTuple

from wire.buffer import ALIGNMENT, aligned, is_zero
from wire.errors import WireError
from wire.frame import HEADER_BYTES, RECORD_CONTENT_MAX, RECORD_TAG, RECORD_TRAILER
from wire.record import CONTROL_BYTES, Kind, Octets, Record, RecordError, RecordOpener

HEADER = struct.Struct(">HHIQIxxxx")
_WHOLE_HEADER = struct.Struct(">HHIQII")
PADDED_MIN = 1024
PATH_MAX = 256
JSON_MAX = 1 << 30
TENSORS_MAX = 1 << 40
DEADLINE_MS_MAX = (1 << 32) - 1

# Empty in answers; no query, no percent-encoding, so that one path has one spelling.
_PATH = re.compile(rb"(/[!-~]*)?")
_NOT_IN_PATH = re.compile(rb"[%?#\\]")


class MalformedMessageError(WireError):
    """A message that opened but whose header, lengths, path or padding are not of this version; the session lives on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One whole message; `json` and `tensors` are views of its buffer, tensors on a multiple of 64 from its start."""

    id: int
    status: int
    path: str
    json: memoryview
    tensors: memoryview
    deadline_ms: int


def padme(length: int) -> int:
    """The Padmé bucket of a length (Nikitin et al., 2019): at most 12 % more, O(log log) bits leaked."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def padded(length: int) -> int:
    """The size on the wire of a message whose header, path, JSON and tensors have `length` bytes."""
    return max(PADDED_MIN, padme(length))


def _is_path(path: bytes) -> bool:
    return _PATH.fullmatch(path) is not None and _NOT_IN_PATH.search(path) is None


def encode(
    *, status: int = 0, path: str = "", json: bytes = b"", tensors: Sequence[Octets] = (), deadline_ms: int = 0, least: int = 0
) -> list[Octets]:
    """The pieces of a message, in order, none copied. `least` gives a shorter message the size on the wire of one of
    `least` bytes (by spaces after the JSON), so that an error answer has the size of a success.

    Raises ValueError for a path that `decode` refuses and for lengths that the header cannot hold.
    """
    raw_path = path.encode("ascii")
    size = sum(memoryview(piece).nbytes for piece in tensors)
    start = HEADER.size + len(raw_path) + len(json)
    start += -start % ALIGNMENT
    bucket = padded(least)
    if padded(start + size) < bucket:
        start = (bucket - size) // ALIGNMENT * ALIGNMENT  # at most 63 bytes below the bucket's end: buckets are multiples of 64
    spaces = start - HEADER.size - len(raw_path) - len(json)
    if len(raw_path) > PATH_MAX or not _is_path(raw_path) or len(json) + spaces > JSON_MAX or size > TENSORS_MAX:
        raise ValueError("path, JSON or tensors are not what a message carries")
    if not 0 <= status < 1 << 16 or not 0 <= deadline_ms <= DEADLINE_MS_MAX:
        raise ValueError("status or deadline out of range")
    header = HEADER.pack(status, len(raw_path), len(json) + spaces, size, deadline_ms)
    total = start + size
    return [header + raw_path + json, b" " * spaces, *tensors, bytes(padded(total) - total)]


class _Lengths(NamedTuple):
    status: int
    path: int
    json: int
    tensors: int
    deadline_ms: int
    reserved: int

    @property
    def content(self) -> int:
        return HEADER.size + self.path + self.json + self.tensors


def _lengths(start: Octets) -> _Lengths:
    if len(start) < HEADER.size:
        raise MalformedMessageError("a message header is cut short")
    lengths = _Lengths._make(_WHOLE_HEADER.unpack_from(start))
    _, path, json, tensors, _, reserved = lengths
    if path > PATH_MAX or json > JSON_MAX or tensors > TENSORS_MAX or (HEADER.size + path + json) % ALIGNMENT or reserved:
        raise MalformedMessageError("a message header's lengths are out of bounds, or it is not of this version")
    return lengths


def decode(message: int, content: Octets) -> Message:
    """Parse a whole message's content. Raises: MalformedMessageError."""
    view = memoryview(content)
    lengths = _lengths(view)
    if len(view) != padded(lengths.content) or not is_zero(view[lengths.content :]):
        raise MalformedMessageError("a message is not padded as its lengths say")
    json_at = HEADER.size + lengths.path
    path = bytes(view[HEADER.size : json_at])
    if not _is_path(path):
        raise MalformedMessageError("a message's path is not one of this version")
    return Message(
        id=message,
        status=lengths.status,
        path=path.decode("ascii"),
        json=view[json_at : json_at + lengths.json],
        tensors=view[json_at + lengths.json : lengths.content],
        deadline_ms=lengths.deadline_ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message that arrived whole but was not kept: too long, or malformed. The session lives on."""

    id: int
    too_large: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An accept, cancel or close record; `content` is its 1,024 bytes."""

    kind: Kind
    message: int
    content: bytes


_NOTHING = memoryview(b"")


class MessageReader:
    """Put records of one direction together to messages, one at a time: content is opened into place, never copied
    but for the first mebibyte of a message that has more.

    `limit` bounds a message's size; a longer one is still read (records are never skipped, their order is checked) but
    not kept. `allocate` gives a writable buffer of so many bytes on a multiple of 64; a message for which it raises
    MemoryError is not kept. Held besides: one mebibyte, once a message had more than that.
    """

    def __init__(self, opener: RecordOpener, *, limit: int, allocate: Callable[[int], memoryview] = aligned) -> None:
        self._opener = opener
        self._limit = limit
        self._allocate = allocate
        self._message: int | None = None
        self._buffer = _NOTHING
        self._at = 0
        self._refused: Refused | None = None
        self._scratch = _NOTHING

    @property
    def partial(self) -> int | None:
        """The id of the message that has begun and not ended."""
        return self._message

    def read(self, frame: Octets) -> Message | Refused | Control | None:
        """Open one record's frame; None while a message goes on. Raises: RecordError, after which the session is over."""
        size = len(frame) - HEADER_BYTES - RECORD_TAG
        if not RECORD_TRAILER <= size <= RECORD_CONTENT_MAX + RECORD_TRAILER:
            raise RecordError("not a record")
        room, in_place = self._room(size)
        record = self._opener.open_into(frame, room)
        if record.kind not in (Kind.DATA, Kind.END):
            return self._control(record, room)
        if record.message == 0 or self._message not in (None, record.message):
            raise RecordError("records of one message are not contiguous")
        if record.kind is Kind.DATA and record.length != RECORD_CONTENT_MAX:
            raise RecordError("a record that is not its message's last carries exactly 1 MiB")
        if self._message is not None and not record.length:
            raise RecordError("a message ends with the record that carries its last byte")
        self._place(record, room[: record.length], in_place=in_place)
        return self._finish(record.message) if record.kind is Kind.END else None

    def _room(self, size: int) -> tuple[memoryview, bool]:
        """Where to open a record of so many bytes, trailer included, and whether its content may stay there."""
        if self._message is not None:
            if size <= len(self._buffer) - self._at:  # never true of a refused message, which has no buffer
                return self._buffer[self._at :], True
        elif size < RECORD_CONTENT_MAX + RECORD_TRAILER and size - RECORD_TRAILER <= self._limit:
            try:
                return self._allocate(size), True
            except MemoryError:
                pass  # opened aside; `_place` tries again and refuses
        if size > len(self._scratch):
            self._scratch = memoryview(bytearray(size))
        return self._scratch, False

    def _control(self, record: Record, room: memoryview) -> Control:
        if record.length != CONTROL_BYTES:
            raise RecordError("a control record of another length")
        if record.kind is Kind.CLOSE or record.message == self._message:
            self._message, self._buffer = None, _NOTHING  # the message that is under way ends, undelivered
        return Control(kind=record.kind, message=record.message, content=bytes(room[: record.length]))

    def _place(self, record: Record, content: memoryview, *, in_place: bool) -> None:
        if self._message is None:
            self._begin(record, content, in_place=in_place)
        elif self._refused is None and not in_place:
            self._refuse(record.message, too_large=False)  # longer than its header said
        self._at += record.length

    def _begin(self, record: Record, content: memoryview, *, in_place: bool) -> None:
        self._message, self._at, self._refused = record.message, 0, None
        total = record.length
        if record.kind is Kind.DATA:
            try:
                total = padded(_lengths(content).content)
            except MalformedMessageError:
                total = 0
            if total <= RECORD_CONTENT_MAX:
                return self._refuse(record.message, too_large=False)
        if total > self._limit:
            return self._refuse(record.message, too_large=True)
        if in_place:
            self._buffer = content
            return None
        try:
            self._buffer = self._allocate(total + RECORD_TRAILER)[: total + RECORD_TRAILER]
        except MemoryError:
            return self._refuse(record.message, too_large=True)
        self._buffer[: record.length] = content
        return None

    def _refuse(self, message: int, *, too_large: bool) -> None:
        self._refused, self._buffer = Refused(id=message, too_large=too_large), _NOTHING

    def _finish(self, message: int) -> Message | Refused:
        content, refused = self._buffer[: self._at], self._refused
        self._message, self._buffer, self._refused = None, _NOTHING, None
        if refused is not None:
            return refused
        try:
            return decode(message, content)
        except MalformedMessageError:
            return Refused(id=message, too_large=False)
