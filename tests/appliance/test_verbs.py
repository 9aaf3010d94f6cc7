"""Every verb of `cloister` through `python -P -m simulator cloister`, in a world, and those that judge evidence under another root too."""

import argparse
from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import http.client
import io
import json
import os
from pathlib import Path
import secrets
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from attestation import eif, reference_values
from cloister.command import main as command
from cloister.identity import write_key
from owner import keys
from simulator import __main__ as simulator
from simulator import hypervisor
from simulator.hostile.small import shift_model
from simulator.kms import accounts, tls
from simulator.owner import ADMIN, PARENT, SEALER, session_arn
from simulator.sidecar import CONFIG
from simulator.world import World

ROOT = Path(__file__).parents[2]
HEADING = "SIMULATED: judged under the root of simulated, not under AWS's"
CALLER = "--reference-values values.json --credential credential --key caller.pem"
POLICY = f"--reference-values values.json --epoch 1 --admin {ADMIN} --sealer {SEALER} --parent {PARENT}"
PASSPHRASE = b"several random words"
SECRET = "--passphrase-file passphrase"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A verb, its arguments, its exit status under the world's root and, where it judges evidence, under another; where it
    writes a document, that document's file."""

    verb: str
    arguments: str
    exit: int = 0
    elsewhere: int | None = None
    out: str | None = None


# In an order in which each finds what it needs. ENDPOINT, KEY, NONCE and OWNER are the world's.
ROWS = (
    Row(verb="attestation fetch", arguments="ENDPOINT --reference-values values.json --out evidence.bin", elsewhere=1),
    Row(verb="attestation inspect", arguments="evidence.bin"),
    Row(verb="attestation verify", arguments="evidence.bin", elsewhere=1),
    Row(verb="attestation appraise", arguments="evidence.bin --reference-values values.json --nonce NONCE", elsewhere=1),
    Row(verb="attestation explain", arguments="evidence.bin --reference-values values.json --nonce NONCE --html report.html", elsewhere=1),
    Row(verb="attestation pack", arguments="pack.zip --evidence evidence.bin --reference-values values.json --nonce NONCE", elsewhere=1),
    Row(verb="attestation pack", arguments="pack.zip --check", elsewhere=1),
    Row(verb="model metadata", arguments=f"ENDPOINT shift {CALLER}", elsewhere=1),
    Row(verb="infer", arguments=f"ENDPOINT shift x.npy {CALLER}", elsewhere=1),
    Row(verb="sidecar", arguments="--config sidecar.toml", elsewhere=0),
    Row(verb="caller-key new", arguments="second.pem"),
    Row(verb="caller-key show", arguments="second.pem"),
    Row(verb="credential new-issuer", arguments=f"issuer.pem {SECRET}"),
    Row(
        verb="credential issue",
        arguments=f"issued --issuer-key issuer.pem {SECRET} --issuer i --subject s --caller-key second.pub --deployment demo --model shift",
    ),
    Row(verb="credential show", arguments="issued --issuer-key issuer.pub"),
    Row(verb="owner-key new", arguments=f"owner.pem {SECRET}"),
    Row(verb="owner-key show", arguments="owner.pub"),
    Row(verb="owner-key public", arguments=f"owner.pem {SECRET}", out="public.pem"),
    Row(verb="image build", arguments="--rootfs root --kernel kernel --init init --out built.eif"),
    Row(verb="image measure", arguments="built.eif"),
    Row(verb="image diff", arguments="built.eif enclave.eif", exit=1),
    Row(verb="reference-values new", arguments="mine.json --image built.json --owner-key owner.pub --min-sequence 1"),
    Row(verb="reference-values sign", arguments=f"mine.json --key owner.pem {SECRET} --sequence 2"),
    Row(verb="reference-values withdraw", arguments=f"withdrawn.cose --key owner.pem {SECRET} --image built.json"),
    Row(verb="reference-values update", arguments="mine.json --withdrawn withdrawn.cose"),
    Row(verb="reference-values show", arguments="mine.json"),
    Row(verb="key-policy generate", arguments=POLICY, out="policy.json"),
    Row(verb="key-policy lint", arguments="policy.json --reference-values values.json --epoch 1"),
    Row(verb="key-policy simulate", arguments="policy.json --reference-values values.json --epoch 1"),
    Row(verb="key-policy diff", arguments="policy.json policy.json"),
    Row(verb="key-policy explain", arguments="policy.json"),
    Row(verb="key-policy rollout", arguments=f"{POLICY} --new mine.json --write rollout"),
    Row(verb="model seal", arguments="model.onnx --id m --version 1 --key-arn KEY --owner-key OWNER --out sealed"),
    Row(verb="model inspect", arguments="model.onnx"),
    Row(verb="model verify", arguments="sealed/m-1.json"),
    Row(verb="manifest new", arguments="draft.json --deployment demo --key-arn KEY --issuer issuer.pub"),
    Row(verb="manifest add", arguments="draft.json sealed/m-1.json"),
    Row(verb="manifest sign", arguments=f"draft.json --key theirs.pem {SECRET} --out manifest.cose"),
    Row(verb="manifest verify", arguments="manifest.cose --owner-key OWNER --artifacts sealed"),
    Row(verb="manifest show", arguments="manifest.cose"),
    Row(verb="manifest diff", arguments="manifest.cose deployed.cose", exit=1),
)


@dataclass(frozen=True)
class Done:
    """What came of a row."""

    exit: int
    out: str
    err: str


class Desk:
    """A folder with a caller's and an owner's files, in which rows run one after the other."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.words = {"ENDPOINT": world.endpoint, "KEY": world.owner.key_arn, "NONCE": "", "OWNER": world.owner.public.hex()}
        self._furnish(world)

    def _furnish(self, world: World) -> None:
        identity, values = world.owner.identity("typist"), world.owner.reference_values([world.measured()])
        write_key(self.folder / "caller.pem", identity.key)
        archive = world.archive()
        files = {
            "credential": identity.credential,
            "values.json": reference_values.render(values),
            "sidecar.toml": CONFIG.format(endpoint=json.dumps(world.endpoint)).replace("reference-values.json", "values.json").encode(),
            "token": secrets.token_urlsafe(24).encode(),
            "passphrase": PASSPHRASE + b"\n",
            "model.onnx": shift_model(1.0),
            "kernel": b"kernel",
            "init": b"init",
            "enclave.eif": eif.compose(kernel=hypervisor.KERNEL, cmdline=hypervisor.COMMAND_LINE, ramdisks=(hypervisor.BOOTSTRAP, archive)),
            "deployed.cose": (world.feed / "manifest.cose").read_bytes(),
        }
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        for name in ("passphrase", "token"):
            (self.folder / name).chmod(0o600)
        keys.write_private(self.folder / "theirs.pem", world.owner.key, PASSPHRASE)  # the key's policy names this owner
        (self.folder / "root").mkdir()
        (self.folder / "root" / "python3").write_bytes(b"#!")
        np.save(self.folder / "x.npy", np.zeros((1, 4), np.float32))
        for name, digest in (("here", world.roots[0].sha256), ("elsewhere", bytes(32))):
            (self.folder / name).mkdir()
            (self.folder / name / "root").write_text(digest.hex())

    def run(self, row: Row) -> Done:
        """Type the row; what it writes as a document goes into that document's file."""
        words = [self.words.get(word, word) for word in shlex.split(f"{row.verb} {row.arguments}")]
        if row.verb == "sidecar":
            return self._sidecar(words)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = simulator.main(["cloister", *words])
        if row.out is not None:
            (self.folder / row.out).write_text(out.getvalue())
        return Done(code, out.getvalue(), err.getvalue())

    def _sidecar(self, words: list[str]) -> Done:
        """Until it is told to end; standard error gets whether it was ready, which takes evidence that it accepts."""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "simulator", "cloister", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("SIDECAR_GRPC="):
                    break
            door = next(line.partition("=http://")[2].strip() for line in lines if line.startswith("SIDECAR_HTTP="))
            token = (self.folder / "token").read_text()
            with contextlib.closing(http.client.HTTPConnection(door, timeout=30)) as connection:
                connection.request("GET", "/v2/health/ready", headers={"Authorization": f"Bearer {token}"})
                ready = connection.getresponse().status
            process.send_signal(signal.SIGTERM)
            return Done(process.wait(30), "".join(lines), f"ready: {ready}")


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[Row, str], Done]]:
    """What came of every row, under the world's root and, for those that judge evidence, under another."""
    desk = Desk(tmp_path_factory.mktemp("verbs"), world)
    access = accounts.issue(world.state, session_arn(SEALER))
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(desk.folder):
        patch.setenv("AWS_ACCESS_KEY_ID", access.access_key_id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_access_key)
        patch.setenv("AWS_SESSION_TOKEN", access.session_token or "")
        patch.setenv("AWS_ENDPOINT_URL_KMS", f"https://127.0.0.1:{world.kms_port}")
        patch.setenv("AWS_CA_BUNDLE", str(world.state / tls.CA))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        found = {}
        for place in ("here", "elsewhere"):
            patch.setenv("CLOISTER_WORLD", str(desk.folder / place))
            for row in ROWS:
                if place == "here" or row.elsewhere is not None:
                    found[row, place] = one = desk.run(row)
                if row.verb == "attestation fetch" and place == "here":
                    desk.words["NONCE"] = one.err.rpartition("asked with nonce ")[2].strip()
                if row.verb == "image build" and place == "here":
                    measured = desk.run(Row(verb="--json image measure", arguments="built.eif", out="built.json"))
                    assert HEADING == json.loads(measured.out)["heading"]
        yield found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.verb} {row.arguments}"[:40])
def test_the_verb_works_under_the_worlds_root(done: dict[tuple[Row, str], Done], row: Row) -> None:
    """Its exit status is the row's; its answer is headed SIMULATED, on standard error where standard output is a document."""
    one = done[row, "here"]
    assert row.exit == one.exit, one.out + one.err
    headed, bare = (one.err, one.out) if row.out else (one.out, one.err)
    assert HEADING == headed.splitlines()[0]
    assert "SIMULATED" not in bare
    if row.verb == "sidecar":
        assert "ready: 200" == one.err


@pytest.mark.parametrize("row", [row for row in ROWS if row.elsewhere is not None], ids=lambda row: f"{row.verb} {row.arguments}"[:40])
def test_evidence_is_judged_under_the_root_of_the_world_that_is_up(done: dict[tuple[Row, str], Done], row: Row) -> None:
    """What judges evidence refuses this world's where another world's root is in place; a sidecar runs and is not ready."""
    one = done[row, "elsewhere"]
    assert row.elsewhere == one.exit, one.out + one.err
    assert "ready: 502" == one.err if row.verb == "sidecar" else "SIMULATED" in one.out + one.err


def leaves(parser: argparse.ArgumentParser, *words: str) -> Iterator[str]:
    """Every verb below a parser, a noun without verbs being one."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield " ".join(words)
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, *words, name)


def test_every_verb_has_a_row() -> None:
    """The table has a row for each verb that the command knows, and for nothing else."""
    known = {verb for noun in command.nouns() for verb in leaves(command._parser(noun)) if verb.split()[0] == noun}
    assert len(known) > 30
    assert known == {row.verb for row in ROWS}
