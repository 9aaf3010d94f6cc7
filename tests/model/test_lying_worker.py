"""A worker that was taken over: it may answer anything, and gets nothing but its own end."""

import asyncio
from collections.abc import Callable, Iterator
import contextlib
import socket
import threading

import numpy as np
import pytest

from enclave.channel import Answer, Request, Slot, encode_answer, encode_ready, parse_request
from enclave.errors import ModelError, RequestError
from enclave.pool import WorkerPool
from enclave.tensor import TensorView
from enclave.worker import Description
from tests.model import graphs
from wire.errors import BootFailure, Code
from wire.manifest import Runtime

ANSWER_BYTES = 1 << 16
Lie = Callable[[Request], bytes | None]


class Stage:
    """Stands in for the zygote: each worker is a thread that says what the test wants."""

    def __init__(self, lies: list[Lie], ready: bytes = encode_ready(None)) -> None:
        self._lies = lies
        self._ready = ready
        self._threads: list[threading.Thread] = []
        self.killed: list[int] = []
        self.spawned = 0

    def spawn(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lie = self._lies[min(self.spawned, len(self._lies) - 1)]
        self.spawned += 1
        thread = threading.Thread(target=self._worker, args=(theirs, lie))
        thread.start()
        self._threads.append(thread)
        return self.spawned, ours

    def _worker(self, channel: socket.socket, lie: Lie) -> None:
        with channel, contextlib.suppress(OSError):
            socket.recv_fds(channel, 1, 4)
            channel.send(self._ready)
            while data := channel.recv(1 << 16):
                said = lie(parse_request(data, area=1 << 30))
                if said is None:
                    return
                channel.send(said)

    def kill(self, number: int) -> None:
        self.killed.append(number)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)


def honest(request: Request) -> bytes:
    return encode_answer(Answer(number=request.number, code=Code.OK, outputs=(Slot(offset=0, length=8, shape=(2,)),)))


def saying(*slots: Slot) -> Lie:
    return lambda request: encode_answer(Answer(number=request.number, code=Code.OK, outputs=slots))


def pool_of(stage: Stage, lost: list[int], datatype: str = "FP32") -> WorkerPool:
    _, inputs, outputs = graphs.identity(datatype)
    model = graphs.model(inputs, outputs, runtime=Runtime(seconds=5, request_bytes=1 << 16, answer_bytes=ANSWER_BYTES))
    description = Description(inputs=inputs, outputs=outputs, reject_non_finite=False, threads=1, memory_bytes=1, weights=None)
    return WorkerPool(model, description, b"", stage, lambda: lost.append(1))  # type: ignore[arg-type]


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for stage in made:
        stage.join()


SENT = [TensorView(name="x", datatype="FP32", shape=(2,), data=np.ones(2, np.float32).tobytes(), path="inputs[0]")]
LIES: dict[str, Lie] = {
    "no message of the channel": lambda _: b"hello",
    "an answer to another request": lambda request: encode_answer(Answer(number=request.number + 1, code=Code.MODEL_FAILED)),
    "a session's code": lambda request: encode_answer(Answer(number=request.number, code=Code.CREDENTIAL_REQUIRED)),
    "another rank": saying(Slot(offset=0, length=8, shape=(2, 1))),
    "another length": saying(Slot(offset=0, length=4, shape=(2,))),
    "a shape out of range": saying(Slot(offset=0, length=0, shape=(2**62,))),
    "more than the limit": saying(Slot(offset=0, length=ANSWER_BYTES + 4, shape=(ANSWER_BYTES // 4 + 1,))),
    "its end": lambda _: None,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_ends_the_worker_and_only_its_request(stages: list[Stage], lie: Lie) -> None:
    """Whatever a worker says that a correct one never says: its request is WORKER_LOST, it is killed, its successor answers."""
    stages.append(stage := Stage([lie, honest]))
    lost: list[int] = []
    pool = pool_of(stage, lost)
    pool.start()

    async def run() -> list[TensorView]:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
            await pool.infer(SENT, (0,), None)
        return await pool.infer(SENT, (0,), None)

    assert asyncio.run(run())[0].shape == (2,)
    assert (stage.killed, lost) == ([1], [1])
    pool.close()


def test_outputs_that_overlap_do_not_multiply(stages: list[Stage]) -> None:
    """Several outputs over the same bytes of the area may not be longer together than one answer may be."""
    made = graphs.double_sum()
    size = ANSWER_BYTES // 2 + 64
    slot = Slot(offset=0, length=size, shape=(size // 4,))
    stages.append(stage := Stage([saying(slot, slot)]))
    lost: list[int] = []
    model = graphs.model(made[1], made[2], runtime=Runtime(request_bytes=1 << 16, answer_bytes=ANSWER_BYTES))
    description = Description(inputs=made[1], outputs=made[2], reject_non_finite=False, threads=1, memory_bytes=1, weights=None)
    pool = WorkerPool(model, description, b"", stage, lambda: lost.append(1))  # type: ignore[arg-type]
    pool.start()

    async def run() -> None:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
            await pool.infer([*SENT, *SENT], (0, 1), None)

    asyncio.run(run())
    pool.close()


def test_bytes_outputs_need_room_for_their_prefixes(stages: list[Stage]) -> None:
    """A BYTES output of more elements than length prefixes fit is a lie."""
    stages.append(stage := Stage([saying(Slot(offset=0, length=7, shape=(2,)))]))
    pool = pool_of(stage, [], "BYTES")
    pool.start()

    async def run() -> None:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
            await pool.infer(SENT, (0,), None)

    asyncio.run(run())
    pool.close()


def test_a_message_that_nobody_asked_for_ends_the_worker(stages: list[Stage], until: Callable) -> None:
    """An idle worker that speaks is ended."""
    said = threading.Event()

    class Talker(Stage):
        def _worker(self, channel: socket.socket, lie: Lie) -> None:
            if self.spawned > 1:
                return super()._worker(channel, lie)
            with channel, contextlib.suppress(OSError):
                socket.recv_fds(channel, 1, 4)
                channel.send(self._ready)
                channel.send(b"listen")
                said.set()
                channel.recv(1)
            return None

    stages.append(stage := Talker([honest]))
    lost: list[int] = []
    pool = pool_of(stage, lost)
    pool.start()
    said.wait(10)

    async def run() -> list[TensorView]:
        pool.attach(asyncio.get_running_loop())
        await until(lambda: bool(lost))
        return await pool.infer(SENT, (0,), None)

    assert asyncio.run(run())[0].shape == (2,)
    assert stage.killed == [1]
    pool.close()


@pytest.mark.parametrize("ready", [b"", b"\3\0", encode_ready(BootFailure.MODEL_LOAD)], ids=["end", "no message", "failure"])
def test_a_worker_that_is_not_ready_stops_the_boot(stages: list[Stage], ready: bytes) -> None:
    """A worker whose first message is not that it is ready stops the boot."""
    stages.append(stage := Stage([honest], ready))
    pool = pool_of(stage, [])
    with pytest.raises(ModelError, check=lambda error: error.boot_failure is BootFailure.MODEL_LOAD):
        pool.start()
    pool.close()


def test_a_model_that_never_loads_again_is_refused_at_once(stages: list[Stage], until: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three workers in a row that did not load, requests are MODEL_NOT_READY instead of waiting."""
    monkeypatch.setattr("enclave.pool.RESPAWN_SECONDS", (0.0,))
    stages.append(stage := Stage([lambda _: None]))
    lost: list[int] = []
    pool = pool_of(stage, lost)
    pool.start()
    stage._ready = encode_ready(BootFailure.MODEL_LOAD)

    async def run() -> Code:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
            await pool.infer(SENT, (0,), None)
        await until(lambda: len(lost) >= 4)
        with pytest.raises(RequestError) as info:
            await pool.infer(SENT, (0,), None)
        assert not pool.ready
        pool.close()
        return info.value.code

    assert asyncio.run(run()) is Code.MODEL_NOT_READY


def test_one_model_belongs_to_one_loop(stages: list[Stage]) -> None:
    """Using a model from a second event loop is a mistake of ours, said aloud."""
    stages.append(stage := Stage([honest]))
    pool = pool_of(stage, [])
    pool.start()
    asyncio.run(pool.infer(SENT, (0,), None))
    with pytest.raises(RuntimeError):
        asyncio.run(pool.infer(SENT, (0,), None))
    pool.close()


def test_who_waits_when_the_models_end_is_told(stages: list[Stage]) -> None:
    """Requests that wait when the enclave ends its models get MODEL_NOT_READY."""
    block = threading.Event()

    def slow(request: Request) -> bytes:
        block.wait(10)
        return honest(request)

    stages.append(stage := Stage([slow]))
    pool = pool_of(stage, [])
    pool.start()

    async def run() -> list[Code]:
        tasks = [asyncio.create_task(pool.infer(SENT, (0,), None)) for _ in range(2)]
        await asyncio.sleep(0.02)
        pool.close()
        block.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [error.code for error in found if isinstance(error, RequestError)]

    assert asyncio.run(run()) == [Code.WORKER_LOST, Code.MODEL_NOT_READY]


def test_inputs_beyond_the_area_are_refused(stages: list[Stage]) -> None:
    """Tensors that do not fit the shared area are REQUEST_TOO_LARGE, and the worker is free again."""
    stages.append(stage := Stage([honest]))
    pool = pool_of(stage, [])
    pool.start()
    large = TensorView(name="x", datatype="FP32", shape=(1 << 16,), data=bytes(1 << 18))

    async def run() -> list[TensorView]:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.REQUEST_TOO_LARGE):
            await pool.infer([large], (0,), None)
        return await pool.infer(SENT, (0,), None)

    assert asyncio.run(run())[0].shape == (2,)
    pool.close()


def test_after_the_end_nothing_is_taken_or_started(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that was closed refuses at once, and a worker that was to be replaced is not."""
    monkeypatch.setattr("enclave.pool.RESPAWN_SECONDS", (0.02,))
    stages.append(stage := Stage([lambda _: None]))
    pool = pool_of(stage, [])
    pool.start()

    async def run() -> None:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
            await pool.infer(SENT, (0,), None)
        pool.close()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            with pytest.raises(RequestError, check=lambda error: error.code is Code.MODEL_NOT_READY):
                await pool.infer(SENT, (0,), None)

    asyncio.run(run())
    assert stage.spawned == 1


def test_one_worker_that_serves_is_enough(stages: list[Stage]) -> None:
    """Failures to load refuse requests only while no worker has the model."""
    stages.append(stage := Stage([honest]))
    pool = pool_of(stage, [])
    pool.start()
    pool._failures = 3
    assert asyncio.run(pool.infer(SENT, (0,), None))[0].shape == (2,)
    pool.close()


def test_a_worker_that_dies_while_tensors_are_copied(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is gone before its request was sent fails it with WORKER_LOST, at once."""
    monkeypatch.setattr("enclave.crew.COPY_BYTES", 1)

    class Quitter(Stage):
        def _worker(self, channel: socket.socket, lie: Lie) -> None:
            with channel, contextlib.suppress(OSError):
                socket.recv_fds(channel, 1, 4)
                channel.send(self._ready)

    stages.append(stage := Quitter([honest]))
    pool = pool_of(stage, [])
    pool.start()
    stage.join()
    long = TensorView(name="x", datatype="FP32", shape=(500,), data=bytes(2000))

    async def run() -> None:
        async with asyncio.timeout(3):
            with pytest.raises(RequestError, check=lambda error: error.code is Code.WORKER_LOST):
                await pool.infer([long], (0,), None)

    asyncio.run(run())
    pool.close()


def test_a_worker_that_answers_before_it_was_asked(stages: list[Stage], until: Callable) -> None:
    """A message that comes while the request is still being written ends the worker."""
    speak = threading.Event()

    class Early(Stage):
        def _worker(self, channel: socket.socket, lie: Lie) -> None:
            if self.spawned > 1:
                return super()._worker(channel, lie)
            with channel, contextlib.suppress(OSError):
                socket.recv_fds(channel, 1, 4)
                channel.send(self._ready)
                speak.wait(10)
                channel.send(encode_answer(Answer(number=1, code=Code.MODEL_FAILED)))
                channel.recv(1)
            return None

    stages.append(stage := Early([honest]))
    lost: list[int] = []
    pool = pool_of(stage, lost)
    pool.start()

    async def run() -> None:
        taken = await pool._take(None)
        speak.set()
        await until(lambda: bool(lost))
        assert taken.dead

    asyncio.run(run())
    pool.close()


def test_a_second_answer_ends_the_worker(stages: list[Stage]) -> None:
    """A worker that answers twice, while its first answer is still copied, is ended and never given to two requests at once."""
    count = 3 << 20  # elements: more than is copied in one go
    answer = saying(Slot(offset=0, length=4 * count, shape=(count,)))

    class Twice(Stage):
        def _worker(self, channel: socket.socket, lie: Lie) -> None:
            with channel, contextlib.suppress(OSError):
                socket.recv_fds(channel, 1, 4)
                channel.send(self._ready)
                while data := channel.recv(1 << 16):
                    said = lie(parse_request(data, area=1 << 30))
                    for _ in range(2 if lie is answer else 1):
                        channel.send(said or b"")

    stages.append(stage := Twice([answer, honest]))
    _, inputs, outputs = graphs.identity("FP32")
    model = graphs.model(inputs, outputs, runtime=Runtime(seconds=5, request_bytes=1 << 16, answer_bytes=4 * count))
    description = Description(inputs=inputs, outputs=outputs, reject_non_finite=False, threads=1, memory_bytes=1, weights=None)
    lost: list[int] = []
    pool = WorkerPool(model, description, b"", stage, lambda: lost.append(1))  # type: ignore[arg-type]
    pool.start()

    async def run() -> list[TensorView]:
        first, second = asyncio.create_task(pool.infer(SENT, (0,), None)), asyncio.create_task(pool.infer(SENT, (0,), None))
        await asyncio.wait([first])
        async with asyncio.timeout(20):
            return await second

    assert asyncio.run(run())[0].shape == (2,)
    assert (stage.killed, lost) == ([1], [1])
    pool.close()
