"""Judge an ONNX file before it is sealed: only what an enclave would load, and the signature that the manifest pins.

Refused: pickles and other formats, operators that neither ONNX nor ONNX Runtime has, data that lies outside the model's
folder, inputs and outputs that are no plain tensors. The enclave judges again by a parser of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import os
from pathlib import Path
import stat

from google.protobuf.message import DecodeError
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from owner.errors import ModelRefusedError, Refusal
from wire.manifest import Tensor
from wire.onnx_profile import DATATYPES, DOMAINS

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
NAME_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A judged model: `folder` is where the files of its external data lie, which `proto` names by plain file names."""

    proto: ModelProto
    folder: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return max((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _walk(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                yield from _walk(graph.node)


def _graphs(attribute: AttributeProto) -> tuple[GraphProto, ...]:
    return (attribute.g, *attribute.graphs) if attribute.HasField("g") else tuple(attribute.graphs)


def _load(data: bytes) -> ModelProto:
    if data.startswith(_PICKLES):
        raise ModelRefusedError(Refusal.PICKLE, "a pickle or PyTorch archive runs code when it is read; export the model to ONNX")
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelRefusedError(Refusal.NOT_ONNX, "not an ONNX file") from None
    if not proto.graph.node or not proto.opset_import:
        raise ModelRefusedError(Refusal.NOT_ONNX, "not an ONNX file: no nodes or no operator set")
    size = proto.ByteSize()
    proto.DiscardUnknownFields()
    if proto.ByteSize() != size:
        raise ModelRefusedError(Refusal.NOT_ONNX, "fields that this onnx library does not know: the file is damaged, or newer than it")
    if proto.training_info:
        raise ModelRefusedError(Refusal.TRAINING, "the model carries a training graph; export it for inference")
    return proto


def _check_operators(proto: ModelProto, nodes: Iterable[NodeProto]) -> None:
    own = {(function.domain, function.name) for function in proto.functions}
    unknown = sorted(
        {f"{node.domain}:{node.op_type}" for node in nodes if node.domain not in DOMAINS and (node.domain, node.op_type) not in own}
    )
    if unknown:
        raise ModelRefusedError(
            Refusal.CUSTOM_OPERATOR,
            f"operators that ONNX Runtime does not bring along: {', '.join(unknown[:8])}; export with standard operators",
        )


def external(tensor: TensorProto) -> dict[str, str] | None:
    """Where a tensor's external data lies: location, offset, length; None for a tensor that holds its own."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_data(proto: ModelProto, nodes: Iterable[NodeProto], folder: Path) -> None:
    """External data only of the main graph's initialisers, in regular files beside the model."""
    inner: list[TensorProto] = []
    for node in nodes:
        for attribute in node.attribute:
            inner += [attribute.t, *attribute.tensors]
            for graph in _graphs(attribute):
                inner += graph.initializer
    for sparse in proto.graph.sparse_initializer:
        inner += [sparse.values, sparse.indices]
    if any(external(tensor) is not None for tensor in inner):
        raise ModelRefusedError(
            Refusal.OUTSIDE_DATA, "a constant or subgraph keeps its data in another file; save the model with its data inside"
        )
    for location in {where.get("location") for tensor in proto.graph.initializer if (where := external(tensor)) is not None}:
        if not location or location != os.path.basename(location):
            raise ModelRefusedError(Refusal.OUTSIDE_DATA, "external data may only lie beside the model, named without a folder")
        try:
            mode = os.lstat(folder / location).st_mode
        except OSError:
            mode = 0
        if not stat.S_ISREG(mode):
            raise ModelRefusedError(Refusal.OUTSIDE_DATA, "the file with the model's external data is not there or is no regular file")


def _tensor(value: ValueInfoProto, kind: str) -> Tensor:
    if not value.type.HasField("tensor_type"):
        raise ModelRefusedError(
            Refusal.NOT_A_TENSOR, f"{kind} {value.name!r} is no tensor; for scikit-learn export with options={{'zipmap': False}}"
        )
    if not 0 < len(value.name) <= NAME_MAX or not value.name.isprintable():
        raise ModelRefusedError(Refusal.NAME, f"the name of an {kind} is empty, longer than {NAME_MAX} characters or not printable")
    tensor = value.type.tensor_type
    datatype = DATATYPES.get(tensor.elem_type)
    if datatype is None:
        raise ModelRefusedError(Refusal.DATATYPE, f"{kind} {value.name!r} has a datatype that the inference protocol does not name")
    if not tensor.HasField("shape"):
        raise ModelRefusedError(
            Refusal.UNKNOWN_RANK, f"{kind} {value.name!r} has no shape; declare at least its number of dimensions when exporting"
        )
    return Tensor(name=value.name, datatype=datatype, shape=tuple(_size(dim) for dim in tensor.shape.dim))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int:
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else -1


def _signature(proto: ModelProto) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    weights = {tensor.name for tensor in proto.graph.initializer}  # listed among the inputs before IR version 4
    inputs = tuple(_tensor(value, "input") for value in proto.graph.input if value.name not in weights)
    outputs = tuple(_tensor(value, "output") for value in proto.graph.output)
    if not inputs or not outputs:
        raise ModelRefusedError(Refusal.NO_SIGNATURE, "the model has no inputs or no outputs")
    if any(tensor.datatype == "BYTES" for tensor in inputs) and any(tensor.datatype == "BF16" for tensor in outputs):
        raise ModelRefusedError(
            Refusal.DATATYPE,
            "string inputs and bfloat16 outputs cannot meet in one model: ONNX Runtime's Python has no way to run it; cast one",
        )
    return inputs, outputs


def judge(data: bytes, folder: Path) -> ModelFile:
    """Judge the bytes of an ONNX file whose external data, if any, lies in `folder`. Raises: ModelRefusedError."""
    proto = _load(data)
    nodes = [*_walk(proto.graph.node), *(node for function in proto.functions for node in _walk(function.node))]
    _check_operators(proto, nodes)
    _check_data(proto, nodes, folder)
    inputs, outputs = _signature(proto)
    return ModelFile(proto=proto, folder=folder, inputs=inputs, outputs=outputs)
