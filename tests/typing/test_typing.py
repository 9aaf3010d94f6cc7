"""The SDK's types, seen from an application's program."""

from pathlib import Path
import re
import subprocess
import sys

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs")


def mypy(program: Path, cache: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(cache), "--show-error-codes", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if str(program.name) in line]


def test_a_program_type_checks(tmp_path: Path) -> None:
    """A program that uses the whole SDK has no type error."""
    assert [] == mypy(PROGRAMS / "good.py", tmp_path)


def test_mistakes_do_not(tmp_path: Path) -> None:
    """Sealing to what was not appraised, and other mistakes, are type errors, each of them."""
    program = PROGRAMS / "bad.py"
    lines = program.read_text(encoding="utf-8").splitlines()
    expected = {number: mark[1] for number, line in enumerate(lines, 1) if (mark := re.search(r"# E: ([\w-]+)", line))}
    found = [re.search(r":(\d+): error: .*\[([\w-]+)\]$", line) for line in mypy(program, tmp_path)]
    assert expected == {int(match[1]): match[2] for match in found if match}


def test_every_public_name_is_there() -> None:
    """Every name in `cloister.__all__` can be imported, and none that is not there pretends to be."""
    import cloister

    assert all(getattr(cloister, name) is not None for name in cloister.__all__)
    assert not hasattr(cloister, "nothing")


def test_import_is_light() -> None:
    """Importing `cloister` loads neither numpy nor a socket's event loop."""
    code = "import sys, cloister; print([name for name in ('numpy', 'asyncio', 'cryptography') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "[]" == done.stdout.strip()
