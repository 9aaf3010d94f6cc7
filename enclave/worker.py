"""One model worker: a process that holds one ONNX Runtime session and nothing else worth having.

It is forked from the zygote, is given its model and two shared memory areas over its only socket, confines itself, and
then answers one request after another until that socket ends. No key, no other socket, no device, no file.
"""

from dataclasses import dataclass
import json
import mmap
import os
from pathlib import Path
import socket

from enclave.channel import (
    MESSAGE_MAX,
    SLACK,
    Answer,
    BrokenWorkerError,
    Request,
    Slot,
    encode_answer,
    encode_ready,
    parse_request,
    place,
)
from enclave.confine import die_with_parent, filter_system_calls, limit_memory, restrict_process
from enclave.errors import ModelError, RunError
from enclave.tensor import Signature
from wire.errors import BootFailure, Code
from wire.manifest_values import Tensor

# graph, inputs, outputs: the file descriptors that come with the description.
DESCRIPTORS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker is told about its model, by the enclave; as JSON, because nothing in it comes from a caller."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reject_non_finite: bool
    threads: int
    memory_bytes: int
    weights: str | None

    def encode(self) -> bytes:
        """The content of the description's memory file."""
        tensors = [[[t.name, t.datatype, list(t.shape)] for t in group] for group in (self.inputs, self.outputs)]
        return json.dumps([*tensors, self.reject_non_finite, self.threads, self.memory_bytes, self.weights]).encode()

    @property
    def signature(self) -> Signature:
        """What an engine needs of it."""
        return Signature(inputs=self.inputs, outputs=self.outputs, reject_non_finite=self.reject_non_finite)

    @classmethod
    def decode(cls, data: bytes) -> "Description":
        """The same values again."""
        inputs, outputs, reject_non_finite, threads, memory_bytes, weights = json.loads(data)
        return cls(
            inputs=tuple(Tensor(name=n, datatype=d, shape=tuple(s)) for n, d, s in inputs),
            outputs=tuple(Tensor(name=n, datatype=d, shape=tuple(s)) for n, d, s in outputs),
            reject_non_finite=reject_non_finite,
            threads=threads,
            memory_bytes=memory_bytes,
            weights=weights,
        )


def _whole(descriptor: int, access: int) -> mmap.mmap:
    area = mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=access)
    os.close(descriptor)
    return area


class Worker:
    """The worker's loop around one engine."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def serve(self) -> None:
        """Load, say whether that succeeded, then answer until the enclave closes the socket."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, 1, DESCRIPTORS)
        if not message or len(descriptors) != DESCRIPTORS:
            return
        failure = self._load(*descriptors)
        self._channel.send(encode_ready(failure))
        while failure is None:
            data = self._channel.recv(MESSAGE_MAX)
            if not data:
                return
            self._channel.send(encode_answer(self._answer(parse_request(data, area=len(self._inputs)))))

    def _load(self, description: int, graph: int, inputs: int, outputs: int) -> BootFailure | None:
        # Only here: the zygote must stay without ONNX Runtime's threads, so that its forks are clean.
        from enclave.engine import Engine  # noqa: PLC0415

        with _whole(description, mmap.ACCESS_READ) as raw:
            model = Description.decode(raw[:])
        weights = None if model.weights is None else Path(model.weights)
        with _whole(graph, mmap.ACCESS_READ) as raw:
            try:
                self._engine = Engine(model.signature, raw[:], weights=weights, threads=model.threads)
            except ModelError as error:
                return error.boot_failure
        self._inputs, self._outputs = _whole(inputs, mmap.ACCESS_READ), _whole(outputs, mmap.ACCESS_WRITE)
        try:
            limit_memory(model.memory_bytes)
            filter_system_calls()
        except (OSError, ValueError):
            return BootFailure.INTERNAL
        return None

    def _answer(self, request: Request) -> Answer:
        area = memoryview(self._inputs)
        try:
            found = self._engine.run(
                [(slot.shape, area[slot.offset : slot.offset + slot.length]) for slot in request.inputs], request.outputs
            )
        except RunError as error:
            return Answer(number=request.number, code=error.code, input=error.input)
        except MemoryError:
            return Answer(number=request.number, code=Code.OUT_OF_MEMORY)
        offsets, _ = place([len(output.data) for output in found])
        if sum(len(output.data) for output in found) > len(self._outputs) - SLACK:  # what the enclave ends a worker for
            return Answer(number=request.number, code=Code.ANSWER_TOO_LARGE)
        target = memoryview(self._outputs)
        slots = []
        for offset, output in zip(offsets, found, strict=True):
            target[offset : offset + len(output.data)] = output.data
            slots.append(Slot(offset=offset, length=len(output.data), shape=output.shape))
        return Answer(number=request.number, code=Code.OK, outputs=tuple(slots))


def run(channel: socket.socket, zygote: int) -> None:
    """The whole life of a worker process; does not return to the zygote's code."""
    status = 1
    try:
        restrict_process()
        die_with_parent(zygote)
        Worker(channel).serve()
        status = 0
    except (OSError, BrokenWorkerError, MemoryError):
        pass  # the enclave sees the socket end; there is nobody to tell more
    finally:
        os._exit(status)
