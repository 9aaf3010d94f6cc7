"""Between numpy arrays and the v2 inference protocol's JSON with binary tensors behind it; arrays are not copied.

Datatypes follow from the array: bool, the integers, float16/32/64; `str`, `bytes` and object arrays of them are BYTES;
`ml_dtypes.bfloat16` is BF16 where that library is in use. Without it a BF16 output comes back as uint16, its raw bits,
and a BF16 input is given as `Raw(datatype="BF16", array=...)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.errors import WireError
from wire.record import Octets
from wire.tensor import ITEM_BYTES, RANK_MAX, TENSORS_MAX, MalformedTensorError, elements, join_bytes, split_bytes

_NUMPY: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = {np.dtype(name).newbyteorder("="): datatype for datatype, name in _NUMPY.items() if datatype != "BF16"}


class MalformedTensorsError(WireError):
    """An answer's JSON or the tensors behind it are not of the inference protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """An array with its datatype said aloud, for those that numpy does not have: BF16 as uint16."""

    datatype: str
    array: NDArray[Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedAnswer:
    """The outputs of one answer by name, in the answer's order."""

    outputs: dict[str, NDArray[Any]] = field(repr=False)
    model: str
    version: str
    id: str | None = None


def datatype_of(array: NDArray[Any] | Raw) -> str:
    """The v2 datatype of an array. Raises ValueError where the protocol has none."""
    if isinstance(array, Raw):
        if ITEM_BYTES.get(array.datatype) not in (0, array.array.dtype.itemsize):
            raise ValueError(f"no such datatype, or not its size: {array.datatype}")
        return array.datatype
    if array.dtype.kind in "OSU":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    found = _DATATYPES.get(array.dtype.newbyteorder("="))
    if found is None:
        raise ValueError(f"the inference protocol has no datatype for {array.dtype}")
    return found


def _element(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode("utf-8")
        case _:
            raise ValueError("elements of a BYTES tensor are str or bytes")


def encode_array(array: NDArray[Any] | Raw) -> tuple[str, tuple[int, ...], Octets]:
    """Datatype, shape and bytes of an array; a C-contiguous little-endian one is not copied. Raises ValueError."""
    datatype = datatype_of(array)
    plain = array.array if isinstance(array, Raw) else array
    if datatype == "BYTES":
        return datatype, plain.shape, join_bytes(_element(value) for value in plain.reshape(-1).tolist())
    if plain.dtype.byteorder == ">" or (plain.dtype.byteorder == "=" and sys.byteorder == "big"):
        plain = plain.astype(plain.dtype.newbyteorder("<"))
    return datatype, plain.shape, np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data


def encode_request(
    inputs: Mapping[str, NDArray[Any] | Raw],
    *,
    outputs: Sequence[str] | None = None,
    id: str | None = None,  # noqa: A002 - the protocol's word
) -> tuple[bytes, list[Octets]]:
    """A request's JSON and the tensors behind it; all outputs, or those named, are asked for in binary. Raises ValueError."""
    described, parts = [], []
    for name, array in inputs.items():
        datatype, shape, data = encode_array(array)
        size = memoryview(data).nbytes
        described.append({"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}})
        parts.append(data)
    request: dict[str, Any] = {"inputs": described, "parameters": {"binary_data_output": True}}
    if id is not None:
        request["id"] = id
    if outputs is not None:
        request["outputs"] = [{"name": name} for name in outputs]
    return json.dumps(request, separators=(",", ":")).encode("utf-8"), parts


def decode_array(datatype: str, shape: tuple[int, ...], data: Octets) -> NDArray[Any]:
    """The array over `data`, without a copy but for BYTES (an object array of `bytes`). Raises: MalformedTensorsError."""
    count = elements(shape)
    if datatype not in ITEM_BYTES or count is None:
        raise MalformedTensorsError("no such datatype, or a shape out of range")
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        try:
            array[:] = split_bytes(memoryview(data), count)
        except MalformedTensorError as error:
            raise MalformedTensorsError(str(error)) from None
        return array.reshape(shape)
    if memoryview(data).nbytes != count * ITEM_BYTES[datatype]:
        raise MalformedTensorsError("a tensor's size is not its shape's")
    if datatype == "BOOL" and count and int(np.frombuffer(data, dtype="u1").max()) > 1:
        raise MalformedTensorsError("a BOOL that is neither 0 nor 1")
    return np.frombuffer(data, dtype=_dtype(datatype)).reshape(shape)


def _dtype(datatype: str) -> np.dtype[Any]:
    """BF16 is ml_dtypes' where the application has loaded that library, else its bits."""
    loaded = sys.modules.get("ml_dtypes")
    return np.dtype(loaded.bfloat16) if datatype == "BF16" and loaded is not None else np.dtype(_NUMPY[datatype])


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise MalformedTensorsError(f"{name} is not a text")
    return found


def _shape(value: Mapping[str, Any]) -> tuple[int, ...]:
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) > RANK_MAX or not all(type(size) is int and size >= 0 for size in shape):
        raise MalformedTensorsError("shape is not a list of sizes")
    return tuple(shape)


def decode_answer(raw: Octets, tensors: Octets) -> DecodedAnswer:
    """An answer's arrays, as views of `tensors`, which are all in binary. Raises: MalformedTensorsError."""
    try:
        answer = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise MalformedTensorsError("no JSON") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("outputs"), list) or len(answer["outputs"]) > TENSORS_MAX:
        raise MalformedTensorsError("no outputs")
    view, at = memoryview(tensors).cast("B"), 0
    found: dict[str, NDArray[Any]] = {}
    for output in answer["outputs"]:
        parameters = output.get("parameters") if isinstance(output, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if type(size) is not int or not 0 <= size <= len(view) - at:
            raise MalformedTensorsError("an output is not in the binary tensors")
        name = _text(output, "name")
        if name in found:
            raise MalformedTensorsError("an output comes twice")
        found[name] = decode_array(_text(output, "datatype"), _shape(output), view[at : at + size])
        at += size
    if at != len(view):
        raise MalformedTensorsError("bytes behind the last tensor")
    given = answer.get("id")
    return DecodedAnswer(
        outputs=found,
        model=_text(answer, "model_name"),
        version=_text(answer, "model_version"),
        id=given if isinstance(given, str) else None,
    )
