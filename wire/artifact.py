"""Sealed model files: AWS Encryption SDK messages, format version 2, algorithm suite 0x0478, framed content.

AES-256-GCM with HKDF-SHA-512 and key commitment, no signature. The one format that `owner.seal` writes and
`enclave.artifact` reads; other suites, versions and unframed content are refused.

A header is believed by its pinned SHA-256, a data key by the commitment, a frame by its tag: in that order, and `unlock`
is the only way from a header to something that opens frames.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
import hmac
from itertools import pairwise
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wire.errors import WireError

VERSION: Final = 2
SUITE: Final = 0x0478
CONTENT_FRAMED: Final = 2
PROVIDER: Final = "aws-kms"
MESSAGE_ID_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
DATA_KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
IV_BYTES: Final = 12
FRAME_BYTES: Final = 1 << 20  # what is written; the largest that is read
FINAL_MARK: Final = 0xFFFF_FFFF
REGULAR_OVERHEAD: Final = 4 + IV_BYTES + TAG_BYTES
FINAL_OVERHEAD: Final = 4 + 4 + IV_BYTES + 4 + TAG_BYTES
HEADER_MAX: Final = 16 * 1024  # one KMS blob (6,144), one ARN, a context of short texts; the rest is reserve
DATA_KEYS_MAX: Final = 8
CONTEXT_MAX: Final = 32
LENGTH_MAX: Final = 1 << 40
_HEAD = struct.Struct(">BH32sH")


class MalformedArtifactError(WireError):
    """The bytes are not a message of this format and suite, or the lengths do not add up."""


class WrongKeyError(WireError):
    """The data key does not fit the header: another commitment, or the header's own tag does not verify."""


class DamagedArtifactError(WireError):
    """A frame stands in the wrong place or does not open. Nothing says which byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedDataKey:
    """The data key as a provider wrapped it; for `aws-kms` `info` is the key's full ARN, `ciphertext` the KMS blob."""

    provider: str
    info: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header: `raw` is all of it, tag included, `body` what the tag covers. Nothing in it is authenticated yet."""

    raw: bytes
    message_id: bytes
    context: tuple[tuple[str, str], ...]
    data_keys: tuple[EncryptedDataKey, ...]
    frame_length: int
    commitment: bytes

    @property
    def body(self) -> bytes:
        return self.raw[:-TAG_BYTES]

    @property
    def tag(self) -> bytes:
        return self.raw[-TAG_BYTES:]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise MalformedArtifactError("the header is cut short or too long")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            return self.block().decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedArtifactError("a text of the header is not UTF-8") from None


def _read_context(block: bytes) -> tuple[tuple[str, str], ...]:
    if not block:
        return ()
    reader = _Reader(block)
    count = reader.number(2)
    if not 0 < count <= CONTEXT_MAX:
        raise MalformedArtifactError("the encryption context is empty but present, or has too many entries")
    entries = tuple((reader.text(), reader.text()) for _ in range(count))
    names = [name.encode() for name, _ in entries]
    if reader.at != len(block) or any(later <= earlier for earlier, later in pairwise(names)):
        raise MalformedArtifactError("the encryption context is not sorted, repeats a name or has bytes behind it")
    return entries


def parse_header(data: bytes | bytearray | memoryview) -> Header:
    """The header that `data` starts with; what follows it is not looked at.

    Raises: MalformedArtifactError; also where the header is longer than HEADER_MAX or `data`.
    """
    reader = _Reader(bytes(data[:HEADER_MAX]))
    version, suite, message_id, context_bytes = _HEAD.unpack(reader.take(_HEAD.size))
    if version != VERSION or suite != SUITE:
        raise MalformedArtifactError("another message format or algorithm suite than the one that is read")
    context = _read_context(reader.take(context_bytes))
    count = reader.number(2)
    if not 0 < count <= DATA_KEYS_MAX:
        raise MalformedArtifactError("no encrypted data key, or too many")
    data_keys = tuple(EncryptedDataKey(provider=reader.text(), info=reader.text(), ciphertext=reader.block()) for _ in range(count))
    content, frame_length = reader.number(1), reader.number(4)
    if content != CONTENT_FRAMED or not 0 < frame_length <= FRAME_BYTES:
        raise MalformedArtifactError("content that is not framed, or frames of a length that is not read")
    commitment = reader.take(COMMITMENT_BYTES)
    reader.take(TAG_BYTES)
    return Header(
        raw=reader.data[: reader.at],
        message_id=message_id,
        context=context,
        data_keys=data_keys,
        frame_length=frame_length,
        commitment=commitment,
    )


def _block(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _write_context(context: Mapping[str, str]) -> bytes:
    if not context:
        return b""
    entries = sorted((name.encode(), value.encode()) for name, value in context.items())
    return struct.pack(">H", len(entries)) + b"".join(_block(name) + _block(value) for name, value in entries)


def _derive(data_key: bytes, message_id: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA512(), length=32, salt=message_id, info=info).derive(data_key)


def _content_key(data_key: bytes, message_id: bytes) -> AESGCM:
    return AESGCM(_derive(data_key, message_id, SUITE.to_bytes(2, "big") + b"DERIVEKEY"))


def _commitment(data_key: bytes, message_id: bytes) -> bytes:
    return _derive(data_key, message_id, b"COMMITKEY")


def build_header(
    *,
    data_key: bytes,
    message_id: bytes,
    context: Mapping[str, str],
    data_keys: tuple[EncryptedDataKey, ...],
    frame_length: int = FRAME_BYTES,
) -> Header:
    """The header of a new message. Never build two with one data key and message id: GCM's IV 0 would repeat.

    Raises ValueError for a header that `parse_header` would not read.
    """
    if len(data_key) != DATA_KEY_BYTES or len(message_id) != MESSAGE_ID_BYTES:
        raise ValueError("a data key and a message id have 32 bytes")
    try:
        body = (
            _HEAD.pack(VERSION, SUITE, message_id, len(packed := _write_context(context)))
            + packed
            + struct.pack(">H", len(data_keys))
            + b"".join(_block(key.provider.encode()) + _block(key.info.encode()) + _block(key.ciphertext) for key in data_keys)
            + struct.pack(">BI", CONTENT_FRAMED, frame_length)
            + _commitment(data_key, message_id)
        )
        return parse_header(body + _content_key(data_key, message_id).encrypt(bytes(IV_BYTES), b"", body))
    except (struct.error, MalformedArtifactError) as error:
        raise ValueError(f"no such header can be written: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where frame `sequence` lies: `offset` and `size` in the artifact, `start` and `length` in the plaintext."""

    sequence: int
    final: bool
    offset: int
    size: int
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an artifact of `artifact_length` bytes divides into frames. Regular frames are full; the final one may be empty."""

    header_length: int
    frame_length: int
    artifact_length: int

    def __post_init__(self) -> None:
        content = self._body - FINAL_OVERHEAD
        if content < 0 or self.artifact_length > LENGTH_MAX or content % self._stride > self.frame_length or self.count >= FINAL_MARK:
            raise MalformedArtifactError("no whole number of frames has this length")

    @property
    def _body(self) -> int:
        return self.artifact_length - self.header_length

    @property
    def _stride(self) -> int:
        return self.frame_length + REGULAR_OVERHEAD

    @property
    def count(self) -> int:
        """Frames, the final one included."""
        return (self._body - FINAL_OVERHEAD) // self._stride + 1

    @property
    def length(self) -> int:
        """Bytes of plaintext."""
        return (self.count - 1) * self.frame_length + (self._body - FINAL_OVERHEAD) % self._stride

    def frame(self, sequence: int) -> Frame:
        """Frame `sequence`, counted from 1. Raises ValueError where there is none."""
        if not 1 <= sequence <= self.count:
            raise ValueError("no such frame")
        final = sequence == self.count
        start = (sequence - 1) * self.frame_length
        length = self.length - start if final else self.frame_length
        return Frame(
            sequence=sequence,
            final=final,
            offset=self.header_length + (sequence - 1) * self._stride,
            size=length + (FINAL_OVERHEAD if final else REGULAR_OVERHEAD),
            start=start,
            length=length,
        )

    def frames(self) -> Iterator[Frame]:
        """All frames in order."""
        return (self.frame(sequence) for sequence in range(1, self.count + 1))


def layout_of(header: Header, length: int) -> Layout:
    """The layout that is written for `length` bytes of plaintext: the final frame is full where that is possible."""
    regular = max(0, -(-length // header.frame_length) - 1)
    return Layout(
        header_length=len(header.raw),
        frame_length=header.frame_length,
        artifact_length=len(header.raw) + length + regular * REGULAR_OVERHEAD + FINAL_OVERHEAD,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocked:
    """A header whose commitment and tag fit the data key; opens and seals its frames."""

    header: Header
    _key: AESGCM = field(repr=False)

    def _aad(self, frame: Frame) -> bytes:
        label = b"AWSKMSEncryptionClient Final Frame" if frame.final else b"AWSKMSEncryptionClient Frame"
        return self.header.message_id + label + struct.pack(">IQ", frame.sequence, frame.length)

    def seal(self, frame: Frame, plaintext: bytes | bytearray | memoryview) -> bytes:
        """The whole frame. Each sequence number at most once per message. Raises ValueError for another length than the frame's."""
        if len(plaintext) != frame.length:
            raise ValueError("the plaintext has another length than its frame")
        return _frame_head(frame) + self._key.encrypt(_iv(frame), plaintext, self._aad(frame))

    def open_into(self, frame: Frame, data: bytes | bytearray | memoryview, out: bytearray | memoryview) -> None:
        """Open the whole frame `data` into `out`, which has exactly `frame.length` bytes.

        Raises: DamagedArtifactError; `out` may then hold bytes that nothing vouches for and must be dropped.
        """
        head = _frame_head(frame)
        if len(data) != frame.size or data[: len(head)] != head:
            raise DamagedArtifactError("a frame does not open")
        try:
            self._key.decrypt_into(_iv(frame), memoryview(data)[len(head) :], self._aad(frame), out)
        except InvalidTag:
            raise DamagedArtifactError("a frame does not open") from None


def _iv(frame: Frame) -> bytes:
    return frame.sequence.to_bytes(IV_BYTES, "big")


def _frame_head(frame: Frame) -> bytes:
    if frame.final:
        return struct.pack(">II", FINAL_MARK, frame.sequence) + _iv(frame) + struct.pack(">I", frame.length)
    return struct.pack(">I", frame.sequence) + _iv(frame)


def unlock(header: Header, data_key: bytes) -> Unlocked:
    """Check the data key against the header's commitment and the header against its tag, before any frame is opened.

    That the header is the intended one is the caller's to check: its digest and commitment are pinned by the manifest.
    Raises: WrongKeyError.
    """
    if not hmac.compare_digest(_commitment(data_key, header.message_id), header.commitment):
        raise WrongKeyError("the data key does not fit the artifact's key commitment")
    key = _content_key(data_key, header.message_id)
    try:
        key.decrypt(bytes(IV_BYTES), header.tag, header.body)
    except InvalidTag:
        raise WrongKeyError("the artifact's header does not verify") from None
    return Unlocked(header=header, _key=key)
