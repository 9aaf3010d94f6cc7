"""Split a model into its graph and one file of weights (ONNX external data), as the enclave maps it."""

from collections.abc import Iterator
from dataclasses import dataclass
import mmap

from onnx import ModelProto, TensorProto, numpy_helper

from owner.errors import ModelRefusedError, Refusal
from owner.onnx_file import ModelFile, external
from wire.onnx_profile import WEIGHTS_FILE

SPLIT_ABOVE = 2 << 20  # a smaller model is one message and one KMS call
KEEP_BELOW = 1024  # shapes and scalars stay in the graph, where ONNX Runtime folds them
PAGE = 4096  # a tensor that starts on a page is mapped without a copy
PAGE_ALIGNED_FROM = 16 * PAGE
ALIGNMENT = 64
_ZEROS = bytes(PAGE)
# Types whose non-raw fields hold the very numbers of the raw form.
_TYPED: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT64: "int64_data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A graph as bytes, and its weights as (offset, data) in rising order with zeros between; `length` 0: no weights part."""

    graph: bytes
    weights: tuple[tuple[int, memoryview], ...]
    length: int

    def stream(self) -> Iterator[memoryview | bytes]:
        """The weights file from its first byte to its last."""
        at = 0
        for offset, data in self.weights:
            yield _ZEROS[: offset - at]
            yield data
            at = offset + len(data)


class _Files:
    """Maps each external data file once."""

    def __init__(self, model: ModelFile) -> None:
        self._folder = model.folder
        self._maps: dict[str, memoryview] = {}

    def read(self, where: dict[str, str]) -> memoryview:
        location = where["location"]
        try:
            if location not in self._maps:
                with (self._folder / location).open("rb") as file:
                    self._maps[location] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            whole = self._maps[location]
            offset = int(where.get("offset", "0"))
            length = int(where.get("length", len(whole) - offset))
        except (OSError, ValueError):
            raise ModelRefusedError(Refusal.OUTSIDE_DATA, "the model's external data cannot be read") from None
        if not 0 <= offset <= offset + length <= len(whole):
            raise ModelRefusedError(Refusal.OUTSIDE_DATA, "the model names external data beyond the end of its file")
        return whole[offset : offset + length]


def _data(tensor: TensorProto, files: _Files) -> memoryview | None:
    """The raw little-endian bytes of an initialiser; None where it has no raw form here (strings, packed types)."""
    where = external(tensor)
    if where is not None:
        return files.read(where)
    if tensor.HasField("raw_data"):
        return memoryview(tensor.raw_data)
    name = _TYPED.get(tensor.data_type)
    if name is None or not getattr(tensor, name):
        return None
    return memoryview(numpy_helper.to_array(tensor).tobytes())


def _aligned(at: int, size: int) -> int:
    step = PAGE if size >= PAGE_ALIGNED_FROM else ALIGNMENT
    return -(-at // step) * step


def _point(tensor: TensorProto, offset: int, length: int) -> None:
    for name in ("raw_data", *_TYPED.values()):
        tensor.ClearField(name)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _inline(tensor: TensorProto, data: memoryview) -> None:
    if external(tensor) is not None:
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = bytes(data)


def split(model: ModelFile, *, above: int = SPLIT_ABOVE) -> Split:
    """Divide the model; with at most `above` bytes of initialisers all stay in the graph. `model` itself is not changed.

    Raises: ModelRefusedError for external data that does not lie in its file.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    files = _Files(model)
    found = [(tensor, data) for tensor in proto.graph.initializer if (data := _data(tensor, files)) is not None]
    if sum(len(data) for _, data in found) <= above:
        for tensor, data in found:
            _inline(tensor, data)
        return Split(graph=proto.SerializeToString(deterministic=True), weights=(), length=0)
    at = 0
    weights: list[tuple[int, memoryview]] = []
    for tensor, data in found:
        if len(data) < KEEP_BELOW:
            _inline(tensor, data)
            continue
        offset = _aligned(at, len(data))
        at = offset + len(data)
        weights.append((offset, data))
        _point(tensor, offset, len(data))
    return Split(graph=proto.SerializeToString(deterministic=True), weights=tuple(weights), length=at)
