"""The gRPC door's bounds, each exceeded; nothing here reaches an appliance, for a model that no manifest can name is refused before."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
import gc
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
import pytest

from attestation.reference_values import Measurement, ReferenceValues
from cloister.sidecar import grpc_door, room
from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar.access import Access
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.grpc_door import GrpcDoor, GrpcService
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.room import Room
from wire.endpoint import Unix

TOKEN = "0123456789abcdef"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
NOBODY = Unix("/nobody")
VALUES = ReferenceValues(measurements=(Measurement(pcr0=b"a" * 48, pcr1=b"b" * 48, pcr2=b"c" * 48),), pcr16=b"d" * 48, min_sequence=1)
MESSAGE_MAX = 1 << 20


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


class Serving:
    """A door, and channels of a test's own to it: each has a connection of its own."""

    def __init__(self, door: GrpcDoor, counts: Metrics, target: str) -> None:
        self.door = door
        self.counts = counts
        self._target = target
        self.channels: list[aio.Channel] = []

    def channel(self) -> aio.Channel:
        self.channels.append(aio.insecure_channel(self._target, options=(("grpc.use_local_subchannel_pool", 1),)))
        return self.channels[-1]

    def opened(self, name: str, *, metadata: Any = AUTHORIZED, channel: aio.Channel | None = None) -> Any:
        """A call of which no message is sent yet."""
        return (channel or self.channel()).stream_stream(f"/inference.GRPCInferenceService/{name}")(metadata=metadata)

    async def code(self, size: int) -> str:
        """The code of an inference request of that size, for no model."""
        request = pb.ModelInferRequest(model_name="%", raw_input_contents=[bytes(size)])
        call = self.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), metadata=AUTHORIZED)
        return dict(await call.trailing_metadata())["cloister-code"]


@asynccontextmanager
async def serving(folder: Path, *, size: int = 8 * MESSAGE_MAX) -> AsyncIterator[Serving]:
    counts = Metrics()
    appliance = Appliance(Target(endpoint=NOBODY, reference_values=VALUES, roots=()), counts)
    door = GrpcDoor(access=Access(token=TOKEN), message_max=MESSAGE_MAX, room=Room(size))
    server = grpc_door.server(GrpcService(appliance, counts, door, seconds=5))
    server.add_insecure_port(f"unix:{folder / 'g'}")
    await server.start()
    made = Serving(door, counts, f"unix:{folder / 'g'}")
    try:
        yield made
    finally:
        for channel in made.channels:
            await channel.close()
        await server.stop(0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ["ModelStreamInfer", "ModelInfer", "ServerLive", "Nothing"])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong-token-of-others"),)], ids=["none", "wrong"])
def test_the_token_is_judged_before_a_message_is_read(tmp_path: Path, name: str, metadata: Any) -> None:
    """A call without the token ends before it has sent anything; so does one to a method that does not exist."""

    async def work() -> None:
        async with serving(tmp_path) as there:
            call = there.opened(name, metadata=metadata)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert dict(await call.trailing_metadata())["cloister-code"] == "token-required"
            labels = (("door", "grpc"), ("operation", "other"), ("code", "token-required"))
            assert there.counts.totals["cloister_sidecar_requests_total", labels] == 1

    run(work())


@pytest.mark.parametrize("name", ["ModelStreamInfer", "ModelInfer"])
def test_a_call_that_sends_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first message has its time."""
    monkeypatch.setattr(grpc_door, "REQUEST_SECONDS", 0.05)

    async def work() -> None:
        async with serving(tmp_path) as there:
            call = there.opened(name)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert dict(await call.trailing_metadata())["cloister-code"] == "deadline-expired"

    run(work())


def test_a_call_without_a_message_is_malformed(tmp_path: Path) -> None:
    """A unary call that ends before its message is refused."""

    async def work() -> None:
        async with serving(tmp_path) as there:
            call = there.opened("ServerLive")
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(work())


def test_an_idle_stream_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client sends no further message ends after a while, with its answers given."""
    monkeypatch.setattr(grpc_door, "IDLE_SECONDS", 0.05)

    async def work() -> None:
        async with serving(tmp_path) as there:
            call = there.opened("ModelStreamInfer")
            await call.write(pb.ModelInferRequest(model_name="%").SerializeToString())
            answer = pb.ModelStreamInferResponse.FromString(await call.read())
            assert answer.error_message == "no such model"
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not there.door.streams.locked()

    run(work())


def test_streams_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream more than there may be is refused; one that ends makes room."""
    monkeypatch.setattr(grpc_door, "STREAMS_MAX", 2)

    async def work() -> None:
        async with serving(tmp_path) as there:
            calls = [there.opened("ModelStreamInfer") for _ in range(2)]
            await until(there.door.streams.locked)
            more = there.opened("ModelStreamInfer")
            assert await more.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(await more.trailing_metadata())["cloister-code"] == "busy"
            calls[0].cancel()
            await until(lambda: not there.door.streams.locked())
            again = there.opened("ModelStreamInfer")
            await again.write(pb.ModelInferRequest(model_name="%").SerializeToString())
            assert await again.read()

    run(work())


def test_messages_that_are_read_at_once_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is read when one before it has arrived or its call has ended."""
    monkeypatch.setattr(grpc_door, "READING_MAX", 1)

    async def work() -> None:
        async with serving(tmp_path) as there:
            first = there.opened("ModelInfer")
            await until(there.door.reading.locked)
            live = there.channel().unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", metadata=AUTHORIZED)
            await asyncio.sleep(0.05)
            assert not live.done()
            first.cancel()
            assert pb.ServerLiveResponse.FromString(await live).live

    run(work())


def test_calls_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call more than there may be is refused at once."""
    monkeypatch.setattr(grpc_door, "CALLS_MAX", 2)

    async def work() -> None:
        async with serving(tmp_path) as there:
            calls = [there.opened("ModelInfer") for _ in range(2)]
            for call in calls:
                await call.wait_for_connection()
            await asyncio.sleep(0.05)
            more = there.opened("ModelInfer")
            assert await more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(work())


def test_messages_beyond_the_room_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no room comes free a large message is busy, a small one is answered; what was answered or refused leaves no room taken."""
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.05)

    async def work() -> None:
        async with serving(tmp_path, size=200_000) as there:
            assert [await there.code(size) for size in (150_000, 150_000, 250_000, 150_000)] == [
                "unknown-model",
                "unknown-model",
                "busy",
                "unknown-model",
            ]
            assert there.door.room.claim(150_000)
            assert [await there.code(size) for size in (150_000, 10)] == ["busy", "unknown-model"]

    run(work())


def test_what_was_answered_is_not_kept(tmp_path: Path) -> None:
    """Requests are let go with their answers, not when cycles are collected, and an idle stream keeps none."""

    def kept() -> int:
        kinds = (pb.ModelInferRequest, pb.ModelStreamInferResponse)
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    async def work() -> None:
        async with serving(tmp_path) as there:
            before = kept()
            for _ in range(3):
                await there.code(1000)
            streams = [there.opened("ModelStreamInfer") for _ in range(3)]
            for call in streams:
                await call.write(pb.ModelInferRequest(model_name="%").SerializeToString())
                await call.read()
            await asyncio.sleep(0.05)
            assert kept() == before

    gc.collect()
    gc.disable()
    try:
        run(work())
    finally:
        gc.enable()
