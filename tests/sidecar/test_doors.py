"""The same inputs at the SDK, HTTP and gRPC: the same answers, and for the same defects the same codes."""

import asyncio
from collections.abc import Callable, Iterator
import http.client
import json
from typing import Any

import grpc
import numpy as np
import pytest

from cloister.api import Client
from cloister.connection import Opening
from cloister.errors import CloisterError
from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.metrics import Metrics
from tests.sidecar.conftest import TOKEN, Sidecar
from wire.errors import TABLE, Code

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def http_door(sidecar: Sidecar) -> Iterator[http.client.HTTPConnection]:
    """A connection of an HTTP client."""
    connection = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=30)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def grpc_door(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A channel of a gRPC client."""
    with grpc.insecure_channel(sidecar.grpc) as channel:
        yield channel


def ask(
    door: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    door.request(method, path, body, {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}})
    answer = door.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def rpc(door: grpc.Channel, name: str, request: Any, answer: Any, token: str = TOKEN) -> Any:
    call = door.unary_unary(
        f"/inference.GRPCInferenceService/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return call(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)


def tensor(name: str, datatype: str, shape: list[int], **parameters: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def proto(root: dict[str, Any], model: str, version: str, raw: list[bytes]) -> pb.ModelInferRequest:
    """The gRPC request that says the same as the JSON."""

    def parameters(given: dict[str, Any]) -> dict[str, pb.InferParameter]:
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
        return {key: pb.InferParameter(**{kinds[type(value)]: value}) for key, value in given.items() if key != "binary_data_size"}

    request = pb.ModelInferRequest(model_name=model, model_version=version, id=root.get("id", ""), raw_input_contents=raw)
    for key, value in parameters(root.get("parameters", {})).items():
        request.parameters[key].CopyFrom(value)
    for given in root["inputs"]:
        one = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        for key, value in parameters(given["parameters"]).items():
            one.parameters[key].CopyFrom(value)
    for given in root.get("outputs", []):
        output = request.outputs.add(name=given["name"])
        for key, value in parameters(given.get("parameters", {})).items():
            output.parameters[key].CopyFrom(value)
    return request


TWO = np.array([1, 2], np.float32).tobytes()
A, B = tensor("a", "FP32", [2], binary_data_size=8), tensor("b", "FP32", [2], binary_data_size=8)
BOMB = (1 << 40).to_bytes(8, "little")
NAN = np.array([np.nan], np.float32).tobytes()
BAD: dict[str, tuple[str, str, dict[str, Any], list[bytes], Code]] = {
    "unknown model": ("nothing", "", {"inputs": [A, B]}, [TWO, TWO], Code.MODEL_NOT_AUTHORISED),
    "unknown version": ("sum", "9", {"inputs": [A, B]}, [TWO, TWO], Code.UNKNOWN_VERSION),
    "no name at all": ("%2e", "", {"inputs": [A, B]}, [TWO, TWO], Code.UNKNOWN_MODEL),
    "missing input": ("sum", "", {"inputs": [A]}, [TWO], Code.MISSING_INPUT),
    "extra input": ("sum", "", {"inputs": [A, B, tensor("c", "FP32", [2], binary_data_size=8)]}, [TWO] * 3, Code.UNEXPECTED_INPUT),
    "input twice": ("sum", "", {"inputs": [A, A]}, [TWO, TWO], Code.DUPLICATE_INPUT),
    "wrong datatype": ("sum", "", {"inputs": [tensor("a", "INT32", [2], binary_data_size=8), B]}, [TWO, TWO], Code.WRONG_DATATYPE),
    "wrong rank": ("sum", "", {"inputs": [tensor("a", "FP32", [1, 2], binary_data_size=8), B]}, [TWO, TWO], Code.WRONG_RANK),
    "negative shape": ("sum", "", {"inputs": [tensor("a", "FP32", [-2], binary_data_size=8), B]}, [TWO, TWO], Code.WRONG_FIELD_TYPE),
    "huge shape": ("sum", "", {"inputs": [tensor("a", "FP32", [2**40], binary_data_size=8), B]}, [TWO, TWO], Code.WRONG_SHAPE),
    "fixed shape": ("bomb", "", {"inputs": [tensor("n", "INT64", [2], binary_data_size=16)]}, [bytes(16)], Code.WRONG_SHAPE),
    "short data": ("sum", "", {"inputs": [tensor("a", "FP32", [3], binary_data_size=8), B]}, [TWO, TWO], Code.WRONG_DATA_SIZE),
    "unknown output": ("sum", "", {"inputs": [A, B], "outputs": [{"name": "q"}]}, [TWO, TWO], Code.UNKNOWN_OUTPUT),
    "classification": (
        "sum",
        "",
        {"inputs": [A, B], "outputs": [{"name": "sum", "parameters": {"classification": 2}}]},
        [TWO, TWO],
        Code.UNSUPPORTED_PARAMETER,
    ),
    "shared memory": (
        "sum",
        "",
        {"inputs": [tensor("a", "FP32", [2], binary_data_size=8, shared_memory_region="r"), B]},
        [TWO, TWO],
        Code.UNSUPPORTED_PARAMETER,
    ),
    "sequence": ("sum", "", {"inputs": [A, B], "parameters": {"sequence_id": 3}}, [TWO, TWO], Code.UNSUPPORTED_PARAMETER),
    "a third truth": ("same-bool", "", {"inputs": [tensor("x", "BOOL", [1], binary_data_size=1)]}, [b"\2"], Code.INVALID_VALUE),
    "no text": ("same-bytes", "", {"inputs": [tensor("x", "BYTES", [1], binary_data_size=5)]}, [b"\1\0\0\0\xff"], Code.INVALID_VALUE),
    "text cut": ("same-bytes", "", {"inputs": [tensor("x", "BYTES", [1], binary_data_size=5)]}, [b"\2\0\0\0a"], Code.WRONG_DATA_SIZE),
    "non-finite": ("strict", "", {"inputs": [tensor("x", "FP32", [1], binary_data_size=4)]}, [NAN], Code.NON_FINITE_INPUT),
    "model fails": ("sum", "", {"inputs": [A, tensor("b", "FP32", [3], binary_data_size=12)]}, [TWO, bytes(12)], Code.MODEL_FAILED),
    "shape bomb": (
        "bomb",
        "",
        {"inputs": [tensor("n", "INT64", [1], binary_data_size=8)]},
        [(1 << 40).to_bytes(8, "little")],
        Code.OUT_OF_MEMORY,
    ),
    "id too long": ("sum", "", {"id": "i" * 300, "inputs": [A, B]}, [TWO, TWO], Code.WRONG_FIELD_TYPE),
}


def _path(model: str, version: str) -> str:
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"


@pytest.mark.parametrize(("model", "version", "root", "raw", "code"), BAD.values(), ids=BAD.keys())
def test_the_same_defect_has_the_same_code_at_every_door(
    http_door: http.client.HTTPConnection,
    grpc_door: grpc.Channel,
    target: Target,
    model: str,
    version: str,
    root: dict[str, Any],
    raw: list[bytes],
    code: Code,
) -> None:
    """HTTP, gRPC and the SDK's own door give one code for one defect, with the table's text and status."""
    name = code.name.lower().replace("_", "-")
    body = json.dumps(root).encode()
    status, _, answer = ask(http_door, "POST", _path(model, version), body + b"".join(raw), Inference_Header_Content_Length=str(len(body)))
    assert (status, json.loads(answer)["code"]) == (TABLE[code].http, name)
    with pytest.raises(grpc.RpcError) as info:
        rpc(grpc_door, "ModelInfer", proto(root, model, version, raw), pb.ModelInferResponse)
    assert dict(info.value.trailing_metadata())["cloister-code"] == name
    assert info.value.code().value[0] == TABLE[code].grpc
    if code is not Code.UNKNOWN_MODEL:
        assert asyncio.run(_sdk(target, _path(model, version), body, raw)) is code


async def _sdk(target: Target, path: str, body: bytes, raw: list[bytes]) -> Code:
    appliance = Appliance(target, Metrics())
    try:
        await appliance.call(path, body, raw, seconds=20)
    except CloisterError as error:
        return error.code
    finally:
        await appliance.close()
    return Code.OK


TYPED: list[tuple[str, str, list[Any], str]] = [
    ("BOOL", "bool_contents", [True, False], "?"),
    ("INT8", "int_contents", [-128, 127], "i1"),
    ("INT16", "int_contents", [-1, 2], "<i2"),
    ("INT32", "int_contents", [-1, 2], "<i4"),
    ("INT64", "int64_contents", [-(2**63)], "<i8"),
    ("UINT8", "uint_contents", [255], "u1"),
    ("UINT16", "uint_contents", [65535], "<u2"),
    ("UINT32", "uint_contents", [2**32 - 1], "<u4"),
    ("UINT64", "uint64_contents", [2**64 - 1], "<u8"),
    ("FP32", "fp32_contents", [0.5], "<f4"),
    ("FP64", "fp64_contents", [0.1], "<f8"),
]


@pytest.mark.parametrize(("datatype", "field", "values", "kind"), TYPED, ids=[case[0] for case in TYPED])
def test_typed_and_json_values_give_the_same_bytes(
    http_door: http.client.HTTPConnection, grpc_door: grpc.Channel, datatype: str, field: str, values: list[Any], kind: str
) -> None:
    """Typed gRPC contents and JSON arrays are the same tensors; answers come raw, or as JSON."""
    model = f"same-{datatype.lower()}"
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype=datatype, shape=[len(values)], contents=pb.InferTensorContents(**{field: values}))
    answer = rpc(grpc_door, "ModelInfer", request, pb.ModelInferResponse)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (datatype, [len(values)])
    assert np.frombuffer(answer.raw_output_contents[0], kind).tolist() == values
    root = {"inputs": [{"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}]}
    _, _, raw = ask(http_door, "POST", f"/v2/models/{model}/infer", json.dumps(root).encode())
    assert json.loads(raw)["outputs"][0]["data"] == values


GRPC_BAD: dict[str, tuple[Callable[[pb.ModelInferRequest], Any], Code]] = {
    "raw and typed": (
        lambda request: (request.inputs[0].contents.fp32_contents.extend([1]), request.raw_input_contents.append(bytes(4))),
        Code.WRONG_FIELD_TYPE,
    ),
    "fewer raw than inputs": (lambda request: request.raw_input_contents.extend([bytes(4), bytes(4)]), Code.WRONG_DATA_SIZE),
    "contents of another type": (lambda request: request.inputs[0].contents.int_contents.extend([1]), Code.WRONG_FIELD_TYPE),
    "nothing": (lambda _: None, Code.WRONG_DATA_SIZE),
    "a datatype that is none": (lambda request: setattr(request.inputs[0], "datatype", "FP8"), Code.WRONG_DATATYPE),
}


@pytest.mark.parametrize(("spoil", "code"), GRPC_BAD.values(), ids=GRPC_BAD.keys())
def test_contents_that_contradict_themselves(grpc_door: grpc.Channel, spoil: Callable[[pb.ModelInferRequest], Any], code: Code) -> None:
    """Raw and typed contents together, too few or of the wrong kind are refused with a code of the table."""
    request = pb.ModelInferRequest(model_name="same-fp32")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    spoil(request)
    with pytest.raises(grpc.RpcError) as info:
        rpc(grpc_door, "ModelInfer", request, pb.ModelInferResponse)
    assert dict(info.value.trailing_metadata())["cloister-code"] == code.name.lower().replace("_", "-")


@pytest.mark.parametrize("asked", [True, False])
def test_outputs_are_raw_whatever_is_asked(grpc_door: grpc.Channel, asked: bool) -> None:
    """The JSON extension's choice between binary and text does not exist in gRPC: outputs come as raw contents."""
    request = proto({"inputs": [A, B], "outputs": [{"name": "sum", "parameters": {"binary_data": asked}}]}, "sum", "", [TWO, TWO])
    request.parameters["binary_data_output"].bool_param = asked
    answer = rpc(grpc_door, "ModelInfer", request, pb.ModelInferResponse)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4]


def test_typed_values_keep_their_range(grpc_door: grpc.Channel) -> None:
    """A typed value beyond its datatype is INVALID_VALUE, as in JSON."""
    request = pb.ModelInferRequest(model_name="same-int8")
    request.inputs.add(name="x", datatype="INT8", shape=[1], contents=pb.InferTensorContents(int_contents=[128]))
    with pytest.raises(grpc.RpcError) as info:
        rpc(grpc_door, "ModelInfer", request, pb.ModelInferResponse)
    assert dict(info.value.trailing_metadata())["cloister-code"] == "invalid-value"


def test_both_doors_describe_the_same_models(http_door: http.client.HTTPConnection, grpc_door: grpc.Channel) -> None:
    """Health, metadata and index say the same at both doors."""
    assert ask(http_door, "GET", "/v2/health/live")[0] == ask(http_door, "GET", "/v2/health/ready")[0] == 200
    assert rpc(grpc_door, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert rpc(grpc_door, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert ask(http_door, "GET", "/v2/models/sum/versions/2/ready")[0] == 200
    assert rpc(grpc_door, "ModelReady", pb.ModelReadyRequest(name="sum", version="2"), pb.ModelReadyResponse).ready
    server = json.loads(ask(http_door, "GET", "/v2")[2])
    found = rpc(grpc_door, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (server["name"], server["version"], server["extensions"]) == (found.name, found.version, list(found.extensions))
    model = json.loads(ask(http_door, "GET", "/v2/models/twice")[2])
    same = rpc(grpc_door, "ModelMetadata", pb.ModelMetadataRequest(name="twice"), pb.ModelMetadataResponse)
    assert model["inputs"] == [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in same.inputs]
    assert (model["versions"], model["platform"]) == (list(same.versions), same.platform)
    index = json.loads(ask(http_door, "POST", "/v2/repository/index", b"{}")[2])
    listed = rpc(grpc_door, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True), pb.RepositoryIndexResponse)
    assert [(m["name"], m["version"], m["state"]) for m in index] == [(m.name, m.version, m.state) for m in listed.models]


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_models_are_not_loaded_by_callers(grpc_door: grpc.Channel, name: str) -> None:
    """What the manifest decides cannot be asked for: UNIMPLEMENTED, as are calls that the service does not have."""
    for method, request in ((name, pb.RepositoryModelLoadRequest(model_name="sum")), ("ModelConfig", pb.ServerLiveRequest())):
        with pytest.raises(grpc.RpcError, check=lambda error: error.code() is grpc.StatusCode.UNIMPLEMENTED):
            rpc(grpc_door, method, request, pb.RepositoryModelLoadResponse)


def test_a_stream_answers_in_order_and_outlives_errors(grpc_door: grpc.Channel) -> None:
    """A stream gives one answer per request; a refused request is an answer with an error, and the stream goes on."""
    good = proto({"inputs": [A, B]}, "sum", "", [TWO, TWO])
    bad = proto({"inputs": [A], "id": "7"}, "sum", "", [TWO])
    call = grpc_door.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    found = list(call(iter([good, bad, good]), metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=30))
    assert [bool(answer.error_message) for answer in found] == [False, True, False]
    assert found[1].infer_response.id == "7"
    assert found[2].infer_response.raw_output_contents[0] == np.array([2, 4], np.float32).tobytes()


def test_grpc_wants_the_token(grpc_door: grpc.Channel) -> None:
    """Without the token no call is answered, not even liveness; the refusal has its own code."""
    for name, request in (("ServerLive", pb.ServerLiveRequest()), ("ModelInfer", pb.ModelInferRequest(model_name="sum"))):
        with pytest.raises(grpc.RpcError) as info:
            rpc(grpc_door, name, request, pb.ServerLiveResponse, token="wrong-token-0123456789")
        assert info.value.code() is grpc.StatusCode.UNAUTHENTICATED
    call = grpc_door.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    with pytest.raises(grpc.RpcError, check=lambda error: error.code() is grpc.StatusCode.UNAUTHENTICATED):
        list(call(iter([pb.ModelInferRequest(model_name="sum")]), timeout=30))


def test_large_tensors_pass_both_doors(http_door: http.client.HTTPConnection, grpc_door: grpc.Channel) -> None:
    """64 MiB pass unchanged."""
    data = np.arange(16 << 20, dtype=np.float32).tobytes()
    root = {"inputs": [tensor("x", "FP32", [16 << 20], binary_data_size=len(data))], "parameters": {"binary_data_output": True}}
    body = json.dumps(root).encode()
    status, headers, answer = ask(
        http_door, "POST", "/v2/models/same-fp32/infer", body + data, Inference_Header_Content_Length=str(len(body))
    )
    assert status == 200
    assert answer[int(headers["inference-header-content-length"]) :] == data


def test_the_sdk_is_the_same_door(target: Target) -> None:
    """The SDK's client and the sidecar share tensors: what one sends the other understands."""

    async def run() -> Any:
        def judge(body: bytes, nonce: bytes) -> Any:
            return Appliance(target, Metrics())._judge(body, nonce)

        async with Client(Opening(endpoint=target.endpoint, judge=judge, identity=target.identity, answer_bytes=1 << 20)) as client:
            return await client.infer("twice", {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})

    assert asyncio.run(run()).outputs["total"].tolist() == [3, 3]
