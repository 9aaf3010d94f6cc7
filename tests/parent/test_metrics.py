"""Metrics and probes: well-formed, bounded, and nothing in them that belongs to a caller."""

import asyncio
from pathlib import Path
import socket

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent import metrics as module
from parent.dial import dial
from parent.metrics import REQUEST_MAX, Metric, MetricsService, counter, counters, gauge, parse_request, render
from parent.probes import Readiness
from parent.status import StatusService
from tests.parent.streams import rest, run, send, served
from wire.endpoint import Unix
from wire.errors import BootFailure, Stage


def test_the_text_is_prometheus() -> None:
    """Help, type, samples; labels escaped; large counts exact."""
    text = render([gauge("a", "help a", 1), counter("b", "help b", 1 << 52), counters("c", "help c", "reason", {'x"\\\n': 12_345_678})])
    assert text.splitlines() == [
        "# HELP cloister_a help a",
        "# TYPE cloister_a gauge",
        "cloister_a 1",
        "# HELP cloister_b_total help b",
        "# TYPE cloister_b_total counter",
        "cloister_b_total 4503599627370496",
        "# HELP cloister_c_total help c",
        "# TYPE cloister_c_total counter",
        'cloister_c_total{reason="x\\"\\\\\\n"} 12345678',
    ]


@given(st.binary(max_size=100))
def test_any_head_is_a_path_or_none(head: bytes) -> None:
    """The request parser raises nothing."""
    path = parse_request(head)
    assert path is None or "?" not in path


def service(path: Path) -> MetricsService:
    status = StatusService(idle_seconds=20)

    async def reach() -> socket.socket:
        return await dial(Unix(str(path)), seconds=5)

    def collect() -> list[Metric]:
        return [gauge("one", "one", 1)]

    return MetricsService(collect=collect, readiness=Readiness(status, reach))


async def ask(one: MetricsService, request: bytes) -> bytes:
    stream, task = await served(one.handle)
    await send(stream, request)
    answer = await rest(stream)
    await task
    stream.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics?name=x HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"503"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/1\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
    ],
)
def test_paths_and_methods(tmp_path: Path, request_: bytes, status: bytes) -> None:
    """Three paths answer to GET; everything else is an error status, and the body has the length that is said."""
    answer = run(ask(service(tmp_path / "none"), request_))
    assert answer.startswith(b"HTTP/1.1 " + status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_an_endless_or_slow_request_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head over 8 KiB, or one that never ends, gets no answer and no more memory or time."""
    assert run(ask(service(tmp_path), b"GET /" + bytes(REQUEST_MAX))) == b""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.1)
    assert run(ask(service(tmp_path), b"GET /metrics HTTP/1.1\r\n")) == b""


def test_ready_means_serving_and_reachable(tmp_path: Path) -> None:
    """Ready only while the enclave's last word was SERVING and its port takes a connection; however often one asks, it is dialled once.

    While a next enclave boots, whose reports these may be, the port alone counts.
    """

    async def body() -> None:
        status = StatusService(idle_seconds=20)
        dials = 0
        path = tmp_path / "enclave"

        async def reach() -> socket.socket:
            nonlocal dials
            dials += 1
            return await dial(Unix(str(path)), seconds=5)

        assert await Readiness(status, reach).ready() == (False, "the enclave has not reported yet")
        status.stage = Stage.LOADED
        assert (await Readiness(status, reach).ready())[0] is False
        status.stage = Stage.SERVING
        assert (await Readiness(status, reach).ready())[0] is False
        assert dials == 1
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            readiness = Readiness(status, reach)
            assert await asyncio.gather(*(readiness.ready() for _ in range(10))) == [(True, "serving")] * 10
            status.stage = Stage.COLD
            assert (await readiness.ready())[0] is False
            assert (await Readiness(status, reach, two=lambda: True).ready()) == (True, "serving")
            status.stage = Stage.SERVING
        assert dials == 3
        status.failure = BootFailure.KMS_REFUSED
        assert await readiness.ready() == (False, "the enclave's boot failed: KMS_REFUSED")

    run(body())
