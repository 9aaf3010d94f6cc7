"""The sidecar and its appliance: refused evidence, a replaced enclave, sessions that end, doors on Unix sockets."""

import asyncio
from collections.abc import Iterator
import contextlib
from dataclasses import replace
import http.client
import json
import os
from pathlib import Path
import socket
import stat
import threading
import time
from typing import Any

import grpc
import pytest

from attestation.checks import Check
from attestation.errors import UntrustedEvidenceError
from cloister.command.sidecar import Identity
from cloister.errors import (
    CloisterError,
    DeadlineError,
    EvidenceRefusedError,
    RequestRefusedError,
    SessionLostError,
    SessionRefusedError,
    UnreachableError,
)
from cloister.identity import write_key
from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar import listen
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.config import Listener, parse_config
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.serve import Settings, serve
from tests.sidecar import appliance_models
from tests.sidecar.conftest import TOKEN, Running, Sidecar, target_of
from wire.endpoint import Tcp, Unix, parse
from wire.errors import Code
from wire.message import Message

SPIN = {"name": "n", "datatype": "INT64", "shape": [], "data": [300_000]}
BODY = json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [1], "data": [1]} for n in "ab"]}).encode()


def ask(sidecar: Sidecar, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, str]:
    door = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=30)
    door.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **headers})
    answer = door.getresponse()
    raw, kind = answer.read(), answer.getheader("content-type", "")
    door.close()
    return answer.status, json.loads(raw) if kind == "application/json" else raw.decode(), kind


def metric(sidecar: Sidecar, name: str) -> float:
    page = ask(sidecar, "GET", "/metrics")[1]
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


@pytest.fixture
def doors(settings: Settings) -> Iterator[list[Running]]:
    """Sidecars of a test's own."""
    made: list[Running] = []
    yield made
    for running in made:
        running.stop()


class Recorder:
    """Between sidecar and parent: counts what the caller sends, and cuts a connection on which more than `cut` bytes were sent."""

    def __init__(self, path: str, cut: int = 1 << 60) -> None:
        self._path = path
        self._cut = cut
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            behind = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            behind.connect(self._path)
            threading.Thread(target=self._pump, args=(stream, behind, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(behind, stream, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                self.sent += len(data) if count else 0
                passed += len(data) if count else 0
                if passed > self._cut:
                    self.cuts += 1
                    for stream in (source, target):
                        stream.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()


def test_refused_evidence_is_told_and_nothing_is_sent(
    serving: appliance_models.Serving, target: Target, settings: Settings, doors: list[Running]
) -> None:
    """Another image's reference values: 502 with a code and the reasons at once, and the caller has sent its challenge alone."""
    recorder = Recorder(serving.world.endpoint.removeprefix("unix:"))
    measured = replace(serving.measured, pcr0=bytes(47) + b"\1")
    values = serving.world.owner.reference_values([measured])
    wrong = replace(target, reference_values=values, endpoint=parse(f"tcp:127.0.0.1:{recorder.port}"), sessions=1)
    doors.append(running := Running(replace(settings, target=wrong)))
    sidecar = running.start()
    status, answer, _ = ask(sidecar, "POST", "/v2/models/sum/infer", BODY)
    assert (status, answer["code"]) == (502, "evidence-refused")
    assert answer["reasons"]
    assert recorder.sent == 38 * recorder.connections > 0  # challenges
    assert metric(sidecar, "cloister_sidecar_evidence_refused_total") == recorder.connections
    verdict = ask(sidecar, "GET", "/attestation")[1]
    assert (verdict["verdict"], verdict["reasons"]) == ("rejected", answer["reasons"])
    recorder.close()


def test_the_verdict_is_shown(serving: appliance_models.Serving, settings: Settings, doors: list[Running]) -> None:
    """/attestation is the verdict on the evidence in use, as JSON and as a page that loads nothing; asked before any request too."""
    doors.append(running := Running(replace(settings, banner="SIMULATED: not under AWS's root")))
    sidecar = running.start()
    status, found, _ = ask(sidecar, "GET", "/attestation")
    assert (status, found["verdict"], found["sequence"]) == (200, "accepted", 1)
    assert found["pcrs"]["0"] == serving.measured.pcrs[0].hex()
    status, page, kind = ask(sidecar, "GET", "/attestation", Accept="text/html")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "ACCEPTED" in page
    assert "SIMULATED" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page


def test_metrics_have_a_fixed_set_of_labels(sidecar: Sidecar) -> None:
    """Metrics name doors, operations and codes, never a model, a caller or content."""
    ask(sidecar, "POST", "/v2/models/sum/infer", BODY)
    ask(sidecar, "POST", "/v2/models/canary-model/infer", b'{"inputs": "canary-value"}')
    page = ask(sidecar, "GET", "/metrics")[1]
    assert "canary" not in page
    assert "sum" not in page.replace("_sum", "")
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(line.startswith("cloister_sidecar_") for line in lines)
    assert 'cloister_sidecar_requests_total{door="http",operation="infer",code="ok"}' in page


@pytest.mark.parametrize("sessions", [1, 3])
def test_sessions_are_few_and_shared(target: Target, sessions: int) -> None:
    """Many requests at once share the pool's sessions; no request opens one of its own."""

    async def run() -> int:
        counts = Metrics()
        appliance = Appliance(replace(target, sessions=sessions), counts)
        found = await asyncio.gather(*(appliance.call("/v2/models/sum/infer", BODY, seconds=20) for _ in range(40)))
        await appliance.close()
        assert len({bytes(message.json) for message in found}) == 1
        return counts.totals["cloister_sidecar_sessions_opened_total", ()]

    assert asyncio.run(run()) == sessions


def test_nobody_there_is_told_in_time(target: Target, tmp_path: Path) -> None:
    """An appliance that is away is waited for until the request's time is over, then UnreachableError; other errors are at once."""

    async def run() -> int:
        counts = Metrics()
        appliance = Appliance(replace(target, endpoint=Unix(str(tmp_path / "nobody"))), counts)
        with pytest.raises(UnreachableError):
            await appliance.call("/v2/health/live", seconds=0.3)
        await appliance.close()
        return counts.totals["cloister_sidecar_retries_total", ()]

    assert asyncio.run(run()) >= 2


@pytest.mark.parametrize(("repeatable", "times"), [(False, 1), (True, 2)])
def test_what_may_have_run_is_sent_once_more_at_most(
    serving: appliance_models.Serving, target: Target, repeatable: bool, times: int
) -> None:
    """A parent that cuts every session behind the request does not make the sidecar send it for as long as it has time."""
    recorder = Recorder(serving.world.endpoint.removeprefix("unix:"), cut=100_000)

    async def run() -> None:
        cut = replace(target, endpoint=Tcp("127.0.0.1", recorder.port), sessions=1, repeatable=repeatable)
        appliance = Appliance(cut, Metrics())
        with pytest.raises(SessionLostError, check=lambda error: error.sent):
            await appliance.call("/v2/models/sum/infer", BODY, [bytes(300_000)], seconds=20)
        await appliance.close()

    asyncio.run(run())
    recorder.close()
    assert recorder.cuts == times


@pytest.mark.parametrize(
    "second",
    [EvidenceRefusedError(UntrustedEvidenceError(Check.COSE_SIGNATURE)), DeadlineError(), SessionRefusedError(Code.CREDENTIAL_EXPIRED)],
)
def test_a_second_try_does_not_hide_the_first(target: Target, monkeypatch: pytest.MonkeyPatch, second: CloisterError) -> None:
    """Whatever meets the repetition, the request that left is told as lost; alone that error is told as it is."""

    async def run(*outcomes: CloisterError) -> CloisterError:
        appliance, left = Appliance(target, Metrics()), list(outcomes)

        async def once(*_: object) -> Message:
            raise left.pop(0)

        monkeypatch.setattr(appliance, "_once", once)
        with pytest.raises(CloisterError) as told:
            await appliance.call("/v2", seconds=5)
        await appliance.close()
        return told.value

    first = SessionLostError(sent=True)
    assert asyncio.run(run(first, second)) is first
    assert asyncio.run(run(second)) is second


def test_what_may_have_run_is_never_told_as_not_sent(serving: appliance_models.Serving, target: Target) -> None:
    """Where the appliance is gone after a request had left, the request is lost, not undelivered."""
    recorder = Recorder(serving.world.endpoint.removeprefix("unix:"), cut=100_000)

    async def run() -> None:
        appliance = Appliance(replace(target, endpoint=Tcp("127.0.0.1", recorder.port), sessions=1), Metrics())
        await appliance.call("/v2/models/sum/infer", BODY, seconds=20)
        recorder.close()  # the open session stays
        with pytest.raises(SessionLostError, check=lambda error: error.sent):
            await appliance.call("/v2/models/sum/infer", BODY, [bytes(300_000)], seconds=1)
        await appliance.close()

    asyncio.run(run())
    assert recorder.cuts == 1


def test_refused_evidence_is_not_tried_again(serving: appliance_models.Serving, target: Target) -> None:
    """A refusal of evidence is final for the request."""
    measured = replace(serving.measured, pcr2=bytes(47) + b"\1")
    wrong = replace(target, reference_values=serving.world.owner.reference_values([measured]))

    async def run() -> int:
        counts = Metrics()
        appliance = Appliance(wrong, counts)
        with pytest.raises(EvidenceRefusedError):
            await appliance.call("/v2/health/live", seconds=20)
        await appliance.close()
        return counts.totals["cloister_sidecar_retries_total", ()]

    assert asyncio.run(run()) == 0


def test_a_replaced_enclave_is_not_noticed(settings: Settings, doors: list[Running]) -> None:
    """Requests before, during and after the enclave's replacement are all answered right: the sidecar re-attests by itself."""
    own = appliance_models.serving()
    over = threading.Event()
    try:
        doors.append(running := Running(replace(settings, target=target_of(own), request_seconds=60)))
        sidecar = running.start()
        found: list[tuple[int, Any]] = []

        def load() -> None:
            while not over.is_set():
                status, answer, _ = ask(sidecar, "POST", "/v2/models/sum/infer", BODY)
                found.append((status, answer["outputs"][0]["data"] if status == 200 else answer))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        _more(found, 20)
        own.replace_enclave()
        _more(found, 20)
        over.set()
        for thread in threads:
            thread.join(90)
        assert {json.dumps(one) for one in found} == {json.dumps((200, [2.0]))}
        assert metric(sidecar, "cloister_sidecar_sessions_opened_total") >= 2
    finally:
        over.set()
        own.world.close()


def _more(found: list[Any], count: int) -> None:
    end = time.monotonic() + 60
    wanted = len(found) + count
    while len(found) < wanted:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def test_a_renewed_credential_is_used(serving: appliance_models.Serving, target: Target) -> None:
    """After a renewal requests go as the new caller; one under way is answered on the old session."""
    narrow = serving.world.owner.identity(models=("spin",))

    async def run() -> list[Any]:
        appliance = Appliance(replace(target, identity=narrow, sessions=1), Metrics())
        spin = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [100_000]}]}).encode()
        slow = asyncio.create_task(appliance.call("/v2/models/spin/infer", spin, seconds=20))
        with pytest.raises(RequestRefusedError, check=lambda error: error.code is Code.MODEL_NOT_AUTHORISED):
            await appliance.call("/v2/models/sum/infer", BODY, seconds=20)
        appliance.renew(serving.world.owner.identity(models=serving.names))
        found = [await appliance.call("/v2/models/sum/infer", BODY, seconds=20), await slow]
        await appliance.close()
        return [json.loads(bytes(message.json))["outputs"][0]["data"] for message in found]

    assert asyncio.run(run()) == [[2.0], [100_000]]


def test_identity_files_are_read_again_when_they_change(serving: appliance_models.Serving, tmp_path: Path) -> None:
    """A replaced credential and key are a new identity, once; half-written ones are not, until they belong together."""
    one, two = (serving.world.owner.identity(models=serving.names) for _ in range(2))
    (tmp_path / "credential").write_bytes(one.credential)
    write_key(tmp_path / "key.pem", one.key)
    text = """
[appliance]
endpoint = "tcp:a:1"
reference_values = "v"
credential = "credential"
caller_key = "key.pem"
[http]
listen = "unix:h"
"""
    files = Identity(parse_config(text.encode(), tmp_path))
    first = files.load()
    assert first is not None
    assert first.credential == one.credential
    assert files.renewed() is None
    (tmp_path / "credential").write_bytes(two.credential)
    assert files.renewed() is None
    (tmp_path / "key.pem").unlink()
    assert files.renewed() is None
    write_key(tmp_path / "key.pem", two.key)
    second = files.renewed()
    assert second is not None
    assert second.credential == two.credential
    assert files.renewed() is None


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def test_unix_sockets_are_the_users_own(target: Target, tmp_path: Path, doors: list[Running]) -> None:
    """A Unix door has mode 0600 whatever the umask, needs no token, replaces a stale socket, and is gone at the end."""
    web, rpc = str(tmp_path / "h"), str(tmp_path / "g")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(web)
    before = os.umask(0)
    try:
        running = Running(Settings(target=target, http=Listener(at=Unix(web)), grpc=Listener(at=Unix(rpc))))
        running.start()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(path).st_mode) for path in (web, rpc)] == [0o600, 0o600]
    door = UnixConnection(web)
    door.request("POST", "/v2/models/sum/infer", BODY, {"Host": "any.example"})
    assert json.loads(door.getresponse().read())["outputs"][0]["data"] == [2]
    door.close()
    running.stop()
    assert not os.path.exists(web)


def over() -> asyncio.Event:
    """A sidecar that opens after all ends at once."""
    event = asyncio.Event()
    event.set()
    return event


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_door_in_use_is_not_taken(target: Target, tmp_path: Path, door: str) -> None:
    """A socket that another process listens on, however busy it is, or a file that is no socket, is left alone."""
    path = tmp_path / "h"
    listener = Listener(at=Unix(str(path)))
    settings = Settings(target=target, http=listener) if door == "http" else Settings(target=target, grpc=listener)
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        asyncio.run(serve(settings, lambda _: None, over()))
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        other.bind(str(path))
        other.listen(0)
        before = path.stat().st_ino
        for _ in range(2):
            with pytest.raises(OSError, match="in use"):
                asyncio.run(serve(settings, lambda _: None, over()))
            waiting.setblocking(False)
            waiting.connect_ex(str(path))
        assert path.stat().st_ino == before


def test_a_second_sidecar_does_not_take_the_first_ones_door(target: Target, tmp_path: Path, doors: list[Running]) -> None:
    """Two sidecars with one file: the second is refused, at either door, and the first goes on answering."""
    web, rpc = Listener(at=Unix(str(tmp_path / "h"))), Listener(at=Unix(str(tmp_path / "g")))
    doors.append(running := Running(Settings(target=target, http=web, grpc=rpc)))
    running.start()
    for settings in (Settings(target=target, http=web), Settings(target=target, grpc=rpc)):
        with pytest.raises(OSError, match="in use"):
            asyncio.run(serve(settings, lambda _: None, over()))
    door = UnixConnection(str(tmp_path / "h"))
    door.request("GET", "/v2/health/live")
    assert door.getresponse().status == 200
    door.close()
    with grpc.insecure_channel(f"unix:{tmp_path / 'g'}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive", response_deserializer=pb.ServerLiveResponse.FromString)
        assert live(b"", timeout=20).live


def test_a_successors_door_stays(tmp_path: Path) -> None:
    """A socket's name is given up only while it is the listener's own."""
    path = str(tmp_path / "h")
    old = listen.bind(Unix(path))
    old.unlink()
    new = listen.bind(Unix(path))
    old.unlink()
    assert os.path.exists(path)
    for bound in (old, new):
        bound.unlink()
        bound.listener.close()
    assert not os.path.exists(path)


def test_a_successor_may_come_while_the_last_answers_are_given(target: Target, tmp_path: Path, doors: list[Running]) -> None:
    """The path is free from the moment that a sidecar begins to end, and the one that takes it keeps it."""
    path = tmp_path / "h"
    settings = Settings(target=target, http=Listener(at=Unix(str(path))))
    doors.append(first := Running(settings))
    first.start()
    door, look = UnixConnection(str(path)), UnixConnection(str(path))
    door.request("POST", "/v2/models/spin/infer", json.dumps({"inputs": [SPIN]}).encode())
    end = time.monotonic() + 20
    page = b""
    while b"in_flight 2" not in page and time.monotonic() < end:
        look.request("GET", "/metrics")
        page = look.getresponse().read()
    first.tell_to_end()
    while path.exists() and time.monotonic() < end:
        time.sleep(0.002)
    doors.append(second := Running(settings))
    second.start()
    assert door.getresponse().status == 200
    first.stop()
    look.close()
    door.close()
    door.request("GET", "/v2/health/live")
    assert door.getresponse().status == 200
    door.close()


def test_what_is_being_answered_is_answered_before_the_end(target: Target, settings: Settings) -> None:
    """When the sidecar is told to end, a request under way gets its answer, idle connections end."""
    running = Running(replace(settings, http=Listener(at=Tcp("127.0.0.1", 0)), grpc=None))
    sidecar = running.start()
    body = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [100_000]}]}).encode()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(ask(sidecar, "POST", "/v2/models/spin/infer", body)[0]))
    ask(sidecar, "GET", "/v2/health/ready")
    thread.start()
    end = time.monotonic() + 10
    while metric(sidecar, "cloister_sidecar_requests_in_flight") < 2 and time.monotonic() < end:
        time.sleep(0.002)
    running.stop()
    thread.join(20)
    assert found == [200]
