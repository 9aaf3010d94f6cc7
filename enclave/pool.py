"""The workers of one model, seen from the enclave: who is free, who waits, who is late, who died.

One request runs on one worker at a time; its tensors are copied into that worker's area and the answer's out of it,
so a caller that goes away leaves a worker that finishes and is then free again, and harms nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
import contextlib
from dataclasses import dataclass
from enum import Enum, auto
import mmap
import os
import socket

from enclave.channel import (
    ALIGNMENT,
    MESSAGE_MAX,
    Answer,
    BrokenWorkerError,
    Request,
    Slot,
    encode_request,
    parse_answer,
    parse_ready,
    place,
)
from enclave.errors import ModelError, RequestError, WorkersGoneError
from enclave.memory import area, constant
from enclave.tensor import TensorView
from enclave.worker import Description
from enclave.zygote import Zygote
from wire.errors import BootFailure, Code
from wire.manifest_values import Model, Tensor
from wire.tensor import ITEM_BYTES, TENSORS_MAX, elements, fits

WAITING_MAX = 256
LOAD_SECONDS = 600
RESPAWN_SECONDS = (0.0, 0.1, 0.5, 2.0, 10.0)
# So many workers in a row that did not load: requests are refused at once instead of waiting.
FAILURES_MAX = 3
# Copies larger than this are cut, so that the loop serves others in between.
COPY_BYTES = 4 << 20


class _State(Enum):
    LOADING = auto()
    IDLE = auto()
    BUSY = auto()
    DEAD = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    channel: socket.socket
    inputs: mmap.mmap
    outputs: mmap.mmap
    state: _State = _State.LOADING
    request: Request | None = None
    answer: asyncio.Future[Answer] | None = None
    timer: asyncio.TimerHandle | None = None
    late: bool = False

    @property
    def dead(self) -> bool:
        return self.state is _State.DEAD

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


async def _copy(target: memoryview, source: memoryview) -> None:
    for at in range(0, len(source), COPY_BYTES):
        if at:
            await asyncio.sleep(0)
        target[at : at + COPY_BYTES] = source[at : at + COPY_BYTES]


def check_output(tensor: Tensor, slot: Slot) -> None:
    """That an untrusted worker's output has the signature's shape, and the length of that. Raises: BrokenWorkerError."""
    count = elements(slot.shape)
    if count is None or not fits(slot.shape, tensor.shape):
        raise BrokenWorkerError("an output's shape is not the signature's")
    size = ITEM_BYTES[tensor.datatype]
    if (slot.length != count * size) if size else (slot.length < 4 * count):
        raise BrokenWorkerError("an output's length is not its shape's")


class WorkerPool:
    """Everything about one model's workers. `on_lost` is called once for each that ended unexpectedly."""

    def __init__(
        self, model: Model, description: Description, graph: bytes | memoryview, zygote: Zygote, on_lost: Callable[[], None]
    ) -> None:
        self.model = model
        self._sources = (constant("description", description.encode()), constant("graph", graph))
        self._zygote = zygote
        self._on_lost = on_lost
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._failures = 0
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def start(self) -> None:
        """Start the workers and wait until each has loaded the model (blocking; boot only). Raises: ModelError, WorkersGoneError."""
        self._workers = [self._spawn() for _ in range(self.model.runtime.workers)]
        for worker in self._workers:
            worker.channel.settimeout(LOAD_SECONDS)
            try:
                failure = parse_ready(worker.channel.recv(MESSAGE_MAX))
            except (OSError, BrokenWorkerError):
                failure = BootFailure.MODEL_LOAD
            if failure is not None:
                raise ModelError(failure)
            worker.channel.setblocking(False)
            worker.state = _State.IDLE
        self._idle = list(self._workers)

    @property
    def ready(self) -> bool:
        """Whether a worker has the model loaded."""
        return any(worker.state in (_State.IDLE, _State.BUSY) for worker in self._workers)

    def close(self) -> None:
        """End every worker; who waits is refused."""
        self._closed = True
        for worker in list(self._workers):
            self._end(worker)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(RequestError(Code.MODEL_NOT_READY))
        for source in self._sources:
            os.close(source)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` watch the workers, from now on; what died since `start` is started again."""
        if self._loop is None:
            self._loop = loop
            for worker in self._workers:
                loop.add_reader(worker.channel, self._readable, worker)

    def _attached(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        self.attach(loop)
        if self._loop is not loop:
            raise RuntimeError("a model belongs to one event loop")
        return loop

    def _spawn(self) -> _Worker:
        """Raises: OSError, WorkersGoneError."""
        runtime = self.model.runtime
        slack = ALIGNMENT * TENSORS_MAX
        number, channel = self._zygote.spawn()
        with contextlib.ExitStack() as stack:
            descriptors = []
            for name, length in (("inputs", runtime.request_bytes), ("outputs", runtime.answer_bytes)):
                descriptors.append(area(name, length + slack))
                stack.callback(os.close, descriptors[-1])
            inputs, outputs = (mmap.mmap(descriptor, 0) for descriptor in descriptors)
            with contextlib.suppress(OSError):  # it died at once; the reader of its channel finds out
                socket.send_fds(channel, [b"\0"], [*self._sources, *descriptors])
        return _Worker(number=number, channel=channel, inputs=inputs, outputs=outputs)

    def _end(self, worker: _Worker) -> None:
        worker.state = _State.DEAD
        worker.stop_timer()
        if self._loop is not None:
            self._loop.remove_reader(worker.channel)
        worker.channel.close()
        for shared in (worker.inputs, worker.outputs):
            with contextlib.suppress(BufferError):  # a copy is under way; the last view of it closes the area
                shared.close()
        self._zygote.kill(worker.number)
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.answer is not None and not worker.answer.done():
            worker.answer.set_exception(RequestError(Code.DEADLINE_EXPIRED if worker.late else Code.WORKER_LOST))

    def _lose(self, worker: _Worker) -> None:
        """A worker died, broke the rules or is late: end it, start another after a pause that grows with failures to load."""
        if worker.state is _State.DEAD or self._loop is None:
            return
        if worker.state is _State.LOADING:
            self._failures += 1
        self._end(worker)
        self._on_lost()
        self._later()

    def _later(self) -> None:
        if self._loop is not None:
            self._loop.call_later(RESPAWN_SECONDS[min(self._failures, len(RESPAWN_SECONDS) - 1)], self._again)

    def _again(self) -> None:
        if self._closed or self._loop is None:
            return
        try:
            worker = self._spawn()
        except WorkersGoneError:
            return  # `ModelHost.watch` tells that there is nothing to fork from any more
        except OSError:
            self._failures += 1
            self._later()
            return
        self._workers.append(worker)
        worker.channel.setblocking(False)
        worker.timer = self._loop.call_later(LOAD_SECONDS, self._lose, worker)
        self._loop.add_reader(worker.channel, self._readable, worker)

    def _readable(self, worker: _Worker) -> None:
        try:
            data = worker.channel.recv(MESSAGE_MAX)
            match worker.state:
                case _State.LOADING:
                    self._loaded(worker, parse_ready(data))
                case _State.BUSY:
                    self._answered(worker, data)
                case _State.IDLE | _State.DEAD:
                    raise BrokenWorkerError("a message that nobody asked for")
        except BlockingIOError:
            return
        except (OSError, BrokenWorkerError):
            self._lose(worker)

    def _loaded(self, worker: _Worker, failure: BootFailure | None) -> None:
        if failure is not None:
            raise BrokenWorkerError("a model that loaded before does not load again")
        self._failures = 0
        self._free(worker)

    def _answered(self, worker: _Worker, data: bytes) -> None:
        if worker.request is None or worker.answer is None:
            raise BrokenWorkerError("an answer before its request was sent")
        answer = parse_answer(data, request=worker.request, inputs=len(self.model.inputs), area=len(worker.outputs))
        for at, slot in zip(worker.request.outputs, answer.outputs, strict=False):
            check_output(self.model.outputs[at], slot)
        if sum(slot.length for slot in answer.outputs) > self.model.runtime.answer_bytes:
            raise BrokenWorkerError("outputs longer than the limit, which the worker knows")
        worker.stop_timer()
        if worker.answer.done():
            self._free(worker)  # nobody waits for this answer any more
        else:
            worker.answer.set_result(answer)

    def _free(self, worker: _Worker) -> None:
        if worker.state is _State.DEAD:
            return
        worker.stop_timer()
        worker.request = worker.answer = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                worker.state = _State.BUSY
                waiter.set_result(worker)
                return
        worker.state = _State.IDLE
        self._idle.append(worker)

    async def _take(self, deadline: float | None) -> _Worker:
        """A worker for the caller alone, now or when one is free. Raises: RequestError."""
        loop = self._attached()
        if self._closed or (self._failures >= FAILURES_MAX and not self.ready):
            raise RequestError(Code.MODEL_NOT_READY)
        if self._idle:
            worker = self._idle.pop()
            worker.state = _State.BUSY
            return worker
        if len(self._waiting) >= WAITING_MAX:
            raise RequestError(Code.BUSY)
        waiter: asyncio.Future[_Worker] = loop.create_future()
        self._waiting.append(waiter)
        patience = loop.time() + self.model.runtime.seconds
        taken = False
        try:
            async with asyncio.timeout_at(patience if deadline is None else min(deadline, patience)):
                worker = await waiter
            taken = True
            return worker
        except TimeoutError:
            raise RequestError(Code.BUSY if deadline is None or patience < deadline else Code.DEADLINE_EXPIRED) from None
        finally:
            if not taken:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._free(waiter.result())
                elif waiter in self._waiting:
                    self._waiting.remove(waiter)

    async def infer(self, inputs: Sequence[TensorView], wanted: Sequence[int], deadline: float | None) -> list[TensorView]:
        """The wanted outputs for inputs in the signature's order; `deadline` in the loop's time. Raises: RequestError."""
        worker = await self._take(deadline)
        try:
            request = await self._write(worker, inputs, wanted)
        except BaseException:
            self._free(worker)
            raise
        if worker.dead:
            raise RequestError(Code.WORKER_LOST)
        loop = asyncio.get_running_loop()
        future = worker.answer = loop.create_future()
        worker.request = request
        worker.timer = loop.call_later(self.model.runtime.seconds, self._overdue, worker)
        try:
            worker.channel.send(encode_request(request))
        except OSError:
            self._lose(worker)
        try:
            async with asyncio.timeout_at(deadline):
                answer = await future
            if worker.dead:
                raise RequestError(Code.WORKER_LOST)
            if answer.code is not Code.OK:
                raise RequestError(answer.code, "" if answer.input is None else f"{inputs[answer.input].path}.data")
            return [await self._read(worker, at, slot) for at, slot in zip(wanted, answer.outputs, strict=True)]
        except TimeoutError:
            raise RequestError(Code.DEADLINE_EXPIRED) from None
        finally:
            if future.done() and not future.cancelled():
                self._free(worker)  # otherwise it is free when it has answered

    def _overdue(self, worker: _Worker) -> None:
        worker.late = True
        self._lose(worker)

    async def _write(self, worker: _Worker, inputs: Sequence[TensorView], wanted: Sequence[int]) -> Request:
        offsets, length = place([len(tensor.data) for tensor in inputs])
        if length > len(worker.inputs):
            raise RequestError(Code.REQUEST_TOO_LARGE)
        with memoryview(worker.inputs) as target:
            for offset, tensor in zip(offsets, inputs, strict=True):
                await _copy(target[offset : offset + len(tensor.data)], memoryview(tensor.data))
        self._number = (self._number + 1) & 0xFFFFFFFF
        slots = tuple(
            Slot(offset=offset, length=len(tensor.data), shape=tensor.shape) for offset, tensor in zip(offsets, inputs, strict=True)
        )
        return Request(number=self._number, inputs=slots, outputs=tuple(wanted))

    async def _read(self, worker: _Worker, at: int, slot: Slot) -> TensorView:
        tensor = self.model.outputs[at]
        with memoryview(worker.outputs) as area_, area_[slot.offset : slot.offset + slot.length] as source:
            if slot.length <= COPY_BYTES:
                data: bytes | bytearray = bytes(source)
            else:
                data = bytearray(slot.length)
                await _copy(memoryview(data), source)
        return TensorView(name=tensor.name, datatype=tensor.datatype, shape=slot.shape, data=data)
