"""Plaintext of a model meets no disk: every file that the enclave's processes open for writing is backed by memory."""

import ast
from contextlib import closing
import os
from pathlib import Path

import pytest

from enclave.memory import file_system
from simulator import hypervisor
from simulator.hostile.artifact_attacks import ROWS, wide_model
from simulator.hostile.small import MODEL, WIDTH, booted
from simulator.owner import ModelSpec
from simulator.world import World

MEMORY = {"tmpfs", "ramfs", "rootfs", "devtmpfs", "proc"}  # proc: limits and identity, no file's content
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Runs the simulator's entry under an audit hook that survives every fork, and notes each file opened, before it is.
WATCHED = """
import os, sys
LOG = os.open("opened", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ENTRY = {entry!r}

def note(event, arguments):
    if event == "open":
        try:
            os.write(LOG, (repr((os.getpid(), str(arguments[0]), arguments[2])) + "\\n").encode())
        except OSError:
            pass

sys.addaudithook(note)
with open(ENTRY) as file:
    source = file.read()
sys.argv[0] = ENTRY
exec(compile(source, ENTRY, "exec"), {{"__name__": "__main__", "__file__": ENTRY}})
"""


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def held_for_writing(pid: int) -> list[Path]:
    """The regular files with a name that a process holds open for writing; memfds have none."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = Path(os.readlink(link))
        flags = int(Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0], 8)
        if flags & (os.O_WRONLY | os.O_RDWR) and target.is_file() and target.name != "opened":
            found.append(target)
    return found


def test_every_file_written_is_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From its first line to serving a model with weights of their own, no process of the enclave opens a file on a disk for writing."""
    entry = tmp_path / "watched.py"
    entry.write_text(WATCHED.format(entry=str(hypervisor.ENTRY)), encoding="utf-8")
    with closing(World.create()) as world:
        world.start_kms()
        world.owner.create_key([world.measured()])
        world.owner.seal([ModelSpec(id=MODEL, version="1", onnx=wide_model(1.0))])
        world.owner.publish(world.owner.manifest())
        monkeypatch.setattr(hypervisor, "ENTRY", entry)
        booted(world)
        opened = [ast.literal_eval(line) for line in (world.run / "opened").read_text().splitlines()]
        written = {path for _, path, flags in opened if isinstance(flags, int) and flags & WRITING and path != "/dev/null"}
        weights = [path for path in written if path.endswith("/weights")]
        assert len(weights) == 1
        assert Path(weights[0]).stat().st_size >= 4 * ROWS * WIDTH
        places = {path: file_system(Path(path).parent) for path in written if Path(path).parent.is_dir()}
        assert {path: kind for path, kind in places.items() if kind not in MEMORY} == {}
        if world.enclave is None:
            raise RuntimeError("no enclave")
        processes = family(world.enclave.process.pid)
        assert len(processes) >= 3  # enclave, zygote, worker
        held = {path for pid in processes for path in held_for_writing(pid)}
        assert {path for path in held if file_system(path) not in MEMORY} == set()
