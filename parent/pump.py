"""The hot path: bytes between two connected streams, both ways, until the far side has ended.

Memory is bounded by construction: a direction holds at most one buffer, and only while its sink does not take what was
read; its source is not read meanwhile. Every wait is bounded by the limits. Nothing is looked at: the pump counts bytes.

The sockets are driven through the loop's readiness callbacks, where a partial `send` is visible; a transport would copy
what is left over (Python 3.11) or keep a view of our buffer (3.12), and either costs a second buffer per direction.
"""

import asyncio
from collections.abc import Callable
import contextlib
from dataclasses import dataclass
from enum import Enum
import socket

BUFFER_BYTES = 256 * 1024
SPARE_MAX = 64  # buffers kept for reuse, 16 MiB
SOCKET_BUFFER_BYTES = 1 << 20
LINGER_SECONDS = 2.0


class Ending(Enum):
    """Why a pump ended."""

    FAR_CLOSED = "far side closed"
    HANDSHAKE = "handshake time exceeded"
    IDLE = "idle time exceeded"
    STALLED = "a peer did not read for too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class PumpLimits:
    """Seconds; `opening_bytes` must have come from the near side within `handshake`, 0 for no such rule."""

    idle: float
    stall: float
    handshake: float = 0.0
    opening_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What went through, and why it ended."""

    to_far: int
    to_near: int
    ending: Ending


class Buffers:
    """Buffers in turn: a pump has one only while it holds bytes, so that idle sessions cost none."""

    def __init__(self) -> None:
        self._spare: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer of BUFFER_BYTES with anything in it."""
        return self._spare.pop() if self._spare else memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Put a buffer back."""
        if len(self._spare) < SPARE_MAX:
            self._spare.append(buffer)


class _Direction:
    """From `source` to `sink`. `_held` is what the sink did not take yet; the source is read only while nothing is held."""

    def __init__(self, pump: "Pump", source: socket.socket, sink: socket.socket) -> None:
        self.pump = pump
        self.source = source
        self.sink = sink
        self.total = 0  # bytes read and meant for the sink
        self.delivered = 0
        self.ended = False  # the source has ended, and all of it was passed on
        self.discarding = False
        self._buffer: memoryview | None = None
        self._held = memoryview(b"")
        self._reading = False

    @property
    def holds(self) -> bool:
        """Whether bytes wait for the sink."""
        return self._buffer is not None

    def start(self) -> None:
        """Read from now on."""
        self._reading = True
        self.pump.loop.add_reader(self.source, self._readable)

    def discard(self) -> None:
        """From now on read and drop: the sink is gone, and closing over unread bytes could hurt the other way (TCP reset)."""
        self.discarding = True
        self._release()
        if not self._reading and not self.ended:
            self.start()

    def close(self) -> None:
        """Forget everything; the pump closes the sockets."""
        self._pause()
        self._release()

    def _readable(self) -> None:
        buffer = self.pump.buffers.take()
        try:
            count = self.source.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            self.pump.buffers.give(buffer)
            return
        except OSError:
            count = 0  # a reset ends the source as a close does; whoever speaks the session tells truncation apart
        if count and not self.discarding:
            self.total += count
            self._pass_on(buffer, count)
            return
        self.pump.buffers.give(buffer)
        if not count:
            self._end()

    def _pass_on(self, buffer: memoryview, count: int) -> None:
        sent = self._send(buffer[:count])
        if sent is None or sent == count:
            self.pump.buffers.give(buffer)
            return
        self._buffer, self._held = buffer, buffer[sent:count]
        self._pause()
        self.pump.loop.add_writer(self.sink, self._writable)

    def _writable(self) -> None:
        sent = self._send(self._held)
        if sent is None:
            return
        self._held = self._held[sent:]
        if not self._held:
            self._release()
            self.start()

    def _send(self, data: memoryview) -> int | None:
        """How many bytes the sink took; None where it is gone, and what else comes is dropped."""
        try:
            sent = self.sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.discard()
            return None
        self.delivered += sent
        return sent

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self.pump.loop.remove_reader(self.source)

    def _release(self) -> None:
        if self._buffer is not None:
            self.pump.loop.remove_writer(self.sink)
            self.pump.buffers.give(self._buffer)
            self._buffer, self._held = None, memoryview(b"")

    def _end(self) -> None:
        self._pause()
        self.ended = True
        with contextlib.suppress(OSError):  # the sink may be gone already
            self.sink.shutdown(socket.SHUT_WR)
        self.pump.direction_ended(self)


class Pump:
    """Moves bytes between `near`, which may half-close and wait, and `far`, whose end is the end."""

    def __init__(self, near: socket.socket, far: socket.socket, *, limits: PumpLimits, buffers: Buffers) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffers = buffers
        self._limits = limits
        self._near, self._far = near, far
        self._out = _Direction(self, near, far)
        self._back = _Direction(self, far, near)
        self._done: asyncio.Future[Ending] = self.loop.create_future()
        self._clocks: tuple[_Clock, ...] = ()
        self._started = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> Totals:
        """Pump until the end; both sockets are closed then, whatever ended it, cancellation included."""
        for stream in (self._near, self._far):
            stream.setblocking(False)
            _enlarge(stream)
        self._started = self.loop.time()
        self._clocks = tuple(_Clock(direction, self._started) for direction in (self._out, self._back))
        self._out.start()
        self._back.start()
        self._watch()
        try:
            ending = await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._out.close()
            self._back.close()
            self._near.close()
            self._far.close()
        return Totals(to_far=self._out.total, to_near=self._back.total, ending=ending)

    def direction_ended(self, direction: _Direction) -> None:
        """The near side's end is a half-close; the far side's is the end, once the near side had a moment to take the rest."""
        if self._out.ended and self._back.ended:
            self._finish(Ending.FAR_CLOSED)
        elif direction is self._back:
            self._out.discard()
            self._again(LINGER_SECONDS, lambda: self._finish(Ending.FAR_CLOSED))

    def _finish(self, ending: Ending) -> None:
        if not self._done.done():
            self._done.set_result(ending)

    def _again(self, seconds: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, callback)

    def _watch(self) -> None:
        """Judge the time limits, a few times per limit; byte counters stand in for a clock reading per event."""
        now, limits = self.loop.time(), self._limits
        opening = self._out.total < limits.opening_bytes
        stalled = [clock.quiet(now) >= limits.stall and clock.direction.holds for clock in self._clocks]
        if opening and now - self._started >= limits.handshake:
            self._finish(Ending.HANDSHAKE)
        elif any(stalled):
            self._finish(Ending.STALLED)
        elif all(clock.quiet(now) >= limits.idle for clock in self._clocks):
            self._finish(Ending.IDLE)
        else:
            step = min(limits.idle, limits.stall) / 4
            if opening:
                step = min(step, limits.handshake - (now - self._started))
            self._again(max(step, 0.001), self._watch)


@dataclass(slots=True)
class _Clock:
    """When a direction last moved, as far as the watch has seen."""

    direction: _Direction
    since: float
    moved: int = 0

    def quiet(self, now: float) -> float:
        """Seconds without a byte read or delivered."""
        moved = self.direction.total + self.direction.delivered
        if moved != self.moved:
            self.moved, self.since = moved, now
        return now - self.since


def _enlarge(stream: socket.socket) -> None:
    """Larger kernel buffers for local streams: fewer turns of the loop per megabyte. TCP sizes its own."""
    if stream.family not in (socket.AF_INET, socket.AF_INET6):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    else:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
