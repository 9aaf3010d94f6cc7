"""The feed from S3: ranges fetched in parallel into a cache on the parent's disk, served while they arrive.

A broken range is asked for again from where it broke; whole pieces survive a failed download. A finished file is kept
under its name only if its SHA-256 is that name, and a cached one is hashed before the first use: a lying bucket or a
rotten disk costs a download, never a place in the cache. The enclave believes neither.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import threading
from typing import Any

from parent.bucket import Bounds, Bucket, go_on, unavailable
from parent.errors import SourceError
from parent.feed import MANIFEST_NAME, Artifact, open_file
from wire.feed import MANIFEST_MAX

HASH_BYTES = 1 << 20


class _Download:
    """One artifact on its way into the cache; readable meanwhile, piece by piece."""

    def __init__(self, bucket: Bucket, name: str, path: Path, length: int, bounds: Bounds) -> None:
        self.length = length
        self._bucket = bucket
        self._name = name
        self._bounds = bounds
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._done: set[int] = set()
        self._changed = asyncio.Event()
        self._stop = threading.Event()
        self._task = self._start()

    @property
    def _pieces(self) -> range:
        return range(-(-self.length // self._bounds.piece_bytes))

    def resume(self) -> None:
        """Go on with the missing pieces after a failure."""
        if self._task.done():
            self._task = self._start()

    def _start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # readers see it in what is missing
        return task

    async def _run(self) -> None:
        missing = iter([piece for piece in self._pieces if piece not in self._done])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fetch(missing)) for _ in range(self._bounds.parallel)]
            for task in tasks:
                if (failure := task.result()) is not None:
                    raise failure
        finally:
            self._tell()
        if await asyncio.to_thread(_sha256, self._descriptor, self._name, self._stop) != self._name:
            self._done.clear()
            raise unavailable(f"{self._name}: the object has other bytes than its name says")
        await asyncio.to_thread(os.replace, self._part, self._path)

    async def _fetch(self, missing: Iterator[int]) -> SourceError | None:
        """Fetch pieces until none is left. A failure ends the others too, each after its piece: no thread is left behind that writes."""
        for piece in missing:
            offset = piece * self._bounds.piece_bytes
            length = min(self._bounds.piece_bytes, self.length - offset)
            try:
                await asyncio.to_thread(self._bucket.fetch, self._name, self._descriptor, offset, length, self._stop)
            except SourceError as failure:
                deque(missing, maxlen=0)
                return failure
            except Exception as error:  # noqa: BLE001 - a defect must not cancel the others, whose threads would go on writing
                deque(missing, maxlen=0)
                return unavailable(f"{self._name}: {type(error).__name__}")
            self._done.add(piece)
            self._tell()
        return None

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def arrived(self, offset: int, length: int) -> None:
        """Wait until these bytes are there. Raises: SourceError where they do not come."""
        size = self._bounds.piece_bytes
        wanted = range(offset // size, (offset + length - 1) // size + 1)
        while not self._done.issuperset(wanted):
            if self._task.done():
                raise unavailable(f"{self._name}: the download failed")
            await self._changed.wait()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Artifact]:
        """The artifact while it arrives, and afterwards too: on a descriptor of its own."""
        descriptor = os.dup(self._descriptor)
        try:
            yield _Arriving(self, descriptor)
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        """Begin to end; readers that wait are told that the download failed."""
        self._stop.set()

    async def close(self) -> None:
        """Stop, and remove what is unfinished, once no thread writes any more: its descriptor may be another's file then."""
        self.stop()
        await asyncio.wait([self._task])
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
            raise unavailable("the cache became shorter")


def _sha256(descriptor: int, name: str, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(descriptor, HASH_BYTES, offset):
        go_on(stop, name)
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _file_sha256(path: Path, stop: threading.Event) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _sha256(descriptor, path.name, stop)
    finally:
        os.close(descriptor)


class S3Source:
    """`manifest.cose` and artifacts under a prefix of a bucket, by way of `cache`, a directory of the parent's own."""

    def __init__(self, client: Any, bucket: str, prefix: str, cache: Path, *, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._bucket = Bucket(client, bucket, prefix, self._bounds)
        self._cache = cache
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._downloads: dict[str, _Download] = {}
        self._lock = asyncio.Lock()
        self._stop = threading.Event()

    async def manifest(self) -> bytes:
        """Fetched anew each time, so that a new manifest needs no restart of the parent."""
        return await asyncio.to_thread(self._manifest)

    def _manifest(self) -> bytes:
        length = self._bucket.length(MANIFEST_NAME)
        if length > MANIFEST_MAX:
            raise unavailable(f"{MANIFEST_NAME}: expected 1 to {MANIFEST_MAX} bytes")
        descriptor = os.memfd_create(MANIFEST_NAME)
        try:
            self._bucket.fetch(MANIFEST_NAME, descriptor, 0, length, self._stop)
            return os.pread(descriptor, length, 0)
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def artifact(self, sha256: bytes) -> AsyncIterator[Artifact]:
        """From the cache where it is there and right, else on its way into it."""
        name = sha256.hex()
        path = self._cache / name
        async with self._lock:
            go_on(self._stop, name)
            download = None if await self._cached(name, path) else await self._download(name, path)
        async with open_file(path) if download is None else download.reader() as artifact:
            yield artifact

    async def _cached(self, name: str, path: Path) -> bool:
        """Whether the cache has the artifact; a finished download is let go."""
        if not await asyncio.to_thread(self._judge, name, path):
            return False
        if (finished := self._downloads.pop(name, None)) is not None:
            await finished.close()
        return True

    def _judge(self, name: str, path: Path) -> bool:
        """Hash a cached file that has changed since it was last hashed; a wrong one is removed."""
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._checked.get(name) != seen and _file_sha256(path, self._stop) != name:
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
            raise unavailable(f"the cache: {error.strerror}") from None
        return download

    async def close(self) -> None:
        """End every download and remove what is unfinished; from then on nothing can be had."""
        self._stop.set()
        for download in self._downloads.values():
            download.stop()
        async with self._lock:
            for download in self._downloads.values():
                await download.close()
            self._downloads.clear()
