"""What a killed `up` leaves behind is gone with `down` or when the next one starts; what a broken one knew is said."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
import os
from pathlib import Path
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from simulator import down, processes, typed
from simulator.owner import CREDENTIAL_SECONDS, DEPLOYMENT, Owner
from simulator.standing import Standing, StandingError, Swept
from simulator.up import renew
from simulator.world import World
from tests.appliance import faults
from wire import credential as credentials
from wire.manifest import Issuers

ROOT = Path(__file__).parents[2]


def test_left_behind(tmp_path: Path) -> None:
    """Processes and files of a world that nobody keeps end with the sweep, which says so; those of another world stay."""
    standing = Standing(folder=tmp_path / "up")
    with closing(World.create()) as kept, closing(World.create()) as left:
        kept.start_kms()
        left.start_kms()
        with closing(standing.claim()):
            standing.world.write_text(str(left.directory))
            assert Swept(world=left.directory, processes=1) == standing.sweep()
            assert Swept() == standing.sweep()
        assert left.kms is not None and kept.kms is not None
        assert left.kms.popen.poll() is not None
        assert kept.kms.popen.poll() is None
        assert not left.directory.exists() and kept.directory.exists()
        assert [standing.pid_file] == list(standing.folder.iterdir())


@pytest.mark.parametrize("named", ["/", "/tmp", "/dev/shm", "", "/home/cloister-x"])
def test_nothing_else_is_swept(tmp_path: Path, named: str) -> None:
    """A folder that names anything but a world's directory makes nothing go."""
    standing = Standing(folder=tmp_path / "up")
    with closing(standing.claim()):
        standing.world.write_text(named)
        assert Swept() == standing.sweep()
    assert tmp_path.exists()


def test_a_folder_of_somebody_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is named by mistake and holds other files is neither claimed nor swept, by `up` or `down`."""
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years")
    monkeypatch.setenv("CLOISTER_WORLD", str(tmp_path))
    with pytest.raises(StandingError, match="holds other files"):
        Standing(folder=tmp_path).claim()
    assert down.main([]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_keeper(tmp_path: Path) -> None:
    """A folder that is claimed is refused to a second `up`, and free again afterwards."""
    standing = Standing(folder=tmp_path / "up")
    with closing(standing.claim()):
        assert standing.pid() is not None
        with pytest.raises(StandingError):
            standing.claim()
    assert standing.pid() is None
    standing.claim().close()


MARKED = processes.interpreter(Path("/dev/shm/cloister-a"))
ZYGOTE = "import sys; sys.path.insert(0, '/dev/shm/cloister-{}/r1/image'); from enclave.zygote import main; main(5)"
LINES = [
    ([*MARKED, "-P", "-m", "parent"], True),
    (["python", "-I", "-B", "-c", ZYGOTE.format("a")], True),
    (["python", "-I", "-B", "-c", ZYGOTE.format("ab")], False),
    ([*processes.interpreter(Path("/dev/shm/cloister-ab")), "-P", "-m", "parent"], False),
    (["vi", "/dev/shm/cloister-a/r1/parent.toml"], False),
    (["python", "-m", "parent", "--config", "/dev/shm/cloister-a/r1/parent.toml"], False),
    (["grep", "-e", *MARKED], False),
    (["python", "-I", "-B", "-c"], False),
    ([], False),
]


@pytest.mark.parametrize(("words", "whose"), LINES)
def test_whose_process(words: list[str], whose: bool) -> None:
    """A process is a world's by its mark or, for the one that workers are forked from, by its code; never by a path that it names."""
    assert whose is processes.belongs(words, Path("/dev/shm/cloister-a"))


@contextmanager
def started(folder: Path, *words: str, tree: Path = ROOT) -> "Iterator[subprocess.Popen[str]]":
    """`up` as a process, on a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "CLOISTER_WORLD": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "simulator", "up", *words],
        cwd=folder.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
            if folder.exists():  # the test failed
                standing = Standing(folder=folder)
                with closing(standing.claim()):
                    standing.sweep()


def descendants(pid: int) -> list[int]:
    found = faults.children(pid)
    return found + [one for child in found for one in descendants(child)]


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_down_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `up` was killed, `down` ends each process that it left, even one that is stopped, removes the files and says so;
    a bystander in the world's directory stays."""
    monkeypatch.setenv("CLOISTER_WORLD", str(tmp_path / "w"))
    with started(tmp_path / "w", "--sidecar") as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("MODELS="):
                break
        down = next(line for line in told if line.endswith(" down\n"))
        world = Path((tmp_path / "w" / "world").read_text())
        left = descendants(process.pid)
        assert 7 <= len(left), "KMS, parent, security module, enclave, the one that forks workers, a worker, the sidecar"
        zygote = next(pid for pid in left if b"enclave.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes())
        for pid in (zygote, *faults.children(zygote)):
            os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen([sys.executable, "-c", "input()", str(world)], stdin=subprocess.PIPE, cwd=world) as bystander:
            process.kill()
            process.wait()
            assert faults.until(lambda: Standing(folder=tmp_path / "w").pid() is None)
            done = subprocess.run(["sh", "-c", down], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
            assert (0, True) == (done.returncode, done.stdout.startswith("no world is up; a world that was left behind is gone: ")), done
            assert f" processes ended, {world} removed\n" in done.stdout and ": 0 " not in done.stdout
            assert faults.until(lambda: not [pid for pid in left if running(pid)])
            assert bystander.poll() is None
            bystander.communicate(b"\n")
    assert not world.exists() and not (tmp_path / "w").exists()
    again = subprocess.run(["sh", "-c", down], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "no world is up\n") == (again.returncode, again.stdout)


def test_an_enclave_that_dies_at_once(tmp_path: Path) -> None:
    """An enclave that ends before its first report leaves its last words: `up` shows them, with the file that they are in."""
    tree = tmp_path / "tree"
    for name in ("attestation", "cloister", "enclave", "owner", "parent", "requirements", "simulator", "wire"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    boot = tree / "enclave" / "boot.py"
    boot.write_text(boot.read_text() + '\nraise RuntimeError("broken before any report")\n')
    with started(tmp_path / "w", tree=tree) as process:
        _, errors = process.communicate(timeout=60)
    assert 1 == process.returncode
    assert "the enclave's boot stopped: no report" in errors
    assert "/log/enclave-" in errors and "Traceback" in errors
    assert "RuntimeError: broken before any report" == errors.splitlines()[-1]


def test_renewal(tmp_path: Path) -> None:
    """Looked at every hour for ten days, the credential is always one that an enclave accepts, now and for half a day, for the
    same key, and is not issued anew each time; one that cannot be read, or begins later, is replaced at once."""
    owner = Owner(state=tmp_path, feed=tmp_path, kms_url="")
    issuers, key, start = Issuers(keys=(owner.issuer.public_key().public_bytes_raw(),)), bytes(range(32)), int(time.time())
    held = tmp_path / "credential"
    issued = 0
    for now in range(start, start + 10 * 86_400, 3600):
        issued += renew(tmp_path, owner, key, now)
        for moment in (now, now + 43_200):
            _, claims = credentials.accept(held.read_bytes(), issuers, deployment=DEPLOYMENT, owner_key=owner.public, now=moment)
            assert key == claims.key
    assert issued <= 10 * 86_400 / CREDENTIAL_SECONDS * 2
    held.write_bytes(b"\xff")
    assert renew(tmp_path, owner, key, start)
    assert not renew(tmp_path, owner, key, start)
    assert renew(tmp_path, owner, key, start - 60)


@pytest.mark.parametrize(
    ("python", "here", "said"),
    [
        ("/a/.venv/bin/python", "/a", ".venv/bin/python"),
        ("/a/.venv/bin/python", "/b", "/a/.venv/bin/python"),
        ("/a/bin/python", "/a/bin", "./python"),
    ],
)
def test_the_interpreter_as_typed(python: str, here: str, said: str) -> None:
    """Below the directory a relative path, elsewhere an absolute one, and never a bare name that a shell would look for."""
    assert said == typed.interpreter(Path(python), Path(here))


def test_a_typed_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell makes of a line: the variables that count, then the words, whatever characters they have."""
    monkeypatch.setenv("CLOISTER_WORLD", "a b'$c")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert ["CLOISTER_WORLD=a b'$c", "-P", "-m", "simulator", "cloister", "x;y"] == [
        word for word in shlex.split(typed.line("cloister", "x;y")) if not word.endswith(Path(sys.executable).name)
    ]
    monkeypatch.delenv("CLOISTER_WORLD")
    assert "CLOISTER_WORLD" not in typed.line("up")
