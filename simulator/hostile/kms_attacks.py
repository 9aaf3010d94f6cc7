"""Lies to KMS: evidence that was made for a caller, sent as if it were the enclave's own for its data key."""

from contextlib import closing
import json

from botocore.exceptions import ClientError

from simulator.hostile.impostor import evidence_of
from simulator.hostile.small import booted, prepared
from simulator.hostile.twins import Outcome
from simulator.owner import PARENT
from simulator.world import World
from wire import artifact, handshake
from wire.evidence import parse_evidence_body

_MAY_DECRYPT = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]})


async def caller_evidence() -> Outcome:
    """The parent asks for evidence as a caller and has the model's data key decrypted with it; success is a key that fits.

    Everything that a key policy can judge is right: the document is the owner's enclave's, the encryption context genuine.
    """
    with closing(booted(prepared(World.create()))) as world:
        evidence = await evidence_of(world.endpoint.removeprefix("unix:"), handshake.encode_challenge(bytes(32)))
        part = world.owner.models[0].parts[0]
        header = artifact.parse_header((world.feed / part.artifact_sha256.hex()).read_bytes())
        recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": parse_evidence_body(evidence).document}
        with closing(world.owner.client(PARENT, identity=(_MAY_DECRYPT,))) as kms:
            try:
                answer = kms.decrypt(
                    KeyId=world.owner.key_arn,
                    CiphertextBlob=header.data_keys[0].ciphertext,
                    EncryptionContext=dict(header.context),
                    Recipient=recipient,
                )
            except ClientError as error:
                said = error.response["Error"]
                return Outcome(succeeded=False, refused_by=f"KMS: {said['Code']}, {said['Message']}")
        artifact.unlock(header, answer["Plaintext"])
        return Outcome(succeeded=True, refused_by=None)
