"""Shared memory that no worker can resize or rewrite, and weights that never lie on a disk."""

import errno
import mmap
import os
from pathlib import Path
import stat

import pytest

from enclave import memory
from enclave.memory import WeightsFolder

SHARED = Path("/dev/shm")


def test_an_area_cannot_be_resized() -> None:
    """A worker that shrank a shared area would end the enclave with SIGBUS: the kernel refuses, growing too."""
    descriptor = memory.area("a", 5000)
    assert os.fstat(descriptor).st_size == 5000
    for size in (0, 4096, 9000):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EPERM):
            os.ftruncate(descriptor, size)
    with mmap.mmap(descriptor, 0) as shared:
        shared[0] = 1
    os.close(descriptor)


def test_a_constant_cannot_be_written() -> None:
    """A model's graph is the same for every worker started from it, whatever an earlier one tried."""
    descriptor = memory.constant("c", b"graph")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EPERM):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 0, access=mmap.ACCESS_WRITE)
    assert os.pread(descriptor, 10, 0) == b"graph"
    os.close(descriptor)


def test_weights_are_readable_by_others_when_finished_and_then_removed() -> None:
    """Weights are private while they are filled, readable for the workers' user afterwards, gone at the end."""
    folder = WeightsFolder(SHARED)
    descriptor = folder.create()
    os.write(descriptor, b"w")
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    path = folder.finish(descriptor)
    assert (path.name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == ("weights", b"w", 0o444)
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o711
    unfinished = folder.create()
    folder.remove()
    assert not path.exists()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EBADF):
        os.fstat(unfinished)


def test_a_strange_descriptor_is_no_weights() -> None:
    """Only a file that the folder made itself becomes weights."""
    folder = WeightsFolder(SHARED)
    with pytest.raises(ValueError, match="folder"):
        folder.finish(0)
    folder.remove()


def test_only_memory_is_memory() -> None:
    """A folder on anything else than a memory-backed file system is refused."""
    assert memory.file_system(SHARED) == "tmpfs"
    assert memory.file_system(Path("/proc")) == "proc"
    with pytest.raises(ValueError, match="memory"):
        WeightsFolder(Path("/proc"))
