"""Ending processes of a world hard, starting them again, and looking for what they left behind."""

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import re
import shutil
import socket
import time

from simulator.hypervisor import NSM_SOCKET
from simulator.world import World
from wire import ports

SECONDS = 20.0
# In a run's directory: what the world and its hypervisor put there, and the sockets of a parent while it runs.
WORLDS = {"image", NSM_SOCKET, "parent.toml", "credentials.json"}
PARENTS = {"parent.sock", "metrics", *(f"parent_{port}" for port in (ports.FEED, ports.STATUS, ports.CREDENTIALS, ports.EGRESS))}


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether it held within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _links(pid: str) -> str:
    """Where a process runs and what it was started with; empty for one that is gone, or not ours to look at."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") + " " + Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processes(directory: Path) -> list[int]:
    """Every process of a world, whoever started it."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and int(pid) != os.getpid() and str(directory) in _links(pid)]


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    with contextlib.suppress(OSError):
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return []


def family(pid: int) -> list[int]:
    """`pid`, what it started, and what that started."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def gone(pids: list[int]) -> bool:
    """Whether all of them have ended in time; who waits for its parent to take note of it has."""
    return until(lambda: not any(_links(str(pid)) for pid in pids))


def left(run: Path) -> set[str]:
    """What enclave and parent have left in the directory of their run."""
    return set(os.listdir(run)) - WORLDS


def http(world: World, path: str) -> str:
    """The answer of the parent's own HTTP port, head and body; empty where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream, contextlib.suppress(OSError):
        stream.settimeout(SECONDS)
        stream.connect(str(world.run / "metrics"))
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n".encode())
        return stream.makefile("rb").read().decode()
    return ""


def metric(world: World, name: str) -> float:
    """A metric of the parent, all labels together."""
    return sum(map(float, re.findall(rf"^cloister_{name}(?:{{.*}})? (\S+)$", http(world, "/metrics"), re.MULTILINE)))


def stage(world: World) -> str:
    """The boot stage that the parent logged last."""
    reached = [line for line in (world.parent.text() if world.parent is not None else "").splitlines() if "reached stage" in line]
    return reached[-1].rpartition(" ")[2] if reached else ""


def zygote(world: World) -> int:
    """The enclave's process that forks workers."""
    assert world.enclave is not None
    return children(world.enclave.process.pid)[0]


def workers(world: World) -> list[int]:
    """The processes that run models now."""
    return children(zygote(world))


def kill_enclave(world: World) -> None:
    """As if the enclave had died; its security module goes with it."""
    assert world.enclave is not None
    world.enclave.process.kill()
    world.enclave.process.wait()


def clear_enclave(world: World) -> None:
    """What the next enclave in the same run directory must not find; vsock and a fresh virtual machine leave nothing."""
    world.stop_enclave()
    image = world.run / "image"
    for path in (image, *image.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(image)
    for name in (NSM_SOCKET, f"enclave_{ports.SESSION}"):
        (world.run / name).unlink(missing_ok=True)
    for weights in world.run.glob("weights-*"):
        shutil.rmtree(weights)


def restart_enclave(world: World, *, wait: bool = True) -> None:
    """Another enclave of the same image behind the same parent."""
    clear_enclave(world)
    world.start_enclave()
    if wait:
        world.wait_serving()


def restart_parent(world: World, *, limits: str = "") -> None:
    """The parent again, on the same addresses."""
    assert world.parent is not None
    world.parent.kill()
    # What the new one is waited for by.
    for path in (Path(world.endpoint.removeprefix("unix:")), world.run / f"parent_{ports.EGRESS}"):
        path.unlink(missing_ok=True)
    world.start_parent(limits=limits)
