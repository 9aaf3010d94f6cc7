"""The feed from S3, against moto's: parallel ranges, resumption, cache, and buckets that lie."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
import hashlib
import io
from pathlib import Path
import random
import threading
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError, ResponseStreamingError
import pytest

from parent import feed_s3
from parent.errors import SourceError
from parent.feed_s3 import Bounds, S3Source
from wire.feed import MANIFEST_MAX, FeedError

moto = pytest.importorskip("moto", reason="moto absent")

BUCKET = "models"
DATA = random.Random(5).randbytes(100_000)
NAME = hashlib.sha256(DATA).hexdigest()
BOUNDS = Bounds(piece_bytes=16_384, parallel=3, attempts=3, pause_seconds=0)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a simulated S3 with one artifact and a manifest under a prefix."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = feed_s3.connect("eu-west-1")
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        client.put_object(Bucket=BUCKET, Key=f"p/{NAME}", Body=DATA)
        client.put_object(Bucket=BUCKET, Key="p/manifest.cose", Body=b"a manifest")
        yield client


class Body(io.BytesIO):
    """A body that breaks, stalls or goes on as it is told."""

    def __init__(self, data: bytes, fault: Exception | None = None) -> None:
        super().__init__(data)
        self.fault = fault

    def read(self, size: int | None = -1) -> bytes:
        """The bytes; at their end the fault."""
        data = super().read(size)
        if not data and self.fault:
            raise self.fault
        return data


class Between:
    """Stands between source and S3: `meddle` sees each body, with its number and range, and may change it."""

    def __init__(self, client: Any, meddle: Callable[[int, str, bytes], Body] = lambda _n, _r, data: Body(data)) -> None:
        self.client, self.meddle = client, meddle
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def get_object(self, **asked: Any) -> Any:
        """As S3, through `meddle`."""
        self.asked.append(asked["Range"])
        answer = self.client.get_object(**asked)
        return {**answer, "Body": self.meddle(len(self.asked), asked["Range"], answer["Body"].read())}


def run(source_of: Callable[[], S3Source], work: Callable[[S3Source], Coroutine[Any, Any, Any]]) -> Any:
    """Use a source inside a loop and close it."""

    async def inside() -> Any:
        source = source_of()
        try:
            async with asyncio.timeout(20):
                return await work(source)
        finally:
            await source.close()

    return asyncio.run(inside())


async def fetched(source: S3Source, name: str = NAME, offset: int = 0, length: int = len(DATA)) -> bytes:
    """A range of an artifact."""
    async with source.artifact(bytes.fromhex(name)) as artifact:
        buffer = bytearray(length)
        await artifact.read_into(offset, memoryview(buffer))
        return bytes(buffer)


async def finished(source: S3Source, cache: Path) -> None:
    """Wait until the artifact has its place in the cache."""
    while not (cache / NAME).exists():
        await asyncio.sleep(0.001)


def test_artifacts_and_manifest_come(s3: Any, tmp_path: Path) -> None:
    """The artifact comes in parallel pieces, lies in the cache afterwards, and is not fetched again; so does the manifest, each time."""
    between = Between(s3)

    async def work(source: S3Source) -> None:
        assert await source.manifest() == b"a manifest"
        assert await fetched(source) == DATA
        await finished(source, tmp_path)
        asked = len(between.asked)
        assert asked == 1 + 7
        assert await fetched(source, offset=20_000, length=5) == DATA[20_000:20_005]
        assert len(between.asked) == asked
        s3.put_object(Bucket=BUCKET, Key="p/manifest.cose", Body=b"the next")
        assert await source.manifest() == b"the next"

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), work)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_range_is_served_before_the_whole_is_there(s3: Any, tmp_path: Path) -> None:
    """A reader gets its range as soon as its pieces are there, and several readers share one download."""
    released = threading.Event()

    def late(number: int, range_: str, data: bytes) -> Body:
        if range_.startswith("bytes=98304"):
            released.wait(10)
        return Body(data)

    between = Between(s3, late)

    async def work(source: S3Source) -> None:
        assert await fetched(source, length=16_384) == DATA[:16_384]
        whole = asyncio.gather(fetched(source), fetched(source))
        await asyncio.sleep(0.01)
        assert not whole.done()
        released.set()
        assert await whole == [DATA, DATA]

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), work)
    assert len(between.asked) == 7


@pytest.mark.parametrize(
    "fault", [None, ReadTimeoutError(endpoint_url="x"), ResponseStreamingError(error="broken"), ConnectionResetError()]
)
def test_a_broken_stream_goes_on_where_it_broke(s3: Any, tmp_path: Path, fault: Exception | None) -> None:
    """After a cut only the missing bytes are asked for again."""

    def cut(number: int, range_: str, data: bytes) -> Body:
        return Body(data[:1000], fault) if range_ == "bytes=0-16383" else Body(data)

    between = Between(s3, cut)
    assert DATA == run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), fetched)
    assert "bytes=1000-16383" in between.asked


def test_whole_pieces_survive_a_failed_download(s3: Any, tmp_path: Path) -> None:
    """A piece that never comes fails the download after some attempts; the next request asks for what is missing alone."""
    broken = [True]

    def cut(number: int, range_: str, data: bytes) -> Body:
        return Body(b"" if broken[0] and range_.startswith("bytes=16384") else data)

    between = Between(s3, cut)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError) as caught:
            await fetched(source)
        assert caught.value.reason is FeedError.UNAVAILABLE
        assert between.asked.count("bytes=16384-32767") == BOUNDS.attempts
        broken[0] = False
        between.asked.clear()
        assert await fetched(source) == DATA
        assert "bytes=16384-32767" in between.asked
        assert "bytes=0-16383" not in between.asked

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), work)


def test_a_lying_bucket_gets_no_place_in_the_cache(s3: Any, tmp_path: Path) -> None:
    """Other bytes than the name says may be read while they come, but are never kept under that name."""
    s3.put_object(Bucket=BUCKET, Key=f"p/{NAME}", Body=bytes(len(DATA)))

    async def work(source: S3Source) -> None:
        async with source.artifact(bytes.fromhex(NAME)) as artifact:
            with pytest.raises(SourceError):
                while True:
                    await artifact.read_into(0, memoryview(bytearray(len(DATA))))

    run(lambda: S3Source(Between(s3), BUCKET, "p", tmp_path, bounds=BOUNDS), work)
    assert list(tmp_path.iterdir()) == []


def test_a_rotten_cache_is_fetched_anew(s3: Any, tmp_path: Path) -> None:
    """A cached file is hashed before its first use and whenever it changed; a wrong one is fetched again."""
    (tmp_path / NAME).write_bytes(DATA[:-1] + b"\0")

    async def work(source: S3Source) -> None:
        assert await fetched(source) == DATA
        await finished(source, tmp_path)
        assert await fetched(source) == DATA
        (tmp_path / NAME).write_bytes(bytes(len(DATA)))
        assert await fetched(source) == DATA

    run(lambda: S3Source(Between(s3), BUCKET, "p", tmp_path, bounds=BOUNDS), work)


def test_a_stalling_bucket_is_bounded(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles byte by byte ends with its attempt's time, and the download with its attempts."""
    now = iter(range(10_000_000))
    monkeypatch.setattr(feed_s3, "time", SimpleNamespace(monotonic=lambda: float(next(now)), sleep=lambda _: None))
    monkeypatch.setattr(feed_s3, "READ_BYTES", 1)
    bounds = Bounds(piece_bytes=16_384, parallel=1, attempts=3, pause_seconds=0, piece_seconds=20)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError):
            await fetched(source)

    run(lambda: S3Source(Between(s3), BUCKET, "p", tmp_path, bounds=bounds), work)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("00" * 32, FeedError.NOT_FOUND), (NAME, FeedError.UNAVAILABLE)],
)
def test_what_is_not_there(s3: Any, tmp_path: Path, name: str, reason: FeedError) -> None:
    """A missing object is told from one that may not be read, and neither leaves anything in the cache."""
    s3.put_object(Bucket=BUCKET, Key=f"p/{NAME}", Body=b"")

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError) as caught:
            await fetched(source, name, length=1)
        assert reason is caught.value.reason

    run(lambda: S3Source(Between(s3), BUCKET, "p", tmp_path / "cache", bounds=BOUNDS), work)
    assert not (tmp_path / "cache").exists()


class Refusing(Between):
    """Answers every GET with an HTTP error."""

    def __init__(self, client: Any, status: int) -> None:
        super().__init__(client)
        self.status = status

    def get_object(self, **asked: Any) -> Any:
        """The error."""
        self.asked.append(asked["Range"])
        answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": self.status}}
        raise ClientError(answer, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (503, 3)])
def test_only_what_may_pass_is_tried_again(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, attempts: int) -> None:
    """A refusal is final; the service's own trouble is tried again after growing waits."""
    slept: list[float] = []
    monkeypatch.setattr(feed_s3, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=slept.append))
    between = Refusing(s3, status)
    bounds = Bounds(piece_bytes=len(DATA), parallel=1, attempts=3, pause_seconds=0.2)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError):
            await fetched(source)

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=bounds), work)
    assert (attempts, [0.2, 0.4][: attempts - 1]) == (len(between.asked), slept)


def test_a_manifest_is_bounded(s3: Any, tmp_path: Path) -> None:
    """A manifest larger than any is not fetched; a missing one is not found."""

    async def reason(source: S3Source) -> FeedError:
        with pytest.raises(SourceError) as caught:
            await source.manifest()
        return caught.value.reason

    between = Between(s3)
    s3.put_object(Bucket=BUCKET, Key="p/manifest.cose", Body=bytes(MANIFEST_MAX + 1))
    assert run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), reason) is FeedError.UNAVAILABLE
    assert between.asked == []
    assert run(lambda: S3Source(between, BUCKET, "q", tmp_path, bounds=BOUNDS), reason) is FeedError.NOT_FOUND
    assert run(lambda: S3Source(between, "none", "", tmp_path, bounds=BOUNDS), reason) is FeedError.NOT_FOUND


def test_a_full_disk_is_said(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written is the parent's trouble, said once and not tried again."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    between = Between(s3)
    monkeypatch.setattr(feed_s3.os, "pwrite", full)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError):
            await fetched(source)

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), work)
    assert len(set(between.asked)) == len(between.asked)
