"""The `newc` cpio archive that a kernel unpacks as a ramdisk: a deterministic writer and a strict reader of the same.

Written archives depend on names, modes and contents alone: sorted, owned by root, one fixed time, numbered from 1.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import io
import stat
from typing import BinaryIO

from owner.errors import OwnerError

MAGIC = b"070701"
HEADER_BYTES = 110
TRAILER = "TRAILER!!!"
NAME_MAX = 4096  # PATH_MAX, the kernel's own limit for a name here
ENTRY_MAX = 1 << 30
TIME = 1  # 0 makes some tools take the present


class ArchiveError(OwnerError):
    """The bytes are no archive that `write` makes, or an entry cannot stand in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: `path` relative, with `/` between parts; `mode` as in st_mode; `data` a file's bytes or a link's target."""

    path: str
    mode: int
    data: bytes = b""


def directory(path: str, permissions: int = 0o755) -> Entry:
    """A directory entry."""
    return Entry(path=path, mode=stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file's entry."""
    return Entry(path=path, mode=stat.S_IFREG | permissions, data=data)


def link(path: str, target: str) -> Entry:
    """A symbolic link's entry."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def _path(path: str) -> str:
    parts = path.split("/")
    size = len(path.encode(errors="replace"))
    odd = "\0" in path or path == TRAILER or any("\ud800" <= character <= "\udfff" for character in path)
    if not all(parts) or any(part in (".", "..") for part in parts) or odd or size > NAME_MAX:
        raise ArchiveError("a path in an archive is relative, plain and shorter than 4096 bytes")
    return path


def _kind(mode: int) -> int:
    kind = stat.S_IFMT(mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) or mode & ~0o177777:
        raise ArchiveError("an archive holds files, directories and symbolic links")
    return kind


def _header(number: int, mode: int, size: int, name: bytes) -> bytes:
    links = 1  # the kernel joins entries of one inode number where it is more
    fields = (number, mode, 0, 0, links, TIME, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = MAGIC + b"".join(b"%08x" % field for field in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


def write(entries: Iterable[Entry], out: BinaryIO) -> None:
    """Write an archive of these entries, whatever their order. Raises: ArchiveError for a path twice, or one without its directory."""
    directories = {""}
    last = None
    number = 0
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.path), 1):
        path = _path(entry.path)
        if path == last or path.rpartition("/")[0] not in directories:
            raise ArchiveError(f"{path} stands twice or outside any directory of the archive")
        if _kind(entry.mode) == stat.S_IFDIR:
            directories.add(path)
        if len(entry.data) > ENTRY_MAX or (entry.data and stat.S_ISDIR(entry.mode)):
            raise ArchiveError(f"{path} has more data than it may")
        last = path
        out.write(_header(number, entry.mode, len(entry.data), path.encode()))
        out.write(entry.data)
        out.write(bytes(-len(entry.data) % 4))
    out.write(_header(number + 1, 0, 0, TRAILER.encode()))


def pack(entries: Iterable[Entry]) -> bytes:
    """What `write` writes, as bytes."""
    out = io.BytesIO()
    write(entries, out)
    return out.getvalue()


def _fields(head: bytes) -> list[int]:
    if len(head) < HEADER_BYTES or head[:6] != MAGIC or any(c not in b"0123456789abcdef" for c in head[6:]):
        raise ArchiveError("no newc header where one must stand")
    return [int(head[at : at + 8], 16) for at in range(6, HEADER_BYTES, 8)]


def read(archive: bytes) -> Iterator[Entry]:
    """The entries of an archive that `write` made. Raises: ArchiveError for any other bytes, at the latest at the end."""
    at, number, last = 0, 0, ""
    directories = {""}
    while True:
        number += 1
        ino, mode, *rest, size, major, minor, rmajor, rminor, name_size, check = _fields(archive[at : at + HEADER_BYTES])
        if [ino, *rest, major, minor, rmajor, rminor, check] != [number, 0, 0, 1, TIME, 0, 0, 0, 0, 0]:
            raise ArchiveError("an entry has fields that are not this writer's")
        name_end = at + HEADER_BYTES + name_size
        data_at = name_end + -name_end % 4
        data_end = data_at + size
        end = data_end + -data_end % 4
        name, padding = archive[at + HEADER_BYTES : name_end], archive[name_end:data_at] + archive[data_end:end]
        # whatever reaches beyond the archive has no header after it
        if name[-1:] != b"\0" or padding.strip(b"\0"):
            raise ArchiveError("padding of an entry is not zero")
        try:
            path = name[:-1].decode()
        except UnicodeDecodeError:
            raise ArchiveError("a path is no UTF-8") from None
        if path == TRAILER:
            if mode or size or end != len(archive):
                raise ArchiveError("bytes follow the archive's end")
            return
        kind = _kind(mode)
        if _path(path) <= last or path.rpartition("/")[0] not in directories or (size and kind == stat.S_IFDIR):
            raise ArchiveError("an entry is out of order or outside any directory")
        if kind == stat.S_IFDIR:
            directories.add(path)
        last = path
        yield Entry(path=path, mode=mode, data=archive[data_at:data_end])
        at = end
