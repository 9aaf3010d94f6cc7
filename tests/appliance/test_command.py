"""`cloister infer`, `model metadata`, `credential` and `caller-key` as a person types them, on the booted world."""

from dataclasses import dataclass
import io
import json
from pathlib import Path
import stat
import sys
from typing import Any

import numpy as np
import pytest

from attestation import reference_values
from cloister.command.main import main
from cloister.command.output import Exit
from cloister.identity import write_key
from owner import keys
from simulator.world import World
from tests.appliance.models import FEATURES

PASSPHRASE = "several random words"


@dataclass(frozen=True)
class Desk:
    """A caller's files, and the command typed among them."""

    folder: Path
    world: World
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main(words, root=self.world.roots)
        told = self.capsys.readouterr()
        return code, told.out, told.err

    def ask(self, noun: tuple[str, ...], *words: str) -> tuple[int, str, str]:
        values, credential, key = (str(self.folder / name) for name in ("values.json", "credential", "caller.pem"))
        return self.run(*noun, self.world.endpoint, *words, "--reference-values", values, "--credential", credential, "--key", key)

    def infer(self, *words: str) -> dict[str, Any]:
        code, out, err = self.ask(("--json", "infer"), *words)
        assert 0 == code, out + err
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def desk(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    identity = world.owner.identity("typist")
    write_key(tmp_path / "caller.pem", identity.key)
    (tmp_path / "credential").write_bytes(identity.credential)
    (tmp_path / "values.json").write_bytes(reference_values.render(world.owner.reference_values([world.measured()])))
    return Desk(tmp_path, world, capsys)


def test_batches_make_one_answer(desk: Desk) -> None:
    """A file cut into batches gives the same outputs as whole, in the file's order."""
    rows = np.random.default_rng(3).normal(size=(23, FEATURES)).astype(np.float32)
    np.save(desk.folder / "rows.npy", rows)
    for name, batch in (("whole", ()), ("cut", ("--batch", "4"))):
        desk.infer("network", str(desk.folder / "rows.npy"), "--out", str(desk.folder / f"{name}.npy"), *batch)
    whole, cut = (np.load(desk.folder / f"{name}.npy") for name in ("whole", "cut"))
    assert (23, 3) == whole.shape == cut.shape
    assert np.allclose(whole, cut, rtol=0, atol=1e-6)


def test_version_output_and_values(desk: Desk) -> None:
    """The version asked for answers; values are told to people and to machines."""
    (desk.folder / "x.json").write_text("[[1, 2, 3, 4]]")
    found = desk.infer("shift", str(desk.folder / "x.json"), "--version", "1", "--output", "y")
    assert ("1", [[2.0, 3.0, 4.0, 5.0]]) == (found["model_version"], found["outputs"][0]["data"])
    code, out, _ = desk.ask(("infer",), "shift", str(desk.folder / "x.json"))
    assert (0, True) == (code, "[[3., 4., 5., 6.]]" in out)


class Terminal(io.StringIO):
    """Where a person looks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "words", "shown"),
    [
        (Terminal(), ("--batch", "1"), True),
        (io.StringIO(), ("--batch", "1"), False),
        (Terminal(), ("--batch", "3"), False),
        (Terminal(), ("--batch", "1", "--json"), False),
    ],
)
def test_progress_for_people(desk: Desk, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, words: tuple[str, ...], shown: bool) -> None:
    """Several batches show a bar that reaches the end where standard error is a terminal, and nowhere else."""
    monkeypatch.setenv("TERM", "xterm")  # on a dumb one nothing can be drawn over
    monkeypatch.setattr(sys, "stderr", stderr)
    np.save(desk.folder / "x.npy", np.zeros((3, 4), np.float32))
    code, out, _ = desk.ask(("infer",), "shift", str(desk.folder / "x.npy"), *words)
    assert (0, True) == (code, bool(out))
    drawn = stderr.getvalue()
    assert (shown, shown, shown) == ("batches" in drawn, "100%" in drawn, bool(drawn))


def test_arrays_by_name(desk: Desk) -> None:
    """An .npz goes to the inputs that its arrays are named for, whatever their order; another name is the enclave's to refuse."""
    left, right = np.arange(3, dtype=np.float32), np.full(3, 5, np.float32)
    np.savez(desk.folder / "both.npz", b=right, a=left)
    desk.infer("two", str(desk.folder / "both.npz"), "--out", str(desk.folder / "answer.npz"))
    with np.load(desk.folder / "answer.npz") as answer:
        assert {"sum": [5, 6, 7], "difference": [-5, -4, -3]} == {name: answer[name].tolist() for name in answer.files}
    np.savez(desk.folder / "other.npz", a=left, c=right)
    code, _, err = desk.ask(("infer",), "two", str(desk.folder / "other.npz"))
    assert (Exit.REJECTED, True) == (code, "no such input" in err), err


REFUSED = [
    (("network", "x.npy"), Exit.USAGE, "--cast"),
    (("shift", "x.txt"), Exit.USAGE, "needed"),
    (("shift", "missing.npy"), Exit.COULD_NOT_ASK, "missing.npy"),
    (("absent", "x.npy"), Exit.REJECTED, "does not name this model"),
    (("shift", "wide.npy"), Exit.REJECTED, "inputs[0].shape"),
    (("shift", "wide.npy", "--batch", "0"), Exit.USAGE, "--batch"),
    (("spin", "n.npy", "--timeout", "0.3"), Exit.COULD_NOT_ASK, "--timeout"),
    (("shift", "x.npy", "--input", "z", "--cast"), Exit.REJECTED, "no such input"),
    (("types", "x.npy"), Exit.USAGE, "--input"),
]


@pytest.mark.parametrize(("words", "code", "text"), REFUSED)
def test_refusals(desk: Desk, words: tuple[str, ...], code: Exit, text: str) -> None:
    """What cannot be asked and what is refused have their exit codes, and say what to do."""
    np.save(desk.folder / "x.npy", np.zeros((1, 4)))
    np.save(desk.folder / "wide.npy", np.zeros((1, 5), np.float32))
    np.save(desk.folder / "n.npy", np.array(10**12))
    (desk.folder / "x.txt").write_text("")
    found, out, err = desk.ask(("infer",), words[0], str(desk.folder / words[1]), *words[2:])
    assert (code, True) == (found, text in err), err
    assert "Traceback" not in out + err


def test_evidence_refused(desk: Desk) -> None:
    """Reference values of another image refuse the appliance, with every mismatch for machines."""
    values = json.loads((desk.folder / "values.json").read_text())
    values["measurements"][0]["pcr2"] = "11" * 48
    (desk.folder / "values.json").write_text(json.dumps(values))
    np.save(desk.folder / "x.npy", np.zeros((1, 4), np.float32))
    code, out, _ = desk.ask(("--json", "infer"), "shift", str(desk.folder / "x.npy"))
    found = json.loads(out)
    assert (Exit.REJECTED, "EvidenceRefusedError") == (code, found["kind"]) or (Exit.REJECTED, "AppraisalError") == (code, found["kind"])
    assert "nothing was sent" in found["error"]
    assert found["mismatches"]


def test_nobody_there(desk: Desk) -> None:
    """An address where nothing listens could not be asked."""
    np.save(desk.folder / "x.npy", np.zeros((1, 4), np.float32))
    values = str(desk.folder / "values.json")
    code, _, err = desk.run("infer", f"unix:{desk.folder}/none", "shift", str(desk.folder / "x.npy"), "--reference-values", values)
    assert (Exit.COULD_NOT_ASK, True) == (code, "check the address" in err)


def test_metadata(desk: Desk) -> None:
    """A model's metadata for people and for machines."""
    code, out, _ = desk.ask(("model", "metadata"), "shift")
    assert (0, True) == (code, "shift, versions 1, 2: ready" in out and "x  FP32 [-1, 4]" in out)
    code, out, _ = desk.ask(("--json", "model", "metadata"), "shift")
    assert ["1", "2"] == json.loads(out)["metadata"]["versions"]


def test_key_and_credential(desk: Desk) -> None:
    """A new caller: key made, credential issued offline, read, checked, and used."""
    folder, (passphrase, issuer) = desk.folder, (desk.folder / "passphrase", desk.folder / "issuer.pem")
    passphrase.write_text(PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    keys.write_private(issuer, desk.world.owner.issuer, PASSPHRASE.encode())
    (folder / "caller.pem").unlink()
    (folder / "credential").unlink()
    code, out, _ = desk.run("--json", "caller-key", "new", str(folder / "caller.pem"))
    assert (0, 0o600) == (code, stat.S_IMODE((folder / "caller.pem").stat().st_mode))
    caller_key = json.loads(out)["caller_key"]
    issue = ["credential", "issue", str(folder / "credential"), "--issuer-key", str(issuer), "--passphrase-file", str(passphrase)]
    claims = ["--issuer", "i", "--subject", "newcomer", "--deployment", "demo", "--model", "shift", "--caller-key", caller_key]
    assert 0 == desk.run(*issue, *claims)[0]
    assert Exit.COULD_NOT_ASK == desk.run(*issue, *claims)[0]  # never over a file that is there
    issuer_key = desk.world.owner.issuer.public_key().public_bytes_raw().hex()
    code, out, _ = desk.run("credential", "show", str(folder / "credential"), "--issuer-key", issuer_key)
    assert (0, True) == (code, "newcomer" in out and "valid" in out)
    assert Exit.REJECTED == desk.run("credential", "show", str(folder / "credential"), "--issuer-key", caller_key)[0]
    (folder / "x.json").write_text("[[1, 2, 3, 4]]")
    desk.infer("shift", str(folder / "x.json"))
    assert Exit.REJECTED == desk.ask(("infer",), "copy", str(folder / "x.json"))[0]


@pytest.mark.parametrize("spoil", ["mode", "clear", "passphrase"])
def test_issuer_key_is_guarded(desk: Desk, spoil: str) -> None:
    """An issuer key that others may read, that is not encrypted, or whose passphrase is wrong issues nothing."""
    passphrase, issuer = desk.folder / "passphrase", desk.folder / "issuer.pem"
    passphrase.write_text("other words, not these" if spoil == "passphrase" else PASSPHRASE)
    passphrase.chmod(0o600)
    if spoil == "clear":
        write_key(issuer, desk.world.owner.issuer)
    else:
        keys.write_private(issuer, desk.world.owner.issuer, PASSPHRASE.encode())
    if spoil == "mode":
        issuer.chmod(0o640)
    out = desk.folder / "issued"
    words = ["credential", "issue", str(out), "--issuer-key", str(issuer), "--passphrase-file", str(passphrase), "--issuer", "i"]
    code, _, err = desk.run(*words, "--subject", "s", "--deployment", "demo", "--model", "shift", "--caller-key", "11" * 32)
    assert Exit.ACCEPTED != code
    assert not out.exists()
    assert PASSPHRASE not in err


@pytest.mark.parametrize(
    "words", [("--lifetime", "31d"), ("--lifetime", "0h"), ("--quota-bytes", "x"), ("--model", "../m"), ("--caller-key", "00" * 32)]
)
def test_credential_usage(desk: Desk, words: tuple[str, str]) -> None:
    """Claims that no enclave would accept are not issued."""
    passphrase, issuer = desk.folder / "passphrase", desk.folder / "issuer.pem"
    passphrase.write_text(PASSPHRASE)
    passphrase.chmod(0o600)
    keys.write_private(issuer, desk.world.owner.issuer, PASSPHRASE.encode())
    given = {"--subject": "s", "--deployment": "demo", "--model": "shift", "--issuer": "i", "--caller-key": desk.world.owner.public.hex()}
    given |= dict([words])
    options = [word for pair in given.items() for word in pair]
    out = desk.folder / "issued"
    code, _, _ = desk.run("credential", "issue", str(out), "--issuer-key", str(issuer), "--passphrase-file", str(passphrase), *options)
    assert Exit.USAGE == code
    assert not out.exists()
