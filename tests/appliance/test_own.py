"""docs/own.md walked through `python -P -m simulator cloister`: every command of it, from no key to an appliance that answers."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from attestation import eif
from simulator import hypervisor
from simulator.hostile.small import shift_model
from simulator.kms import accounts, tls
import simulator.owner
from simulator.owner import REGION, session_arn
from simulator.world import World

ROOT = Path(__file__).parents[2]
WALK = (ROOT / "docs" / "own.md").read_text(encoding="utf-8").partition("## What the policy locks")[0]
ROLES = {"key-admin": "arn:aws:iam::111122223333:role/KeyAdmin", "sealer": "arn:aws:iam::111122223333:role/Sealer"}
PARENT = "arn:aws:iam::444455556666:role/Parent"
MAY_CREATE = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"}]})

# The two foreign commands of the walk, as far as it uses them: for machines that have neither.
AWS = """
import json, sys
from pathlib import Path
import boto3, jmespath
service, operation, *words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2], strict=True))
members = {"KeyId": given["--key-id"]} if "--key-id" in given else {"Policy": Path(given["--policy"].removeprefix("file://")).read_text()}
answer = getattr(boto3.client(service), operation.replace("-", "_"))(**members)
answer.pop("ResponseMetadata")
found = jmespath.search(given.get("--query", "@"), answer)
print(found if given.get("--output") == "text" else json.dumps(found, default=str))
"""
JQ = """
import json, sys
from pathlib import Path
flag, program, *files = sys.argv[1:]
assert (flag, program) == ("-s", "add")
print(json.dumps({name: value for file in files for name, value in json.loads(Path(file).read_text()).items()}))
"""


@dataclass(frozen=True)
class Owner:
    """A folder with what an owner begins with, its environment, and the world whose key it makes."""

    folder: Path
    world: World
    environment: dict[str, str]

    def sh(self, script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", "-eux", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def environment(folder: Path, world: World) -> dict[str, str]:
    """The walk's commands on the PATH, the two roles as profiles, and the simulated KMS in AWS's place."""
    programs, up = folder / "bin", folder / "up"
    programs.mkdir()
    up.mkdir()
    (up / "root").write_text(world.roots[0].sha256.hex())
    for name, text in (("aws", AWS), ("jq", JQ)):
        (programs / f"{name}.py").write_text(text)
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$0.py" "$@"\n')
    (programs / "cloister").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m simulator cloister "$@"\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    profiles = ""
    for name, role in ROLES.items():
        access = accounts.issue(world.state, session_arn(role), identity=(MAY_CREATE,) if name == "key-admin" else ())
        keys = f"aws_access_key_id={access.access_key_id}\naws_secret_access_key={access.secret_access_key}"
        profiles += f"[{name}]\n{keys}\naws_session_token={access.session_token}\n"
    (folder / "profiles").write_text(profiles)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "CLOISTER_WORLD": str(up),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "profiles"),
        "AWS_ENDPOINT_URL_KMS": f"https://127.0.0.1:{world.kms_port}",
        "AWS_CA_BUNDLE": str(world.state / tls.CA),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with closing(World.create()) as world:
        world.start_kms()
        image = eif.compose(kernel=hypervisor.KERNEL, cmdline=hypervisor.COMMAND_LINE, ramdisks=(hypervisor.BOOTSTRAP, world.archive()))
        (tmp_path / "enclave.eif").write_bytes(image)
        (tmp_path / "credit.onnx").write_bytes(shift_model(1.0))
        (tmp_path / "feed").symlink_to(world.feed)
        yield Owner(tmp_path, world, environment(tmp_path, world))


def test_the_walk_ends_in_an_answer(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the walk succeeds in order as it stands, each file that it writes is that document alone, and what comes
    of it boots, is believed and answers; only the KMS's certificates are not Amazon's."""
    script = "".join(textwrap.dedent(block) for block in re.findall(r"^ +```sh\n(.*?)^ +```$", WALK, re.DOTALL | re.MULTILINE))
    assert 17 == len(re.findall(r"^cloister ", script, re.MULTILINE)) and 4 == script.count("aws kms ")
    ours = f"--issuer issuer.pub --ca-bundle {owner.world.state / tls.CA}\n"
    assert 1 == script.count("--issuer issuer.pub\n")
    done = owner.sh(script.replace("--issuer issuer.pub\n", ours))
    assert 0 == done.returncode, done.stderr
    # `set -x` shows each command where it began: the heading of the document follows on standard error.
    assert re.search(r"^\+ cloister key-policy generate [^\n]*\nSIMULATED: ", done.stderr, re.MULTILINE)
    assert {"Version", "Statement"} <= json.loads((owner.folder / "policy.json").read_text()).keys()
    assert "simulated" == json.loads((owner.folder / "values.json").read_text())["partition"]

    monkeypatch.setattr(simulator.owner, "PARENT", PARENT)
    owner.world.new_run()
    owner.world.start_parent()
    owner.world.start_enclave()
    owner.world.wait_serving()
    np.save(owner.folder / "x.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    at, caller = owner.world.endpoint, "--reference-values values.json --credential credential --key caller.pem"
    asked = owner.sh(
        f"cloister attestation fetch {at} --reference-values values.json; cloister infer {at} credit x.npy {caller} --out y.npy"
    )
    assert 0 == asked.returncode, asked.stderr
    assert (np.arange(8).reshape(2, 4) + 1).tolist() == np.load(owner.folder / "y.npy").tolist()
