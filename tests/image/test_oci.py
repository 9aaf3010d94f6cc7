"""Reading an OCI layout: digests checked, layers in order, whiteouts, and nothing outside the root."""

from collections.abc import Sequence
import contextlib
import gzip
import hashlib
import io
import json
from pathlib import Path
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from owner import cpio, oci
from owner.image import ImageError


def layer(*members: tuple[str, bytes | str | None], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar of (name, content): bytes a file, text a symbolic link, None a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            else:
                member.type, member.mode, member.size = kind, 0o644, len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def layout(folder: Path, layers: Sequence[bytes], *, manifests: int = 1) -> Path:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = put(json.dumps({"layers": [put(one) for one in layers]}).encode())
    (folder / "index.json").write_text(json.dumps({"manifests": [manifest] * manifests}))
    return folder


def paths(entries: Sequence[cpio.Entry]) -> dict[str, bytes]:
    return {entry.path: entry.data for entry in entries}


def test_layers_apply_in_order(tmp_path: Path) -> None:
    """Later files replace earlier ones; plain and compressed layers alike."""
    first = layer(("./etc", None), ("etc/a", b"1"), ("etc/b", b"1"))
    second = gzip.compress(layer(("/etc/b", b"2"), ("etc/c", "b")))
    assert paths(oci.read(layout(tmp_path / "o", [first, second]))) == {"etc": b"", "etc/a": b"1", "etc/b": b"2", "etc/c": b"b"}


def test_whiteouts_remove_what_lower_layers_brought(tmp_path: Path) -> None:
    """A whiteout takes a file or a whole directory."""
    first = layer(("d", None), ("d/a", b""), ("d/b", b""), ("e", None), ("e/a", b""))
    second = layer(("d/.wh.a", b""), (".wh.e", b""))
    assert set(paths(oci.read(layout(tmp_path / "o", [first, second])))) == {"d", "d/b"}


@pytest.mark.parametrize("opaque_first", [True, False])
def test_an_opaque_directory_keeps_its_own_layer_alone(tmp_path: Path, opaque_first: bool) -> None:
    """Wherever the mark stands in its layer."""
    first = layer(("d", None), ("d/a", b""), ("f", b""))
    marks = (("d/.wh..wh..opq", b""), ("d/b", b""))
    second = layer(*(marks if opaque_first else marks[::-1]))
    assert set(paths(oci.read(layout(tmp_path / "o", [first, second])))) == {"d", "d/b", "f"}


def test_a_file_in_a_directorys_place_takes_it_away(tmp_path: Path) -> None:
    """What was below it is gone."""
    entries = oci.read(layout(tmp_path / "o", [layer(("d", None), ("d/a", b"")), layer(("d", b"file"))]))
    assert paths(entries) == {"d": b"file"}


def test_a_hard_link_is_its_target(tmp_path: Path) -> None:
    """And one to nothing, or out of the root, is refused."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
        hard = tarfile.TarInfo("b")
        hard.type, hard.linkname = tarfile.LNKTYPE, "./a"
        archive.addfile(hard)
    assert paths(oci.read(layout(tmp_path / "o", [out.getvalue()]))) == {"a": b"x", "b": b"x"}
    for index, bad in enumerate(("nothing", "../a")):
        hard.linkname = bad
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(hard)
        with pytest.raises(ImageError):
            oci.read(layout(tmp_path / f"bad{index}", [out.getvalue()]))


def test_paths_out_of_the_root_and_devices_are_refused(tmp_path: Path) -> None:
    """`..` anywhere in a name, a device."""
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "a", [layer(("../x", b""))]))
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "b", [layer(("d/../../x", b""))]))
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "c", [layer(("null", b""), kind=tarfile.CHRTYPE)]))


def test_a_blob_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    """One byte changed in the layer, or in the manifest."""
    for index, name in enumerate(("layer", "manifest")):
        place = layout(tmp_path / name, [layer(("a", b"1"))])
        blobs = sorted((place / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        target = blobs[-1] if name == "layer" else blobs[0]
        target.write_bytes(target.read_bytes() + b" ")
        with pytest.raises(ImageError):
            oci.read(place)
        assert index in (0, 1)


def test_a_layout_of_no_or_several_images_is_refused(tmp_path: Path) -> None:
    """Exactly one manifest, with at least one layer."""
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "two", [layer(("a", b""))], manifests=2))
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "none", [layer(("a", b""))], manifests=0))
    with pytest.raises(ImageError):
        oci.read(layout(tmp_path / "empty", []))


@pytest.mark.parametrize("layers", [5, True, "x", {"a": 1}, None, [], [1]])
def test_layers_that_are_no_list_of_descriptors_are_refused(tmp_path: Path, layers: object) -> None:
    """In a manifest whose own digest is right."""
    place = layout(tmp_path / "o", [layer(("a", b""))])
    manifest = json.dumps({"layers": layers}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    (place / "blobs/sha256" / digest).write_bytes(manifest)
    (place / "index.json").write_text(json.dumps({"manifests": [{"digest": f"sha256:{digest}"}]}))
    with pytest.raises(ImageError):
        oci.read(place)


def test_an_index_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more than the limit."""
    place = layout(tmp_path / "o", [layer(("a", b""))])
    longest = max(path.stat().st_size for path in (place / "index.json", *(place / "blobs/sha256").iterdir()))
    monkeypatch.setattr(oci, "INDEX_MAX", longest)
    assert oci.read(place)
    monkeypatch.setattr(oci, "INDEX_MAX", (place / "index.json").stat().st_size - 1)
    with pytest.raises(ImageError):
        oci.read(place)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=600) | st.tuples(st.integers(0, 1535), st.integers(0, 255)))
def test_any_layer_is_entries_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes | tuple[int, int]) -> None:
    """Any bytes, and any one byte changed in a good layer: entries or ImageError."""
    good = bytearray(layer(("d", None), ("d/a", b"1")))
    if isinstance(data, tuple):
        good[data[0]] = data[1]
        data = bytes(good)
    with contextlib.suppress(ImageError):
        oci.read(layout(tmp_path_factory.mktemp("o") / "o", [data]))


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.sampled_from([b"[]", b"{}", b'{"manifests":{}}', b'{"manifests":[1]}', b'{"manifests":[{"digest":1}]}'])
)
def test_any_index_is_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes in place of the index: ImageError."""
    place = layout(tmp_path_factory.mktemp("i") / "o", [layer(("a", b""))])
    (place / "index.json").write_bytes(data)
    with pytest.raises(ImageError):
        oci.read(place)
