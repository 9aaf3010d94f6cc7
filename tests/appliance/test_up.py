"""`up`, `down` and `cloister` of the simulator: a world to try things on, and every printed command works."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import pytest

from simulator.world import memory_folder
from tests.appliance import faults
from wire import credential as credentials

ROOT = Path(__file__).parents[2]
FOLDER = memory_folder() / f"cloister up test {os.getpid()}"  # a world that a person keeps up is left alone
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "CLOISTER_WORLD": str(FOLDER)}
BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}  # another terminal, with no environment activated


def simulator(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "simulator", *words],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shell(line: str) -> "subprocess.CompletedProcess[str]":
    """The line as it stands, typed where `up` runs."""
    return subprocess.run(
        ["sh", "-c", line], env=BARE, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def printed() -> Iterator[str]:
    """What `up` printed, while it is up."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "simulator", "up"],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.endswith(" simulator down\n"):
            break
    yield "".join(lines)
    if FOLDER.exists():  # else it is ending, and past the point where it takes a signal
        process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)
    process.stdout.close()


def commands(printed: str) -> list[str]:
    """The lines below "The world is up" that a person may type, in order; the last one ends the world."""
    return [line for line in printed.partition("The world is up")[2].splitlines()[1:] if line and not line.startswith("#")]


def test_every_printed_command_works(printed: str) -> None:
    """Each printed line, typed as it stands into a bare shell and in order, succeeds, headed SIMULATED."""
    *given, _ = commands(printed)
    assert 8 == len(given)
    for line in given:
        done = shell(line)
        assert 0 == done.returncode, (line, done.stderr)
        assert "SIMULATED" in done.stdout.splitlines()[0]


def test_answers_for_machines(printed: str) -> None:
    """With --json the answer of `infer` is one object: five patients, two outputs, and the heading."""
    line = next(line for line in printed.splitlines() if "--json infer" in line)
    found = json.loads(shell(line).stdout)
    assert found["accepted"] and found["heading"].startswith("SIMULATED")
    assert {"label": [5], "probabilities": [5, 2]} == {output["name"]: output["shape"] for output in found["outputs"]}


def test_acceptance_script(printed: str, tmp_path: Path) -> None:
    """The steps of `make ec2-acceptance` that need no instance pass here, and one that refuses nothing would stop the script."""
    given = {
        "CLOISTER": f"{sys.executable} -P -m simulator cloister",
        "PYTHON": sys.executable,
        "WORK": str(tmp_path),
        "ENDPOINT": f"unix:{FOLDER / 'endpoint'}",
        "VALUES": str(FOLDER / "reference-values.json"),
        "CREDENTIAL": str(FOLDER / "credential"),
        "CALLER_KEY": str(FOLDER / "caller.pem"),
        "MODEL": "breast-cancer",
        "TENSORS": str(FOLDER / "patients.npy"),
    }

    def script(*steps: str) -> "subprocess.CompletedProcess[str]":
        command = ["sh", "deploy/ec2/acceptance.sh", *steps]
        return subprocess.run(command, env=ENVIRONMENT | given, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    done = script("caller", "refusals")
    assert (0, "== accepted: caller refusals") == (done.returncode, done.stdout.splitlines()[-1]), done.stderr
    given["CREDENTIAL"] = str(FOLDER / "patients.csv")
    assert 0 != script("caller").returncode
    assert 0 != script("preflight").returncode


def test_aws_root_refuses(printed: str) -> None:
    """The same command under AWS's root, without the simulator, is refused before anything is sent."""
    line = next(line for line in printed.splitlines() if " infer " in line)
    words = shlex.split(line)
    code = "import sys; from cloister.command.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words[words.index("infer") :]],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 1 == done.returncode
    assert "nothing was sent" in done.stderr


def test_the_credential_is_renewed(printed: str) -> None:
    """A credential whose time is nearly over is replaced by one for the same key, good for hours, while the world is up."""
    held = FOLDER / "credential"
    first = credentials.parse(held.read_bytes())
    assert 86_400 == first.expires - first.issued
    ending = FOLDER / "ending"
    issue = next(line for line in printed.splitlines() if " issue " in line) + " --lifetime 1h"
    for given, other in ((FOLDER / "second-credential", str(ending)), (FOLDER / "second.pub", first.key.hex())):
        issue = issue.replace(str(given), other)
    assert 0 == shell(issue).returncode
    ending.replace(held)
    assert faults.until(lambda: credentials.parse(held.read_bytes()).expires - time.time() > 13 * 3600)
    assert (first.key, "demo-caller") == ((renewed := credentials.parse(held.read_bytes())).key, renewed.subject)
    assert 0 == shell(next(line for line in printed.splitlines() if "--json infer" in line)).returncode


def test_one_world_at_a_time(printed: str) -> None:
    """A second `up` says that one is up and how it is ended, and leaves it alone."""
    done = simulator("up")
    assert (3, commands(printed)[-1]) == (done.returncode, done.stderr.strip().partition("ends it: ")[2])
    assert (FOLDER / "endpoint").exists()


def test_down(printed: str) -> None:
    """The printed `down` ends the world; nothing of it is left, and the command says so, and how to start one."""
    world = (FOLDER / "endpoint").readlink().parent.parent
    assert world.is_dir()
    done = shell(commands(printed)[-1])
    assert (0, "the world is gone\n") == (done.returncode, done.stdout)
    end = time.monotonic() + 10
    while FOLDER.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not FOLDER.exists() and not world.exists()
    done = simulator("cloister", "infer", "unix:x", "m", "f.npy", "--reference-values", "r")
    assert 3 == done.returncode
    assert f"{commands(printed)[-1].removesuffix('down')}up" in done.stderr
