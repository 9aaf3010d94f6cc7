"""The feed: exact ranges, errors instead of guesses, and an end for whoever stalls or talks nonsense."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import hashlib
import os
from pathlib import Path
import random
import socket

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from parent.errors import SourceError
from parent.feed import Artifact, DirectorySource, FeedService
from tests.parent.streams import receive, rest, run, send, served
from wire.feed import CHUNK_MAX, MANIFEST_MAX, FeedError, FeedType, GetRange, encode_error, encode_get_manifest, encode_get_range
from wire.frame import HEADER_BYTES, encode

CONTENT = random.Random(1).randbytes(3 * CHUNK_MAX + 17)
NAME = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "manifest.cose").write_bytes(b"manifest")
    (tmp_path / NAME.hex()).write_bytes(CONTENT)
    return tmp_path


async def answer(stream: socket.socket) -> tuple[int, bytes]:
    head = await receive(stream, HEADER_BYTES)
    return head[4], await receive(stream, int.from_bytes(head[:4], "big") - 1)


async def fetch(stream: socket.socket, offset: int, length: int) -> bytes:
    await send(stream, encode_get_range(GetRange(sha256=NAME, offset=offset, length=length)))
    data = b""
    while len(data) < length:
        kind, body = await answer(stream)
        assert kind == FeedType.CHUNK
        data += body
    return data


def test_manifest_and_ranges_are_handed_out_exactly(directory: Path) -> None:
    """One connection gets the manifest and every range as asked, chunk borders or not."""

    async def body() -> None:
        service = FeedService(DirectorySource(directory), seconds=20)
        stream, task = await served(service.handle)
        await send(stream, encode_get_manifest())
        assert await answer(stream) == (FeedType.MANIFEST, b"manifest")
        ranges = [(0, len(CONTENT)), (0, 1), (len(CONTENT) - 1, 1), (CHUNK_MAX - 1, 2), (5, CHUNK_MAX), (7, 2 * CHUNK_MAX)]
        for offset, length in ranges:
            assert await fetch(stream, offset, length) == CONTENT[offset : offset + length]
        assert service.bytes_sent == sum(length for _, length in ranges)
        stream.close()
        await task

    run(body())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (GetRange(sha256=bytes(32), offset=0, length=1), FeedError.NOT_FOUND),
        (GetRange(sha256=NAME, offset=0, length=len(CONTENT) + 1), FeedError.BAD_RANGE),
        (GetRange(sha256=NAME, offset=len(CONTENT), length=1), FeedError.BAD_RANGE),
    ],
)
def test_what_cannot_be_had_is_an_error_and_the_connection_lives_on(directory: Path, request_: GetRange, reason: FeedError) -> None:
    """A missing artifact and a range beyond its end are told apart, and the next request is answered."""

    async def body() -> None:
        service = FeedService(DirectorySource(directory), seconds=20)
        stream, task = await served(service.handle)
        await send(stream, encode_get_range(request_))
        assert await receive(stream, 7) == encode_error(reason)
        assert service.errors[reason.name.lower()] == 1
        assert await fetch(stream, 0, 3) == CONTENT[:3]
        stream.close()
        await task

    run(body())


def test_a_file_that_shrinks_ends_in_an_error_and_not_in_a_wait(directory: Path) -> None:
    """An artifact truncated after it was opened gives UNAVAILABLE in a chunk's place."""

    async def body() -> None:
        source = DirectorySource(directory)
        async with source.artifact(NAME) as artifact:
            os.truncate(directory / NAME.hex(), CHUNK_MAX)
            buffer = bytearray(16)
            with pytest.raises(SourceError) as caught:
                await artifact.read_into(CHUNK_MAX - 8, memoryview(buffer))
        assert caught.value.reason is FeedError.UNAVAILABLE

        class Believing(Artifact):
            """An artifact that says it is still long, as a file does that shrinks after it was opened."""

            length = 2 * CHUNK_MAX

            def __init__(self, file: Artifact) -> None:
                self.file = file

            async def read_into(self, offset: int, buffer: memoryview) -> None:
                await self.file.read_into(offset, buffer)

        class Shrinking(DirectorySource):
            @asynccontextmanager
            async def artifact(self, sha256: bytes) -> AsyncIterator[Artifact]:
                async with super().artifact(sha256) as file:
                    yield Believing(file)

        stream, task = await served(FeedService(Shrinking(directory), seconds=20).handle)
        await send(stream, encode_get_range(GetRange(sha256=NAME, offset=0, length=2 * CHUNK_MAX)))
        assert (await answer(stream))[0] == FeedType.CHUNK
        assert await answer(stream) == (FeedType.FEED_ERROR, encode_error(FeedError.UNAVAILABLE)[HEADER_BYTES:])
        stream.close()
        await task

    run(body())


@pytest.mark.parametrize("make", ["missing", "directory", "fifo", "empty", "oversize"])
def test_a_manifest_that_is_none_is_an_error(tmp_path: Path, make: str) -> None:
    """No manifest, a directory, a FIFO, an empty or an oversize file: an error at once, nothing else."""
    path = tmp_path / "manifest.cose"
    match make:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case "oversize":
            path.write_bytes(bytes(MANIFEST_MAX + 1))
    with pytest.raises(SourceError) as caught:
        run(DirectorySource(tmp_path).manifest())
    assert caught.value.reason is (FeedError.NOT_FOUND if make == "missing" else FeedError.UNAVAILABLE)


def test_a_new_manifest_is_handed_out_without_a_restart(directory: Path) -> None:
    """The file is read at each request."""
    source = DirectorySource(directory)
    assert run(source.manifest()) == b"manifest"
    (directory / "manifest.cose").write_bytes(b"newer")
    assert run(source.manifest()) == b"newer"


def test_an_enclave_that_asks_slowly_or_does_not_read_is_cut_off(directory: Path) -> None:
    """A request that is not whole in time, and an answer that is not taken in time, end the connection."""

    async def body() -> None:
        service = FeedService(DirectorySource(directory), seconds=0.2)
        slow, slow_task = await served(service.handle)
        await send(slow, encode_get_manifest()[:3])
        deaf, deaf_task = await served(service.handle)
        await send(deaf, encode_get_range(GetRange(sha256=NAME, offset=0, length=len(CONTENT))))
        await asyncio.wait([slow_task, deaf_task])
        assert await rest(slow) == b""
        assert len(await rest(deaf)) < len(CONTENT)
        assert service.bytes_sent < len(CONTENT)

    run(body())


@pytest.mark.parametrize(
    "frame", [encode(FeedType.GET_CREDENTIALS, b""), encode(FeedType.CHUNK, b"x"), encode(FeedType.GET_RANGE, bytes(48))]
)
def test_frames_that_do_not_belong_end_the_connection(directory: Path, frame: bytes) -> None:
    """Another port's request, an answer, or an empty range is no request."""

    async def body() -> None:
        stream, task = await served(FeedService(DirectorySource(directory), seconds=20).handle)
        await send(stream, frame)
        assert await rest(stream) == b""
        await task

    run(body())


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_answered_or_end_the_connection(data: bytes) -> None:
    """Whatever the enclave's side says, the handler ends without an exception."""

    async def body() -> None:
        stream, task = await served(FeedService(DirectorySource(Path("missing")), seconds=20).handle)
        await send(stream, data)
        stream.shutdown(socket.SHUT_WR)
        await rest(stream)
        await task
        stream.close()

    run(body())
