"""The programs and commands of docs/use.md, run as they stand on the booted world."""

from pathlib import Path
import re
import shlex

import numpy as np
import pytest

from attestation import reference_values
from cloister import api, sync
from cloister.command.main import main
from cloister.identity import write_key
from simulator.world import World

ADDRESS = "tcp:parent.example:8443"
TEXT = (Path(__file__).parents[2] / "docs" / "use.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the document is: among an application's files, with this world's root in place of AWS's."""
    identity = world.owner.identity("reader")
    write_key(tmp_path / "caller.pem", identity.key)
    (tmp_path / "credential").write_bytes(identity.credential)
    (tmp_path / "reference-values.json").write_bytes(reference_values.render(world.owner.reference_values([world.measured()])))
    np.save(tmp_path / "patients.npy", np.ones((3, 30), np.float32))
    monkeypatch.chdir(tmp_path)
    for connect in (api.connect, sync.connect):
        defaults = connect.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "roots", world.roots)
    return tmp_path


def test_programs(folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The SDK's two programs, one after the other as the document has them, run and print answers."""
    programs = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert 2 == len(programs)
    names: dict[str, object] = {"__name__": "__main__"}
    for program in programs:
        assert ADDRESS in program
        exec(compile(program.replace(ADDRESS, world.endpoint), "use.md", "exec"), names)  # noqa: S102 - what the document says
    told = capsys.readouterr().out
    assert "i-00000000000000000" not in told and "-enc" in told
    assert "8 True [{'name': 'x'" in told


def test_commands(folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's lines work; the key that is there already is not replaced."""
    block = re.search(r"## The command\n\n```sh\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    codes = [main(shlex.split(line.replace(ADDRESS, world.endpoint))[1:], root=world.roots) for line in lines]
    assert [3, 0, 0] == codes, capsys.readouterr().err
    with np.load(folder / "answers.npz") as answers:
        assert np.ones((3, 30)).tolist() == answers["y"].tolist()
