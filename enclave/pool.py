"""The workers of one model, seen from the enclave: who is free, who waits, who is late, who died.

One request runs on one worker at a time; its tensors are copied into that worker's area and the answer's out of it,
so a caller that goes away leaves a worker that finishes and is then free again, and harms nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
import os

from enclave.channel import MESSAGE_MAX, BrokenWorkerError, Request, encode_request, parse_answer, parse_ready
from enclave.crew import Hand, State, check_output, hire, read, write
from enclave.errors import ModelError, RequestError, WorkersGoneError
from enclave.memory import constant
from enclave.tensor import TensorView
from enclave.worker import Description
from enclave.zygote import Zygote
from wire.errors import BootFailure, Code
from wire.manifest_values import Model

WAITING_MAX = 256
LOAD_SECONDS = 600
RESPAWN_SECONDS = (0.0, 0.1, 0.5, 2.0, 10.0)
# So many workers in a row that did not load: requests are refused at once instead of waiting.
FAILURES_MAX = 3


class WorkerPool:
    """Everything about one model's workers. `on_lost` is called once for each that ended unexpectedly."""

    def __init__(
        self, model: Model, description: Description, graph: bytes | memoryview, zygote: Zygote, on_lost: Callable[[], None]
    ) -> None:
        self.model = model
        self._sources = (constant("description", description.encode()), constant("graph", graph))
        self._zygote = zygote
        self._on_lost = on_lost
        self._workers: list[Hand] = []
        self._idle: list[Hand] = []
        self._waiting: deque[asyncio.Future[Hand]] = deque()
        self._failures = 0
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def start(self) -> None:
        """Start the workers and wait until each has loaded the model (blocking; boot only). Raises: ModelError, WorkersGoneError."""
        self._workers = [hire(self._zygote, self.model.runtime, self._sources) for _ in range(self.model.runtime.workers)]
        for worker in self._workers:
            worker.channel.settimeout(LOAD_SECONDS)
            try:
                failure = parse_ready(worker.channel.recv(MESSAGE_MAX))
            except (OSError, BrokenWorkerError):
                failure = BootFailure.MODEL_LOAD
            if failure is not None:
                raise ModelError(failure)
            worker.channel.setblocking(False)
            worker.state = State.IDLE
        self._idle = list(self._workers)

    @property
    def ready(self) -> bool:
        """Whether a worker has the model loaded."""
        return any(worker.state in (State.IDLE, State.BUSY) for worker in self._workers)

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

    def _end(self, worker: Hand) -> None:
        worker.state = State.DEAD
        worker.stop_timer()
        if self._loop is not None:
            self._loop.remove_reader(worker.channel)
        worker.close()
        self._zygote.kill(worker.number)
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.answer is not None and not worker.answer.done():
            worker.answer.set_exception(RequestError(Code.DEADLINE_EXPIRED if worker.late else Code.WORKER_LOST))

    def _lose(self, worker: Hand) -> None:
        """A worker died, broke the rules or is late: end it, start another after a pause that grows with failures to load."""
        if worker.state is State.DEAD or self._loop is None:
            return
        if worker.state is State.LOADING:
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
            worker = hire(self._zygote, self.model.runtime, self._sources)
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

    def _readable(self, worker: Hand) -> None:
        try:
            data = worker.channel.recv(MESSAGE_MAX)
            match worker.state:
                case State.LOADING:
                    self._loaded(worker, parse_ready(data))
                case State.BUSY:
                    self._answered(worker, data)
                case State.IDLE | State.DEAD:
                    raise BrokenWorkerError("a message that nobody asked for")
        except BlockingIOError:
            return
        except (OSError, BrokenWorkerError):
            self._lose(worker)

    def _loaded(self, worker: Hand, failure: BootFailure | None) -> None:
        if failure is not None:
            raise BrokenWorkerError("a model that loaded before does not load again")
        self._failures = 0
        self._free(worker)

    def _answered(self, worker: Hand, data: bytes) -> None:
        if worker.request is None or worker.answer is None:
            raise BrokenWorkerError("an answer before its request was sent")
        answer = parse_answer(data, request=worker.request, inputs=len(self.model.inputs), area=len(worker.outputs))
        for at, slot in zip(worker.request.outputs, answer.outputs, strict=False):
            check_output(self.model.outputs[at], slot)
        if sum(slot.length for slot in answer.outputs) > self.model.runtime.answer_bytes:
            raise BrokenWorkerError("outputs longer than the limit, which the worker knows")
        worker.stop_timer()
        if worker.answer.cancelled():
            self._free(worker)  # nobody waits for this answer any more
        elif worker.answer.done():
            raise BrokenWorkerError("a second answer, while the first is still read")
        else:
            worker.answer.set_result(answer)

    def _free(self, worker: Hand) -> None:
        if worker.state is State.DEAD:
            return
        worker.stop_timer()
        worker.request = worker.answer = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                worker.state = State.BUSY
                waiter.set_result(worker)
                return
        worker.state = State.IDLE
        self._idle.append(worker)

    async def _take(self, deadline: float | None) -> Hand:
        """A worker for the caller alone, now or when one is free. Raises: RequestError."""
        loop = self._attached()
        if self._closed or (self._failures >= FAILURES_MAX and not self.ready):
            raise RequestError(Code.MODEL_NOT_READY)
        if self._idle:
            worker = self._idle.pop()
            worker.state = State.BUSY
            return worker
        if len(self._waiting) >= WAITING_MAX:
            raise RequestError(Code.BUSY)
        waiter: asyncio.Future[Hand] = loop.create_future()
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
            slots = await write(worker, inputs)
        except BaseException:
            self._free(worker)
            raise
        if worker.dead:
            raise RequestError(Code.WORKER_LOST)
        loop = asyncio.get_running_loop()
        future = worker.answer = loop.create_future()
        self._number = (self._number + 1) & 0xFFFFFFFF
        request = worker.request = Request(number=self._number, inputs=slots, outputs=tuple(wanted))
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
            return [await read(worker, self.model.outputs[at], slot) for at, slot in zip(wanted, answer.outputs, strict=True)]
        except TimeoutError:
            raise RequestError(Code.DEADLINE_EXPIRED) from None
        finally:
            if future.done() and not future.cancelled():
                self._free(worker)  # otherwise it is free when it has answered

    def _overdue(self, worker: Hand) -> None:
        worker.late = True
        self._lose(worker)
