"""The feed from S3, against moto's: parallel ranges, resumption, cache, and buckets that lie."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
from pathlib import Path
import random
import threading
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError, ResponseStreamingError
import pytest

from parent import appliance, bucket, feed_s3
from parent.appliance import Appliance
from parent.bucket import Bounds, Bucket
from parent.config import parse
from parent.errors import SourceError
from parent.feed_s3 import S3Source
from tests.parent.test_config import MINIMAL
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
        client = bucket.connect("eu-west-1")
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
    "fault", [None, ReadTimeoutError(endpoint_url="x"), ResponseStreamingError(error="broken"), ConnectionResetError(104, "reset")]
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
    monkeypatch.setattr(bucket, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    monkeypatch.setattr(bucket, "READ_BYTES", 1)
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

    class Waited(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            slept.append(timeout or 0.0)
            return self.is_set()

    monkeypatch.setattr(feed_s3, "threading", SimpleNamespace(Event=Waited))
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
    monkeypatch.setattr(bucket.os, "pwrite", full)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError):
            await fetched(source)

    run(lambda: S3Source(between, BUCKET, "p", tmp_path, bounds=BOUNDS), work)
    assert len(set(between.asked)) == len(between.asked)


def test_a_defect_leaves_no_thread_that_writes(s3: Any, tmp_path: Path) -> None:
    """An error of no expected kind fails the download as any other does, after the pieces under way, and closing waits for them."""
    writing = threading.Event()

    def odd(number: int, range_: str, data: bytes) -> Body:
        if range_.startswith("bytes=0-"):
            writing.wait()
            return Body(b"", ZeroDivisionError())
        writing.set()
        return Body(data)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError) as caught:
            await fetched(source)
        assert caught.value.reason is FeedError.UNAVAILABLE

    run(lambda: S3Source(Between(s3, odd), BUCKET, "p", tmp_path, bounds=BOUNDS), work)


class Silent(Between):
    """Never gives a byte: each connection is silent for as long as one may be, and breaks."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, lambda _n, _r, _d: Body(b"", ReadTimeoutError(endpoint_url="x")))
        self.asking = threading.Event()

    def get_object(self, **asked: Any) -> Any:
        """As S3, but silent."""
        answer = super().get_object(**asked)
        self.asking.set()
        return answer


MANY = 100_000  # attempts of each thread: minutes of them, far more than fit between the first and the stop
PATIENT = Bounds(piece_bytes=16_384, parallel=3, attempts=MANY, pause_seconds=0)


def test_closing_ends_what_is_under_way(s3: Any, tmp_path: Path) -> None:
    """Readers that wait are told, no thread asks on, nothing unfinished stays, and nothing more can be had."""
    silent = Silent(s3)

    async def scene() -> None:
        source = S3Source(silent, BUCKET, "p", tmp_path, bounds=PATIENT)
        reading = asyncio.gather(fetched(source), source.manifest(), return_exceptions=True)
        await asyncio.to_thread(silent.asking.wait)
        await source.close()
        assert list(tmp_path.iterdir()) == []
        assert [SourceError, SourceError] == [type(result) for result in await reading]
        asked = len(silent.asked)
        assert asked < MANY
        for more in (source.manifest(), fetched(source)):
            with pytest.raises(SourceError):
                await more
        assert asked == len(silent.asked)

    asyncio.run(scene())


def test_a_stopped_parent_does_not_wait_for_a_stuck_download(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop while a download gets no byte, the parent ends: the download with it, and no part of it stays."""
    silent = Silent(s3)
    source = S3Source(silent, BUCKET, "p", tmp_path / "cache", bounds=PATIENT)
    monkeypatch.setattr(appliance, "feed_source", lambda _: source)
    text = MINIMAL.replace("vsock:16:7000", f"unix:{tmp_path}/e").replace("cid = 16", "")
    for name in ("tcp:0.0.0.0:7443", "vsock:3:7001", "vsock:3:7002", "vsock:3:7003"):
        text = text.replace(name, f"unix:{tmp_path}/{name[-4:]}")

    async def scene() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(Appliance(parse(text)).run(stop))
        reading = asyncio.create_task(fetched(source))
        await asyncio.to_thread(silent.asking.wait)
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [f".{NAME}.part"]
        stop.set()
        await running
        assert len(silent.asked) < MANY
        assert list((tmp_path / "cache").iterdir()) == []
        with pytest.raises(SourceError):
            await reading

    asyncio.run(scene())


def test_closing_waits_for_whoever_writes(s3: Any, tmp_path: Path) -> None:
    """The file is closed once no thread has its descriptor any more, which may be another file's number then."""
    begun, go = threading.Event(), threading.Event()

    def held(number: int, range_: str, data: bytes) -> Body:
        begun.set()
        go.wait()
        return Body(data)

    async def scene() -> None:
        source = S3Source(Between(s3, held), BUCKET, "p", tmp_path, bounds=BOUNDS)
        reading = asyncio.create_task(fetched(source))
        await asyncio.to_thread(begun.wait)
        closing = asyncio.create_task(source.close())
        for _ in range(20):
            await asyncio.sleep(0)
        early = closing.done()
        go.set()
        await closing
        assert not early
        with pytest.raises(SourceError):
            await reading

    asyncio.run(scene())
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_come_are_taken_no_more(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag ends a piece in its middle too: what has been read is written, and nothing after it."""
    monkeypatch.setattr(bucket, "READ_BYTES", 10)
    stop = threading.Event()

    class Stopping(Body):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 20:
                stop.set()
            return super().read(size)

    between = Between(s3, lambda _n, _r, data: Stopping(data))
    with (tmp_path / "part").open("wb") as part:
        with pytest.raises(SourceError):
            Bucket(between, BUCKET, "p", BOUNDS).fetch(NAME, part.fileno(), 0, 1000, stop)
        assert len(between.asked) == 1
    assert (tmp_path / "part").read_bytes() == DATA[:30]


def test_hashing_ends_too(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file that lies in the cache is not hashed to its end by a parent that stops, and stays where it is."""
    (tmp_path / NAME).write_bytes(DATA)
    begun, go = threading.Event(), threading.Event()
    pread = feed_s3.os.pread

    def slow(descriptor: int, length: int, offset: int) -> bytes:
        begun.set()
        go.wait()
        return pread(descriptor, 1, offset)

    async def scene() -> None:
        monkeypatch.setattr(feed_s3.os, "pread", slow)
        source = S3Source(Between(s3), BUCKET, "p", tmp_path, bounds=BOUNDS)
        reading = asyncio.create_task(fetched(source))
        await asyncio.to_thread(begun.wait)
        closing = asyncio.create_task(source.close())
        await asyncio.sleep(0)
        go.set()
        await closing
        with pytest.raises(SourceError):
            await reading

    asyncio.run(scene())
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_failed_download_leaves_no_thread_behind(s3: Any, tmp_path: Path) -> None:
    """Where one piece cannot be had the others are waited for: nobody writes once the reader is told."""
    under_way, never = threading.Semaphore(0), threading.Event()
    ended: list[str] = []

    def meddle(number: int, range_: str, data: bytes) -> Body:
        if range_.startswith("bytes=0-"):
            under_way.acquire()
            under_way.acquire()
            return Body(b"")
        under_way.release()
        never.wait(0.05)  # longer than the first needs to fail
        ended.append(range_)
        return Body(data)

    async def work(source: S3Source) -> None:
        with pytest.raises(SourceError):
            await fetched(source, length=16_384)
        assert 2 == len(ended)

    bounds = Bounds(piece_bytes=16_384, parallel=3, attempts=1, pause_seconds=0)
    run(lambda: S3Source(Between(s3, meddle), BUCKET, "p", tmp_path, bounds=bounds), work)


class Bare(ThreadingHTTPServer):
    """S3 as far as a download goes, over real connections; the first GET of each piece breaks as `fault` says."""

    daemon_threads = True

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), BareHandler)
        self.fault = fault
        self.asked: list[str] = []
        self.over = threading.Event()


class BareHandler(BaseHTTPRequestHandler):
    server: Bare

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.server.asked.append(self.headers["Range"])
        data = DATA[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if first % BOUNDS.piece_bytes:
            self.wfile.write(data)
            return
        self.wfile.write(data[:1000])
        self.wfile.flush()
        self.close_connection = True
        if self.server.fault == "silent":
            self.server.over.wait()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_a_broken_connection_goes_on_where_it_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Over real connections: one that is cut, or that falls silent, costs the missing bytes of its piece alone."""
    server = Bare(fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(bucket, "READ_SECONDS", 0.5)
    monkeypatch.setattr(bucket, "READ_BYTES", 500)
    bounds = Bounds(piece_bytes=BOUNDS.piece_bytes, parallel=7, attempts=9, pause_seconds=0)
    try:
        assert DATA == run(lambda: S3Source(bucket.connect("eu-west-1"), BUCKET, "p", tmp_path, bounds=bounds), fetched)
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
    broken = range(0, len(DATA), BOUNDS.piece_bytes)
    ends = [min(start + BOUNDS.piece_bytes, len(DATA)) - 1 for start in broken]
    expected = {f"bytes={start + gone}-{end}" for start, end in zip(broken, ends, strict=True) for gone in (0, 1000)}
    assert expected <= set(server.asked)
