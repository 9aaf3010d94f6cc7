"""One prefix of one S3 bucket, by blocking calls that somebody's thread makes: every wait is short, and a flag ends the work."""

from contextlib import closing
from dataclasses import dataclass
import os
import threading
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.exceptions import HTTPClientError as BrokenStreamError

from parent.errors import SourceError
from wire.feed import RANGE_MAX, FeedError

PIECE_BYTES = 8 << 20
PARALLEL = 4
CONNECT_SECONDS = 5.0
READ_SECONDS = 5.0  # without a byte; whoever stops the parent waits no longer for a silent connection
READ_BYTES = 64 << 10  # between two looks at flag and clock
ATTEMPTS = 5  # for one piece; each goes on where the last one broke
PAUSE_SECONDS = 0.2  # doubled after every attempt
PIECE_SECONDS = 120.0  # for one attempt at one piece, however slowly the bytes come
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket"})


def connect(region: str) -> Any:
    """A boto3 S3 client with the instance's own credentials, bounded in every wait and without retries of its own."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=PARALLEL,
    )
    return boto3.session.Session().client("s3", region_name=region, config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How a download is cut up and how long it may take; the defaults are the product's."""

    piece_bytes: int = PIECE_BYTES
    parallel: int = PARALLEL
    attempts: int = ATTEMPTS
    pause_seconds: float = PAUSE_SECONDS
    piece_seconds: float = PIECE_SECONDS


def unavailable(what: str) -> SourceError:
    """The feed's error for what may be there another time."""
    return SourceError(FeedError.UNAVAILABLE, what)


def go_on(stop: threading.Event, name: str) -> None:
    """Raises: SourceError once the work is to end."""
    if stop.is_set():
        raise unavailable(f"{name}: the parent needs it no more")


class Bucket:
    """Lengths of objects, and ranges of them into a file."""

    def __init__(self, client: Any, bucket: str, prefix: str, bounds: Bounds) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._bounds = bounds

    def length(self, name: str) -> int:
        """Bytes of an object. Raises: SourceError."""
        try:
            length = int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"])
        except ClientError as error:
            raise self._refused(error, name) from None
        except BotoCoreError as error:
            raise unavailable(f"{name}: {type(error).__name__}") from None
        if not 0 < length <= RANGE_MAX:
            raise unavailable(f"{name}: expected 1 to {RANGE_MAX} bytes")
        return length

    def _refused(self, error: ClientError, name: str) -> SourceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return SourceError(FeedError.NOT_FOUND if code in _MISSING else FeedError.UNAVAILABLE, f"{name}: {code}")

    def fetch(self, name: str, descriptor: int, offset: int, length: int, stop: threading.Event) -> None:
        """Write `length` bytes from `offset` to the same place of a file.

        Raises: SourceError after the last attempt, or soon after `stop` is set; nothing is written after that.
        """
        end, pause = offset + length, self._bounds.pause_seconds
        for attempt in range(self._bounds.attempts):
            if attempt:
                stop.wait(pause)
                pause *= 2
            go_on(stop, name)
            offset = self._attempt(name, descriptor, offset, end, stop)
            if offset == end:
                return
        raise unavailable(f"{name}: bytes from {offset} on do not arrive")

    def _attempt(self, name: str, descriptor: int, offset: int, end: int, stop: threading.Event) -> int:
        """One GET; how far it came. Raises: SourceError for a refusal, which trying again does not mend."""
        deadline = time.monotonic() + self._bounds.piece_seconds
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=f"bytes={offset}-{end - 1}")
            with closing(answer["Body"]) as body:  # not `with` alone, which leads past botocore's errors to its library's
                while time.monotonic() < deadline and not stop.is_set():
                    data = body.read(min(READ_BYTES, end - offset))
                    if not data:
                        break
                    offset += os.pwrite(descriptor, data, offset)
        except ClientError as error:
            if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) < 500:
                raise self._refused(error, name) from None
        except (BotoCoreError, BrokenStreamError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
                raise unavailable(f"{name}: writing the cache: {error.strerror}") from None
        return offset
