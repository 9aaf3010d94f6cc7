"""The enclave's side of the feed: a parent that breaks, stalls, loops or lies is bounded."""

from collections.abc import Callable
from contextlib import closing, suppress
import socket
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from enclave import feed as reader
from enclave.dial import Dial, DialError
from enclave.feed import FeedUnavailable
from wire import feed
from wire.feed import FeedError, FeedType, decode_get_range
from wire.frame import HEADER_BYTES, encode

DATA = bytes(range(256)) * 20
SHA256 = bytes(32)


def parent(*answers: Callable[[bytes], bytes] | bytes) -> Dial:
    """A parent whose every connection gets one request and the next of these answers, then ends."""
    left = iter(answers)

    def serve(stream: socket.socket, answer: Callable[[bytes], bytes] | bytes) -> None:
        with closing(stream), suppress(OSError):
            request = b""
            while len(request) < HEADER_BYTES or len(request) < 4 + int.from_bytes(request[:4], "big"):
                request += stream.recv(100)
            stream.sendall(answer if isinstance(answer, bytes) else answer(request))

    def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        answer = next(left, None)
        if answer is None:
            raise DialError("nobody")
        threading.Thread(target=serve, args=(theirs, answer), daemon=True).start()
        return ours

    return dial


def chunks(data: bytes, size: int = 1000) -> bytes:
    """Whole CHUNK frames."""
    return b"".join(encode(FeedType.CHUNK, data[at : at + size]) for at in range(0, len(data), size))


def asked(request: bytes) -> tuple[int, int]:
    """The range of a request."""
    wanted = decode_get_range(request[HEADER_BYTES:])
    return wanted.offset, wanted.length


def honest(request: bytes) -> bytes:
    """The range, whole."""
    offset, length = asked(request)
    return chunks(DATA[offset : offset + length])


def cut(after: int) -> Callable[[bytes], bytes]:
    """The range, broken after so many bytes on the wire."""
    return lambda request: honest(request)[:after]


def got(dial: Dial, offset: int = 0, length: int = len(DATA)) -> bytes:
    """A range as the enclave collects it."""
    return b"".join(bytes(chunk) for chunk in reader.ranges(dial, SHA256, offset, length))


def test_a_range_comes_whole() -> None:
    """The chunks add up to the range."""
    assert DATA[7:4000] == got(parent(honest), 7, 3993)


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    """After a break only what is missing is asked for again."""
    seen: list[tuple[int, int]] = []

    def noted(request: bytes) -> bytes:
        seen.append(asked(request))
        return cut(2500)(request) if len(seen) < 3 else honest(request)

    assert DATA == got(parent(noted, noted, noted))
    assert seen == [(0, 5120), (2000, 3120), (4000, 1120)]


def test_a_break_without_progress_is_for_the_boot_to_retry() -> None:
    """A connection that brings nothing is not asked for again here."""
    with pytest.raises(FeedUnavailable):
        got(parent(cut(2500), b"", honest))


def test_breaks_are_counted() -> None:
    """A feed that breaks after every chunk is given up after RESUMES_MAX."""
    dialled = 0

    def one_byte(request: bytes) -> bytes:
        nonlocal dialled
        dialled += 1
        offset, _ = asked(request)
        return encode(FeedType.CHUNK, DATA[offset : offset + 1])

    dial = parent(*[one_byte] * 100)
    with pytest.raises(FeedUnavailable):
        got(dial)
    assert dialled == reader.RESUMES_MAX + 1


def test_a_slow_feed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the bytes trickle, a range has its time: a minute and a second for each MiB."""
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(reader.time, "monotonic", tick)
    received = []
    with pytest.raises(FeedUnavailable):
        for chunk in reader.ranges(parent(lambda _: chunks(DATA, 1)), SHA256, 0, len(DATA)):
            received.append(bytes(chunk))  # noqa: PERF401 - what came before the end counts
    assert 0 < len(received) < reader.ANSWER_SECONDS


def test_a_silent_parent_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that takes the request and says nothing is waited for ANSWER_SECONDS, no longer."""
    monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.05)
    held = []

    def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        held.append(theirs)
        return ours

    for ask in (lambda: got(dial), lambda: reader.manifest(dial), lambda: reader.credentials(dial)):
        with pytest.raises(FeedUnavailable):
            ask()


LIES = {
    "more than asked for": chunks(DATA + b"x", len(DATA) + 1),
    "another frame": encode(FeedType.MANIFEST, b"m"),
    "an error": feed.encode_error(FeedError.NOT_FOUND),
    "an error with text": encode(FeedType.FEED_ERROR, b"text"),
    "an empty chunk": encode(FeedType.CHUNK, b"")[:4] + bytes((FeedType.CHUNK,)),
    "a chunk of 4 GiB": b"\xff\xff\xff\xff" + bytes((FeedType.CHUNK,)),
    "half a header": b"\0\0",
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_unavailable(lie: str) -> None:
    """Whatever is no chunk of the range is one error, and costs no more memory than a chunk."""
    with pytest.raises(FeedUnavailable):
        got(parent(LIES[lie]))


def test_manifest_and_credentials() -> None:
    """Manifest and credentials come as they are, or are unavailable; malformed credentials are too."""
    mine = feed.AwsCredentials(access_key_id="a", secret_access_key="b", session_token="c", expires=7)
    assert reader.manifest(parent(encode(FeedType.MANIFEST, b"m"))) == b"m"
    assert reader.credentials(parent(feed.encode_credentials(mine))) == mine
    for call in (reader.manifest, reader.credentials):
        for answer in (b"", feed.encode_error(FeedError.UNAVAILABLE), chunks(b"x")):
            with pytest.raises(FeedUnavailable):
                call(parent(answer))
        with pytest.raises(FeedUnavailable):
            call(parent())
    with pytest.raises(FeedUnavailable):
        reader.credentials(parent(encode(FeedType.CREDENTIALS, b"{}")))


def test_a_report_that_nobody_takes_is_missed() -> None:
    """A boot report is one-way: no parent, no error."""
    reader.report(parent(), b"frame")


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_answer_is_the_range_or_unavailable(answer: bytes) -> None:
    """Any bytes: chunks of the asked length, or the one error."""
    with suppress(FeedUnavailable):
        assert len(got(parent(answer), 0, 16)) == 16
