"""The artifact format against its own makers: aws-encryption-sdk and aws-encryption-cli, both ways, with a simulated KMS.

Run by `make lane-oracles`, which says in ORACLES where their environments are. The transcript of the command line tool
goes to ORACLES/aws-encryption-cli.txt.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
import io
import json
import os
from pathlib import Path
import subprocess
from typing import Any

import boto3
from botocore.exceptions import ClientError
import pytest

from enclave import artifact as reader
from owner.seal import seal_part, sealing
from simulator.kms.keys import new_key
from tests.artifact import make
from tests.enclave_kms import world as kms_world
from tests.enclave_kms.world import OWNER_ACCOUNT, OWNER_KEY, REGION, World
from wire import artifact
from wire.manifest import Part, encryption_context

ORACLES = Path(os.environ["ORACLES"]).resolve()
CALL = Path(__file__).with_name("esdk_call.py")
CONTEXT = encryption_context(OWNER_KEY, "m", 1)
LENGTHS = (1, 4095, 4096, 4097, 3 * artifact.FRAME_BYTES, 3 * artifact.FRAME_BYTES + 1)
OPEN_POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{OWNER_ACCOUNT}:role/sealer"},
                                             "Action": "kms:*", "Resource": "*"}]}
)  # fmt: skip


def content(length: int) -> bytes:
    """A plaintext that differs from frame to frame."""
    return (b"%07d " * (length // 8 + 1) % tuple(range(length // 8 + 1)))[:length]


class Lane:
    """A key that releases data keys to the sealer without any attestation, for these oracles alone."""

    def __init__(self, world: World, folder: Path) -> None:
        key = new_key(account=OWNER_ACCOUNT, region=REGION, policy=OPEN_POLICY, description="", now=datetime.now(UTC))
        world.server.kms.keys.put(key)
        access = kms_world.issued(world.state, kms_world.SEALER)
        self.arn, self.folder = key.arn, folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": access.access_key_id,
            "AWS_SECRET_ACCESS_KEY": access.secret_access_key,
            "AWS_SESSION_TOKEN": access.session_token,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_KMS": f"https://127.0.0.1:{world.server.port}",
            "AWS_CA_BUNDLE": str(world.state / kms_world.CA),
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONWARNINGS": "ignore",
        }
        self.kms: Any = boto3.session.Session(access.access_key_id, access.secret_access_key, access.session_token).client(
            "kms", region_name=REGION, endpoint_url=self.environment["AWS_ENDPOINT_URL_KMS"], verify=str(world.state / kms_world.CA)
        )

    def seal(self, plaintext: bytes) -> bytes:
        """Ours, written."""
        out = io.BytesIO()
        whom = sealing(self.kms, key_arn=self.arn, owner_key=OWNER_KEY, model="m", epoch=1)
        seal_part("graph", (plaintext,), len(plaintext), whom, out)
        return out.getvalue()

    def open(self, data: bytes) -> bytes:
        """Ours, read as the enclave reads, with the data key from KMS."""
        part: Part = make.part(data)

        def fetch(offset: int, length: int) -> Iterator[bytes]:
            return make.slices(data[offset : offset + length], 1 << 20)

        head = reader.read_header(fetch, part, key_arn=self.arn, context=CONTEXT)
        answer = self.kms.decrypt(KeyId=self.arn, CiphertextBlob=head.data_keys[0].ciphertext, EncryptionContext=dict(head.context))
        sink = bytearray(part.length)
        reader.open_part(fetch, part, answer["Plaintext"], reader.MemorySink(sink), header=head)
        return bytes(sink)

    def sdk(self, verb: str, data: bytes, frame: int = artifact.FRAME_BYTES) -> bytes:
        """aws-encryption-sdk."""
        command = [str(ORACLES / "esdk" / "bin" / "python"), "-I", str(CALL), verb, self.arn, json.dumps(CONTEXT), str(frame)]
        return subprocess.run(command, input=data, env=self.environment, capture_output=True, check=True, timeout=120).stdout

    def cli(self, verb: str, data: bytes, *more: str) -> bytes:
        """aws-encryption-cli, with its transcript kept."""
        (self.folder / "input").write_bytes(data)
        pairs = [f"{name}={value}" for name, value in CONTEXT.items()]
        arguments = [f"--{verb}", "--input", "input", "--output", "output", "--wrapping-keys", f"key={self.arn}", "--commitment-policy",
                     "require-encrypt-require-decrypt", "--encryption-context", *pairs, "--metadata-output", "-", *more]  # fmt: skip
        command = [str(ORACLES / "esdk-cli" / "bin" / "aws-encryption-cli"), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, check=False, timeout=120)
        with (ORACLES / "aws-encryption-cli.txt").open("a", encoding="utf-8") as file:
            file.write(
                f"$ aws-encryption-cli {' '.join(arguments)}\n{done.stdout.decode()}{done.stderr.decode()}exit {done.returncode}\n\n"
            )
        assert done.returncode == 0
        output = self.folder / "output"
        made = output.read_bytes()
        output.unlink()
        return made


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A running simulated KMS; an empty transcript."""
    (ORACLES / "aws-encryption-cli.txt").write_text("", encoding="utf-8")
    world = kms_world.start(tmp_path_factory.mktemp("world"))
    yield Lane(world, tmp_path_factory.mktemp("lane"))
    world.server.stop()


@pytest.mark.parametrize("length", LENGTHS)
def test_the_sdk_reads_ours(lane: Lane, length: int) -> None:
    """aws-encryption-sdk decrypts what the owner's tool seals, and finds the encryption context."""
    assert content(length) == lane.sdk("decrypt", lane.seal(content(length)))


@pytest.mark.parametrize("frame", [artifact.FRAME_BYTES, 4096])
@pytest.mark.parametrize("length", LENGTHS)
def test_we_read_the_sdks(lane: Lane, length: int, frame: int) -> None:
    """The enclave's reader opens what aws-encryption-sdk encrypts, whatever its frames."""
    assert content(length) == lane.open(lane.sdk("encrypt", content(length), frame))


@pytest.mark.parametrize("length", (1, 2 * artifact.FRAME_BYTES + 7))
def test_the_command_line_tool_reads_ours(lane: Lane, length: int) -> None:
    """aws-encryption-cli decrypts what the owner's tool seals, with the context that it was told to require."""
    assert content(length) == lane.cli("decrypt", lane.seal(content(length)))


@pytest.mark.parametrize("frame", (artifact.FRAME_BYTES, 4096))
def test_we_read_the_command_line_tools(lane: Lane, frame: int) -> None:
    """The enclave's reader opens what aws-encryption-cli encrypts."""
    made = lane.cli("encrypt", content(100_000), "--frame-length", str(frame), "--algorithm", "AES_256_GCM_HKDF_SHA512_COMMIT_KEY")
    assert content(100_000) == lane.open(made)


def test_the_oracles_refuse_what_we_refuse(lane: Lane) -> None:
    """A changed header, frame or end is refused by aws-encryption-sdk as by the enclave's reader."""
    sealed = lane.seal(content(3 * artifact.FRAME_BYTES))
    head = len(artifact.parse_header(sealed).raw)
    for at in (40, head - 1, head + 20, len(sealed) - 1):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(subprocess.CalledProcessError):
            lane.sdk("decrypt", changed)
        with pytest.raises((reader.ArtifactError, artifact.WireError, ClientError)):
            lane.open(changed)
