"""Files that `cloister infer` reads and writes."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cloister.command import tensor_files
from cloister.command.output import UsageError
from cloister.tensors import Raw

FP32 = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
TWO = [*FP32, {"name": "z", "datatype": "INT64", "shape": [-1]}]
ROWS = np.array([[1.5, -2.0], [3.0, 4.0]], np.float32)


def read(path: Path, inputs: Any = FP32, *, name: str | None = None, cast: bool = False) -> tensor_files.Arrays:
    return tensor_files.read(path, inputs, name=name, cast=cast)


def same(expected: Any, found: Any) -> None:
    assert isinstance(found, np.ndarray)
    assert (expected.dtype, expected.tolist()) == (found.dtype, found.tolist())


def test_npy_goes_to_the_only_input(tmp_path: Path) -> None:
    """An array without a name is for the model's only input."""
    np.save(tmp_path / "a.npy", ROWS)
    same(ROWS, read(tmp_path / "a.npy")["x"])


def test_npy_needs_a_name(tmp_path: Path) -> None:
    """With several inputs it must be said which one is meant."""
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(UsageError, match="--input"):
        read(tmp_path / "a.npy", TWO)
    same(ROWS, read(tmp_path / "a.npy", TWO, name="x")["x"])


def test_npz_has_names(tmp_path: Path) -> None:
    """An archive's arrays go to the inputs of their names."""
    np.savez(tmp_path / "a.npz", x=ROWS, z=np.array([1, 2]))
    found = read(tmp_path / "a.npz", TWO)
    same(ROWS, found["x"])
    same(np.array([1, 2]), found["z"])


def test_no_silent_conversion(tmp_path: Path) -> None:
    """An array of another datatype is converted only where that was asked for."""
    np.save(tmp_path / "a.npy", ROWS.astype(np.float64))
    with pytest.raises(UsageError, match="--cast"):
        read(tmp_path / "a.npy")
    same(ROWS, read(tmp_path / "a.npy", cast=True)["x"])


def test_no_pickles(tmp_path: Path) -> None:
    """A file that holds Python objects is refused, not executed."""
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("heading", ["", "left,right\n"])
def test_csv(tmp_path: Path, heading: str) -> None:
    """Rows of numbers, with or without a heading, become the input's datatype."""
    (tmp_path / "a.csv").write_text(f"{heading}1.5,-2\n3,4e0\n")
    same(ROWS, read(tmp_path / "a.csv")["x"])


@pytest.mark.parametrize("text", ["", "1,2\n3\n", "1,a\n2,b\n"])
def test_csv_refused(tmp_path: Path, text: str) -> None:
    """No rows, uneven rows and words among numbers are refused."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "value",
    [
        [[1.5, -2], [3, 4]],
        {"x": [[1.5, -2], [3, 4]]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.5, -2, 3, 4]}]},
    ],
)
def test_json(tmp_path: Path, value: Any) -> None:
    """Nested lists, lists by name and a v2 request all become arrays."""
    (tmp_path / "a.json").write_text(json.dumps(value))
    same(ROWS, read(tmp_path / "a.json")["x"])


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        ("BYTES", ["a", "ü"], np.array(["a", "ü"], dtype=object)),
        ("BOOL", [True, 0, "1"], np.array([True, False, True])),
        ("UINT8", [255], np.array([255], np.uint8)),
        ("FP16", ["0.5"], np.array([0.5], np.float16)),
    ],
)
def test_json_datatypes(tmp_path: Path, datatype: str, value: Any, expected: Any) -> None:
    """Text becomes whatever the input is."""
    (tmp_path / "a.json").write_text(json.dumps(value))
    same(expected, read(tmp_path / "a.json", [{"name": "x", "datatype": datatype, "shape": [-1]}])["x"])


def test_bfloat16_rounds_down_to_its_bits(tmp_path: Path) -> None:
    """Numbers for a BF16 input become the upper half of their FP32."""
    np.save(tmp_path / "a.npy", np.array([1.0, -2.0], np.float32))
    found = read(tmp_path / "a.npy", [{"name": "x", "datatype": "BF16", "shape": [-1]}])["x"]
    assert isinstance(found, Raw)
    assert [0x3F80, 0xC000] == found.array.tolist()


@pytest.mark.parametrize("suffix", tensor_files.READERS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: bytes) -> None:
    """Any bytes: arrays, or our error."""
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    try:
        found = read(path)
    except UsageError:
        return
    assert all(isinstance(array, np.ndarray | Raw) for array in found.values())


def _saved(how: Any) -> bytes:
    out = io.BytesIO()
    how(out)
    return out.getvalue()


GOOD = {
    ".npy": [_saved(lambda out: np.save(out, ROWS))],
    ".npz": [_saved(lambda out: np.savez(out, x=ROWS)), _saved(lambda out: np.savez_compressed(out, x=ROWS, y=ROWS))],
}


@pytest.mark.parametrize("suffix", GOOD)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject) -> None:
    """A good file with bytes changed, cut or put in: arrays, or our error."""
    damaged = bytearray(data.draw(st.sampled_from(GOOD[suffix])))
    for _ in range(data.draw(st.integers(1, 4))):
        at, new = data.draw(st.integers(0, len(damaged))), data.draw(st.binary(max_size=4))
        damaged[at : at + data.draw(st.integers(0, 4))] = new
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(damaged)
    with contextlib.suppress(UsageError):
        assert all(isinstance(array, np.ndarray | Raw) for array in read(path).values())


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json", ".csv"])
def test_written_and_read_again(tmp_path: Path, suffix: str) -> None:
    """What is written is what was answered."""
    path = tmp_path / f"a{suffix}"
    tensor_files.write(path, {"x": ROWS})
    same(ROWS, read(path)["x"])


def test_written_without_pickles(tmp_path: Path) -> None:
    """BYTES are written as text."""
    tensor_files.write(tmp_path / "a.npz", {"t": np.array([b"a", "ü".encode()], dtype=object)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert ["a", "ü"] == archive["t"].tolist()


def test_plain_numbers() -> None:
    """What JSON has no number for is written by name."""
    assert ["NaN", "Infinity", "-Infinity", 1.0] == tensor_files.plain(np.array([np.nan, np.inf, -np.inf, 1.0]))
