"""The record layer: order, direction, use, kinds and the fixed control layout."""

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire import cbor, record
from wire.frame import HEADER_BYTES, RECORD_CONTENT_MAX
from wire.handshake import DirectionKey
from wire.record import (
    CONTROL_BYTES,
    Kind,
    Record,
    RecordError,
    RecordOpener,
    RecordSealer,
    parse_control,
)

KEY = DirectionKey(key=bytes(range(32)), iv=bytes(range(100, 112)))
OTHER = DirectionKey(key=bytes(range(1, 33)), iv=bytes(range(100, 112)))


def _open(opener: RecordOpener, frame: bytes | bytearray) -> tuple[Record, bytes]:
    room = bytearray(len(frame))
    opened = opener.open_into(frame, room)
    return opened, bytes(room[: opened.length])


def test_record_is_the_layout_of_the_protocol() -> None:
    """Record n is AES-256-GCM under iv XOR n with the frame header as associated data, the trailer behind the content."""
    sealer = RecordSealer(KEY)
    for sequence in range(3):
        frame = bytes(sealer.seal(Kind.END, 7, (b"con", b"tent")))
        nonce = (int.from_bytes(KEY.iv, "big") ^ sequence).to_bytes(12, "big")
        plain = AESGCM(KEY.key).decrypt(nonce, frame[HEADER_BYTES:], frame[:HEADER_BYTES])
        assert plain == b"content" + b"\0\0\0\x07" + b"\x02"
        assert frame[:HEADER_BYTES] == (1 + len(plain) + 16).to_bytes(4, "big") + b"\x04"


def test_kinds_are_those_of_the_protocol() -> None:
    """1 data, 2 end, 3 cancel, 4 accept, 5 close."""
    assert [(kind.name, kind.value) for kind in Kind] == [("DATA", 1), ("END", 2), ("CANCEL", 3), ("ACCEPT", 4), ("CLOSE", 5)]


def test_records_open_in_order() -> None:
    """What is sealed in order opens in order, content in place."""
    sealer, opener = RecordSealer(KEY), RecordOpener(KEY)
    for message in (1, 2, (1 << 32) - 1):
        opened, content = _open(opener, sealer.seal(Kind.END, message, (b"x" * message if message < 9 else b"",)))
        assert (opened.kind, opened.message) == (Kind.END, message)
        assert content == (b"x" * message if message < 9 else b"")


def test_every_flipped_bit_is_refused() -> None:
    """A record with any one bit changed, header included, does not open."""
    frame = RecordSealer(KEY).seal(Kind.END, 1, (b"abc",))
    for at in range(len(frame)):
        for bit in range(8):
            bad = bytearray(frame)
            bad[at] ^= 1 << bit
            with pytest.raises(RecordError):
                _open(RecordOpener(KEY), bad)


@pytest.mark.parametrize("order", [(1,), (0, 0), (0, 2), (0, 1, 0)], ids=["first dropped", "repeated", "dropped", "replayed"])
def test_record_out_of_order_is_refused(order: tuple[int, ...]) -> None:
    """A record opens only at its own place in the sequence."""
    sealer, opener = RecordSealer(KEY), RecordOpener(KEY)
    frames = [sealer.seal(Kind.END, at + 1, (b"x",)) for at in range(3)]
    for at in order[:-1]:
        _open(opener, frames[at])
    with pytest.raises(RecordError):
        _open(opener, frames[order[-1]])


def test_another_directions_or_sessions_key_is_refused() -> None:
    """A record does not open under another key."""
    with pytest.raises(RecordError):
        _open(RecordOpener(OTHER), RecordSealer(KEY).seal(Kind.END, 1, (b"x",)))


def test_unknown_kind_is_refused() -> None:
    """A record that opens but is of no known kind ends the session."""
    for kind in (0, 6):
        sealer = RecordSealer(KEY)
        frame = sealer.seal(kind, 1, (b"x",))  # type: ignore[arg-type]  # what a broken peer seals
        with pytest.raises(RecordError):
            _open(RecordOpener(KEY), frame)


def test_records_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record after the last of a direction is refused on both sides."""
    monkeypatch.setattr(record, "RECORDS_MAX", 3)
    sealer, opener = RecordSealer(KEY), RecordOpener(KEY)
    for _ in range(3):
        frame = sealer.seal(Kind.END, 1, (b"x",))
        _open(opener, frame)
    with pytest.raises(RecordError, match="used up"):
        sealer.seal(Kind.END, 1, (b"x",))
    with pytest.raises(RecordError, match="used up"):
        _open(opener, frame)


def test_bytes_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record that would exceed a direction's bytes is refused on both sides, one that just fits is not."""
    body = 1000 + 5 + 16
    monkeypatch.setattr(record, "BYTES_MAX", 2 * body)
    sealer, opener = RecordSealer(KEY), RecordOpener(KEY)
    for _ in range(2):
        frame = sealer.seal(Kind.END, 1, (bytes(1000),))
        _open(opener, frame)
    with pytest.raises(RecordError, match="used up"):
        sealer.seal(Kind.END, 1, (b"",))
    with pytest.raises(RecordError, match="used up"):
        _open(opener, frame)


def test_content_over_a_mebibyte_is_misuse() -> None:
    """One record carries at most 1 MiB."""
    sealer = RecordSealer(KEY)
    frame = sealer.seal(Kind.DATA, 1, (bytes(RECORD_CONTENT_MAX),))
    assert len(frame) == RECORD_CONTENT_MAX + 26
    assert _open(RecordOpener(KEY), frame)[0].length == RECORD_CONTENT_MAX
    with pytest.raises(ValueError, match="1 MiB"):
        sealer.seal(Kind.DATA, 1, (bytes(RECORD_CONTENT_MAX), b"x"))


@pytest.mark.parametrize("frame", [b"", bytes(25), bytes(26), bytes(RECORD_CONTENT_MAX + 27)])
def test_frame_that_is_no_record_is_refused(frame: bytes) -> None:
    """Frames below 26 bytes, above 1 MiB + 26, or of another type never reach the cipher."""
    with pytest.raises(RecordError, match="not a record"):
        RecordOpener(KEY).open_into(frame, bytearray(RECORD_CONTENT_MAX + 100))


def test_buffer_too_small_is_refused() -> None:
    """A record is never opened beyond the buffer that it was given."""
    frame = RecordSealer(KEY).seal(Kind.END, 1, (b"abc",))
    with pytest.raises(RecordError, match="longer"):
        RecordOpener(KEY).open_into(frame, bytearray(7))
    assert RecordOpener(KEY).open_into(frame, bytearray(8)).length == 3


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_our_error(data: bytes) -> None:
    """Bytes that were not sealed never open and never raise anything else."""
    with pytest.raises(RecordError):
        _open(RecordOpener(KEY), data)


@given(st.lists(st.integers(0, 3000), max_size=6), st.integers(200, 4000))
def test_message_records_are_full_but_the_last(sizes: list[int], limit: int) -> None:
    """Whatever the pieces, all records but the last carry exactly the maximum, and together they carry the pieces."""
    pieces = [bytes([at + 1]) * size for at, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "RECORD_CONTENT_MAX", limit)
        frames = list(RecordSealer(KEY).message(5, pieces))
    opener = RecordOpener(KEY)
    opened = [_open(opener, frame) for frame in frames]
    assert b"".join(content for _, content in opened) == b"".join(pieces)
    assert [item.kind for item, _ in opened] == [Kind.DATA] * (len(opened) - 1) + [Kind.END]
    assert {item.length for item, _ in opened[:-1]} <= {limit}
    assert {item.message for item, _ in opened} == {5}
    assert len(opened) == 1 or opened[-1][0].length > 0


def test_pieces_may_be_any_contiguous_buffers() -> None:
    """Tensors of any item size and empty shape are taken as bytes."""
    pieces: list[Any] = [memoryview(bytearray(16)).cast("d"), memoryview(b"").cast("B"), b"abc"]
    _, content = _open(RecordOpener(KEY), next(RecordSealer(KEY).message(1, pieces)))
    assert content == bytes(16) + b"abc"


def test_sealer_keeps_messages_apart() -> None:
    """Another message inside one that is under way is misuse; a cancel of any message may stand there."""
    sealer = RecordSealer(KEY)
    sealer.seal(Kind.DATA, 1, (b"x",))
    assert sealer.partial == 1
    for kind in (Kind.DATA, Kind.END):
        with pytest.raises(RuntimeError):
            sealer.seal(kind, 2, (b"x",))
    sealer.control(Kind.CANCEL, 9, {})
    assert sealer.partial == 1
    sealer.control(Kind.CANCEL, 1, {})
    assert sealer.partial is None
    sealer.seal(Kind.DATA, 2, (b"x",))
    sealer.seal(Kind.END, 2, (b"x",))
    assert sealer.partial is None


def test_sealer_says_nothing_after_a_close() -> None:
    """Close is a direction's last record."""
    sealer = RecordSealer(KEY)
    sealer.control(Kind.CLOSE, 0, {1: 0})
    for kind in Kind:
        with pytest.raises(RuntimeError):
            sealer.seal(kind, 1, (b"",))


@given(st.dictionaries(st.integers(1, 50), st.integers(0, 1 << 60), max_size=20))
def test_control_has_one_size_and_comes_back(fields: dict[int, int]) -> None:
    """Every control record has the same size whatever its fields, which come back."""
    frame = RecordSealer(KEY).control(Kind.ACCEPT, 0, fields)
    assert len(frame) == HEADER_BYTES + CONTROL_BYTES + 5 + 16
    _, content = _open(RecordOpener(KEY), frame)
    assert parse_control(content) == fields


def test_control_that_does_not_fit_is_misuse() -> None:
    """Fields over 1,022 bytes are refused before they are sealed."""
    with pytest.raises(ValueError, match="1,022"):
        RecordSealer(KEY).control(Kind.ACCEPT, 0, dict.fromkeys(range(200), 1 << 60))


def _control(encoded: bytes, length: int | None = None, size: int = CONTROL_BYTES) -> bytes:
    return ((len(encoded) if length is None else length).to_bytes(2, "big") + encoded).ljust(size, b"\0")


BAD_CONTROLS: dict[str, Callable[[], bytes]] = {
    "short": lambda: _control(cbor.encode({1: 2}), size=CONTROL_BYTES - 1),
    "long": lambda: _control(cbor.encode({1: 2}), size=CONTROL_BYTES + 1),
    "length beyond": lambda: _control(cbor.encode({1: 2}), length=CONTROL_BYTES - 1),
    "length all": lambda: b"\xff\xff" + bytes(CONTROL_BYTES - 2),
    "padding": lambda: _control(cbor.encode({1: 2}))[:-1] + b"\x01",
    "cut": lambda: _control(cbor.encode({1: 2}), length=2),
    "not cbor": lambda: _control(b"\xff"),
    "empty": lambda: bytes(CONTROL_BYTES),
    "not a map": lambda: _control(cbor.encode([1, 2])),
    "text value": lambda: _control(cbor.encode({1: "a"})),
    "text key": lambda: _control(cbor.encode({"a": 1})),
    "boolean": lambda: _control(cbor.encode({1: True})),
}


@pytest.mark.parametrize("name", BAD_CONTROLS)
def test_malformed_control_is_refused(name: str) -> None:
    """Another length, padding, encoding or type is refused."""
    with pytest.raises(RecordError):
        parse_control(BAD_CONTROLS[name]())


def test_control_may_be_full() -> None:
    """Fields of exactly 1,022 bytes pass; told to be one longer they are refused."""
    fields = {**dict.fromkeys(range(24, 116), 1 << 60), 0: 1 << 20, 1: 0}
    encoded = cbor.encode(fields)  # type: ignore[arg-type]
    assert len(encoded) == CONTROL_BYTES - 2
    assert parse_control(_control(encoded)) == fields
    with pytest.raises(RecordError):
        parse_control(_control(encoded, length=CONTROL_BYTES - 1))


@given(st.binary(max_size=1100))
def test_any_control_content_gives_integers_or_our_error(data: bytes) -> None:
    """Any bytes: a map of integers, or RecordError."""
    for content in (data, _control(data[:1022])):
        try:
            fields = parse_control(content)
        except RecordError:
            continue
        assert all(type(key) is int and type(value) is int for key, value in fields.items())
