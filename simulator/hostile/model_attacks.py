"""Lies about the model: another model and data key in place of the owner's, and one that an owner's tools should have refused."""

import asyncio
from contextlib import closing
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from cloister.api import connect
from owner import onnx_file, seal
from owner.weights import Split
from simulator.hostile.forging_kms import FORGED
from simulator.hostile.manifest_attacks import try_boot
from simulator.hostile.small import INPUT, MODEL, OUTPUT, VERSION, WIDTH, canary, prepared, shift_model
from simulator.hostile.twins import Outcome
from simulator.owner import SEALER
from simulator.world import World, WorldError
from wire import artifact
from wire.manifest import Intake, Model

OURS, THEIRS = 1.0, 1000.0


class _Wrapping:
    """Stands in for kms:Encrypt: keeps the data key, since the KMS that will be asked to open it is the adversary's too.

    Its blobs have the length of genuine ones: another length would give the artifact away before its header does.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self.data_key = b""

    def encrypt(self, *, KeyId: str, Plaintext: bytes, EncryptionContext: Any) -> dict[str, object]:  # noqa: N803 - boto3's names
        self.data_key = Plaintext
        return {"KeyId": KeyId, "CiphertextBlob": os.urandom(self._length)}


class _Kept(io.BytesIO):
    content = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()


def _forge(world: World) -> None:
    """Put a model of the adversary's under the digest of the owner's, and its data key where the forging KMS looks."""
    owner, out = world.owner, _Kept()
    genuine = world.feed / owner.models[0].parts[0].artifact_sha256.hex()
    kms = _Wrapping(len(artifact.parse_header(genuine.read_bytes()).data_keys[0].ciphertext))
    sealing = seal.sealing(kms, key_arn=owner.key_arn, owner_key=owner.public, model=MODEL, epoch=owner.epoch)
    seal.seal_model(onnx_file.judge(shift_model(THEIRS), Path("/nonexistent")), sealing, lambda _: out)
    genuine.write_bytes(out.content)
    (world.state / FORGED).write_bytes(kms.data_key)


async def swapped_model_and_key(world: World | None = None) -> Outcome:
    """The parent swaps the artifact, a forged KMS answer brings the data key that fits it."""
    with closing(world or prepared(World.create(), by=OURS, kms_module="simulator.hostile.forging_kms")) as stage:
        _forge(stage)
        stage.new_run()
        stage.start_parent()
        stage.start_enclave()
        try:
            await asyncio.to_thread(stage.wait_serving)
        except WorldError:
            return Outcome(succeeded=False, refused_by=f"enclave: {stage.wait_stopped()}")
        data = canary()
        values = stage.owner.reference_values([stage.measured()])
        async with await connect(stage.endpoint, values, identity=stage.owner.identity(), roots=stage.roots) as client:
            answer = await client.infer(MODEL, {INPUT: data})
        return Outcome(succeeded=bool(np.allclose(answer.outputs[OUTPUT], data + np.float32(THEIRS))), refused_by=None)


def _seal_unchecked(world: World, onnx: bytes, intake: Intake) -> None:
    """Seal and publish the bytes as the owner's model with nobody looking at them, under the `shift` model's signature."""
    owner, out, signature = world.owner, _Kept(), onnx_file.judge(shift_model(OURS), Path("/nonexistent"))
    with closing(owner.client(SEALER)) as kms:
        sealing = seal.sealing(kms, key_arn=owner.key_arn, owner_key=owner.public, model=MODEL, epoch=owner.epoch)
        parts = seal.seal_split(Split(graph=onnx, weights=(), length=0), sealing, lambda _: out)
    (world.feed / parts[0].artifact_sha256.hex()).write_bytes(out.content)
    owner.models = (Model(id=MODEL, version=VERSION, parts=parts, inputs=signature.inputs, outputs=signature.outputs, intake=intake),)
    owner.publish(owner.manifest())


async def _unchecked(onnx: bytes, intake: Intake | None = None, *, loads: bool = True) -> Outcome:
    """Boot on an unchecked model; success is that ONNX Runtime gets it, and loads it unless it finds the same fault itself."""
    with closing(prepared(World.create())) as world:
        _seal_unchecked(world, onnx, intake or Intake())
        refused = await try_boot(world)
        given = refused == (None if loads else "enclave: MODEL_LOAD")
        return Outcome(succeeded=given, refused_by=None if given else refused)


def _with_nodes(*nodes: NodeProto) -> ModelProto:
    """The `shift` model with these nodes in front of its own."""
    proto = ModelProto.FromString(shift_model(OURS))
    own = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *own])
    return proto


async def unchecked_operator() -> Outcome:
    """A model with an operator of a library that the enclave has not."""
    proto = _with_nodes(helper.make_node("Mine", [INPUT], ["mine"], domain="com.example"))
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    return await _unchecked(proto.SerializeToString(), loads=False)


async def unchecked_nodes() -> Outcome:
    """A model with more nodes than its manifest allows."""
    proto = _with_nodes(*(helper.make_node("Identity", [INPUT], [f"i{at}"]) for at in range(8)))
    return await _unchecked(proto.SerializeToString(), Intake(max_nodes=8))


async def unchecked_elements() -> Outcome:
    """A model with a function that, called often, unfolds to more elements than its manifest allows."""
    table = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.FLOAT, [WIDTH], [0.0] * WIDTH))
    nodes = [table, helper.make_node("Add", ["a", "c"], ["b"])]
    proto = _with_nodes(*(helper.make_node("wide", [INPUT], [f"w{at}"], domain="own") for at in range(8)))
    proto.functions.append(helper.make_function("own", "wide", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return await _unchecked(proto.SerializeToString(), Intake(max_elements=8 * WIDTH))


async def unchecked_file() -> Outcome:
    """A model whose weights are a file of the machine that loads it."""
    proto = ModelProto.FromString(shift_model(OURS))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/proc/self/environ"), ("length", str(4 * WIDTH))):
        tensor.external_data.add(key=key, value=value)
    return await _unchecked(proto.SerializeToString(), loads=False)


async def unchecked_bytes() -> Outcome:
    """A model of more bytes than its manifest allows."""
    onnx = shift_model(OURS)
    return await _unchecked(onnx, Intake(max_bytes=len(onnx) - 1))
