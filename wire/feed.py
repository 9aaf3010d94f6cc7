"""What enclave and parent say to each other in the clear: manifest, artifact ranges, credentials, boot reports.

The frames are `wire.frame`'s with types from 16 on. All of it is untrusted to the enclave and readable by the parent:
a manifest is believed by its signature, an artifact by its pinned header and key commitment, credentials not at all.
One request at a time per connection; the enclave always asks, the parent always answers, except STATUS, which is
one-way. Standard library only.
"""

from dataclasses import dataclass
from enum import IntEnum
import json
import struct

from wire.counters import Counter
from wire.errors import BootFailure, MalformedFeedError, Stage
from wire.frame import encode

MANIFEST_MAX = 1 << 20  # a signed manifest with several CA certificates and a hundred models stays far below
CHUNK_MAX = 1 << 20
RANGE_MAX = 1 << 40
CREDENTIALS_MAX = 16 * 1024
DIGEST_BYTES = 32


class FeedType(IntEnum):
    """Frame types of the feed, status and credential ports."""

    GET_MANIFEST = 16
    MANIFEST = 17
    GET_RANGE = 18
    CHUNK = 19
    FEED_ERROR = 20
    GET_CREDENTIALS = 24
    CREDENTIALS = 25
    BOOT_REPORT = 32
    COUNTERS = 33


FEED_BODIES: dict[int, tuple[int, int]] = {
    FeedType.GET_MANIFEST: (0, 0),
    FeedType.MANIFEST: (1, MANIFEST_MAX),
    FeedType.GET_RANGE: (48, 48),
    FeedType.CHUNK: (1, CHUNK_MAX),
    FeedType.FEED_ERROR: (2, 2),
    FeedType.GET_CREDENTIALS: (0, 0),
    FeedType.CREDENTIALS: (2, CREDENTIALS_MAX),
    FeedType.BOOT_REPORT: (4, 4),
    FeedType.COUNTERS: (8 * len(Counter), 8 * len(Counter)),
}


class FeedError(IntEnum):
    """Why the parent cannot answer; it never carries text."""

    NOT_FOUND = 1
    BAD_RANGE = 2
    UNAVAILABLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GetRange:
    """Ask for `length` bytes from `offset` of the artifact with this SHA-256; CHUNK frames with exactly that many follow."""

    sha256: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsCredentials:
    """The parent's role credentials; parent-chosen, hence untrusted. `expires` is in Unix seconds."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires: int

    def __repr__(self) -> str:
        return "AwsCredentials(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """The stage the enclave is in, and the failure that ended its boot, if one did."""

    stage: Stage
    failure: BootFailure | None = None


def encode_get_manifest() -> bytes:
    """The whole request frame."""
    return encode(FeedType.GET_MANIFEST, b"")


def encode_get_credentials() -> bytes:
    """The whole request frame."""
    return encode(FeedType.GET_CREDENTIALS, b"")


def encode_get_range(request: GetRange) -> bytes:
    """The whole request frame. Raises ValueError for a range that `decode_get_range` would refuse."""
    if len(request.sha256) != DIGEST_BYTES or not (
        request.offset >= 0 and request.length > 0 and request.offset + request.length <= RANGE_MAX
    ):
        raise ValueError("a range has a 32-byte digest, an offset and a positive length below 2**40")
    return encode(FeedType.GET_RANGE, request.sha256 + struct.pack(">QQ", request.offset, request.length))


def decode_get_range(body: bytes) -> GetRange:
    """Raises: MalformedFeedError."""
    if len(body) != 48:
        raise MalformedFeedError("a range request has 48 bytes")
    offset, length = struct.unpack(">QQ", body[DIGEST_BYTES:])
    if length == 0 or offset + length > RANGE_MAX:
        raise MalformedFeedError("a range is empty or too long")
    return GetRange(sha256=bytes(body[:DIGEST_BYTES]), offset=offset, length=length)


def encode_error(error: FeedError) -> bytes:
    """The whole answer frame."""
    return encode(FeedType.FEED_ERROR, struct.pack(">H", error))


def decode_error(body: bytes) -> FeedError:
    """Raises: MalformedFeedError."""
    if len(body) != 2:
        raise MalformedFeedError("a feed error has two bytes")
    try:
        return FeedError(int.from_bytes(body, "big"))
    except ValueError:
        raise MalformedFeedError("unknown feed error") from None


_FIELDS = {"access_key_id": str, "secret_access_key": str, "session_token": str, "expires": int}


def encode_credentials(credentials: AwsCredentials) -> bytes:
    """The whole answer frame; the body is a JSON object with exactly the fields of AwsCredentials.

    Raises ValueError for credentials that `decode_credentials` would refuse.
    """
    body = json.dumps({name: getattr(credentials, name) for name in _FIELDS}, separators=(",", ":")).encode()
    try:
        decode_credentials(body)
    except MalformedFeedError as error:
        raise ValueError(str(error)) from None
    return encode(FeedType.CREDENTIALS, body)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def decode_credentials(body: bytes) -> AwsCredentials:
    """Raises: MalformedFeedError for anything but one object with exactly the four fields, non-empty printable texts."""
    if len(body) > CREDENTIALS_MAX:
        raise MalformedFeedError("credentials exceed the feed's limit")
    try:
        value = json.loads(bytes(body).decode("ascii"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise MalformedFeedError("credentials are not JSON") from None
    if not isinstance(value, dict) or value.keys() != _FIELDS.keys():
        raise MalformedFeedError("credentials have other fields than these four")
    for name, kind in _FIELDS.items():
        field = value[name]
        if type(field) is not kind or (isinstance(field, str) and not (field.isascii() and field.isprintable() and field)):
            raise MalformedFeedError("a field of the credentials has the wrong type")
    if not 0 < value["expires"] < 1 << 40:
        raise MalformedFeedError("the credentials' expiry is no Unix time")
    return AwsCredentials(**value)


def encode_boot_report(report: BootReport) -> bytes:
    """The whole frame."""
    return encode(FeedType.BOOT_REPORT, struct.pack(">HH", report.stage, report.failure or 0))


def decode_boot_report(body: bytes) -> BootReport:
    """Raises: MalformedFeedError."""
    if len(body) != 4:
        raise MalformedFeedError("a boot report has four bytes")
    stage, failure = struct.unpack(">HH", body)
    try:
        return BootReport(stage=Stage(stage), failure=BootFailure(failure) if failure else None)
    except ValueError:
        raise MalformedFeedError("unknown stage or boot failure") from None


def encode_counters(counts: dict[Counter, int]) -> bytes:
    """The whole frame: one unsigned 64-bit number per counter, in the order of `Counter`; absent ones are 0."""
    return encode(FeedType.COUNTERS, struct.pack(f">{len(Counter)}Q", *(counts.get(counter, 0) for counter in Counter)))


def decode_counters(body: bytes) -> dict[Counter, int]:
    """Raises: MalformedFeedError."""
    if len(body) != 8 * len(Counter):
        raise MalformedFeedError("counters have another length")
    return dict(zip(Counter, struct.unpack(f">{len(Counter)}Q", body), strict=True))
