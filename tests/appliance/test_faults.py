"""Processes killed, stopped and told to end while serving: one typed error in time, then all is well again, and nothing is left.

The same at every stage of the boot is in `test_kills`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from cloister.api import Client
from cloister.errors import CloisterError, DeadlineError, RequestRefusedError, SessionLostError, UnreachableError
from simulator.hostile.small import booted, shift_model
from simulator.owner import ModelSpec
from simulator.world import World
from tests.appliance import faults
from tests.appliance.conftest import caller
from tests.model.graphs import spin
from wire.errors import Code
from wire.manifest import Runtime

X = np.arange(4, dtype=np.float32).reshape(1, 4)
LONG = {"n": np.array(10**12)}
DEADLINE = 15.0


@pytest.fixture(scope="module")
def sturdy() -> Iterator[World]:
    """A world whose processes are killed and started again; what ends in order at last leaves neither process nor file."""
    with closing(World.create()) as made:
        made.start_kms()
        made.owner.create_key([made.measured()])
        made.owner.seal(
            [
                ModelSpec(id="shift", version="1", onnx=shift_model(1.0)),
                ModelSpec(id="spin", version="1", onnx=spin()[0], settings={"runtime": Runtime(seconds=20)}),
            ]
        )
        made.owner.publish(made.owner.manifest())
        yield booted(made)
        assert made.enclave is not None and made.parent is not None
        made.enclave.process.terminate()
        assert 0 == made.enclave.wait(faults.SECONDS)
        assert 0 == made.parent.stop()
        assert set() == faults.left(made.run)
    assert faults.until(lambda: not faults.processes(made.directory)), "processes left"


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90):
            await work

    asyncio.run(bounded())


def kill_workers(world: World) -> None:
    for pid in faults.workers(world):
        os.kill(pid, signal.SIGKILL)


async def works(client: Client) -> None:
    assert (X + 1).tolist() == (await client.infer("shift", {"x": X}, timeout=DEADLINE)).outputs["y"].tolist()


async def interrupted(client: Client, fault: Callable[[], object]) -> CloisterError:
    """The error of a request during which `fault` happens; it must come well before the request's own deadline."""
    request = asyncio.create_task(client.infer("spin", LONG, timeout=DEADLINE))
    await works(client)  # so the long one has arrived
    started = time.monotonic()
    await asyncio.to_thread(fault)
    with pytest.raises(CloisterError) as found:
        await request
    assert time.monotonic() - started < DEADLINE
    return found.value


def test_enclave_killed(sturdy: World) -> None:
    """The request under way fails as lost; once another enclave serves, the same client goes on, attested anew."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            before = client.attestation
            error = await interrupted(client, lambda: faults.kill_enclave(sturdy))
            assert isinstance(error, SessionLostError)
            assert error.sent
            with pytest.raises(UnreachableError):
                await client.infer("shift", {"x": X}, timeout=DEADLINE)
            await asyncio.to_thread(faults.restart_enclave, sturdy)
            await works(client)
            assert client.attestation.claims.module_id != before.claims.module_id

    run(work())


def test_worker_killed(sturdy: World) -> None:
    """A killed worker fails the request that it ran, by its own code; the session and the other model go on."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            before = client.attestation
            error = await interrupted(client, lambda: kill_workers(sturdy))
            assert isinstance(error, RequestRefusedError)
            assert Code.WORKER_LOST is error.code
            await works(client)
            assert 3 == (await client.infer("spin", {"n": np.array(3)}, timeout=DEADLINE)).outputs["count"]
            assert client.attestation is before

    run(work())


def test_zygote_killed(sturdy: World) -> None:
    """Without the process that workers come from the enclave ends, says so to its parent, and callers are told."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            error = await interrupted(client, lambda: os.kill(faults.zygote(sturdy), signal.SIGKILL))
            assert error.code in (Code.SESSION_LOST, Code.WORKER_LOST)
            assert "INTERNAL" == await asyncio.to_thread(sturdy.wait_stopped)
            await asyncio.to_thread(faults.restart_enclave, sturdy)
            await works(client)

    run(work())


def test_parent_killed(sturdy: World) -> None:
    """The enclave survives its parent; the same client goes on as soon as one forwards again."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            assert sturdy.parent is not None
            error = await interrupted(client, sturdy.parent.kill)
            assert isinstance(error, SessionLostError)
            with pytest.raises(UnreachableError):
                await client.infer("shift", {"x": X}, timeout=DEADLINE)
            module = sturdy.enclave.module_id if sturdy.enclave is not None else ""
            await asyncio.to_thread(faults.restart_parent, sturdy)
            await works(client)
            assert module == client.attestation.claims.module_id

    run(work())


def test_kms_killed_while_serving(sturdy: World) -> None:
    """A serving enclave needs no KMS: requests and new sessions go on without it."""

    async def work() -> None:
        assert sturdy.kms is not None
        async with await caller(sturdy) as client:
            await asyncio.to_thread(sturdy.kms.kill)
            await works(client)
            async with await caller(sturdy, "another") as other:
                await works(other)
        await asyncio.to_thread(sturdy.start_kms)

    run(work())


def test_nsm_killed_while_serving(sturdy: World) -> None:
    """Without its security module an enclave opens no session; those that are open go on, others learn it at once."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            assert sturdy.enclave is not None
            sturdy.enclave.nsm.kill()
            await works(client)
            with pytest.raises(UnreachableError):
                await caller(sturdy, "another")
            await works(client)
            await asyncio.to_thread(faults.restart_enclave, sturdy)
            await works(client)

    run(work())


def test_enclave_stopped(sturdy: World) -> None:
    """An enclave that stands still costs a caller its deadline and nothing more; afterwards the session goes on."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            assert sturdy.enclave is not None
            sturdy.enclave.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(DeadlineError):
                    await client.infer("shift", {"x": X}, timeout=0.3)
            finally:
                sturdy.enclave.process.send_signal(signal.SIGCONT)
            await works(client)

    run(work())


def test_enclave_told_to_end(sturdy: World) -> None:
    """An enclave that is told to end answers what is under way, then says goodbye and ends well; the next one serves."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            connection = client._current.connection if client._current is not None else None
            assert sturdy.enclave is not None and connection is not None
            under_way = asyncio.create_task(client.infer("spin", {"n": np.array(3 * 10**5)}, timeout=DEADLINE))
            await works(client)
            sturdy.enclave.process.terminate()
            assert 3 * 10**5 == (await under_way).outputs["count"]
            assert 0 == await asyncio.to_thread(sturdy.enclave.process.wait, 20)
            assert Code.SHUTTING_DOWN is connection.ended
            await asyncio.to_thread(faults.restart_enclave, sturdy)
            await works(client)

    run(work())


def test_parent_told_to_end(sturdy: World) -> None:
    """A parent that is told to end lets the request under way come through."""

    async def work() -> None:
        async with await caller(sturdy) as client:
            assert sturdy.parent is not None
            under_way = asyncio.create_task(client.infer("spin", {"n": np.array(3 * 10**5)}, timeout=DEADLINE))
            await works(client)
            sturdy.parent.popen.terminate()
            assert 3 * 10**5 == (await under_way).outputs["count"]
        assert 0 == await asyncio.to_thread(sturdy.parent.popen.wait, 20)
        await asyncio.to_thread(faults.restart_parent, sturdy)

    run(work())


def test_kms_away_at_boot(sturdy: World) -> None:
    """A boot waits for KMS and goes on when it comes; the parent may come and go meanwhile."""
    assert sturdy.kms is not None
    sturdy.kms.kill()
    faults.restart_enclave(sturdy, wait=False)
    assert faults.until(lambda: faults.stage(sturdy) == "MEASURED")
    faults.restart_parent(sturdy)
    assert sturdy.enclave is not None and sturdy.enclave.process.poll() is None
    sturdy.start_kms()
    sturdy.wait_serving()

    async def work() -> None:
        async with await caller(sturdy) as client:
            await works(client)

    run(work())
