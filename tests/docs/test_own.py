"""docs/own.md: its commands run in order, its tables are the code's."""

from collections.abc import Iterator
from datetime import UTC, datetime
import json
from pathlib import Path
import re
import shlex

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import pytest

from cloister.command.main import main
from owner import keys
from owner.errors import Refusal
from simulator.kms.keys import new_key
from tests.artifact import graphs
from tests.enclave_kms import world as kms_world
from tests.enclave_kms.world import OWNER_ACCOUNT, REGION, SEALER, World
from wire.manifest import encryption_context
from wire.onnx_profile import DATATYPES, DOMAINS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "own.md").read_text(encoding="utf-8")
PRIVATE = ("owner-key new", "manifest sign")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A simulated KMS with a key that the sealer's role may encrypt under."""
    made = kms_world.start(tmp_path / "world")
    statement = {"Effect": "Allow", "Principal": {"AWS": SEALER}, "Action": "kms:Encrypt", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    key = new_key(account=OWNER_ACCOUNT, region=REGION, policy=policy, description="", now=datetime.now(UTC))
    made.server.kms.keys.put(key)
    made.key_arn = key.arn
    yield made
    made.server.stop()


def commands() -> list[str]:
    """The lines of the document's shell blocks."""
    return [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def test_the_commands_run_in_order(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a model file and an issuer's key every command of the document succeeds; the diff finds differences."""
    access = kms_world.issued(world.state, SEALER)
    for name, value in {
        "AWS_ACCESS_KEY_ID": access.access_key_id,
        "AWS_SECRET_ACCESS_KEY": access.secret_access_key,
        "AWS_SESSION_TOKEN": access.session_token,
        "AWS_ENDPOINT_URL_KMS": f"https://127.0.0.1:{world.server.port}",
        "AWS_CA_BUNDLE": str(world.state / kms_world.CA),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(graphs.model().SerializeToString())
    Path("issuer.pub").write_bytes(keys.public_pem(Ed25519PrivateKey.generate().public_key()))
    Path("pass").write_text("several random words\n")
    Path("pass").chmod(0o600)
    for line in commands():
        words = shlex.split(line.replace("$KEY_ARN", world.key_arn))
        assert words[0] == "cloister"
        more = ["--passphrase-file", "pass"] if any(verb in line for verb in PRIVATE) else []
        assert int("manifest diff" in line) == main([*words[1:], *more]), line


def test_the_refusals_are_the_codes() -> None:
    """Every row of the table of refusals is one, the domains and datatypes are the profile's."""
    rows = set(re.findall(r"^\| `([a-z-]+)` \| (?!`|SHA|the)", TEXT, re.MULTILINE))
    assert rows <= {refusal.value for refusal in Refusal}
    assert rows == {"pickle", "custom-operator", "outside-data", "not-a-tensor", "unknown-rank", "datatype", "training"}
    for domain in DOMAINS - {""}:
        assert f"`{domain}`" in TEXT
    for name in set(DATATYPES.values()) - {"INT16", "INT32", "UINT16", "UINT32"}:
        assert name in TEXT


def test_the_encryption_context_is_the_codes() -> None:
    """The document names exactly the entries of the encryption context."""
    assert set(encryption_context(bytes(32), "m", 1)) == set(re.findall(r"^\| `(cloister-\w+)` \|", TEXT, re.MULTILINE))
