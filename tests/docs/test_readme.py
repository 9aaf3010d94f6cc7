"""README and documents: links lead somewhere, commands exist and run, nothing of the machine that made them is in the tree."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tracked() -> list[Path]:
    """The repository's files; the test is skipped in a copy without git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    """Every relative link of a document, with its anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_the_readmes_first_screen() -> None:
    """What it is, its status, the two commands, what it does not protect: all within the first screen."""
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:45])
    for words in ("not yet run on EC2", "docs/fidelity.md", "make demo", "make test", "## What it does not protect"):
        assert words in first


def test_the_readmes_make_commands_exist() -> None:
    """Each `make` command of README and documents is a target."""
    for document in documents():
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            for target in re.findall(r"^(?:\$ )?make ([a-z-]+)", block, re.MULTILINE):
                done = subprocess.run(
                    ["make", "-n", "PYTHON=true", target], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
                )
                assert done.returncode == 0, (document.name, target, done.stderr)


def test_make_demo_runs() -> None:
    """README's first command, as it stands: exit 0, SIMULATED in the first line, under 60 lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--silent", "demo", f"VENV={Path(sys.executable).parents[1]}"]
    if not (Path(sys.executable).parents[1] / "installed").exists():
        pytest.skip("not run from an environment of `make venv`")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("SIMULATED WORLD: proves the protocol, not the hardware")
    assert len(lines) < 60


def help_blocks() -> list[tuple[str, str, str]]:
    """Every block of a document that shows a command's --help: document, command, text."""
    found = []
    for document in documents():
        pattern = r"```(?:text|console)?\n\$ (cloister [^\n]*--help)\n(.*?)```"
        found += [(document.name, command, text) for command, text in re.findall(pattern, document.read_text(encoding="utf-8"), re.DOTALL)]
    return found


def test_help_blocks_equal_the_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a document shows of --help is what the command prints at 100 columns."""
    from cloister.command.main import main

    monkeypatch.setenv("COLUMNS", "100")
    for name, command, text in help_blocks():
        assert main(command.split()[1:]) == 0
        assert capsys.readouterr().out == text, (name, command)


def test_no_tracked_file_names_a_machine_or_an_index() -> None:
    """No absolute path of a build machine, no package index and no mirror stands in the repository."""
    parts = re.compile("(?<![\\w}\"'$])/" + "(?:work|root)/|find-" + "links=|index-" + "url=|--trusted-" + "host |/opt/" + "pypi")
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [(path.name, found) for found in parts.findall(text)]
    assert wrong == []
