"""A small HTTP server: `/metrics` in Prometheus text, `/livez`, `/readyz`. Numbers in total; none of a caller, model or request."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
import socket

from parent.probes import Readiness

REQUEST_MAX = 8 * 1024
REQUEST_SECONDS = 5.0
CONNECTIONS_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One family of samples: name without prefix, help text, and (labels, value) pairs."""

    name: str
    text: str
    kind: str  # counter or gauge
    samples: tuple[tuple[Mapping[str, str], float], ...]


def counter(name: str, text: str, value: float) -> Metric:
    """A counter of one sample."""
    return Metric(name=f"{name}_total", text=text, kind="counter", samples=(({}, value),))


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge of one sample."""
    return Metric(name=name, text=text, kind="gauge", samples=(({}, value),))


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter with one label."""
    return Metric(name=f"{name}_total", text=text, kind="counter", samples=tuple(({label: key}, value) for key, value in values.items()))


def render(metrics: Iterable[Metric]) -> str:
    """The Prometheus text format, version 0.0.4."""
    lines: list[str] = []
    for metric in metrics:
        name = f"cloister_{metric.name}"
        lines += [f"# HELP {name} {metric.text}", f"# TYPE {name} {metric.kind}"]
        for labels, value in metric.samples:
            inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
            lines.append(f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def parse_request(head: bytes) -> str | None:
    """The path of a GET request, without its query; None for anything else."""
    line = head.partition(b"\r\n")[0].split(b" ")
    if len(line) != 3 or line[0] != b"GET" or not line[2].startswith(b"HTTP/1."):
        return None
    return line[1].partition(b"?")[0].decode("latin-1")


@dataclass(slots=True, kw_only=True)
class MetricsService:
    """Answers one request per connection."""

    collect: Callable[[], Iterable[Metric]]
    readiness: Readiness
    answered: int = field(default=0)

    async def handle(self, stream: socket.socket) -> None:
        """Serve one connection: a head of at most 8 KiB within five seconds, one answer, close."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = b""
                while b"\r\n\r\n" not in head:
                    data = await loop.sock_recv(stream, REQUEST_MAX)
                    head += data
                    if not data or len(head) > REQUEST_MAX:
                        return
                await loop.sock_sendall(stream, await self._answer(parse_request(head)))
                stream.shutdown(socket.SHUT_WR)
        except TimeoutError:
            return
        self.answered += 1

    async def _answer(self, path: str | None) -> bytes:
        match path:
            case "/metrics":
                return _response("200 OK", render(self.collect()), "text/plain; version=0.0.4; charset=utf-8")
            case "/livez":
                return _response("200 OK", "alive\n")
            case "/readyz":
                ready, why = await self.readiness.ready()
                return _response("200 OK" if ready else "503 Service Unavailable", f"{why}\n")
            case None:
                return _response("400 Bad Request", "expected a GET request\n")
        return _response("404 Not Found", "expected /metrics, /livez or /readyz\n")


def _response(status: str, body: str, kind: str = "text/plain; charset=utf-8") -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + data
