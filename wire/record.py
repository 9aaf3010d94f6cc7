"""The record layer: AES-256-GCM over `content || u32be message id || u8 kind`, the frame header as associated data.

The nonce is the direction's IV XOR the record's sequence number, from 0, so a dropped, repeated, reordered or
reflected record does not open. The identifiers stand in a trailer so that `decrypt_into` puts content in place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wire import cbor
from wire.buffer import is_zero
from wire.errors import WireError
from wire.frame import HEADER_BYTES, RECORD_BODY_MAX, RECORD_BODY_MIN, RECORD_CONTENT_MAX, RECORD_TAG, RECORD_TRAILER, FrameType, Octets
from wire.handshake import DirectionKey

RECORDS_MAX = 1 << 24
BYTES_MAX = 1 << 40
CONTROL_BYTES = 1024
ID_MAX = (1 << 32) - 1
STRAY_MAX = 1024  # cancels or answers for messages that are not open, before the session ends

# Fields of control records: an accept has exactly these three, a close exactly the code, a cancel none.
ACCEPT_SECONDS, ACCEPT_REQUEST_BYTES, ACCEPT_OPEN_MESSAGES = 1, 2, 3
CLOSE_CODE = 1

_HEADER = struct.Struct(">IB")
_TRAILER = struct.Struct(">IB")

__all__ = [
    "ACCEPT_OPEN_MESSAGES",
    "ACCEPT_REQUEST_BYTES",
    "ACCEPT_SECONDS",
    "BYTES_MAX",
    "CLOSE_CODE",
    "CONTROL_BYTES",
    "ID_MAX",
    "RECORDS_MAX",
    "STRAY_MAX",
    "Kind",
    "Octets",
    "Record",
    "RecordError",
    "RecordOpener",
    "RecordSealer",
    "parse_control",
]


class RecordError(WireError):
    """A record does not open, or the session's records are used up; no detail is given."""


class Kind(IntEnum):
    """What a record carries."""

    DATA = 1
    END = 2
    CANCEL = 3
    ACCEPT = 4
    CLOSE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An opened record: `length` bytes of content stand at the start of the buffer it was opened into."""

    kind: Kind
    message: int
    length: int


class _Direction:
    """One direction's key, sequence and use."""

    def __init__(self, key: DirectionKey) -> None:
        self._aead = AESGCM(key.key)
        self._iv = int.from_bytes(key.iv, "big")
        self._sequence = 0
        self._bytes = 0

    def nonce(self, size: int) -> bytes:
        """The next nonce, for a record of `size` bytes. Raises: RecordError once records or bytes are used up."""
        if self._sequence >= RECORDS_MAX or self._bytes + size > BYTES_MAX:
            raise RecordError("the session's records are used up")
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        self._bytes += size
        return nonce


class RecordSealer(_Direction):
    """Seal one direction's records in order. `partial`: the id of the message that has begun and not ended."""

    def __init__(self, key: DirectionKey) -> None:
        super().__init__(key)
        self.partial: int | None = None
        self._closed = False

    def _order(self, kind: Kind, message: int) -> None:
        """One message after the other, nothing after a close. Raises RuntimeError."""
        if self._closed or (kind in (Kind.DATA, Kind.END) and self.partial not in (None, message)):
            raise RuntimeError("the direction is closed, or another message is under way")
        if kind is Kind.DATA:
            self.partial = message
        elif message == self.partial:
            self.partial = None
        self._closed = kind is Kind.CLOSE

    def seal(self, kind: Kind, message: int, pieces: Sequence[Octets]) -> bytearray:
        """The whole frame of one record whose content is the pieces, together at most 1 MiB.

        Raises: RecordError once records or bytes are used up; RuntimeError inside another message or after a close.
        """
        plain = b"".join((*pieces, _TRAILER.pack(message, kind)))
        size = len(plain) + RECORD_TAG
        if size > RECORD_BODY_MAX:
            raise ValueError("a record carries at most 1 MiB")
        self._order(kind, message)
        frame = bytearray(HEADER_BYTES + size)
        _HEADER.pack_into(frame, 0, 1 + size, FrameType.RECORD)
        view = memoryview(frame)
        self._aead.encrypt_into(self.nonce(size), plain, view[:HEADER_BYTES], view[HEADER_BYTES:])
        return frame

    def control(self, kind: Kind, message: int, fields: dict[int, int]) -> bytearray:
        """The whole frame of an accept, cancel or close: `u16be n || deterministic CBOR map || zeros` to 1,024 bytes."""
        encoded = cbor.encode(dict(fields.items()))
        content = (len(encoded).to_bytes(2, "big") + encoded).ljust(CONTROL_BYTES, b"\0")
        if len(content) != CONTROL_BYTES:
            raise ValueError("a control record's fields exceed 1,022 bytes")
        return self.seal(kind, message, (content,))

    def message(self, message: int, pieces: Sequence[Octets]) -> Iterator[bytearray]:
        """The frames of one message, each carrying exactly 1 MiB but the last, sealed one at a time as they are taken."""
        left = sum([memoryview(piece).nbytes for piece in pieces])
        views = iter([memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes])
        rest = memoryview(b"")
        while True:
            chunk: list[Octets] = []
            room = min(RECORD_CONTENT_MAX, left)
            left -= room
            while room:
                if not rest:
                    rest = next(views)
                chunk.append(rest[:room])
                room, rest = room - len(chunk[-1]), rest[room:]
            yield self.seal(Kind.DATA if left else Kind.END, message, chunk)
            if not left:
                return


class RecordOpener(_Direction):
    """Open one direction's records in order."""

    def open_into(self, frame: Octets, buffer: bytearray | memoryview) -> Record:
        """Open a whole frame into `buffer`, which has room for the content and five bytes more.

        Raises: RecordError, and then the session is over: the sequence number is spent.
        """
        view = memoryview(frame)
        size = len(view) - HEADER_BYTES
        if not RECORD_BODY_MIN <= size <= RECORD_BODY_MAX or view[4] != FrameType.RECORD:
            raise RecordError("not a record")
        plain = memoryview(buffer)[: size - RECORD_TAG]
        if len(plain) != size - RECORD_TAG:
            raise RecordError("a record longer than may stand here")
        try:
            self._aead.decrypt_into(self.nonce(size), view[HEADER_BYTES:], view[:HEADER_BYTES], plain)
        except InvalidTag:
            raise RecordError("a record does not open") from None
        length = len(plain) - RECORD_TRAILER
        try:
            kind = Kind(plain[-1])
        except ValueError:
            raise RecordError("a record of unknown kind") from None
        return Record(kind=kind, message=int.from_bytes(plain[length : length + 4], "big"), length=length)


def parse_control(content: Octets) -> dict[int, int]:
    """The integer fields of an accept, cancel or close. Raises: RecordError."""
    raw = bytes(content)
    length = int.from_bytes(raw[:2], "big")
    if len(raw) != CONTROL_BYTES or length > CONTROL_BYTES - 2 or not is_zero(memoryview(raw)[2 + length :]):
        raise RecordError("a control record has another length or padding")
    try:
        fields = cbor.decode(raw[2 : 2 + length])
    except cbor.MalformedCborError:
        raise RecordError("a control record is not deterministic CBOR") from None
    if not isinstance(fields, dict):
        raise RecordError("a control record is not a map")
    numbers = {
        key: value for key, value in fields.items() if isinstance(key, int) and isinstance(value, int) and not isinstance(value, bool)
    }
    if len(numbers) != len(fields):
        raise RecordError("a control record holds something else than integers")
    return numbers
