"""The feed: the signed manifest, and ranges of sealed artifacts, from where the operator keeps them.

All of it is public or sealed. An artifact is asked for by the SHA-256 of its bytes and the parent may hand out what it
likes under that name: the enclave believes only what opens under the manifest's commitments.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
import errno
import os
from pathlib import Path
import socket
import stat
from typing import Protocol

from parent.errors import SourceError
from parent.frames import FrameStream
from wire.errors import WireError
from wire.feed import CHUNK_MAX, MANIFEST_MAX, FeedError, FeedType, GetRange, decode_get_range, encode_error
from wire.frame import HEADER_BYTES, encode

MANIFEST_NAME = "manifest.cose"


class Artifact(Protocol):
    """One sealed artifact, open for reading ranges of it, several at a time."""

    @property
    def length(self) -> int:
        """Bytes in all."""
        ...

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, which lies inside. Raises: SourceError where not all of it can be had."""
        ...


class Source(Protocol):
    """Where manifest and artifacts come from."""

    async def manifest(self) -> bytes:
        """The signed manifest as it is. Raises: SourceError."""
        ...

    def artifact(self, sha256: bytes) -> AbstractAsyncContextManager[Artifact]:
        """Open an artifact for the time of the context. Raises on entry: SourceError."""
        ...

    async def close(self) -> None:
        """End what is under way: whoever waits for bytes is told that they do not come."""
        ...


class _File:
    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        self.length = length

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        await asyncio.to_thread(self._read, offset, buffer)

    def _read(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            try:
                count = os.preadv(self._descriptor, [buffer], offset)
            except OSError as error:
                raise SourceError(FeedError.UNAVAILABLE, f"reading an artifact: {error.strerror}") from None
            if not count:
                raise SourceError(FeedError.UNAVAILABLE, "an artifact's file became shorter")
            offset, buffer = offset + count, buffer[count:]


def _open(path: Path) -> tuple[int, int]:
    """Descriptor and length of a regular file. Raises: SourceError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise SourceError(FeedError.NOT_FOUND if missing else FeedError.UNAVAILABLE, f"{path.name}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SourceError(FeedError.UNAVAILABLE, f"{path.name}: no regular file")
    return descriptor, status.st_size


@asynccontextmanager
async def open_file(path: Path) -> AsyncIterator[Artifact]:
    """An artifact that lies in a regular file. Raises on entry: SourceError."""
    descriptor, length = await asyncio.to_thread(_open, path)
    try:
        yield _File(descriptor, length)
    finally:
        os.close(descriptor)


class DirectorySource:
    """A directory with `manifest.cose` and files named by the lower-case hex of their SHA-256."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def manifest(self) -> bytes:
        """Read anew each time, so that a new manifest needs no restart of the parent."""
        return await asyncio.to_thread(self._manifest)

    def _manifest(self) -> bytes:
        descriptor, length = _open(self._directory / MANIFEST_NAME)
        with os.fdopen(descriptor, "rb") as file:
            if not 0 < length <= MANIFEST_MAX:
                raise SourceError(FeedError.UNAVAILABLE, f"{MANIFEST_NAME}: expected 1 to {MANIFEST_MAX} bytes")
            return file.read(MANIFEST_MAX)

    def artifact(self, sha256: bytes) -> AbstractAsyncContextManager[Artifact]:
        """The file's bytes are not hashed here: the enclave checks what it opens."""
        return open_file(self._directory / sha256.hex())

    async def close(self) -> None:
        """Nothing is under way."""


class FeedService:
    """Answers the feed port. One request at a time per connection; bytes handed out are counted."""

    def __init__(self, source: Source, *, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self.bytes_sent = 0
        self.errors: dict[str, int] = {reason.name.lower(): 0 for reason in FeedError}

    async def close(self) -> None:
        """End what the source has under way."""
        await self._source.close()

    async def handle(self, stream: socket.socket) -> None:
        """Serve one connection until the enclave closes it. A malformed request, a stall or a broken source ends it."""
        frames = FrameStream(stream, seconds=self._seconds)
        buffers = (bytearray(HEADER_BYTES + CHUNK_MAX), bytearray(HEADER_BYTES + CHUNK_MAX))
        try:
            while (request := await frames.next(FeedType.GET_MANIFEST, FeedType.GET_RANGE)) is not None:
                try:
                    if request[HEADER_BYTES - 1] == FeedType.GET_MANIFEST:
                        await frames.send(encode(FeedType.MANIFEST, await self._source.manifest()))
                    else:
                        await self._range(frames, decode_get_range(request[HEADER_BYTES:]), buffers)
                except SourceError as error:
                    self.errors[error.reason.name.lower()] += 1
                    await frames.send(encode_error(error.reason))
        except (WireError, TimeoutError):
            return

    async def _range(self, frames: FrameStream, wanted: GetRange, buffers: tuple[bytearray, bytearray]) -> None:
        """Send the range in chunks, reading the next while one is sent. An error after the first takes a chunk's place."""
        async with self._source.artifact(wanted.sha256) as artifact:
            if wanted.offset + wanted.length > artifact.length:
                raise SourceError(FeedError.BAD_RANGE)
            at, end = wanted.offset, wanted.offset + wanted.length
            reading = asyncio.ensure_future(_chunk(artifact, at, end, buffers[0]))
            turn = 0
            try:
                while at < end:
                    chunk = await reading
                    at += len(chunk) - HEADER_BYTES
                    turn ^= 1
                    if at < end:
                        reading = asyncio.ensure_future(_chunk(artifact, at, end, buffers[turn]))
                    await frames.send(chunk)
                    self.bytes_sent += len(chunk) - HEADER_BYTES
            finally:
                # The file stays open until a read under way has ended: its descriptor must not be another's by then.
                await asyncio.wait([reading])
                reading.exception()


async def _chunk(artifact: Artifact, at: int, end: int, buffer: bytearray) -> memoryview:
    """A whole CHUNK frame with the bytes from `at` on."""
    length = min(CHUNK_MAX, end - at)
    buffer[:HEADER_BYTES] = (1 + length).to_bytes(4, "big") + bytes((FeedType.CHUNK,))
    view = memoryview(buffer)[: HEADER_BYTES + length]
    await artifact.read_into(at, view[HEADER_BYTES:])
    return view
