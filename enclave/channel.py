"""The messages between the enclave and its model workers: fixed layouts, little endian, over a SOCK_SEQPACKET pair.

A worker has met a caller's tensor inside native code and is not trusted: its messages are parsed here as strictly as a
peer's, and nothing of them is ever unpickled or evaluated. Tensors themselves lie in two shared memory areas, one per
direction, each tensor at a multiple of 64 (ONNX Runtime copies what is not aligned).
"""

from collections.abc import Sequence
from dataclasses import dataclass
import struct

from enclave.errors import EnclaveError
from wire.errors import BootFailure, Code
from wire.tensor import RANK_MAX, TENSORS_MAX

ALIGNMENT = 64
SLACK = ALIGNMENT * TENSORS_MAX  # an area is so much longer than the bytes of tensors that it may hold
MESSAGE_MAX = 65_536
NO_INPUT = 0xFFFF

REQUEST, ANSWER, READY = 1, 2, 3
# What a worker may say about a request; anything else is a broken worker.
WORKER_CODES = frozenset(
    {
        Code.OK,
        Code.INVALID_VALUE,
        Code.NON_FINITE_INPUT,
        Code.WRONG_DATA_SIZE,
        Code.ANSWER_TOO_LARGE,
        Code.MODEL_FAILED,
        Code.OUT_OF_MEMORY,
    }
)
_ABOUT_INPUT = frozenset({Code.INVALID_VALUE, Code.NON_FINITE_INPUT, Code.WRONG_DATA_SIZE})

_REQUEST = struct.Struct("<BIHH")
_ANSWER = struct.Struct("<BIHHH")
_READY = struct.Struct("<BH")
_SLOT = struct.Struct("<QQB")


class BrokenWorkerError(EnclaveError):
    """A worker's message is not one that may stand here: the worker is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one tensor lies in a shared memory area, and its shape."""

    offset: int
    length: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Run the model once: the inputs in the order of the model's signature, the wanted outputs by their place in it."""

    number: int
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome: the wanted outputs in order, or a code and, where the code is about one, the input's place."""

    number: int
    code: Code
    input: int | None = None
    outputs: tuple[Slot, ...] = ()


def place(sizes: Sequence[int]) -> tuple[list[int], int]:
    """The offset of each tensor, and the area's length for all of them."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += size + -size % ALIGNMENT
    return offsets, at


def _slots(slots: Sequence[Slot]) -> bytes:
    return b"".join(
        _SLOT.pack(slot.offset, slot.length, len(slot.shape)) + struct.pack(f"<{len(slot.shape)}Q", *slot.shape) for slot in slots
    )


def _read_slots(data: bytes, at: int, count: int, area: int) -> tuple[Slot, ...]:
    if count > TENSORS_MAX:
        raise BrokenWorkerError("too many tensors")
    slots = []
    for _ in range(count):
        if len(data) - at < _SLOT.size:
            raise BrokenWorkerError("a tensor is cut")
        offset, length, rank = _SLOT.unpack_from(data, at)
        at += _SLOT.size
        if rank > RANK_MAX or len(data) - at < 8 * rank:
            raise BrokenWorkerError("a shape is cut or too long")
        shape = struct.unpack_from(f"<{rank}Q", data, at)
        at += 8 * rank
        if offset % ALIGNMENT or length > area - offset:
            raise BrokenWorkerError("a tensor lies outside its area")
        slots.append(Slot(offset=offset, length=length, shape=shape))
    if at != len(data):
        raise BrokenWorkerError("bytes after the last tensor")
    return tuple(slots)


def encode_request(request: Request) -> bytes:
    """The message for a worker."""
    head = _REQUEST.pack(REQUEST, request.number, len(request.outputs), len(request.inputs))
    return head + struct.pack(f"<{len(request.outputs)}H", *request.outputs) + _slots(request.inputs)


def parse_request(data: bytes, *, area: int) -> Request:
    """The worker's reading of it. Raises: BrokenWorkerError."""
    if len(data) < _REQUEST.size or data[0] != REQUEST:
        raise BrokenWorkerError("no request")
    _, number, wanted, count = _REQUEST.unpack_from(data)
    at = _REQUEST.size + 2 * wanted
    if wanted > TENSORS_MAX or at > len(data):
        raise BrokenWorkerError("the wanted outputs are cut or too many")
    outputs = struct.unpack_from(f"<{wanted}H", data, _REQUEST.size)
    return Request(number=number, inputs=_read_slots(data, at, count, area), outputs=outputs)


def encode_answer(answer: Answer) -> bytes:
    """The message of a worker."""
    place_of = NO_INPUT if answer.input is None else answer.input
    return _ANSWER.pack(ANSWER, answer.number, answer.code, place_of, len(answer.outputs)) + _slots(answer.outputs)


def parse_answer(data: bytes, *, request: Request, inputs: int, area: int) -> Answer:
    """The enclave's reading of a worker's message about `request` (of a model with `inputs` inputs). Raises: BrokenWorkerError.

    Not checked: whether an output's shape and length are those of the model's signature.
    """
    if len(data) < _ANSWER.size or data[0] != ANSWER:
        raise BrokenWorkerError("no answer")
    _, number, status, about, count = _ANSWER.unpack_from(data)
    if number != request.number or status not in WORKER_CODES:
        raise BrokenWorkerError("an answer to another request, or with a code that is not a worker's")
    code = Code(status)
    if count != (len(request.outputs) if code is Code.OK else 0):
        raise BrokenWorkerError("not the wanted number of outputs")
    if (code in _ABOUT_INPUT) is (about == NO_INPUT) or (about != NO_INPUT and about >= inputs):
        raise BrokenWorkerError("an answer about no input or none that there is")
    return Answer(
        number=number,
        code=code,
        input=None if about == NO_INPUT else about,
        outputs=_read_slots(data, _ANSWER.size, count, area),
    )


def encode_ready(failure: BootFailure | None) -> bytes:
    """A worker's first message: its model is loaded and is the manifest's, or why not."""
    return _READY.pack(READY, 0 if failure is None else failure)


_LOAD_FAILURES = {
    failure.value: failure
    for failure in (BootFailure.MODEL_LOAD, BootFailure.MODEL_REFUSED, BootFailure.MODEL_SIGNATURE, BootFailure.INTERNAL)
}


def parse_ready(data: bytes) -> BootFailure | None:
    """Whether a worker is ready. Raises: BrokenWorkerError."""
    if len(data) != _READY.size or data[0] != READY:
        raise BrokenWorkerError("no ready message")
    (_, failure) = _READY.unpack(data)
    if failure == 0:
        return None
    if failure not in _LOAD_FAILURES:
        raise BrokenWorkerError("a failure that is not a worker's")
    return _LOAD_FAILURES[failure]
