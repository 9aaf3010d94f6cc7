"""Messages: a 24-byte header, path, JSON and tensors, padded so that only a size bucket is seen (protocol.md).

`u16 status | u16 path length | u32 JSON length | u64 tensor length | u32 deadline ms | 4 zero bytes`, big endian; the
JSON is padded with spaces so that tensors start at a multiple of 64; zeros follow to max(1,024, Padmé(all before)).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import struct

from wire.errors import WireError
from wire.frame import RECORD_CONTENT_MAX, RECORD_TRAILER
from wire.record import CONTROL_BYTES, Kind, Octets, Record, RecordError, RecordOpener

HEADER = struct.Struct(">HHIQIxxxx")
ALIGNMENT = 64
PADDED_MIN = 1024
PATH_MAX = 256
JSON_MAX = 1 << 30
TENSORS_MAX = 1 << 40


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


def encode(
    *, status: int = 0, path: str = "", json: bytes = b"", tensors: Sequence[Octets] = (), deadline_ms: int = 0, least: int = 0
) -> list[Octets]:
    """The pieces of a message, in order, none copied. `least` raises the unpadded length to at least that many bytes
    (with spaces after the JSON), so that an error answer has the size of a success.

    Raises ValueError for lengths that `Header` cannot hold.
    """
    raw_path = path.encode("ascii")
    size = sum(memoryview(piece).nbytes for piece in tensors)
    start = HEADER.size + len(raw_path) + len(json)
    start += max(0, least - start - size)
    start += -start % ALIGNMENT
    spaces = start - HEADER.size - len(raw_path) - len(json)
    if len(raw_path) > PATH_MAX or len(json) + spaces > JSON_MAX or size > TENSORS_MAX:
        raise ValueError("path, JSON or tensors exceed what a message carries")
    header = HEADER.pack(status, len(raw_path), len(json) + spaces, size, deadline_ms)
    total = start + size
    return [header + raw_path + json, b" " * spaces, *tensors, bytes(padded(total) - total)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    status: int
    path: int
    json: int
    tensors: int
    deadline_ms: int

    @property
    def content(self) -> int:
        return HEADER.size + self.path + self.json + self.tensors


def _lengths(start: Octets) -> _Lengths:
    if len(start) < HEADER.size or any(start[HEADER.size - 4 : HEADER.size]):
        raise MalformedMessageError("a message header is cut short or not of this version")
    status, path, json, tensors, deadline = HEADER.unpack(bytes(start[: HEADER.size]))
    if path > PATH_MAX or json > JSON_MAX or tensors > TENSORS_MAX or (HEADER.size + path + json) % ALIGNMENT:
        raise MalformedMessageError("a message header's lengths are out of bounds")
    return _Lengths(status=status, path=path, json=json, tensors=tensors, deadline_ms=deadline)


def decode(message: int, content: Octets) -> Message:
    """Parse a whole message's content. Raises: MalformedMessageError."""
    view = memoryview(content)
    lengths = _lengths(view)
    if len(view) != padded(lengths.content) or any(view[lengths.content :]):
        raise MalformedMessageError("a message is not padded as its lengths say")
    json_at = HEADER.size + lengths.path
    path = bytes(view[HEADER.size : json_at])
    if any(byte <= 0x20 or byte >= 0x7F or byte in b"%?#\\" for byte in path) or (path and path[:1] != b"/"):
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


def _buffer(size: int) -> memoryview:
    return memoryview(bytearray(size))


class MessageReader:
    """Put records of one direction together to messages, one at a time: content is opened into place, never copied
    but for the first mebibyte of a message that has more.

    `limit` bounds a message's size; a longer one is still read (records are never skipped, their order is checked) but
    not kept. `allocate` gives a buffer of so many bytes.
    """

    def __init__(self, opener: RecordOpener, *, limit: int, allocate: Callable[[int], memoryview] = _buffer) -> None:
        self._opener = opener
        self._limit = limit
        self._allocate = allocate
        self._message: int | None = None
        self._buffer: memoryview = _buffer(0)
        self._size = 0
        self._at = 0
        self._kept = True
        self._malformed = False

    @property
    def partial(self) -> int | None:
        """The id of the message that has begun and not ended."""
        return self._message

    def read(self, frame: Octets) -> Message | Refused | Control | None:
        """Open one record's frame; None while a message goes on. Raises: RecordError, after which the session is over."""
        fits = len(frame) <= 5 + RECORD_TRAILER + 16 + RECORD_CONTENT_MAX
        if not fits:
            raise RecordError("a record longer than may stand here")
        going_on = self._message is not None and self._kept
        room = self._buffer[self._at :] if going_on else self._allocate(max(len(frame), 64))
        if going_on and len(room) < len(frame) - 5 - 16:
            room = _buffer(len(frame))  # more records than the header announced: opened aside, then refused
            self._kept = False
            self._malformed = True
        record = self._opener.open_into(frame, room)
        if record.kind not in (Kind.DATA, Kind.END):
            if record.length != CONTROL_BYTES or self._message not in (None, record.message if record.kind is Kind.CANCEL else None):
                raise RecordError("a control record of another length, or inside a message")
            self._message, self._buffer = None, _buffer(0)  # a cancel of the message that is under way ends it
            return Control(kind=record.kind, message=record.message, content=bytes(room[: record.length]))
        return self._content(record, room)

    def _content(self, record: Record, room: memoryview) -> Message | Refused | None:
        if record.message == 0 or self._message not in (None, record.message):
            raise RecordError("records of one message are not contiguous")
        if record.kind is Kind.DATA and record.length != RECORD_CONTENT_MAX:
            raise RecordError("a record that is not its message's last carries exactly 1 MiB")
        if self._message is None:
            self._begin(record, room)
        self._at += record.length
        if record.kind is Kind.DATA:
            return None
        message, content, self._message = record.message, self._buffer[: self._at], None
        self._buffer = _buffer(0)
        if not self._kept:
            return Refused(id=message, too_large=not self._malformed)
        try:
            return decode(message, content)
        except MalformedMessageError:
            return Refused(id=message, too_large=False)

    def _begin(self, record: Record, room: memoryview) -> None:
        self._message, self._at, self._kept, self._malformed = record.message, 0, True, False
        if record.kind is Kind.END:
            self._buffer = room
            self._kept = record.length <= self._limit
            return
        try:
            total = padded(_lengths(room).content)
        except MalformedMessageError:
            self._kept, self._malformed = False, True
            return
        if total > self._limit or total <= RECORD_CONTENT_MAX:
            self._kept, self._malformed = False, total <= RECORD_CONTENT_MAX
            return
        self._buffer = self._allocate(total + RECORD_TRAILER)
        self._buffer[: record.length] = room[: record.length]
