"""Two machines as on EC2: the enclave, and beside it the parent instance as a guest with CID 3 and the unmodified `parent/`.

Real AF_VSOCK on both sides of every stream between them. What stands in for the instance's network (callers, KMS) is relayed by the
test's own launcher inside the parent's guest.
"""

import asyncio
from collections.abc import Iterator
import json
from pathlib import Path
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import numpy as np
import onnxruntime
import pytest

from cloister.api import connect
from owner import cpio
from simulator.owner import ModelSpec
from simulator.patients import INPUT, MODEL, VERSION, Patients, train
from simulator.qemu import machine
from simulator.qemu.machine import ENCLAVE_CID, Machine
from simulator.qemu.world import BOOT_SECONDS, QemuWorld
from simulator.world import memory_folder
from tests.qemu import lane
from tests.vectors_path import ROOT
from wire import ports

CALLERS, KMS = 9999, 8443

# The parent instance: its loopback device up, two relays for what would be its network, and the parent itself.
LAUNCHER = """
import fcntl, socket, struct, subprocess, sys, threading

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x41))

def pump(source, target):
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def relay(listener, dial):
    while True:
        near = listener.accept()[0]
        try:
            far = dial()
        except OSError:
            near.close()
            continue
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

def to_parent():
    stream = socket.socket(socket.AF_UNIX)
    stream.connect("/tmp/parent.sock")
    return stream

def to_host():
    stream = socket.socket(socket.AF_VSOCK)
    stream.connect((2, 8443))
    return stream

callers = socket.socket(socket.AF_VSOCK)
callers.bind((socket.VMADDR_CID_ANY, 9999))
kms = socket.socket()
kms.bind(("127.0.0.1", 8443))
for listener, dial in ((callers, to_parent), (kms, to_host)):
    listener.listen(64)
    threading.Thread(target=relay, args=(listener, dial), daemon=True).start()
sys.exit(subprocess.call([sys.executable, "-I", "-m", "parent", "--config", "/parent.toml"]))
"""

CONFIG = f"""
[enclave]
session = "vsock:{ENCLAVE_CID}:{ports.SESSION}"
cid = {ENCLAVE_CID}
[listen]
sessions = ["unix:/tmp/parent.sock"]
feed = "vsock:3:{ports.FEED}"
status = "vsock:3:{ports.STATUS}"
credentials = "vsock:3:{ports.CREDENTIALS}"
[feed]
directory = "/feed"
[credentials]
source = "file"
path = "/credentials.json"
[[egress]]
listen = "vsock:3:{ports.EGRESS}"
to = "127.0.0.1:{KMS}"
"""


def instance_init(folder: Path) -> bytes:
    """The first process of the parent's machine: ours without the heartbeat, which is an enclave's alone."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs cc")
    source = (ROOT / "deploy/init/init.c").read_text()
    changed = source.replace("\theartbeat();\n", "\t(void)heartbeat;\n")
    assert changed != source
    (folder / "init.c").write_text(changed)
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", str(folder / "init"), str(folder / "init.c")], check=True)
    return (folder / "init").read_bytes()


def instance(world: QemuWorld, folder: Path) -> list[cpio.Entry]:
    """The overlay that makes the image's root a parent instance."""
    access = world.owner.parent_access()
    fields = {
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
        "session_token": access.session_token,
        "expires": int(time.time()) + 3600,
    }
    package = "rootfs/usr/lib/python3/dist-packages/parent"
    sources = [path for path in (ROOT / "parent").iterdir() if path.suffix == ".py"]
    return [
        *lane.script("launcher", LAUNCHER),
        cpio.file("init", instance_init(folder), 0o755),
        cpio.file("rootfs/parent.toml", CONFIG.encode()),
        cpio.file("rootfs/credentials.json", json.dumps(fields).encode(), 0o600),
        *(cpio.file(f"rootfs/feed/{path.name}", path.read_bytes()) for path in world.feed.iterdir()),
        *(cpio.file(f"{package}/{path.name}", path.read_bytes()) for path in sources),
    ]


def kms_relay(run: Path, port: int) -> None:
    """Connections of the parent's guest to CID 2, port 8443, go to the simulated KMS."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run / f"parent_{KMS}"))
    listener.listen(16)

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def serve() -> None:
        while True:
            near = listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


@pytest.fixture(scope="module")
def patients() -> Patients:
    return train()


@pytest.fixture(scope="module")
def topology(patients: Patients) -> Iterator[tuple[QemuWorld, Machine, Machine]]:
    world = QemuWorld.of(lane.IMAGE, lane.settings())
    booted: list[Machine] = []
    try:
        world.start_kms()
        world.owner.create_key([world.measured()])
        world.owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=patients.onnx)])
        world.owner.publish(world.owner.manifest(clocksources=("tsc",)))
        with tempfile.TemporaryDirectory(prefix="t-", dir=memory_folder()) as directory:
            runs = [Path(directory) / name for name in ("i", "e")]
            for run in runs:
                run.mkdir()
            kms_relay(runs[0], world.kms_port)
            overlay = machine.overlaid(world.parts, instance(world, runs[0]))
            theirs = lane.settings(cid=3, peer_cid=ENCLAVE_CID, routes=(f"{ENCLAVE_CID}={runs[1] / 'vsock'}", "2"), forwards=(CALLERS,))
            booted.append(machine.boot(overlay, world.image, theirs, run=runs[0], state=None))
            ours = lane.settings(routes=(f"3={runs[0] / 'vsock'}",), forwards=())
            booted.append(machine.boot(world.parts, world.image, ours, run=runs[1], state=world.state))
            end = time.monotonic() + BOOT_SECONDS
            while "stage 5" not in booted[0].console:
                ended = time.monotonic() > end or any(one.process.poll() is not None for one in booted)
                assert not ended, booted[0].console[-2000:] + booted[1].console[-2000:]
                time.sleep(0.3)
            yield world, booted[0], booted[1]
            for one in booted:
                one.terminate()
    finally:
        for one in booted:
            one.terminate()
        world.close()


def test_a_caller_is_served_through_a_real_parent_instance(topology: tuple[QemuWorld, Machine, Machine], patients: Patients) -> None:
    """Attested and answered through two guests; labels equal plain onnxruntime's."""
    world, parent, _ = topology

    async def ask() -> np.ndarray:
        values = world.owner.reference_values([world.measured()])
        endpoint = f"unix:{parent.run / f'enclave_{CALLERS}'}"
        async with await connect(endpoint, values, identity=world.owner.identity(), roots=world.roots, timeout=60) as client:
            return (await client.infer(MODEL, {INPUT: patients.measurements})).outputs["label"]

    session = onnxruntime.InferenceSession(patients.onnx, providers=["CPUExecutionProvider"])
    assert np.array_equal(asyncio.run(ask()), session.run(["label"], {INPUT: patients.measurements})[0])


def test_the_parent_saw_every_stage_over_vsock(topology: tuple[QemuWorld, Machine, Machine]) -> None:
    """Boot reports of all five stages arrived at the instance, in order; its listeners are vsock, CID 3."""
    console = topology[1].console
    assert re.findall(r"stage (\d)", console) == ["1", "2", "3", "4", "5"]
    assert f"vsock:3:{ports.FEED}" in console
