"""Tensor data as JSON arrays, in both directions: exact, or refused; no value is rounded out of its datatype's range."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from enclave.errors import RequestError
from wire.errors import Code
from wire.tensor import MalformedTensorError, join_bytes, split_bytes

# An answer as JSON is at least ten times its binary size and is made on the loop: larger ones must be asked for in binary.
JSON_ELEMENTS_MAX = 1 << 18

_INTEGERS = {"UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}
_FLOATS = {"FP16": "<f2", "BF16": "<f4", "FP32": "<f4", "FP64": "<f8"}


def flatten(data: list[Any], shape: Sequence[int], path: str) -> list[Any]:
    """The elements of a flat array, or of one nested exactly as `shape` says. Raises: RequestError."""
    if not any(type(item) is list for item in data):
        return data
    level: list[Any] = [data]
    for size in shape:
        if not all(type(item) is list and len(item) == size for item in level):
            raise RequestError(Code.WRONG_DATA_SIZE, path)
        level = list(chain.from_iterable(level))
    return level


def to_bytes(datatype: str, values: list[Any], path: str) -> bytes:
    """The elements as a tensor's bytes. Raises: RequestError with INVALID_VALUE."""
    kinds = set(map(type, values))
    try:
        if datatype == "BYTES" and kinds <= {str}:
            return join_bytes(value.encode("utf-8") for value in values)
        if datatype == "BOOL" and kinds <= {bool}:
            return bytes(values)
        if datatype in _INTEGERS and kinds <= {int}:
            return np.array(values, dtype=_INTEGERS[datatype]).tobytes()
        if datatype in _FLOATS and kinds <= {int, float}:
            return _floats(datatype, np.array(values, dtype=np.float64))
    except (OverflowError, UnicodeEncodeError):
        pass
    raise RequestError(Code.INVALID_VALUE, path)


def _floats(datatype: str, exact: npt.NDArray[np.float64]) -> bytes:
    """Nearest value of the datatype. Raises OverflowError for what lies beyond it: JSON has no infinity."""
    with np.errstate(over="ignore"):
        array = exact.astype(_FLOATS[datatype])
        if datatype == "BF16":
            bits = array.view("<u4")
            halves = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype("<u2")
            array = (halves.astype("<u4") << np.uint32(16)).view("<f4")
            if np.isfinite(array).all():
                return halves.tobytes()
    if not np.isfinite(array).all():
        raise OverflowError
    return array.tobytes()


def to_values(datatype: str, count: int, data: bytes | bytearray | memoryview, path: str) -> list[Any]:
    """A tensor's bytes as JSON values. Raises: RequestError for what JSON cannot say, or would say at too great length."""
    if count > JSON_ELEMENTS_MAX or len(data) > 8 * JSON_ELEMENTS_MAX:
        raise RequestError(Code.ANSWER_TOO_LARGE)
    if datatype == "BYTES":
        try:
            return [value.decode("utf-8") for value in split_bytes(memoryview(data), count)]
        except (MalformedTensorError, UnicodeDecodeError):
            raise RequestError(Code.INVALID_VALUE, path) from None
    if datatype == "BOOL":
        return [bool(value) for value in bytes(data)]
    if datatype in _INTEGERS:
        return list(np.frombuffer(data, dtype=_INTEGERS[datatype]).tolist())
    if datatype == "BF16":
        array: npt.NDArray[Any] = (np.frombuffer(data, dtype="<u2").astype("<u4") << np.uint32(16)).view("<f4")
    else:
        array = np.frombuffer(data, dtype=_FLOATS[datatype])
    if not np.isfinite(array).all():
        raise RequestError(Code.INVALID_VALUE, path)
    return list(array.tolist())
