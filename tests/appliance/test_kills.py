"""Every process killed at every stage of the boot and in the handshake: what becomes of that boot, and that the next one serves.

A stage is held from outside, where the enclave waits for something that is not there yet; then one process ends by SIGKILL.
The same while serving is in `test_faults`.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
import os
from pathlib import Path
import signal

import numpy as np
import pytest

from cloister.api import connect
from cloister.errors import CloisterError, UnreachableError
from simulator.hostile.artifact_attacks import wide_model
from simulator.hostile.small import shift_model
from simulator.owner import ModelSpec
from simulator.world import World
from tests.appliance import faults, scripted_kms
from tests.appliance.conftest import caller
from wire.artifact import HEADER_MAX
from wire.ports import SESSION

X = np.arange(4, dtype=np.float32).reshape(1, 4)
DEADLINE = 15.0
PATIENCE = 60
SERVES, DIES = "the boot goes on to SERVING", "no report"
INSIDE = "inside Decrypt"

# Without its zygote an enclave ends when it wants a worker, without its security module when it wants a document; what
# lies outside may come back. A worker exists once the first of the two models has loaded, and is replaced.
EXPECTED: dict[str, dict[str, str]] = {
    "COLD": {"enclave": DIES, "zygote": "INTERNAL", "parent": SERVES, "kms": SERVES, "nsm": "NSM_UNAVAILABLE"},
    "MEASURED": {"enclave": DIES, "zygote": "INTERNAL", "parent": SERVES, "kms": SERVES, "nsm": "NSM_UNAVAILABLE"},
    INSIDE: {"enclave": DIES, "zygote": "INTERNAL", "parent": SERVES, "kms": SERVES, "nsm": "NSM_UNAVAILABLE"},
    "UNWRAPPED": {"enclave": DIES, "zygote": "INTERNAL", "worker": SERVES, "parent": SERVES, "kms": SERVES, "nsm": "NSM_UNAVAILABLE"},
    "LOADED": {"enclave": DIES, "zygote": "INTERNAL", "worker": SERVES, "parent": SERVES, "kms": SERVES, "nsm": "NSM_UNAVAILABLE"},
}
CELLS = [(stage, victim, expected) for stage, row in EXPECTED.items() for victim, expected in row.items()]


@pytest.fixture(scope="module")
def stage_world() -> Iterator[World]:
    """Two models, the second with weights in a part of its own; KMS follows a script."""
    with closing(World.create()) as made:
        made.start_kms(scripted_kms.MODULE)
        made.owner.create_key([made.measured()])
        made.owner.seal(
            [ModelSpec(id="shift", version="1", onnx=shift_model(1.0)), ModelSpec(id="wide", version="1", onnx=wide_model(2.0))]
        )
        made.owner.publish(made.owner.manifest())
        yield made


@pytest.fixture
def world(stage_world: World) -> Iterator[World]:
    """A run of its own with a parent; at its end everything ends in order, and neither process nor file is left."""
    world = stage_world
    feed = {path: path.read_bytes() for path in world.feed.iterdir()}
    scripted_kms.write(world.state)
    world.new_run()
    world.start_parent()
    try:
        yield world
        assert world.enclave is not None and world.parent is not None
        world.enclave.process.terminate()
        assert 0 == world.enclave.wait(faults.SECONDS)
        assert 0 == world.parent.stop()
        assert set() == faults.left(world.run)
    finally:
        for path, content in feed.items():
            path.write_bytes(content)
        world.stop_enclave()
        if world.parent is not None:
            world.parent.kill()
        if world.kms is None or world.kms.popen.poll() is not None:
            world.start_kms(scripted_kms.MODULE)
    assert faults.until(lambda: not faults.processes(world.run)), "processes left"


def withheld(path: Path, length: int = 0) -> Callable[[], None]:
    """Take a file from the feed, all but its first bytes; the call that puts it back."""
    content = path.read_bytes()
    path.unlink()
    if length:
        path.write_bytes(content[:length])

    def back() -> None:
        whole = path.with_suffix(".whole")
        whole.write_bytes(content)
        whole.replace(path)

    return back


def hold(world: World, stage: str) -> Callable[[], None]:
    """Boot an enclave up to `stage` and keep it there; the call that lets it go on."""
    artifacts = [world.feed / part.artifact_sha256.hex() for model in world.owner.models for part in model.parts]
    match stage:
        case "COLD":
            release = withheld(world.feed / "manifest.cose")
        case "MEASURED":
            release = withheld(artifacts[0])
        case "UNWRAPPED" | "LOADED":
            release = withheld(artifacts[-1], HEADER_MAX)  # the header is read before KMS is asked
        case _:
            scripted_kms.write(world.state, "held")
            world.start_enclave()
            assert faults.until(lambda: len(scripted_kms.asked(world.state)) == 1)
            return lambda: scripted_kms.go(world.state)
    enclave = world.start_enclave()
    assert faults.until(lambda: faults.metric(world, "parent_feed_errors_total") > 0)
    if stage == "LOADED":  # whose end is that the module is asked for the time
        enclave.nsm.send_signal(signal.SIGSTOP)
        release()
        release = lambda: enclave.nsm.send_signal(signal.SIGCONT)  # noqa: E731
        assert faults.until(lambda: faults.stage(world) == "LOADED")
    assert stage == faults.stage(world)
    return release


def kill(world: World, victim: str) -> None:
    assert world.enclave is not None and world.parent is not None and world.kms is not None
    match victim:
        case "enclave":
            faults.kill_enclave(world)
        case "zygote":
            os.kill(faults.zygote(world), signal.SIGKILL)
        case "worker":
            (worker,) = faults.workers(world)[:1]
            os.kill(worker, signal.SIGKILL)
        case "parent":
            world.parent.kill()
        case "kms":
            world.kms.kill()
        case "nsm":
            world.enclave.nsm.kill()
            world.enclave.nsm.wait()


def answers(world: World) -> None:
    """A caller is let in, and its first requests are answered."""

    async def work() -> None:
        async with await caller(world) as client:
            for model, by in (("shift", 1), ("wide", 2)):
                assert (X + by).tolist() == (await client.infer(model, {"x": X}, timeout=DEADLINE)).outputs["y"].tolist()

    asyncio.run(asyncio.wait_for(work(), 60))


def refuses(world: World) -> None:
    """Nothing listens before SERVING: a caller is told, and does not wait."""

    async def work() -> None:
        with pytest.raises(UnreachableError):
            await caller(world)

    asyncio.run(asyncio.wait_for(work(), DEADLINE))


def after(world: World, expected: str, family: list[int]) -> None:
    """The boot ends as expected, a stopped one without a trace, and an enclave serves: this one, or the next."""
    enclave = world.enclave
    assert enclave is not None
    if expected == SERVES:
        world.wait_serving()
        answers(world)
        assert world.boot_failure() is None
        return
    reported = world.wait_stopped()
    assert faults.gone(family)
    left = faults.left(world.run) - faults.PARENTS
    if expected == DIES:
        assert (None, -signal.SIGKILL) == (reported, enclave.process.returncode)
        # Its memory and its ports, which go with the machine.
        assert all(name.startswith("weights-") or name == f"enclave_{SESSION}" for name in left)
    else:
        assert (expected, 1, set()) == (reported, enclave.process.returncode, left)
    faults.restart_enclave(world)
    answers(world)


@pytest.mark.parametrize(("stage", "victim", "expected"), CELLS)
def test_killed_at_boot(world: World, stage: str, victim: str, expected: str) -> None:
    """A code of the table, or the boot goes on; no process and no file stays behind, and an enclave serves again."""
    release = hold(world, stage)
    refuses(world)
    assert world.enclave is not None and world.enclave.process.poll() is None
    family = faults.family(world.enclave.process.pid)
    kill(world, victim)
    release()
    if victim == "parent":
        faults.restart_parent(world)
    if victim == "kms" and stage not in ("UNWRAPPED", "LOADED"):  # from then on it is not needed any more
        assert faults.until(lambda: faults.metric(world, "parent_egress_unreachable_total") > 0)
        world.start_kms(scripted_kms.MODULE)
    after(world, expected, family)


def test_kms_stalls_inside_decrypt(world: World) -> None:
    """A KMS that stands still in a request and then goes on costs its time, and no second request."""
    release = hold(world, INSIDE)
    assert world.kms is not None
    world.kms.popen.send_signal(signal.SIGSTOP)
    release()
    refuses(world)
    assert 1 == len(scripted_kms.asked(world.state))
    world.kms.popen.send_signal(signal.SIGCONT)
    after(world, SERVES, [])
    assert sum(len(model.parts) for model in world.owner.models) == len(scripted_kms.asked(world.state))


HANDSHAKE: dict[str, tuple[type[CloisterError] | None, str]] = {
    "enclave": (UnreachableError, DIES),
    "zygote": (UnreachableError, "INTERNAL"),
    "worker": (None, SERVES),
    "parent": (UnreachableError, SERVES),
    "kms": (None, SERVES),
    "nsm": (UnreachableError, DIES),
}


async def held_handshake(world: World, victim: str, error: type[CloisterError] | None) -> None:
    """A caller waits for evidence, of a module that stands still; `victim` is killed."""
    assert world.enclave is not None
    tasks = Path(f"/proc/{world.enclave.process.pid}/task")
    threads = len(list(tasks.iterdir()))
    world.enclave.nsm.send_signal(signal.SIGSTOP)
    values = world.owner.reference_values([world.measured()])
    opening = connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots, timeout=PATIENCE)
    waiting = asyncio.create_task(opening)
    # The thread that asks the module begins with the first challenge.
    assert await asyncio.to_thread(faults.until, lambda: len(list(tasks.iterdir())) > threads)
    assert not waiting.done()
    await asyncio.to_thread(kill, world, victim)
    if error is not None:
        with pytest.raises(error):
            await asyncio.wait_for(waiting, DEADLINE)
    world.enclave.nsm.send_signal(signal.SIGCONT)
    if error is None:
        async with await asyncio.wait_for(waiting, DEADLINE) as client:
            assert (X + 1).tolist() == (await client.infer("shift", {"x": X}, timeout=DEADLINE)).outputs["y"].tolist()


@pytest.mark.parametrize("victim", HANDSHAKE)
def test_killed_in_the_handshake(world: World, victim: str) -> None:
    """Who waits for evidence is told at once, however long it would have waited, or let in; the next call is answered."""
    error, expected = HANDSHAKE[victim]
    faults.restart_parent(world, limits=f"[limits]\nhandshake_seconds = {PATIENCE}")
    enclave = world.start_enclave()
    world.wait_serving()
    family = faults.family(enclave.process.pid)
    asyncio.run(asyncio.wait_for(held_handshake(world, victim, error), PATIENCE))
    if victim == "parent":
        faults.restart_parent(world)
    if victim == "nsm":
        faults.kill_enclave(world)  # it lives on for those who are in: its operator's to end
    after(world, expected, family)
