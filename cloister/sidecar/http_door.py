"""The HTTP/1.1 door: h11 parses, this module moves bytes; one request at a time per connection, tensors not re-encoded."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import h11

from cloister.sidecar import http_body
from cloister.sidecar.access import Access
from cloister.sidecar.refusal import RefusedError, refusal_of
from wire.errors import Code
from wire.record import Octets

HEADERS_MAX = 32 << 10
IDLE_SECONDS = 75.0
REQUEST_SECONDS = 60.0
CONNECTIONS_MAX = 512
WRITE_HIGH_WATER = 1 << 20
JOIN_BYTES = 64 << 10
_REASONS = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found", 413: b"Content Too Large"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A whole request; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A whole answer; `json_length` where binary tensors follow the JSON."""

    pieces: tuple[Octets, ...] = field(repr=False)
    status: int = 200
    content_type: str = "application/json"
    json_length: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)


Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]
"""Answers a request; raises nothing but CancelledError, when the client has gone."""


@dataclass(kw_only=True)
class Door:
    """What the connections of one listener share. `body_max` bounds a body before and after decompression."""

    access: Access
    handler: Handler
    body_max: int
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
        self._body: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
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
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; what comes while one is being answered waits, in one buffer's size."""
        if self._task is not None and self._transport is not None:
            self._transport.pause_reading()
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError:
            self._refuse(Code.MALFORMED_HTTP)
            return
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

    def _read(self) -> None:
        while self._task is None:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._continue()
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._size += len(event.data)
                if self._size > self._door.body_max:
                    raise RefusedError(Code.REQUEST_TOO_LARGE)
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._finish()

    def _begin(self, request: h11.Request) -> None:
        """Judge the head before a byte of the body is kept."""
        self._request, self._body, self._size = request, [], 0
        self._wait(REQUEST_SECONDS)
        self._headers = {}
        for name, value in request.headers:
            key = name.decode("ascii")
            if key in self._headers and key in ("host", "authorization", "content-encoding", http_body.JSON_LENGTH):
                raise RefusedError(Code.MALFORMED_HTTP)
            self._headers[key] = value.decode("latin-1")
        self._door.access.check_host(self._headers.get("host"))
        self._door.access.check_token(self._headers.get("authorization"))
        if int(self._headers.get("content-length", "0")[:20]) > self._door.body_max:
            raise RefusedError(Code.REQUEST_TOO_LARGE)

    def _continue(self) -> None:
        if self._http.they_are_waiting_for_100_continue and self._transport is not None:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))

    def _finish(self) -> None:
        request = self._request
        if request is None:
            return
        self._stop_timer()
        self._task = self._loop.create_task(self._answer(request))

    # answers out

    async def _answer(self, request: h11.Request) -> None:
        try:
            answer = await self._handled(request)
            await self._send(answer, head=request.method == b"HEAD")
        finally:
            self._task, self._request, self._body = None, None, []
        self._next()

    async def _handled(self, request: h11.Request) -> HttpAnswer:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        encoding = self._headers.get("content-encoding", "")
        try:
            if encoding:
                body = await asyncio.to_thread(http_body.decode, body, encoding, self._door.body_max)
        except RefusedError as error:
            return refused(error)
        asked = HttpRequest(method=request.method.decode("ascii"), target=request.target.decode("ascii"), headers=self._headers, body=body)
        return await self._door.handler(asked)

    async def _send(self, answer: HttpAnswer, *, head: bool) -> None:
        pieces = list(answer.pieces)
        headers = [("content-type", answer.content_type)]
        encoding = http_body.acceptable(self._headers.get("accept-encoding", ""))
        if encoding and http_body.COMPRESS_FROM <= answer.size <= http_body.COMPRESS_TO:
            pieces = [await asyncio.to_thread(http_body.encode, pieces, encoding)]
            headers.append(("content-encoding", encoding))
        if answer.json_length is not None:
            headers.append(("Inference-Header-Content-Length", str(answer.json_length)))
        headers.append(("content-length", str(sum(memoryview(piece).nbytes for piece in pieces))))
        sent = self._events(h11.Response(status_code=answer.status, reason=_REASONS.get(answer.status, b""), headers=headers))
        for piece in pieces if not head else ():
            sent += self._events(h11.Data(data=piece))  # type: ignore[arg-type]  # h11 passes any buffer on
        sent += self._events(h11.EndOfMessage())
        if sum(map(len, sent)) <= JOIN_BYTES:
            sent = [b"".join(sent)]
        for one in sent:
            await self._writable.wait()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(one)

    def _events(self, event: h11.Event) -> list[bytes]:
        """The event's bytes; large bodies pass h11 without a copy."""
        return list(self._http.send_with_data_passthrough(event) or ())

    def _write(self, event: h11.Event) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._events(event)))

    def _next(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._closing or self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        self._wait(IDLE_SECONDS)
        self._transport.resume_reading()
        self._take()

    def _take(self) -> None:
        try:
            self._read()
        except h11.RemoteProtocolError:
            self._refuse(Code.MALFORMED_HTTP)
        except RefusedError as error:
            self._refuse(error.code)

    def _refuse(self, code: Code) -> None:
        """Answer and close: what follows on this connection is not understood any more."""
        self._stop_timer()
        if self._transport is None or self._transport.is_closing():
            return
        if self._task is not None or self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._transport.abort()
            return
        answer = refused(RefusedError(code))
        headers = [("content-type", answer.content_type), ("content-length", str(answer.size)), ("connection", "close")]
        if code is Code.TOKEN_REQUIRED:
            headers.append(("www-authenticate", "Bearer"))
        self._write(h11.Response(status_code=answer.status, reason=_REASONS.get(answer.status, b""), headers=headers))
        self._write(h11.Data(data=bytes(answer.pieces[0])))
        self._write(h11.EndOfMessage())
        self._transport.close()

    # time

    def _wait(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._transport is not None and self._task is None:
            self._transport.abort()

    def close(self) -> None:
        """An idle connection ends now; one that is being answered ends with its answer."""
        self._closing = True
        if self._task is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()


def refused(error: BaseException) -> HttpAnswer:
    """The answer that a refusal is."""
    refusal = refusal_of(error)
    return HttpAnswer(status=refusal.http, pieces=(refusal.body(),))
