"""Requests of the Open Inference Protocol v2 with the binary tensor extension: JSON and bytes in, measured tensors out.

Everything about a request that can be judged without touching tensor data is judged here, strictly; binary tensors stay
views of the message. What is refused is refused with one code and the path of the field, in the request's own order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
import json
from typing import Any

from enclave import jsondata
from enclave.errors import RequestError
from enclave.tensor import TensorView
from wire.errors import Code
from wire.manifest_values import Model, Pipeline, Tensor
from wire.tensor import ITEM_BYTES, PREFIX_BYTES, RANK_MAX, TENSORS_MAX, elements, fits

# Parsed on the loop at about 100 MB/s; larger tensors belong into the binary extension.
JSON_MAX = 1 << 20
ID_MAX = 256

_ROOT = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT = frozenset({"name", "parameters"})
# Parameters of other servers, so that their refusal can name them without an echo.
_KNOWN_PARAMETERS = frozenset(
    {
        "classification",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "shared_memory_byte_size",
        "shared_memory_offset",
        "shared_memory_region",
        "timeout",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One output that the caller asks for: its place in the signature, and whether as bytes or as JSON."""

    at: int
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request that fits a signature: inputs in the signature's order, outputs in the caller's."""

    id: str | None
    inputs: tuple[TensorView, ...]
    outputs: tuple[Wanted, ...]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_: str) -> Any:
    raise ValueError  # NaN and Infinity are not JSON


def parse_json(raw: bytes | memoryview) -> dict[str, Any]:
    """A JSON object without duplicate keys. Raises: RequestError."""
    if len(raw) > JSON_MAX:
        raise RequestError(Code.REQUEST_TOO_LARGE)
    try:
        found = json.loads(str(raw, "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RequestError(Code.MALFORMED_JSON) from None
    if not isinstance(found, dict):
        raise RequestError(Code.MALFORMED_JSON)
    return found


def _known(value: Any, names: frozenset[str], path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(Code.WRONG_FIELD_TYPE, path)
    if not value.keys() <= names:
        raise RequestError(Code.UNSUPPORTED_PARAMETER, path)
    return value


def _parameters(value: Mapping[str, Any], path: str, name: str, kind: type) -> Any:
    """The one parameter that may stand here, or None."""
    field = f"{path}.parameters" if path else "parameters"
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(Code.WRONG_FIELD_TYPE, field)
    for given in parameters:
        if given != name:
            raise RequestError(Code.UNSUPPORTED_PARAMETER, f"{field}.{given}" if given in _KNOWN_PARAMETERS else field)
    found = parameters.get(name)
    if found is not None and type(found) is not kind:
        raise RequestError(Code.WRONG_FIELD_TYPE, f"{field}.{name}")
    return found


def _field(value: Mapping[str, Any], name: str, kind: type, path: str) -> Any:
    if name not in value:
        raise RequestError(Code.MISSING_FIELD, f"{path}.{name}")
    if type(value[name]) is not kind:
        raise RequestError(Code.WRONG_FIELD_TYPE, f"{path}.{name}")
    return value[name]


def _items(root: Mapping[str, Any], name: str) -> list[Any]:
    items = root.get(name, [])
    if not isinstance(items, list) or len(items) > TENSORS_MAX:
        raise RequestError(Code.WRONG_FIELD_TYPE, name)
    return items


def _shape(value: Mapping[str, Any], tensor: Tensor, path: str) -> tuple[tuple[int, ...], int]:
    shape = _field(value, "shape", list, path)
    if len(shape) > RANK_MAX or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(Code.WRONG_FIELD_TYPE, f"{path}.shape")
    if len(shape) != len(tensor.shape):
        raise RequestError(Code.WRONG_RANK, f"{path}.shape")
    count = elements(shape)
    if count is None or not fits(shape, tensor.shape):
        raise RequestError(Code.WRONG_SHAPE, f"{path}.shape")
    return tuple(shape), count


def _from_json(value: Mapping[str, Any], tensor: Tensor, shape: tuple[int, ...], count: int, path: str) -> bytes:
    values = jsondata.flatten(_field(value, "data", list, path), shape, f"{path}.data")
    if len(values) != count:
        raise RequestError(Code.WRONG_DATA_SIZE, f"{path}.data")
    return jsondata.to_bytes(tensor.datatype, values, f"{path}.data")


class _Inputs:
    """The request's inputs, read in the request's order: their binary data follow each other without gaps."""

    def __init__(self, signature: Sequence[Tensor], tensors: memoryview) -> None:
        self._places = {tensor.name: at for at, tensor in enumerate(signature)}
        self._signature = signature
        self._tensors = tensors
        self._at = 0
        self._found: dict[int, TensorView] = {}

    def read(self, items: list[Any]) -> tuple[TensorView, ...]:
        """Raises: RequestError."""
        for number, item in enumerate(items):
            self._one(item, f"inputs[{number}]")
        for at, tensor in enumerate(self._signature):
            if at not in self._found:
                raise RequestError(Code.MISSING_INPUT, f"inputs[{tensor.name}]")
        if self._at != len(self._tensors):
            raise RequestError(Code.WRONG_DATA_SIZE, "inputs")
        return tuple(self._found[at] for at in range(len(self._signature)))

    def _one(self, item: Any, path: str) -> None:
        value = _known(item, _INPUT, path)
        place = self._places.get(_field(value, "name", str, path))
        if place is None:
            raise RequestError(Code.UNEXPECTED_INPUT, f"{path}.name")
        if place in self._found:
            raise RequestError(Code.DUPLICATE_INPUT, f"{path}.name")
        tensor = self._signature[place]
        if _field(value, "datatype", str, path) != tensor.datatype:
            raise RequestError(Code.WRONG_DATATYPE, f"{path}.datatype")
        shape, count = _shape(value, tensor, path)
        size = _parameters(value, path, "binary_data_size", int)
        data: bytes | memoryview
        if size is None:
            data = _from_json(value, tensor, shape, count, path)
        elif "data" in value:
            raise RequestError(Code.WRONG_FIELD_TYPE, f"{path}.data")
        else:
            data = self._binary(tensor.datatype, count, size, f"{path}.parameters.binary_data_size")
        self._found[place] = TensorView(name=tensor.name, datatype=tensor.datatype, shape=shape, data=data, path=path)

    def _binary(self, datatype: str, count: int, size: int, path: str) -> memoryview:
        if not 0 <= size <= len(self._tensors) - self._at:
            raise RequestError(Code.WRONG_DATA_SIZE, path)
        one = ITEM_BYTES[datatype]
        if (size != count * one) if one else (size < count * PREFIX_BYTES):
            raise RequestError(Code.WRONG_DATA_SIZE, path)
        start, self._at = self._at, self._at + size
        return self._tensors[start : self._at]


def _wanted(items: list[Any], signature: Sequence[Tensor], binary: bool) -> tuple[Wanted, ...]:
    if not items:
        return tuple(Wanted(at=at, binary=binary) for at in range(len(signature)))
    places = {tensor.name: at for at, tensor in enumerate(signature)}
    found: dict[int, Wanted] = {}
    for number, item in enumerate(items):
        path = f"outputs[{number}]"
        value = _known(item, _OUTPUT, path)
        place = places.get(_field(value, "name", str, path))
        if place is None:
            raise RequestError(Code.UNKNOWN_OUTPUT, f"{path}.name")
        if place in found:
            raise RequestError(Code.WRONG_FIELD_TYPE, f"{path}.name")
        own = _parameters(value, path, "binary_data", bool)
        found[place] = Wanted(at=place, binary=binary if own is None else own)
    return tuple(found.values())


def parse_infer(raw: bytes | memoryview, tensors: bytes | memoryview, model: Model | Pipeline) -> InferRequest:
    """A request to `model`: its JSON and, behind it, its binary tensors. Raises: RequestError.

    Not checked here but where the data is used: UTF-8 and prefixes of BYTES, BOOL as 0 or 1, NaN and infinity.
    """
    root = _known(parse_json(raw), _ROOT, "request")
    given = root.get("id")
    if given is not None and (not isinstance(given, str) or len(given) > ID_MAX or not given.isprintable()):
        raise RequestError(Code.WRONG_FIELD_TYPE, "id")
    binary = _parameters(root, "", "binary_data_output", bool)
    if "inputs" not in root:
        raise RequestError(Code.MISSING_FIELD, "inputs")
    return InferRequest(
        id=given,
        inputs=_Inputs(model.inputs, memoryview(tensors)).read(_items(root, "inputs")),
        outputs=_wanted(_items(root, "outputs"), model.outputs, bool(binary)),
    )


def render_infer(
    model: Model | Pipeline, request: InferRequest, outputs: Sequence[TensorView]
) -> tuple[bytes, list[bytes | bytearray | memoryview]]:
    """The answer's JSON and the binary tensors behind it; `outputs` as `request.outputs` wants them. Raises: RequestError."""
    described: list[dict[str, Any]] = []
    buffers: list[bytes | bytearray | memoryview] = []
    for number, (wanted, tensor) in enumerate(zip(request.outputs, outputs, strict=True)):
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary:
            one["parameters"] = {"binary_data_size": len(tensor.data)}
            buffers.append(tensor.data)
        else:
            count = elements(tensor.shape) or 0
            one["data"] = jsondata.to_values(tensor.datatype, count, tensor.data, f"outputs[{number}].data")
        described.append(one)
    answer: dict[str, Any] = {"model_name": model.id, "model_version": model.version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = described
    return _dump(answer), buffers


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def render_server_metadata() -> bytes:
    """The server's metadata."""
    return _dump({"name": "cloister", "version": "1", "extensions": ["binary_tensor_data"]})


def _described(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    return [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors]


def render_metadata(model: Model | Pipeline, versions: Sequence[str]) -> bytes:
    """One model's metadata; `versions` are all that the manifest has of it. A pipeline looks like a model."""
    metadata: dict[str, Any] = {
        "name": model.id,
        "versions": list(versions),
        "platform": "onnxruntime_onnx" if isinstance(model, Model) else "ensemble",
        "inputs": _described(model.inputs),
        "outputs": _described(model.outputs),
    }
    if isinstance(model, Model) and model.card:
        metadata["parameters"] = dict(model.card)
    return _dump(metadata)


def render_index(entries: Iterable[Model | Pipeline], ready: Callable[[Any], bool]) -> bytes:
    """The repository index over `entries`, each with whether `ready` says that it can answer now."""
    states = ((entry, ready(entry)) for entry in entries)
    return _dump(
        [
            {"name": entry.id, "version": entry.version, "state": "READY" if able else "UNAVAILABLE", "reason": "" if able else "loading"}
            for entry, able in states
        ]
    )
