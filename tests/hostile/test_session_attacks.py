"""An attack on a session shows something only where the appliance answers or refuses: silence and absence are neither."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from simulator.hostile.impostor import read_frame
from simulator.hostile.session_attacks import CLOSED, InconclusiveError, answered
from simulator.hostile.twins import Outcome
from wire import handshake
from wire.frame import FrameType, encode

Then = Callable[[asyncio.StreamWriter, asyncio.Server], Awaitable[None]]
CHALLENGE = handshake.encode_challenge(bytes(32))
REFUSED = Outcome(succeeded=False, refused_by=CLOSED)


def outcome(folder: Path, then: Then, *, seconds: float = 30.0) -> Outcome:
    """What the attack makes of an appliance that attests to everyone and does `then` with what comes behind a challenge."""

    async def run() -> Outcome:
        path = str(folder / "appliance")

        async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_frame(reader, FrameType.CHALLENGE)
            writer.write(encode(FrameType.EVIDENCE, bytes(2048)))
            if await reader.read(4):
                await then(writer, server)

        async with await asyncio.start_unix_server(session, path) as server:
            return await answered(path, CHALLENGE, b"rest", seconds=seconds)

    return asyncio.run(run())


async def _nothing(writer: asyncio.StreamWriter, server: asyncio.Server) -> None:
    await writer.wait_closed()


async def _gone(writer: asyncio.StreamWriter, server: asyncio.Server) -> None:
    server.close()
    writer.close()


async def _close(writer: asyncio.StreamWriter, server: asyncio.Server) -> None:
    writer.close()


async def _answer(writer: asyncio.StreamWriter, server: asyncio.Server) -> None:
    writer.write(encode(FrameType.RECORD, bytes(64)))


@pytest.mark.parametrize(("then", "seconds"), [(_nothing, 0.1), (_gone, 30.0)])
def test_silence_and_absence_show_nothing(tmp_path: Path, then: Then, seconds: float) -> None:
    """A stuck appliance, or one that is no longer there, has refused nothing."""
    with pytest.raises(InconclusiveError):
        outcome(tmp_path, then, seconds=seconds)


@pytest.mark.parametrize(("then", "expected"), [(_close, REFUSED), (_answer, Outcome(succeeded=True, refused_by=None))])
def test_an_end_refuses_and_a_record_succeeds(tmp_path: Path, then: Then, expected: Outcome) -> None:
    """A session that the appliance ends while it serves others is refused; any record is an answer."""
    assert expected == outcome(tmp_path, then)
