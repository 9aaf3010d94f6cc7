"""The HTTP door itself: who may talk to it, what it takes, and clients that misbehave."""

from collections.abc import Iterator
import contextlib
import gzip
import http.client
import json
import socket
import threading
import zlib

import numpy as np
import pytest

from cloister.sidecar import http_body
from cloister.sidecar.refusal import RefusedError
from tests.sidecar.conftest import TOKEN, Sidecar
from wire.errors import Code

AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n"


@pytest.fixture
def stream(sidecar: Sidecar) -> Iterator[socket.socket]:
    """A raw connection."""
    with socket.create_connection((sidecar.host, sidecar.port), timeout=20) as connected:
        yield connected


def answers(stream: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """The next answers on a connection."""
    found = []
    for _ in range(count):
        answer = http.client.HTTPResponse(stream)
        answer.begin()
        found.append((answer.status, answer.read()))
    return found


def head(sidecar: Sidecar, method: str, path: str, extra: str = "", host: str | None = None) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host or f'{sidecar.host}:{sidecar.port}'}\r\n{extra}\r\n".encode()


def code_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["code"]


def test_another_host_is_refused(sidecar: Sidecar, stream: socket.socket) -> None:
    """A page of another name that resolves to this address (DNS rebinding) is refused before its token is looked at."""
    stream.sendall(head(sidecar, "GET", "/v2/health/live", AUTHORIZED, host="evil.example"))
    assert code_of(answers(stream)[0]) == (421, "host-refused")
    assert stream.recv(1) == b""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:1"])
def test_the_port_belongs_to_the_host(sidecar: Sidecar, stream: socket.socket, host: str) -> None:
    """The Host header is compared as a whole."""
    stream.sendall(head(sidecar, "GET", "/v2/health/live", AUTHORIZED, host=host))
    assert code_of(answers(stream)[0]) == (421, "host-refused")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_has_its_usual_names(sidecar: Sidecar, stream: socket.socket, name: str) -> None:
    """Without names of the configuration's own, those of loopback with the listener's port are accepted."""
    stream.sendall(head(sidecar, "GET", "/v2/health/live", AUTHORIZED, host=f"{name}:{sidecar.port}"))
    assert answers(stream)[0][0] == 200


@pytest.mark.parametrize(
    "value", ["", "Authorization: Bearer wrong\r\n", f"Authorization: Basic {TOKEN}\r\n", f"Authorization: {TOKEN}\r\n"]
)
def test_without_the_token_nothing_is_told(sidecar: Sidecar, stream: socket.socket, value: str) -> None:
    """Every path wants the token, liveness, metrics and the verdict too; a body is not read before."""
    stream.sendall(head(sidecar, "POST", "/metrics", value + "Content-Length: 1000000\r\n"))
    assert code_of(answers(stream)[0]) == (401, "token-required")
    assert stream.recv(1) == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: {host}\r\n" + AUTHORIZED.encode() * 2 + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: {host}\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "no host", "two tokens", "negative length", "long header"],
)
def test_malformed_requests_are_refused_and_end_the_connection(sidecar: Sidecar, stream: socket.socket, raw: bytes) -> None:
    """What is not one well-formed request is answered 4xx or dropped, and the connection ends."""
    stream.sendall(raw.replace(b"{host}", f"{sidecar.host}:{sidecar.port}".encode()))
    received = b""
    while data := stream.recv(65536):
        received += data
    assert not received or received.split(b" ")[1] in (b"400", b"401")


def test_an_oversize_body_is_refused_before_it_is_read(sidecar: Sidecar, stream: socket.socket) -> None:
    """A Content-Length beyond the limit is refused at once, a chunked body when it grows beyond it."""
    stream.sendall(head(sidecar, "POST", "/v2/models/sum/infer", AUTHORIZED + "Content-Length: 100000000000\r\n"))
    assert code_of(answers(stream)[0]) == (413, "request-too-large")


def ended(stream: socket.socket) -> bool:
    """Whether the other side closed the connection, in whatever way."""
    try:
        return stream.recv(1) == b""
    except OSError:
        return True


def test_a_chunked_body_is_bounded(sidecar: Sidecar, stream: socket.socket) -> None:
    """Chunks beyond the limit end the request with 413."""
    stream.sendall(head(sidecar, "POST", "/v2/models/sum/infer", AUTHORIZED + "Transfer-Encoding: chunked\r\n"))
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"

    def send() -> None:
        with contextlib.suppress(OSError):
            for _ in range(80):
                stream.sendall(chunk)

    thread = threading.Thread(target=send)
    thread.start()
    assert code_of(answers(stream)[0]) == (413, "request-too-large")
    thread.join()
    assert ended(stream)


def test_requests_in_a_row_are_answered_in_order(sidecar: Sidecar, stream: socket.socket) -> None:
    """Pipelined requests on one connection are answered one after another."""
    body = json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [1], "data": [1]} for n in "ab"], "id": "{n}"})
    sent = b""
    for number in range(5):
        one = body.replace("{n}", str(number)).encode()
        sent += head(sidecar, "POST", "/v2/models/sum/infer", AUTHORIZED + f"Content-Length: {len(one)}\r\n") + one
    stream.sendall(sent)
    assert [json.loads(raw)["id"] for _, raw in answers(stream, 5)] == list("01234")


def test_a_client_may_wait_for_100_continue(sidecar: Sidecar, stream: socket.socket) -> None:
    """curl's Expect header is answered before the body comes; an oversize one never is."""
    body = json.dumps({"inputs": []}).encode()
    stream.sendall(head(sidecar, "POST", "/v2/models/sum/infer", AUTHORIZED + f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n"))
    assert stream.recv(65536).startswith(b"HTTP/1.1 100")
    stream.sendall(body)
    assert code_of(answers(stream)[0]) == (400, "missing-input")


def test_a_client_that_goes_away_hurts_nobody(sidecar: Sidecar) -> None:
    """Clients that leave in the middle of a body or of a run leave the next client's request as it was."""
    long = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [100_000]}]}).encode()
    for cut in (len(long) // 2, len(long)):
        for _ in range(5):
            with socket.create_connection((sidecar.host, sidecar.port)) as gone:
                gone.sendall(head(sidecar, "POST", "/v2/models/spin/infer", AUTHORIZED + f"Content-Length: {len(long)}\r\n") + long[:cut])
    door = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=30)
    door.request("POST", "/v2/models/spin/infer", long.replace(b"100000", b"3"), {"Authorization": f"Bearer {TOKEN}"})
    assert json.loads(door.getresponse().read())["outputs"][0]["data"] == [3]
    door.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_pass_in_both_directions(sidecar: Sidecar, encoding: str) -> None:
    """A compressed request is understood and its answer compressed where the client takes that."""
    values = np.zeros(5000, np.float32)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [5000], "data": values.tolist()}]}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    door = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Encoding": encoding, "Accept-Encoding": encoding}
    door.request("POST", "/v2/models/same-fp32/infer", packed, headers)
    answer = door.getresponse()
    assert answer.getheader("content-encoding") == encoding
    raw = answer.read()
    plain = gzip.decompress(raw) if encoding == "gzip" else zlib.decompress(raw)
    assert json.loads(plain)["outputs"][0]["data"] == values.tolist()
    door.close()


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (gzip.compress(bytes(10_000_000)), "gzip", Code.REQUEST_TOO_LARGE),
        (gzip.compress(b"a") + b"x", "gzip", Code.MALFORMED_HTTP),
        (gzip.compress(b"a" * 99)[:-4], "gzip", Code.MALFORMED_HTTP),
        (b"plain", "gzip", Code.MALFORMED_HTTP),
        (b"plain", "br", Code.MALFORMED_HTTP),
        (zlib.compress(b"a"), "gzip, deflate", Code.MALFORMED_HTTP),
    ],
)
def test_bombs_and_broken_bodies_are_refused(body: bytes, encoding: str, code: Code) -> None:
    """A body that grows beyond the limit, is cut, has something behind it, or another encoding: refused."""
    with pytest.raises(RefusedError, check=lambda error: error.code is code):
        http_body.decode(body, encoding, 100_000)


@pytest.mark.parametrize("header", ["x", "-1", "7", "1" * 30, "²", "1.0", ""])
def test_a_json_length_that_is_none_is_refused(header: str) -> None:
    """The length of the JSON is a number not beyond the body."""
    with pytest.raises(RefusedError, check=lambda error: error.code is Code.MALFORMED_HTTP):
        http_body.split(b"123456", header)


def test_json_and_tensors_are_views() -> None:
    """The split copies nothing."""
    body = b"123456"
    raw, tensors = http_body.split(body, "2")
    assert (bytes(raw), bytes(tensors), raw.obj is body, tensors.obj is body) == (b"12", b"3456", True, True)
    assert bytes(http_body.split(body, None)[0]) == body


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("br, deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0", ""),
        ("gzip;q=0.5", "gzip"),
    ],
)
def test_encodings_are_negotiated(header: str, encoding: str) -> None:
    """The first of ours that the client takes with a weight above zero."""
    assert http_body.acceptable(header) == encoding


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown-path"),
        ("POST", "/v2", 404, "unknown-path"),
        ("GET", "/v2/models/sum/infer", 404, "unknown-path"),
        ("GET", "/v2/models/a%2e/ready", 404, "unknown-model"),
        ("GET", "/v2/models/..", 404, "unknown-model"),
        ("GET", "/v2/models/sum/versions/../ready", 404, "unknown-version"),
        ("GET", "/v2/models/sum/config", 501, "not-implemented"),
        ("GET", "/v2/models/sum/versions/1/stats", 501, "not-implemented"),
        ("GET", "/v2/models/stats", 501, "not-implemented"),
        ("POST", "/v2/repository/models/sum/load", 501, "not-implemented"),
        ("GET", "/v2/systemsharedmemory/status", 501, "not-implemented"),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501, "not-implemented"),
        ("GET", "/v2/trace/setting", 501, "not-implemented"),
        ("POST", "/v2/logging", 501, "not-implemented"),
    ],
)
def test_paths_beyond_the_protocol(sidecar: Sidecar, method: str, path: str, status: int, code: str) -> None:
    """Unknown paths are 404, calls of other servers 501, and the connection goes on."""
    door = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=30)
    for _ in range(2):
        door.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = door.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (status, code)
    door.close()
