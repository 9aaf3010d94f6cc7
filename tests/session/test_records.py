"""Properties 3, 4 and 5 of the protocol on open sessions: what is changed, what is cut, what is bounded."""

from collections.abc import Iterator

import pytest

from cloister import session as caller_side
from cloister.session import Ended
from enclave.session import Cancelled, Closing, SessionViolation, State
from tests.session.world import Session, accepted, an_enclave, send
from wire import record as records
from wire.errors import Code, MalformedFrameError
from wire.frame import FrameBuffer, FrameType
from wire.message import Message, Refused, encode
from wire.record import Kind, RecordSealer

MIB = 1 << 20


def _answer(session: Session, number: int, **fields: object) -> list[bytes]:
    return [bytes(frame) for frame in session.enclave.answer(number, encode(**fields))]  # type: ignore[arg-type]


def _sealer(session: Session) -> RecordSealer:
    """The caller's sealer, for a caller that keeps no rule."""
    sealer = session.caller._sealer
    assert sealer is not None
    return sealer


def _enclave_sealer(session: Session) -> RecordSealer:
    sealer = session.enclave._sealer
    assert sealer is not None
    return sealer


def _violates(session: Session, *frames: bytes | bytearray) -> None:
    """The last frame ends the enclave's session with one undetailed error."""
    for frame in frames[:-1]:
        session.enclave.record(frame)
    with pytest.raises(SessionViolation) as caught:
        session.enclave.record(frames[-1])
    assert (str(caught.value), caught.value.__cause__) == ("the session is over", None)
    assert session.enclave.state is State.OVER


def _caller_violates(session: Session, *frames: bytes | bytearray) -> None:
    for frame in frames[:-1]:
        session.caller.record(frame)
    with pytest.raises(caller_side.SessionViolation) as caught:
        session.caller.record(frames[-1])
    assert (str(caught.value), caught.value.__cause__) == ("the session is over", None)
    assert session.caller.state is caller_side.State.OVER


def test_requests_and_answers_come_through_in_any_order() -> None:
    """Three requests, answered in another order, each once."""
    session = accepted()
    for number in (1, 2, 3):
        same, frames = send(session, encode(path=f"/v2/{number}"))
        (event,) = [session.enclave.record(frame) for frame in frames]
        assert isinstance(event, Message)
        assert (same, event.id, event.path) == (number, number, f"/v2/{number}")
    assert session.enclave.open_ids == {1, 2, 3}
    for number in (2, 3, 1):
        (got,) = [session.caller.record(frame) for frame in _answer(session, number, json=b"%d" % number)]
        assert isinstance(got, Message)
        assert (got.id, bytes(got.json).strip()) == (number, b"%d" % number)
    assert session.enclave.open_ids == set()
    assert session.caller.open_messages == 0


def test_a_session_that_is_over_answers_nothing() -> None:
    """An answer to an open message is misuse then, before its first frame is asked for."""
    session = accepted()
    same, frames = send(session, encode(path="/v2"))
    for frame in frames:
        session.enclave.record(frame)
    session.enclave.drop()
    assert session.enclave.open_ids == {same}
    with pytest.raises(RuntimeError):
        session.enclave.answer(same, encode())


# Property 3


@pytest.mark.parametrize("side", ["caller", "enclave"])
@pytest.mark.parametrize("at", [0, 3, 4, 5, 6, 1000, 5 + 1024, 5 + 1024 + 4, 5 + 1024 + 5, -1])
def test_flipped_record_ends_the_session_without_a_word(side: str, at: int) -> None:
    """Property 3: one flipped bit in header, content, trailer or tag, in either direction."""
    session = accepted()
    _, frames = send(session, encode(path="/v2"))
    frame = bytearray(frames[0])
    if side == "caller":
        session.enclave.record(frame)
        frame = bytearray(_answer(session, 1)[0])
    frame[at] ^= 0x10
    (_violates if side == "enclave" else _caller_violates)(session, frame)


def test_dropped_record_ends_the_session() -> None:
    """Property 3: the record after a dropped one does not open."""
    session = accepted()
    frames = [frame for _ in range(2) for frame in send(session, encode())[1]]
    _violates(session, frames[1])


def test_duplicated_record_ends_the_session() -> None:
    """Property 3: a record opens once."""
    session = accepted()
    _, frames = send(session, encode())
    _violates(session, frames[0], frames[0])


def test_swapped_records_end_the_session() -> None:
    """Property 3: records open in the order of sealing."""
    session = accepted()
    frames = [frame for _ in range(3) for frame in send(session, encode())[1]]
    _violates(session, frames[0], frames[2])


def test_reflected_records_end_the_session() -> None:
    """Property 3: what a side sent never opens on that side."""
    session = accepted()
    _, frames = send(session, encode())
    _caller_violates(session, frames[0])
    session = accepted()
    _violates(session, session.frames["accept"])


def test_accept_played_again_ends_the_session() -> None:
    """Property 3: the first record is spent."""
    session = accepted()
    _caller_violates(session, session.frames["accept"])


def test_damaged_message_is_never_delivered() -> None:
    """Property 3: of a message of three records whose second is damaged nothing is seen."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    _, frames = send(session, encode(tensors=[bytes(2 * MIB + 5000)]))
    assert len(frames) == 3
    assert session.enclave.record(frames[0]) is None
    assert session.enclave.mid_message
    _violates(session, frames[1][:-1] + bytes([frames[1][-1] ^ 1]))
    assert session.enclave.open_ids == set()


# Property 4


def _pour(data: bytes, expected: FrameType = FrameType.RECORD) -> Iterator[memoryview | None]:
    """Frames as they become whole, byte by byte; None where none did."""
    buffer = FrameBuffer()
    for at in range(len(data)):
        buffer.space(expected, exact=False)[:1] = data[at : at + 1]
        buffer.filled(1)
        yield buffer.next(expected)
    assert buffer.pending == 0


def test_truncation_of_the_answers_is_told_from_an_orderly_end() -> None:
    """Property 4: at every offset of accept, answers and close the caller has seen no end but after the last byte."""
    session = accepted()
    numbers = [send(session, encode()) for _ in range(2)]
    for _, frames in numbers:
        session.enclave.record(frames[0])
    stream = b"".join(frame for number, _ in numbers for frame in _answer(session, number))
    last = session.enclave.close(Code.OK)
    assert last is not None
    stream += last
    events = []
    for at, frame in enumerate(_pour(stream), 1):
        if frame is not None:
            events.append(session.caller.record(frame))
        assert (session.caller.state is caller_side.State.OVER) == (at == len(stream))
    assert events[-1] == Ended(code=Code.OK)
    assert len(events) == 3


def test_truncation_of_the_requests_is_told_from_an_orderly_end() -> None:
    """Property 4: at every offset of request and close the enclave has seen no close but after the last byte."""
    session = accepted()
    _, frames = send(session, encode())
    last = session.caller.close()
    assert last is not None
    stream = frames[0] + last
    events = [session.enclave.record(frame) if frame is not None else None for frame in _pour(stream)]
    assert events[-1] == Closing()
    assert [event for event in events if event is not None][1:] == [Closing()]


def test_end_inside_a_message_is_seen() -> None:
    """Property 4: a stream that ends between two records of a message has delivered nothing of it."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    _, frames = send(session, encode(tensors=[bytes(MIB)]))
    assert session.enclave.record(frames[0]) is None
    assert session.enclave.mid_message
    assert session.enclave.open_ids == set()


# the end


def test_nothing_follows_the_callers_close() -> None:
    """After its close a caller sends nothing: not ours, and another's record is a violation; answers still come."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    last = session.caller.close()
    assert last is not None
    assert session.enclave.record(last) == Closing()
    assert session.caller.close() is None
    assert session.caller.cancel(number) is None
    with pytest.raises(RuntimeError):
        session.caller.request(encode())
    assert isinstance(session.caller.record(_answer(session, number)[0]), Message)
    sealer = _sealer(session)
    sealer._closed = False
    _violates(session, sealer.seal(Kind.END, 2, encode()))


def test_nothing_follows_the_enclaves_close() -> None:
    """Close is the enclave's last record; its code is told."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    rest = session.enclave.answer(number, encode())
    last = session.enclave.close(Code.SESSION_EXPIRED)
    assert last is not None
    assert list(rest) == []
    assert session.enclave.close(Code.OK) is None
    assert session.caller.record(last) == Ended(code=Code.SESSION_EXPIRED)
    with pytest.raises(RuntimeError):
        session.caller.record(last)


def test_close_inside_an_answer_is_an_orderly_end() -> None:
    """An enclave at its end does not finish a long answer first: the caller is told why, the answer fails."""
    session = accepted(answer_bytes=4 * MIB)
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    answer = session.enclave.answer(number, encode(tensors=[bytes(2 * MIB)]))
    assert session.caller.record(next(answer)) is None
    last = session.enclave.close(Code.SESSION_EXPIRED)
    assert last is not None
    assert session.caller.record(last) == Ended(code=Code.SESSION_EXPIRED)


def test_close_inside_a_request_is_an_orderly_end() -> None:
    """A caller that closes in the middle of a request: the request is gone, open ones are answered."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    first, frames = send(session, encode())
    session.enclave.record(frames[0])
    _, rest = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    assert session.enclave.record(next(rest)) is None
    last = session.caller.close()
    assert last is not None
    assert session.enclave.record(last) == Closing()
    assert list(rest) == []
    assert session.caller.open_messages == 1
    assert isinstance(session.caller.record(_answer(session, first)[0]), Message)
    assert session.caller.open_messages == 0


# cancel


def test_cancelled_message_is_told_once_and_still_answered() -> None:
    """The enclave hears of it; the caller drops the one answer that comes."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    cancel = session.caller.cancel(number)
    assert cancel is not None
    assert session.enclave.record(cancel) == Cancelled(id=number)
    assert session.caller.cancel(number) is None
    assert session.caller.open_messages == 1
    assert session.caller.record(_answer(session, number)[0]) is None
    assert session.caller.open_messages == 0


def test_cancel_under_way_ends_the_message_unanswered() -> None:
    """Half a request, then its cancel: never delivered, no answer awaited, the next request is read."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    number, rest = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    assert session.enclave.record(next(rest)) is None
    cancel = session.caller.cancel(number)
    assert cancel is not None
    assert session.enclave.record(cancel) is None
    assert not session.enclave.mid_message
    assert list(rest) == []
    assert session.caller.open_messages == 0
    _, frames = send(session, encode())
    assert isinstance(session.enclave.record(frames[0]), Message)


@pytest.mark.parametrize("close", [False, True])
def test_answer_to_a_request_that_was_given_up_is_a_stray(close: bool) -> None:
    """An id that was cancelled or closed under way is not open: its answer is discarded and counted."""
    session = accepted()
    number, rest = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    next(rest)
    assert (session.caller.close() if close else session.caller.cancel(number)) is not None
    assert session.caller.record(_enclave_sealer(session).seal(Kind.END, number, (b"".join(encode()),))) is None
    assert session.caller._stray == 1


def test_cancels_under_way_are_not_counted() -> None:
    """However often a caller gives up in the middle of a request, its session lives."""
    session = accepted()
    sealer = _sealer(session)
    full = bytes(MIB)
    for number in range(1, 4):
        session.enclave._stray = records.STRAY_MAX
        assert session.enclave.record(sealer.seal(Kind.DATA, number, (full,))) is None
        assert session.enclave.record(sealer.control(Kind.CANCEL, number, {})) is None
    assert session.enclave.state is State.OPEN


def test_cancel_before_anything_was_sent_says_nothing() -> None:
    """A request of which no frame was taken is dropped without a record."""
    session = accepted()
    number, rest = session.caller.request(encode())
    assert session.caller.cancel(number) is None
    assert list(rest) == []
    assert session.caller.open_messages == 0
    _, frames = send(session, encode())
    assert isinstance(session.enclave.record(frames[0]), Message)


def test_cancel_of_another_message_inside_a_request() -> None:
    """A cancel does not wait for a long upload."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    first, frames = send(session, encode())
    session.enclave.record(frames[0])
    second, rest = session.caller.request(encode(tensors=[b"t" * 2 * MIB]))
    assert session.enclave.record(next(rest)) is None
    cancel = session.caller.cancel(first)
    assert cancel is not None
    assert session.enclave.record(cancel) == Cancelled(id=first)
    got = [session.enclave.record(frame) for frame in rest][-1]
    assert isinstance(got, Message)
    assert (got.id, bytes(got.tensors)) == (second, b"t" * 2 * MIB)


# Property 5: what a session bounds by itself


def test_message_over_the_limit_costs_only_itself() -> None:
    """Property 5: buffered bytes are bounded by the granted request size; the session lives on."""
    session = accepted(an_enclave(request_bytes=2048))
    _, frames = send(session, encode(tensors=[bytes(4000)]))
    assert [session.enclave.record(frame) for frame in frames] == [Refused(id=1, too_large=True)]
    assert session.enclave.open_ids == {1}
    (got,) = [session.caller.record(frame) for frame in _answer(session, 1, status=123)]
    assert isinstance(got, Message)
    assert got.status == 123


def test_answer_over_the_limit_costs_only_itself() -> None:
    """Property 5: the caller bounds answers alike."""
    session = accepted(answer_bytes=2048)
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    assert [session.caller.record(frame) for frame in _answer(session, number, tensors=[bytes(4000)])] == [Refused(id=1, too_large=True)]


def test_stray_cancels_are_bounded() -> None:
    """Property 5: 1,024 cancels of messages that are not open are discarded, one more ends the session."""
    session = accepted()
    sealer = _sealer(session)
    for _ in range(1024):
        assert session.enclave.record(sealer.control(Kind.CANCEL, 77, {})) is None
    _violates(session, sealer.control(Kind.CANCEL, 77, {}))


def test_repeated_cancels_of_an_open_message_are_bounded() -> None:
    """Property 5: an open message is cancelled once; further cancels count as strays."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    sealer = _sealer(session)
    assert session.enclave.record(sealer.control(Kind.CANCEL, number, {})) == Cancelled(id=number)
    assert session.enclave.record(sealer.control(Kind.CANCEL, number, {})) is None
    assert session.enclave._stray == 1


def test_stray_answers_are_bounded() -> None:
    """Property 5: the caller discards 1,024 answers to nothing, one more ends the session."""
    session = accepted()
    sealer = _enclave_sealer(session)
    frames = [sealer.seal(Kind.END, 5, (b"".join(encode()),)) for _ in range(1025)]
    assert {session.caller.record(frame) for frame in frames[:1024]} == {None}
    _caller_violates(session, frames[1024])


def test_second_answer_is_discarded() -> None:
    """One answer per id."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    sealer = _enclave_sealer(session)
    got = [session.caller.record(sealer.seal(Kind.END, number, (b"".join(encode()),))) for _ in range(2)]
    assert isinstance(got[0], Message)
    assert got[1] is None


# order


@pytest.mark.parametrize("number", [1, 2])
def test_ids_rise_strictly(number: int) -> None:
    """An id twice, or a smaller one, ends the session, whole or in parts."""
    for kind, content in ((Kind.END, b"".join(encode())), (Kind.DATA, bytes(MIB))):
        session = accepted()
        sealer = _sealer(session)
        _violates(session, sealer.seal(Kind.END, 2, (b"".join(encode()),)), sealer.seal(kind, number, (content,)))


def test_ids_may_have_gaps() -> None:
    """Strictly rising is enough."""
    session = accepted()
    for number in (3, 9, records.ID_MAX):
        assert isinstance(session.enclave.record(_sealer(session).seal(Kind.END, number, (b"".join(encode()),))), Message)


def test_id_that_began_unwanted_counts_as_used() -> None:
    """An id that was cancelled under way may not be used again."""
    session = accepted()
    sealer = _sealer(session)
    frames = [
        sealer.seal(Kind.DATA, 1, (bytes(MIB),)),
        sealer.control(Kind.CANCEL, 1, {}),
        sealer.seal(Kind.END, 1, (b"".join(encode()),)),
    ]
    _violates(session, *frames)


@pytest.mark.parametrize(
    ("kind", "number", "fields"),
    [
        (Kind.ACCEPT, 0, {1: 1, 2: 1, 3: 1}),
        (Kind.ACCEPT, 0, {}),
        (Kind.CLOSE, 1, {1: 0}),
        (Kind.CLOSE, 0, {}),
        (Kind.CLOSE, 0, {1: 0, 2: 0}),
        (Kind.CANCEL, 1, {1: 0}),
    ],
)
def test_control_record_that_is_not_the_callers_ends_the_session(kind: Kind, number: int, fields: dict[int, int]) -> None:
    """Accept, a close with an id or other fields, a cancel with fields."""
    session = accepted()
    _violates(session, _sealer(session).control(kind, number, fields))


@pytest.mark.parametrize(
    ("kind", "number", "fields"),
    [
        (Kind.ACCEPT, 0, {1: 1, 2: 1, 3: 1}),
        (Kind.ACCEPT, 0, {1: 0}),
        (Kind.CANCEL, 1, {}),
        (Kind.CLOSE, 1, {1: 0}),
        (Kind.CLOSE, 0, {}),
        (Kind.CLOSE, 0, {2: 0}),
    ],
)
def test_control_record_that_is_not_the_enclaves_ends_the_session(kind: Kind, number: int, fields: dict[int, int]) -> None:
    """A second accept, a cancel, a close with an id or other fields."""
    session = accepted()
    _caller_violates(session, _enclave_sealer(session).control(kind, number, fields))


def test_control_record_that_does_not_parse_ends_the_session() -> None:
    """1,024 zeros are no control record, in either direction."""
    session = accepted()
    _violates(session, _sealer(session).seal(Kind.CANCEL, 1, (bytes(1024),)))
    session = accepted()
    _caller_violates(session, _enclave_sealer(session).seal(Kind.CLOSE, 0, (bytes(1024),)))


def test_answer_to_a_message_that_is_not_whole_ends_the_session() -> None:
    """An enclave cannot answer what it has not read."""
    session = accepted()
    number, rest = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    next(rest)
    _caller_violates(session, _enclave_sealer(session).seal(Kind.END, number, (b"".join(encode()),)))


# misuse


def test_answer_to_what_is_not_open_is_misuse() -> None:
    """One answer per open message."""
    session = accepted()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    _answer(session, number)
    with pytest.raises(RuntimeError):
        session.enclave.answer(number, encode())


def test_requests_are_sent_one_after_the_other() -> None:
    """Frames of two requests or of two answers never mix, and ids go out in their order."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    _, first = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    _, second = session.caller.request(encode())
    next(first)
    with pytest.raises(RuntimeError):
        next(second)
    session = accepted()
    _, first = session.caller.request(encode())
    _, second = session.caller.request(encode())
    assert len(list(second)) == 1
    with pytest.raises(RuntimeError):
        next(first)


def test_ids_run_out() -> None:
    """After the last id a session takes no request."""
    session = accepted()
    session.caller._last = records.ID_MAX - 1
    session.caller.request(encode())
    with pytest.raises(RuntimeError):
        session.caller.request(encode())


def test_frames_end_with_the_session() -> None:
    """A dropped session seals nothing more, also from an iterator that was begun."""
    session = accepted(an_enclave(request_bytes=4 * MIB))
    _, rest = session.caller.request(encode(tensors=[bytes(2 * MIB)]))
    next(rest)
    session.caller.drop()
    assert list(rest) == []


def test_messages_are_opened_into_the_given_buffers() -> None:
    """Both sides take an allocator, and ask it for one buffer per message of one record."""
    given: list[int] = []

    def allocate(size: int) -> memoryview:
        given.append(size)
        return memoryview(bytearray(size))

    session = accepted(allocate=allocate)
    given.clear()
    number, frames = send(session, encode())
    session.enclave.record(frames[0])
    session.caller.record(_answer(session, number, tensors=[bytes(2000)])[0])
    assert given == [1024 + 5, 2176 + 5]


def test_frame_of_another_type_is_refused_before_the_session_sees_it() -> None:
    """The buffer judges the header."""
    buffer = FrameBuffer()
    room = buffer.space(FrameType.RECORD, exact=False)
    room[:5] = b"\0\0\0\x22\x01"
    buffer.filled(5)
    with pytest.raises(MalformedFrameError):
        buffer.next(FrameType.RECORD)
