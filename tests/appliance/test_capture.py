"""What leaves the caller and the enclave, on every socket, in every log, metric and file: no canary, and one shape for all."""

import asyncio
import base64
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
import logging
import os
import secrets
import socket
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
import numpy as np
from onnx import helper, numpy_helper
import pytest

from cloister.errors import RequestRefusedError
from cloister.session import CallerIdentity
from simulator.hostile.tap import Tap
from simulator.owner import ModelSpec
from simulator.world import World
from tests.appliance import faults
from tests.appliance.conftest import caller
from tests.model.graphs import graph, tensor
from wire import handshake
from wire.frame import HEADER_BYTES
from wire.handshake import SessionKeys

WIDTH = 8
LABEL = f"label-{secrets.token_hex(12)}"
WEIGHTS = np.frombuffer(secrets.token_bytes(4 * WIDTH), np.uint32).astype(np.float32)
X = np.frombuffer(secrets.token_bytes(4 * WIDTH), np.uint32).astype(np.float32).reshape(1, WIDTH)
Y = X + WEIGHTS


def labelled() -> bytes:
    """x FP32 [-1, 8], note BYTES [-1] -> y = x + secret weights, label BYTES: a secret word, echo: the note."""
    nodes = [
        helper.make_node("Add", ["x", "weights"], ["y"]),
        helper.make_node("Identity", ["word"], ["label"]),
        helper.make_node("Identity", ["note"], ["echo"]),
    ]
    constants = [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.array([LABEL], dtype=object), "word")]
    outputs = [tensor("y", shape=(-1, WIDTH)), tensor("label", "BYTES", (1,)), tensor("echo", "BYTES")]
    return graph(nodes, [tensor("x", shape=(-1, WIDTH)), tensor("note", "BYTES")], outputs, constants)


@dataclass
class Captured:
    """A tapped world, and everything secret that passed through it."""

    world: World
    tap: Tap
    needles: dict[str, bytes] = field(default_factory=dict)

    def texts(self) -> dict[str, bytes]:
        """Everything that an onlooker has: streams, logs, metrics, files but the KMS's and the security module's own."""
        found = {f"stream {at}": bytes(stream) for at, stream in enumerate(self.tap.streams)}
        for folder in (self.world.directory / "log", self.world.run, self.world.feed):
            for path in folder.rglob("*"):
                if path.is_file() and "image" not in path.parts:
                    found[str(path.relative_to(self.world.directory))] = path.read_bytes()
        return found


def spellings(needle: bytes) -> list[bytes]:
    """A needle as it is, in hex, and in base64 at each of its three alignments."""
    middles = [base64.b64encode(bytes(shift) + needle)[4 if shift else 0 : -4] for shift in range(3)]
    return [needle, needle.hex().encode(), needle.hex().upper().encode(), *middles]


def found_in(needles: dict[str, bytes], texts: dict[str, bytes]) -> list[tuple[str, str]]:
    """(what, where) of every needle that shows."""
    return [
        (what, where) for what, needle in needles.items() for where, text in texts.items() if any(one in text for one in spellings(needle))
    ]


@pytest.fixture(scope="module")
def captured() -> Iterator[Captured]:
    """A world with relays on every socket of the enclave and between caller and parent, its console kept, metrics served."""
    patch = pytest.MonkeyPatch()
    drawn: list[bytes] = []
    draw = os.urandom

    def kept(count: int) -> bytes:
        drawn.append(draw(count))
        return drawn[-1]

    with closing(World.create()) as made:
        made.start_kms()
        made.owner.create_key([made.measured()])
        patch.setattr(os, "urandom", kept)
        made.owner.seal([ModelSpec(id="secretive", version="1", onnx=labelled(), settings={"answer_padding": 2048})])
        patch.undo()
        made.owner.publish(made.owner.manifest())
        run = made.new_run()
        tap = Tap(run=run, side=run / "side").start()
        with (made.directory / "log" / "console").open("wb") as console:
            made.start_parent(enclave_side=tap.side)
            made.start_enclave(console=console)
            made.wait_serving()
            captured = Captured(world=made, tap=tap)
            captured.needles |= {"owner key": made.owner.key.private_bytes_raw(), "issuer key": made.owner.issuer.private_bytes_raw()}
            captured.needles |= {"weights": WEIGHTS.tobytes(), "input": X.tobytes(), "output": Y.tobytes(), "label": LABEL.encode()}
            data_keys = _data_keys(made, drawn)
            assert data_keys
            captured.needles |= data_keys
            yield captured
            tap.stop()
    assert faults.until(lambda: not faults.processes(made.directory)), "processes left"


def _data_keys(world: World, drawn: list[bytes]) -> dict[str, bytes]:
    """The data key among what was drawn while sealing: what does not stand in the artifact itself."""
    artifact = b"".join(path.read_bytes() for path in world.feed.iterdir())
    return {f"data key {at}": value for at, value in enumerate(drawn) if len(value) == 32 and value not in artifact}


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
        async with await caller(captured.world, subject) as client:
            answer = await client.infer("secretive", {"x": X, "note": np.array([note], dtype=object)})
            assert (Y.tolist(), [LABEL.encode()]) == (answer.outputs["y"].tolist(), answer.outputs["label"].tolist())
            with pytest.raises(RequestRefusedError):
                await client.infer("secretive", {"x": X[:, :3], "note": np.array([note], dtype=object)})

    run(work())
    needles |= {"subject": subject.encode(), "note": note.encode()}
    assert {"caller key", "session secret", "credential", "subject"} <= needles.keys()
    texts = captured.texts() | {"metrics": metrics(captured.world), "the caller's log": caplog.text.encode()}
    assert [] == found_in(needles, texts)
    manifest = (captured.world.feed / "manifest.cose").read_bytes()
    public = {"manifest": manifest[:200], "a metric": b"enclave_requests"}
    assert {"manifest", "a metric"} == {what for what, _ in found_in(public, texts)}
    assert sum(len(text) for text in texts.values()) > 30_000


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


async def shape_of(captured: Captured, ask: Callable[[Any], Coroutine[Any, Any, object]], subject: str) -> list[list[tuple[int, int]]]:
    """The frames of both directions of a session in which `ask` alone happens."""
    before = len(captured.tap.streams)
    async with await caller(captured.world, subject) as client:
        with suppress(RequestRefusedError):
            await ask(client)
    await asyncio.sleep(0.2)
    return sorted(lengths(bytes(stream)) for stream in captured.tap.streams[before:] if stream[4] in (1, 2))


def test_frames_of_one_length(captured: Captured) -> None:
    """An inference, a question for readiness, each kind of refusal and every caller show the same sequence of frame lengths."""
    note = np.array([""], dtype=object)

    async def work() -> None:
        asks: dict[str, Callable[[Any], Coroutine[Any, Any, object]]] = {
            "infer": lambda client: client.infer("secretive", {"x": X, "note": note}),
            "ready": lambda client: client.ready("secretive"),
            "metadata": lambda client: client.metadata("secretive"),
            "wrong shape": lambda client: client.infer("secretive", {"x": X[:, :3], "note": note}),
            "no such output": lambda client: client.infer("secretive", {"x": X, "note": note}, outputs=["nothing"]),
            "malformed": lambda client: client.call("/v2/models/secretive/infer", b"{"),
            "another input": lambda client: client.infer("secretive", {"x": np.zeros((9, WIDTH), np.float32), "note": note}),
        }
        shapes = {name: await shape_of(captured, ask, "a") for name, ask in asks.items()}
        shapes["a long name"] = await shape_of(captured, asks["infer"], "a caller with a far longer name than others " * 2)
        first = shapes["infer"]
        assert 2 == len(first)
        assert dict.fromkeys(shapes, first) == shapes

    run(work())
