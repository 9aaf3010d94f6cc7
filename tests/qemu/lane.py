"""What the machine's tests share: where image and QEMU are, and how a guest is made to run something of a test's own."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import tempfile

from owner import cpio
from simulator.qemu import machine
from simulator.qemu.machine import Machine, Settings
from simulator.world import memory_folder
from tests.vectors_path import ROOT

IMAGE = Path(os.environ.get("CLOISTER_IMAGE", ROOT / "build/image/enclave.eif"))
QEMU = ROOT / "build/qemu/root"
ACPI = os.environ.get("CLOISTER_KERNEL", "debian") == "debian"


def settings(**fields: object) -> Settings:
    """The usual machine, with the fields that a test wants otherwise."""
    return Settings(qemu=QEMU, acpi=ACPI, **fields)  # type: ignore[arg-type]


def script(name: str, text: str) -> list[cpio.Entry]:
    """An overlay whose command is this Python program, in the image's own root."""
    command = f"/usr/bin/python3\n-I\n/{name}.py\n".encode()
    return [cpio.file("cmd", command), cpio.file(f"rootfs/{name}.py", text.encode())]


@contextlib.contextmanager
def guest(overlay: list[cpio.Entry], *, state: Path | None = None, **fields: object) -> Iterator[Machine]:
    """Boot the image with an overlay in a directory of its own."""
    parts, measurements = machine.split(IMAGE)
    with tempfile.TemporaryDirectory(prefix="q-", dir=memory_folder()) as directory:
        booted = machine.boot(machine.overlaid(parts, overlay), measurements, settings(**fields), run=Path(directory), state=state)
        try:
            yield booted
        finally:
            booted.terminate()
