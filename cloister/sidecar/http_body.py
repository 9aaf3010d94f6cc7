"""HTTP bodies of the inference protocol: the split into JSON and tensors, and gzip or deflate, bounded. Pure."""

import zlib

from cloister.sidecar.refusal import RefusedError
from wire.errors import Code
from wire.record import Octets

JSON_LENGTH = "inference-header-content-length"
# Wrapper bits of zlib: gzip, zlib ("deflate" of HTTP).
_WINDOWS = {"gzip": 31, "deflate": 15}
# Below this an answer is not worth compressing; above the other it would take longer than to send it locally.
COMPRESS_FROM, COMPRESS_TO = 1024, 4 << 20


def decode(body: Octets, encoding: str, limit: int) -> Octets:
    """The body behind its Content-Encoding. Raises: RefusedError, before more than `limit` bytes were made."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOWS:
        raise RefusedError(Code.MALFORMED_HTTP)
    opener = zlib.decompressobj(_WINDOWS[name])
    try:
        found = opener.decompress(body, limit + 1)
    except zlib.error:
        raise RefusedError(Code.MALFORMED_HTTP) from None
    if len(found) > limit:
        raise RefusedError(Code.REQUEST_TOO_LARGE)
    if not opener.eof or opener.unused_data:
        raise RefusedError(Code.MALFORMED_HTTP)
    return found


def acceptable(header: str) -> str:
    """The encoding to answer in, of those that an Accept-Encoding header names with a weight above zero; empty for none."""
    offered = [part.strip().lower().partition(";") for part in header.split(",")]
    named = {name.strip() for name, _, weight in offered if weight.replace(" ", "").rstrip("0").rstrip(".") not in ("q=", "q=0")}
    return next((name for name in _WINDOWS if name in named), "")


def encode(pieces: list[Octets], encoding: str) -> bytes:
    """The pieces compressed, fast rather than small."""
    maker = zlib.compressobj(level=1, wbits=_WINDOWS[encoding])
    return b"".join([*(maker.compress(piece) for piece in pieces), maker.flush()])


def split(body: Octets, header: str | None) -> tuple[memoryview, memoryview]:
    """JSON and binary tensors; without the header all is JSON. Raises: RefusedError."""
    view = memoryview(body)
    if header is None:
        return view, view[:0]
    if not header.isascii() or not header.isdecimal() or int(header[:12]) > len(view) or len(header) > 12:
        raise RefusedError(Code.MALFORMED_HTTP)
    return view[: int(header)], view[int(header) :]
