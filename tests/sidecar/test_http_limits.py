"""The HTTP door's bounds, each exceeded: memory, time, work at once; a handler of the test's own instead of an appliance."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
import gzip
import http.client
import json
from pathlib import Path
import socket
from typing import Any

import pytest

from cloister.sidecar import http_door, room
from cloister.sidecar.access import Access
from cloister.sidecar.http_door import Door, Handler, HttpConnection
from cloister.sidecar.http_messages import HttpAnswer, HttpRequest
from cloister.sidecar.room import Room

GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
BODY_MAX = 1 << 20


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


async def short(_: HttpRequest) -> HttpAnswer:
    return HttpAnswer(pieces=(b"{}",))


@asynccontextmanager
async def serving(folder: Path, handler: Handler = short, *, body_max: int = BODY_MAX, size: int = 8 * BODY_MAX) -> AsyncIterator[Door]:
    """A door on the socket `h` of a folder."""
    door = Door(access=Access(), handler=handler, body_max=body_max, room=Room(size))
    server = await asyncio.get_running_loop().create_unix_server(lambda: HttpConnection(door), str(folder / "h"))
    try:
        yield door
    finally:
        server.close()
        for connection in tuple(door.connections):
            connection.abort()


async def connected(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(folder / "h"))


def silent(folder: Path) -> socket.socket:
    """A client that never reads."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(folder / "h"))
    made.setblocking(False)
    return made


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


def code(found: tuple[int, bytes]) -> tuple[int, str]:
    return found[0], json.loads(found[1])["code"]


async def rest(reader: asyncio.StreamReader) -> bytes:
    with suppress(OSError):
        return await reader.read()
    return b""


# memory


def test_a_client_that_sends_faster_than_it_is_answered_waits(tmp_path: Path) -> None:
    """However many requests stand in a row, what was received and not answered stays within two reads."""
    turns = asyncio.Semaphore(0)

    async def handler(_: HttpRequest) -> HttpAnswer:
        await turns.acquire()
        return HttpAnswer(pieces=(b"{}",))

    async def work() -> None:
        async with serving(tmp_path, handler) as door:
            stream = silent(tmp_path)
            loop = asyncio.get_running_loop()
            most = 0
            for _ in range(30):
                with suppress(BlockingIOError):
                    while True:
                        stream.send(GET * 2000)
                turns.release()
                assert (await loop.sock_recv(stream, 1 << 16)).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0)
                most = max(most, *(len(one._http.trailing_data[0]) for one in door.connections))
            stream.close()
            assert 0 < most <= 1 << 20

    run(work())


def test_bodies_beyond_the_room_wait_for_it(tmp_path: Path) -> None:
    """A large body is not read before another has left room for it; a small one never waits."""
    seen: list[int] = []
    done = asyncio.Event()

    async def handler(request: HttpRequest) -> HttpAnswer:
        seen.append(len(request.body))
        if len(request.body) > 1000:
            await done.wait()
        return HttpAnswer(pieces=(b"{}",))

    async def work() -> None:
        async with serving(tmp_path, handler, size=BODY_MAX + 1000):
            streams = []
            for size in (BODY_MAX - 1, BODY_MAX - 2, 10):
                streams.append(await connected(tmp_path))
                streams[-1][1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
                if size > 1000:
                    await asyncio.sleep(0.02)
            assert await answer(streams[2][0]) == (200, b"{}")
            assert seen == [BODY_MAX - 1, 10]
            done.set()
            assert [await answer(reader) for reader, _ in streams[:2]] == [(200, b"{}")] * 2
            assert sorted(seen) == [10, BODY_MAX - 2, BODY_MAX - 1]
            for _, writer in streams:
                writer.close()

    run(work())


@pytest.mark.parametrize(
    "length", [b"Content-Length: 900000", b"Transfer-Encoding: chunked", b"Content-Length: 1000\r\nContent-Encoding: gzip"]
)
def test_without_room_in_time_a_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: bytes) -> None:
    """Where no room comes free the door is busy; a body whose size is not known needs room for the largest."""
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.05)

    async def work() -> None:
        async with serving(tmp_path, size=BODY_MAX) as door:
            assert door.room.claim(200_000)
            reader, writer = await connected(tmp_path)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % length)
            assert code(await answer(reader)) == (503, "busy")
            assert await rest(reader) == b""
            writer.close()

    run(work())


@pytest.mark.parametrize(
    "sent",
    [
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"x")) + gzip.compress(b"x"),
    ],
    ids=["chunked", "compressed"],
)
def test_a_body_takes_what_it_is_once_that_is_known(tmp_path: Path, sent: bytes) -> None:
    """While a small request is answered it takes no room for the large one that it might have been."""
    free = []

    async def work() -> None:
        async def handler(request: HttpRequest) -> HttpAnswer:
            free.append((bytes(request.body), door.room.claim(BODY_MAX)))
            return HttpAnswer(pieces=(b"{}",))

        async with serving(tmp_path, handler, size=BODY_MAX) as door:
            reader, writer = await connected(tmp_path)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + sent)
            await answer(reader)
            writer.close()

    run(work())
    assert free == [(b"x", True)]


def test_room_comes_back(tmp_path: Path) -> None:
    """Bodies that were answered, refused or cut leave no room taken."""

    async def work() -> None:
        async with serving(tmp_path) as door:
            for tail in (bytes(900_000), b"", bytes(10)):
                reader, writer = await connected(tmp_path)
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + tail)
                if len(tail) == 900_000:
                    await answer(reader)
                    chunked = (
                        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n" + bytes(1 << 20) + b"\r\n1\r\nxx\r\n"
                    )
                    writer.write(chunked)
                    assert code(await answer(reader)) == (413, "request-too-large")
                    assert door.room.claim(8 * BODY_MAX)  # before the client has closed
                    door.room.give(8 * BODY_MAX)
                else:
                    await asyncio.sleep(0.02)
                writer.close()
            await until(lambda: not door.connections)
            assert door.room.claim(8 * BODY_MAX)

    run(work())


# work at once


def test_many_small_chunks_leave_others_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived at once is parsed a part at a time, with the loop's other work between the parts, and arrives whole."""
    monkeypatch.setattr(http_door, "EVENTS_MAX", 4)
    rounds, found = 0, []

    async def handler(request: HttpRequest) -> HttpAnswer:
        found.append((rounds, bytes(request.body)))
        return HttpAnswer(pieces=(b"{}",))

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    async def work() -> None:
        async with serving(tmp_path, handler):
            reader, writer = await connected(tmp_path)
            ticking = asyncio.create_task(count())
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
            begun = rounds
            await answer(reader)
            ticking.cancel()
            assert found[0][1] == b"x" * 1000
            assert found[0][0] - begun >= 200
            writer.close()

    run(work())


# time


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("IDLE_SECONDS", b""),
        ("IDLE_SECONDS", b"GET /v2 HTTP/1.1\r\nHost:"),
        ("IDLE_SECONDS", GET),
        ("REQUEST_SECONDS", b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234"),
        ("REQUEST_SECONDS", b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n"),
        ("LINGER_SECONDS", b"NONSENSE\r\n\r\n"),
        ("LINGER_SECONDS", GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
    ],
    ids=["silent", "half a head", "answered", "half a body", "half of chunks", "refused", "closing"],
)
def test_a_client_that_does_not_go_on_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes) -> None:
    """Each state in which a client is waited for has its own end."""
    monkeypatch.setattr(http_door, limit, 0.05)

    async def work() -> None:
        async with serving(tmp_path) as door:
            reader, writer = await connected(tmp_path)
            writer.write(sent)
            await until(lambda: door.connections)
            await until(lambda: not door.connections)
            await rest(reader)
            writer.close()

    run(work())


def test_bytes_that_trickle_in_do_not_prolong_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then is ended as one that sends nothing."""
    monkeypatch.setattr(http_door, "IDLE_SECONDS", 0.1)

    async def work() -> None:
        async with serving(tmp_path) as door:
            reader, writer = await connected(tmp_path)
            await until(lambda: door.connections)
            with suppress(OSError):
                while door.connections:
                    writer.write(b"G")
                    await asyncio.sleep(0.01)
            await rest(reader)
            writer.close()

    run(work())


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["stays", "closes"])
def test_a_client_that_never_reads_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    """An answer that its client does not take ends the connection, whether or not that was its last."""
    monkeypatch.setattr(http_door, "WRITE_SECONDS", 0.05)

    async def handler(_: HttpRequest) -> HttpAnswer:
        return HttpAnswer(pieces=(bytes(8 << 20),))

    async def work() -> None:
        async with serving(tmp_path, handler) as door:
            stream = silent(tmp_path)
            stream.send(GET[:-2] + more + b"\r\n")
            await until(lambda: door.connections)
            await until(lambda: not door.connections)
            stream.close()

    run(work())


def test_the_last_bytes_of_a_last_answer_are_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still to be written when a connection closes has its time too."""
    monkeypatch.setattr(http_door, "LINGER_SECONDS", 0.05)

    async def handler(_: HttpRequest) -> HttpAnswer:
        return HttpAnswer(pieces=(bytes(900_000),))  # beyond a socket's buffer, within a transport's

    async def work() -> None:
        async with serving(tmp_path, handler) as door:
            stream = silent(tmp_path)
            stream.send(GET[:-2] + b"Connection: close\r\n\r\n")
            await until(lambda: door.connections)
            await until(lambda: not door.connections)
            stream.close()

    run(work())


# refusals arrive


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_of_a_large_body_reads_why_not(tmp_path: Path, chunked: bool) -> None:
    """413 reaches a client that reads nothing before its whole body is sent."""

    def post() -> tuple[int, bytes]:
        door = http.client.HTTPConnection("x", timeout=20)
        door.sock = socket.socket(socket.AF_UNIX)
        door.sock.connect(str(tmp_path / "h"))
        body = bytes(8 << 20)
        door.request("POST", "/v2", iter([body]) if chunked else body, encode_chunked=chunked)
        found = door.getresponse()
        raw = found.read()
        door.close()
        return found.status, raw

    async def work() -> None:
        async with serving(tmp_path):
            assert code(await asyncio.to_thread(post)) == (413, "request-too-large")

    run(work())


def test_what_follows_a_refusal_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes on sending after it was refused is cut."""
    monkeypatch.setattr(http_door, "LINGER_BYTES", 1 << 20)
    monkeypatch.setattr(http_door, "LINGER_SECONDS", 1000)

    async def work() -> None:
        async with serving(tmp_path, body_max=1024):
            reader, writer = await connected(tmp_path)
            writer.write(b"NONSENSE\r\n\r\n")
            assert code(await answer(reader)) == (400, "malformed-http")
            with pytest.raises(OSError):
                while True:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
            writer.close()

    run(work())


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /v2 HTTP/1.1\nHost: x\n\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n\n",
    ],
    ids=["two lengths", "chunks of HTTP/1.0", "two sizes", "bare line feeds", "one among them", "the last one"],
)
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_what_others_would_read_differently_is_refused(tmp_path: Path, raw: bytes, before: bytes) -> None:
    """Requests that a proxy may cut elsewhere are 400, on a connection's later requests too, and nothing behind them is answered."""
    seen = []

    async def handler(request: HttpRequest) -> HttpAnswer:
        seen.append(request.method)
        return HttpAnswer(pieces=(b"{}",))

    async def work() -> None:
        async with serving(tmp_path, handler):
            reader, writer = await connected(tmp_path)
            writer.write(before + raw + GET)
            if before:
                assert await answer(reader) == (200, b"{}")
            assert code(await answer(reader)) == (400, "malformed-http")
            assert await rest(reader) == b""
            assert len(seen) == bool(before)
            writer.close()

    run(work())


def test_line_feeds_of_a_body_are_its_own(tmp_path: Path) -> None:
    """Only a head's lines are judged."""
    seen = []

    async def handler(request: HttpRequest) -> HttpAnswer:
        seen.append(bytes(request.body))
        return HttpAnswer(pieces=(b"{}",))

    async def work() -> None:
        async with serving(tmp_path, handler):
            reader, writer = await connected(tmp_path)
            writer.write(b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\n\n\r\n" + GET)
            assert [await answer(reader), await answer(reader)] == [(200, b"{}")] * 2
            assert seen == [b"\n\n\r\n", b""]
            writer.close()

    run(work())


@pytest.mark.parametrize("kind", ["a\r\nb", None])
def test_a_defect_is_answered_and_ends_the_connection(tmp_path: Path, kind: str | None) -> None:
    """An answer that cannot be sent, and a handler that raises, are INTERNAL; no client is left without an answer or an end."""

    async def handler(_: HttpRequest) -> HttpAnswer:
        if kind is None:
            raise ZeroDivisionError
        return HttpAnswer(pieces=(b"{}",), content_type=kind)

    async def work() -> None:
        async with serving(tmp_path, handler):
            reader, writer = await connected(tmp_path)
            writer.write(GET)
            assert code(await answer(reader)) == (500, "internal")
            assert await rest(reader) == b""
            writer.close()

    run(work())
