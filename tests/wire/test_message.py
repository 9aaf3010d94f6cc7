"""Messages: layout, buckets, and the reader on every order of records that a peer could seal."""

from collections.abc import Callable, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from wire import message, record
from wire.buffer import aligned
from wire.frame import HEADER_BYTES, RECORD_CONTENT_MAX
from wire.handshake import DirectionKey
from wire.message import (
    HEADER,
    PADDED_MIN,
    Control,
    MalformedMessageError,
    Message,
    MessageReader,
    Refused,
    decode,
    encode,
    padded,
    padme,
)
from wire.record import Kind, RecordError, RecordOpener, RecordSealer

KEY = DirectionKey(key=bytes(32), iv=bytes(12))
MIB = RECORD_CONTENT_MAX
LIMIT = 4 * MIB

paths = st.from_regex(r"(/[A-Za-z0-9._~-]{0,20}){1,3}", fullmatch=True)


def _whole(**fields: object) -> bytes:
    return b"".join(encode(**fields))  # type: ignore[arg-type]


def _reader(limit: int = LIMIT, allocate: Callable[[int], memoryview] = aligned) -> tuple[RecordSealer, MessageReader]:
    return RecordSealer(KEY), MessageReader(RecordOpener(KEY), limit=limit, allocate=allocate)


def _read(reader: MessageReader, frames: Iterable[bytes | bytearray]) -> list[Message | Refused | Control | None]:
    return [reader.read(frame) for frame in frames]


# sizes

PADME = {0: 0, 1: 1, 2: 2, 3: 3, 8: 8, 9: 10, 17: 18, 1000: 1024, 1025: 1088, 65_537: 67_584, (1 << 20) + 1: (1 << 20) + (1 << 15)}


@pytest.mark.parametrize("length", PADME)
def test_padme_known_answers(length: int) -> None:
    """Padmé's buckets, computed by hand from its definition."""
    assert padme(length) == PADME[length]


@given(st.integers(2, 1 << 41))
def test_padme_is_a_bucket_of_at_most_twelve_percent(length: int) -> None:
    """A bucket holds its length, is its own bucket, costs at most 12 % and rises with the length."""
    bucket = padme(length)
    assert length <= bucket <= length * 1.12
    assert padme(bucket) == bucket
    assert padme(length - 1) <= bucket
    assert bucket < 1024 or bucket % 64 == 0


def test_nothing_is_smaller_than_the_least_bucket() -> None:
    """A message of any content up to 1,024 bytes has exactly that size."""
    assert padded(0) == padded(PADDED_MIN) == PADDED_MIN == 1024
    assert padded(PADDED_MIN + 1) == 1088


# layout


def test_layout_of_a_message() -> None:
    """Header, path, JSON padded with spaces to a multiple of 64, tensors, zeros to the bucket."""
    whole = _whole(status=7, path="/v2/x", json=b'{"a":1}', tensors=[b"TEN", b"SOR"], deadline_ms=0x01020304)
    start = 64
    assert whole[:24].hex() == "0007" + "0005" + f"{start - 24 - 5:08x}" + f"{6:016x}" + "01020304" + "00000000"
    assert whole[24:29] == b"/v2/x"
    assert whole[29:start] == b'{"a":1}'.ljust(start - 29)
    assert whole[start : start + 6] == b"TENSOR"
    assert whole[start + 6 :] == bytes(1024 - start - 6)


@given(
    st.integers(0, 65_535),
    paths,
    st.binary(max_size=2000),
    st.lists(st.binary(max_size=900), max_size=4),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 5000),
)
def test_message_comes_back(status: int, path: str, json: bytes, tensors: list[bytes], deadline: int, least: int) -> None:
    """What was encoded is decoded; tensors start on a multiple of 64; the size is a bucket."""
    whole = _whole(status=status, path=path, json=json, tensors=tensors, deadline_ms=deadline, least=least)
    got = decode(3, whole)
    assert (got.id, got.status, got.path, got.deadline_ms) == (3, status, path, deadline)
    assert bytes(got.json).startswith(json)
    assert bytes(got.json)[len(json) :].strip(b" ") == b""
    assert bytes(got.tensors) == b"".join(tensors)
    assert (24 + len(path) + len(got.json)) % 64 == 0
    assert len(whole) == padded(24 + len(path) + len(got.json) + len(got.tensors))
    assert len(whole) >= padded(least)


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0, 300))
def test_error_has_the_size_of_a_success(least: int, tensors: int, json: int) -> None:
    """Whatever fits into `least` bytes has the one size of its bucket: answers and errors look alike."""
    whole = _whole(json=b"j" * json, tensors=[bytes(tensors)], least=least)
    if padded(tensors + (24 + json + 63) // 64 * 64) <= padded(least):
        assert len(whole) == padded(least)


def test_error_at_a_bucket_border_has_the_size_of_a_success() -> None:
    """1,024 bytes of padding for an answer of four bytes of tensors and for one without: the same size."""
    assert {len(_whole(tensors=[bytes(size)], least=1024)) for size in (0, 4, 900)} == {1024}
    assert {len(_whole(tensors=[bytes(size)], least=1025)) for size in (0, 4, 900, 1020)} == {1088}


@pytest.mark.parametrize("path", ["v2", "/a b", "/a%20", "/a?b", "/a#b", "/a\\b", "/a\n", "/\x7f", "/ä", "/" + "a" * 256])
def test_path_that_is_not_of_the_protocol_is_misuse(path: str) -> None:
    """A path starts with a slash, has no query, escape, space or control character, and at most 256 bytes."""
    with pytest.raises(ValueError, match=r"path|ascii"):
        encode(path=path)


def test_longest_path_is_taken() -> None:
    """256 bytes."""
    assert decode(1, _whole(path="/" + "a" * 255)).path == "/" + "a" * 255


@pytest.mark.parametrize("fields", [{"status": -1}, {"status": 65_536}, {"deadline_ms": -1}, {"deadline_ms": 1 << 32}])
def test_number_that_the_header_cannot_hold_is_misuse(fields: dict[str, int]) -> None:
    """Status has 16 bits, the deadline 32; the largest of both pass."""
    encode(status=65_535, deadline_ms=(1 << 32) - 1)
    with pytest.raises(ValueError, match="range"):
        encode(**fields)  # type: ignore[arg-type]


def test_lengths_that_the_header_does_not_allow_are_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON and tensors over their limits are refused before they are sent."""
    monkeypatch.setattr(message, "JSON_MAX", 100)
    monkeypatch.setattr(message, "TENSORS_MAX", 100)
    encode(json=b"j" * 40, tensors=[bytes(100)])
    encode(json=b"j" * 40 + b" " * 60, path="/" + "a" * 67)  # 24 + 68 + 100 are three times 64
    for fields in ({"json": b"j" * 105}, {"tensors": [bytes(101)]}):
        with pytest.raises(ValueError, match="carries"):
            encode(**fields)


def _changed(at: int, value: bytes, whole: bytes | None = None) -> bytes:
    whole = _whole(path="/v2", json=b"{}", tensors=[b"abc"]) if whole is None else whole
    return whole[:at] + value + whole[at + len(value) :]


BAD = {
    "empty": b"",
    "short header": bytes(23),
    "reserved first": _changed(20, b"\x01"),
    "reserved last": _changed(23, b"\x01"),
    "path too long": HEADER.pack(0, 257, 64 * 5 - 24 - 257, 0, 0) + b"/" * 257 + b" " * 39 + bytes(704),
    "unaligned": (HEADER.pack(0, 3, 36, 1, 0) + b"/v2" + b" " * 36 + b"t").ljust(1024, b"\0"),
    "longer than its bucket": _whole(path="/v2") + bytes(64),
    "shorter than its bucket": _whole(path="/v2")[:-1],
    "another bucket": _whole(path="/v2") + bytes(padded(1025) - 1024),
    "tensors longer": _changed(8, (2000).to_bytes(8, "big")),
    "tensors huge": _changed(8, b"\xff" * 8),
    "json huge": _changed(4, b"\xff\xff\xff\xf5"),
    "padding first": _changed(67, b"\x01"),
    "padding last": _changed(1023, b"\x01"),
    "path without slash": _changed(24, b"v"),
    "path with space": _changed(25, b" "),
    "path with escape": _changed(25, b"%"),
    "path with query": _changed(25, b"?"),
    "path with fragment": _changed(25, b"#"),
    "path with backslash": _changed(25, b"\\"),
    "path with high byte": _changed(25, b"\xc3"),
    "path with control": _changed(26, b"\x00"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_message_is_refused(name: str) -> None:
    """Header, lengths, alignment, bucket, padding and path each have a rule of their own."""
    with pytest.raises(MalformedMessageError):
        decode(1, BAD[name])


@pytest.mark.parametrize("limit", ["JSON_MAX", "TENSORS_MAX"])
def test_announced_lengths_have_limits(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON and tensor lengths over their limits are refused from the header."""
    whole = _whole(json=b"j" * 40, tensors=[bytes(40)])
    monkeypatch.setattr(message, limit, 40)
    decode(1, whole)
    monkeypatch.setattr(message, limit, 39)
    with pytest.raises(MalformedMessageError):
        decode(1, whole)


@given(st.binary(max_size=1100))
def test_any_content_gives_a_message_or_our_error(data: bytes) -> None:
    """Any bytes, also with a plausible header in front: a message that encodes back, or MalformedMessageError."""
    plausible = HEADER.pack(0, 3, 37, max(0, len(data) - 40), 0) + b"/v2" + data
    for content in (data, plausible, plausible.ljust(padded(len(plausible)), b"\0")):
        try:
            got = decode(1, content)
        except MalformedMessageError:
            continue
        again = _whole(status=got.status, path=got.path, json=bytes(got.json), tensors=[got.tensors], deadline_ms=got.deadline_ms)
        assert again == content


# the reader


@pytest.mark.parametrize("size", [0, 1000, MIB - 64, MIB - 63, MIB, MIB + 1, 2 * MIB, 3 * MIB + 5])
def test_message_of_any_size_is_read(size: int) -> None:
    """Messages of one and of several records arrive whole, aligned, with nothing left over."""
    sealer, reader = _reader()
    tensors = bytes(range(256)) * (size // 256 + 1)
    frames = list(sealer.message(1, encode(path="/v2", json=b"{}", tensors=[tensors[:size]])))
    events = _read(reader, frames)
    assert events[:-1] == [None] * (len(frames) - 1)
    got = events[-1]
    assert isinstance(got, Message)
    assert bytes(got.tensors) == tensors[:size]
    assert reader.partial is None
    assert {len(frame) for frame in frames[:-1]} <= {MIB + 26}


def test_content_of_one_record_is_opened_into_the_allocated_buffer() -> None:
    """Nothing is copied: the message is a view of the buffer that was allocated for the frame."""
    given: list[memoryview] = []

    def allocate(size: int) -> memoryview:
        given.append(aligned(size))
        return given[-1]

    sealer, reader = _reader(allocate=allocate)
    (got,) = _read(reader, sealer.message(1, encode(json=b"{}", tensors=[b"T" * 3000])))
    assert isinstance(got, Message)
    assert got.tensors.obj is given[0].obj
    assert len(given) == 1
    assert len(reader._scratch) == 0


def test_next_message_leaves_the_last_ones_bytes_alone() -> None:
    """Every message has a buffer of its own."""
    sealer, reader = _reader()
    got = _read(reader, [frame for at in (1, 2) for frame in sealer.message(at, encode(tensors=[bytes([at]) * (2 * MIB)]))])
    assert [bytes(item.tensors[:3]) for item in got if isinstance(item, Message)] == [b"\1\1\1", b"\2\2\2"]


@pytest.mark.parametrize("size", [2000, 3 * MIB])
def test_message_over_the_limit_is_refused_and_the_next_is_read(size: int) -> None:
    """Too large is told as such, nothing is allocated for it, and the session lives on."""
    given: list[int] = []

    def allocate(count: int) -> memoryview:
        given.append(count)
        return aligned(count)

    sealer, reader = _reader(limit=1500, allocate=allocate)
    assert _read(reader, sealer.message(1, encode(tensors=[bytes(size)])))[-1] == Refused(id=1, too_large=True)
    assert given == []
    assert isinstance(_read(reader, sealer.message(2, encode()))[-1], Message)


@pytest.mark.parametrize("size", [1500 - 1024, 2 * MIB])
def test_limit_is_inclusive(size: int) -> None:
    """A message of exactly the limit is kept, with one byte less of limit it is not."""
    whole = encode(tensors=[bytes(size)])
    limit = sum(len(piece) for piece in whole)
    for allowed, kept in ((limit, True), (limit - 1, False)):
        sealer, reader = _reader(limit=allowed)
        assert isinstance(_read(reader, sealer.message(1, whole))[-1], Message) is kept


@pytest.mark.parametrize("size", [100, MIB - 70, 2 * MIB])
def test_allocation_failure_refuses_one_message(size: int) -> None:
    """A message that finds no memory is refused as too large; the next one is read."""
    full = True

    def allocate(count: int) -> memoryview:
        if full:
            raise MemoryError
        return aligned(count)

    sealer, reader = _reader(allocate=allocate)
    assert _read(reader, sealer.message(1, encode(tensors=[bytes(size)])))[-1] == Refused(id=1, too_large=True)
    full = False
    assert isinstance(_read(reader, sealer.message(2, encode(tensors=[bytes(size)])))[-1], Message)


def test_malformed_message_is_refused_and_the_next_is_read() -> None:
    """A message that opens but does not parse costs only itself."""
    sealer, reader = _reader()
    for at, content in enumerate((b"", bytes(10), BAD["padding last"], BAD["path with space"]), 1):
        assert _read(reader, sealer.message(at, [content])) == [Refused(id=at, too_large=False)]
    assert isinstance(_read(reader, sealer.message(9, encode()))[-1], Message)


def _big(total: int) -> list[bytes]:
    """A message of several records whose header tells `total` bytes of tensors."""
    return [HEADER.pack(0, 0, 40, total, 0) + b" " * 40]


@pytest.mark.parametrize("records", [2, 3, 5])
def test_header_that_tells_less_than_comes_is_refused(records: int) -> None:
    """More records than the first one's header announced: opened aside, refused at the end."""
    sealer, reader = _reader()
    pieces = [*_big(MIB + 100), bytes(records * MIB)]
    assert _read(reader, sealer.message(1, pieces))[-1] == Refused(id=1, too_large=False)
    assert isinstance(_read(reader, sealer.message(2, encode()))[-1], Message)


def test_header_that_tells_more_than_comes_is_refused() -> None:
    """Fewer bytes than announced are refused when the message ends."""
    sealer, reader = _reader()
    assert _read(reader, sealer.message(1, [*_big(3 * MIB), bytes(MIB + 50)]))[-1] == Refused(id=1, too_large=False)


@pytest.mark.parametrize("first", [bytes(MIB), HEADER.pack(0, 0, 40, 100, 0), b"\xff" * 24])
def test_first_record_whose_header_is_malformed_is_refused(first: bytes) -> None:
    """A data record whose header is malformed or tells a message of one record: refused, all of it."""
    sealer, reader = _reader()
    assert _read(reader, sealer.message(1, [first, bytes(2 * MIB)]))[-1] == Refused(id=1, too_large=False)
    assert isinstance(_read(reader, sealer.message(2, encode()))[-1], Message)


def _data(sealer: RecordSealer, kind: Kind, at: int, size: int) -> bytearray:
    sealer.partial = None  # what no sealer of ours would do
    return sealer.seal(kind, at, (bytes(size),))


VIOLATIONS: dict[str, Callable[[RecordSealer], list[bytearray]]] = {
    "message 0": lambda s: [_data(s, Kind.END, 0, 1024)],
    "short data record": lambda s: [_data(s, Kind.DATA, 1, MIB - 1)],
    "empty data record": lambda s: [_data(s, Kind.DATA, 1, 0)],
    "other message inside": lambda s: [_data(s, Kind.DATA, 1, MIB), _data(s, Kind.END, 2, 10)],
    "other message's data inside": lambda s: [_data(s, Kind.DATA, 1, MIB), _data(s, Kind.DATA, 2, MIB)],
    "empty end": lambda s: [_data(s, Kind.DATA, 1, MIB), _data(s, Kind.END, 1, 0)],
    "short control": lambda s: [_data(s, Kind.CANCEL, 1, 1023)],
    "long control": lambda s: [_data(s, Kind.CLOSE, 0, 1025)],
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_record_order_is_kept(name: str) -> None:
    """Message 0, records that are not full, interleaved messages and odd controls end the session."""
    sealer, reader = _reader()
    frames = VIOLATIONS[name](sealer)
    _read(reader, frames[:-1])
    with pytest.raises(RecordError):
        reader.read(frames[-1])


@pytest.mark.parametrize("frame", [b"", bytes(25), bytes(MIB + 27)])
def test_frame_of_impossible_size_is_refused(frame: bytes) -> None:
    """Nothing shorter or longer than a record is looked at."""
    _, reader = _reader()
    with pytest.raises(RecordError):
        reader.read(frame)
    assert len(reader._scratch) == 0  # refused before memory was given


@pytest.mark.parametrize("left", [10, 1500, MIB - 24])
def test_cancel_of_another_message_may_stand_inside_one(left: int) -> None:
    """Whatever room the message has left, a cancel in its middle neither harms nor ends it."""
    sealer, reader = _reader()
    whole = _whole(tensors=[bytes([7]) * (MIB + left)])
    frames = sealer.message(5, [whole])
    assert reader.read(next(frames)) is None
    cancel = reader.read(sealer.control(Kind.CANCEL, 3, {}))
    assert isinstance(cancel, Control)
    assert (cancel.kind, cancel.message, reader.partial) == (Kind.CANCEL, 3, 5)
    got = _read(reader, frames)[-1]
    assert isinstance(got, Message)
    assert bytes(got.tensors) == bytes([7]) * (MIB + left)


@pytest.mark.parametrize(("kind", "at"), [(Kind.CANCEL, 5), (Kind.CLOSE, 0)])
def test_cancel_or_close_ends_the_message_under_way(kind: Kind, at: int) -> None:
    """Neither leaves anything of the message behind; the next one begins anew."""
    sealer, reader = _reader()
    assert reader.read(next(sealer.message(5, encode(tensors=[bytes(2 * MIB)])))) is None
    control = reader.read(sealer.seal(kind, at, (bytes(1024),)))
    assert isinstance(control, Control)
    assert reader.partial is None
    if kind is Kind.CANCEL:
        assert isinstance(_read(reader, sealer.message(6, encode()))[-1], Message)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.integers(0, 3), st.sampled_from([0, 23, 24, 1024, 1500, 3000, 3072])),
        max_size=8,
    ),
    st.sampled_from([1024, 2048, 10_000]),
    st.integers(0, 12_000),
)
def test_any_sealed_records_give_values_or_our_error(records: list[tuple[Kind, int, int]], limit: int, told: int) -> None:
    """Whatever an authenticated peer seals, in whatever order: events, or RecordError."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message, "RECORD_CONTENT_MAX", 3072)
        patch.setattr(record, "RECORD_CONTENT_MAX", 3072)
        sealer, reader = _reader(limit=limit)
        content = HEADER.pack(0, 0, 40, told, 0) + b" " * 40 + bytes(3072)
        for kind, at, size in records:
            sealer.partial, sealer._closed = None, False  # a peer that keeps no order
            try:
                event = reader.read(sealer.seal(kind, at, (content[:size],)))
            except RecordError:
                return
            assert event is None or isinstance(event, Message | Refused | Control)
            assert not isinstance(event, Message) or len(event.json) + len(event.tensors) <= limit


def test_equal_sizes_make_equal_frames() -> None:
    """Infer, ready and error in one bucket, of any caller, are frames of the same lengths."""
    messages = (
        encode(path="/v2/models/tumour/infer", json=b'{"inputs":[]}', tensors=[bytes(120)]),
        encode(path="/v2/models/tumour/ready"),
        encode(status=103, json=b'{"error":"no such model"}'),
    )
    lengths = {tuple(len(frame) for frame in RecordSealer(KEY).message(at, pieces)) for at, pieces in enumerate(messages, 1)}
    assert lengths == {(HEADER_BYTES + 1024 + 5 + 16,)}
