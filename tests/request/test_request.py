"""Requests: everything that fits the signature is taken, everything else is refused with its code and field."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from enclave import request
from enclave.errors import RequestError
from enclave.tensor import TensorView
from tests.model.graphs import model, tensor
from wire.errors import TABLE, Code
from wire.manifest import Pipeline, Step

XY = model((tensor("x", "FP32", (-1, 3)), tensor("flag", "BOOL", (1,))), (tensor("y", "FP32", (-1,)), tensor("z", "INT64", (2,))), name="m")


def x(**changes: Any) -> dict[str, Any]:
    made = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | changes
    return {key: value for key, value in made.items() if value is not ...}


def flag(**changes: Any) -> dict[str, Any]:
    made = {"name": "flag", "shape": [1], "datatype": "BOOL", "data": [True]} | changes
    return {key: value for key, value in made.items() if value is not ...}


def parse(root: object, tensors: bytes = b"", model: Any = XY) -> request.InferRequest:
    return request.parse_infer(json.dumps(root).encode(), tensors, model)


def refusal(root: object, tensors: bytes = b"") -> tuple[Code, str]:
    with pytest.raises(RequestError) as info:
        parse(root, tensors)
    return info.value.code, info.value.field


def test_json_data_fits() -> None:
    """JSON arrays become the tensors' bytes, in the signature's order whatever the request's."""
    found = parse({"id": "7", "inputs": [flag(), x(data=[[1, 2.5, -3]])]})
    assert [(t.name, t.shape, bytes(t.data), t.path) for t in found.inputs] == [
        ("x", (1, 3), np.array([1, 2.5, -3], "<f4").tobytes(), "inputs[1]"),
        ("flag", (1,), b"\x01", "inputs[0]"),
    ]
    assert (found.id, [(w.at, w.binary) for w in found.outputs]) == ("7", [(0, False), (1, False)])


def test_binary_data_is_not_copied() -> None:
    """Binary tensors are views of the message, in the request's order, mixed with JSON ones."""
    area = memoryview(bytes(range(12)))
    root = {"inputs": [flag(), x(data=..., parameters={"binary_data_size": 12})]}
    found = request.parse_infer(memoryview(json.dumps(root).encode() + b"   "), area, XY)
    assert isinstance(found.inputs[0].data, memoryview)
    assert found.inputs[0].data.obj is area.obj


def test_outputs_are_selected() -> None:
    """Outputs come in the caller's order, each as it asks: its own parameter goes before the request's."""
    outputs = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": False}}]
    found = parse({"inputs": [x(), flag()], "outputs": outputs, "parameters": {"binary_data_output": True}})
    assert [(w.at, w.binary) for w in found.outputs] == [(1, True), (0, False)]
    assert [(w.at, w.binary) for w in parse({"inputs": [x(), flag()], "outputs": []}).outputs] == [(0, False), (1, False)]


BINARY = "outputs[0].parameters.binary_data"
SHARED = "inputs[0].parameters.shared_memory_region"
CLASSIFICATION = "outputs[0].parameters.classification"
SIZE = "inputs[0].parameters.binary_data_size"


def sized(size: object) -> dict[str, Any]:
    return x(data=..., parameters={"binary_data_size": size})


def asking(*outputs: object) -> dict[str, Any]:
    return {"inputs": [x(), flag()], "outputs": list(outputs)}


REFUSED: list[tuple[str, object, bytes, Code, str]] = [
    ("unknown key", {"inputs": [], "surprise": 1}, b"", Code.UNSUPPORTED_PARAMETER, "request"),
    ("inputs missing", {"id": "a"}, b"", Code.MISSING_FIELD, "inputs"),
    ("inputs no list", {"inputs": {}}, b"", Code.WRONG_FIELD_TYPE, "inputs"),
    ("too many inputs", {"inputs": [{}] * 257}, b"", Code.WRONG_FIELD_TYPE, "inputs"),
    ("outputs no list", {"inputs": [x(), flag()], "outputs": {}}, b"", Code.WRONG_FIELD_TYPE, "outputs"),
    ("id no text", {"id": 7, "inputs": []}, b"", Code.WRONG_FIELD_TYPE, "id"),
    ("id too long", {"id": "a" * 257, "inputs": []}, b"", Code.WRONG_FIELD_TYPE, "id"),
    ("id unprintable", {"id": "\n", "inputs": []}, b"", Code.WRONG_FIELD_TYPE, "id"),
    ("parameters no object", {"inputs": [], "parameters": []}, b"", Code.WRONG_FIELD_TYPE, "parameters"),
    ("sequence", {"inputs": [], "parameters": {"sequence_id": 1}}, b"", Code.UNSUPPORTED_PARAMETER, "parameters.sequence_id"),
    ("unknown parameter", {"inputs": [], "parameters": {"secret": 1}}, b"", Code.UNSUPPORTED_PARAMETER, "parameters"),
    ("no boolean", {"inputs": [], "parameters": {"binary_data_output": 1}}, b"", Code.WRONG_FIELD_TYPE, "parameters.binary_data_output"),
    ("input no object", {"inputs": [3]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0]"),
    ("input unknown key", {"inputs": [x(extra=1)]}, b"", Code.UNSUPPORTED_PARAMETER, "inputs[0]"),
    ("name missing", {"inputs": [x(name=...)]}, b"", Code.MISSING_FIELD, "inputs[0].name"),
    ("name no text", {"inputs": [x(name=1)]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].name"),
    ("unexpected input", {"inputs": [flag(), x(name="q")]}, b"", Code.UNEXPECTED_INPUT, "inputs[1].name"),
    ("twice", {"inputs": [x(), x()]}, b"", Code.DUPLICATE_INPUT, "inputs[1].name"),
    ("missing input", {"inputs": [x()]}, b"", Code.MISSING_INPUT, "inputs[flag]"),
    ("no inputs", {"inputs": []}, b"", Code.MISSING_INPUT, "inputs[x]"),
    ("datatype missing", {"inputs": [x(datatype=...)]}, b"", Code.MISSING_FIELD, "inputs[0].datatype"),
    ("wrong datatype", {"inputs": [x(datatype="FP64")]}, b"", Code.WRONG_DATATYPE, "inputs[0].datatype"),
    ("datatype no text", {"inputs": [x(datatype=None)]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].datatype"),
    ("shape missing", {"inputs": [x(shape=...)]}, b"", Code.MISSING_FIELD, "inputs[0].shape"),
    ("shape no list", {"inputs": [x(shape=3)]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].shape"),
    ("shape negative", {"inputs": [x(shape=[-1, 3])]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].shape"),
    ("shape boolean", {"inputs": [x(shape=[True, 3])]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].shape"),
    ("shape of floats", {"inputs": [x(shape=[1.0, 3])]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].shape"),
    ("shape too long", {"inputs": [x(shape=[1] * 17)]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].shape"),
    ("wrong rank", {"inputs": [x(shape=[3])]}, b"", Code.WRONG_RANK, "inputs[0].shape"),
    ("wrong shape", {"inputs": [x(shape=[1, 4])]}, b"", Code.WRONG_SHAPE, "inputs[0].shape"),
    ("huge shape", {"inputs": [x(shape=[2**40, 3])]}, b"", Code.WRONG_SHAPE, "inputs[0].shape"),
    ("product too large", {"inputs": [x(shape=[2**31, 3])]}, b"", Code.WRONG_SHAPE, "inputs[0].shape"),
    ("no data", {"inputs": [x(data=...)]}, b"", Code.MISSING_FIELD, "inputs[0].data"),
    ("data no list", {"inputs": [x(data="1")]}, b"", Code.WRONG_FIELD_TYPE, "inputs[0].data"),
    ("too little data", {"inputs": [x(data=[1, 2])]}, b"", Code.WRONG_DATA_SIZE, "inputs[0].data"),
    ("too much data", {"inputs": [x(data=[1, 2, 3, 4])]}, b"", Code.WRONG_DATA_SIZE, "inputs[0].data"),
    ("nested otherwise", {"inputs": [x(data=[[1], [2], [3]])]}, b"", Code.WRONG_DATA_SIZE, "inputs[0].data"),
    ("partly nested", {"inputs": [x(data=[1, [2], 3])]}, b"", Code.WRONG_DATA_SIZE, "inputs[0].data"),
    ("nested too deep", {"inputs": [x(data=[[[1], [2], [3]]])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("text for a number", {"inputs": [x(data=[1, 2, "3"])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("boolean for a number", {"inputs": [x(data=[1, 2, True])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("null for a number", {"inputs": [x(data=[1, 2, None])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("number beyond FP32", {"inputs": [x(data=[1, 2, 1e39])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("integer beyond FP64", {"inputs": [x(data=[1, 2, 10**400])]}, b"", Code.INVALID_VALUE, "inputs[0].data"),
    ("number for a boolean", {"inputs": [x(), flag(data=[1])]}, b"", Code.INVALID_VALUE, "inputs[1].data"),
    ("both data", {"inputs": [x(parameters={"binary_data_size": 12})]}, bytes(12), Code.WRONG_FIELD_TYPE, "inputs[0].data"),
    ("size no integer", {"inputs": [sized("12")]}, bytes(12), Code.WRONG_FIELD_TYPE, SIZE),
    ("size boolean", {"inputs": [sized(True)]}, bytes(12), Code.WRONG_FIELD_TYPE, SIZE),
    ("size negative", {"inputs": [sized(-1)]}, bytes(12), Code.WRONG_DATA_SIZE, SIZE),
    ("size beyond", {"inputs": [sized(12)]}, bytes(11), Code.WRONG_DATA_SIZE, SIZE),
    ("size of another shape", {"inputs": [sized(8)]}, bytes(12), Code.WRONG_DATA_SIZE, SIZE),
    ("bytes left over", {"inputs": [x(), flag()]}, b"\0", Code.WRONG_DATA_SIZE, "inputs"),
    ("shared memory", {"inputs": [x(parameters={"shared_memory_region": "r"})]}, b"", Code.UNSUPPORTED_PARAMETER, SHARED),
    ("output no object", asking("y"), b"", Code.WRONG_FIELD_TYPE, "outputs[0]"),
    ("output unknown key", asking({"name": "y", "a": 1}), b"", Code.UNSUPPORTED_PARAMETER, "outputs[0]"),
    ("unknown output", asking({"name": "q"}), b"", Code.UNKNOWN_OUTPUT, "outputs[0].name"),
    ("output twice", asking({"name": "y"}, {"name": "y"}), b"", Code.WRONG_FIELD_TYPE, "outputs[1].name"),
    ("classification", asking({"name": "y", "parameters": {"classification": 2}}), b"", Code.UNSUPPORTED_PARAMETER, CLASSIFICATION),
    ("no boolean", asking({"name": "y", "parameters": {"binary_data": 1}}), b"", Code.WRONG_FIELD_TYPE, BINARY),
]  # fmt: skip


@pytest.mark.parametrize(("root", "tensors", "code", "field"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_does_not_fit_is_refused_by_field(root: object, tensors: bytes, code: Code, field: str) -> None:
    """Each defect of a request has one code and names its field; the table says that the code names one."""
    assert refusal(root, tensors) == (code, field)
    assert TABLE[code].field


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [{"name": "x", "name": "x"}]}',
        b'{"inputs": NaN}',
        b'{"inputs": -Infinity}',
        b"\xff",
        b'{"inputs": []} x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)
def test_malformed_json_is_refused(raw: bytes) -> None:
    """What is not one JSON object without duplicate keys and constants is MALFORMED_JSON, however deep."""
    with pytest.raises(RequestError) as info:
        request.parse_infer(raw, b"", XY)
    assert info.value.code is Code.MALFORMED_JSON


def test_long_json_is_refused_before_it_is_parsed() -> None:
    """JSON beyond its limit is REQUEST_TOO_LARGE."""
    padding = request.JSON_MAX - len(json.dumps({"inputs": [x(), flag()]}))
    raw = json.dumps({"inputs": [x(), flag()]}).encode() + b" " * padding
    request.parse_infer(raw, b"", XY)
    with pytest.raises(RequestError) as info:
        request.parse_infer(raw + b" ", b"", XY)
    assert info.value.code is Code.REQUEST_TOO_LARGE


INTEGERS = [(f"{sign}INT{bits}", bits, sign) for bits in (8, 16, 32, 64) for sign in ("", "U")]


@pytest.mark.parametrize(("datatype", "bits", "sign"), INTEGERS)
def test_integers_keep_their_range(datatype: str, bits: int, sign: str) -> None:
    """The ends of each integer's range pass, one beyond is INVALID_VALUE, and so are floats."""
    low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    one = model((tensor("x", datatype),), (tensor("y", datatype),))

    def send(values: list[Any]) -> bytes:
        found = parse({"inputs": [{"name": "x", "shape": [len(values)], "datatype": datatype, "data": values}]}, model=one)
        return bytes(found.inputs[0].data)

    assert send([low, high]) == low.to_bytes(bits // 8, "little", signed=not sign) + high.to_bytes(bits // 8, "little", signed=not sign)
    for beyond in (low - 1, high + 1, 1.0, True, "1"):
        with pytest.raises(RequestError, check=lambda error: error.code is Code.INVALID_VALUE):
            send([beyond])


@pytest.mark.parametrize(
    ("datatype", "value", "bits"),
    [
        ("FP16", 1.5, "003e"),
        ("FP16", 65504, "ff7b"),
        ("FP16", 65520, None),
        ("BF16", 1.0, "803f"),
        ("BF16", 1.00390625, "803f"),  # a tie, to even
        ("BF16", 1.01171875, "823f"),  # a tie, to even, upwards
        ("BF16", 3.3895313892515355e38, "7f7f"),
        ("BF16", 3.4028234663852886e38, None),
        ("BF16", 1e39, None),
        ("FP32", 3.4028234663852886e38, "ffff7f7f"),
        ("FP64", -0.0, "0000000000000080"),
    ],
)
def test_floats_round_to_nearest_or_are_refused(datatype: str, value: float, bits: str | None) -> None:
    """A JSON number becomes the nearest value; one beyond the datatype's range is INVALID_VALUE, never infinity."""
    one = model((tensor("x", datatype),), (tensor("y", datatype),))
    root = {"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [value]}]}
    if bits is None:
        with pytest.raises(RequestError, check=lambda error: error.code is Code.INVALID_VALUE):
            parse(root, model=one)
    else:
        assert bytes(parse(root, model=one).inputs[0].data).hex() == bits


def test_overlong_number_is_refused() -> None:
    """1e999 is JSON but no value."""
    raw = json.dumps({"inputs": [x(), flag()]}).replace("[1, 2, 3]", "[1, 2, 1e999]").encode()
    with pytest.raises(RequestError, check=lambda error: error.code is Code.INVALID_VALUE):
        request.parse_infer(raw, b"", XY)


def test_texts_are_bytes_elements() -> None:
    """JSON texts become UTF-8 elements; a lone surrogate is no text."""
    one = model((tensor("x", "BYTES"),), (tensor("y", "BYTES"),))
    root = {"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["é", ""]}]}
    assert bytes(parse(root, model=one).inputs[0].data) == b"\x02\0\0\0\xc3\xa9\0\0\0\0"
    for wrong in (["\ud800", ""], [1, ""], [None, ""]):
        root["inputs"][0]["data"] = wrong
        with pytest.raises(RequestError, check=lambda error: error.code is Code.INVALID_VALUE):
            parse(root, model=one)


def test_empty_tensors_pass() -> None:
    """A free dimension may be zero, in JSON and in binary."""
    assert bytes(parse({"inputs": [x(shape=[0, 3], data=[]), flag()]}).inputs[0].data) == b""
    root = {"inputs": [x(shape=[0, 3], data=..., parameters={"binary_data_size": 0}), flag()]}
    assert bytes(parse(root).inputs[0].data) == b""


def answer(datatype: str, data: bytes, count: int, *, binary: bool) -> tuple[dict[str, Any], list[Any]]:
    one = model((tensor("x", datatype),), (tensor("y", datatype),), name="net", version="4")
    asked = request.InferRequest(id="7", inputs=(), outputs=(request.Wanted(at=0, binary=binary),))
    raw, buffers = request.render_infer(one, asked, [TensorView(name="y", datatype=datatype, shape=(count,), data=data)])
    return json.loads(raw), buffers


def test_binary_answer_carries_the_same_buffer() -> None:
    """A binary output is announced with its size and not copied."""
    data = bytes(8)
    found, buffers = answer("FP32", data, 2, binary=True)
    assert found == {
        "model_name": "net",
        "model_version": "4",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}],
    }
    assert buffers[0] is data


@pytest.mark.parametrize(
    ("datatype", "data", "values"),
    [
        ("BOOL", b"\0\1", [False, True]),
        ("INT8", b"\xff\1", [-1, 1]),
        ("UINT64", b"\xff" * 8 + bytes(8), [2**64 - 1, 0]),
        ("FP16", b"\0\x3e\0\0", [1.5, 0.0]),
        ("BF16", b"\x80\x3f\0\xc0", [1.0, -2.0]),
        ("FP32", np.array([0.5, -1], "<f4").tobytes(), [0.5, -1.0]),
        ("FP64", np.array([0.1, 3], "<f8").tobytes(), [0.1, 3.0]),
        ("BYTES", b"\2\0\0\0\xc3\xa9\0\0\0\0", ["é", ""]),
    ],
)
def test_json_answer_has_the_values(datatype: str, data: bytes, values: list[Any]) -> None:
    """An output in JSON has the exact values."""
    found, buffers = answer(datatype, data, 2, binary=False)
    assert (found["outputs"][0]["data"], buffers) == (values, [])


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", np.array([math.nan], "<f4").tobytes()),
        ("BF16", b"\x80\x7f"),
        ("FP16", b"\0\x7c"),
        ("BYTES", b"\1\0\0\0\xff"),
        ("BYTES", b"\2\0\0\0a"),
    ],
)
def test_what_json_cannot_say_is_refused(datatype: str, data: bytes) -> None:
    """NaN, infinity and bytes that are no text are refused in JSON, naming the output; in binary they pass."""
    with pytest.raises(RequestError) as info:
        answer(datatype, data, 1, binary=False)
    assert (info.value.code, info.value.field) == (Code.INVALID_VALUE, "outputs[0].data")
    assert answer(datatype, data, 1, binary=True)[1] == [data]


def test_long_answers_are_not_made_of_json() -> None:
    """An output of more elements than JSON may carry must be asked for in binary."""
    count = (1 << 18) + 1
    with pytest.raises(RequestError, check=lambda error: error.code is Code.ANSWER_TOO_LARGE):
        answer("INT8", bytes(count), count, binary=False)
    long = (3 << 20).to_bytes(4, "little") + b"a" * (3 << 20)
    with pytest.raises(RequestError, check=lambda error: error.code is Code.ANSWER_TOO_LARGE):
        answer("BYTES", long, 1, binary=False)


def test_metadata_is_the_manifests() -> None:
    """Metadata gives names, datatypes and shapes of the manifest; a pipeline looks like a model."""
    assert json.loads(request.render_metadata(XY, ["1", "2"])) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}, {"name": "flag", "datatype": "BOOL", "shape": [1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}, {"name": "z", "datatype": "INT64", "shape": [2]}],
    }
    step = Step(model="m", version="1", inputs=(("x", "x"),), outputs=(("y", "y"),))
    chained = Pipeline(id="p", version="1", steps=(step,), inputs=XY.inputs, outputs=XY.outputs)
    assert json.loads(request.render_metadata(chained, ["1"]))["platform"] == "ensemble"
    assert json.loads(request.render_server_metadata())["extensions"] == ["binary_tensor_data"]
    assert json.loads(request.render_index([XY], lambda _: False)) == [
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "loading"}
    ]


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_bytes_give_a_request_or_our_error(raw: bytes, tensors: bytes) -> None:
    """Any bytes: a request, or a RequestError of the table."""
    try:
        request.parse_infer(raw, tensors, XY)
    except RequestError as error:
        assert error.code in TABLE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["x", "flag", "FP32", "BOOL", "y"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "id"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(JSON, st.binary(max_size=16))
def test_any_json_gives_a_request_or_our_error(root: Any, tensors: bytes) -> None:
    """Any JSON value: a request whose tensors have exactly their shapes' sizes, or a RequestError."""
    try:
        found = request.parse_infer(json.dumps(root).encode(), tensors, XY)
    except RequestError as error:
        assert error.code in TABLE
    else:
        assert [len(t.data) for t in found.inputs] == [4 * math.prod(found.inputs[0].shape), 1]
