"""Tensors in files: .npy, .npz, .csv, .json and .wav in, the first four out. Nothing in a file is executed (no pickles)."""

from collections.abc import Mapping, Sequence
import csv
import io
import json
import lzma
import math
from pathlib import Path
import re
import struct
import tokenize
from typing import Any
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from cloister.command import wave_file
from cloister.command.output import UsageError
from cloister.tensors import Raw

Arrays = dict[str, NDArray[Any] | Raw]
READERS = (".npy", ".npz", ".csv", ".json", ".wav")

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip
# What the readers of these formats raise for what is none: numpy's for .npy, zipfile and its decompressors for .npz, csv.
_UNREADABLE = (
    ValueError, TypeError, KeyError, OverflowError, MemoryError, EOFError, OSError, RuntimeError, SyntaxError, csv.Error, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|nan|inf(inity)?)(e[+-]?\d+)?", re.IGNORECASE)


def read(path: Path, inputs: Sequence[Mapping[str, Any]], *, name: str | None, cast: bool) -> Arrays:
    """The arrays in a file, by the names of the model's `inputs` (as its metadata gives them).

    One unnamed array goes to `name`, or to the model's only input. Text has no datatypes: it becomes what the input's is;
    arrays must have it, unless `cast`. Raises: UsageError, OSError.
    """
    if path.suffix not in READERS:
        raise UsageError(f"{path}: one of {', '.join(READERS)} is needed")
    known = {str(entry["name"]): entry for entry in inputs}
    given: dict[str | None, Any] = {None: path} if path.suffix == ".wav" else _load(path)
    if None in given:
        target = name if name is not None else next(iter(known)) if len(known) == 1 else None
        if target is None:
            raise UsageError(f"the model has {len(known)} inputs: {', '.join(known)}; name one with --input, or give a .npz")
        given = {target: wave_file.read(path, known.get(target, {})) if path.suffix == ".wav" else given[None]}
    return {str(key): _fit(value, known.get(str(key)), str(key), cast=cast) for key, value in given.items()}


def _load(path: Path) -> dict[str | None, Any]:
    with path.open("rb") as stream:  # what cannot be opened is the system's error, whatever follows the file's
        try:
            match path.suffix:
                case ".npy":
                    return {None: np.load(stream, allow_pickle=False)}
                case ".npz":
                    with np.load(stream, allow_pickle=False) as archive:
                        return {key: archive[key] for key in archive.files}
                case ".csv":
                    return {None: _rows(stream.read().decode("utf-8-sig"))}
            return _objects(json.loads(stream.read().decode("utf-8")))
        except _UNREADABLE:
            raise UsageError(f"{path} is no {path.suffix} file, or holds Python objects") from None


def _rows(text: str) -> list[list[str]]:
    """The rows of a CSV; a first one that holds a word is a heading. Raises: ValueError."""
    rows = [row for row in csv.reader(io.StringIO(text, newline=None)) if row]
    if len(rows) > 1 and not all(_NUMBER.fullmatch(cell.strip()) for cell in rows[0]):
        rows = rows[1:]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError
    return rows


def _objects(value: Any) -> dict[str | None, Any]:
    """A v2 request, an object of nested lists by name, or one nested list. Raises: ValueError."""
    if isinstance(value, list):
        return {None: value}
    if not isinstance(value, dict):
        raise ValueError
    if isinstance(value.get("inputs"), list):
        found: dict[str | None, Any] = {}
        for entry in value["inputs"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "data" not in entry:
                raise ValueError
            shape = entry.get("shape")
            found[entry["name"]] = entry["data"] if shape is None else _Shaped(entry["data"], tuple(shape))
        return found
    return dict(value)


class _Shaped:
    """The data of a v2 request's input, flat or nested, with its shape."""

    def __init__(self, data: Any, shape: tuple[int, ...]) -> None:
        self.data = data
        self.shape = shape


def _fit(value: Any, entry: Mapping[str, Any] | None, name: str, *, cast: bool) -> NDArray[Any] | Raw:
    """As the input's datatype; an input that the model does not have is the enclave's to refuse."""
    datatype = "" if entry is None else str(entry["datatype"])
    try:
        if not isinstance(value, np.ndarray):
            return _from_text(value, datatype)
        if datatype == "BF16":
            bits = value if value.dtype == np.uint16 else value.astype(np.float32).view(np.uint32).__rshift__(16).astype(np.uint16)
            return Raw(datatype="BF16", array=bits)
        wanted = _DTYPES.get(datatype)
        if wanted is None or value.dtype == wanted or (datatype == "BYTES" and value.dtype.kind in "SU"):
            return value
        if not cast:
            raise UsageError(f"{name} is {value.dtype}, the model takes {datatype}; convert it, or give --cast")
        return value.astype(wanted)
    except (ValueError, TypeError, OverflowError):
        raise UsageError(f"the values for {name} do not fit {datatype or 'any datatype'}") from None


def _from_text(value: Any, datatype: str) -> NDArray[Any] | Raw:
    shape = value.shape if isinstance(value, _Shaped) else None
    plain = value.data if isinstance(value, _Shaped) else value
    if datatype == "BF16":
        bits = np.asarray(plain, dtype=np.float32).view(np.uint32) >> 16
        return Raw(datatype="BF16", array=(bits if shape is None else bits.reshape(shape)).astype(np.uint16))
    wanted = _DTYPES.get(datatype)
    if datatype == "BOOL":
        plain = np.vectorize(lambda cell: cell if isinstance(cell, bool) else bool(int(cell)), otypes=[np.bool_])(np.asarray(plain, object))
    array = np.asarray(plain, dtype=wanted)
    return array if shape is None else array.reshape(shape)


def plain(array: NDArray[Any]) -> Any:
    """Nested lists that JSON can hold: bytes as text, what is no number as its name."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value

    return one(array.tolist())


def write(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write outputs as the suffix says. Raises: UsageError where the format cannot hold them; OSError."""
    arrays = {name: _storable(array) for name, array in outputs.items()}
    match path.suffix:
        case ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's signature has an option among the names
        case ".npy" if len(arrays) == 1:
            np.save(path, next(iter(arrays.values())), allow_pickle=False)
        case ".json":
            path.write_text(json.dumps({name: plain(array) for name, array in outputs.items()}) + "\n", encoding="utf-8")
        case ".csv" if len(arrays) == 1 and next(iter(arrays.values())).ndim in (1, 2):
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(np.atleast_2d(np.asarray(next(iter(arrays.values())).T)).T.tolist())
        case _:
            raise UsageError(f"{path}: give .npz or .json for these outputs (.npy and .csv hold one), or choose with --output")


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """BYTES as fixed-width text: numpy stores objects only as pickles, which nobody should load."""
    return np.asarray(plain(array), dtype=np.str_) if array.dtype == object else array
