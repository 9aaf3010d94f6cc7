"""A model is updated under load: a new manifest, an enclave beside the old one, and no request fails."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
import os
from pathlib import Path
import signal
from typing import Any

import numpy as np
import pytest

from cloister.api import connect
from cloister.errors import CloisterError
from simulator.hostile.small import INPUT, MODEL, OUTPUT, booted, canary, prepared, shift_model
from simulator.owner import ModelSpec
from simulator.world import World
from wire import ports

OLD, NEW = 1.0, 1000.0
CALLERS = 4
PATIENCE = 150.0  # how long what must happen may take on a busy machine; nothing is asserted about time


@pytest.fixture
def world() -> Iterator[World]:
    """An enclave that serves the old version."""
    with closing(booted(prepared(World.create(), OLD))) as made:
        yield made


class Load:
    """Callers that open a session, ask a few times, and open the next, until they are told to stop."""

    def __init__(self, world: World) -> None:
        self.world, self.endpoint = world, world.endpoint
        self.values: Any = world.owner.reference_values([world.measured()])
        self.identity = world.owner.identity()
        self.served: Counter[float] = Counter()
        self.stop = asyncio.Event()

    async def ask(self, client: Any) -> float:
        """One request; what the model added."""
        data = canary()
        answer = await client.infer(MODEL, {INPUT: data})
        return float(np.round(np.median(answer.outputs[OUTPUT] - data)))

    async def caller(self) -> None:
        """One caller; anything that fails ends the test."""
        while not self.stop.is_set():
            async with await connect(self.endpoint, self.values, identity=self.identity, roots=self.world.roots) as client:
                for _ in range(5):
                    self.served[await self.ask(client)] += 1

    async def patient(self) -> None:
        """A caller that tries again where nobody serves."""
        while not self.stop.is_set():
            try:
                await self.caller()
            except CloisterError:
                await asyncio.sleep(0.05)

    async def until(self, added: float, requests: int) -> None:
        """Wait until so many more answers were of a model that adds this."""
        wanted = self.served[added] + requests
        while self.served[added] < wanted:
            await asyncio.sleep(0.01)


def publish(world: World) -> None:
    """The owner seals the new version and publishes a manifest with it alone, the sequence one higher."""
    world.owner.seal([ModelSpec(id=MODEL, version="2", onnx=shift_model(NEW))])
    world.owner.publish(world.owner.manifest())


def start_beside(world: World) -> Any:
    """An enclave on the new manifest beside the old one, whose parent's services are the same; the old one's handle."""
    old, first = world.enclave, world.run
    second = world.new_run()
    for port in (ports.FEED, ports.STATUS, ports.CREDENTIALS, ports.EGRESS):
        (second / f"parent_{port}").symlink_to(first / f"parent_{port}")
    world.start_enclave()
    world.run = first  # callers keep coming to the same parent
    following(world, first, second / f"enclave_{ports.SESSION}")
    return old


def following(world: World, run: Path, session: Path | None) -> None:
    """Write or remove `next` in the parent's configuration, and tell the parent."""
    config = run / "parent.toml"
    text = config.read_text().partition("[next]")[0]
    config.write_text(text + (f'[next]\nsession = "unix:{session}"\n' if session else ""))
    if world.parent is None:
        raise RuntimeError("no parent")
    os.kill(world.parent.popen.pid, signal.SIGHUP)


def test_no_request_fails_while_a_model_is_updated(world: World) -> None:
    """Under load the new enclave boots beside the old one, new sessions go to it, the old one runs empty and is ended."""

    async def scene() -> Counter[float]:
        load = Load(world)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as callers:
            held = await connect(world.endpoint, load.values, identity=load.identity, roots=world.roots)
            for _ in range(CALLERS):
                callers.create_task(load.caller())
            await load.until(OLD, 20)
            await asyncio.to_thread(publish, world)
            old = await asyncio.to_thread(start_beside, world)
            await load.until(NEW, 20)
            assert await load.ask(held) == OLD  # a session stays with the enclave that it attested
            await held.close()
            load.served[OLD] = 0
            await load.until(NEW, 40)
            assert load.served[OLD] <= CALLERS * 5  # at most what was at hand at the switch
            old.terminate()
            await load.until(NEW, 20)
            load.stop.set()
        return load.served

    served = asyncio.run(scene())
    assert set(served) == {OLD, NEW}


def test_a_successor_that_does_not_boot_changes_nothing(world: World) -> None:
    """Where the new manifest is refused, requests go on at the old enclave, also after the operator has given up."""

    async def scene() -> None:
        load = Load(world)
        envelope = bytearray((world.feed / "manifest.cose").read_bytes())
        envelope[-1] ^= 1
        (world.feed / "manifest.cose").write_bytes(envelope)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as callers:
            callers.create_task(load.caller())
            old = await asyncio.to_thread(start_beside, world)
            refused = await asyncio.to_thread(world.wait_stopped)
            assert refused == "MANIFEST_SIGNATURE"
            await load.until(OLD, 10)
            following(world, world.run, None)
            await load.until(OLD, 10)
            load.stop.set()
        world.enclave = old
        assert set(load.served) == {OLD}

    asyncio.run(scene())


def test_with_one_enclaves_memory_there_is_a_gap(world: World) -> None:
    """Where there is no memory for two the old enclave ends first: callers are refused at once, and served once the new one is."""

    async def scene() -> None:
        load = Load(world)
        publish(world)
        world.stop_enclave()
        with pytest.raises(CloisterError):
            await connect(load.endpoint, load.values, identity=load.identity, roots=world.roots)
        await asyncio.to_thread(start_beside, world)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as callers:
            callers.create_task(load.patient())
            await load.until(NEW, 1)
            load.stop.set()

    asyncio.run(scene())
