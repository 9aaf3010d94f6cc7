"""Lies about sealed artifacts that are all genuine: another version, another model, mixed parts, a cut end, another data key."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cloister.api import connect
from simulator.hostile.forging_kms import FORGED
from simulator.hostile.manifest_attacks import try_boot, try_call
from simulator.hostile.small import INPUT, MODEL, OUTPUT, VERSION, WIDTH, canary, prepared, shift_model
from simulator.hostile.twins import Outcome
from simulator.owner import ModelSpec
from simulator.world import World
from wire.artifact import FRAME_BYTES
from wire.manifest import Model

OURS, THEIRS = 1.0, 1000.0
ROWS = 3 * FRAME_BYTES // (4 * WIDTH)  # of weights: three frames


def wide_model(by: float) -> bytes:
    """ONNX of y = x + the last of its rows, all of them `by`: weights of three frames, in a part of their own."""
    table = numpy_helper.from_array(np.full((ROWS, WIDTH), by, np.float32), "table")
    last = numpy_helper.from_array(np.array([ROWS - 1], np.int64), "last")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "last"], ["row"]), helper.make_node("Add", [INPUT, "row"], [OUTPUT])],
        "wide",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, WIDTH])],
        [table, last],
    )
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return content


def _hand_out(world: World, other: Model, instead_of: Model, part: int = 0) -> None:
    """Serve a part of one model under the digest of another's."""
    source = world.feed / other.parts[part].artifact_sha256.hex()
    (world.feed / instead_of.parts[part].artifact_sha256.hex()).write_bytes(source.read_bytes())


async def _answer(world: World) -> NDArray[np.float32]:
    """What the enclave adds to an input."""
    data = canary()
    values = world.owner.reference_values([world.measured()])
    async with await connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots) as client:
        answer = await client.infer(MODEL, {INPUT: data})
    return np.asarray(answer.outputs[OUTPUT] - data, np.float32)


async def _served(specs: Sequence[ModelSpec], lie: Callable[[World, Sequence[Model]], None], wanted: float | None = THEIRS) -> Outcome:
    """Seal the models, publish the first, tell the lie, boot: has the caller's answer become the adversary's?

    `wanted` is what the adversary's model adds; None: anything but what the owner's adds.
    """
    with closing(prepared(World.create())) as world:
        world.owner.seal(specs)
        models = world.owner.models
        world.owner.models = models[:1]
        world.owner.publish(world.owner.manifest())
        await asyncio.to_thread(lie, world, models)
        if refused := await try_boot(world):
            return Outcome(succeeded=False, refused_by=refused)
        added = await _answer(world)
        got = np.allclose(added, wanted, rtol=1e-3) if wanted is not None else not np.allclose(added, OURS, rtol=1e-3)
        return Outcome(succeeded=bool(got), refused_by=None)


def _pair(make: Callable[[float], bytes], other: str, version: str) -> tuple[ModelSpec, ModelSpec]:
    ours = ModelSpec(id=MODEL, version="2", onnx=make(OURS))
    return ours, ModelSpec(id=other, version=version, onnx=make(THEIRS))


async def older_version() -> Outcome:
    """The older version of the model, sealed by the owner for the same key, owner and epoch, in place of the current one."""
    return await _served(_pair(shift_model, MODEL, VERSION), lambda world, models: _hand_out(world, models[1], models[0]))


async def other_model() -> Outcome:
    """Another model of the owner's, sealed for the same key and epoch, in place of this one."""
    return await _served(_pair(shift_model, "other", "2"), lambda world, models: _hand_out(world, models[1], models[0]))


async def mixed_parts() -> Outcome:
    """The current graph with the weights of the older version."""
    return await _served(_pair(wide_model, MODEL, VERSION), lambda world, models: _hand_out(world, models[1], models[0], part=1))


def _cut(world: World, models: Sequence[Model]) -> None:
    """Zeros in place of everything behind the weights' second frame: the length stays."""
    part = models[0].parts[1]
    path = world.feed / part.artifact_sha256.hex()
    kept = path.read_bytes()[: part.artifact_length - FRAME_BYTES]
    path.write_bytes(kept + bytes(part.artifact_length - len(kept)))


async def truncated() -> Outcome:
    """The end of the weights is not delivered, zeros are."""
    return await _served((ModelSpec(id=MODEL, version="2", onnx=wide_model(OURS)),), _cut, wanted=None)


async def swapped_data_key() -> Outcome:
    """KMS, or whoever answers for it, releases another data key: are frames fetched under it before that is noticed?"""
    with closing(prepared(World.create(), kms_module="simulator.hostile.forging_kms")) as world:
        (world.state / FORGED).write_bytes(os.urandom(32))
        refused = await try_boot(world) or ""
        fetched = refused in ("", "enclave: ARTIFACT_DAMAGED")  # which only an opened frame can tell
        return Outcome(succeeded=fetched, refused_by=None if fetched else refused)


async def other_owner() -> Outcome:
    """The owner's image with a manifest, a KMS key and a model of the parent's own: genuine in all, but another owner's."""
    with closing(prepared(World.create())) as world:
        owner = world.owner
        values = owner.reference_values([world.measured()])
        owner.key = Ed25519PrivateKey.generate()
        owner.create_key([world.measured()])
        owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=shift_model(THEIRS))])
        owner.publish(owner.manifest())
        refused = await try_boot(world) or await try_call(world, values, owner.identity())
        return Outcome(succeeded=refused is None, refused_by=refused)
