"""One session's connection: socket, timers and limits around `enclave.session`; decides nothing about bytes.

One BufferedProtocol per connection. The peer is the parent or whoever it forwards: until an opening has opened it is a
stranger who may cost one NSM call and ten seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

from enclave.answers import error_answer
from enclave.evidence import EvidenceBusy, EvidenceSource
from enclave.limits import Memory
from enclave.nsm import NsmError
from enclave.outbox import Outbox
from enclave.session import Caller, Cancelled, Closing, EnclaveSession, SessionViolation, State, Terms
from wire.buffer import aligned
from wire.counters import Counter
from wire.errors import Code, MalformedFrameError
from wire.frame import FrameBuffer, FrameType
from wire.handshake import HANDSHAKE_SECONDS
from wire.message import Message, Refused
from wire.record import Octets, RecordError

GRACE_SECONDS = 60.0
WRITE_HIGH_WATER = 1 << 20

Answer = Callable[[Message | Refused, Caller], Awaitable[list[Octets]]]


@dataclass(kw_only=True)
class Desk:
    """What all sessions of one enclave share. `answer` gives the pieces of a request's answer and never raises."""

    terms: Terms
    evidence: EvidenceSource
    answer: Answer
    now: Callable[[], float]
    counters: dict[Counter, int]
    memory: Memory
    connections: set["Connection"] = field(default_factory=set)

    def count(self, counter: Counter) -> None:
        """One more."""
        self.counters[counter] = self.counters.get(counter, 0) + 1


_EXPECTED = {State.START: FrameType.CHALLENGE, State.ATTESTING: FrameType.OPEN, State.OFFERED: FrameType.OPEN}


class Connection(asyncio.BufferedProtocol):
    """One connection, from accept to its end."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._session = EnclaveSession(desk.terms, allocate=self._allocate)
        self._frames = FrameBuffer()
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._caller: Caller | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._offering: asyncio.Task[None] | None = None
        self._out = Outbox(self._session, desk.memory)
        self._arriving = 0  # bytes reserved for the message that has begun
        self._requests: dict[int, int] = {}  # and for each that is being answered
        self._blocked_at: float | None = None
        self._held = False
        self._ending: Code | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._progress = self._challenged = self._loop.time()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A stranger: ten seconds for the whole handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self._handshake_over)
        self._desk.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever runs for this caller stops; no other caller notices."""
        self._desk.connections.discard(self)
        if not self.lost.done():
            self.lost.set_result(None)
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        if self._offering is not None:
            self._offering.cancel()
        for task in self._tasks.values():
            self._cancel(task)
        if self._caller is None and self._ending is None:
            self._desk.count(Counter.HANDSHAKES_FAILED)
        self._session.drop()
        for size in (self._arriving, *self._requests.values()):
            self._desk.memory.give(size)
        self._arriving = 0
        self._requests.clear()
        self._out.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Exactly what the handshake's next frame lacks, then whole buffers."""
        expected = _EXPECTED.get(self._session.state, FrameType.RECORD)
        return self._frames.space(expected, exact=self._session.state is not State.OPEN)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        self._frames.filled(nbytes)
        self._take()

    def eof_received(self) -> bool:
        """A stream that ends without close fails only the open messages: answers can no longer be asked for."""
        return False

    def pause_writing(self) -> None:
        """The peer does not read; we go on reading (within `unsent_bytes`)."""
        self._blocked_at = self._loop.time()

    def resume_writing(self) -> None:
        """Room again."""
        self._blocked_at = None
        self._progress = self._loop.time()
        self._send()

    # frames in

    def _take(self) -> None:
        try:
            while not self._gone() and not self._held:
                if self._session.state is State.ATTESTING:
                    return
                expected = _EXPECTED.get(self._session.state, FrameType.RECORD)
                frame = self._frames.next(expected)
                if frame is None:
                    return
                self._progress = self._loop.time()
                self._frame(expected, frame)
        except (MalformedFrameError, SessionViolation):
            if self._caller is not None:
                self._desk.count(Counter.VIOLATIONS)
            self._abort()

    def _frame(self, expected: FrameType, frame: memoryview) -> None:
        match expected:
            case FrameType.CHALLENGE:
                nonce, user_data = self._session.challenge(frame)
                self._challenged = self._loop.time()
                self._hold(True)
                self._offering = self._loop.create_task(self._offer(nonce, user_data))
            case FrameType.OPEN:
                self._open(frame)
            case _:
                self._record(frame)

    async def _offer(self, nonce: bytes, user_data: bytes) -> None:
        """Nothing is read while the NSM is asked."""
        try:
            document = await self._desk.evidence.document(nonce=nonce, user_data=user_data)
        except (NsmError, EvidenceBusy):
            self._abort()
            return
        if not self._gone():
            self._write(self._session.offer(document))
            self._hold(False)

    def _open(self, frame: memoryview) -> None:
        others = sum(1 for other in self._desk.connections if other.is_open)
        full = Code.SESSION_LIMIT if others >= self._desk.terms.limits.sessions else None
        opened = self._session.open(frame, now=self._desk.now(), refuse=full)
        if opened.caller is None:
            self._ending = opened.code
            self._desk.count(Counter.SESSIONS_REFUSED)
            self._write(opened.frame)
            self._finish()
            return
        self._caller = opened.caller
        self._desk.count(Counter.SESSIONS_OPENED)
        self._write(opened.frame)
        if self._timer is not None:
            self._timer.cancel()
        lifetime = self._challenged + opened.caller.seconds - self._loop.time()
        self._again(lifetime, lambda: self.end(Code.SESSION_EXPIRED))
        self._check_idle()

    def _again(self, seconds: float, then: Callable[[], None]) -> None:
        """The one deadline of the session's stage; a timer that is left behind would hold the whole connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(max(0.0, seconds), then)

    @property
    def is_stranger(self) -> bool:
        """Whether nobody was admitted on this connection."""
        return self._caller is None

    @property
    def is_open(self) -> bool:
        """Whether a caller was admitted and the session goes on."""
        return self._caller is not None and self._session.state is State.OPEN

    def _record(self, frame: memoryview) -> None:
        event = self._session.record(frame)
        if not self._session.mid_message and not isinstance(event, Message | Refused):
            self._desk.memory.give(self._arriving)  # of a message that was cancelled before its end
            self._arriving = 0
        match event:
            case Message() | Refused() as message:
                self._request(message)
            case Cancelled(id=message_id):
                task = self._tasks.get(message_id)
                if task is not None:
                    self._cancel(task)
            case Closing():
                self.end(Code.OK)
            case None:
                pass
        self._hold(self._out.unsent > self._desk.terms.limits.unsent_bytes and not self._session.mid_message)

    # requests and answers

    def _allocate(self, size: int) -> memoryview:
        """Room for a message. Raises: MemoryError, and the message is refused."""
        if not self._desk.memory.take(size):
            raise MemoryError
        self._arriving = size
        try:
            return aligned(size)
        except MemoryError:
            self._desk.memory.give(size)
            self._arriving = 0
            raise

    def _request(self, message: Message | Refused) -> None:
        caller = self._caller
        if caller is None:
            raise SessionViolation("no caller")
        size, self._arriving = self._arriving, 0
        if self._ending is not None:
            self._answered(message.id, error_answer(self._ending))
        elif len(self._tasks) >= self._desk.terms.limits.open_messages:
            self._answered(message.id, error_answer(Code.BUSY))
        else:
            self._requests[message.id], size = size, 0
            self._tasks[message.id] = self._loop.create_task(self._answer(message, caller))
        self._desk.memory.give(size)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        """Behind the task's first step, which a cancel in the same segment would else take away with its `finally`."""
        self._loop.call_soon(task.cancel)

    async def _answer(self, message: Message | Refused, caller: Caller) -> None:
        try:
            pieces = await self._desk.answer(message, caller)
        except asyncio.CancelledError:
            if self._gone():
                raise
            pieces = error_answer(Code.CANCELLED)
        finally:
            self._tasks.pop(message.id, None)
            self._desk.memory.give(self._requests.pop(message.id, 0))
        self._answered(message.id, pieces)

    def _answered(self, message: int, pieces: list[Octets]) -> None:
        if self._gone() or self._session.state is not State.OPEN:
            return
        self._progress = self._loop.time()
        self._out.put(message, pieces)
        self._send()

    def _send(self) -> None:
        """Seal and write one record after another while the transport takes them."""
        while self._blocked_at is None and not self._gone() and self._session.state is State.OPEN:
            try:
                frame = self._out.next()
            except RecordError:  # the session's records are used up: no answer can be sealed any more, nor a close
                self._abort()
                return
            if frame is None:
                break
            self._write(frame)
        if self._held and self._out.unsent <= self._desk.terms.limits.unsent_bytes:
            self._hold(False)
        if self._ending is not None and not self._tasks and self._out.is_empty:
            self._close(self._ending)

    def _write(self, frame: bytes | bytearray) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def _hold(self, held: bool) -> None:
        """Stop or go on reading; frames that came meanwhile are taken now."""
        if self._transport is None or held == self._held or self._gone():
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self._loop.call_soon(self._take)

    # the end

    def end(self, code: Code) -> None:
        """No new message; open ones get 60 s, then the close record."""
        if self._ending is not None or self._gone():
            return
        self._ending = code
        self._again(GRACE_SECONDS, lambda: self._close(code))
        self._send()

    def _close(self, code: Code) -> None:
        frame = self._session.close(code) if self._session.state is State.OPEN else None
        if frame is not None:
            self._write(frame)
        self._finish()

    def _finish(self) -> None:
        """Send what is written, then close; a peer that does not read it is cut off after ten seconds."""
        if self._transport is not None and not self._transport.is_closing():
            self._again(HANDSHAKE_SECONDS, self._transport.abort)
            self._transport.close()

    def _abort(self) -> None:
        self._session.drop()
        if self._transport is not None:
            self._transport.abort()

    def _gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _handshake_over(self) -> None:
        if self._caller is None:
            self._abort()

    def _check_idle(self) -> None:
        """Nothing whole came or went for `idle_seconds`: end; a peer that leaves its answers unread is cut off."""
        limit, now = self._desk.terms.limits.idle_seconds, self._loop.time()
        waited = now - self._progress
        if self._blocked_at is not None and now - self._blocked_at >= limit:
            self._abort()  # however much it sends meanwhile
            return
        if waited >= limit and not self._tasks and self._ending is None:
            self.end(Code.SESSION_IDLE)
        if not self._gone():
            self._timer = self._loop.call_later(max(1.0, limit - waited) if waited < limit else limit, self._check_idle)
