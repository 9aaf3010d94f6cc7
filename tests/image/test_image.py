"""An image from parts: the layout that the bootstrap expects, determinism, refusals, and PCRs that follow the parts."""

from dataclasses import replace
import gzip
import hashlib
import io
import os
from pathlib import Path
import stat

import pytest

from attestation import eif
from attestation.eif_format import SECTION, Kind
from owner import cpio, image
from owner.image import Bootstrap, ImageError

BOOTSTRAP = Bootstrap(kernel=b"kernel", cmdline=b"console=ttyS0", init=b"init")
ROOT = [cpio.directory("usr"), cpio.file("usr/python3", b"#!", 0o755), cpio.link("bin", "usr")]


def ramdisks(built: image.Image) -> list[dict[str, cpio.Entry]]:
    measured = image.measure(built)
    places = [section for section in measured.sections if section.kind is Kind.RAMDISK]
    raw = [built.eif[place.offset + SECTION.size : place.offset + SECTION.size + place.size] for place in places]
    return [{entry.path: entry for entry in cpio.read(gzip.decompress(one))} for one in raw]


def test_the_second_ramdisk_has_root_command_and_an_empty_environment() -> None:
    """`cmd` runs the enclave isolated, `env` is empty, everything else lies below rootfs/ with its mount points."""
    _, application = ramdisks(image.build(BOOTSTRAP, ROOT))
    assert application["cmd"].data == b"/usr/bin/python3\n-I\n-m\nenclave\n"
    assert application["env"].data == b""
    assert application["rootfs/usr/python3"].mode == stat.S_IFREG | 0o755
    mounts = {f"rootfs/{name}" for name in ("dev", "proc", "run", "sys", "tmp")}
    assert set(application) == {"cmd", "env", "rootfs", "rootfs/usr", "rootfs/usr/python3", "rootfs/bin"} | mounts


def test_the_first_ramdisk_has_init_and_the_order_of_modules() -> None:
    """Modules lie beside init, named in the order of loading; AWS's nsm.ko alone needs no list."""
    modules = (("vsock.ko", b"1"), ("nsm.ko", b"2"))
    bootstrap = Bootstrap(kernel=b"k", cmdline=b"c", init=b"init", modules=modules)
    first, _ = ramdisks(image.build(bootstrap, ROOT))
    assert first["init"].mode == stat.S_IFREG | 0o755
    assert first["modules"].data == b"/vsock.ko\n/nsm.ko\n"
    alone = Bootstrap(kernel=b"k", cmdline=b"c", init=b"init", modules=modules[1:])
    assert set(ramdisks(image.build(alone, ROOT))[0]) == {"dev", "init", "nsm.ko"}


def test_equal_parts_give_equal_bytes() -> None:
    """Twice, and in another order of entries: the same file, byte for byte."""
    assert image.build(BOOTSTRAP, ROOT).eif == image.build(BOOTSTRAP, ROOT[::-1]).eif


def test_each_part_moves_its_registers() -> None:
    """Kernel, command line and init move PCR0 and PCR1; the root file system PCR0 and PCR2."""
    before = image.measure(image.build(BOOTSTRAP, ROOT))
    for change in ({"kernel": b"other"}, {"cmdline": b"other"}, {"init": b"other"}):
        after = image.measure(image.build(replace(BOOTSTRAP, **change), ROOT))  # type: ignore[arg-type]
        assert (after.pcr0 != before.pcr0, after.pcr1 != before.pcr1, after.pcr2 == before.pcr2) == (True, True, True)
    after = image.measure(image.build(BOOTSTRAP, [*ROOT, cpio.file("new", b"")]))
    assert (after.pcr0 != before.pcr0, after.pcr1 == before.pcr1, after.pcr2 != before.pcr2) == (True, True, True)


def test_the_report_names_every_part_by_its_hash() -> None:
    """Kernel, command line, init and both ramdisks, as they are in the file."""
    built = image.build(BOOTSTRAP, ROOT)
    sections = {section.sha256.hex() for section in eif.measure(io.BytesIO(built.eif)).sections}
    assert built.parts["kernel"] == hashlib.sha256(b"kernel").hexdigest()
    assert built.parts["init"] == hashlib.sha256(b"init").hexdigest()
    assert {built.parts[name] for name in ("kernel", "cmdline", "bootstrap ramdisk", "application ramdisk")} <= sections


@pytest.mark.parametrize(
    "entries",
    [
        [cpio.file("su", b"", 0o4755)],
        [cpio.file("sg", b"", 0o2755)],
        [cpio.file("all", b"", 0o666)],
        [cpio.file("group", b"", 0o664)],
        [cpio.file("a/b", b"")],
        [cpio.file("a", b""), cpio.file("a", b"")],
    ],
)
def test_a_root_with_such_files_is_refused(entries: list[cpio.Entry]) -> None:
    """Set-uid, set-gid, writable by others, outside a directory, twice."""
    with pytest.raises(ImageError):
        image.application_ramdisk(entries)


@pytest.mark.parametrize("command", [("",), ("a\nb",)])
def test_a_command_that_would_read_as_another_is_refused(command: tuple[str, ...]) -> None:
    """A line break would make two arguments of one, an empty word none."""
    with pytest.raises(ImageError):
        image.application_ramdisk(ROOT, command)


def test_a_compressor_of_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where deflate makes other bytes than elsewhere, PCR2 would differ: no image is built."""
    image.check_compressor()
    monkeypatch.setattr(image, "LEVEL", 1)
    with pytest.raises(ImageError):
        image.build(BOOTSTRAP, ROOT)


def test_gzip_carries_no_name_and_no_time() -> None:
    """The usual tool opens it; ten fixed bytes lead."""
    packed = image.deflated(b"content")
    assert gzip.decompress(packed) == b"content"
    assert packed[:10] == bytes.fromhex("1f8b0800000000000003")


def test_a_directory_is_scanned_without_times_and_owners(tmp_path: Path) -> None:
    """Files, directories, links and modes; a socket or device is refused."""
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "usr/python3").write_bytes(b"#!")
    (root / "usr/python3").chmod(0o755)
    (root / "usr").chmod(0o755)
    (root / "bin").symlink_to("usr")
    os.utime(root / "usr/python3", (5, 5))
    assert sorted(image.scan(root), key=lambda entry: entry.path) == sorted(ROOT, key=lambda entry: entry.path)
    os.mkfifo(root / "pipe")
    with pytest.raises(ImageError):
        image.scan(root)


def test_the_list_of_files_leaves_out_our_modules_alone() -> None:
    """Modes, paths and link targets, sorted; wire/ and enclave/ are measured and not listed."""
    ours = cpio.file("usr/lib/python3/dist-packages/enclave/boot.py", b"")
    near = cpio.file("usr/lib/python3/dist-packages/enclave_not", b"")
    expected = "120777 bin -> usr\n040755 usr\n100644 usr/lib/python3/dist-packages/enclave_not\n100755 usr/python3\n"
    assert image.file_list([*ROOT, ours, near]) == expected


LOCK = "# comment\n\n" + "".join(f"x86_64 {name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in image.BLOBS)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    for name in image.BLOBS:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_blobs_of_the_lock_become_the_bootstrap(blobs: Path) -> None:
    """Kernel, command line without its line break, init and nsm.ko, as AWS's."""
    (blobs / "cmdline").write_bytes(b"console=ttyS0\n")
    lock = LOCK.replace(hashlib.sha256(b"cmdline").hexdigest(), hashlib.sha256(b"console=ttyS0\n").hexdigest())
    bootstrap = image.aws_bootstrap(blobs, lock, "x86_64")
    assert bootstrap == Bootstrap(kernel=b"bzImage", cmdline=b"console=ttyS0", init=b"init", modules=(("nsm.ko", b"nsm.ko"),))


@pytest.mark.parametrize("name", image.BLOBS)
def test_a_blob_that_is_not_the_locks_is_refused(blobs: Path, name: str) -> None:
    """One changed byte in any of the four, another architecture's lock, or no line at all."""
    with pytest.raises(ImageError):
        image.aws_bootstrap(blobs, LOCK.replace(name, "other"), "x86_64")
    (blobs / name).write_bytes(name.encode() + b"!")
    with pytest.raises(ImageError, match=name):
        image.aws_bootstrap(blobs, LOCK, "x86_64")


@pytest.mark.parametrize(
    "line", ["x86_64 init", "x86_64 init 00", f"arm init {'0' * 64}", f"x86_64 init {'A' * 64}", f"x86_64 init {'0' * 64} "]
)
def test_a_malformed_lock_is_refused(line: str) -> None:
    """Every line is ARCHITECTURE NAME SHA256, once."""
    with pytest.raises(ImageError):
        image.parse_blobs_lock(line)
    good = f"x86_64 init {'0' * 64}\n"
    with pytest.raises(ImageError):
        image.parse_blobs_lock(good * 2)


def test_the_projects_own_lock_parses() -> None:
    """blobs.lock is of that form."""
    image.parse_blobs_lock((Path(__file__).resolve().parents[2] / "blobs.lock").read_text())
