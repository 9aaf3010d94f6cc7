"""The caller's stream to an appliance: opens the endpoint, runs one `CallerSession` on it; the only I/O of the SDK."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import socket
from typing import cast

from attestation.appraise import AttestationResult
from attestation.errors import AttestationError
from cloister.errors import EvidenceRefusedError, SessionLostError, SessionRefusedError, UnreachableError
from cloister.session import Accepted, CallerIdentity, CallerSession, Ended, SessionRefused, State
from cloister.turns import Turns
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, Vsock
from wire.errors import Code, WireError
from wire.frame import FrameBuffer, FrameType
from wire.handshake import HANDSHAKE_SECONDS
from wire.message import Message, Refused
from wire.record import Octets, RecordError

WRITE_HIGH_WATER = 1 << 20
PREAMBLE_MAX = 4096

Judge = Callable[[bytes, bytes], AttestationResult]
"""(evidence body, nonce) to a result; raises AttestationError. CPU-bound for a few milliseconds, no I/O."""

_EXPECTED = {State.CHALLENGED: FrameType.EVIDENCE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How sessions are opened: where, by whom, judged how, with answers of at most `answer_bytes`."""

    endpoint: Endpoint
    judge: Judge
    identity: CallerIdentity | None
    answer_bytes: int
    seconds: float = HANDSHAKE_SECONDS


class Connection(asyncio.BufferedProtocol):
    """One sealed session on one stream. Made by `open_session`; raises SessionLostError once it is over."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._session = CallerSession(answer_bytes=opening.answer_bytes)
        self._frames = FrameBuffer()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._accepted: asyncio.Future[Accepted] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Message | Refused]] = {}
        self._sending = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        self._cancels: set[asyncio.Task[None]] = set()
        self._granted: Accepted | None = None
        self._turns = Turns(self._has_room)
        self._closing = False
        self._lost = asyncio.Event()
        self._started = self._loop.time()
        self.result: AttestationResult | None = None
        self.ended: Code | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for evidence at once."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._transport.write(self._session.challenge())

    def connection_lost(self, exc: Exception | None) -> None:
        """Every open request fails; nothing else is told."""
        self._session.drop()
        if not self._accepted.done():
            self._accepted.set_exception(UnreachableError("the stream ended before the session was accepted"))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(SessionLostError(self.ended, sent=True))
        self._answers.clear()
        self._writable.set()
        self._lost.set()
        self._turns.let_in()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Evidence is bounded by its exact size, records by theirs."""
        expected = _EXPECTED.get(self._session.state, FrameType.RECORD)
        return self._frames.space(expected, exact=expected is FrameType.EVIDENCE)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        self._frames.filled(nbytes)
        try:
            while self.is_alive:
                expected = _EXPECTED.get(self._session.state, FrameType.RECORD)
                frame = self._frames.next(expected)
                if frame is None:
                    return
                self._frame(frame)
        except WireError:
            self._fail(UnreachableError("the peer does not follow the session protocol"))

    def pause_writing(self) -> None:
        """The peer does not take more; we go on reading."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Room again."""
        self._writable.set()

    # frames in

    def _frame(self, frame: memoryview) -> None:
        match self._session.state:
            case State.CHALLENGED:
                self._evidence(frame)
            case State.OPENING:
                self._accept(frame)
            case _:
                self._record(frame)

    def _evidence(self, frame: memoryview) -> None:
        body = self._session.evidence(frame)
        try:
            self.result = self._opening.judge(body, self._session.nonce)
        except AttestationError as error:
            self._fail(EvidenceRefusedError(error))
            return
        self._write(self._session.open(self.result, self._opening.identity))

    def _accept(self, frame: memoryview) -> None:
        try:
            accepted = self._session.accept(frame)
        except SessionRefused as error:
            self._fail(SessionRefusedError(error.code or Code.SESSION_REFUSED))
            return
        self._granted = accepted
        if not self._accepted.done():
            self._accepted.set_result(accepted)

    def _record(self, frame: memoryview) -> None:
        event = self._session.record(frame)
        match event:
            case Message() | Refused():
                answer = self._answers.pop(event.id, None)
                if answer is not None and not answer.done():
                    answer.set_result(event)
            case Ended(code=code):
                self.ended = code
                self._close()
            case None:
                pass
        self._turns.let_in()

    # requests

    @property
    def is_alive(self) -> bool:
        """Whether the stream and its session go on."""
        return self._transport is not None and not self._transport.is_closing() and self._session.state is not State.OVER

    @property
    def is_accepted(self) -> bool:
        """Whether the enclave accepted the session."""
        return self._accepted.done() and not self._accepted.cancelled() and self._accepted.exception() is None

    @property
    def age(self) -> float:
        """Seconds since the challenge."""
        return self._loop.time() - self._started

    @property
    def open_messages(self) -> int:
        """Requests whose answer is still to come."""
        return self._session.open_messages

    async def request(self, pieces: Sequence[Octets]) -> Message | Refused:
        """Send one message and wait for its answer; a cancelled wait cancels it at the enclave too.

        Waits for its turn where as many messages are open as the enclave takes. Raises: SessionLostError, whose `sent`
        tells whether anything of the message left.
        """
        await self._turns.take()
        try:
            async with self._sending:
                number, answer = await self._begin(pieces)
        finally:
            self._turns.done()
        try:
            return await answer
        except asyncio.CancelledError:
            if self._answers.pop(number, None) is not None:
                task = self._loop.create_task(self._cancel(number))
                self._cancels.add(task)
                task.add_done_callback(self._cancels.discard)
            raise

    async def _begin(self, pieces: Sequence[Octets]) -> "tuple[int, asyncio.Future[Message | Refused]]":
        if not self.is_alive or self._closing or self._granted is None or self.age >= self._granted.seconds:
            raise SessionLostError(self.ended, sent=False)
        number, frames = self._session.request(pieces)
        answer: asyncio.Future[Message | Refused] = self._loop.create_future()
        self._answers[number] = answer
        try:
            await self._send(frames)
        except RecordError:  # used up before the message was whole, so that the enclave does not run it
            self._answers.pop(number, None)
            self.abort()
            raise SessionLostError(self.ended, sent=False) from None
        except BaseException:
            self._answers.pop(number, None)
            if not answer.cancel():
                answer.exception()  # seen: the session ended as well
            self._write(self._session.cancel(number))
            raise
        return number, answer

    def _has_room(self, reserved: int) -> bool:
        """Whether one more message may begin, or will find out that the session is over."""
        return not self.is_alive or self._granted is None or self.open_messages + reserved < self._granted.open_messages

    async def _send(self, frames: Iterator[bytearray]) -> None:
        """A frame that was taken is written at once: its record number is spent. Frames end early where the session does."""
        await self._writable.wait()
        while self.is_alive and (frame := next(frames, None)) is not None:
            self._write(frame)
            await self._writable.wait()

    async def _cancel(self, number: int) -> None:
        """Between messages: a cancel record never stands inside another message."""
        async with self._sending:
            self._write(self._session.cancel(number))

    def _write(self, frame: bytes | bytearray | None) -> None:
        if frame is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    # the end

    async def accepted(self) -> Accepted:
        """Wait for the enclave's acceptance. Raises: UnreachableError, EvidenceRefusedError, SessionRefusedError."""
        return await self._accepted

    async def close(self, seconds: float = 5.0) -> None:
        """Orderly end: the message under way is sent, open answers may still come, all within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                async with self._sending:
                    self._closing = True
                    self._write(self._session.close())
                await self._lost.wait()
        except TimeoutError:
            pass
        finally:
            self._closing = True
            self.abort()

    def abort(self) -> None:
        """End at once."""
        self._session.drop()
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(error)
        self.abort()


async def _through_proxy(host: str, port: int, proxy: tuple[str, int]) -> socket.socket:
    """HTTP CONNECT; the proxy sees the parent's name and sealed bytes."""
    stream = await _tcp(*proxy)
    try:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        status = await _preamble(stream, f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode(), b"\r\n\r\n")
        parts = status.split(None, 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or parts[1] != b"200":
            raise OSError("the proxy refuses the connection")
    except BaseException:
        stream.close()
        raise
    return stream


async def _preamble(stream: socket.socket, request: bytes, end: bytes) -> bytes:
    """Send a request and read up to `end`, byte by byte: what follows belongs to the session."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(stream, request)
    answer = bytearray()
    while not answer.endswith(end):
        byte = await loop.sock_recv(stream, 1)
        if not byte or len(answer) >= PREAMBLE_MAX:
            raise OSError("the answer in front of the stream is malformed")
        answer += byte
    return bytes(answer)


async def _connected(stream: socket.socket, address: object) -> socket.socket:
    try:
        stream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stream, address)  # type: ignore[arg-type]  # vsock addresses are pairs of ints
    except BaseException:
        stream.close()
        raise
    return stream


async def _tcp(host: str, port: int) -> socket.socket:
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty or long label, before anybody is asked
        raise UnreachableError("the name is malformed") from None
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        try:
            stream = await _connected(socket.socket(family, kind, protocol), address)
        except OSError as error:
            failure = error
            continue
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream
    raise failure or OSError("the name has no address")


async def _open(endpoint: Endpoint) -> socket.socket:
    match endpoint:
        case Tcp(host, port, None):
            return await _tcp(host, port)
        case Tcp(host, port, proxy) if proxy is not None:
            return await _through_proxy(host, port, proxy)
        case Unix(path):
            return await _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
        case UnixConnect(path, port):
            stream = await _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
            try:
                if not (await _preamble(stream, f"CONNECT {port}\n".encode(), b"\n")).startswith(b"OK "):
                    raise OSError("the port does not answer")
            except BaseException:
                stream.close()
                raise
            return stream
        case Vsock(cid, port):
            return await _connected(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), (cid, port))
    raise ValueError("not an endpoint")


async def open_session(opening: Opening) -> tuple[Connection, Accepted]:
    """Connect, attest, seal the opening, wait for acceptance; all within `opening.seconds`.

    Raises: UnreachableError, EvidenceRefusedError (nothing was sealed), SessionRefusedError.
    """
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(opening.seconds):
            stream = await _open(opening.endpoint)
            try:
                _, connection = await loop.create_connection(lambda: Connection(opening), sock=stream)
            except BaseException:
                stream.close()
                raise
            return connection, await connection.accepted()
    except TimeoutError:
        raise UnreachableError("the handshake took too long") from None
    except OSError as error:
        raise UnreachableError(error.strerror or "connection refused") from None
    finally:
        if connection is not None and not connection.is_accepted:
            connection.abort()
