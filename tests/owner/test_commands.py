"""`cloister model`, `manifest` and `owner-key`, from a model file to a signed manifest, against the simulated KMS."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shutil
import stat
import time
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
import pytest

from cloister.command.main import main
from owner import draft
from tests.artifact import graphs
from tests.enclave_kms import world as kms_world
from tests.enclave_kms.world import OWNER_KEY, SEALER, World
from wire import manifest

PASSPHRASE = "several random words"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A simulated KMS with one key."""
    made = kms_world.start(tmp_path_factory.mktemp("world"))
    yield made
    made.server.stop()


class Shell:
    """Runs the command with `--json` and keeps its answers."""

    def __init__(self, folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.world, self.capsys = folder, world, capsys
        (folder / "pass").write_text(PASSPHRASE + "\nignored\n")
        (folder / "pass").chmod(0o600)
        big = numpy_helper.from_array(np.random.default_rng(1).random((1024, 600)).astype("f4"), "w")
        model = graphs.model([helper.make_node("MatMul", ["x", "w"], ["y"])], initializers=[big], inputs=[graphs.value("x", ["n", 1024])])
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    def run(self, *arguments: object, exit_: int = 0) -> Any:
        """One command; its answer as JSON."""
        assert exit_ == main([*map(str, arguments), "--json"])
        return json.loads(self.capsys.readouterr().out)

    def text(self, *arguments: object, exit_: int = 0) -> str:
        """One command; what a person reads."""
        assert exit_ == main([*map(str, arguments)])
        shown = self.capsys.readouterr()
        return shown.out + shown.err

    def path(self, name: str) -> Path:
        """A file of this test."""
        return self.folder / name

    def seal(self, *more: object, id_: str = "m", version: str = "1", exit_: int = 0) -> Any:
        """Seal the model for the world's key and owner."""
        options = ("--key-arn", self.world.key_arn, "--owner-key", self.owner, "--out", self.path("sealed"))
        return self.run("model", "seal", self.path("model.onnx"), "--id", id_, "--version", version, *options, *more, exit_=exit_)

    owner = OWNER_KEY.hex()


@pytest.fixture
def shell(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A folder with a model, the sealer's credentials in the usual variables."""
    access = kms_world.issued(world.state, SEALER)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", access.session_token)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"https://127.0.0.1:{world.server.port}")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(world.state / kms_world.CA))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Shell(tmp_path, world, capsys)


def test_inspect_shows_the_signature(shell: Shell) -> None:
    """A model's signature, opset and size are shown without sealing anything."""
    told = shell.run("model", "inspect", shell.path("model.onnx"))
    assert (told["opset"], told["nodes"], told["parameters"], told["weights"]) == (20, 1, 614_400, 2_457_600)
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1024]}]
    assert "x  FP32[*, 1024]" in shell.text("model", "inspect", shell.path("model.onnx"))


def test_seal_and_verify(shell: Shell) -> None:
    """Sealing writes parts named by their digests and a description with which they are verified."""
    told = shell.seal("--card", "licence=Apache-2.0", "--workers", "2", "--isolation", "inline")
    files = {path.name for path in shell.path("sealed").iterdir()}
    assert files == {"m-1.json", *told["parts"].values()}
    described = json.loads(shell.path("sealed/m-1.json").read_text())
    assert (described["model"]["card"], described["model"]["runtime"]["workers"]) == ({"licence": "Apache-2.0"}, 2)
    assert shell.run("model", "verify", shell.path("sealed/m-1.json"))["accepted"]
    head = shell.run("model", "inspect", shell.path("sealed") / told["parts"]["weights"])
    assert head["context"]["cloister-model"] == "m"
    assert head["length"] == described["model"]["parts"][1]["length"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_artifacts_are_readable_as_the_umask_has_it(shell: Shell, umask: int, mode: int) -> None:
    """Sealed parts and their description are ciphertext and public: a parent that runs as another user reads them."""
    before = os.umask(umask)
    try:
        shell.seal()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in shell.path("sealed").iterdir()} == {mode}


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_verify_finds_what_changed(shell: Shell) -> None:
    """A flipped byte, a cut file, another part and a missing one are each found."""
    told = shell.seal()
    graph, weights = (shell.path("sealed") / told["parts"][name] for name in ("graph", "weights"))
    description = shell.path("sealed/m-1.json")
    good = weights.read_bytes()

    def faults() -> list[str | None]:
        return [row["fault"] for row in shell.run("model", "verify", description, exit_=1)["parts"]]

    _flip(weights, 100_000)
    assert faults() == [None, "another digest than pinned"]
    weights.write_bytes(good)
    _flip(weights, good.index(b"cloister-epoch") + 16)
    assert "header digest, encryption context" in str(faults()[1])
    weights.write_bytes(good[:-1])
    assert "digest, length" in str(faults()[1])
    shutil.copy(graph, weights)
    assert "key commitment" in str(faults()[1])
    weights.unlink()
    assert faults() == [None, "not there"]


def test_a_failed_sealing_leaves_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where KMS refuses, the command is rejected and no unfinished file stays."""
    parent = kms_world.issued(shell.world.state, kms_world.PARENT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", parent.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", parent.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", parent.session_token)
    assert "AccessDeniedException" in shell.seal(exit_=1)["error"]
    assert list(shell.path("sealed").iterdir()) == []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert "credentials" in shell.seal(exit_=3)["error"]


@pytest.mark.parametrize(
    ("options", "exit_"),
    [
        (("--card", "no equals sign"), 0),
        (("--card", "a=1", "--card", "a=2"), 2),
        (("--card", "=1"), 2),
        (("--epoch", "0"), 2),
        (("--answer-padding", "5"), 1),
        (("--workers", "65"), 1),
    ],
)
def test_seal_refuses_what_no_manifest_takes(shell: Shell, options: tuple[str, ...], exit_: int) -> None:
    """What the manifest would refuse later is refused before anything is left behind."""
    shell.seal(*options, exit_=exit_)
    assert exit_ == 0 or not [path for path in shell.path("").glob("sealed/*") if path.is_file()]


def test_seal_refuses_aliases_and_pickles(shell: Shell) -> None:
    """A key by alias is a usage error; a pickle is rejected with what to do."""
    shell.run("model", "seal", shell.path("model.onnx"), "--id", "m", "--version", "1", "--key-arn", "alias/m", "--owner-key", shell.owner,
              "--out", shell.path("sealed"), exit_=2)  # fmt: skip
    shell.path("model.onnx").write_bytes(b"\x80\x04.")
    assert "export the model to ONNX" in shell.seal(exit_=1)["error"]


# --- manifests


def signing(shell: Shell) -> None:
    """An owner key, and the model sealed for it."""
    key = shell.run("owner-key", "new", shell.path("owner.pem"), "--passphrase-file", shell.path("pass"))
    shell.owner = key["owner_key"]
    # The world's key policy is for another owner; sealing for this one is refused, so descriptions are rewritten instead.
    owner, shell.owner = shell.owner, OWNER_KEY.hex()
    for version in ("1", "2"):
        shell.seal(version=version)
        path = shell.path(f"sealed/m-{version}.json")
        path.write_text(path.read_text().replace(OWNER_KEY.hex(), owner))
    shell.owner = owner


def sign(shell: Shell, draft_: str = "draft.json", out: str = "manifest.cose", *more: object, exit_: int = 0) -> Any:
    """Sign a draft."""
    options = ("--key", shell.path("owner.pem"), "--passphrase-file", shell.path("pass"), "--out", shell.path(out))
    return shell.run("manifest", "sign", shell.path(draft_), *options, *more, exit_=exit_)


def drafted(shell: Shell) -> None:
    """A draft with one model."""
    options = ("--deployment", "d", "--key-arn", shell.world.key_arn, "--anyone")
    shell.run("manifest", "new", shell.path("draft.json"), *options)
    shell.run("manifest", "add", shell.path("draft.json"), shell.path("sealed/m-1.json"))


def test_from_draft_to_signed_manifest(shell: Shell) -> None:
    """A draft with a model is signed; the result says what the enclave will see, and is followed by the next."""
    signing(shell)
    drafted(shell)
    told = sign(shell)
    signed = manifest.open_envelope(shell.path("manifest.cose").read_bytes())
    assert shell.owner == signed.owner_key.hex()
    assert told["pcr17"] == manifest.extended(signed.digest).hex()
    held = signed.manifest
    assert (held.deployment, held.sequence, held.epoch, held.kms.host) == ("d", 1, 1, "kms.eu-west-1.amazonaws.com")
    assert 29 * 86_400 < held.not_after - time.time() <= 30 * 86_400
    assert shell.run("manifest", "verify", shell.path("manifest.cose"), "--owner-key", shell.path("owner.pub"))["accepted"]
    assert shell.run("manifest", "show", shell.path("manifest.cose"))["manifest"]["deployment"] == "d"
    assert "FP32[*, 1024]" in shell.text("manifest", "show", shell.path("manifest.cose"))
    shell.run("manifest", "new", shell.path("next.json"), "--from", shell.path("manifest.cose"))
    shell.run("manifest", "add", shell.path("next.json"), shell.path("sealed/m-2.json"))
    sign(shell, "next.json", "next.cose", "--after", shell.path("manifest.cose"))
    following = manifest.open_envelope(shell.path("next.cose").read_bytes()).manifest
    assert (following.sequence, [model.version for model in following.models]) == (2, ["1", "2"])
    rows = shell.run("manifest", "diff", shell.path("manifest.cose"), shell.path("next.cose"), exit_=1)["differences"]
    assert {row["field"] for row in rows} >= {"sequence", "models.m 2"}
    assert not shell.run("manifest", "diff", shell.path("next.cose"), shell.path("next.cose"))["differences"]


def test_sign_refuses(shell: Shell) -> None:
    """A wrong passphrase, a key open to others, too many days, no models, an old sequence and another owner are refused."""
    signing(shell)
    drafted(shell)
    sign(shell, "draft.json", "x", "--days", "91", exit_=2)
    sign(shell, "draft.json", "x", "--days", "0", exit_=2)
    sign(shell)
    sign(shell, "draft.json", "x", "--after", shell.path("manifest.cose"), exit_=1)
    shell.run("manifest", "new", shell.path("empty.json"), "--deployment", "d", "--key-arn", shell.world.key_arn, "--anyone")
    assert "models" in sign(shell, "empty.json", "x", exit_=1)["error"]
    shell.path("owner.pem").chmod(0o644)
    assert "chmod 600" in sign(shell, "draft.json", "x", exit_=1)["error"]
    shell.path("owner.pem").chmod(0o600)
    shell.path("pass").write_text("another passphrase\n")
    assert "wrong passphrase" in sign(shell, "draft.json", "x", exit_=1)["error"]
    os.rename(shell.path("owner.pem"), shell.path("old.pem"))
    shell.run("owner-key", "new", shell.path("owner.pem"), "--passphrase-file", shell.path("pass"))
    shell.run("manifest", "new", shell.path("next.json"), "--from", shell.path("manifest.cose"))
    assert "another owner key" in sign(shell, "next.json", "x", "--after", shell.path("manifest.cose"), exit_=1)["error"]
    assert not shell.path("x").exists()


def test_the_wrong_model_does_not_get_in(shell: Shell) -> None:
    """Models of another key or epoch, and descriptions that are none, are not added; the same version takes its own place."""
    signing(shell)
    drafted(shell)
    described = json.loads(shell.path("sealed/m-1.json").read_text())
    key = described["key_arn"]
    changes = (
        {"epoch": 2},
        {"epoch": 1.5},
        {"key_arn": key[:-1] + "x"},
        {"key_arn": key[:-4] + "0000"},
        {"owner_key": "00"},
        {"model": {}},
    )
    for change in (*changes, {"more": 1}):
        shell.path("other.json").write_text(json.dumps(described | change))
        shell.run("manifest", "add", shell.path("draft.json"), shell.path("other.json"), exit_=1)
    assert shell.run("manifest", "add", shell.path("draft.json"), shell.path("sealed/m-1.json"))["models"] == ["replaced m 1"]
    assert len(json.loads(shell.path("draft.json").read_text())["models"]) == 1


def test_new_asks_for_what_it_needs(shell: Shell) -> None:
    """Who may call is never assumed; a draft is never overwritten; another epoch drops models sealed for the old one."""
    key = ("--key-arn", shell.world.key_arn)
    shell.run("manifest", "new", shell.path("a"), "--deployment", "d", *key, exit_=2)
    shell.run("manifest", "new", shell.path("a"), "--deployment", "d", *key, "--anyone", "--issuer", OWNER_KEY.hex(), exit_=2)
    shell.run("manifest", "new", shell.path("a"), *key, "--anyone", exit_=2)
    shell.run("manifest", "new", shell.path("a"), "--deployment", "d", "--key-arn", "alias/x", "--anyone", exit_=2)
    shell.run("manifest", "new", shell.path("a"), "--deployment", "d", *key, "--issuer", OWNER_KEY.hex())
    assert json.loads(shell.path("a").read_text())["callers"] == {"issuers": [OWNER_KEY.hex()], "max_lifetime": 86_400}
    shell.run("manifest", "new", shell.path("a"), "--deployment", "d", *key, "--anyone", exit_=2)
    signing(shell)
    drafted(shell)
    sign(shell)
    shell.run("manifest", "new", shell.path("b"), "--from", shell.path("manifest.cose"), "--deployment", "e", exit_=2)
    shell.run("manifest", "new", shell.path("b"), "--from", shell.path("manifest.cose"), "--epoch", "2")
    followed = json.loads(shell.path("b").read_text())
    assert (followed["epoch"], followed["models"], followed["sequence"]) == (2, [], 2)


def test_verify_judges_owner_time_and_parts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another owner, an expired manifest, a changed byte and a changed artifact are rejected."""
    signing(shell)
    drafted(shell)
    sign(shell, "draft.json", "manifest.cose", "--days", "1")
    file = shell.path("manifest.cose")
    assert shell.run("manifest", "verify", file, "--owner-key", "11" * 32, exit_=1)["owner_key"] == shell.owner
    # sealed for the world's owner, signed by another: exactly what an enclave would refuse
    faults = [row["fault"] for row in shell.run("manifest", "verify", file, "--artifacts", shell.path("sealed"), exit_=1)["parts"]]
    assert faults == ["another encryption context (owner, model or epoch) than pinned"] * 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_401)
    assert "not valid now" in shell.run("manifest", "verify", file, exit_=1)["error"]
    _flip(file, 200)
    shell.run("manifest", "verify", file, exit_=1)


def test_drafts_are_judged() -> None:
    """A draft is one JSON object without repeated names or fractions; its differences are found by model and field."""
    for text in (b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff", b'{"a": ' + b"[" * 100_000):
        with pytest.raises(draft.DraftError):
            draft.load(text)
    with pytest.raises(draft.DraftError):
        draft.to_manifest({"version": 1.5})
    with pytest.raises(draft.DraftError):
        draft.to_manifest({"models": [{"parts": [{"commitment": "xx"}]}]})
    with pytest.raises(draft.DraftError):
        draft.add({"kms": {"key_arn": "a"}, "epoch": 1, "models": {}}, draft.Description(model=None, owner_key=b"", key_arn="a", epoch=1))  # type: ignore[arg-type]
    described = draft.Description(model=None, owner_key=b"", key_arn="a", epoch=1)  # type: ignore[arg-type]
    with pytest.raises(draft.DraftError):
        draft.add({"kms": 1, "epoch": 1, "models": []}, described)
    old = {"models": [{"id": "a", "version": "1", "x": 1}], "n": None}
    new = {"models": [{"id": "b", "version": "1", "x": 1}, {"id": "a", "version": "1", "x": 2}], "n": 3}
    assert [("models.a 1.x", 1, 2), ("models.b 1", None, new["models"][0]), ("n", None, 3)] == draft.differences(old, new)  # type: ignore[index]
