"""What leaves the caller and the enclave, on every socket, in every log, metric and file: no canary, and one shape for all."""

import asyncio
import base64
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
import json
import logging
import os
import secrets
import socket
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
import numpy as np
from numpy.typing import NDArray
import pytest

from cloister.errors import RequestRefusedError
from cloister.session import CallerIdentity
from cloister.tensors import encode_request
from simulator.owner import HOST
from simulator.world import World
from tests.appliance import faults
from tests.appliance.captured import LABEL, SERVING, WIDTH, Captured, X, Y, capturing
from wire import handshake
from wire.errors import Code, Stage
from wire.feed import BootReport, encode_boot_report
from wire.frame import HEADER_BYTES
from wire.handshake import SessionKeys
from wire.message import Message, encode


@pytest.fixture(scope="module")
def captured() -> Iterator[Captured]:
    """The tapped world, serving."""
    with capturing() as found:
        yield found


def spellings(needle: bytes) -> list[bytes]:
    """A needle as it is, in hex, and in base64 at each of its three alignments."""
    middles = [base64.b64encode(bytes(shift) + needle)[4 if shift else 0 : -4] for shift in range(3)]
    return [needle, needle.hex().encode(), needle.hex().upper().encode(), *middles]


def found_in(needles: dict[str, bytes], texts: dict[str, bytes]) -> list[tuple[str, str]]:
    """(what, where) of every needle that shows."""
    return [
        (what, where) for what, needle in needles.items() for where, text in texts.items() if any(one in text for one in spellings(needle))
    ]


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


def metrics(world: World) -> bytes:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(world.run / "metrics"))
        stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: stream.recv(1 << 16), b""))


def test_no_canary_anywhere(captured: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Inputs, outputs, labels, weights, subject and every key are in no stream, log, metric or file; what is public is found."""
    caplog.set_level(logging.DEBUG)
    needles, subject, note = captured.needles, f"subject-{secrets.token_hex(12)}", f"note-{secrets.token_hex(12)}"
    derive = handshake.session_keys

    def noted(secret: bytes, th2: bytes) -> SessionKeys:
        keys = derive(secret, th2)
        needles.update(
            {"session secret": secret, "c2s key": keys.c2s.key, "c2s iv": keys.c2s.iv, "s2c key": keys.s2c.key, "s2c iv": keys.s2c.iv}
        )
        return keys

    monkeypatch.setattr(handshake, "session_keys", noted)
    own = CallerIdentity.__init__

    def kept(self: CallerIdentity, *, credential: bytes, key: Any) -> None:
        own(self, credential=credential, key=key)
        needles["caller key"] = key.private_bytes_raw()
        needles["caller key, PEM"] = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        needles["credential"] = credential[:64]

    monkeypatch.setattr(CallerIdentity, "__init__", kept)

    async def work() -> None:
        async with await captured.caller(subject) as client:
            answer = await client.infer("secretive", {"x": X, "note": np.array([note], dtype=object)})
            assert (Y.tolist(), [LABEL.encode()]) == (answer.outputs["y"].tolist(), answer.outputs["label"].tolist())
            with pytest.raises(RequestRefusedError):
                await client.infer("secretive", {"x": X[:, :3], "note": np.array([note], dtype=object)})

    logging.getLogger("cloister.control").debug("a line of the log")
    run(work())
    needles |= {"subject": subject.encode(), "note": note.encode()}
    assert {"caller key", "session secret", "credential", "subject"} <= needles.keys()
    texts = captured.texts() | {"metrics": metrics(captured.world), "the caller's log": caplog.text.encode()}
    assert [] == found_in(needles, texts)
    access = aws_access(captured.world)
    theirs = {where for where in texts if where.startswith(("relay credentials", "state/")) or where.endswith("credentials.json")}
    assert [] == found_in(access, {where: text for where, text in texts.items() if where not in theirs})
    assert access.keys() == {what for what, _ in found_in(access, texts)}
    assert [] == unsearched(controls(captured.world), texts)
    assert sum(len(text) for text in texts.values()) > 30_000


def aws_access(world: World) -> dict[str, bytes]:
    """What the parent asks KMS with: the enclave's and KMS's to know, and no log's."""
    fields = json.loads((world.run / "credentials.json").read_text())
    return {name: fields[name].encode() for name in ("secret_access_key", "session_token")}


def controls(world: World) -> dict[str, bytes]:
    """What is public, by the beginning of the name of a text in which the search has to find it."""
    return {
        "relay caller": world.owner.public,
        "relay session": world.owner.public,
        "relay feed": (world.feed / "manifest.cose").read_bytes()[:200],
        "relay status": encode_boot_report(BootReport(stage=Stage.SERVING)),
        "relay credentials": json.loads((world.run / "credentials.json").read_text())["access_key_id"].encode(),
        "relay egress": HOST.encode(),  # of the TLS handshake
        "relay kms": HOST.encode(),
        "log/parent": SERVING.encode(),
        "state/trail.jsonl": f'"keyId": "{world.owner.key_arn}"'.encode(),
        "metrics": b"enclave_requests",
        "the caller's log": b"a line of the log",
    }


def unsearched(wanted: dict[str, bytes], texts: dict[str, bytes]) -> list[str]:
    """Where the search does not find what it has to."""
    return [where for where, what in wanted.items() if not any(name.startswith(where) and what in text for name, text in texts.items())]


def test_every_socket_is_tapped(captured: Captured) -> None:
    """Each relay has its control, an empty one fails it; and the parent sends on what it gets, so both of its sides are whole."""
    run(_one_session(captured))
    streams = captured.streams()
    assert {f"relay {name}" for name in captured.tap.relays} == {where for where in controls(captured.world) if where.startswith("relay ")}
    for one, other in (("caller", "session"), ("kms", "egress")):
        sides = [sorted(stream for where, stream in streams.items() if where.startswith(f"relay {side} ")) for side in (one, other)]
        assert sides[0]
        assert sides[0] == sides[1]
    for name in captured.tap.relays:
        silent = {where: b"" if where.startswith(f"relay {name} ") else stream for where, stream in streams.items()}
        relays = {where: what for where, what in controls(captured.world).items() if where.startswith("relay ")}
        assert [f"relay {name}"] == unsearched(relays, silent)


async def _one_session(captured: Captured) -> None:
    async with await captured.caller("a") as client:
        await client.ready("secretive")


def test_every_process_is_heard(captured: Captured) -> None:
    """Standard output and error of every process are logs and pipes that are searched, or nothing; each log is somebody's."""
    logs = {str(path) for path in (captured.world.directory / "log").iterdir()}
    pipes = {os.readlink(f"/proc/self/fd/{pipe.fileno()}") for pipe in captured.pipes.values()}
    found = {_sink(pid, number) for pid in faults.processes(captured.world.directory) for number in (1, 2)}
    assert found <= logs | pipes | {"/dev/null", ""}
    assert logs | pipes <= found


def _sink(pid: int, number: int) -> str:
    """What a process's descriptor is; empty for one that is closed."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except FileNotFoundError:
        return ""


def test_console(captured: Captured) -> None:
    """The enclave's console says nothing, but for the fixed line about a TLS library that cannot name its key exchange."""
    lines = (captured.world.directory / "log" / "console").read_text().splitlines()
    assert [] == [line for line in lines if not line.startswith("the TLS connection to KMS")]


def lengths(stream: bytes) -> list[tuple[int, int]]:
    """(type, whole length) of each frame of one direction of a session."""
    found, at = [], 0
    while at < len(stream):
        size = 4 + int.from_bytes(stream[at : at + 4], "big")
        found.append((stream[at + 4], size))
        at += size
    assert at == len(stream) and all(size >= HEADER_BYTES for _, size in found)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One message, how it must be answered, and the models that the caller's credential names."""

    path: str
    code: Code
    inputs: dict[str, NDArray[Any]] | None = None
    outputs: tuple[str, ...] | None = None
    deadline_ms: int = 0
    subject: str = "a"
    models: tuple[str, ...] = ("secretive", "bomb", "spin")


async def shape_of(captured: Captured, ask: Ask) -> tuple[Code, list[list[tuple[int, int]]]]:
    """The answer's code, and the frames of both directions of a session in which this is asked alone."""
    streams = captured.tap.relays["caller"].streams
    before = len(streams)
    body, parts = (b"", []) if ask.inputs is None else encode_request(ask.inputs, outputs=ask.outputs)
    async with await captured.caller(ask.subject, models=ask.models) as client:
        session = client._current
        assert session is not None
        answer = await session.connection.request(encode(path=ask.path, json=body, tensors=parts, deadline_ms=ask.deadline_ms))
        assert isinstance(answer, Message)
    # The client is closed when the enclave has closed too: what passed has been noted.
    return Code(answer.status), sorted(lengths(bytes(stream)) for stream in streams[before:])


FRAMES = 4  # of each direction: challenge, open, message, close; evidence, accept, message, close
NOTE = np.array([""], dtype=object)
GOOD = {"x": X, "note": NOTE}
INFER = "/v2/models/{}/infer"
ASKS = {
    "infer": Ask(path=INFER.format("secretive"), inputs=GOOD, code=Code.OK),
    "infer, version": Ask(path="/v2/models/secretive/versions/1/infer", inputs=GOOD, code=Code.OK),
    "other numbers": Ask(path=INFER.format("secretive"), inputs={"x": np.zeros((9, WIDTH), np.float32), "note": NOTE}, code=Code.OK),
    "another model": Ask(path=INFER.format("bomb"), inputs={"n": np.array([3])}, code=Code.OK),
    "a long name": Ask(
        path=INFER.format("secretive"), inputs=GOOD, subject="a caller with a far longer name than others " * 2, code=Code.OK
    ),
    "one model": Ask(path=INFER.format("secretive"), inputs=GOOD, models=("secretive",), code=Code.OK),
    "many models": Ask(path=INFER.format("secretive"), inputs=GOOD, models=("secretive", *(f"m{at}" for at in range(20))), code=Code.OK),
    "wrong shape": Ask(path=INFER.format("secretive"), inputs={"x": X[:, :3], "note": NOTE}, code=Code.WRONG_SHAPE),
    "no such output": Ask(path=INFER.format("secretive"), inputs=GOOD, outputs=("nothing",), code=Code.UNKNOWN_OUTPUT),
    "no request": Ask(path=INFER.format("secretive"), code=Code.MALFORMED_JSON),
    "ready": Ask(path="/v2/models/secretive/ready", code=Code.OK),
    "metadata": Ask(path="/v2/models/secretive", code=Code.OK),
    "unknown version": Ask(path="/v2/models/secretive/versions/2/infer", inputs=GOOD, code=Code.UNKNOWN_VERSION),
    "unknown model": Ask(path=INFER.format("secretiv"), inputs=GOOD, models=("secretiv",), code=Code.UNKNOWN_MODEL),
    "another's model": Ask(path=INFER.format("secretive"), inputs=GOOD, models=("bomb",), code=Code.MODEL_NOT_AUTHORISED),
    "unknown path": Ask(path="/v2/nothing", code=Code.UNKNOWN_PATH),
    "server live": Ask(path="/v2/health/live", code=Code.OK),
    "server ready": Ask(path="/v2/health/ready", code=Code.OK),
    "server metadata": Ask(path="/v2", code=Code.OK),
    "index": Ask(path="/v2/repository/index", code=Code.OK),
    "index, one model": Ask(path="/v2/repository/index", models=("bomb",), code=Code.OK),
    "model failed": Ask(path=INFER.format("bomb"), inputs={"n": np.array([-1])}, code=Code.MODEL_FAILED),
    "out of memory": Ask(path=INFER.format("bomb"), inputs={"n": np.array([1 << 34])}, code=Code.OUT_OF_MEMORY),
    "deadline": Ask(path=INFER.format("spin"), inputs={"n": np.array(10**12)}, deadline_ms=100, code=Code.DEADLINE_EXPIRED),
}


def test_frames_of_one_length(captured: Captured) -> None:
    """Inferences, questions for readiness, metadata and lists, every kind of refusal and every caller, whatever models its
    credential names, show the same sequence of frame lengths."""

    async def work() -> None:
        found = {name: await shape_of(captured, ask) for name, ask in ASKS.items()}
        assert {name: ask.code for name, ask in ASKS.items()} == {name: code for name, (code, _) in found.items()}
        shapes = {name: shape for name, (_, shape) in found.items()}
        assert [FRAMES, FRAMES] == [len(direction) for direction in shapes["infer"]]
        assert dict.fromkeys(shapes, shapes["infer"]) == shapes

    run(work())
