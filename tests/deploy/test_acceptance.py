"""deploy/ec2/acceptance.sh between stubs: it ends what it started and nothing else, and loses no key."""

from collections.abc import Iterator
from contextlib import suppress
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "ec2" / "acceptance.sh"

# As Python where the script asks it something; as the parent it serves at once, until it is killed.
PYTHON = """#!{python}
import os, signal, sys
if sys.argv[1:4] == ["-P", "-m", "parent"]:
    open(os.environ["WORK"] + "/parent.started", "w").write(str(os.getpid()))
    print("enclave reached stage 5 SERVING", flush=True)
    signal.pause()
if sys.argv[1] != "-":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
NITRO_CLI = """#!/bin/sh
echo "$*" >>"$WORK/nitro-cli.calls"
case $1 in
run-enclave)
    until [ -s "$WORK/parent.started" ]; do sleep 0.01; done
    [ ! -e "$WORK/refusing" ] && echo '{"EnclaveID": "i-0-enc7"}' ;;
esac
"""
# Makes what it is told to make; a key that is there is refused, as by the real one.
CLOISTER = """#!/bin/sh
echo "$*" >>"$WORK/cloister.calls"
for last in "$@"; do :; done
case "$1 $2" in
"owner-key new" | "caller-key new")
    [ ! -e "$last" ] || exit 2
    echo "$last $$" >"$last"
    echo public >"${last%.pem}.pub" ;;
"manifest new" | "credential issue") [ ! -e "$last" ] || exit 2; : >"$last" ;;
esac
"""
AWS = "#!/bin/sh\n"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The script's folder, with the stubs in `bin`."""
    (tmp_path / "bin").mkdir()
    stubs = {"python": PYTHON.replace("{python}", sys.executable), "nitro-cli": NITRO_CLI, "cloister": CLOISTER, "aws": AWS}
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o700)
    return tmp_path


def script(work: Path, *steps: str) -> "subprocess.CompletedProcess[str]":
    """The script's end."""
    given = dict.fromkeys(("ADMIN_ARN", "SEALER_ARN", "PARENT_ARN", "ADMIN_PROFILE", "SEALER_PROFILE"), "given")
    given |= {"WORK": str(work), "PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
    given |= {"PYTHON": str(work / "bin" / "python"), "CLOISTER": "cloister"}
    given["KEY_ARN"] = "arn:aws:kms:eu-central-1:111122223333:key/k"
    return subprocess.run(["sh", str(SCRIPT), *steps], env=given, cwd=work, capture_output=True, text=True, timeout=60, check=False)


def calls(work: Path, stub: str) -> list[str]:
    """What the stub was told, call by call."""
    path = work / f"{stub}.calls"
    return path.read_text().splitlines() if path.exists() else []


def command_line(process: int) -> bytes:
    """Empty where the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is none of the script's business."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdin=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_a_run_that_starts_nothing_ends_nothing(work: Path, stranger: "subprocess.Popen[bytes]") -> None:
    """Stopped before `boot`, it kills no process whose number an earlier run may have left, and terminates no enclave."""
    (work / "parent.pid").write_text(str(stranger.pid))
    for steps in (("nosuchstep", "boot"), ("debug",)):
        assert script(work, *steps).returncode != 0
    assert stranger.poll() is None
    assert calls(work, "nitro-cli") == []


@pytest.mark.parametrize("refusing", [False, True])
def test_a_boot_ends_its_own_parent_and_enclave(work: Path, refusing: bool) -> None:
    """At the end the parent is gone, and of enclaves the one that was started; where none was started, none is terminated."""
    if refusing:
        (work / "refusing").touch()
    done = script(work, "boot")
    assert (done.returncode != 0) is refusing, done.stderr
    process = int((work / "parent.started").read_text())
    for _ in range(2_000):
        if b"parent.toml" not in command_line(process):
            break
        time.sleep(0.01)
    assert b"parent.toml" not in command_line(process)
    ended = [call for call in calls(work, "nitro-cli") if not call.startswith("run-enclave")]
    assert ended == ([] if refusing else ["terminate-enclave --enclave-id i-0-enc7"])


def test_sealing_twice_keeps_the_keys(work: Path) -> None:
    """The second `seal` succeeds with the keys and the passphrase of the first; a key without its passphrase is said."""
    kept = ("passphrase", "owner.pem", "issuer.pem", "caller.pem")
    assert script(work, "seal").returncode == 0
    first = {name: (work / name).read_bytes() for name in kept}
    done = script(work, "seal")
    assert done.returncode == 0, done.stderr
    assert first == {name: (work / name).read_bytes() for name in kept}
    assert (work / "passphrase").stat().st_mode & 0o777 == 0o600
    (work / "passphrase").unlink()
    done = script(work, "seal")
    assert (1, True) == (done.returncode, "passphrase" in done.stderr)
    assert not (work / "passphrase").exists()
