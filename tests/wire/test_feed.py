"""What enclave and parent say in the clear: everything comes back, anything else is our error."""

from collections.abc import Callable
from dataclasses import replace
import json
import struct

from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire import feed
from wire.counters import Counter
from wire.errors import BootFailure, MalformedFeedError, Stage
from wire.feed import FEED_BODIES, AwsCredentials, BootReport, FeedError, FeedType, GetRange
from wire.frame import HEADER_BYTES, decode

CREDENTIALS = AwsCredentials(access_key_id="ASIA", secret_access_key="s/+=", session_token="t" * 900, expires=1_800_000_000)
OBJECT = {"access_key_id": "A", "secret_access_key": "s", "session_token": "t", "expires": 5}


def test_feed_types_are_apart_from_the_sessions() -> None:
    """Session frames have types below 16, the feed's from 16 on, each with bounds."""
    assert min(FeedType) == 16
    assert set(FEED_BODIES) == set(FeedType)
    assert decode(feed.encode_get_manifest(), FeedType.GET_MANIFEST, FEED_BODIES) == b""


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_range_comes_back_or_is_misuse(digest: bytes, offset: int, length: int) -> None:
    """Ranges up to 2**40 come back; beyond, they are refused on both sides."""
    request = GetRange(sha256=digest, offset=offset, length=length)
    if offset + length <= feed.RANGE_MAX:
        assert feed.decode_get_range(decode(feed.encode_get_range(request), FeedType.GET_RANGE, FEED_BODIES)) == request
        return
    with pytest.raises(ValueError, match="range"):
        feed.encode_get_range(request)
    with pytest.raises(MalformedFeedError):
        feed.decode_get_range(digest + struct.pack(">QQ", offset, length))


@pytest.mark.parametrize(
    "request_",
    [
        GetRange(sha256=bytes(31), offset=0, length=1),
        GetRange(sha256=bytes(32), offset=-1, length=1),
        GetRange(sha256=bytes(32), offset=0, length=0),
    ],
)
def test_range_out_of_bounds_is_misuse(request_: GetRange) -> None:
    """Digest, offset and length have bounds."""
    with pytest.raises(ValueError, match="range"):
        feed.encode_get_range(request_)


@pytest.mark.parametrize("body", [b"", bytes(47), bytes(48), bytes(49)])
def test_malformed_range_is_refused(body: bytes) -> None:
    """Another length, or a range of nothing."""
    with pytest.raises(MalformedFeedError):
        feed.decode_get_range(body)


@pytest.mark.parametrize("error", list(FeedError))
def test_error_comes_back(error: FeedError) -> None:
    """A number without text."""
    assert feed.decode_error(decode(feed.encode_error(error), FeedType.FEED_ERROR, FEED_BODIES)) == error


@pytest.mark.parametrize("body", [b"", b"\x01", b"\0\0", b"\0\x04", b"\0\0\x01"])
def test_malformed_error_is_refused(body: bytes) -> None:
    """Another length or number."""
    with pytest.raises(MalformedFeedError):
        feed.decode_error(body)


def test_credentials_come_back_and_are_not_shown() -> None:
    """All four fields; no representation holds a secret."""
    assert feed.decode_credentials(decode(feed.encode_credentials(CREDENTIALS), FeedType.CREDENTIALS, FEED_BODIES)) == CREDENTIALS
    assert repr(CREDENTIALS) == "AwsCredentials(...)"


@pytest.mark.parametrize(
    "change", [{"access_key_id": ""}, {"session_token": "t\n"}, {"session_token": "ä"}, {"session_token": "t" * 17_000}, {"expires": 0}]
)
def test_credentials_that_would_be_refused_are_misuse(change: dict[str, object]) -> None:
    """The parent does not send what the enclave refuses."""
    with pytest.raises(ValueError, match="credentials"):
        feed.encode_credentials(replace(CREDENTIALS, **change))  # type: ignore[arg-type]


def _json(**changes: object) -> bytes:
    return json.dumps({name: value for name, value in (OBJECT | changes).items() if value is not ...}).encode()


BAD_CREDENTIALS: dict[str, bytes] = {
    "empty": b"",
    "not json": b"{",
    "not ascii": '{"access_key_id":"ä"}'.encode(),
    "array": b"[]",
    "number": b"1",
    "deep": b"[" * 16_000,
    "missing": _json(expires=...),
    "unknown": _json(more=1),
    "twice": _json()[:-1] + b',"expires":6}',
    "null": _json(session_token=None),
    "empty text": _json(access_key_id=""),
    "control": _json(session_token="a\nb"),
    "escaped": _json(session_token="ä"),
    "float": _json(expires=1.5),
    "boolean": _json(expires=True),
    "negative": _json(expires=-1),
    "zero": _json(expires=0),
    "far": _json(expires=1 << 40),
    "infinite": _json(expires=float("inf")),
    "text number": _json(expires="5"),
    "huge number": b'{"expires":' + b"9" * 5000 + b"}",
    "too long": _json(session_token="t" * 17_000),
}


@pytest.mark.parametrize("name", BAD_CREDENTIALS)
def test_malformed_credentials_are_refused(name: str) -> None:
    """Exactly four fields of exact types, each once."""
    with pytest.raises(MalformedFeedError):
        feed.decode_credentials(BAD_CREDENTIALS[name])
    feed.decode_credentials(_json())


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("failure", [None, *BootFailure])
def test_boot_report_comes_back(stage: Stage, failure: BootFailure | None) -> None:
    """Stage and failure code, nothing else."""
    report = BootReport(stage=stage, failure=failure)
    assert feed.decode_boot_report(decode(feed.encode_boot_report(report), FeedType.BOOT_REPORT, FEED_BODIES)) == report


@pytest.mark.parametrize("body", [b"", bytes(3), bytes(4), bytes(5), b"\0\x06\0\0", b"\0\x01\0\x06"])
def test_malformed_boot_report_is_refused(body: bytes) -> None:
    """Another length, stage or code."""
    with pytest.raises(MalformedFeedError):
        feed.decode_boot_report(body)


@given(st.dictionaries(st.sampled_from(list(Counter)), st.integers(0, (1 << 64) - 1)))
def test_counters_come_back(counts: dict[Counter, int]) -> None:
    """Absent counters are zero."""
    got = feed.decode_counters(decode(feed.encode_counters(counts), FeedType.COUNTERS, FEED_BODIES))
    assert got == {counter: counts.get(counter, 0) for counter in Counter}


@pytest.mark.parametrize("size", [0, 8 * len(Counter) - 1, 8 * len(Counter) + 1])
def test_malformed_counters_are_refused(size: int) -> None:
    """Another length."""
    with pytest.raises(MalformedFeedError):
        feed.decode_counters(bytes(size))


DECODERS: list[Callable[[bytes], object]] = [
    feed.decode_get_range,
    feed.decode_error,
    feed.decode_credentials,
    feed.decode_boot_report,
    feed.decode_counters,
]


@given(st.binary(max_size=100), st.sampled_from(DECODERS))
def test_any_bytes_give_a_value_or_our_error(data: bytes, read: Callable[[bytes], object]) -> None:
    """Any bytes: a value, or MalformedFeedError."""
    try:
        read(data)
    except MalformedFeedError:
        return
    assert len(data) in (48, 2, 4, 8 * len(Counter)) or read is feed.decode_credentials


@given(
    st.dictionaries(
        st.sampled_from([*OBJECT, "more"]), st.none() | st.text(max_size=5) | st.integers() | st.floats() | st.lists(st.none()), max_size=5
    )
)
def test_any_json_gives_credentials_or_our_error(value: dict[str, object]) -> None:
    """Any JSON object: credentials that encode, or MalformedFeedError."""
    try:
        credentials = feed.decode_credentials(json.dumps(value).encode())
    except MalformedFeedError:
        return
    assert feed.encode_credentials(credentials)[HEADER_BYTES:]
