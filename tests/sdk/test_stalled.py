"""An enclave that stops reading half-way through a large request: the caller keeps its own time, and its session goes on."""

import asyncio
from pathlib import Path

import pytest

from cloister.api import Client
from cloister.errors import DeadlineError, SessionLostError
from enclave.connection import Connection
from tests.sdk import appliance as appliances
from tests.sdk.appliance import Appliance, appliance, client, later
from tests.sdk.test_connection import DATA, asked, run

LARGE = bytes(7 << 20)
SECONDS = 5


class Stalling(Connection):
    """Reads no more once part of a message has come, until it is told to."""

    stalls = True

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        if self.stalls and self._session.mid_message and self._transport is not None:
            self._transport.pause_reading()

    @property
    def is_stalled(self) -> bool:
        """Whether it has stopped."""
        return self._transport is not None and not self._transport.is_reading()

    def go_on(self) -> None:
        """Read again."""
        self.stalls = False
        if self._transport is not None:
            self._transport.resume_reading()


@pytest.fixture(autouse=True)
def stalling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection of the appliance stalls."""
    monkeypatch.setattr(appliances, "Connection", Stalling)


async def stalled(there: Appliance, caller: Client, seconds: float | None) -> "tuple[Stalling, asyncio.Task[int]]":
    """A large request that the enclave has stopped reading."""

    async def ask() -> int:
        message, _ = await caller.call("/v2/models/m/infer", b"{}", [LARGE], seconds=seconds)
        return len(message.tensors)

    assert DATA == await asked(caller)
    task = asyncio.create_task(ask())
    (connection,) = there.connections
    assert isinstance(connection, Stalling)
    while not connection.is_stalled:
        await asyncio.sleep(0)
    for _ in range(10):  # the caller has written what it can
        await asyncio.sleep(0)
    assert not task.done()
    return connection, task


def test_deadline_of_a_request_half_sent(tmp_path: Path) -> None:
    """The request ends with its own deadline, as does the next; when the enclave reads on, the same session serves again."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            connection, large = await stalled(there, caller, SECONDS)
            await later(SECONDS)
            with pytest.raises(DeadlineError):
                await large
            small = asyncio.create_task(asked(caller, seconds=SECONDS))
            await asyncio.sleep(0)
            await later(SECONDS)
            with pytest.raises(DeadlineError):
                await small
            connection.go_on()
            assert DATA == await asked(caller)
            assert (1, 2) == (there.accepted, len(there.paths))
            assert there.desk.memory.take(64 << 20), "what the half request reserved is given back"

    run(work())


def test_a_session_that_dies_stalled_is_replaced(tmp_path: Path) -> None:
    """If instead the stalled stream ends, the request that was half sent is lost once, and the next one opens another session."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            connection, large = await stalled(there, caller, None)
            connection._abort()
            with pytest.raises(SessionLostError):
                await large
            assert DATA == await asked(caller)
            assert (2, 2) == (there.accepted, len(there.paths))

    run(work())


def test_deadline_behind_a_request_half_sent(tmp_path: Path) -> None:
    """A request that waits for its turn behind one that does not end keeps its own deadline; the first one loses nothing."""

    async def work() -> None:
        async with appliance(tmp_path) as there, client(there.path) as caller:
            connection, large = await stalled(there, caller, None)
            small = asyncio.create_task(asked(caller, seconds=SECONDS))
            await asyncio.sleep(0)
            await later(SECONDS)
            with pytest.raises(DeadlineError):
                await small
            assert not large.done()
            connection.go_on()
            assert len(LARGE) == await large
            assert DATA == await asked(caller)
            assert 1 == there.accepted

    run(work())


def test_close_of_a_stalled_client(tmp_path: Path) -> None:
    """A client closes within its time, and what was half sent fails."""

    async def work() -> None:
        async with appliance(tmp_path) as there:
            caller = client(there.path)
            connection, large = await stalled(there, caller, None)
            closing = asyncio.create_task(caller.close())
            await asyncio.sleep(0)
            await later(SECONDS)
            await closing
            with pytest.raises(SessionLostError):
                await large
            connection.go_on()

    run(work())
