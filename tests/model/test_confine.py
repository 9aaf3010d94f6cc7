"""What a worker can no longer do once its model is loaded, tried in real processes."""

import os
from pathlib import Path
import platform
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from enclave import confine
from enclave.zygote import Zygote

ROOT = Path(__file__).resolve().parents[2]
EPERM, MEMORY = "PermissionError", "MemoryError"

ATTEMPTS = {
    "open a file": ("open('/etc/hostname')", EPERM),
    "open a device": ("os.open('/dev/null', os.O_RDWR)", EPERM),
    "make a vsock socket": ("socket.socket(40, socket.SOCK_STREAM)", EPERM),
    "make an internet socket": ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", EPERM),
    "make a pair": ("socket.socketpair()", EPERM),
    "fork": ("os.fork()", EPERM),
    "start a program": ("os.execv('/bin/true', ['true'])", EPERM),
    "signal another": ("os.kill(os.getppid(), 0)", EPERM),
    "map executable memory": ("mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)", EPERM),
    "make a memory file": ("os.memfd_create('x')", EPERM),
    "make a pipe": ("os.pipe()", EPERM),
    "change its user": ("os.setuid(0)", EPERM),
    "trace": ("check(libc.ptrace(0, 0, 0, 0))", EPERM),
    "read another's memory": ("check(libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0))", EPERM),
    "enter a namespace": ("check(libc.unshare(0x10000000))", EPERM),
    "raise its limit": ("resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))", "ValueError|PermissionError"),
}
ALLOWED = {
    "allocate": "bytearray(32 << 20)",
    "map memory": "mmap.mmap(-1, 4096)",
    "tell the time": "time.monotonic()",
    "draw random bytes": "os.urandom(8)",
    "talk on its socket": "channel.send(b'x')",
}
THREAD = """
import threading
go, out = threading.Event(), []
def work():
    go.wait()
    try:
        open('/etc/hostname')
    except OSError as error:
        out.append(error)
thread = threading.Thread(target=work)
thread.start()
"""
SCRIPT = """
import sys; sys.path.insert(0, {root!r})
{before}
import ctypes, mmap, os, resource, socket, time
from enclave import confine
libc = ctypes.CDLL(None, use_errno=True)
channel, other = socket.socketpair()
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
confine.restrict_process()
confine.limit_memory(64 << 20)
confine.filter_system_calls()
try:
    {attempt}
except BaseException as error:
    os.write(1, type(error).__name__.encode())
else:
    os.write(1, b"done")
os._exit(0)
"""


def attempt(code: str, before: str = "") -> str:
    script = SCRIPT.format(root=str(ROOT), attempt=code, before=before)
    ran = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, timeout=30, check=False)
    return ran.stdout.decode()


@pytest.mark.parametrize(("code", "error"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_a_confined_process_cannot(code: str, error: str) -> None:
    """Each of these fails with EPERM in a confined process."""
    assert re.fullmatch(error, attempt(code))


@pytest.mark.parametrize("code", ALLOWED.values(), ids=ALLOWED.keys())
def test_a_confined_process_still_can(code: str) -> None:
    """Computing, and talking on the socket that it has, go on."""
    assert attempt(code) == "done"


def test_private_memory_is_limited() -> None:
    """An allocation beyond the limit is a MemoryError, one within it is not."""
    assert attempt("bytearray(80 << 20)") == MEMORY
    assert attempt("mmap.mmap(-1, 80 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)") == "OSError"


def test_threads_that_exist_are_confined_too() -> None:
    """The filter holds in threads that were there before it."""
    assert attempt("go.set(); thread.join(); raise out[0]", before=THREAD) == EPERM


def test_every_machine_has_its_own_numbers() -> None:
    """The filters of the two machines differ, and a third machine is refused."""
    assert confine.program("x86_64") != confine.program("aarch64")
    with pytest.raises(ValueError, match="machine"):
        confine.program("riscv64")
    assert platform.machine() in {"x86_64", "aarch64"}


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _alive(pid: int) -> bool:
    try:
        return _status(pid)["State"][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def test_the_zygote_starts_with_an_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the enclave's environment reaches the zygote, and none of its descriptors but the control socket."""
    monkeypatch.setenv("ORT_CANARY", "1")
    monkeypatch.setenv("LD_CANARY", "1")
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    zygote = Zygote.start()
    try:
        _, channel = zygote.spawn()
        with channel:
            _workers(zygote.pid, 1)
            environment = Path(f"/proc/{zygote.pid}/environ").read_bytes()
            assert b"CANARY" not in environment
            assert b"ORT_DISABLE_TELEMETRY=1" in environment
            links = [os.readlink(f"/proc/{zygote.pid}/fd/{name}") for name in os.listdir(f"/proc/{zygote.pid}/fd")]
            assert [link for link in links if link != "/dev/null" and not link.startswith(("socket:", "anon_inode:[pidfd]", "pidfd"))] == []
            assert sum(link.startswith("socket:") for link in links) <= 2  # the worker's end passes through
            assert _status(zygote.pid)["NoNewPrivs"] == "1"
    finally:
        zygote.close()
        os.close(held)


def test_the_zygote_runs_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to happen before anything else in the new process happens there and not here."""
    here = os.getpid()
    zygote = Zygote.start(lambda: os.nice(3) if os.getpid() != here else None)
    try:
        assert os.getpriority(os.PRIO_PROCESS, zygote.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    finally:
        zygote.close()


def _workers(pid: int, count: int) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
        if len(found) == count:
            return found
        time.sleep(0.01)
    raise TimeoutError


def test_no_process_outlives_the_enclave() -> None:
    """When the enclave's end of the control socket closes, as when it is killed, zygote and workers end."""
    zygote = Zygote.start()
    channels = [zygote.spawn()[1] for _ in range(2)]
    processes = [zygote.pid, *_workers(zygote.pid, 2)]
    zygote.close()
    assert _gone(processes)
    for channel in channels:
        channel.close()


def test_no_worker_outlives_the_zygote() -> None:
    """When the zygote is killed its workers end too, and the enclave sees it on the control socket."""
    zygote = Zygote.start()
    _, channel = zygote.spawn()
    workers = _workers(zygote.pid, 1)
    os.kill(zygote.pid, signal.SIGKILL)
    assert _gone(workers)
    assert channel.recv(1) == b""
    with socket.socket(fileno=os.dup(zygote.fileno())) as control:
        control.setblocking(True)
        assert control.recv(1) == b""
    channel.close()
    zygote.close()


def test_a_worker_is_ended_by_number() -> None:
    """Ending one worker ends that one alone; a number that is gone is no error."""
    zygote = Zygote.start()
    (first, one), (_, two) = zygote.spawn(), zygote.spawn()
    _workers(zygote.pid, 2)
    zygote.kill(first)
    assert one.recv(1) == b""
    assert len(_workers(zygote.pid, 1)) == 1
    zygote.kill(first)
    zygote.kill(999)
    assert len(_workers(zygote.pid, 1)) == 1
    zygote.close()
    assert two.recv(1) == b""
    one.close()
    two.close()
