"""Ending processes of a world hard, starting them again, and looking for what they left behind."""

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import shutil
import time

from simulator.hypervisor import NSM_SOCKET
from simulator.world import World
from wire import ports

SECONDS = 20.0


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


def restart_enclave(world: World, *, wait: bool = True) -> None:
    """Another enclave of the same image behind the same parent."""
    clear_enclave(world)
    world.start_enclave()
    if wait:
        world.wait_serving()


def restart_parent(world: World) -> None:
    """The parent again, on the same addresses."""
    assert world.parent is not None
    world.parent.kill()
    for path in (Path(world.endpoint.removeprefix("unix:")), world.run / f"parent_{ports.EGRESS}"):
        path.unlink(missing_ok=True)
    world.start_parent()
