"""A session's lifetime at the enclave: its end is orderly, open requests are still answered, new ones are not, none waits for ever."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.connection import Connection, Opening, open_session
from cloister.errors import SessionLostError
from cloister.session import CallerIdentity
from enclave import connection as enclave_side
from tests.sdk.appliance import Appliance, appliance, echo, later
from tests.sdk.test_connection import run
from tests.session import world
from tests.wire.examples import NOW
from wire.credential import SKEW_SECONDS
from wire.endpoint import Unix
from wire.errors import Code
from wire.manifest import Limits
from wire.message import Message, encode
from wire.record import Octets

DATA = bytes(range(256)) * 64
SECONDS = 10
TEN_SECONDS = Limits(session_seconds=SECONDS)


async def opened(there: Appliance, identity: CallerIdentity | None = None) -> Connection:
    """A session whose caller does not look at its lifetime."""
    opening = Opening(endpoint=Unix(there.path), judge=world.result, identity=identity or world.identity(), answer_bytes=1 << 20)
    connection, accepted = await open_session(opening)
    assert SECONDS == accepted.seconds
    connection._granted = replace(accepted, seconds=3600)
    return connection


async def asked(connection: Connection, path: str) -> Message:
    answer = await connection.request(encode(path=path, tensors=[DATA]))
    assert isinstance(answer, Message)
    return answer


def gate(there: Appliance) -> asyncio.Event:
    """The early request waits for it."""
    event = asyncio.Event()

    async def answer(message: Message) -> list[Octets]:
        if message.path == "/v2/early":
            await event.wait()
        return await echo(message)

    there.answer = answer
    return event


@pytest.mark.parametrize("bound", ["manifest", "credential"])
def test_expires_in_an_orderly_way(tmp_path: Path, bound: str) -> None:
    """After the smaller of the manifest's seconds and the credential's, not before, the close record tells the caller so."""

    async def work() -> None:
        limits, identity = (TEN_SECONDS, None) if bound == "manifest" else (None, world.identity(expires=NOW + SECONDS - SKEW_SECONDS))
        async with appliance(tmp_path, limits=limits) as there:
            connection = await opened(there, identity)
            await later(SECONDS / 2)
            assert DATA == bytes((await asked(connection, "/v2/late")).tensors)
            await later(SECONDS / 2)
            await connection._lost.wait()
            assert Code.SESSION_EXPIRED is connection.ended

    run(work())


def test_expired_with_an_open_request(tmp_path: Path) -> None:
    """An open request is still answered, a new one is refused and does not run; then the end, as orderly as without."""

    async def work() -> None:
        async with appliance(tmp_path, limits=TEN_SECONDS) as there:
            opened_gate = gate(there)
            connection = await opened(there)
            early = asyncio.create_task(asked(connection, "/v2/early"))
            while not there.paths:
                await asyncio.sleep(0)
            assert Code.OK == (await asked(connection, "/v2/late")).status
            await later(SECONDS)
            assert Code.SESSION_EXPIRED == (await asked(connection, "/v2/late")).status
            assert ["/v2/early", "/v2/late"] == there.paths
            assert not early.done()
            opened_gate.set()
            assert DATA == bytes((await early).tensors)
            await connection._lost.wait()
            assert Code.SESSION_EXPIRED is connection.ended

    run(work())


def test_expired_with_a_request_that_is_never_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of grace, not before, the session ends all the same, in an orderly way; what ran for it is stopped."""
    stopped = asyncio.Event()

    async def never(message: Message) -> list[Octets]:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return await echo(message)

    async def work() -> None:
        async with appliance(tmp_path, never, limits=TEN_SECONDS) as there:
            connection = await opened(there)
            early = asyncio.create_task(asked(connection, "/v2/early"))
            while not there.paths:
                await asyncio.sleep(0)
            await later(SECONDS)
            assert Code.SESSION_EXPIRED == (await asked(connection, "/v2/late")).status
            await later(SECONDS)
            with pytest.raises(SessionLostError) as lost:
                await early
            assert (Code.SESSION_EXPIRED, True) == (lost.value.ended, lost.value.sent)
            await stopped.wait()

    monkeypatch.setattr(enclave_side, "GRACE_SECONDS", SECONDS)
    run(work())
