"""Arrays of the SDK and the protocol's JSON with binary tensors: bit for bit, and nothing else is taken."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from cloister import tensors
from cloister.tensors import MalformedTensorsError, Raw
from wire.tensor import ITEM_BYTES, MalformedTensorError, elements, fits, join_bytes, split_bytes

ARRAYS = [
    ("BOOL", np.array([True, False])),
    ("UINT8", np.array([255], np.uint8)),
    ("UINT16", np.array([[1, 2]], np.uint16)),
    ("UINT32", np.array([2**32 - 1], np.uint32)),
    ("UINT64", np.array([2**64 - 1], np.uint64)),
    ("INT8", np.array([-128], np.int8)),
    ("INT16", np.array([-2], np.int16)),
    ("INT32", np.array([-3], np.int32)),
    ("INT64", np.array(7, np.int64)),
    ("FP16", np.array([1.5, np.nan], np.float16)),
    ("FP32", np.zeros((0, 3), np.float32)),
    ("FP64", np.array([np.inf], np.float64)),
]


def answer(given_outputs: list[Any], data: bytes, **changes: Any) -> tensors.DecodedAnswer:
    root = {"model_name": "m", "model_version": "1", "outputs": given_outputs} | changes
    return tensors.decode_answer(json.dumps(root).encode(), data)


def output(size: int, **changes: Any) -> dict[str, Any]:
    return {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}} | changes


@pytest.mark.parametrize(("datatype", "array"), ARRAYS, ids=[name for name, _ in ARRAYS])
def test_arrays_come_back_bit_for_bit(datatype: str, array: np.ndarray) -> None:
    """Every datatype that numpy has keeps its bits, its shape and its type."""
    found, shape, data = tensors.encode_array(array)
    assert (found, shape) == (datatype, array.shape)
    back = tensors.decode_array(found, shape, data)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_contiguous_array_is_not_copied() -> None:
    """The bytes of an array are a view of it; those of a transposed or big-endian one are row-major and little endian."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(np.frombuffer(tensors.encode_array(array)[2], np.uint8), array)
    assert bytes(tensors.encode_array(array.T)[2]) == array.T.copy().tobytes()
    assert bytes(tensors.encode_array(array.astype(">f4"))[2]) == array.tobytes()


def test_texts_are_bytes_elements() -> None:
    """str, bytes and objects of them are BYTES; they come back as bytes."""
    for array in (np.array(["é", ""]), np.array(["é".encode(), b""]), np.array(["é", b""], dtype=object)):
        datatype, shape, data = tensors.encode_array(array)
        assert (datatype, bytes(data)) == ("BYTES", b"\2\0\0\0\xc3\xa9\0\0\0\0")
        assert tensors.decode_array(datatype, shape, data).tolist() == ["é".encode(), b""]


def test_bf16_is_bits_or_ml_dtypes() -> None:
    """BF16 goes out as uint16 with its datatype said aloud, and as ml_dtypes' type where the application uses it."""
    bits = np.array([0x3F80, 0xC000], np.uint16)
    assert tensors.encode_array(Raw(datatype="BF16", array=bits))[0::2] == ("BF16", bits.tobytes())
    assert tensors.encode_array(Raw(datatype="UINT8", array=np.array([7], np.uint8)))[0] == "UINT8"
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes absent")
    array = bits.view(ml_dtypes.bfloat16)
    datatype, shape, data = tensors.encode_array(array)
    assert (datatype, bytes(data)) == ("BF16", bits.tobytes())
    assert tensors.decode_array(datatype, shape, data).astype(np.float32).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1 + 2j]),
        np.array(["2026-01-01"], "datetime64[D]"),
        np.array([None], dtype=object),
        np.array([3], dtype=object),
        Raw(datatype="BF16", array=np.zeros(1, np.float32)),
        Raw(datatype="FP8", array=np.zeros(1, np.uint8)),
        Raw(datatype="INT32", array=np.zeros(1, np.int64)),
    ],
    ids=["complex", "dates", "none", "number object", "BF16 of four bytes", "unknown", "INT32 of eight bytes"],
)
def test_what_the_protocol_has_no_datatype_for(array: Any) -> None:
    """Misuse is a ValueError before anything is sent."""
    with pytest.raises(ValueError, match=r"datatype|BYTES"):
        tensors.encode_array(array)


def test_a_request_asks_for_binary_outputs() -> None:
    """A request names each input with its size, all or the named outputs are asked for in binary."""
    raw, parts = tensors.encode_request({"x": np.zeros((2, 2), np.float32), "t": np.array(["a"])}, outputs=["y"], id="7")
    assert json.loads(raw) == {
        "id": "7",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
            {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ],
        "outputs": [{"name": "y"}],
        "parameters": {"binary_data_output": True},
    }
    assert [bytes(part) for part in parts] == [bytes(16), b"\1\0\0\0a"]


def test_an_answer_is_arrays_over_the_message() -> None:
    """Outputs come in order and are views of the message."""
    data = bytearray(np.array([1, 2], np.float32).tobytes())
    root = {"model_name": "m", "model_version": "1", "id": "7", "outputs": [output(4), output(4, name="z")]}
    found = tensors.decode_answer(json.dumps(root).encode() + b"  ", memoryview(data))
    assert (list(found.outputs), found.model, found.version, found.id) == (["y", "z"], "m", "1", "7")
    assert np.shares_memory(found.outputs["z"], np.frombuffer(data, np.uint8))


MALFORMED: dict[str, tuple[list[Any], bytes, dict[str, Any]]] = {
    "no outputs": ([], b"", {"outputs": 3}),
    "output no object": ([3], b"", {}),
    "not in binary": ([{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}], b"", {}),
    "size no integer": ([output(True)], bytes(4), {}),
    "size negative": ([output(-4)], bytes(4), {}),
    "size beyond": ([output(8, shape=[2])], bytes(4), {}),
    "size of another shape": ([output(4, shape=[2])], bytes(4), {}),
    "bytes left over": ([output(4)], bytes(5), {}),
    "twice": ([output(4), output(4)], bytes(8), {}),
    "no name": ([output(4, name=3)], bytes(4), {}),
    "no such datatype": ([output(4, datatype="FP8")], bytes(4), {}),
    "no shape": ([output(4, shape=None)], bytes(4), {}),
    "a negative size": ([output(4, shape=[-1])], bytes(4), {}),
    "a boolean size": ([output(4, shape=[True])], bytes(4), {}),
    "a huge shape": ([output(0, shape=[0, 2**62])], b"", {}),
    "too many dimensions": ([output(4, shape=[1] * 17)], bytes(4), {}),
    "a third truth": ([output(1, datatype="BOOL")], b"\2", {}),
    "texts cut": ([output(4, datatype="BYTES")], b"\1\0\0\0", {}),
    "no model": ([output(4)], bytes(4), {"model_name": None}),
    "no version": ([output(4)], bytes(4), {"model_version": 1}),
    "too many": ([output(0, shape=[0], name=str(n)) for n in range(257)], b"", {}),
    "a size that goes back": ([output(4), output(-4, shape=[0], name="z"), output(4, name="w")], bytes(4), {}),
}


@pytest.mark.parametrize(("outputs", "data", "changes"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_answer_is_refused(outputs: list[Any], data: bytes, changes: dict[str, Any]) -> None:
    """An answer that is not of the protocol is MalformedTensorsError."""
    with pytest.raises(MalformedTensorsError):
        answer(outputs, data, **changes)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_any_bytes_are_an_answer_or_our_error(raw: bytes, data: bytes) -> None:
    """Any bytes: an answer, or MalformedTensorsError."""
    for candidate in (raw, b'{"model_name":"m","model_version":"1","outputs":[' + raw + b"]}"):
        try:
            tensors.decode_answer(candidate, data)
        except MalformedTensorsError:
            continue


SUPPORTED = st.sampled_from([array.dtype for _, array in ARRAYS])


@given(hnp.arrays(SUPPORTED, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_any_array_comes_back(array: np.ndarray) -> None:
    """Any array of a supported type, of any small shape, comes back bit for bit."""
    back = tensors.decode_array(*tensors.encode_array(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_joined_elements_split_again(values: list[bytes]) -> None:
    """BYTES elements survive, and no other count of them is found in the same bytes."""
    data = join_bytes(values)
    assert split_bytes(data, len(values)) == values
    for count in {len(values) + 1, max(0, len(values) - 1)} - {len(values)}:
        with pytest.raises(MalformedTensorError):
            split_bytes(data, count)


@given(st.binary(max_size=40), st.integers(0, 12))
def test_any_bytes_are_elements_or_our_error(data: bytes, count: int) -> None:
    """Any bytes: `count` elements that join to the same bytes, or MalformedTensorError."""
    try:
        found = split_bytes(data, count)
    except MalformedTensorError:
        return
    assert (len(found), join_bytes(found)) == (count, data)


def test_a_bomb_of_elements_is_refused_before_the_loop() -> None:
    """A count that the data cannot hold is refused without counting to it."""
    with pytest.raises(MalformedTensorError):
        split_bytes(b"", 1 << 60)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((), 1), ((0, 5), 0), ((2, 3), 6), ((1 << 31,), 1 << 31), ((1 << 31, 2), None), ((0, 1 << 62), None), ((-1,), None), ((-2, -3), None)],
)
def test_elements_are_counted_in_range(shape: tuple[int, ...], count: int | None) -> None:
    """A shape has a number of elements, or is out of every library's range."""
    assert elements(shape) == count


def test_shapes_fit_signatures() -> None:
    """Rank and fixed dimensions must be the signature's."""
    assert fits((1, 3), (-1, 3))
    assert fits((), ())
    assert not fits((1, 4), (-1, 3))
    assert not fits((3,), (-1, 3))
    assert set(ITEM_BYTES) == set(dict(ARRAYS)) | {"BF16", "BYTES"}
