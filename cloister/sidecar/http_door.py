"""The HTTP/1.1 door: h11 parses, this module moves bytes; one request at a time per connection, tensors not re-encoded."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import h11

from cloister.sidecar import http_body, http_messages
from cloister.sidecar.access import Access
from cloister.sidecar.http_messages import HttpAnswer, HttpRequest, refused
from cloister.sidecar.refusal import RefusedError
from cloister.sidecar.room import Body, Room
from wire.errors import Code
from wire.record import Octets

HEADERS_MAX = 32 << 10
IDLE_SECONDS = 75.0  # between requests
REQUEST_SECONDS = 60.0  # from a request's first byte to its last
WRITE_SECONDS = 75.0  # for the client to take the next part of its answer
CONNECTIONS_MAX = 512
WRITE_BYTES = 1 << 20
JOIN_BYTES = 64 << 10
EVENTS_MAX = 256  # parsed at a time, before others have their turn: chunks may be of one byte each
# After the last answer what still comes is dropped: closing at once would reset the connection, and the answer be lost.
LINGER_SECONDS = 10.0
LINGER_BYTES = 64 << 20  # or twice the largest body

Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]
"""Answers a request; raises nothing but CancelledError, when the client has gone."""


@dataclass(kw_only=True)
class Door:
    """What the connections of one listener share. `body_max` bounds a body before and after decompression, `room` all of them."""

    access: Access
    handler: Handler
    body_max: int
    room: Room
    connections: set["HttpConnection"] = field(default_factory=set)


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS_MAX)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._headers: dict[str, str] = {}
        self._body = Body(door.room)
        self._task: asyncio.Task[None] | None = None  # an answer under way, or a wait for room; nothing is parsed meanwhile
        self._parses: asyncio.Handle | None = None  # the rest of what was received
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._lingers = False
        self._dropped = 0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES)
        if len(self._door.connections) >= CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._door.connections.add(self)
        self._wait(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """The request under way is cancelled, in the enclave too."""
        self._door.connections.discard(self)
        self._stop_timer()
        self._writable.set()
        if self._parses is not None:
            self._parses.cancel()
        if self._task is not None:
            self._task.cancel()
        else:
            self._body.drop()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; what comes while another is at hand waits, in one buffer's size."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._lingers:
            self._dropped += len(data)
            if self._dropped > max(LINGER_BYTES, 2 * self._door.body_max):
                self._transport.abort()
            return
        self._http.receive_data(data)
        if self._task is not None or self._parses is not None:
            self._transport.pause_reading()
        else:
            self._take()

    def eof_received(self) -> bool:
        """A client that will not read its answer either."""
        return False

    def pause_writing(self) -> None:
        """The client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Room again."""
        self._writable.set()

    # requests in

    def _take(self) -> None:
        """Go on with what was received."""
        self._parses = None
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._read(self._transport)
        except h11.RemoteProtocolError:
            self._refuse(Code.MALFORMED_HTTP)
        except RefusedError as error:
            self._refuse(error.code)

    def _read(self, transport: asyncio.Transport) -> None:
        """Reading goes on only where everything received was used: a client that sends faster than it is answered waits."""
        for _ in range(EVENTS_MAX):
            if self._http.their_state is h11.IDLE:
                http_messages.check_lines(self._http.trailing_data[0])
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    transport.write(b"".join(self._bytes([h11.InformationalResponse(status_code=100, headers=[])])))
                transport.resume_reading()
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._body.data += event.data
                if len(self._body.data) > self._door.body_max:
                    raise RefusedError(Code.REQUEST_TOO_LARGE)
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._stop_timer()
                self._task = self._loop.create_task(self._answer(self._request))
            if self._task is not None:
                return
        self._parses = self._loop.call_soon(self._take)

    def _begin(self, request: h11.Request) -> None:
        """Judge the head before a byte of the body is kept."""
        self._request = request
        self._wait(REQUEST_SECONDS)
        self._headers = http_messages.headers_of(request)
        self._door.access.check_host(self._headers.get("host"))
        self._door.access.check_token(self._headers.get("authorization"))
        size = http_messages.bound(self._headers, self._door.body_max)
        if not self._body.claim(size):
            self._stop_timer()
            self._task = self._loop.create_task(self._queue(size))

    async def _queue(self, size: int) -> None:
        """Read the body when there is room for it."""
        try:
            await self._body.take(size)
        except RefusedError as error:
            self._task = None
            self._refuse(error.code)
            return
        self._task = None
        self._wait(REQUEST_SECONDS)
        self._take()

    # answers out

    async def _answer(self, request: h11.Request) -> None:
        failed = False
        try:
            answer = await self._handled(request)
            await self._send(answer, with_body=request.method != b"HEAD")
        except Exception:  # noqa: BLE001 - a defect of ours; the table's text is all that leaves
            failed = True
        finally:
            self._task, self._request = None, None
            self._body.drop()
        if failed:
            self._refuse(Code.INTERNAL)
        else:
            self._next()

    async def _handled(self, request: h11.Request) -> HttpAnswer:
        body: Octets = self._body.data
        encoding = self._headers.get("content-encoding", "")
        try:
            if encoding:
                body = await asyncio.to_thread(http_body.decode, body, encoding, self._door.body_max)
        except RefusedError as error:
            return refused(error)
        self._body.keep(len(body))
        asked = HttpRequest(method=request.method.decode("ascii"), target=request.target.decode("ascii"), headers=self._headers, body=body)
        return await self._door.handler(asked)

    async def _send(self, answer: HttpAnswer, *, with_body: bool) -> None:
        pieces = list(answer.pieces)
        more: list[tuple[str, str]] = []
        encoding = http_body.acceptable(self._headers.get("accept-encoding", ""))
        if encoding and http_body.COMPRESS_FROM <= answer.size <= http_body.COMPRESS_TO:
            pieces = [await asyncio.to_thread(http_body.encode, pieces, encoding)]
            more.append(("content-encoding", encoding))
        sent = self._bytes(http_messages.events(answer, pieces, more, with_body=with_body))
        if sum(map(len, sent)) <= JOIN_BYTES:
            sent = [b"".join(sent)]
        for one in sent:
            for at in range(0, len(one), WRITE_BYTES):
                await self._drained()
                if self._transport is not None and not self._transport.is_closing():
                    self._transport.write(memoryview(one)[at : at + WRITE_BYTES])
        await self._drained()

    async def _drained(self) -> None:
        """Wait for a client that takes its answer slowly, and no longer for one that does not take it."""
        self._wait(WRITE_SECONDS)
        await self._writable.wait()
        self._stop_timer()

    def _bytes(self, events: Iterable[h11.Event]) -> list[bytes]:
        """The events' bytes; large bodies pass h11 without a copy."""
        return [piece for event in events for piece in self._http.send_with_data_passthrough(event) or ()]

    def _next(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._closing:
            self._wait(LINGER_SECONDS)
            self._transport.close()
            return
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
            self._linger(self._transport)
            return
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        self._wait(IDLE_SECONDS)
        self._take()

    def _refuse(self, code: Code) -> None:
        """Answer and close: what follows on this connection is not understood any more."""
        self._body.drop()
        if self._transport is None or self._transport.is_closing():
            return
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._transport.abort()
            return
        answer = refused(RefusedError(code))
        more = [("connection", "close"), *([("www-authenticate", "Bearer")] if code is Code.TOKEN_REQUIRED else [])]
        self._transport.write(b"".join(self._bytes(http_messages.events(answer, answer.pieces, more))))
        self._linger(self._transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Nothing more is sent or understood; the connection ends when the client has closed, or did not in time."""
        self._lingers = True
        self._wait(LINGER_SECONDS)
        transport.write_eof()
        transport.resume_reading()

    # time

    def _wait(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """An idle connection ends now; one that is being answered ends with its answer."""
        self._closing = True
        if self._task is None and self._transport is not None:
            self._wait(LINGER_SECONDS)
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
