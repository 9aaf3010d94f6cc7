"""Memory shared with model workers, and the memory-backed folder for weights: never a disk, never more than agreed."""

import fcntl
import mmap
import os
from pathlib import Path
import shutil
import stat
import tempfile

from wire.onnx_profile import WEIGHTS_FILE

# Nobody can change the size afterwards: a worker that shrank its area would otherwise end the enclave with SIGBUS.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "rootfs"})


def area(name: str, length: int) -> int:
    """The descriptor of a shared area of at least one page; its pages are taken when they are first written."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, max(length, mmap.PAGESIZE))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def constant(name: str, content: bytes | memoryview) -> int:
    """The descriptor of an area with this content, which nobody can change."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_WRITE)
    return descriptor


def file_system(path: Path) -> str:
    """The type of the file system that `path` is on, as the kernel names it; empty if it does not tell."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return ""


class WeightsFolder:
    """Where models' weights lie while workers may need them again: one folder each, in a memory-backed file system."""

    def __init__(self, parent: Path) -> None:
        """Raises ValueError if `parent` is not backed by memory."""
        if file_system(parent) not in _MEMORY_FILE_SYSTEMS:
            raise ValueError("the folder for weights is not in a memory-backed file system")
        self._root = Path(tempfile.mkdtemp(prefix="weights-", dir=parent))
        self._root.chmod(0o711)
        self._files: dict[int, Path] = {}

    def create(self) -> int:
        """The descriptor of a new empty file, to be filled and then given to `ModelHost.load`."""
        folder = Path(tempfile.mkdtemp(dir=self._root))
        folder.chmod(0o711)
        path = folder / WEIGHTS_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._files[descriptor] = path
        return descriptor

    def finish(self, descriptor: int) -> Path:
        """Close a filled file: from here on it is only read. Raises ValueError for a descriptor that is not from here."""
        path = self._files.pop(descriptor, None)
        if path is None:
            raise ValueError("not a file of this folder")
        os.close(descriptor)
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        return path

    def remove(self) -> None:
        """Remove everything."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()
        shutil.rmtree(self._root, ignore_errors=True)
