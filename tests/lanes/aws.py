"""The AWS CLI, unmodified, against the simulated KMS, and cfn-lint over every template. Run by `make lane-aws`.

The transcript of the AWS CLI goes to ORACLES/awscli.md, as a reader would type it.
"""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
import json
import os
from pathlib import Path
import subprocess
from typing import Any

import pytest

from enclave.cms import open_envelope
from owner.key_policy_template import cloudformation
from simulator.kms import Access, KmsServer, open_service, server_context
from simulator.pki import SimulatedPki
from tests.kms.world import CONTEXT, ENCLAVE_KEY, INPUTS, POLICY, REGION, Callers, Clock, FixedNsm, callers, pcrs, root_of, spki
from tests.vectors_path import ROOT

ORACLES = Path(os.environ["ORACLES"]).resolve()
DATA_KEY = b"the data key of a model, 32 long"


class Cli:
    """The AWS CLI in an environment of its own, as different callers; what is said and answered is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        SimulatedPki.open(folder, instance_id="i-0123456789abcdef0")
        self.server = KmsServer(open_service(folder, (root_of(folder),)), server_context(folder, ("localhost",))).start()
        self.people: Callers = callers(folder)
        self.transcript: list[str] = ["# The AWS CLI against the simulated KMS", ""]

    def run(self, access: Access, who: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One command in the folder; exit status and both outputs."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "AWS_ACCESS_KEY_ID": access.access_key_id,
            "AWS_SECRET_ACCESS_KEY": access.secret_access_key,
            "AWS_SESSION_TOKEN": access.session_token or "",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_KMS": f"https://localhost:{self.server.port}",
            "AWS_CA_BUNDLE": str(self.folder / "ca.pem"),
            "AWS_MAX_ATTEMPTS": "1",
        }
        command = [str(ORACLES / "awscli" / "bin" / "python"), str(ORACLES / "awscli" / "bin" / "aws"), "kms", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
        self.transcript += [
            f"    {who}$ aws kms {' '.join(arguments)}",
            *(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()),
            "",
        ]
        return done

    def answer(self, access: Access, who: str, *arguments: str) -> Any:
        """The JSON of a command that must succeed."""
        done = self.run(access, who, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def refusal(self, access: Access, who: str, *arguments: str) -> str:
        """The error code of a command that must be refused."""
        done = self.run(access, who, *arguments)
        assert done.returncode != 0
        return done.stderr.partition("(")[2].partition(")")[0]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A running service and the command line tool; the transcript is kept."""
    made = Cli(tmp_path_factory.mktemp("cli"))
    yield made
    made.server.stop()
    (ORACLES / "awscli.md").write_text("\n".join(made.transcript), encoding="utf-8")


def test_the_aws_cli_walks_the_owners_way(cli: Cli) -> None:
    """Create with the generated policy, look, seal, be refused without attestation, unwrap with it: by an unmodified AWS CLI."""
    people = cli.people
    (cli.folder / "policy.json").write_text(POLICY)
    (cli.folder / "data.key").write_bytes(DATA_KEY)
    key = cli.answer(people.admin, "admin", "create-key", "--policy", "file://policy.json")["KeyMetadata"]["Arn"]
    assert cli.answer(people.admin, "admin", "describe-key", "--key-id", key)["KeyMetadata"]["KeyState"] == "Enabled"
    assert cli.answer(people.admin, "admin", "get-key-policy", "--key-id", key)["Policy"] == POLICY
    assert cli.answer(people.admin, "admin", "list-grants", "--key-id", key)["Grants"] == []
    assert cli.refusal(people.admin, "admin", "encrypt", "--key-id", key, "--plaintext", "fileb://data.key") == "AccessDeniedException"
    context = ",".join(f"{name}={value}" for name, value in CONTEXT.items())
    sealed = cli.answer(
        people.sealer, "sealer", "encrypt", "--key-id", key, "--plaintext", "fileb://data.key", "--encryption-context", context
    )
    (cli.folder / "sealed").write_bytes(base64.b64decode(sealed["CiphertextBlob"]))
    decrypt = ("decrypt", "--key-id", key, "--ciphertext-blob", "fileb://sealed", "--encryption-context", context)
    assert cli.refusal(people.parent, "parent", *decrypt) == "AccessDeniedException"
    document = FixedNsm(pcrs(), SimulatedPki.open(cli.folder, instance_id="i-0123456789abcdef0"), Clock(now=datetime.now(UTC))).document(
        spki(ENCLAVE_KEY)
    )
    (cli.folder / "document").write_bytes(document)
    recipient = "KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256,AttestationDocument@=fileb://document"
    answer = cli.answer(people.parent, "parent", *decrypt, "--recipient", recipient)
    assert open_envelope(base64.b64decode(answer["CiphertextForRecipient"]), ENCLAVE_KEY) == DATA_KEY
    grant = ("create-grant", "--key-id", key, "--grantee-principal", people.parent.arn, "--operations", "Decrypt")
    assert cli.refusal(people.admin, "admin", *grant) == "AccessDeniedException"
    assert (
        cli.refusal(people.parent, "parent", "put-key-policy", "--key-id", key, "--policy", "file://policy.json") == "AccessDeniedException"
    )
    assert cli.answer(people.admin, "admin", "put-key-policy", "--key-id", key, "--policy", "file://policy.json") == {}


def test_cfn_lint_passes_every_template(tmp_path: Path) -> None:
    """The templates of deploy/aws and the generated key template have no finding, not even a warning."""
    (tmp_path / "key.template.json").write_text(cloudformation(INPUTS))
    templates = [*sorted((ROOT / "deploy" / "aws").glob("*.yaml")), tmp_path / "key.template.json"]
    command = [str(ORACLES / "cfn-lint" / "bin" / "python"), str(ORACLES / "cfn-lint" / "bin" / "cfn-lint"), *map(str, templates)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
    assert len(templates) == 3
