"""The enclave's side of the feed: ask the parent for manifest, artifact ranges and credentials, tell it the boot's stage.

Everything that comes back is untrusted; this module bounds it (sizes, waiting time) and parses its framing, no more.
"""

from collections.abc import Iterator
import contextlib
import socket
import time

from enclave.dial import Dial, DialError
from wire import feed
from wire.errors import WireError
from wire.frame import HEADER_BYTES, parse_header

ANSWER_SECONDS = 60.0  # for one whole answer but a range's, whose every chunk has it anew
PACE_BYTES = 1 << 20  # per second, the least that a feed must bring of a range
RESUMES_MAX = 16  # connections that may break within one range


class FeedUnavailable(Exception):
    """The parent did not answer, or not in time, or refused; asking again later may help."""


def _receive(stream: socket.socket, view: memoryview, deadline: float) -> None:
    """Fill `view`. A parent that trickles bytes meets the deadline, not only each read's timeout."""
    while view:
        left = deadline - time.monotonic()
        if left <= 0:
            raise FeedUnavailable("the parent's answer took too long")
        stream.settimeout(left)
        count = stream.recv_into(view)
        if count == 0:
            raise FeedUnavailable("the parent cut its answer short")
        view = view[count:]


def _answer(stream: socket.socket, expected: feed.FeedType, buffer: bytearray | None = None) -> memoryview:
    """One answer's body; valid until `buffer` is used again. A feed error, cut or stall is FeedUnavailable."""
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        header = bytearray(HEADER_BYTES)
        _receive(stream, memoryview(header), deadline)
        type_ = feed.FeedType.FEED_ERROR if header[4] == feed.FeedType.FEED_ERROR else expected
        length = parse_header(bytes(header), type_, feed.FEED_BODIES).body
        body = memoryview(bytearray(length) if buffer is None else buffer)[:length]
        _receive(stream, body, deadline)
    except (OSError, WireError):
        raise FeedUnavailable("the parent's answer did not arrive whole") from None
    if type_ is feed.FeedType.FEED_ERROR:
        raise FeedUnavailable("the parent has not what was asked for")
    return body


@contextlib.contextmanager
def _asked(dial: Dial, request: bytes) -> Iterator[socket.socket]:
    try:
        stream = dial()
    except DialError:
        raise FeedUnavailable("the parent does not take the connection") from None
    try:
        stream.sendall(request)
        yield stream
    except OSError:
        raise FeedUnavailable("the connection to the parent broke") from None
    finally:
        stream.close()


def manifest(dial: Dial) -> bytes:
    """The manifest envelope, untrusted. Raises: FeedUnavailable."""
    with _asked(dial, feed.encode_get_manifest()) as stream:
        return bytes(_answer(stream, feed.FeedType.MANIFEST))


def credentials(dial: Dial) -> feed.AwsCredentials:
    """The parent's AWS credentials, untrusted. Raises: FeedUnavailable."""
    with _asked(dial, feed.encode_get_credentials()) as stream:
        body = bytes(_answer(stream, feed.FeedType.CREDENTIALS))
    try:
        return feed.decode_credentials(body)
    except WireError:
        raise FeedUnavailable("the parent's credentials are malformed") from None


def _range(dial: Dial, sha256: bytes, offset: int, length: int, buffer: bytearray, end: float) -> Iterator[memoryview]:
    request = feed.encode_get_range(feed.GetRange(sha256=sha256, offset=offset, length=length))
    with _asked(dial, request) as stream:
        while length:
            if time.monotonic() >= end:
                raise FeedUnavailable("the parent's answer took too long")
            chunk = _answer(stream, feed.FeedType.CHUNK, buffer)
            if len(chunk) > length:
                raise FeedUnavailable("the parent sent more than the range")
            length -= len(chunk)
            yield chunk


def ranges(dial: Dial, sha256: bytes, offset: int, length: int) -> Iterator[memoryview]:
    """The bytes of an artifact's range in chunks of at most 1 MiB, each valid until the next. Raises: FeedUnavailable.

    A stream that broke after it had brought something is asked for again from there, RESUMES_MAX times in all; a feed
    slower than PACE_BYTES a second, whatever it sends, is given up.
    """
    end = time.monotonic() + ANSWER_SECONDS + length / PACE_BYTES
    buffer = bytearray(feed.CHUNK_MAX)
    for attempt in range(RESUMES_MAX + 1):
        before = length
        try:
            for chunk in _range(dial, sha256, offset, length, buffer, end):
                offset, length = offset + len(chunk), length - len(chunk)
                yield chunk
        except FeedUnavailable:
            if length == before or attempt == RESUMES_MAX:
                raise
        else:
            return


def report(dial: Dial, frame: bytes) -> None:
    """Push a boot report or counters; a parent that does not listen misses them."""
    with contextlib.suppress(FeedUnavailable), _asked(dial, frame):
        pass
