"""The command's frame: exit codes, `--json`, laziness and the root."""

import argparse
from collections.abc import Iterator
import importlib
import json
from pathlib import Path
import re
import subprocess
import sys
from types import ModuleType

import pytest

from attestation.chain import AWS_ROOTS, Root
from attestation.checks import Check
from attestation.errors import AppraisalError, MalformedEvidenceError, Mismatch
from cloister.command import main as command
from cloister.command.output import Context, CouldNotAskError, Exit, RejectedError, UsageError
from wire.errors import MalformedEndpointError

ROOT = Path(__file__).parents[2]
PRETENDER = Root(partition="elsewhere", sha256=bytes(32))


class Noun(ModuleType):
    """A noun of the test's own: its handler does what the test put into `act`."""

    seen: Context | None = None

    def __init__(self) -> None:
        super().__init__("cloister.command.probe")
        self.act: object = None

    def register(self, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        parser = subparsers.add_parser("probe", help="a test's")
        parser.add_argument("--number", type=int)
        parser.set_defaults(run=self.run)

    def run(self, args: argparse.Namespace, context: Context) -> int | None:
        self.seen = context
        if isinstance(self.act, BaseException):
            raise self.act
        if isinstance(self.act, int):
            return self.act
        context.show("yes", {"accepted": True, "number": args.number})
        return None


@pytest.fixture
def noun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Noun]:
    module = Noun()
    module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("cloister.command.probe", None)
    monkeypatch.setitem(sys.modules, "cloister.command.probe", module)
    monkeypatch.setitem(command.NOUNS, "probe", ("a test's", "client"))
    yield module


@pytest.mark.parametrize(
    ("act", "exit_"),
    [
        (None, Exit.ACCEPTED),
        (1, Exit.REJECTED),
        (RejectedError("no"), Exit.REJECTED),
        (UsageError("what"), Exit.USAGE),
        (CouldNotAskError("silence"), Exit.COULD_NOT_ASK),
        (MalformedEvidenceError(next(iter(Check))), Exit.REJECTED),
        (MalformedEndpointError("expected host:port"), Exit.REJECTED),
        (FileNotFoundError(2, "No such file or directory", "x"), Exit.COULD_NOT_ASK),
        (ConnectionRefusedError(111, "Connection refused"), Exit.COULD_NOT_ASK),
        (TimeoutError(), Exit.COULD_NOT_ASK),
        (BrokenPipeError(), Exit.COULD_NOT_ASK),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ],
)
def test_what_happened_decides_the_exit_code(noun: Noun, act: object, exit_: Exit) -> None:
    """0 accepted, 1 rejected, 2 usage, 3 could not ask, whichever noun ran."""
    noun.act = act
    assert command.main(["probe"]) == exit_


def test_defects_are_not_dressed_as_refusals(noun: Noun) -> None:
    """A defect of ours is a traceback, never exit code 1 that reads as a verdict."""
    noun.act = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        command.main(["probe"])


@pytest.mark.parametrize("argv", [[], ["nothing-such"], ["probe", "--number", "x"], ["probe", "--unknown"], ["--jso", "probe"]])
def test_bad_arguments_are_usage(noun: Noun, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that make no question exit 2 and point at --help."""
    assert command.main(argv) == Exit.USAGE
    assert "see: cloister" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--json", "probe", "--number", "7"], ["probe", "--number", "7", "--json"]])
def test_json_answers_are_one_object_wherever_the_option_stands(noun: Noun, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With --json standard output holds exactly one JSON object."""
    assert command.main(argv) == Exit.ACCEPTED
    assert json.loads(capsys.readouterr().out) == {"accepted": True, "number": 7}


def test_json_errors_carry_the_mismatches(noun: Noun, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine gets every mismatch as data and the exit code, and nothing on standard error."""
    check = next(iter(Check))
    noun.act = AppraisalError((Mismatch(check=check, expected="a", actual="b"),))
    assert command.main(["probe", "--json"]) == Exit.REJECTED
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["exit"] == 1
    assert answer["mismatches"] == [{"check": check.value, "reason": check.reason, "expected": "a", "actual": "b"}]
    assert captured.err == ""


def test_answers_under_another_root_are_headed(noun: Noun, capsys: pytest.CaptureFixture[str]) -> None:
    """No answer that rests on other roots than AWS's looks like one that does: text, JSON or error."""
    assert command.main(["probe"], root=(PRETENDER,)) == 0
    assert capsys.readouterr().out.startswith("SIMULATED")
    assert noun.seen is not None
    assert noun.seen.roots == (PRETENDER,)
    command.main(["probe", "--json"], root=(PRETENDER,))
    assert json.loads(capsys.readouterr().out)["heading"].startswith("SIMULATED")
    noun.act = RejectedError("no")
    command.main(["probe"], root=(PRETENDER,))
    assert capsys.readouterr().err.startswith("SIMULATED")


def test_the_default_roots_are_awss(noun: Noun, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an argument to main evidence is judged under AWS's roots, and nothing is headed."""
    command.main(["probe"])
    assert noun.seen is not None
    assert noun.seen.roots == AWS_ROOTS
    assert "SIMULATED" not in capsys.readouterr().out


def test_every_noun_module_is_in_the_table() -> None:
    """A noun's module that the table forgot could not be reached; a module of verbs is imported by its noun's."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(command.__file__).parent.glob("*.py")}
    registering = {name for name, text in texts.items() if "def register(" in text}
    verbs = {name for name in registering if any(re.search(rf"cloister\.command( import .*|\.){name}\b", text) for text in texts.values())}
    assert {name.replace("_", "-") for name in registering - verbs} <= set(command.NOUNS)


def test_help_loads_no_noun() -> None:
    """--help imports no noun, no numpy, no boto3 and no simulator."""
    code = (
        "import sys; from cloister.command.main import main; main(['--help']);"
        "print([m for m in sys.modules if m.startswith('cloister.command.') and m.rpartition('.')[2] not in ('main', 'output')"
        " or m.partition('.')[0] in ('numpy', 'boto3', 'simulator', 'rich', 'enclave')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert done.stderr.strip() == "[]"


def test_missing_extra_is_named(noun: Noun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A noun whose third-party package is absent says which extra to install."""

    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(name="boto3")

    monkeypatch.setattr(importlib, "import_module", absent)
    assert command.main(["probe"]) == Exit.COULD_NOT_ASK
    assert "pip install 'cloister[client]'" in capsys.readouterr().err
