"""The image that `make image` built, booted for real: /dev/nsm driver, AF_VSOCK with CID 3, KMS unwrap, inference, refusals."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
from dataclasses import replace
import io
import json
from pathlib import Path
import socket
import statistics
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import numpy as np
import onnx
from onnx import TensorProto, helper
import onnxruntime
import pytest

from attestation.values import pcr16_of
from cloister.api import Client, connect
from cloister.errors import EvidenceRefusedError
from enclave import privileges
from owner import cpio
from simulator.owner import ModelSpec
from simulator.patients import INPUT, MODEL, VERSION, Patients, train
from simulator.qemu.world import QemuWorld
from tests.qemu import lane
from tests.qemu.lane import IMAGE
from wire import ports
from wire.errors import BootFailure, Stage

LARGE = "negated"
LARGE_ELEMENTS = 256 * 1024  # one MiB of float32
Others = tuple[Future[dict[str, Any]], Future[bytes]]
SUMMARY = IMAGE.with_name("qemu-test.json")


def negation() -> bytes:
    """A model whose answer is as large as its input: 1 MiB each."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [LARGE_ELEMENTS]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negation", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def patients() -> Patients:
    return train()


@pytest.fixture(scope="module")
def summary() -> Iterator[dict[str, object]]:
    found: dict[str, object] = {"image_bytes": IMAGE.stat().st_size}
    yield found
    SUMMARY.write_text(json.dumps(found, indent=1) + "\n")


def from_guest(run: Path, port: int, seconds: float = 120) -> bytes:
    """Everything that the guest sends over one connection to CID 3."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / f"parent_{port}"))
        listener.listen(1)
        listener.settimeout(seconds)
        connection, _ = listener.accept()
        connection.settimeout(seconds)
        with connection, connection.makefile("rb") as stream:
            return stream.read()


# Runs as the image's command: starts the enclave as the image does and notes what the kernel says of every process of it; then,
# instead of it, plain onnxruntime on the same model and rows. All of that goes to the parent's CID.
INSIDE = """
import base64, json, os, socket, subprocess, time
enclave = subprocess.Popen(["/usr/bin/python3", "-I", "-m", "enclave"])
found = {}
for _ in range(1200):
    found = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as line, open(f"/proc/{name}/status") as status:
                if name.isdigit() and int(name) != os.getpid() and b"enclave" in line.read():
                    found[name] = status.read()
        except OSError:
            pass
    if len([1 for text in found.values() if "Uid:\\t0" not in text]) >= 2:
        break
    time.sleep(0.1)
seen = {"server": enclave.pid, "status": found, "device": os.stat("/dev/nsm").st_mode & 0o777}
with open("/proc/mounts") as mounts, open(f"/proc/{enclave.pid}/limits") as limits:
    seen |= {"root": next(line for line in mounts if line.split()[1] == "/"), "limits": limits.read()}
enclave.kill()
enclave.wait()

import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("/model.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
outputs = session.run(names, {"measurements": np.load("/rows.npy")})
seen["outputs"] = {name: base64.b64encode(value.tobytes()).decode() for name, value in zip(names, outputs)}
stream = socket.socket(socket.AF_VSOCK)
stream.connect((3, 7777))
stream.sendall(json.dumps(seen).encode())
"""


def look_inside(patients: Patients, state: Path) -> dict[str, Any]:
    """What INSIDE says from a guest of its own."""
    rows = io.BytesIO()
    np.save(rows, patients.measurements)
    overlay = [*lane.script("inside", INSIDE), cpio.file("rootfs/model.onnx", patients.onnx), cpio.file("rootfs/rows.npy", rows.getvalue())]
    with lane.guest(overlay, state=state) as guest:
        value: dict[str, Any] = json.loads(from_guest(guest.run, 7777))
        return value


def boot_without_drop(state: Path) -> bytes:
    """The last boot report of a guest whose enclave leaves out the server's own step of giving up root."""
    package = "rootfs/usr/lib/python3/dist-packages/enclave"
    source = Path(privileges.__file__).read_text()
    changed = source.replace("    os.setresuid(", "    if uid != 7001: os.setresuid(")
    assert changed != source
    stale = cpio.file(f"{package}/__pycache__/privileges.cpython-313.pyc", b"")  # no cache of a module: its source counts
    with lane.guest([cpio.file(f"{package}/privileges.py", changed.encode()), stale], state=state) as guest:
        return from_guest(guest.run, ports.STATUS)


@pytest.fixture(scope="module")
def others(patients: Patients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    """Two more guests, one after the other, while the world's own boots and serves."""
    state = tmp_path_factory.mktemp("state")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(look_inside, patients, state), pool.submit(boot_without_drop, state)


@pytest.fixture(scope="module")
def world(patients: Patients, summary: dict[str, object], others: Others) -> Iterator[QemuWorld]:
    del others  # only to be started first
    world = QemuWorld.of(IMAGE, lane.settings())
    try:
        world.start_kms()
        world.owner.create_key([world.measured()])
        specs = [ModelSpec(id=MODEL, version=VERSION, onnx=patients.onnx), ModelSpec(id=LARGE, version="1", onnx=negation())]
        world.owner.seal(specs)
        world.owner.publish(world.owner.manifest(clocksources=("tsc",)))
        world.new_run()
        world.start_parent()
        started = world.start_machine()
        world.wait_serving()
        summary["memory_mib"] = world.settings.memory_mib
        summary["seconds_to_first_vsock_byte"] = round((started.heartbeat.at or 0) - started.started, 2)
        summary["seconds_to_serving"] = round(time.monotonic() - started.started, 2)
        yield world
    finally:
        world.close()


@contextlib.asynccontextmanager
async def client(world: QemuWorld) -> AsyncIterator[Client]:
    values = world.owner.reference_values([world.measured()])
    opened = await connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots, timeout=60)
    async with opened:
        yield opened


def plain(patients: Patients) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(patients.onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: patients.measurements}), strict=True))


def test_evidence_is_accepted_with_the_predicted_pcrs(world: QemuWorld) -> None:
    """A caller appraises the guest's document with PCR0-2 as `image measure` gives them for the file, PCR16 the owner's."""

    async def ask() -> None:
        async with client(world) as opened:
            claims = opened.attestation.claims
            assert (claims.pcrs[0], claims.pcrs[1], claims.pcrs[2]) == (world.image.pcr0, world.image.pcr1, world.image.pcr2)
            assert sorted(claims.pcrs) == list(range(32))

    asyncio.run(ask())


def test_predictions_equal_plain_onnxruntime(world: QemuWorld, patients: Patients, summary: dict[str, object], others: Others) -> None:
    """Labels equal and scores within 1e-5 of plain onnxruntime here; bit for bit those of plain onnxruntime in the same guest."""

    async def ask() -> dict[str, np.ndarray]:
        async with client(world) as opened:
            answer = await opened.infer(MODEL, {INPUT: patients.measurements})
            seconds = []
            for _ in range(20):
                start = time.perf_counter()
                await opened.infer(MODEL, {INPUT: patients.measurements[:1]})
                seconds.append(time.perf_counter() - start)
            summary["latency_ms_p50"] = round(1000 * statistics.median(seconds), 2)
            return answer.outputs

    sealed, here, inside = asyncio.run(ask()), plain(patients), others[0].result()["outputs"]
    assert np.array_equal(sealed["label"], here["label"])
    assert np.allclose(sealed["probabilities"], here["probabilities"], atol=1e-5, rtol=0)
    assert {name: base64.b64encode(value.tobytes()).decode() for name, value in sealed.items()} == inside


def test_a_mebibyte_both_ways(world: QemuWorld) -> None:
    """One MiB in, one MiB out, every element right."""
    x = np.arange(LARGE_ELEMENTS, dtype=np.float32)

    async def ask() -> np.ndarray:
        async with client(world) as opened:
            return (await opened.infer(LARGE, {"x": x})).outputs["y"]

    assert np.array_equal(asyncio.run(ask()), -x)


def test_twenty_sessions_at_once(world: QemuWorld, patients: Patients) -> None:
    """Twenty callers, a session each, open together and all get their own rows' answers."""
    expected = plain(patients)["label"]

    async def one(index: int) -> bool:
        async with client(world) as opened:
            answer = await opened.infer(MODEL, {INPUT: patients.measurements[index : index + 1]})
            return bool(answer.outputs["label"][0] == expected[index])

    async def ask() -> list[bool]:
        return await asyncio.gather(*(one(index) for index in range(20)))

    assert asyncio.run(ask()) == [True] * 20


def test_another_image_or_owner_is_refused_by_the_caller(world: QemuWorld) -> None:
    """Reference values of another image, and of another owner: no session, nothing sealed."""
    values = world.owner.reference_values([world.measured()])
    image = replace(values.measurements[0], pcr0=bytes(47) + b"\1")
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    for wrong in (replace(values, measurements=(image,)), replace(values, owner_key=other, pcr16=pcr16_of(other))):
        with pytest.raises(EvidenceRefusedError):
            asyncio.run(connect_and_close(world, wrong))


async def connect_and_close(world: QemuWorld, values: object) -> None:
    opened = await connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots, timeout=60)  # type: ignore[arg-type]
    async with opened:
        pass


def test_the_kernel_shows_no_privilege_kept(others: Others) -> None:
    """In the guest the server runs as 7001 and the zygote as 7002, with no capability, no_new_privs, no core; root is read-only."""
    seen = others[0].result()
    server = seen["status"].pop(str(seen["server"]))
    assert privileges.fault(server, 7001) is None
    assert seen["status"]
    assert [privileges.fault(status, 7002) for status in seen["status"].values()] == [None] * len(seen["status"])
    assert seen["device"] == 0o600
    assert "ro" in seen["root"].split()[3].split(",")
    core = next(line.split() for line in seen["limits"].splitlines() if line.startswith("Max core"))
    assert core[4:6] == ["0", "0"]


def test_an_enclave_that_kept_its_privileges_stops(others: Others) -> None:
    """Where the server's own step is left out, the boot ends: PRIVILEGES_KEPT, told to the parent."""
    assert others[1].result()[-4:] == bytes((0, Stage.COLD, 0, BootFailure.PRIVILEGES_KEPT))


def test_kms_refuses_another_image(world: QemuWorld) -> None:
    """Where the security module holds another PCR2, KMS does not release the key: KMS_REFUSED, and the guest ends."""
    world.stop_enclave()
    true, world.image = world.image, replace(world.image, pcr2=bytes(47) + b"\1")
    try:
        world.start_machine()
        assert world.wait_ended() == "KMS_REFUSED"
    finally:
        world.image = true
        world.stop_enclave()


def test_killed_and_started_again_it_serves(world: QemuWorld, patients: Patients) -> None:
    """After the plug is pulled a new machine boots beside the same parent, and callers attest it anew."""
    world.stop_enclave()
    world.start_machine()
    world.wait_serving()

    async def ask() -> np.ndarray:
        async with client(world) as opened:
            return (await opened.infer(MODEL, {INPUT: patients.measurements})).outputs["label"]

    assert np.array_equal(asyncio.run(ask()), plain(patients)["label"])
