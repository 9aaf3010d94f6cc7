"""The simulated hypervisor measures the code that it starts: one changed line moves PCR2."""

import hashlib
import os
from pathlib import Path
import shutil
import stat

import pytest

from attestation import eif
from owner import cpio
from simulator import hypervisor
from simulator.hypervisor import HypervisorError
from tests.vectors_path import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for package in ("wire", "enclave"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "requirements").mkdir()
    shutil.copy(ROOT / "requirements/enclave.lock", tree / "requirements")
    return tree


def test_the_archive_is_the_same_wherever_and_whenever_it_is_packed(tree: Path, tmp_path: Path) -> None:
    """Another place, other times, other permissions, caches beside the sources: equal bytes."""
    other = tmp_path / "elsewhere" / "tree"
    shutil.copytree(tree, other)
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (other / "enclave" / "__pycache__").mkdir()
    (other / "enclave" / "__pycache__" / "boot.py").write_text("")
    (other / "enclave" / ".boot.py.swp").write_text("")
    assert hypervisor.pack(other) == hypervisor.pack(tree)


def test_the_archive_holds_the_two_packages_and_the_lock_alone(tree: Path) -> None:
    """Every module of wire/ and enclave/, the lock file, their directories, and nothing else."""
    (tree / "simulator").mkdir()
    (tree / "simulator" / "nsm.py").write_text("")
    paths = {entry.path for entry in cpio.read(hypervisor.pack(tree)) if stat.S_ISREG(entry.mode)}
    assert {path.split("/")[0] for path in paths} == {"enclave", "wire", "requirements"}
    assert {path for path in paths if path.startswith("requirements")} == {"requirements/enclave.lock"}
    assert {"enclave/nsm.py", "enclave/__main__.py", "wire/frame.py"} <= paths


@pytest.mark.parametrize("changed", ["enclave/nsm.py", "wire/frame.py", "requirements/enclave.lock"])
def test_one_changed_line_moves_pcr0_and_pcr2(tree: Path, changed: str) -> None:
    """A line more in the enclave's code, the shared code or the lock file is another image; PCR1 stays."""
    before = hypervisor.measure(hypervisor.pack(tree))
    with (tree / changed).open("a") as file:
        file.write("# one more line\n")
    after = hypervisor.measure(hypervisor.pack(tree))
    assert after.pcr2 != before.pcr2
    assert after.pcr0 != before.pcr0
    assert after.pcr1 == before.pcr1


def test_pcr2_is_that_of_an_image_whose_second_ramdisk_is_the_archive() -> None:
    """By hand: SHA-384(48 zeros || SHA-384(archive)); and composing an image with it gives the same three PCRs."""
    measurements = hypervisor.measure(b"archive")
    assert measurements.pcr2 == hashlib.sha384(bytes(48) + hashlib.sha384(b"archive").digest()).digest()
    parts = hypervisor.KERNEL + hypervisor.COMMAND_LINE + hypervisor.BOOTSTRAP
    assert measurements.pcr1 == hashlib.sha384(bytes(48) + hashlib.sha384(parts).digest()).digest()
    assert measurements.pcr0 == hashlib.sha384(bytes(48) + hashlib.sha384(parts + b"archive").digest()).digest()
    assert isinstance(measurements, eif.Measurements)


def test_a_tree_without_its_parts_is_not_packed(tree: Path) -> None:
    """Without the lock file, or without a package, there is nothing to measure."""
    (tree / "requirements/enclave.lock").unlink()
    with pytest.raises(HypervisorError):
        hypervisor.pack(tree)
    shutil.copy(ROOT / "requirements/enclave.lock", tree / "requirements")
    shutil.rmtree(tree / "wire")
    with pytest.raises(HypervisorError):
        hypervisor.pack(tree)


def test_unpacked_files_equal_the_archive_and_nobody_may_write(tree: Path, tmp_path: Path) -> None:
    """The directory holds exactly the archive's files, all read-only, and must not have existed."""
    archive = hypervisor.pack(tree)
    target = tmp_path / "image"
    hypervisor.unpack(archive, target)
    files = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert files == {entry.path: entry.data for entry in cpio.read(archive) if stat.S_ISREG(entry.mode)}
    assert not [path for path in (target, *target.rglob("*")) if path.stat().st_mode & 0o222]
    with pytest.raises(FileExistsError):
        hypervisor.unpack(archive, target)


def test_links_are_not_unpacked(tmp_path: Path) -> None:
    """An archive with a link is none of sources."""
    with pytest.raises(HypervisorError):
        hypervisor.unpack(cpio.pack([cpio.link("enclave", "/etc")]), tmp_path / "image")
