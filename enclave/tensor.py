"""A tensor of a request or an answer inside the enclave: a view of bytes that were measured, never parsed further."""

from dataclasses import dataclass, field

from wire.manifest_values import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """`data` is row-major, little endian, and as long as datatype and shape say (BYTES: at least its length prefixes).

    `path` is where a caller finds it in the request (`inputs[0]`), for errors; empty for what no caller sent.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview = field(repr=False)
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What the manifest says of a model, as far as running it needs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reject_non_finite: bool
