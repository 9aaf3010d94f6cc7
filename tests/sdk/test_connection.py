"""The caller's connection: ways to the appliance, streams that are cut, what is tried again and what never is."""

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from attestation.checks import Check
from attestation.errors import AttestationError, UntrustedEvidenceError
from cloister.api import Client
from cloister.connection import Opening
from cloister.errors import (
    CloisterError,
    DeadlineError,
    EvidenceRefusedError,
    MalformedAnswerError,
    RequestRefusedError,
    SessionLostError,
    UnreachableError,
)
from tests.sdk.appliance import Appliance, appliance, client, echo
from tests.session import world
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect
from wire.errors import Code
from wire.manifest import Limits
from wire.message import Message, encode
from wire.record import RECORDS_MAX, Octets

DATA = bytes(range(256)) * 64


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work
        await asyncio.sleep(0)

    gc.collect()  # of other tests' leavings
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(bounded())
    assert before >= len(os.listdir("/proc/self/fd")), "a socket is left"


async def asked(caller: Client, **options: Any) -> bytes:
    message, _ = await caller.call("/v2/models/m/infer", b"{}", [DATA], **options)
    return bytes(message.tensors)


async def pump(reader: Reader, writer: Writer, limit: int | None = None) -> None:
    """Pass bytes on; at most `limit`."""
    with suppress(OSError):
        left = limit if limit is not None else 1 << 60
        while left and (data := await reader.read(min(left, 1 << 16))):
            left -= len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def between(upstream: str, preamble: Callable[[Reader, Writer], Coroutine[Any, Any, bool]] | None = None, *, tcp: bool = False,
                  cut: tuple[int | None, int | None] = (None, None), path: str = "") -> AsyncIterator[Endpoint]:  # fmt: skip
    """A relay to the appliance: talks the preamble first, and ends the stream after so many bytes there or back."""

    async def handle(reader: Reader, writer: Writer) -> None:
        tasks: list[asyncio.Task[None]] = []
        others: list[Writer] = []
        try:
            if preamble is None or await preamble(reader, writer):
                back, there = await asyncio.open_unix_connection(upstream)
                others.append(there)
                tasks = [asyncio.create_task(pump(reader, there, cut[0])), asyncio.create_task(pump(back, writer, cut[1]))]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for one in (writer, *others):
                one.close()

    server = await (asyncio.start_server(handle, "127.0.0.1", 0) if tcp else asyncio.start_unix_server(handle, path))
    try:
        yield Tcp("127.0.0.1", server.sockets[0].getsockname()[1]) if tcp else Unix(path)
    finally:
        server.close()
        await asyncio.sleep(0.02)


def test_tcp(tmp_path: Path) -> None:
    """Over TCP, with nothing in front."""

    async def work() -> None:
        async with appliance(tmp_path) as there, between(there.path, tcp=True) as relay, client(relay) as caller:
            assert DATA == await asked(caller)

    run(work())


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
@pytest.mark.parametrize("proxied", [False, True])
def test_names_that_are_none(host: str, proxied: bool) -> None:
    """A host that cannot be a name, the appliance's or the proxy's, is unreachable as any other that nobody answers for."""

    async def work() -> None:
        async with client(Tcp("127.0.0.1", 1, (host, 1)) if proxied else Tcp(host, 1)) as caller:
            with pytest.raises(UnreachableError):
                await asked(caller)

    run(work())


async def until_blank(reader: Reader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(("host", "named"), [("parent.example", b"parent.example:8443"), ("::1", b"[::1]:8443")])
def test_proxy(tmp_path: Path, host: str, named: bytes) -> None:
    """Through an HTTP CONNECT proxy, which resolves the name; what follows its answer at once belongs to the session."""
    seen = []

    async def proxy(reader: Reader, writer: Writer) -> bool:
        seen.append(await until_blank(reader))
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
        return True

    async def work() -> None:
        async with appliance(tmp_path) as there, between(there.path, proxy, tcp=True) as relay:
            assert isinstance(relay, Tcp)
            async with client(Tcp(host, 8443, (relay.host, relay.port))) as caller:
                assert DATA == await asked(caller)
        assert [b"CONNECT " + named + b" HTTP/1.1\r\nHost: " + named + b"\r\n\r\n"] == seen

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 2000 x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"",
        b"\r\n\r\n",
        bytes(9000),
    ],
)
def test_proxy_refuses(tmp_path: Path, answer: bytes) -> None:
    """A proxy that refuses, closes, or answers something else or without end leaves the appliance unreachable."""

    async def proxy(reader: Reader, writer: Writer) -> bool:
        await until_blank(reader)
        writer.write(answer)
        with suppress(OSError):
            await writer.drain()
        return False

    async def work() -> None:
        async with appliance(tmp_path) as there, between(there.path, proxy, tcp=True) as relay:
            assert isinstance(relay, Tcp)
            async with client(Tcp("h", 1, (relay.host, relay.port))) as caller:
                with pytest.raises(UnreachableError):
                    await asked(caller)

    run(work())


@pytest.mark.parametrize(("answer", "good"), [(b"OK 1073741824\n", True), (b"ERR\n", False), (b"", False)])
def test_unix_connect(tmp_path: Path, answer: bytes, good: bool) -> None:
    """Through a Unix socket that is told the port first."""

    async def hybrid(reader: Reader, writer: Writer) -> bool:
        assert b"CONNECT 5000\n" == await reader.readline()
        writer.write(answer)
        return good

    async def work() -> None:
        path = str(tmp_path / "hybrid")
        async with appliance(tmp_path) as there, between(there.path, hybrid, path=path), client(UnixConnect(path, 5000)) as caller:
            if good:
                assert DATA == await asked(caller)
            else:
                with pytest.raises(UnreachableError):
                    await asked(caller)

    run(work())


@pytest.mark.parametrize("there", [0, 5, 37, 38, 500, 5274, 5275, 5300, 6000, 20000])
def test_cut_on_the_way_there(tmp_path: Path, there: int) -> None:
    """A stream that ends anywhere is one typed error; nothing waits for ever, and nothing was done twice."""
    run(_cut(tmp_path, (there, None)))


@pytest.mark.parametrize("back", [0, 4, 5, 1000, 5000, 6500, 7000, 8000, 9000, 20000])
def test_cut_on_the_way_back(tmp_path: Path, back: int) -> None:
    """The same in the other direction."""
    run(_cut(tmp_path, (None, back)))


async def _cut(folder: Path, cut: tuple[int | None, int | None]) -> None:
    async with appliance(folder) as there, between(there.path, cut=cut, path=str(folder / "cut")) as relay, client(relay) as caller:
        with pytest.raises((UnreachableError, SessionLostError)):
            await asked(caller)
        assert len(there.paths) <= 1


def test_silence(tmp_path: Path) -> None:
    """An appliance that takes the connection and says nothing is unreachable after the handshake's time."""

    async def silent(reader: Reader, writer: Writer) -> bool:
        await reader.read()
        return False

    async def work() -> None:
        async with between("", silent, path=str(tmp_path / "silent")) as relay, client(relay, seconds=0.05) as caller:
            with pytest.raises(UnreachableError):
                await asked(caller)
            with pytest.raises(DeadlineError):
                await asked(caller, seconds=0.02)

    run(work())


@pytest.mark.parametrize(
    "answer", [b"\0" * 64, b"\0\0\x10\0\x02" + bytes(4095), b"\xff\xff\xff\xff\x02", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
def test_no_evidence(tmp_path: Path, answer: bytes) -> None:
    """Whatever is not evidence is refused; nothing but the challenge was ever sent."""
    heard: list[bytes] = []

    async def other(reader: Reader, writer: Writer) -> bool:
        writer.write(answer)
        data = b""
        with suppress(ConnectionResetError):
            while more := await reader.read(1 << 16):
                data += more
        heard.append(data)
        return False

    async def work() -> None:
        async with between("", other, path=str(tmp_path / "other")) as relay, client(relay) as caller:
            with pytest.raises((UnreachableError, EvidenceRefusedError)):
                await asked(caller)
            while not heard:
                await asyncio.sleep(0.005)
        assert {38} == {len(data) for data in heard}

    run(work())


def test_evidence_refused_seals_nothing(tmp_path: Path) -> None:
    """A verifier that says no ends it: no opening leaves, and it is not tried again."""
    judged = []

    def refuse(body: bytes, nonce: bytes) -> Any:
        judged.append(body)
        raise AttestationError

    async def work() -> None:
        async with appliance(tmp_path) as there:
            opening = Opening(endpoint=Unix(there.path), judge=refuse, identity=world.identity(), answer_bytes=1 << 20)
            async with Client(opening) as caller:
                with pytest.raises(EvidenceRefusedError):
                    await asked(caller)
            assert (1, []) == (len(judged), there.paths)

    run(work())


async def cut_off(there: Appliance) -> None:
    for connection in there.connections:
        connection._abort()


def test_tried_again_once_before_anything_was_sent(tmp_path: Path) -> None:
    """A session that is over before the request is begun is replaced by itself; an appliance that is gone is told."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            assert DATA == await asked(caller)
            await cut_off(there)
            await asyncio.sleep(0.05)
            assert DATA == await asked(caller)
            assert (2, 2) == (there.accepted, len(there.paths))

    run(work())


@pytest.mark.parametrize(("repeatable", "runs"), [(False, 1), (True, 2)])
def test_sent_requests_are_repeated_only_where_allowed(tmp_path: Path, repeatable: bool, runs: int) -> None:
    """A request that may have run is sent again only where its caller said that it may, and then once."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:

            async def die(_: Message) -> list[Octets]:
                await cut_off(there)
                return encode(json=b"{}")

            there.answer = die
            with pytest.raises(SessionLostError) as lost:
                await asked(caller, repeatable=repeatable)
            assert lost.value.sent
            assert runs == len(there.paths)

    run(work())


def test_what_may_have_run_is_told_as_that(tmp_path: Path) -> None:
    """A request that left, on a session that broke, is lost, not unreachable, though the appliance is gone by then."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:

            async def die(_: Message) -> list[Octets]:
                Path(str(there.path).removeprefix("unix:")).unlink()
                await cut_off(there)
                return encode(json=b"{}")

            there.answer = die
            with pytest.raises(SessionLostError) as lost:
                await asked(caller, repeatable=True)
            assert lost.value.sent
            assert 1 == len(there.paths)

    run(work())


def test_refused_evidence_does_not_hide_what_may_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second session shows evidence that is refused, a request that left on the first is lost, not unsent."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:

            async def refused() -> Any:
                raise EvidenceRefusedError(UntrustedEvidenceError(Check.COSE_SIGNATURE))

            async def die(_: Message) -> list[Octets]:
                monkeypatch.setattr(caller, "_session", refused)
                await cut_off(there)
                return encode(json=b"{}")

            there.answer = die
            with pytest.raises(SessionLostError) as lost:
                await asked(caller, repeatable=True)
            assert lost.value.sent
            with pytest.raises(EvidenceRefusedError):
                await asked(caller, repeatable=True)

    run(work())


@pytest.mark.parametrize("code", [Code.SHUTTING_DOWN, Code.SESSION_EXPIRED, Code.SESSION_IDLE])
def test_ended_by_the_enclave(tmp_path: Path, code: Code) -> None:
    """A session that the enclave ends is replaced with the next request; one under way is still answered on the old one."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            gate = asyncio.Event()

            async def later(message: Message) -> list[Octets]:
                await gate.wait()
                return await echo(message)

            there.answer = later
            under_way = asyncio.create_task(asked(caller))
            while not there.paths:
                await asyncio.sleep(0.005)
            there.connections[0].end(code)
            second = asyncio.create_task(asked(caller))
            await asyncio.sleep(0.05)
            gate.set()
            assert [DATA, DATA] == [await under_way, await second]
            assert 2 == there.accepted

    run(work())


def test_cancelled_while_sending(tmp_path: Path) -> None:
    """A large message that is given up half sent leaves the session whole: the next one is answered on it."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            assert DATA == await asked(caller)
            large = asyncio.create_task(caller.call("/v2/models/m/infer", b"{}", [bytes(7 << 20)]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            large.cancel()
            await asyncio.wait((large,))
            assert DATA == await asked(caller)
            assert 1 == there.accepted

    run(work())


def test_too_large_is_not_sent(tmp_path: Path) -> None:
    """A request beyond what the enclave granted is refused here."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            with pytest.raises(RequestRefusedError) as refused:
                await caller.call("/v2/models/m/infer", b"{}", [bytes(9 << 20)])
            assert Code.REQUEST_TOO_LARGE is refused.value.code
            assert [] == there.paths

    run(work())


def test_answer_too_large_is_not_kept(tmp_path: Path) -> None:
    """An answer beyond what the caller is ready to hold is refused; the session lives on."""

    async def large(_: Message) -> list[Octets]:
        return encode(json=b"{}", tensors=[bytes(3 << 20)])

    async def work() -> None:
        async with appliance(tmp_path, large) as there, client(there.path, answer_bytes=1 << 20) as caller:
            with pytest.raises(RequestRefusedError) as refused:
                await asked(caller)
            assert Code.ANSWER_TOO_LARGE is refused.value.code
            there.answer = echo
            assert DATA == await asked(caller)
            assert 1 == there.accepted

    run(work())


@pytest.mark.parametrize("status", [1, 99, 65535, 103])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"field": 3}', b'{"error": {}}'])
def test_strange_refusals(tmp_path: Path, status: int, body: bytes) -> None:
    """An error answer that is none of the table, or no JSON, is one of our errors."""

    async def odd(_: Message) -> list[Octets]:
        return encode(status=status, json=body)

    async def work() -> None:
        async with appliance(tmp_path, odd) as there, client(there.path) as caller:
            with pytest.raises((RequestRefusedError, MalformedAnswerError)):
                await asked(caller)

    run(work())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"outputs": 1}', b'{"outputs": [{}]}', b'{"model_name": "m", "model_version": "1", "outputs": []}']
)
def test_strange_answers(tmp_path: Path, body: bytes) -> None:
    """An answer to `infer` that is not one of the inference protocol is one of our errors."""

    async def odd(_: Message) -> list[Octets]:
        return encode(json=body, tensors=[b"x"])

    async def work() -> None:
        async with appliance(tmp_path, odd) as there, client(there.path) as caller:
            with pytest.raises(MalformedAnswerError):
                await caller.infer("m", {})

    run(work())


def test_closed_client(tmp_path: Path) -> None:
    """A closed client refuses to be used and opens nothing any more, not even what it was opening."""

    async def work() -> None:
        async with appliance(tmp_path) as there:
            caller = client(there.path)
            opening = asyncio.create_task(asked(caller))
            await asyncio.sleep(0)
            await caller.close()
            with pytest.raises((CloisterError, RuntimeError, asyncio.CancelledError)):
                await opening
            with pytest.raises(RuntimeError):
                await asked(caller)

    run(work())


def test_more_at_once_than_the_enclave_takes(tmp_path: Path) -> None:
    """Requests beyond the enclave's limit wait their turn in order, also where some of those waiting are cancelled."""
    at_once: list[int] = []
    running = 0

    async def counted(message: Message) -> list[Octets]:
        nonlocal running
        running += 1
        at_once.append(running)
        await asyncio.sleep(0.005)
        running -= 1
        return await echo(message)

    async def work() -> None:
        async with appliance(tmp_path, counted, limits=Limits(open_messages=3)) as there, client(there.path) as caller:
            await asked(caller)
            tasks = [asyncio.create_task(asked(caller)) for _ in range(30)]
            await asyncio.sleep(0.002)
            for task in tasks[5:25:2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert 20 == done.count(DATA)
            assert max(at_once) <= 3
            assert DATA == await asked(caller)

    run(work())


@pytest.mark.parametrize("side", ["caller", "enclave"])
def test_records_used_up(tmp_path: Path, side: str) -> None:
    """Once a direction's records are used up the session ends at both sides, and the next request opens another."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(Unix(there.path)) as caller:
            await asked(caller)
            ours, theirs = caller._current.connection._session, there.connections[0]._session  # type: ignore[union-attr]
            sender, receiver = (ours, theirs) if side == "caller" else (theirs, ours)
            sender._sealer._sequence = receiver._reader._opener._sequence = RECORDS_MAX - 1  # type: ignore[union-attr]
            assert DATA == await asked(caller)  # the last record
            if side == "enclave":
                with pytest.raises(SessionLostError):
                    await asked(caller)
            assert DATA == await asked(caller)
            assert 2 == there.accepted

    run(work())
