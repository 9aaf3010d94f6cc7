"""Boot an enclave image file in QEMU: split it as the hypervisor does, with our devices, under emulation.

No KVM, no vsock of this machine, no privileges: QEMU is Debian's, unpacked and called through its own loader.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
import hashlib
from pathlib import Path, PurePosixPath
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time

from attestation import eif
from attestation.eif import Measurements
from attestation.eif_format import SECTION, Kind
from owner import cpio
from owner.cpio import Entry
from owner.image import deflated
from wire import ports

ENCLAVE_CID = 16
MEMORY_MIB = 1024
READY_SECONDS = 60.0


class MachineError(Exception):
    """QEMU or its devices do not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is loaded: kernel, ramdisks one after the other, and the command line."""

    kernel: bytes
    ramdisk: bytes
    cmdline: str


def split(image: Path) -> tuple[Parts, Measurements]:
    """The parts of a well-formed image file and its measurements. Raises: MalformedImageError, OSError."""
    with image.open("rb") as file:
        measurements = eif.measure(file)
        data: dict[Kind, bytes] = {}
        for section in measurements.sections:
            file.seek(section.offset + SECTION.size)
            data[section.kind] = data.get(section.kind, b"") + file.read(section.size)
    return Parts(kernel=data[Kind.KERNEL], ramdisk=data[Kind.RAMDISK], cmdline=data[Kind.CMDLINE].decode()), measurements


def overlaid(parts: Parts, entries: Sequence[Entry]) -> Parts:
    """The same machine with one more ramdisk, unpacked over the others: for tests that run something else inside.

    What a security module is told is measured from the image file: an overlay never moves a PCR here, as it would on Nitro.
    """
    folders = {parent.as_posix() for entry in entries for parent in PurePosixPath(entry.path).parents if parent != PurePosixPath()}
    more = deflated(cpio.pack([*entries, *(cpio.directory(folder) for folder in folders)]))
    padding = bytes(-len(parts.ramdisk) % 4)
    return Parts(kernel=parts.kernel, ramdisk=parts.ramdisk + padding + more, cmdline=parts.cmdline)


def tsc_khz() -> int:
    """This machine's time-stamp counter, which the emulated one follows."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return int(float(line.partition(":")[2]) * 1000)
    raise MachineError("this machine does not say how fast its counter runs")


def initial_pcrs(measurements: Measurements, module_id: str) -> dict[int, bytes]:
    """What a Nitro hypervisor fills in before the enclave starts."""
    instance = module_id.partition("-enc")[0].encode()
    return dict(measurements.pcrs) | {4: hashlib.sha384(bytes(48) + instance).digest()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to boot. `acpi` for Debian's kernel, which finds its devices no other way; Nitro has none."""

    qemu: Path
    acpi: bool = True
    memory_mib: int = MEMORY_MIB
    cpus: int = 2
    cid: int = ENCLAVE_CID
    peer_cid: int = 3
    routes: tuple[str, ...] = ("3", "2")
    forwards: tuple[int, ...] = (ports.SESSION,)
    append: str = "quiet"


def command(settings: Settings, run: Path, cmdline: str, *, nsm: bool) -> list[str]:
    """QEMU's command line."""
    root, libraries = settings.qemu, settings.qemu / "usr/lib/x86_64-linux-gnu"
    memory = f"{settings.memory_mib}M"
    words = [str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(root / "usr/bin/qemu-system-x86_64")]
    words += ["-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")]
    words += ["-M", f"microvm,acpi={'on' if settings.acpi else 'off'},memory-backend=m"]
    words += ["-object", f"memory-backend-memfd,id=m,size={memory},share=on", "-m", memory]
    words += ["-accel", "tcg", "-cpu", "max", "-smp", str(settings.cpus), "-nographic", "-no-reboot"]
    words += ["-kernel", str(run / "kernel"), "-initrd", str(run / "ramdisk")]
    # reboot=k would reboot for ever; the last one given counts. The emulated counter cannot be calibrated.
    words += ["-append", f"{cmdline} {settings.append} reboot=t tsc_early_khz={tsc_khz()} tsc=reliable"]
    words += ["-chardev", f"socket,id=v,path={run / 'v'}", "-device", "vhost-user-vsock-device,chardev=v"]
    if nsm:
        words += ["-chardev", f"socket,id=n,path={run / 'n'}", "-device", "vhost-user-test-device,chardev=n,virtio-id=33,num_vqs=1"]
    return words


def start_devices(settings: Settings, run: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    """The devices' process. Raises: MachineError."""
    tree = Path(__file__).resolve().parent.parent.parent
    words = [sys.executable, "-P", "-m", "simulator", "qemu-devices", "--run", str(run), "--cid", str(settings.cid)]
    words += ["--peer-cid", str(settings.peer_cid), *extra]
    words += [word for route in settings.routes for word in ("--route", route)]
    words += [word for port in settings.forwards for word in ("--forward", str(port))]
    devices = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": str(tree)})
    if devices.stdout is None or devices.stdout.readline() != b"ready\n":
        devices.kill()
        devices.wait()
        raise MachineError("the devices do not start")
    return devices


class Heartbeat:
    """Answers port 9000 as nitro-cli does on EC2, and notes when."""

    def __init__(self, run: Path) -> None:
        self.at: float | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(run / f"parent_{ports.HEARTBEAT}"))
        self._listener.listen(1)
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(READY_SECONDS)
                byte = connection.recv(1)
                if byte == bytes((ports.HEARTBEAT_BYTE,)):
                    self.at = time.monotonic()
                    connection.sendall(byte)
        except OSError:
            return

    def close(self) -> None:
        """Answer no more."""
        self._listener.close()


@dataclass(kw_only=True)
class Machine:
    """A machine that was started in a directory of its own; `console` is what the guest wrote there."""

    run: Path
    measurements: Measurements
    module_id: str
    started: float
    heartbeat: Heartbeat
    devices: subprocess.Popen[bytes] = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def console(self) -> str:
        """What the guest wrote to its console."""
        return (self.run / "console").read_text(encoding="utf-8", errors="replace")

    def connects(self, port: int, seconds: float = 5.0) -> bool:
        """Whether the guest takes a connection to a port now."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(seconds)
            try:
                stream.connect(str(self.run / "vsock"))
                stream.sendall(b"CONNECT %d\n" % port)
                return stream.recv(2) == b"OK"
            except OSError:
                return False

    def wait(self, seconds: float) -> int:
        """Wait until the guest ends by itself. Raises: subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def terminate(self) -> None:
        """Pull the plug."""
        self.heartbeat.close()
        for process in (self.process, self.devices):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for path in (*(self.run / name for name in ("v", "n", "vsock", f"parent_{ports.HEARTBEAT}")), *self.run.glob("enclave_*")):
            path.unlink(missing_ok=True)


def boot(parts: Parts, measurements: Measurements, settings: Settings, *, run: Path, state: Path | None, module_id: str = "") -> Machine:
    """Start a machine in `run`, a directory with a short path. With `state` it has a security module under that root.

    Raises: MachineError, OSError.
    """
    module = module_id or f"i-{secrets.token_hex(9)[:17]}-enc{secrets.token_hex(8)}"
    (run / "kernel").write_bytes(parts.kernel)
    (run / "ramdisk").write_bytes(parts.ramdisk)
    pcrs = initial_pcrs(measurements, module)
    extra = ["--state", str(state), "--module-id", module] if state is not None else []
    extra += [word for index, value in pcrs.items() for word in ("--pcr", f"{index}={value.hex()}")]
    devices = start_devices(settings, run, extra)
    heartbeat = Heartbeat(run)
    with (run / "console").open("wb") as console:
        process = subprocess.Popen(
            command(settings, run, parts.cmdline, nsm=state is not None),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={"QEMU_MODULE_DIR": str(settings.qemu / "usr/lib/x86_64-linux-gnu/qemu")},
        )
    return Machine(
        run=run,
        measurements=measurements,
        module_id=module,
        started=time.monotonic(),
        heartbeat=heartbeat,
        devices=devices,
        process=process,
    )
