"""The HTTP door's requests and answers as values, and what a request's head must be. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
import re

import h11

from cloister.sidecar import http_body
from cloister.sidecar.refusal import RefusedError, refusal_of
from wire.errors import Code
from wire.record import Octets

_REASONS = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found", 413: b"Content Too Large"}
# Given twice these would mean two things to two readers.
_SINGLE = frozenset({"host", "authorization", "content-encoding", http_body.JSON_LENGTH})
_BARE_LF = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A whole request; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: Octets = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A whole answer; `json_length` where binary tensors follow the JSON."""

    pieces: tuple[Octets, ...] = field(repr=False)
    status: int = 200
    content_type: str = "application/json"
    json_length: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)


def refused(error: BaseException) -> HttpAnswer:
    """The answer that a refusal is."""
    refusal = refusal_of(error)
    return HttpAnswer(status=refusal.http, pieces=(refusal.body(),))


def events(answer: HttpAnswer, pieces: Sequence[Octets], more: Sequence[tuple[str, str]], *, with_body: bool = True) -> Iterator[h11.Event]:
    """An answer as h11 sends it, with `pieces` (its own, or compressed) for a body and `more` headers."""
    headers = [("content-type", answer.content_type), *more]
    if answer.json_length is not None:
        headers.append(("Inference-Header-Content-Length", str(answer.json_length)))
    headers.append(("content-length", str(sum(memoryview(piece).nbytes for piece in pieces))))
    yield h11.Response(status_code=answer.status, reason=_REASONS.get(answer.status, b""), headers=headers)
    for piece in pieces if with_body else ():
        yield h11.Data(data=piece)  # type: ignore[arg-type]  # h11 passes any buffer on
    yield h11.EndOfMessage()


def check_lines(received: bytes) -> None:
    """Lines of a head end in CR LF; a bare LF, which h11 takes too, is read differently elsewhere (RFC 9112, 2.2).

    `received` begins where a request does. Raises: RefusedError.
    """
    end = received.find(b"\r\n\r\n")
    if _BARE_LF.search(received, 0, len(received) if end < 0 else end) is not None:
        raise RefusedError(Code.MALFORMED_HTTP)


def headers_of(request: h11.Request) -> dict[str, str]:
    """The headers by name. Raises: RefusedError where they say two things, or give the body two lengths (RFC 9112, 6.1)."""
    found: dict[str, str] = {}
    for name, value in request.headers:
        key = name.decode("ascii")
        if key in found and key in _SINGLE:
            raise RefusedError(Code.MALFORMED_HTTP)
        found[key] = value.decode("latin-1")
    if "transfer-encoding" in found and ("content-length" in found or request.http_version < b"1.1"):
        raise RefusedError(Code.MALFORMED_HTTP)
    return found


def bound(headers: dict[str, str], most: int) -> int:
    """Bytes that the body may grow to, decompressed too. Raises: RefusedError where it says that it exceeds `most`."""
    said = int(headers.get("content-length", "0"))  # h11 has judged that it is a number
    if said > most:
        raise RefusedError(Code.REQUEST_TOO_LARGE)
    return most if "transfer-encoding" in headers or (said and "content-encoding" in headers) else said
