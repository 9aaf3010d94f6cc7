"""Open a sealed model part: pinned header, then key commitment, then frame after frame straight into its place in memory.

The parent delivers the bytes and may lie about every one of them. Each check comes before what it protects: header
digest before KMS is asked, commitment before the first frame, and nothing is used before the final frame opened.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import hashlib
import hmac
from itertools import cycle
import os
from typing import Protocol

from enclave.errors import BootError
from wire import artifact
from wire.errors import BootFailure
from wire.manifest import Part

HELD = 3  # frames in memory at once, beside the one that is being fetched

Fetch = Callable[[int, int], Iterable[bytes | bytearray | memoryview]]
"""(offset, length) -> buffers that hold exactly these bytes of the sealed part, in order; each valid until the next one is asked for."""


class ArtifactError(BootError):
    """A sealed part is refused."""


def _whole(chunks: Iterable[bytes | bytearray | memoryview], length: int) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > length:
            break
    if len(data) != length:
        raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
    return bytes(data)


def check_header(data: bytes, part: Part, *, key_arn: str, context: Mapping[str, str]) -> artifact.Header:
    """The header that `data` starts with, if it is the pinned one and names exactly this key and encryption context.

    Raises: ArtifactError(ARTIFACT_HEADER).
    """
    try:
        header = artifact.parse_header(data)
        layout = _layout(header, part)
    except artifact.MalformedArtifactError:
        raise ArtifactError(BootFailure.ARTIFACT_HEADER) from None
    if (
        hashlib.sha256(header.raw).digest() != part.header_sha256
        or header.commitment != part.commitment
        or layout.length != part.length
        or dict(header.context) != dict(context)
        or [(key.provider, key.info) for key in header.data_keys] != [(artifact.PROVIDER, key_arn)]
    ):
        raise ArtifactError(BootFailure.ARTIFACT_HEADER)
    return header


def read_header(fetch: Fetch, part: Part, *, key_arn: str, context: Mapping[str, str]) -> artifact.Header:
    """Fetch and check a part's header. `header.data_keys[0].ciphertext` is what KMS is asked to decrypt.

    Raises: ArtifactError; what `fetch` raises.
    """
    length = min(artifact.HEADER_MAX, part.artifact_length)
    return check_header(_whole(fetch(0, length), length), part, key_arn=key_arn, context=context)


def _layout(header: artifact.Header, part: Part) -> artifact.Layout:
    return artifact.Layout(header_length=len(header.raw), frame_length=header.frame_length, artifact_length=part.artifact_length)


def _frames(layout: artifact.Layout, body: Iterable[bytes | bytearray | memoryview]) -> Iterator[tuple[artifact.Frame, memoryview]]:
    """Cut the body into whole frames, each valid until HELD more were asked for. A body cut short gives fewer: its digest fails."""
    size = layout.frame(1).size + artifact.FINAL_OVERHEAD
    buffers = cycle([memoryview(bytearray(size)) for _ in range(HELD + 1)])
    frames = layout.frames()
    frame, buffer, held = next(frames, None), next(buffers), 0
    for chunk in body:
        rest = memoryview(chunk)
        while rest:
            if frame is None:
                raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
            count = min(frame.size - held, len(rest))
            buffer[held : held + count] = rest[:count]
            rest, held = rest[count:], held + count
            if held == frame.size:
                yield frame, buffer[:held]
                frame, buffer, held = next(frames, None), next(buffers), 0


class Sink(Protocol):
    """Where plaintext goes: `room` gives as many writable bytes as the frame has, `put` is told when they are right."""

    def room(self, frame: artifact.Frame) -> memoryview:
        """Bytes to open the frame into."""
        ...

    def put(self, frame: artifact.Frame, plaintext: memoryview) -> None:
        """Take what was opened into `room`."""
        ...


class MemorySink:
    """A buffer of exactly the part's length, filled in place."""

    def __init__(self, buffer: bytearray | memoryview) -> None:
        self._view = memoryview(buffer)

    def room(self, frame: artifact.Frame) -> memoryview:
        """The frame's own place. Raises ValueError where the buffer ends before it."""
        if frame.final and frame.start + frame.length != len(self._view):
            raise ValueError("the buffer has another length than the part")
        return self._view[frame.start : frame.start + frame.length]

    def put(self, frame: artifact.Frame, plaintext: memoryview) -> None:
        """It is there already."""


class FileSink:
    """A file backed by memory, written frame by frame: cheaper than a mapping, whose every page is zeroed first."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._scratch = memoryview(bytearray(artifact.FRAME_BYTES))

    def room(self, frame: artifact.Frame) -> memoryview:
        """One scratch buffer for all frames."""
        return self._scratch[: frame.length]

    def put(self, frame: artifact.Frame, plaintext: memoryview) -> None:
        """Write it to its place. Raises OSError where memory is short."""
        at = frame.start
        while plaintext:
            count = os.pwrite(self._descriptor, plaintext, at)
            at, plaintext = at + count, plaintext[count:]


def open_part(fetch: Fetch, part: Part, data_key: bytes, sink: Sink, *, header: artifact.Header) -> None:
    """Open the part behind a header that `check_header` returned into `sink`.

    The digest of the whole artifact is computed beside, in a thread. Raises: ArtifactError, when `sink` holds bytes that
    nothing vouches for and must be dropped; what `fetch` and `sink` raise.
    """
    try:
        unlocked = artifact.unlock(header, data_key)
    except artifact.WrongKeyError:
        raise ArtifactError(BootFailure.ARTIFACT_COMMITMENT) from None
    layout = _layout(header, part)
    digest = hashlib.sha256(header.raw)
    hashing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as beside:
        body = fetch(len(header.raw), part.artifact_length - len(header.raw))
        for frame, data in _frames(layout, body):
            hashing.append(beside.submit(digest.update, data))
            room = sink.room(frame)
            try:
                unlocked.open_into(frame, data, room)
            except artifact.DamagedArtifactError:
                raise ArtifactError(BootFailure.ARTIFACT_DAMAGED) from None
            sink.put(frame, room)
            if len(hashing) >= HELD:
                hashing.popleft().result()
    if not hmac.compare_digest(digest.digest(), part.artifact_sha256):
        raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
