"""One ONNX Runtime session: built from bytes, compared with the manifest's signature, run on tensors as bytes.

Used inside a worker process (isolation `process`) and in the enclave itself (`inline`). The content of inputs is judged
here, beside the compute: UTF-8 and lengths of BYTES, BOOL as 0 or 1, NaN and infinity where the manifest refuses them.
"""

from collections.abc import Mapping, Sequence
import ctypes
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enclave.errors import ModelError, RunError
from enclave.tensor import Signature
from wire.errors import BootFailure, Code
from wire.manifest_values import Tensor
from wire.tensor import MalformedTensorError, fits, join_bytes, split_bytes

# Since 1.29 the wheels hold a telemetry client that starts threads, keeps a file and asks for a host of its vendor as soon
# as they are imported. It is switched off by this variable alone, which must stand before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

# Prepacking makes a second copy of the weights in the layout that the kernels like, one in each process; beyond this it is
# not worth its memory.
PREPACK_MAX = 1 << 30
_BF16 = 16  # onnx.TensorProto.BFLOAT16
_LOG_NOTHING = 4

# v2 datatype: (ONNX Runtime's name, numpy's)
_TYPES = {
    "BOOL": ("bool", "u1"),
    "UINT8": ("uint8", "u1"),
    "UINT16": ("uint16", "<u2"),
    "UINT32": ("uint32", "<u4"),
    "UINT64": ("uint64", "<u8"),
    "INT8": ("int8", "i1"),
    "INT16": ("int16", "<i2"),
    "INT32": ("int32", "<i4"),
    "INT64": ("int64", "<i8"),
    "FP16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "FP32": ("float", "<f4"),
    "FP64": ("double", "<f8"),
    "BYTES": ("string", "O"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output: its shape and its bytes in row-major order, little endian."""

    shape: tuple[int, ...]
    data: bytes | memoryview


def _options(threads: int, weights: Path | None, *, prepack: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_NOTHING
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
        if not prepack or weights.stat().st_size > PREPACK_MAX:
            options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _matches(found: Any, wanted: Tensor) -> bool:
    if found.type != f"tensor({_TYPES[wanted.datatype][0]})" or len(found.shape) != len(wanted.shape):
        return False
    # A free dimension of the model may be fixed by the manifest, never the other way round.
    return all(not isinstance(size, int) or size == want for size, want in zip(found.shape, wanted.shape, strict=True))


class Engine:
    """A loaded model; without `prepack` its weights are the pages of their file, which every process shares. Raises: ModelError."""

    def __init__(
        self,
        signature: Signature,
        graph: bytes | memoryview,
        *,
        weights: Path | None = None,
        threads: int = 1,
        prepack: bool = False,
    ) -> None:
        self._signature = signature
        try:
            self._session = ort.InferenceSession(
                bytes(graph), _options(threads, weights, prepack=prepack), providers=["CPUExecutionProvider"]
            )
        except Exception:  # noqa: BLE001  # ONNX Runtime's errors have no other common base; their text stays here (T25)
            raise ModelError(BootFailure.MODEL_LOAD) from None
        inputs = {found.name: found for found in self._session.get_inputs()}
        outputs = {found.name: found for found in self._session.get_outputs()}
        if inputs.keys() != {tensor.name for tensor in signature.inputs}:
            raise ModelError(BootFailure.MODEL_SIGNATURE)
        for known, tensors in ((inputs, signature.inputs), (outputs, signature.outputs)):
            if not all(tensor.name in known and _matches(known[tensor.name], tensor) for tensor in tensors):
                raise ModelError(BootFailure.MODEL_SIGNATURE)
        self._values = any(tensor.datatype == "BF16" for tensor in signature.outputs)
        if self._values and any(tensor.datatype == "BYTES" for tensor in signature.inputs):
            raise ModelError(BootFailure.MODEL_REFUSED)  # OrtValues, which BF16 needs, take no strings

    def run(self, inputs: Sequence[tuple[tuple[int, ...], memoryview]], wanted: Sequence[int]) -> list[Output]:
        """Run once on (shape, data) in the signature's order; the wanted outputs by their place. Raises: RunError.

        Shapes and lengths are taken as fitting each other and the signature; content is judged here.
        """
        feed = {tensor.name: self._feed(at, tensor, *inputs[at]) for at, tensor in enumerate(self._signature.inputs)}
        tensors = [self._signature.outputs[at] for at in wanted]
        try:
            found = self._compute([tensor.name for tensor in tensors], feed)
            outputs = [_output(tensor, value) for tensor, value in zip(tensors, found, strict=True)]
        except MemoryError:
            raise RunError(Code.OUT_OF_MEMORY) from None
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            raise RunError(Code.OUT_OF_MEMORY if _is_allocation(str(error)) else Code.MODEL_FAILED) from None
        return outputs

    def _compute(self, names: list[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        if not self._values:
            return list(self._session.run(names, dict(feed)))
        values = {
            name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value) for name, value in feed.items()
        }
        return list(self._session.run_with_ort_values(names, values))

    def _feed(self, at: int, tensor: Tensor, shape: tuple[int, ...], data: memoryview) -> Any:
        if tensor.datatype == "BYTES":
            return _strings(at, shape, data)
        array: npt.NDArray[Any] = np.frombuffer(data, dtype=_TYPES[tensor.datatype][1]).reshape(shape)
        if tensor.datatype == "BOOL":
            if array.size and int(array.max()) > 1:
                raise RunError(Code.INVALID_VALUE, at)
            return array.view(np.bool_)
        if self._signature.reject_non_finite and not _finite(tensor.datatype, array):
            raise RunError(Code.NON_FINITE_INPUT, at)
        if tensor.datatype == "BF16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BF16)
        return array


def _is_allocation(text: str) -> bool:
    return any(word in text for word in ("bad_alloc", "bad allocation", "Failed to allocate memory"))


def _finite(datatype: str, array: npt.NDArray[Any]) -> bool:
    if datatype == "BF16":
        return not bool(np.any((array & 0x7F80) == 0x7F80))
    return not datatype.startswith("FP") or bool(np.isfinite(array).all())


def _strings(at: int, shape: tuple[int, ...], data: memoryview) -> npt.NDArray[np.object_]:
    count = 1
    for size in shape:
        count *= size
    try:
        texts = [element.decode("utf-8") for element in split_bytes(data, count)]
    except MalformedTensorError:
        raise RunError(Code.WRONG_DATA_SIZE, at) from None
    except UnicodeDecodeError:
        raise RunError(Code.INVALID_VALUE, at) from None
    array = np.empty(count, dtype=object)
    array[:] = texts
    return array.reshape(shape)


def _output(tensor: Tensor, value: Any) -> Output:
    """The bytes of one output; a shape or type that the manifest does not name fails the request."""
    if isinstance(value, ort.OrtValue):
        if tensor.datatype == "BF16":
            shape = tuple(value.shape())
            if not fits(shape, tensor.shape):
                raise RunError(Code.MODEL_FAILED)
            size = 2 * int(np.prod(shape, dtype=np.int64))
            return Output(shape=shape, data=ctypes.string_at(value.data_ptr(), size) if size else b"")
        value = value.numpy()
    array = np.asarray(value)
    if not fits(array.shape, tensor.shape):
        raise RunError(Code.MODEL_FAILED)
    if tensor.datatype == "BYTES":
        return Output(shape=array.shape, data=join_bytes(str(text).encode("utf-8") for text in array.reshape(-1)))
    if array.dtype != np.dtype("?" if tensor.datatype == "BOOL" else _TYPES[tensor.datatype][1]):
        raise RunError(Code.MODEL_FAILED)
    return Output(shape=array.shape, data=np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
