"""A world with a relay on every socket whose every process is heard, and with everything in it that must not show."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
import os
from pathlib import Path
import secrets
from typing import IO, Any

import numpy as np
from onnx import helper, numpy_helper
import pytest

from simulator.hostile.tap import Tap
from simulator.owner import ModelSpec
from simulator.world import World
from tests.appliance import faults
from tests.appliance.conftest import caller
from tests.model.graphs import bomb, graph, spin, tensor
from wire.errors import Stage
from wire.manifest import Runtime

WIDTH = 8
LABEL = f"label-{secrets.token_hex(12)}"
WEIGHTS = np.frombuffer(secrets.token_bytes(4 * WIDTH), np.uint32).astype(np.float32)
X = np.frombuffer(secrets.token_bytes(4 * WIDTH), np.uint32).astype(np.float32).reshape(1, WIDTH)
Y = X + WEIGHTS
SERVING = f"enclave reached stage {Stage.SERVING.value} SERVING"


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

    def caller(self, subject: str, **claims: Any) -> Any:
        """A coroutine for a client behind the relay in front of the parent."""
        return caller(self.world, subject, endpoint=f"unix:{self.tap.run / 'front'}", **claims)

    def streams(self) -> dict[str, bytes]:
        """Both directions of every connection, named after its relay."""
        found = {f"relay {name} {at}": bytes(stream) for name, relay in self.tap.relays.items() for at, stream in enumerate(relay.streams)}
        return {where: stream for where, stream in found.items() if stream}

    def texts(self) -> dict[str, bytes]:
        """Everything that an onlooker has: streams, what processes wrote, the KMS's log and all else that it keeps, files."""
        found = self.streams() | {f"{name}'s standard output": _written(pipe) for name, pipe in self.pipes.items()}
        for folder in (self.world.directory / "log", self.world.run, self.world.feed, self.world.state):
            for path in folder.rglob("*"):
                if path.is_file() and "image" not in path.parts:
                    found[str(path.relative_to(self.world.directory))] = path.read_bytes()
        return found

    @property
    def pipes(self) -> dict[str, IO[bytes]]:
        """Where processes of the world write but to a file."""
        world = self.world
        assert world.parent is not None and world.kms is not None and world.enclave is not None
        pipes = {"parent": world.parent.popen.stdout, "kms": world.kms.popen.stdout, "nsm": world.enclave.nsm.stdout}
        return {name: pipe for name, pipe in pipes.items() if pipe is not None}


def _written(pipe: IO[bytes]) -> bytes:
    """What has been written to a pipe so far."""
    os.set_blocking(pipe.fileno(), False)
    return pipe.read() or b""


@contextmanager
def standard_error(path: Path) -> Iterator[None]:
    """What is started meanwhile, and given no standard error of its own, writes to `path`."""
    before = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def capturing() -> Iterator[Captured]:
    """A world with relays on every socket: of the enclave, in front of the parent, and between parent and KMS; what its
    processes write is kept, metrics are served."""
    patch = pytest.MonkeyPatch()
    drawn: list[bytes] = []
    draw = os.urandom

    def kept(count: int) -> bytes:
        drawn.append(draw(count))
        return drawn[-1]

    with closing(World.create()) as made:
        log = made.directory / "log"
        made.start_kms()
        made.owner.create_key([made.measured()])
        patch.setattr(os, "urandom", kept)
        made.owner.seal(specs())
        patch.undo()
        made.owner.publish(made.owner.manifest())
        run = made.new_run()
        tap = Tap(run=run, side=run / "side").start()
        tap.between("caller", run / "front", Path(made.endpoint.removeprefix("unix:")))
        made.kms_port = tap.between("kms", ("127.0.0.1", 0), ("127.0.0.1", made.kms_port))
        with (log / "console").open("wb") as console, standard_error(log / "nsm"):
            made.start_parent(enclave_side=tap.side)
            made.start_enclave(console=console)
        made.wait_serving()
        parent = made.parent
        assert parent is not None and faults.until(lambda: SERVING in parent.text())
        captured = Captured(world=made, tap=tap)
        captured.needles |= {"owner key": made.owner.key.private_bytes_raw(), "issuer key": made.owner.issuer.private_bytes_raw()}
        captured.needles |= {"weights": WEIGHTS.tobytes(), "input": X.tobytes(), "output": Y.tobytes(), "label": LABEL.encode()}
        captured.needles |= {"input in digits": str(int(X.max())).encode(), "output in digits": str(int(Y.max())).encode()}
        data_keys = _data_keys(made, drawn)
        assert data_keys
        captured.needles |= data_keys
        yield captured
        tap.stop()
    assert faults.until(lambda: not faults.processes(made.directory)), "processes left"


def specs() -> list[ModelSpec]:
    """The secretive model, one that needs too much memory and one that takes too long; answers of one size."""
    return [
        ModelSpec(id="secretive", version="1", onnx=labelled(), settings={"answer_padding": 2048}),
        ModelSpec(id="bomb", version="1", onnx=bomb()[0], settings={"answer_padding": 2048, "runtime": Runtime(memory_bytes=64 << 20)}),
        ModelSpec(id="spin", version="1", onnx=spin()[0], settings={"answer_padding": 2048}),
    ]


def _data_keys(world: World, drawn: list[bytes]) -> dict[str, bytes]:
    """The data key among what was drawn while sealing: what does not stand in the artifact itself."""
    artifact = b"".join(path.read_bytes() for path in world.feed.iterdir())
    return {f"data key {at}": value for at, value in enumerate(drawn) if len(value) == 32 and value not in artifact}
