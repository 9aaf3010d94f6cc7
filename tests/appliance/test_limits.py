"""Every limit of the enclave's front (T19) shown active by exceeding it, again and again, while another caller's requests are
all answered and its latency stays within the quiet range (`tests.pace`)."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.api import Client
from cloister.connection import Connection
from cloister.errors import RequestRefusedError, SessionRefusedError, UnreachableError
from cloister.tensors import encode_request
from simulator.hostile.impostor import read_frame
from simulator.hostile.small import booted
from simulator.hostile.twins import Edit, copy_tree
from simulator.world import World
from tests.appliance import faults
from tests.appliance.conftest import caller
from tests.appliance.models import specs
from tests.pace import OUTLIERS, PAUSE_SECONDS, Pace
from wire import handshake, ports
from wire.errors import Code
from wire.frame import OPEN_BODY, FrameType
from wire.manifest import Limits, Runtime
from wire.message import HEADER, Message, encode

X = np.arange(4, dtype=np.float32).reshape(1, 4)
LIMITS = Limits(sessions=4, handshakes=3, idle_seconds=10, open_messages=2, unsent_bytes=1 << 20)
LARGEST = 4 << 20
CHALLENGE = handshake.encode_challenge(bytes(32))
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def narrow() -> Iterator[World]:
    """A world with the tightest limits."""
    with closing(World.create()) as made:
        yield tightened(made)
    assert faults.until(lambda: not faults.processes(made.directory)), "processes left"


def tightened(made: World) -> World:
    """Serving three models under LIMITS."""
    made.start_kms()
    made.owner.create_key([made.measured()])
    runtime = Runtime(seconds=2, request_bytes=LARGEST, answer_bytes=LARGEST)
    made.owner.seal([replace(spec, settings={"runtime": runtime}) for spec in specs() if spec.id in ("shift", "copy", "spin")])
    made.owner.publish(made.owner.manifest(limits=LIMITS))
    return booted(made)


async def bounded(work: Coroutine[Any, Any, Pace]) -> Pace:
    async with asyncio.timeout(60):
        return await work


@pytest.fixture
def unharmed(narrow: World, world: World) -> Callable[[Attack], None]:
    """Runs an attack on the narrow world and judges what its other caller sees of it."""

    def judge(attack: Attack) -> None:
        pace = asyncio.run(bounded(paced(narrow, world, attack)))
        assert pace.is_quiet, pace

    return judge


async def asks(client: Client, number: int) -> None:
    """One request, answered as it has to be."""
    data = np.full((1, 4), number, np.float32)
    assert (data + 2).tolist() == (await client.infer("shift", {"x": data}, timeout=20)).outputs["y"].tolist()


async def paced(attacked: World, quiet: World, attack: Attack) -> Pace:
    """How long a well-behaved caller of `attacked` waits for each answer while the attack goes on, renewed as often as it takes."""
    pace = Pace()

    async def undisturbed(client: Client) -> None:
        while True:
            await asks(client, pace.undisturbed)
            pace.undisturbed += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def renewed() -> None:
        await attack()
        while not pace.is_decided:
            await attack()

    async with await caller(quiet, "undisturbed") as other, await caller(attacked, "steady") as client, asyncio.TaskGroup() as group:
        clock = group.create_task(undisturbed(other))
        attacking = group.create_task(renewed())
        while not attacking.done():
            with pace.wait():
                await asks(client, len(pace.waits))
            await asyncio.sleep(PAUSE_SECONDS)
        clock.cancel()
    return pace


async def stranger(world: World) -> Stream:
    """A connection to the enclave itself, past the parent, which has limits of its own."""
    return await asyncio.open_unix_connection(str(world.run / f"enclave_{ports.SESSION}"))


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""


async def evidence(streams: Stream) -> bytes | None:
    """The evidence frame, None where the enclave closed instead."""
    try:
        return await read_frame(streams[0], FrameType.EVIDENCE)
    except (EOFError, ConnectionError):
        return None


async def no_strangers(world: World) -> None:
    """Wait until nobody is held in a handshake: a new caller comes through."""
    async with asyncio.timeout(30):
        while True:
            try:
                await (await caller(world, "probe")).close()
            except (UnreachableError, SessionRefusedError):
                await asyncio.sleep(0.05)
            else:
                return


def flood(world: World) -> Attack:
    """Many who ask for evidence and leave it at that: as many get it as handshakes are allowed, the rest are closed."""

    async def attack() -> None:
        streams = [await stranger(world) for _ in range(30)]
        for _, writer in streams:
            writer.write(CHALLENGE)
        given = [await evidence(each) for each in streams]
        assert LIMITS.handshakes == sum(one is not None for one in given)
        with pytest.raises(UnreachableError):
            await caller(world, "late")
        for _, writer in streams:
            writer.close()
        await no_strangers(world)

    return attack


def test_challenge_flood(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """Of many who ask for evidence and leave it at that, as many get it as handshakes are allowed; the rest are closed."""
    unharmed(flood(narrow))


def test_latency_is_measured(tmp_path: Path, world: World) -> None:
    """Where every challenge holds up the enclave's loop for a quarter of a second, the flood takes others out of their quiet range."""
    line = "                self._challenged = self._loop.time()\n"
    copy_tree(tmp_path, (Edit(file="enclave/connection.py", old=line, new=line + "                __import__('time').sleep(0.25)\n"),))
    with closing(World.create(tmp_path)) as twin:
        tightened(twin)
        assert asyncio.run(bounded(paced(twin, world, nothing))).is_quiet
        pace = asyncio.run(bounded(paced(twin, world, flood(twin))))
    assert not pace.is_quiet
    assert pace.outliers > OUTLIERS


async def nothing() -> None:
    """No attack."""
    await asyncio.sleep(PAUSE_SECONDS)


async def _trickle(streams: Stream, data: bytes) -> None:
    """One byte now and then, until the other side has had enough."""
    reader, writer = streams
    ended = asyncio.ensure_future(rest(reader))
    for byte in data:
        if ended.done():
            break
        writer.write(bytes((byte,)))
        await asyncio.wait((ended,), timeout=0.4)
    await ended
    writer.close()


def test_slow_handshakes(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """Silence, a slow challenge and a slow opening each end after the handshake time, and hold their places no longer."""

    async def attack() -> None:
        silent, slow, opening = [await stranger(narrow) for _ in range(3)]
        opening[1].write(CHALLENGE)
        assert await evidence(opening) is not None
        async with asyncio.timeout(handshake.HANDSHAKE_SECONDS + 10):
            await asyncio.gather(rest(silent[0]), _trickle(slow, CHALLENGE), _trickle(opening, bytes(OPEN_BODY)))
        silent[1].close()
        await no_strangers(narrow)

    unharmed(attack)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xff\xff\xff\x01",
        (len(CHALLENGE) - 3).to_bytes(4, "big") + b"\x01",
        b"\0\0\0\0\x01",
        (1 << 20).to_bytes(4, "big") + bytes((FrameType.RECORD,)),
    ],
)
def test_oversize_challenge(unharmed: Callable[[Attack], None], narrow: World, header: bytes) -> None:
    """A first frame of another length than a challenge's closes the connection at its header."""

    async def attack() -> None:
        reader, writer = await stranger(narrow)
        writer.write(header)
        assert b"" == await rest(reader)
        writer.close()

    unharmed(attack)


@pytest.mark.parametrize("length", [OPEN_BODY + 2, OPEN_BODY, (1 << 32) - 1])
def test_oversize_open(unharmed: Callable[[Attack], None], narrow: World, length: int) -> None:
    """After the evidence nothing but an opening of its exact length is read."""

    async def attack() -> None:
        streams = await stranger(narrow)
        streams[1].write(CHALLENGE)
        assert await evidence(streams) is not None
        streams[1].write(length.to_bytes(4, "big") + bytes((FrameType.OPEN,)))
        assert b"" == await rest(streams[0])
        streams[1].close()

    unharmed(attack)


def connection_of(client: Client) -> Connection:
    session = client._current
    assert session is not None
    return session.connection


async def lost(connection: Connection) -> None:
    async with asyncio.timeout(30):
        await connection._lost.wait()


def test_oversize_record(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """A record longer than a mebibyte ends its session at the header, and only that one."""

    async def attack() -> None:
        client = await caller(narrow, "large")
        connection = connection_of(client)
        connection._write((2 + (1 << 20) + 21).to_bytes(4, "big") + bytes((FrameType.RECORD,)))
        await lost(connection)
        await client.close()

    unharmed(attack)


def test_message_that_announces_too_much(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """A message that says it is a tebibyte is refused when it ends, without room made for it; its session lives on."""

    async def attack() -> None:
        async with await caller(narrow, "boaster") as client:
            head = HEADER.pack(0, 0, 40, 1 << 40, 0).ljust(64)
            answer = await connection_of(client).request([head, bytes(3 << 20)])
            assert isinstance(answer, Message)
            assert Code.REQUEST_TOO_LARGE == answer.status
            assert await client.ready("shift")

    unharmed(attack)


def test_message_longer_than_it_says(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """A message of more records than its header announces is refused as malformed; its session lives on."""

    async def attack() -> None:
        async with await caller(narrow, "boaster") as client:
            head = HEADER.pack(0, 0, 40, 2 << 20, 0).ljust(64)
            answer = await connection_of(client).request([head, bytes(5 << 20)])
            assert isinstance(answer, Message)
            assert Code.MALFORMED_MESSAGE == answer.status
            assert await client.ready("shift")

    unharmed(attack)


def test_too_many_sessions(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """One session more than allowed is refused with that code, and served once another has ended."""

    async def attack() -> None:
        others = [await caller(narrow, f"caller {number}") for number in range(LIMITS.sessions - 1)]  # the steady one is the last
        with pytest.raises(SessionRefusedError) as refused:
            await caller(narrow, "one too many")
        assert Code.SESSION_LIMIT is refused.value.code
        for other in others:
            await other.close()
        await no_strangers(narrow)

    unharmed(attack)


def test_too_many_messages(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """A caller that ignores how many messages it may have open is told BUSY for those beyond."""

    async def attack() -> None:
        async with await caller(narrow, "greedy") as client:
            connection = connection_of(client)
            assert connection._granted is not None
            connection._granted = replace(connection._granted, open_messages=100)
            slow = [asyncio.create_task(client.infer("spin", {"n": np.array(10**12)}, timeout=20)) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(RequestRefusedError) as refused:
                await client.ready("shift")
            assert Code.BUSY is refused.value.code
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)

    unharmed(attack)


def test_memory_of_all_sessions(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """Large messages that arrive slowly on several sessions take no more memory than all may hold: the next large one is
    refused, small ones are not, and once the others have gone there is room again."""

    async def attack() -> None:
        slow = [await caller(narrow, f"slow {number}") for number in range(2)]
        for client in slow:
            data, parts = encode_request({"x": np.zeros(LARGEST // 4, np.float32)})
            _, frames = connection_of(client)._session.request(encode(path="/v2/models/copy/infer", json=data, tensors=parts))
            connection_of(client)._write(next(frames))
        async with await caller(narrow, "late") as client:
            with pytest.raises(RequestRefusedError) as refused:
                await client.infer("copy", {"x": np.zeros(LARGEST // 4, np.float32)})
            assert Code.REQUEST_TOO_LARGE is refused.value.code
            await client.infer("copy", {"x": np.zeros(1000, np.float32)})
            for other in slow:
                connection_of(other).abort()
                await other.close()
            for _ in range(100):
                try:
                    await client.infer("copy", {"x": np.zeros(LARGEST // 4, np.float32)})
                except RequestRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    return
            pytest.fail("the memory of callers that are gone was not given back")

    unharmed(attack)


async def _unread(world: World) -> None:
    """Ask for large answers and read none of them: soon no more is taken, and in the end the session is cut off."""
    client = await caller(world, "deaf")
    connection = connection_of(client)
    transport = connection._transport
    assert transport is not None
    transport.pause_reading()
    data = np.zeros(1 << 20, np.float32)
    body, parts = encode_request({"x": data})
    for _ in range(40):
        connection._session._open.clear()
        _, sealed = connection._session.request(encode(path="/v2/models/copy/infer", json=body, tensors=parts))
        for frame in sealed:
            transport.write(frame)
    await asyncio.sleep(2)
    assert transport.get_write_buffer_size() > 64 << 20, "an enclave whose answers are not read took them all"
    async with asyncio.timeout(40):
        while transport.get_write_buffer_size():
            await asyncio.sleep(0.1)
    transport.resume_reading()
    await lost(connection)
    await client.close()


async def _idle(world: World) -> None:
    """Do nothing: the enclave ends the session and says why; the next request opens another by itself."""
    async with await caller(world, "idle") as client:
        connection = connection_of(client)
        await lost(connection)
        assert Code.SESSION_IDLE is connection.ended
        assert await client.ready("shift")
        assert connection is not connection_of(client)


async def _slow_record(world: World) -> None:
    """Begin a record and never end it, byte after byte: no progress, so the session ends as an idle one."""
    client = await caller(world, "slow")
    connection = connection_of(client)
    header = (1 << 19).to_bytes(4, "big") + bytes((FrameType.RECORD,))
    connection._write(header)
    async with asyncio.timeout(40):
        while not connection._lost.is_set():
            connection._write(b"\0")
            await asyncio.sleep(0.2)
    assert Code.SESSION_IDLE is connection.ended
    await client.close()


def test_time_limits(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """Unread answers, an idle session and a record that never ends each cost their own caller the session, no one else anything."""

    async def attack() -> None:
        await asyncio.gather(_unread(narrow), _idle(narrow), _slow_record(narrow))

    unharmed(attack)


def test_frames_of_the_wrong_phase(unharmed: Callable[[Attack], None], narrow: World) -> None:
    """A record before the opening, and an opening after it, end the connection."""

    async def attack() -> None:
        streams = await stranger(narrow)
        streams[1].write(CHALLENGE)
        assert await evidence(streams) is not None
        streams[1].write((1 + 21).to_bytes(4, "big") + bytes((FrameType.RECORD,)) + bytes(21))
        assert b"" == await rest(streams[0])
        streams[1].close()
        client = await caller(narrow, "confused")
        connection_of(client)._write((1 + OPEN_BODY).to_bytes(4, "big") + bytes((FrameType.OPEN,)) + bytes(OPEN_BODY))
        await lost(connection_of(client))
        await client.close()

    unharmed(attack)
