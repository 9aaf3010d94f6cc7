"""Tensors as bytes: the v2 datatypes' sizes, element counts, and the layout of BYTES (u32le length, then that many bytes).

Enclave, SDK and sidecar share this, so that a tensor is measured by one ruler on all sides.
"""

from collections.abc import Iterable, Sequence
import struct

from wire.errors import WireError

# Bytes of one element; BYTES elements have a size each.
ITEM_BYTES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,
}
PREFIX_BYTES = 4
RANK_MAX = 16
TENSORS_MAX = 256
# Above this no tensor can be stored anyway; it keeps products of dimensions in the range that every library computes right.
ELEMENTS_MAX = 1 << 31


class MalformedTensorError(WireError):
    """A BYTES tensor's length prefixes do not add up to its data or to its shape."""


def elements(shape: Sequence[int]) -> int | None:
    """The number of elements, or None if the shape is out of every library's range.

    Dimensions of zero count as one in that judgement, because `(0, 2**62, 2**62)` breaks what multiplies before it looks.
    """
    total, reach = 1, 1
    for size in shape:
        if size < 0:
            return None
        total *= size
        reach *= max(size, 1)
        if reach > ELEMENTS_MAX:
            return None
    return total


def fits(shape: Sequence[int], signature: Sequence[int]) -> bool:
    """Whether `shape` has the rank of `signature` and its size in each dimension that is not free (-1)."""
    return len(shape) == len(signature) and all(want in (-1, size) for size, want in zip(shape, signature, strict=True))


def split_bytes(data: bytes | memoryview, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor. Raises MalformedTensorError; looks at no more than `data` holds."""
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        if at + PREFIX_BYTES > len(data):
            raise MalformedTensorError("a length prefix is cut")
        (length,) = struct.unpack_from("<I", data, at)
        at += PREFIX_BYTES
        found.append(bytes(data[at : at + length]))
        at += length
    if at != len(data):
        raise MalformedTensorError("the last element is cut, or bytes are left")
    return found


def join_bytes(values: Iterable[bytes]) -> bytes:
    """The data of a BYTES tensor with these elements in row-major order."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)
