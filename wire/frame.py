"""Frames: `u32be(1 + len(body)) || u8 type || body`, read without allocating for what a peer merely announces."""

from dataclasses import dataclass
from enum import IntEnum

from wire.errors import MalformedFrameError

HEADER_BYTES = 5
CHALLENGE_BODY = 33
EVIDENCE_BODY_MAX = 24 * 1024 - HEADER_BYTES
OPEN_BODY = 1120 + 4096 + 16
RECORD_CONTENT_MAX = 1 << 20
RECORD_TRAILER = 5
RECORD_TAG = 16
RECORD_BODY_MIN = RECORD_TRAILER + RECORD_TAG
RECORD_BODY_MAX = RECORD_CONTENT_MAX + RECORD_TRAILER + RECORD_TAG

Octets = bytes | bytearray | memoryview


class FrameType(IntEnum):
    """Types 1-4 are the sealed session's (protocol.md); 16 and above are the feed's (`wire.feed`)."""

    CHALLENGE = 1
    EVIDENCE = 2
    OPEN = 3
    RECORD = 4


# Smallest and largest body per type. Before `open` has opened nothing longer than its exact size is read.
SESSION_BODIES: dict[int, tuple[int, int]] = {
    FrameType.CHALLENGE: (CHALLENGE_BODY, CHALLENGE_BODY),
    FrameType.EVIDENCE: (2 + 1216 + 1, EVIDENCE_BODY_MAX),
    FrameType.OPEN: (OPEN_BODY, OPEN_BODY),
    FrameType.RECORD: (RECORD_BODY_MIN, RECORD_BODY_MAX),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """A frame header that was judged: `body` is the length in bytes of what follows it."""

    type: int
    body: int


def encode(type_: int, body: bytes) -> bytes:
    """The whole frame. Raises ValueError where the body cannot be framed."""
    if not 0 < type_ < 256 or len(body) >= (1 << 32) - 1:
        raise ValueError("frame type must fit a byte and the body 32 bits")
    return (1 + len(body)).to_bytes(4, "big") + bytes((type_,)) + body


def _judge(header: Octets, expected: int, bodies: dict[int, tuple[int, int]]) -> int:
    """The body's length, if the five bytes may stand here."""
    body = int.from_bytes(header[:4], "big") - 1
    least, most = bodies[expected]
    if header[4] != expected or not least <= body <= most:
        raise MalformedFrameError("a frame of another type or length than may stand here")
    return body


def parse_header(header: Octets, expected: int, bodies: dict[int, tuple[int, int]] = SESSION_BODIES) -> FrameHeader:
    """Judge the five header bytes of a frame that must be of type `expected`, before anything of its body is read.

    Raises: MalformedFrameError for another type, or a length outside the type's bounds.
    """
    if len(header) != HEADER_BYTES:
        raise ValueError("a frame header has five bytes")
    return FrameHeader(type=expected, body=_judge(header, expected, bodies))


def decode(frame: Octets, expected: int, bodies: dict[int, tuple[int, int]] = SESSION_BODIES) -> bytes:
    """The body of one whole frame. Raises: MalformedFrameError, also where its header tells another length than it has."""
    if len(frame) < HEADER_BYTES or len(frame) != HEADER_BYTES + _judge(frame, expected, bodies):
        raise MalformedFrameError("not one whole frame")
    return bytes(frame[HEADER_BYTES:])


class FrameReader:
    """Collect one frame after another from slices of a stream; the caller says which type comes next.

    Holds at most one frame of the expected type's largest size plus the slice just fed. Not for the hot path:
    records are read into place by the session's own buffers.
    """

    def __init__(self, bodies: dict[int, tuple[int, int]] = SESSION_BODIES) -> None:
        self._bodies = bodies
        self._buffer = bytearray()

    def feed(self, data: Octets) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next(self, *expected: int) -> bytes | None:
        """The next whole frame (header included) if it has arrived. Raises: MalformedFrameError as soon as its header is wrong."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        if self._buffer[4] not in expected:
            raise MalformedFrameError("a frame of another type than may stand here")
        header = parse_header(self._buffer[:HEADER_BYTES], self._buffer[4], self._bodies)
        if len(self._buffer) < HEADER_BYTES + header.body:
            return None
        frame = bytes(self._buffer[: HEADER_BYTES + header.body])
        del self._buffer[: HEADER_BYTES + header.body]
        return frame

    @property
    def pending(self) -> int:
        """Bytes held that belong to no complete frame taken yet."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Everything not yet taken; the reader is empty afterwards (a session switches to its record buffers here)."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


class FrameBuffer:
    """The hot path's frames: the socket reads into `space()`, `next` gives the frame in place, without a copy.

    Before the session is open `space()` never offers more than the expected frame still lacks, so nothing longer than its
    exact size is read. Memory: 64 KiB, and the largest frame once a judged header announced one.
    """

    START = 64 * 1024

    def __init__(self, bodies: dict[int, tuple[int, int]] = SESSION_BODIES) -> None:
        self._bodies = bodies
        self._data = memoryview(bytearray(self.START))
        self._start = 0
        self._end = 0
        self._offered = 0

    def _size(self, expected: int) -> int:
        """The size of the frame that begins the held bytes, or of a header while that is not whole."""
        if self._end - self._start < HEADER_BYTES:
            return HEADER_BYTES
        return HEADER_BYTES + _judge(self._data[self._start : self._start + HEADER_BYTES], expected, self._bodies)

    def space(self, expected: int, *, exact: bool) -> memoryview:
        """Where the next bytes of the stream go, never empty; `exact` offers only what the frame of type `expected` still lacks.

        Raises: MalformedFrameError at a header; RuntimeError where whole frames wait to be taken and nothing more fits.
        """
        size, held = self._size(expected), self._end - self._start
        if not held:
            self._start = self._end = 0
        elif self._start and (self._start + size > len(self._data) or self._end == len(self._data)):
            self._data[:held] = self._data[self._start : self._end]
            self._start, self._end = 0, held
        if size > len(self._data):
            grown = memoryview(bytearray(HEADER_BYTES + self._bodies[expected][1]))
            grown[:held] = self._data[:held]
            self._data = grown
        room = self._data[self._end : self._start + size] if exact else self._data[self._end :]
        self._offered = len(room)
        if not room:
            raise RuntimeError("whole frames wait to be taken")
        return room

    def filled(self, count: int) -> None:
        """`count` bytes were read into the last `space()`."""
        if not 0 <= count <= self._offered:
            raise ValueError("more bytes than were offered")
        self._end += count
        self._offered -= count

    def next(self, expected: int) -> memoryview | None:
        """The next whole frame, valid until the next call of `space`. Raises: MalformedFrameError at its header."""
        size, held = self._size(expected), self._end - self._start
        if held < size:
            return None
        frame = self._data[self._start : self._start + size]
        self._start += size
        return frame

    @property
    def pending(self) -> int:
        """Bytes held that belong to no frame taken yet: not zero at the end of a stream means that it was cut."""
        return self._end - self._start
