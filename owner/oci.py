"""Read the root file system out of an OCI image layout (a directory as buildah, skopeo and Docker write it).

Layers are applied in order with their whiteouts, owners and times dropped. Every blob is checked against the digest that
names it, from the index down.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
import re
import stat
import tarfile

from owner import cpio
from owner.cpio import Entry
from owner.image import ImageError

INDEX_MAX = 4 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


def _blob(layout: Path, descriptor: object) -> Path:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ImageError("a descriptor of the layout has no SHA-256 digest")
    path = layout / "blobs" / "sha256" / match[1]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != match[1]:
            raise ImageError("a blob of the layout is not what its name says")
    return path


def _object(path: Path) -> dict[str, object]:
    if path.stat().st_size > INDEX_MAX:
        raise ImageError("an index or manifest of the layout is too long")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ImageError("an index or manifest of the layout is no JSON") from None
    if not isinstance(value, dict):
        raise ImageError("an index or manifest of the layout is no object")
    return value


def _name(path: str) -> str:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".")]
    if ".." in parts:
        raise ImageError("a layer names a path outside the root")
    return "/".join(parts)


def _entry(name: str, member: tarfile.TarInfo, layer: tarfile.TarFile, found: dict[str, Entry]) -> Entry:
    mode = stat.S_IMODE(member.mode)
    if member.isdir():
        return cpio.directory(name, mode)
    if member.issym():
        return cpio.link(name, member.linkname)
    if member.islnk():
        target = found.get(_name(member.linkname))
        if target is None:
            raise ImageError(f"{name} is a hard link to nothing")
        return Entry(path=name, mode=target.mode, data=target.data)
    content = layer.extractfile(member) if member.isreg() else None
    if content is None:
        raise ImageError(f"{name} is neither file nor directory nor link")
    return cpio.file(name, content.read(), mode)


def _remove(found: dict[str, Entry], name: str, kept: set[str], *, itself: bool) -> None:
    below = f"{name}/" if name else ""
    for path in [path for path in found if path not in kept and (path.startswith(below) or (itself and path == name))]:
        del found[path]


def _apply(layer: tarfile.TarFile, found: dict[str, Entry]) -> None:
    """Put one layer over what the lower ones left; a whiteout never removes what its own layer brings."""
    own: set[str] = set()
    for member in layer:
        name = _name(member.name)
        folder, _, last = name.rpartition("/")
        if last == _OPAQUE:
            _remove(found, folder, own, itself=False)
        elif last.startswith(_WHITEOUT):
            _remove(found, f"{folder}/{last[len(_WHITEOUT) :]}".lstrip("/"), own, itself=True)
        elif name:
            entry = _entry(name, member, layer, found)
            if not stat.S_ISDIR(entry.mode):
                _remove(found, name, set(), itself=True)
            found[name] = entry
            own.add(name)


def read(layout: Path) -> list[Entry]:
    """The files of the layout's only image. Raises: ImageError, OSError."""
    manifests = _object(layout / "index.json").get("manifests")
    if not isinstance(manifests, list) or len(manifests) != 1:
        raise ImageError("the layout has not exactly one image")
    layers = _object(_blob(layout, manifests[0])).get("layers")
    if not isinstance(layers, list) or not layers:
        raise ImageError("the image has no layers")
    found: dict[str, Entry] = {}
    for descriptor in layers:
        path = _blob(layout, descriptor)
        try:
            with tarfile.open(path, "r:*") as layer:
                _apply(layer, found)
        except (tarfile.TarError, EOFError, UnicodeError) as error:
            raise ImageError("a layer is no tar archive, or a cut one") from error
    return sorted(found.values(), key=lambda entry: entry.path)
