"""A whole boot among passing trouble: KMS throttles, breaks, calls credentials expired; the feed stalls, or is cut and begins again."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
import json
from pathlib import Path
import time

import numpy as np
import pytest

from attestation import document
from parent.status import explain
from simulator.hostile.artifact_attacks import wide_model
from simulator.hostile.small import INPUT, MODEL, OUTPUT, VERSION, booted, shift_model
from simulator.hostile.twins import Edit, copy_tree
from simulator.kms import accounts
from simulator.kms.accounts import Access
from simulator.owner import PARENT, ModelSpec, session_arn
from simulator.world import World
from tests.appliance import faults, scripted_kms
from tests.appliance.conftest import caller
from tests.appliance.relay import Fault, Relay
from wire import ports
from wire.artifact import FRAME_BYTES
from wire.errors import BootFailure
from wire.feed import CHUNK_MAX, GetRange
from wire.frame import HEADER_BYTES

X = np.arange(4, dtype=np.float32).reshape(1, 4)
STALL_SECONDS = 1.0
OPERATE = Path(__file__).parents[2] / "docs" / "operate.md"


def stocked(world: World, onnx: bytes) -> World:
    """With a KMS that follows a script, and a manifest of one model."""
    world.start_kms(scripted_kms.MODULE)
    world.owner.create_key([world.measured()])
    world.owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=onnx)])
    world.owner.publish(world.owner.manifest())
    return world


@pytest.fixture(scope="module")
def stock() -> Iterator[World]:
    """One model with weights of three frames in a part of their own."""
    with closing(World.create()) as made:
        yield stocked(made, wide_model(1.0))


@pytest.fixture
def world(stock: World) -> Iterator[World]:
    """A run of its own with a parent."""
    scripted_kms.write(stock.state)
    stock.new_run()
    stock.start_parent()
    yield stock
    stock.stop_enclave()
    if stock.parent is not None:
        stock.parent.stop()


def answers(world: World) -> None:
    """The enclave serves, and computes what its model does."""

    async def work() -> None:
        async with await caller(world) as client:
            assert (X + 1).tolist() == (await client.infer(MODEL, {INPUT: X}, timeout=15)).outputs[OUTPUT].tolist()

    world.wait_serving()
    asyncio.run(asyncio.wait_for(work(), 60))


def stamps(world: World) -> list[int]:
    """The timestamps of the documents that KMS was shown, in order."""
    return [document.parse(asked.document).timestamp for asked in scripted_kms.asked(world.state)]


def hand_out(world: World, access: Access) -> None:
    """The parent's credentials from now on, good for another hour by what it says of them."""
    path = world.run / "credentials.json"
    names = ("access_key_id", "secret_access_key", "session_token")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {name: getattr(access, name) for name in names}), encoding="utf-8")


def test_kms_in_trouble_is_asked_again_with_fresh_evidence(world: World) -> None:
    """Throttled, broken, the credentials expired and then renewed: the boot serves, and no document was shown twice."""
    expired = accounts.issue(world.state, session_arn(PARENT), expires=datetime.now(UTC) - timedelta(hours=1))
    hand_out(world, expired)
    scripted_kms.write(world.state, "throttled", "broken", "held")
    world.start_enclave()
    assert faults.until(lambda: len(scripted_kms.asked(world.state)) == 3)
    renewed = world.owner.parent_access()
    hand_out(world, renewed)
    scripted_kms.go(world.state)  # the truth: these credentials have expired
    answers(world)
    asked = scripted_kms.asked(world.state)
    assert [*3 * [expired.access_key_id], *2 * [renewed.access_key_id]] == [each.access_key_id for each in asked]
    assert len(asked) == len({each.document for each in asked})
    assert stamps(world) == sorted(set(stamps(world)))
    assert 2 == faults.metric(world, "parent_credentials_total")
    assert world.boot_failure() is None


def test_a_refusal_of_kms_stops_the_boot_and_is_explained(world: World) -> None:
    """A key policy for another image: asked once, a code, and the line that the parent logs leads to what to do."""
    measured = world.measured()
    world.owner.put_policy([replace(measured, pcr0=bytes(range(48)))])
    try:
        world.start_enclave()
        assert "KMS_REFUSED" == world.wait_stopped()
    finally:
        world.owner.put_policy([measured])
    assert 1 == len(scripted_kms.asked(world.state))
    assert world.parent is not None
    (line,) = [line for line in world.parent.text().splitlines() if "boot failed" in line]
    assert line.endswith(explain(BootFailure.KMS_REFUSED))
    assert f"\n### {line.rpartition('#')[2]}\n" in OPERATE.read_text(encoding="utf-8")


def test_a_kms_that_never_answers_is_asked_again(tmp_path: Path) -> None:
    """Its time passes (here a second instead of thirty), and the next request, with fresh evidence, is answered."""
    copy_tree(tmp_path / "tree", (Edit(file="enclave/kms.py", old="ANSWER_SECONDS = 30.0", new="ANSWER_SECONDS = 1.0"),))
    (tmp_path / "tree" / "tests").symlink_to(Path(__file__).parents[1])
    with closing(stocked(World.create(tmp_path / "tree"), shift_model(1.0))) as world:
        scripted_kms.write(world.state, "held")
        booted(world)
        answers(world)
        first, second = stamps(world)
        assert first < second
        scripted_kms.go(world.state)


def offsets(relay: Relay) -> list[int]:
    """Where the ranges of the sealed weights' body began, in the order asked for."""
    return [wanted.offset for wanted in relay.asked if wanted is not None and wanted.length > FRAME_BYTES]


def test_a_feed_that_stalls_is_waited_for(world: World) -> None:
    """It stands still in the middle of the weights and goes on: the boot serves, and nothing was asked for twice."""
    stall = Fault(after=CHUNK_MAX + CHUNK_MAX // 2, ends=False)
    relay = Relay(
        path=world.run / f"parent_{ports.FEED}", judge=lambda wanted: stall if wanted is not None and wanted.length > FRAME_BYTES else None
    )
    with relay.standing():
        enclave = world.start_enclave()
        assert relay.stalled.wait(faults.SECONDS)
        assert "UNWRAPPED" == faults.stage(world)
        assert enclave.process.poll() is None
        time.sleep(STALL_SECONDS)
        relay.go.set()
        answers(world)
    assert 1 == len(offsets(relay))
    assert 1 == relay.asked.count(None)
    assert world.boot_failure() is None


def test_a_feed_that_is_cut_is_asked_again(world: World) -> None:
    """Cut in the manifest, in a header, and twice in the weights: what came whole is kept, what did not is begun anew."""
    cuts: dict[str, list[Fault]] = {
        "manifest": [Fault(after=10, ends=True)],
        "header": [Fault(after=HEADER_BYTES, ends=True)],
        "body": [Fault(after=CHUNK_MAX + CHUNK_MAX // 2, ends=True), Fault(after=100, ends=True)],
    }

    def judge(wanted: GetRange | None) -> Fault | None:
        left = cuts["manifest" if wanted is None else "body" if wanted.length > FRAME_BYTES else "header"]
        return left.pop(0) if left else None

    relay = Relay(path=world.run / f"parent_{ports.FEED}", judge=judge)
    with relay.standing():
        world.start_enclave()
        answers(world)
    first, resumed, anew = offsets(relay)
    assert (first + CHUNK_MAX, first) == (resumed, anew)
    assert 2 == relay.asked.count(None)
    assert {"manifest": [], "header": [], "body": []} == cuts
    assert world.boot_failure() is None
