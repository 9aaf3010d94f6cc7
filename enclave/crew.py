"""One worker as the enclave holds it: its socket, its two shared areas, what it is doing; tensors in and out of them."""

import asyncio
from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
from enum import Enum, auto
import mmap
import os
import socket

from enclave.channel import SLACK, Answer, BrokenWorkerError, Request, Slot, place
from enclave.errors import RequestError
from enclave.memory import area
from enclave.tensor import TensorView
from enclave.zygote import Zygote
from wire.errors import Code
from wire.manifest_values import Runtime, Tensor
from wire.tensor import ITEM_BYTES, PREFIX_BYTES, elements, fits

# Copies larger than this are cut, so that the loop serves others in between.
COPY_BYTES = 4 << 20


class State(Enum):
    """What a worker is doing."""

    LOADING = auto()
    IDLE = auto()
    BUSY = auto()
    DEAD = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class Hand:
    """One worker. `late`: it is being ended because its run took too long."""

    number: int
    channel: socket.socket
    inputs: mmap.mmap
    outputs: mmap.mmap
    state: State = State.LOADING
    request: Request | None = None
    answer: asyncio.Future[Answer] | None = None
    timer: asyncio.TimerHandle | None = None
    late: bool = False

    @property
    def dead(self) -> bool:
        """Whether it was ended."""
        return self.state is State.DEAD

    def stop_timer(self) -> None:
        """It is not late any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def close(self) -> None:
        """Let go of socket and areas."""
        self.channel.close()
        for shared in (self.inputs, self.outputs):
            with contextlib.suppress(BufferError):  # a copy is under way; the last view of it closes the area
                shared.close()


def hire(zygote: Zygote, runtime: Runtime, sources: Sequence[int]) -> Hand:
    """A new worker, told to load the model that `sources` describe. Raises: OSError, WorkersGoneError."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for name, length in (("inputs", runtime.request_bytes), ("outputs", runtime.answer_bytes)):
            descriptors.append(area(name, length + SLACK))
            stack.callback(os.close, descriptors[-1])
        inputs, outputs = (mmap.mmap(descriptor, 0) for descriptor in descriptors)
        number, channel = zygote.spawn()
        with contextlib.suppress(OSError):  # it died at once; the reader of its channel finds out
            socket.send_fds(channel, [b"\0"], [*sources, *descriptors])
    return Hand(number=number, channel=channel, inputs=inputs, outputs=outputs)


async def _copy(target: memoryview, source: memoryview) -> None:
    for at in range(0, len(source), COPY_BYTES):
        if at:
            await asyncio.sleep(0)
        target[at : at + COPY_BYTES] = source[at : at + COPY_BYTES]


async def write(hand: Hand, inputs: Sequence[TensorView]) -> tuple[Slot, ...]:
    """Copy tensors into the worker's area; where they lie. Raises: RequestError if they do not fit."""
    offsets, length = place([len(tensor.data) for tensor in inputs])
    if length > len(hand.inputs):
        raise RequestError(Code.REQUEST_TOO_LARGE)
    with memoryview(hand.inputs) as target:
        for offset, tensor in zip(offsets, inputs, strict=True):
            await _copy(target[offset : offset + len(tensor.data)], memoryview(tensor.data))
    return tuple(Slot(offset=offset, length=len(tensor.data), shape=tensor.shape) for offset, tensor in zip(offsets, inputs, strict=True))


async def read(hand: Hand, tensor: Tensor, slot: Slot) -> TensorView:
    """Copy an output out of the worker's area: whatever the worker writes there later changes nothing."""
    with memoryview(hand.outputs) as whole, whole[slot.offset : slot.offset + slot.length] as source:
        if slot.length <= COPY_BYTES:
            data: bytes | bytearray = bytes(source)
        else:
            data = bytearray(slot.length)
            await _copy(memoryview(data), source)
    return TensorView(name=tensor.name, datatype=tensor.datatype, shape=slot.shape, data=data)


def check_output(tensor: Tensor, slot: Slot) -> None:
    """That an untrusted worker's output has the signature's shape, and the length of that. Raises: BrokenWorkerError."""
    count = elements(slot.shape)
    if count is None or not fits(slot.shape, tensor.shape):
        raise BrokenWorkerError("an output's shape is not the signature's")
    size = ITEM_BYTES[tensor.datatype]
    if (slot.length != count * size) if size else (slot.length < PREFIX_BYTES * count):
        raise BrokenWorkerError("an output's length is not its shape's")
