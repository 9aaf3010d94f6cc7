"""The pump: every byte, both ways, bounded memory, bounded waiting, and no caller in another's way."""

import asyncio
import random
import socket
import struct
from typing import Any

import pytest

from parent.forward import OPENING_BYTES
from parent.pump import BUFFER_BYTES, Buffers, Ending, Pump, PumpLimits, Totals
from tests.parent.streams import pair, receive, rest, run, send, tcp_pair

PATIENT = PumpLimits(idle=60, stall=60)
Ends = tuple[socket.socket, socket.socket, "asyncio.Task[Totals]"]


def start(limits: PumpLimits = PATIENT, buffers: Buffers | None = None, *, tcp: bool = False) -> Ends:
    """Caller's end, enclave's end, and the pump between them."""
    caller, near = tcp_pair() if tcp else pair()
    far, enclave = tcp_pair() if tcp else pair()
    return caller, enclave, asyncio.get_running_loop().create_task(Pump(near, far, limits=limits, buffers=buffers or Buffers()).run())


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_in_order_both_ways_at_once(seed: int, *, tcp: bool) -> None:
    """What goes in comes out, whatever the slices, with both directions full."""

    async def body() -> None:
        chance = random.Random(seed)
        caller, enclave, pump = start(tcp=tcp)
        up, down = chance.randbytes(3_000_000 + seed), chance.randbytes(5_000_000)

        async def push(stream: socket.socket, data: bytes) -> None:
            at = 0
            while at < len(data):
                step = chance.choice((1, 100, 70_000, 400_000))
                await send(stream, data[at : at + step])
                at += step
            stream.shutdown(socket.SHUT_WR)

        async with asyncio.TaskGroup() as group:
            group.create_task(push(caller, up))
            got_up = group.create_task(rest(enclave))
            got_down = group.create_task(receive(caller, len(down)))
            group.create_task(push(enclave, down))
        assert got_up.result() == up
        assert got_down.result() == down
        assert await pump == Totals(to_far=len(up), to_near=len(down), ending=Ending.FAR_CLOSED)
        caller.close()
        enclave.close()

    run(body())


def test_a_caller_that_half_closes_still_gets_its_answer() -> None:
    """The near side's end is passed on as a half-close; the answer comes back after it."""

    async def body() -> None:
        caller, enclave, pump = start()
        await send(caller, b"question")
        caller.shutdown(socket.SHUT_WR)
        assert await rest(enclave) == b"question"
        await send(enclave, b"answer")
        enclave.close()
        assert await rest(caller) == b"answer"
        assert (await pump).ending is Ending.FAR_CLOSED

    run(body())


@pytest.mark.parametrize("tcp", [False, True])
def test_the_last_answer_survives_what_the_caller_still_sends(*, tcp: bool) -> None:
    """The enclave's last bytes reach a caller that goes on sending after the enclave has closed."""

    async def body() -> None:
        caller, enclave, pump = start(tcp=tcp)
        await send(caller, b"x" * 100)
        assert await receive(enclave, 100) == b"x" * 100
        await send(enclave, b"close record")
        enclave.close()
        await asyncio.sleep(0.05)
        await send(caller, b"y" * 300_000)
        assert await rest(caller) == b"close record"
        caller.close()
        await pump

    run(body())


def test_a_caller_that_vanishes_ends_its_session_and_no_other() -> None:
    """A reset in the middle of a request closes that session's enclave side; another session does not notice."""

    async def body() -> None:
        buffers = Buffers()
        caller, enclave, pump = start(tcp=True, buffers=buffers)
        other, other_enclave, other_pump = start(tcp=True, buffers=buffers)
        await send(caller, b"half a request")
        assert await receive(enclave, 14) == b"half a request"
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
        assert await rest(enclave) == b""
        enclave.close()
        assert (await pump).ending is Ending.FAR_CLOSED
        await send(other, b"still here")
        assert await receive(other_enclave, 10) == b"still here"
        other.close()
        other_enclave.close()
        await other_pump

    run(body())


@pytest.mark.parametrize("side", ["caller", "enclave"])
def test_a_peer_that_does_not_read_holds_one_buffer_and_is_cut_off(side: str) -> None:
    """Unread bytes stop the sender after the kernel's buffers and one of ours, and end the session in bounded time."""

    async def body() -> None:
        caller, enclave, pump = start(PumpLimits(idle=60, stall=0.3))
        sender = enclave if side == "caller" else caller
        sent = 0
        loop = asyncio.get_running_loop()
        block = bytes(1 << 16)

        async def flood() -> None:
            nonlocal sent
            for _ in range(1000):
                await loop.sock_sendall(sender, block)
                sent += len(block)

        flooding = loop.create_task(flood())
        assert (await pump).ending is Ending.STALLED
        flooding.cancel()
        await asyncio.wait([flooding])
        assert sent <= BUFFER_BYTES + 4 * (1 << 20) * 2  # two kernel queues per hop, doubled by the kernel's book-keeping
        assert sent < 1000 * len(block)

    run(body())


def test_a_silent_or_slow_opening_is_cut_off() -> None:
    """Whoever has not sent challenge and open within the handshake time is cut off, however it trickles."""

    async def body() -> None:
        limits = PumpLimits(idle=60, stall=60, handshake=0.3, opening_bytes=OPENING_BYTES)
        silent, silent_enclave, silent_pump = start(limits)
        slow, slow_enclave, slow_pump = start(limits)

        async def trickle() -> None:
            for _ in range(1000):
                await send(slow, b"x")
                await asyncio.sleep(0.01)

        trickling = asyncio.get_running_loop().create_task(trickle())
        assert (await silent_pump).ending is Ending.HANDSHAKE
        assert (await slow_pump).ending is Ending.HANDSHAKE
        trickling.cancel()
        await asyncio.wait([trickling])
        assert await rest(silent_enclave) == b""
        assert b"xx" in await rest(slow_enclave)
        assert await rest(silent) == b""

    run(body())


def test_an_opened_session_outlives_the_handshake_time() -> None:
    """The handshake limit ends nothing once the opening is through."""

    async def body() -> None:
        caller, enclave, pump = start(PumpLimits(idle=60, stall=60, handshake=0.05, opening_bytes=OPENING_BYTES))
        await send(caller, bytes(OPENING_BYTES))
        await receive(enclave, OPENING_BYTES)
        await asyncio.sleep(0.3)
        await send(caller, b"later")
        assert await receive(enclave, 5) == b"later"
        enclave.close()
        caller.close()
        await pump

    run(body())


def test_an_idle_session_is_cut_off_and_a_busy_one_is_not() -> None:
    """Only a session in which neither side sends anything for the idle time ends by it."""

    async def body() -> None:
        idle, idle_enclave, idle_pump = start(PumpLimits(idle=0.4, stall=60))
        busy, busy_enclave, busy_pump = start(PumpLimits(idle=0.4, stall=60))
        while not idle_pump.done():
            await send(busy, b"x")
            assert await receive(busy_enclave, 1) == b"x"
            await asyncio.sleep(0.02)
        assert idle_pump.result().ending is Ending.IDLE
        assert not busy_pump.done()
        busy_enclave.close()
        busy.close()
        await busy_pump
        assert await rest(idle) == b""
        assert await rest(idle_enclave) == b""

    run(body())


def test_cancelling_a_pump_closes_both_sides() -> None:
    """No socket is left behind when the parent stops."""

    async def body() -> None:
        caller, enclave, pump = start()
        await send(caller, b"x")
        await receive(enclave, 1)
        pump.cancel()
        await asyncio.wait([pump])
        assert await rest(caller) == b""
        assert await rest(enclave) == b""

    run(body())


def test_idle_sessions_hold_no_buffer() -> None:
    """A hundred sessions that wait share what one needs."""

    async def body() -> None:
        taken = 0

        class Counting(Buffers):
            def take(self) -> memoryview:
                nonlocal taken
                taken += not self._spare
                return super().take()

        buffers = Counting()
        ends = [start(buffers=buffers) for _ in range(100)]
        for caller, enclave, _ in ends:
            await send(caller, b"x")
            await receive(enclave, 1)
        assert taken == 1
        for caller, enclave, pump in ends:
            caller.close()
            enclave.close()
            await pump

    run(body())


async def turns() -> None:
    """Long enough for what lies in a local socket to be passed on."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_bytes_for_a_sink_that_is_gone_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a vanished caller can no longer take is read and dropped: nothing waits for it, and nothing of it is counted as passed on."""

    async def body() -> None:
        waited: list[object] = []
        loop = asyncio.get_running_loop()
        add_writer = loop.add_writer

        def noted(stream: socket.socket, *rest: Any) -> None:
            waited.append(stream)
            add_writer(stream, *rest)

        monkeypatch.setattr(loop, "add_writer", noted)
        caller, enclave, pump = start()
        await send(caller, b"question")
        assert await receive(enclave, 8) == b"question"
        caller.close()
        assert await rest(enclave) == b""
        await send(enclave, b"ten bytes.")
        await turns()
        await send(enclave, b"and some more")
        await turns()
        enclave.close()
        assert await pump == Totals(to_far=8, to_near=10, ending=Ending.FAR_CLOSED)
        assert waited == []

    run(body())


def test_a_caller_that_vanishes_while_bytes_wait_for_it_holds_nobody_up() -> None:
    """The enclave's answer is taken to its end, though its caller went away with its buffers full."""

    async def body() -> None:
        caller, enclave, pump = start()
        answering = asyncio.get_running_loop().create_task(send(enclave, bytes(8 << 20)))
        await receive(caller, 1)
        await turns()
        assert not answering.done()
        caller.close()
        await answering
        enclave.close()
        assert (await pump).ending is Ending.FAR_CLOSED

    run(body())
