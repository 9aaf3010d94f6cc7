"""The enclave's reader: what is pinned, in which order, and what a lying feed gets."""

from collections.abc import Callable, Iterable
import contextlib
from dataclasses import replace
import os

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from enclave import artifact as reader
from enclave.artifact import ArtifactError
from tests.artifact import make
from wire import artifact
from wire.errors import BootFailure
from wire.manifest import Part, encryption_context

PLAINTEXT = bytes(at % 253 for at in range(100))
DATA = make.seal(PLAINTEXT, frame_length=32)
PART = make.part(DATA)


def feed(data: bytes, size: int = 50) -> reader.Fetch:
    """A feed that delivers ranges of `data` in pieces of `size`, each valid until the next."""

    def fetch(offset: int, length: int) -> Iterable[memoryview]:
        buffer = bytearray(size)
        for piece in make.slices(data[offset : offset + length], size):
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(size)

    return fetch


def read(data: bytes, part: Part = PART, *, fetch: reader.Fetch | None = None, data_key: bytes = make.DATA_KEY) -> bytes:
    """The whole way from feed to plaintext."""
    fetch = fetch or feed(data)
    head = reader.read_header(fetch, part, key_arn=make.ARN, context=make.CONTEXT)
    sink = bytearray(part.length)
    reader.open_part(fetch, part, data_key, reader.MemorySink(sink), header=head)
    return bytes(sink)


def failure(call: Callable[[], object]) -> BootFailure:
    """The boot failure that a call must end in."""
    with pytest.raises(ArtifactError) as caught:
        call()
    return caught.value.boot_failure


@pytest.mark.parametrize("size", [1, 31, 64, 1000])
def test_a_part_opens(size: int) -> None:
    """The pinned artifact opens to its plaintext, however the feed slices it."""
    assert PLAINTEXT == read(DATA, fetch=feed(DATA, size))


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64])
def test_every_shape_of_the_final_frame(length: int) -> None:
    """Empty, short and full final frames are read."""
    data = make.seal(PLAINTEXT[:length], frame_length=32)
    assert PLAINTEXT[:length] == read(data, make.part(data))


HEADER_SUBSTITUTES = {
    "another header digest": replace(PART, header_sha256=bytes(32)),
    "another commitment": replace(PART, commitment=bytes(32)),
    "another length": replace(PART, length=PART.length - 1),
    "another artifact length": replace(PART, artifact_length=PART.artifact_length - 1),
    "an artifact shorter than its header": replace(PART, artifact_length=40),
}


@pytest.mark.parametrize("name", HEADER_SUBSTITUTES)
def test_the_header_is_the_pinned_one(name: str) -> None:
    """What the manifest pins of the header is compared before KMS is asked, each value for itself."""
    part = HEADER_SUBSTITUTES[name]
    assert BootFailure.ARTIFACT_HEADER == failure(lambda: reader.check_header(DATA, part, key_arn=make.ARN, context=make.CONTEXT))


def _pinned(**changes: object) -> tuple[bytes, Part]:
    data = make.seal(PLAINTEXT, frame_length=32, **changes)
    return data, make.part(data)


OTHER_ARN = make.ARN[:-1] + "1"
HEADER_CONTENTS = {
    "another key": {"data_keys": (replace(make.EDK, info=OTHER_ARN),)},
    "another provider": {"data_keys": (replace(make.EDK, provider="raw"),)},
    "two data keys": {"data_keys": (make.EDK, make.EDK)},
    "another model": {"context": encryption_context(bytes(range(32)), "n", 1)},
    "another owner": {"context": encryption_context(bytes(32), "m", 1)},
    "another epoch": {"context": encryption_context(bytes(range(32)), "m", 2)},
    "an entry more": {"context": {**make.CONTEXT, "extra": "1"}},
    "an entry less": {"context": {name: value for name, value in make.CONTEXT.items() if name != "cloister-format"}},
}


@pytest.mark.parametrize("name", HEADER_CONTENTS)
def test_the_header_names_this_key_and_context(name: str) -> None:
    """A header that the manifest pins is still refused where it names another key, owner, model or epoch than measured state does."""
    data, part = _pinned(**HEADER_CONTENTS[name])
    assert BootFailure.ARTIFACT_HEADER == failure(lambda: reader.check_header(data, part, key_arn=make.ARN, context=make.CONTEXT))


def test_another_data_key_stops_before_the_first_frame() -> None:
    """A data key that the parent chose fails at the commitment, and not one byte of a frame is asked for."""

    def fetch(offset: int, length: int) -> Iterable[bytes]:
        pytest.fail("asked for frames")

    head = reader.read_header(feed(DATA), PART, key_arn=make.ARN, context=make.CONTEXT)
    sink = bytearray(PART.length)
    assert BootFailure.ARTIFACT_COMMITMENT == failure(
        lambda: reader.open_part(fetch, PART, bytes(32), reader.MemorySink(sink), header=head)
    )
    assert not any(sink)


def test_model_and_key_swapped_together() -> None:
    """The parent's own model under the parent's own key, well formed in itself, fails at the header's digest."""
    mine = make.seal(b"another model".ljust(100), data_key=bytes(32), frame_length=32)
    assert (len(mine), BootFailure.ARTIFACT_HEADER) == (len(DATA), failure(lambda: read(mine, data_key=bytes(32))))


def test_every_flipped_byte_is_refused() -> None:
    """Any byte changed, in the header or behind it, is refused."""
    for at in range(len(DATA)):
        changed = DATA[:at] + bytes((DATA[at] ^ 0x40,)) + DATA[at + 1 :]
        assert failure(lambda changed=changed: read(changed)) in (BootFailure.ARTIFACT_HEADER, BootFailure.ARTIFACT_DAMAGED)


@pytest.mark.parametrize("data", [*(DATA[:end] for end in range(0, len(DATA), 3)), DATA + b"\0", DATA + DATA[-40:]])
def test_every_truncation_and_extension_is_refused(data: bytes) -> None:
    """A feed that ends early or goes on is refused, at frame boundaries too, whether it does so for the header or behind it."""

    def fetch(offset: int, length: int) -> Iterable[bytes]:
        return make.slices(data[offset:], 37)

    assert failure(lambda: read(b"", fetch=fetch)) in (BootFailure.ARTIFACT_DIGEST, BootFailure.ARTIFACT_HEADER)
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    sink = reader.MemorySink(bytearray(PART.length))
    assert BootFailure.ARTIFACT_DIGEST == failure(lambda: reader.open_part(fetch, PART, make.DATA_KEY, sink, header=head))


def test_an_endless_feed_is_cut() -> None:
    """A feed that never ends costs one header, or one artifact, and no more."""
    asked = 0

    def fetch(offset: int, length: int) -> Iterable[bytes]:
        nonlocal asked
        while True:
            asked += 64
            yield bytes(64)

    assert BootFailure.ARTIFACT_DIGEST == failure(lambda: read(b"", fetch=fetch))
    assert asked <= len(DATA) + 64
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    asked = 0
    sink = bytearray(PART.length)
    failure(lambda: reader.open_part(fetch, PART, make.DATA_KEY, reader.MemorySink(sink), header=head))
    assert asked <= len(DATA) + 64


def test_the_whole_digest_is_checked() -> None:
    """The artifact's own digest, the model's public name, is the manifest's."""
    assert BootFailure.ARTIFACT_DIGEST == failure(lambda: read(DATA, replace(PART, artifact_sha256=bytes(32))))


def test_the_sink_has_the_parts_length() -> None:
    """A sink of another length is a mistake of ours and takes nothing."""
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    for size in (PART.length - 1, PART.length + 1):
        with pytest.raises(ValueError, match="another length"):
            reader.open_part(feed(DATA), PART, make.DATA_KEY, reader.MemorySink(bytearray(size)), header=head)


def test_what_the_feed_raises_is_the_feeds() -> None:
    """A feed that breaks is told apart from one that lies."""

    class Broken(Exception):
        pass

    def fetch(offset: int, length: int) -> Iterable[bytes]:
        if offset:
            yield DATA[offset : offset + 40]
        raise Broken

    with pytest.raises(Broken):
        reader.read_header(fetch, PART, key_arn=make.ARN, context=make.CONTEXT)
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    with pytest.raises(Broken):
        reader.open_part(fetch, PART, make.DATA_KEY, reader.MemorySink(bytearray(PART.length)), header=head)


@given(st.lists(st.binary(max_size=120), max_size=8), st.integers(0, len(DATA)))
@settings(max_examples=200, deadline=None)
def test_any_feed_gives_the_model_or_our_error(pieces: list[bytes], keep: int) -> None:
    """Whatever a feed delivers: the pinned plaintext, or our error."""

    def fetch(offset: int, length: int) -> Iterable[bytes]:
        return [DATA[offset : min(offset + length, keep)], *pieces]

    with contextlib.suppress(ArtifactError):
        assert PLAINTEXT == read(b"", fetch=fetch)


def test_into_a_file() -> None:
    """A file backed by memory takes the plaintext frame by frame, also where it takes only part of a write."""
    descriptor = os.memfd_create("weights")
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    reader.open_part(feed(DATA), PART, make.DATA_KEY, reader.FileSink(descriptor), header=head)
    assert PLAINTEXT == os.pread(descriptor, 1000, 0)
    os.close(descriptor)


def test_short_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some of the bytes is followed by the rest."""
    descriptor = os.memfd_create("weights")
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:5], at))
    head = reader.check_header(DATA, PART, key_arn=make.ARN, context=make.CONTEXT)
    reader.open_part(feed(DATA), PART, make.DATA_KEY, reader.FileSink(descriptor), header=head)
    assert PLAINTEXT == os.pread(descriptor, 1000, 0)
    os.close(descriptor)


def test_a_larger_model() -> None:
    """More full frames of 1 MiB than are held at once go through as they are."""
    plaintext = b"".join(bytes((n,)) * artifact.FRAME_BYTES for n in range(2 * reader.HELD + 2)) + b"tail"
    data = make.seal(plaintext)
    assert plaintext == read(data, make.part(data), fetch=feed(data, 1 << 20))
