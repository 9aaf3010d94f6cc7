"""Between gRPC messages and the protocol's JSON with binary tensors: raw contents pass as they are. Pure.

Whatever the enclave can judge is left to the enclave, so that every door gives the same codes.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import numpy as np

from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar.refusal import RefusedError
from cloister.sidecar.routes import model_path
from wire.errors import Code
from wire.message import Message
from wire.record import Octets
from wire.tensor import ITEM_BYTES, join_bytes

# datatype: (field of typed contents, numpy's type on the wire)
_TYPED = {
    "BOOL": ("bool_contents", "u1"),
    "INT8": ("int_contents", "i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, path: str) -> Octets:
    """The bytes of typed contents. Raises: RefusedError."""
    field, kind = _TYPED.get(tensor.datatype, ("", ""))
    filled = [found.name for found, _ in tensor.contents.ListFields()]
    if not filled and tensor.datatype in ITEM_BYTES:
        return b""
    if filled != [field]:
        raise RefusedError(Code.WRONG_FIELD_TYPE if field else Code.WRONG_DATATYPE, f"{path}.contents" if field else f"{path}.datatype")
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return join_bytes(values)
    try:  # a list: from an array of wider integers numpy would wrap silently
        return np.array(list(values), dtype=kind).tobytes()
    except OverflowError:
        raise RefusedError(Code.INVALID_VALUE, f"{path}.data") from None


def _data(request: pb.ModelInferRequest) -> list[Octets]:
    if request.raw_input_contents:
        if len(request.raw_input_contents) != len(request.inputs):
            raise RefusedError(Code.WRONG_DATA_SIZE, "inputs")
        for number, tensor in enumerate(request.inputs):
            if tensor.HasField("contents"):
                raise RefusedError(Code.WRONG_FIELD_TYPE, f"inputs[{number}].data")
        return list(request.raw_input_contents)
    return [_typed(tensor, f"inputs[{number}]") for number, tensor in enumerate(request.inputs)]


def encode_infer(request: pb.ModelInferRequest) -> tuple[str, bytes, list[Octets]]:
    """The enclave's path, JSON and tensors for a request. Raises: RefusedError."""
    path = model_path(request.model_name, request.model_version, "infer")
    parts = _data(request)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": dict(_parameters(tensor.parameters), binary_data_size=len(data)),
        }
        for tensor, data in zip(request.inputs, parts, strict=True)
    ]
    # Whatever a client says of binary data: in gRPC all outputs are raw contents.
    outputs = [{"name": tensor.name, "parameters": {**_parameters(tensor.parameters), "binary_data": True}} for tensor in request.outputs]
    root: dict[str, Any] = {"inputs": inputs, "parameters": {**_parameters(request.parameters), "binary_data_output": True}}
    if outputs:
        root["outputs"] = outputs
    if request.id:
        root["id"] = request.id
    return path, json.dumps(root, separators=(",", ":")).encode(), parts


def decode_json(message: Message) -> Any:
    """The JSON of an answer of the enclave, which is attested but still bounded and typed by its reader."""
    return json.loads(bytes(message.json))


def decode_infer(message: Message) -> pb.ModelInferResponse:
    """The response that the enclave's answer is."""
    root = decode_json(message)
    response = pb.ModelInferResponse(model_name=root["model_name"], model_version=root["model_version"], id=root.get("id", ""))
    at = 0
    for output in root["outputs"]:
        size = output["parameters"]["binary_data_size"]
        response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        response.raw_output_contents.append(bytes(message.tensors[at : at + size]))
        at += size
    return response


def decode_metadata(message: Message) -> pb.ModelMetadataResponse:
    """A model's metadata."""
    root = decode_json(message)

    def tensors(found: Sequence[dict[str, Any]]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
        return [pb.ModelMetadataResponse.TensorMetadata(name=t["name"], datatype=t["datatype"], shape=t["shape"]) for t in found]

    return pb.ModelMetadataResponse(
        name=root["name"],
        versions=root["versions"],
        platform=root["platform"],
        inputs=tensors(root["inputs"]),
        outputs=tensors(root["outputs"]),
    )


def decode_index(message: Message, *, ready: bool) -> pb.RepositoryIndexResponse:
    """The repository index; `ready` leaves out what is not."""
    models = [entry for entry in decode_json(message) if not ready or entry["state"] == "READY"]
    return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**entry) for entry in models])
