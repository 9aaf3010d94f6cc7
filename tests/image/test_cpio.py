"""The cpio writer and reader: deterministic, strict, and understood by the usual tool."""

import io
from pathlib import Path
import shutil
import stat
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from owner import cpio
from owner.cpio import ArchiveError, Entry

SAMPLE = (
    cpio.directory("etc"),
    cpio.file("etc/odd name", b"x" * 5),
    cpio.file("init", b"#!", 0o755),
    cpio.link("lib", "usr/lib"),
    cpio.directory("usr", 0o555),
    cpio.file("usr/empty", b""),
)


def test_entries_come_back_in_order() -> None:
    """What is written is read back: paths, modes, contents, links."""
    assert tuple(cpio.read(cpio.pack(SAMPLE))) == SAMPLE


def test_order_of_entries_does_not_matter() -> None:
    """The same entries in any order give the same bytes."""
    assert cpio.pack(SAMPLE) == cpio.pack(reversed(SAMPLE))


def test_the_usual_tool_unpacks_it(tmp_path: Path) -> None:
    """GNU cpio gives the same files, links and modes."""
    tool = shutil.which("cpio")
    if tool is None:
        pytest.skip("needs cpio")
    subprocess.run([tool, "-idm", "--quiet"], input=cpio.pack(SAMPLE), cwd=tmp_path, check=True)
    assert (tmp_path / "etc/odd name").read_bytes() == b"x" * 5
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / "init").stat().st_mtime == cpio.TIME


@pytest.mark.parametrize(
    "entries",
    [
        [cpio.file("a/b", b"")],
        [cpio.file("a", b""), cpio.file("a/b", b"")],
        [cpio.file("a", b""), cpio.file("a", b"")],
        [cpio.file("/a", b"")],
        [cpio.file("..", b"")],
        [cpio.file("a\0", b"")],
        [cpio.file("", b"")],
        [cpio.file("TRAILER!!!", b"")],
        [cpio.file("a" * 4097, b"")],
        [cpio.file("\udc80", b"")],
        [Entry(path="d", mode=stat.S_IFDIR | 0o755, data=b"x")],
        [Entry(path="d", mode=stat.S_IFCHR | 0o600)],
        [Entry(path="d", mode=stat.S_IFREG | 0o600 | 1 << 20)],
    ],
)
def test_what_cannot_stand_in_an_archive_is_refused(entries: list[Entry]) -> None:
    """Paths outside, twice or without their directory, and anything but files, directories and links."""
    with pytest.raises(ArchiveError):
        cpio.pack(entries)


PATHS = st.lists(st.sampled_from(["a", "b", "a-b", "a.b", "ä", "z"]), min_size=1, max_size=3).map("/".join)


@settings(max_examples=200, deadline=None)
@given(files=st.dictionaries(PATHS, st.binary(max_size=9), max_size=6))
def test_any_tree_comes_back(files: dict[str, bytes]) -> None:
    """Every tree of files is read back as it was written."""
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    entries = [cpio.file(path, data) for path, data in files.items() if path not in folders] + [cpio.directory(path) for path in folders]
    assert sorted(cpio.read(cpio.pack(entries)), key=lambda entry: entry.path) == sorted(entries, key=lambda entry: entry.path)


def unpacks(data: bytes) -> bool:
    try:
        list(cpio.read(data))
    except ArchiveError:
        return False
    return True


def test_every_flipped_byte_of_the_frame_is_noticed_or_is_content() -> None:
    """The reader accepts a changed archive only where the change is in a name, permission bits or contents."""
    good = cpio.pack([cpio.file("abc", b"12345")])
    accepted = {at for at in range(len(good)) if unpacks(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])}
    permissions = set(range(18, 22))
    name, content = range(110, 113), range(116, 121)
    assert accepted <= permissions | set(name) | set(content)
    assert set(content) <= accepted


def test_every_cut_and_every_appended_byte_is_refused() -> None:
    """No prefix of an archive is one, and nothing may follow."""
    good = cpio.pack(SAMPLE)
    assert not any(unpacks(good[:size]) for size in range(len(good)))
    assert not unpacks(good + b"\0")


def test_archives_of_others_are_refused() -> None:
    """Times, owners, devices, link counts, numbering and order are the writer's own."""
    good = cpio.pack([cpio.file("a", b""), cpio.file("b", b"")])
    for at, value in ((6, b"00000002"), (22, b"00000001"), (30, b"00000001"), (38, b"00000002"), (46, b"00000000"), (102, b"00000001")):
        assert not unpacks(good[:at] + value + good[at + 8 :])
    assert not unpacks(good.replace(b"\0b\0", b"\0A\0").replace(b"a\0", b"c\0", 1))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: cpio.pack(SAMPLE)[:200] + tail))
def test_any_bytes_are_entries_or_our_error(data: bytes) -> None:
    """Any bytes: entries, or ArchiveError."""
    unpacks(data)


def test_write_and_pack_give_the_same_bytes() -> None:
    """`pack` is `write` into memory."""
    out = io.BytesIO()
    cpio.write(SAMPLE, out)
    assert out.getvalue() == cpio.pack(SAMPLE)


def test_a_file_over_the_limit_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte over; no directory with data either."""
    monkeypatch.setattr(cpio, "ENTRY_MAX", 4)
    cpio.pack([cpio.file("a", b"1234")])
    with pytest.raises(ArchiveError):
        cpio.pack([cpio.file("a", b"12345")])


def test_forged_modes_and_sizes_are_refused() -> None:
    """A directory that became a file under its own files, a directory with data, data after the end's name."""
    tree = cpio.pack([cpio.directory("a"), cpio.file("a/b", b"1234")])
    assert unpacks(tree)
    assert not unpacks(tree.replace(b"%08x" % (stat.S_IFDIR | 0o755), b"%08x" % (stat.S_IFREG | 0o755)))
    single = cpio.pack([cpio.file("a", b"1234")])
    assert not unpacks(single.replace(b"%08x" % (stat.S_IFREG | 0o644), b"%08x" % (stat.S_IFDIR | 0o755)))
    at = single.rindex(cpio.MAGIC) + 6 + 8 * 6
    assert not unpacks(single[:at] + b"00000004" + single[at + 8 :] + b"1234")
    for size in (b"00000000", b"00000001", b"7fffffff"):
        name_at = 6 + 8 * 11
        assert not unpacks(single[:name_at] + size + single[name_at + 8 :])
    for size in (b"7fffffff", b"00010000"):
        size_at = 6 + 8 * 6
        assert not unpacks(single[:size_at] + size + single[size_at + 8 :])
