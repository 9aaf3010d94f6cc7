"""The message format: against aws-encryption-sdk's own messages, and every bit of ours."""

import json
from pathlib import Path
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest

from tests.artifact import make
from wire import artifact
from wire.errors import WireError


def test_the_sdks_messages_open(shared_vectors: Path) -> None:
    """Messages of aws-encryption-sdk open to their plaintext; the signed suite is refused."""
    known = json.loads((shared_vectors / "esdk" / "vectors.json").read_text())
    data_key, plaintext = bytes.fromhex(known["data_key_hex"]), bytes(range(256)) * 20
    for name, facts in known["files"].items():
        data = (shared_vectors / "esdk" / name).read_bytes()
        if facts["alg"].endswith("ECDSA_P384"):
            with pytest.raises(artifact.MalformedArtifactError):
                artifact.parse_header(data)
            continue
        head = artifact.parse_header(data)
        assert (facts["ec"], facts["frame"]) == (dict(head.context), head.frame_length)
        assert plaintext == make.unseal(data, data_key)


def test_the_sdks_header_is_ours(shared_vectors: Path) -> None:
    """From the same key, message id and context our writer makes the SDK's header, byte for byte."""
    for name in ("v2_0478_frame1024_ec.bin", "v2_0478_frame1M.bin"):
        head = artifact.parse_header((shared_vectors / "esdk" / name).read_bytes())
        ours = artifact.build_header(
            data_key=make.DATA_KEY,
            message_id=head.message_id,
            context=dict(head.context),
            data_keys=head.data_keys,
            frame_length=head.frame_length,
        )
        assert head == ours


def test_the_sdks_single_frame_is_ours(shared_vectors: Path) -> None:
    """A message of one frame is the SDK's, byte for byte."""
    data = (shared_vectors / "esdk" / "v2_0478_frame1M.bin").read_bytes()
    head = artifact.parse_header(data)
    ours = make.seal(bytes(range(256)) * 20, message_id=head.message_id, context=dict(head.context), data_keys=head.data_keys)
    assert data == ours


def test_every_bit_counts() -> None:
    """Each single bit flipped anywhere is refused: header, frame fields, ciphertext and tags."""
    data = make.seal(bytes(40), frame_length=16)
    for at in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(WireError):
            make.unseal(bytes(flipped))


def test_every_truncation_is_refused() -> None:
    """Cut anywhere, the message is refused, at frame boundaries too."""
    data = make.seal(bytes(range(48)), frame_length=16)
    for end in range(len(data)):
        with pytest.raises(WireError):
            make.unseal(data[:end])


def test_something_behind_is_refused() -> None:
    """Bytes behind the final frame are refused, another frame among them."""
    data = make.seal(bytes(32), frame_length=16)
    last = make.layout(data).frame(2)
    for tail in (b"\0", data[last.offset :], bytes(artifact.FINAL_OVERHEAD)):
        with pytest.raises(WireError):
            make.unseal(data + tail)


def test_frames_have_their_place() -> None:
    """Two regular frames exchanged, one repeated, and one from a sibling message are refused."""
    data = make.seal(bytes(range(48)), frame_length=16)
    first, second = (make.layout(data).frame(n) for n in (1, 2))
    one, two = data[first.offset : second.offset], data[second.offset : second.offset + second.size]
    sibling = make.seal(bytes(range(48)), frame_length=16, message_id=bytes(32))[first.offset : second.offset]
    head, tail = data[: first.offset], data[second.offset + second.size :]
    assert make.unseal(head + one + two + tail) == bytes(range(48))
    for swapped in (two + one, one + one, sibling + two):
        with pytest.raises(artifact.DamagedArtifactError):
            make.unseal(head + swapped + tail)


def test_another_key_fails_at_the_commitment() -> None:
    """A wrong data key is refused before any frame, also where the header's tag was made with it."""
    head = artifact.parse_header(make.seal(b"model"))
    other = bytes(32)
    key = AESGCM(HKDF(SHA512(), 32, make.MESSAGE_ID, b"\x04\x78DERIVEKEY").derive(other))
    forged = artifact.parse_header(head.body + key.encrypt(bytes(12), b"", head.body))
    for data_key in (make.DATA_KEY, other):
        with pytest.raises(artifact.WrongKeyError):
            artifact.unlock(forged, data_key)
    with pytest.raises(artifact.WrongKeyError):
        artifact.unlock(head, other)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_data_key_has_32_bytes(size: int) -> None:
    """Data keys of another length are refused, as a peer's by `unlock`, as ours by `build_header`."""
    with pytest.raises(artifact.WrongKeyError):
        artifact.unlock(make.header(), bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        make.header(data_key=bytes(size))


@given(st.integers(0, 5000), st.integers(1, 700))
@settings(max_examples=60, deadline=None)
@example(0, 16)
@example(16, 16)
@example(17, 16)
def test_layout_gives_the_length_back(length: int, frame_length: int) -> None:
    """What is written for a length has that length, its frames cover the artifact without gap, and it opens."""
    plaintext = bytes(at % 251 for at in range(length))
    data = make.seal(plaintext, frame_length=frame_length)
    plan = make.layout(data)
    at, start = plan.header_length, 0
    for frame in plan.frames():
        assert (at, start) == (frame.offset, frame.start)
        at, start = at + frame.size, start + frame.length
    assert (len(data), length, length) == (at, start, plan.length)
    assert plaintext == make.unseal(data)


def test_an_empty_final_frame_is_read() -> None:
    """A full last regular frame with an empty final frame behind it, as the SDK writes multiples of the frame, opens."""
    head = make.header(frame_length=16)
    unlocked = artifact.unlock(head, make.DATA_KEY)
    length = len(head.raw) + 2 * (16 + artifact.REGULAR_OVERHEAD) + artifact.FINAL_OVERHEAD
    plan = artifact.Layout(header_length=len(head.raw), frame_length=16, artifact_length=length)
    assert (3, 32, 0) == (plan.count, plan.length, plan.frame(3).length)
    data = head.raw + b"".join(unlocked.seal(frame, bytes(frame.length)) for frame in plan.frames())
    assert bytes(32) == make.unseal(data)


@pytest.mark.parametrize("content", [-1, 17, 31])
def test_no_layout_for_other_lengths(content: int) -> None:
    """Lengths that no whole number of frames has are refused, and so is one beyond the limit."""
    length = 100 + artifact.FINAL_OVERHEAD + content
    with pytest.raises(artifact.MalformedArtifactError):
        artifact.Layout(header_length=100, frame_length=16, artifact_length=length)
    with pytest.raises(artifact.MalformedArtifactError):
        artifact.Layout(header_length=0, frame_length=1 << 20, artifact_length=artifact.LENGTH_MAX + 1)
    with pytest.raises(artifact.MalformedArtifactError):
        artifact.Layout(header_length=0, frame_length=1, artifact_length=33 * 0xFFFF_FFFF + artifact.FINAL_OVERHEAD)


def test_a_frame_has_its_size() -> None:
    """A frame with bytes behind it, or cut, does not open."""
    data = make.seal(bytes(20), frame_length=16)
    unlocked = artifact.unlock(artifact.parse_header(data), make.DATA_KEY)
    frame = make.layout(data).frame(1)
    whole = data[frame.offset : frame.offset + frame.size]
    for other in (whole + b"\0", whole[:-1], whole[:10], b""):
        with pytest.raises(artifact.DamagedArtifactError):
            unlocked.open_into(frame, other, bytearray(16))


def test_frames_are_counted_from_one() -> None:
    """Frame 0 and the frame behind the last do not exist."""
    plan = make.layout(make.seal(bytes(20), frame_length=16))
    for sequence in (0, 3):
        with pytest.raises(ValueError, match="no such frame"):
            plan.frame(sequence)


def _raw(**fields: bytes) -> bytes:
    """A header put together by hand, each field replaceable."""
    parts = {
        "version": b"\x02",
        "suite": b"\x04\x78",
        "message_id": bytes(32),
        "context": b"\0\x09" + b"\0\x01\0\x01a\0\x02bc",
        "count": b"\0\x01",
        "data_key": b"\0\x01p\0\x01i\0\x01c",
        "content": b"\x02",
        "frame": b"\0\0\x10\0",
        "commitment": bytes(32),
        "tag": bytes(16),
    }
    return b"".join({**parts, **fields}.values())


def _context(*entries: tuple[bytes, bytes], count: int | None = None) -> bytes:
    body = struct.pack(">H", len(entries) if count is None else count)
    for name, value in entries:
        body += struct.pack(">H", len(name)) + name + struct.pack(">H", len(value)) + value
    return struct.pack(">H", len(body)) + body


def test_the_hand_made_header_parses() -> None:
    """The header that the refusals below deviate from is one."""
    head = artifact.parse_header(_raw())
    assert (("a", "bc"),) == head.context
    assert (4096, b"c") == (head.frame_length, head.data_keys[0].ciphertext)
    assert () == artifact.parse_header(_raw(context=b"\0\0")).context


REFUSED = {
    "version 1": {"version": b"\x01"},
    "suite 0x0578, signed": {"suite": b"\x05\x78"},
    "suite 0x0178, without commitment": {"suite": b"\x01\x78"},
    "no context entries in a context": {"context": b"\0\x02\0\0"},
    "context entries out of order": {"context": _context((b"b", b""), (b"a", b""))},
    "a context name twice": {"context": _context((b"a", b""), (b"a", b"x"))},
    "a context name not UTF-8": {"context": _context((b"\xff", b""))},
    "a context value not UTF-8": {"context": _context((b"a", b"\xc3"))},
    "more context than said": {"context": _context((b"a", b""), (b"b", b""), count=1)},
    "less context than said": {"context": _context((b"a", b""), count=2)},
    "too many context entries": {"context": _context(*((b"%03d" % n, b"") for n in range(artifact.CONTEXT_MAX + 1)))},
    "no data key": {"count": b"\0\0", "data_key": b""},
    "too many data keys": {"count": b"\0\x09", "data_key": b"\0\x01p\0\x01i\0\x01c" * 9},
    "a provider not UTF-8": {"data_key": b"\0\x01\xff\0\x01i\0\x01c"},
    "content not framed": {"content": b"\x01"},
    "frame length 0": {"frame": b"\0\0\0\0"},
    "frame length over 1 MiB": {"frame": b"\0\x10\0\x01"},
    "longer than the limit": {"data_key": b"\0\x01p\0\x01i" + struct.pack(">H", artifact.HEADER_MAX) + bytes(artifact.HEADER_MAX)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_headers_are_refused(name: str) -> None:
    """Each deviation from the one format is refused."""
    with pytest.raises(artifact.MalformedArtifactError):
        artifact.parse_header(_raw(**REFUSED[name]) + bytes(100))


@pytest.mark.parametrize("end", range(0, len(_raw()), 7))
def test_a_cut_header_is_refused(end: int) -> None:
    """A header cut short is refused."""
    with pytest.raises(artifact.MalformedArtifactError):
        artifact.parse_header(_raw()[:end])


@given(st.binary(max_size=400), st.integers(0, len(_raw())))
@settings(max_examples=400)
def test_any_bytes_are_a_header_or_our_error(data: bytes, keep: int) -> None:
    """Any bytes: a header whose bytes they start with, or our error."""
    try:
        head = artifact.parse_header(_raw()[:keep] + data)
    except artifact.MalformedArtifactError:
        return
    assert (_raw()[:keep] + data).startswith(head.raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": bytes(31)},
        {"data_keys": ()},
        {"frame_length": 0},
        {"frame_length": artifact.FRAME_BYTES + 1},
        {"frame_length": 1 << 32},
        {"context": {"a": "x" * 70_000}},
        {"context": {"a": "x" * artifact.HEADER_MAX}},
    ],
)
def test_what_would_not_parse_is_not_written(changes: dict[str, object]) -> None:
    """The writer refuses what the reader would."""
    with pytest.raises(ValueError):
        make.header(**changes)


def test_a_frame_takes_its_length() -> None:
    """Plaintext of another length than the frame's is not sealed."""
    head = make.header(frame_length=16)
    frame = artifact.layout_of(head, 20).frame(1)
    with pytest.raises(ValueError, match="another length"):
        artifact.unlock(head, make.DATA_KEY).seal(frame, bytes(15))


def test_the_keys_are_not_shown() -> None:
    """Neither the data key nor anything derived from it is in a representation."""
    text = repr(artifact.unlock(make.header(), make.DATA_KEY))
    assert "AESGCM" not in text
