"""Lies about the model: another model and data key in place of the owner's."""

import asyncio
from contextlib import closing
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from cloister.api import connect
from owner import onnx_file, seal
from simulator.hostile.forging_kms import FORGED
from simulator.hostile.small import INPUT, MODEL, OUTPUT, canary, prepared, shift_model
from simulator.hostile.twins import Outcome
from simulator.world import World, WorldError
from wire import artifact

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
