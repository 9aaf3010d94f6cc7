"""The feed from S3: ranges fetched in parallel into a cache on the parent's disk, served while they arrive.

A broken range is asked for again from where it broke; whole pieces survive a failed download. A finished file is kept
under its name only if its SHA-256 is that name, and a cached one is hashed before the first use: a lying bucket or a
rotten disk costs a download, never a place in the cache. The enclave believes neither.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.exceptions import HTTPClientError as BrokenStreamError

from parent.errors import SourceError
from parent.feed import MANIFEST_NAME, Artifact, open_file
from wire.feed import MANIFEST_MAX, RANGE_MAX, FeedError

PIECE_BYTES = 8 << 20
PARALLEL = 4
READ_BYTES = 1 << 20
ATTEMPTS = 5  # for one piece; each goes on where the last one broke
PAUSE_SECONDS = 0.2  # doubled after every attempt
PIECE_SECONDS = 120.0  # for one attempt at one piece, however the bytes trickle
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket"})


def connect(region: str) -> Any:
    """A boto3 S3 client with the instance's own credentials, bounded in every wait and without retries of its own."""
    config = Config(
        connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1, "mode": "standard"}, max_pool_connections=PARALLEL
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


def _unavailable(what: str) -> SourceError:
    return SourceError(FeedError.UNAVAILABLE, what)


class _Bucket:
    """Blocking calls on one prefix of one bucket."""

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
            raise _unavailable(f"{name}: {type(error).__name__}") from None
        if not 0 < length <= RANGE_MAX:
            raise _unavailable(f"{name}: expected 1 to {RANGE_MAX} bytes")
        return length

    def _refused(self, error: ClientError, name: str) -> SourceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        return SourceError(FeedError.NOT_FOUND if code in _MISSING else FeedError.UNAVAILABLE, f"{name}: {code}")

    def fetch(self, name: str, descriptor: int, offset: int, length: int) -> None:
        """Write `length` bytes from `offset` to the same place of a file. Raises: SourceError after the last attempt."""
        end, pause = offset + length, self._bounds.pause_seconds
        for attempt in range(self._bounds.attempts):
            if attempt:
                time.sleep(pause)
                pause *= 2
            offset = self._attempt(name, descriptor, offset, end)
            if offset == end:
                return
        raise _unavailable(f"{name}: bytes from {offset} on do not arrive")

    def _attempt(self, name: str, descriptor: int, offset: int, end: int) -> int:
        """One GET; how far it came. Raises: SourceError for a refusal, which trying again does not mend."""
        deadline = time.monotonic() + self._bounds.piece_seconds
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=f"bytes={offset}-{end - 1}")
            with answer["Body"] as body:
                while time.monotonic() < deadline:
                    data = body.read(min(READ_BYTES, end - offset))
                    if not data:
                        break
                    offset += os.pwrite(descriptor, data, offset)
        except ClientError as error:
            if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) < 500:
                raise self._refused(error, name) from None
        except (BotoCoreError, BrokenStreamError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
                raise _unavailable(f"{name}: writing the cache: {error.strerror}") from None
        return offset


class _Download:
    """One artifact on its way into the cache; readable meanwhile, piece by piece."""

    def __init__(self, bucket: _Bucket, name: str, path: Path, length: int, bounds: Bounds) -> None:
        self.length = length
        self._bucket = bucket
        self._name = name
        self._bounds = bounds
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._done: set[int] = set()
        self._changed = asyncio.Event()
        self.task = self._start()

    @property
    def _pieces(self) -> range:
        return range(-(-self.length // self._bounds.piece_bytes))

    def resume(self) -> None:
        """Go on with the missing pieces after a failure."""
        if self.task.done():
            self.task = self._start()

    def _start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # readers see it in what is missing
        return task

    async def _run(self) -> None:
        missing = iter([piece for piece in self._pieces if piece not in self._done])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._bounds.parallel):
                    group.create_task(self._fetch(missing))
        except* SourceError as failures:
            raise failures.exceptions[0] from None
        finally:
            self._tell()
        if await asyncio.to_thread(_sha256, self._descriptor) != self._name:
            self._done.clear()
            raise _unavailable(f"{self._name}: the object has other bytes than its name says")
        await asyncio.to_thread(os.replace, self._part, self._path)

    async def _fetch(self, missing: Any) -> None:
        for piece in missing:
            offset = piece * self._bounds.piece_bytes
            length = min(self._bounds.piece_bytes, self.length - offset)
            await asyncio.to_thread(self._bucket.fetch, self._name, self._descriptor, offset, length)
            self._done.add(piece)
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def arrived(self, offset: int, length: int) -> None:
        """Wait until these bytes are there. Raises: SourceError where they do not come."""
        size = self._bounds.piece_bytes
        wanted = range(offset // size, (offset + length - 1) // size + 1)
        while not self._done.issuperset(wanted):
            if self.task.done():
                raise _unavailable(f"{self._name}: the download failed")
            await self._changed.wait()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Artifact]:
        """The artifact while it arrives, and afterwards too: on a descriptor of its own."""
        descriptor = os.dup(self._descriptor)
        try:
            yield _Arriving(self, descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Stop, and remove what is unfinished."""
        self.task.cancel()
        os.close(self._descriptor)
        self._part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Arriving:
    _download: _Download
    _descriptor: int

    @property
    def length(self) -> int:
        return self._download.length

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        await self._download.arrived(offset, len(buffer))
        if await asyncio.to_thread(os.preadv, self._descriptor, [buffer], offset) != len(buffer):
            raise _unavailable("the cache became shorter")


def _sha256(descriptor: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(descriptor, READ_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _sha256(descriptor)
    finally:
        os.close(descriptor)


class S3Source:
    """`manifest.cose` and artifacts under a prefix of a bucket, by way of `cache`, a directory of the parent's own."""

    def __init__(self, client: Any, bucket: str, prefix: str, cache: Path, *, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._bucket = _Bucket(client, bucket, prefix, self._bounds)
        self._cache = cache
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._downloads: dict[str, _Download] = {}
        self._lock = asyncio.Lock()

    async def manifest(self) -> bytes:
        """Fetched anew each time, so that a new manifest needs no restart of the parent."""
        return await asyncio.to_thread(self._manifest)

    def _manifest(self) -> bytes:
        length = self._bucket.length(MANIFEST_NAME)
        if length > MANIFEST_MAX:
            raise _unavailable(f"{MANIFEST_NAME}: expected 1 to {MANIFEST_MAX} bytes")
        descriptor = os.memfd_create(MANIFEST_NAME)
        try:
            self._bucket.fetch(MANIFEST_NAME, descriptor, 0, length)
            return os.pread(descriptor, length, 0)
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def artifact(self, sha256: bytes) -> AsyncIterator[Artifact]:
        """From the cache where it is there and right, else on its way into it."""
        name = sha256.hex()
        path = self._cache / name
        async with self._lock:
            download = None if await self._cached(name, path) else await self._download(name, path)
        async with open_file(path) if download is None else download.reader() as artifact:
            yield artifact

    async def _cached(self, name: str, path: Path) -> bool:
        """Whether the cache has the artifact; a finished download is let go."""
        if not await asyncio.to_thread(self._judge, name, path):
            return False
        if (finished := self._downloads.pop(name, None)) is not None:
            finished.close()
        return True

    def _judge(self, name: str, path: Path) -> bool:
        """Hash a cached file that has changed since it was last hashed; a wrong one is removed."""
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._checked.get(name) != seen and _file_sha256(path) != name:
                path.unlink()
                return False
        except OSError:
            return False
        self._checked[name] = seen
        return True

    async def _download(self, name: str, path: Path) -> _Download:
        if (running := self._downloads.get(name)) is not None:
            running.resume()
            return running
        length = await asyncio.to_thread(self._bucket.length, name)
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            download = self._downloads[name] = _Download(self._bucket, name, path, length, self._bounds)
        except OSError as error:
            raise _unavailable(f"the cache: {error.strerror}") from None
        return download

    async def close(self) -> None:
        """End every download."""
        for download in self._downloads.values():
            download.close()
            with suppress(asyncio.CancelledError, SourceError):
                await download.task
        self._downloads.clear()
