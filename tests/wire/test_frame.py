"""Frames: header rules, the reader and the in-place buffer on any slicing of any stream."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire.errors import MalformedFrameError
from wire.frame import (
    EVIDENCE_BODY_MAX,
    HEADER_BYTES,
    OPEN_BODY,
    RECORD_BODY_MAX,
    SESSION_BODIES,
    FrameBuffer,
    FrameReader,
    FrameType,
    decode,
    encode,
    parse_header,
)

SMALL = {1: (33, 33), 2: (0, 300), 4: (21, 5000)}
BIG = {4: (21, 200_000)}


def _slices(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def test_whole_frame_sizes_are_those_of_the_protocol() -> None:
    """Challenge 38, evidence at most 24 KiB, open 5,237, record at most 1 MiB + 26 bytes, header included."""
    sizes = {kind: (HEADER_BYTES + least, HEADER_BYTES + most) for kind, (least, most) in SESSION_BODIES.items()}
    assert sizes[FrameType.CHALLENGE] == (38, 38)
    assert sizes[FrameType.EVIDENCE][1] == 24 * 1024
    assert sizes[FrameType.OPEN] == (5237, 5237)
    assert sizes[FrameType.RECORD] == (26, (1 << 20) + 26)


def test_layout() -> None:
    """Length counts type and body, big endian."""
    assert encode(2, b"abc") == b"\x00\x00\x00\x04\x02abc"


@pytest.mark.parametrize("type_", [0, 256])
def test_type_that_does_not_fit_is_misuse(type_: int) -> None:
    """A type is a byte and not zero."""
    with pytest.raises(ValueError, match="frame type"):
        encode(type_, b"")


@pytest.mark.parametrize(
    "header",
    [
        (1 + OPEN_BODY - 1).to_bytes(4, "big") + b"\x03",
        (1 + OPEN_BODY + 1).to_bytes(4, "big") + b"\x03",
        (1 + OPEN_BODY).to_bytes(4, "big") + b"\x04",
        b"\x00\x00\x00\x00\x03",
        b"\xff\xff\xff\xff\x03",
    ],
)
def test_header_that_may_not_stand_here_is_refused(header: bytes) -> None:
    """Another type or a length outside its bounds is refused from the header alone."""
    with pytest.raises(MalformedFrameError):
        parse_header(header, FrameType.OPEN)


@pytest.mark.parametrize(("kind", "bounds"), list(SESSION_BODIES.items()))
def test_bounds_are_inclusive(kind: int, bounds: tuple[int, int]) -> None:
    """The smallest and largest body of each type pass, one byte beyond does not."""
    for body in bounds:
        assert parse_header((1 + body).to_bytes(4, "big") + bytes((kind,)), kind).body == body
    for body in (bounds[0] - 1, bounds[1] + 1):
        with pytest.raises(MalformedFrameError):
            parse_header((1 + body).to_bytes(4, "big") + bytes((kind,)), kind)


def test_a_body_that_no_length_says_is_misuse() -> None:
    """The length has 32 bits, one of them the type's byte."""

    class Long(bytes):
        def __len__(self) -> int:
            return (1 << 32) - 1

    with pytest.raises(ValueError, match="32 bits"):
        encode(FrameType.RECORD, Long())


def test_header_of_another_length_is_misuse() -> None:
    """Four or six bytes are no header."""
    for header in (b"\x00\x00\x00\x22", b"\x00\x00\x00\x22\x01\x00"):
        with pytest.raises(ValueError, match="five bytes"):
            parse_header(header, FrameType.CHALLENGE)


def test_decode_takes_one_whole_frame() -> None:
    """A frame with a byte more or less than its header tells, or cut inside the header, is refused."""
    frame = encode(FrameType.CHALLENGE, bytes(33))
    assert decode(frame, FrameType.CHALLENGE) == bytes(33)
    for bad in (frame[:-1], frame + b"\0", frame[:4], b"", encode(FrameType.OPEN, bytes(33))):
        with pytest.raises(MalformedFrameError):
            decode(bad, FrameType.CHALLENGE)


@given(st.binary(max_size=700), st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([1, 2, 4]))
def test_reader_gives_frames_or_our_error_for_any_bytes(data: bytes, cuts: list[int], kind: int) -> None:
    """Any bytes, however sliced: whole frames of the expected type, or MalformedFrameError."""
    reader, seen = FrameReader(SMALL), b""
    try:
        for piece in _slices(data, cuts):
            reader.feed(piece)
            while (frame := reader.next(kind)) is not None:
                seen += frame
                assert decode(frame, kind, SMALL) == frame[HEADER_BYTES:]
    except MalformedFrameError:
        return
    assert seen + reader.take_rest() == data
    assert reader.pending == 0


@given(st.lists(st.binary(min_size=21, max_size=400), max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_reader_gives_back_what_was_framed(bodies: list[bytes], cuts: list[int]) -> None:
    """Frames come back as they were, wherever the stream was cut, and nothing is pending after the last."""
    reader, got = FrameReader(SMALL), []
    for piece in _slices(b"".join(encode(4, body) for body in bodies), cuts):
        reader.feed(piece)
        while (frame := reader.next(4, 1)) is not None:
            got.append(frame[HEADER_BYTES:])
    assert got == bodies
    assert reader.pending == 0


def test_reader_refuses_a_wrong_type_before_the_body_arrived() -> None:
    """The type byte alone ends it."""
    reader = FrameReader()
    reader.feed(encode(FrameType.OPEN, bytes(OPEN_BODY))[:HEADER_BYTES])
    with pytest.raises(MalformedFrameError):
        reader.next(FrameType.CHALLENGE, FrameType.EVIDENCE)


def _pour(buffer: FrameBuffer, data: bytes, kind: int, *, exact: bool, chunk: int = 1 << 20) -> list[bytes]:
    """Read `data` as a socket would: at most what is offered, then take every whole frame."""
    frames = []
    while data:
        room = buffer.space(kind, exact=exact)
        assert len(room) > 0
        count = min(len(room), len(data), chunk)
        room[:count] = data[:count]
        buffer.filled(count)
        data = data[count:]
        while (frame := buffer.next(kind)) is not None:
            frames.append(bytes(frame))
    return frames


@given(
    st.lists(st.one_of(st.integers(21, 300), st.integers(60_000, 70_000), st.just(200_000)), max_size=6),
    st.integers(1, 90_000),
    st.booleans(),
)
def test_buffer_gives_back_what_was_framed(sizes: list[int], chunk: int, exact: bool) -> None:
    """Frames smaller and larger than the first buffer come back in place, in order, whatever the read sizes."""
    chunk = max(chunk, sum(sizes) // 200 + 1)
    frames = [encode(4, bytes([at + 1]) * size) for at, size in enumerate(sizes)]
    buffer = FrameBuffer(BIG)
    assert _pour(buffer, b"".join(frames), 4, exact=exact, chunk=chunk) == frames
    assert buffer.pending == 0


@given(st.binary(max_size=700), st.integers(1, 700), st.booleans(), st.sampled_from([1, 2, 4]))
def test_buffer_gives_frames_or_our_error_for_any_bytes(data: bytes, chunk: int, exact: bool, kind: int) -> None:
    """Any bytes, however sliced: frames that concatenate to a prefix of them, or MalformedFrameError."""
    buffer = FrameBuffer(SMALL)
    try:
        frames = _pour(buffer, data, kind, exact=exact, chunk=chunk)
    except MalformedFrameError:
        return
    assert data.startswith(b"".join(frames))
    assert buffer.pending == len(data) - sum(len(frame) for frame in frames)


@pytest.mark.parametrize(("kind", "size"), [(FrameType.CHALLENGE, 38), (FrameType.OPEN, 5237)])
def test_exact_space_never_reads_beyond_the_frame(kind: FrameType, size: int) -> None:
    """Before the session is open the buffer offers the header, then exactly the rest of the one expected frame."""
    buffer = FrameBuffer()
    frame = encode(kind, bytes(size - HEADER_BYTES))
    room = buffer.space(kind, exact=True)
    assert len(room) == HEADER_BYTES
    room[:] = frame[:HEADER_BYTES]
    buffer.filled(HEADER_BYTES)
    room = buffer.space(kind, exact=True)
    assert len(room) == size - HEADER_BYTES
    room[:] = frame[HEADER_BYTES:]
    buffer.filled(len(room))
    with pytest.raises(RuntimeError, match="wait to be taken"):
        buffer.space(kind, exact=True)
    taken = buffer.next(kind)
    assert taken is not None
    assert bytes(taken) == frame


def test_announced_length_is_judged_before_memory_is_given() -> None:
    """A header that announces 4 GiB is refused at once and the buffer stays as small as it was."""
    buffer = FrameBuffer()
    room = buffer.space(FrameType.RECORD, exact=False)
    assert len(room) == FrameBuffer.START
    room[:HEADER_BYTES] = b"\xff\xff\xff\xff\x04"
    buffer.filled(HEADER_BYTES)
    with pytest.raises(MalformedFrameError):
        buffer.next(FrameType.RECORD)
    with pytest.raises(MalformedFrameError):
        buffer.space(FrameType.RECORD, exact=False)


def test_buffer_grows_to_one_frame_and_no_further() -> None:
    """The largest record makes the buffer as large as one such frame, once."""
    buffer = FrameBuffer()
    frame = encode(FrameType.RECORD, bytes(RECORD_BODY_MAX))
    assert _pour(buffer, frame * 3, FrameType.RECORD, exact=False) == [frame] * 3
    assert len(buffer.space(FrameType.RECORD, exact=False)) == len(frame)


def test_frames_left_in_the_buffer_do_not_stop_reading_while_there_is_room() -> None:
    """Whole frames may wait; only where nothing more fits is asking for room a mistake."""
    buffer = FrameBuffer()
    frame = encode(FrameType.RECORD, bytes(1000))
    room = buffer.space(FrameType.RECORD, exact=False)
    room[: 2 * len(frame)] = frame * 2
    buffer.filled(2 * len(frame))
    assert buffer.next(FrameType.RECORD) is not None
    room = buffer.space(FrameType.RECORD, exact=False)
    assert len(room) == FrameBuffer.START - 2 * len(frame)
    room[:] = bytes(len(room))
    buffer.filled(len(room))
    assert len(buffer.space(FrameType.RECORD, exact=False)) == len(frame)  # the frame taken gave its room


def test_nothing_read_is_nothing_filled() -> None:
    """A read of no bytes is no mistake."""
    buffer = FrameBuffer()
    buffer.space(FrameType.RECORD, exact=False)
    buffer.filled(0)
    assert buffer.pending == 0


@pytest.mark.parametrize("count", [-1, FrameBuffer.START + 1])
def test_filling_more_than_offered_is_misuse(count: int) -> None:
    """No count beyond the last space is believed."""
    buffer = FrameBuffer()
    buffer.space(FrameType.RECORD, exact=False)
    with pytest.raises(ValueError, match="offered"):
        buffer.filled(count)


def test_filling_twice_counts_against_one_offer() -> None:
    """Two fills share the room of one space."""
    buffer = FrameBuffer()
    buffer.space(FrameType.RECORD, exact=False)
    buffer.filled(FrameBuffer.START)
    with pytest.raises(ValueError, match="offered"):
        buffer.filled(1)


def test_evidence_frame_at_its_limit_is_read() -> None:
    """The largest evidence frame passes through the buffer, one byte more does not."""
    frame = encode(FrameType.EVIDENCE, bytes(EVIDENCE_BODY_MAX))
    assert _pour(FrameBuffer(), frame, FrameType.EVIDENCE, exact=True) == [frame]
    with pytest.raises(MalformedFrameError):
        _pour(FrameBuffer(), encode(FrameType.EVIDENCE, bytes(EVIDENCE_BODY_MAX + 1)), FrameType.EVIDENCE, exact=True)
