"""The simulated Nitro hypervisor: measures the enclave's code for real, starts exactly what it measured, with its own NSM.

`pack` makes a deterministic archive of `wire/`, `enclave/` and the enclave's lock file; `measure` gives PCR0-2 by the EIF
rules with that archive as the application's ramdisk; `launch` unpacks *that archive* into a fresh read-only directory and
starts `python -I ENTRY DIRECTORY` there, without environment, beside a security module in a process of its own.
Vsock is Unix sockets in a directory of the run: `enclave_<port>` where the enclave listens, `parent_<port>` where the
parent does.
"""

from dataclasses import dataclass
import hashlib
import io
import os
from pathlib import Path
import secrets
import stat
import subprocess
from typing import IO

from attestation import eif
from attestation.eif import Measurements
from owner import cpio
from simulator import processes
from wire import ports
from wire.endpoint import Unix

LOCK_FILE = "requirements/enclave.lock"
PACKAGES = ("enclave", "wire")
SUFFIXES = (".py", ".txt", ".typed")
KERNEL = b"cloister simulated kernel, version 1"
COMMAND_LINE = b"cloister.simulated=1"
BOOTSTRAP = b"cloister simulated bootstrap, version 1"
ENTRY = Path(__file__).with_name("enclave_entry.py")
NSM_SOCKET = "nsm"
ZERO = bytes(48)


class HypervisorError(Exception):
    """The tree cannot be packed, or what was to be started does not start."""


def _sources(tree: Path) -> list[Path]:
    files = [path for package in PACKAGES for path in (tree / package).rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts]


def pack(tree: Path) -> bytes:
    """The archive of a source tree: equal trees give equal bytes. Raises: HypervisorError where a part is missing."""
    sources = _sources(tree)
    lock = tree / LOCK_FILE
    if not lock.is_file() or not all((tree / package / "__init__.py").is_file() for package in PACKAGES):
        raise HypervisorError("the tree has not wire/, enclave/ and the enclave's lock file")
    entries = [cpio.file(path.relative_to(tree).as_posix(), path.read_bytes(), 0o444) for path in (*sources, lock)]
    folders = {parent.as_posix() for entry in entries for parent in Path(entry.path).parents if parent != Path()}
    return cpio.pack([*entries, *(cpio.directory(folder, 0o555) for folder in folders)])


def measure(archive: bytes) -> Measurements:
    """Measure the simulated image whose application ramdisk is this archive: PCR2 is the archive's alone."""
    image = eif.compose(kernel=KERNEL, cmdline=COMMAND_LINE, ramdisks=(BOOTSTRAP, archive))
    return eif.measure(io.BytesIO(image))


def unpack(archive: bytes, directory: Path) -> None:
    """Write the archive's files into `directory`, which must not exist, and take all write permission from it."""
    directory.mkdir()
    entries = list(cpio.read(archive))
    for entry in entries:
        target = directory / entry.path
        if stat.S_ISDIR(entry.mode):
            target.mkdir(0o755)
        elif stat.S_ISREG(entry.mode):
            target.write_bytes(entry.data)
            target.chmod(0o444)
        else:
            raise HypervisorError("an archive of sources has no links")
    for entry in reversed(entries):
        (directory / entry.path).chmod(stat.S_IMODE(entry.mode))
    directory.chmod(0o555)


def session_endpoint(run: Path) -> Unix:
    """Where the parent reaches the enclave's session port."""
    return Unix(str(run / f"enclave_{ports.SESSION}"))


def parent_endpoint(run: Path, port: int) -> Unix:
    """Where the parent listens for what the enclave dials on CID 3."""
    return Unix(str(run / f"parent_{port}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """A running enclave with its security module."""

    run: Path
    module_id: str
    measurements: Measurements
    process: subprocess.Popen[bytes]
    nsm: subprocess.Popen[bytes]

    def wait(self, seconds: float) -> int:
        """Exit code of the enclave's process. Raises: subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def terminate(self, seconds: float = 10.0) -> None:
        """What `nitro-cli terminate-enclave` does: no warning to the guest, its security module goes with it."""
        self.process.kill()
        self.process.wait(seconds)
        for pipe in (self.process.stdin, self.nsm.stdin, self.nsm.stdout):
            if pipe is not None:
                pipe.close()
        self.nsm.kill()
        self.nsm.wait(seconds)


def _new_module_id() -> str:
    return f"i-{secrets.token_hex(9)[:17]}-enc{secrets.token_hex(8)}"


def initial_pcr4(module_id: str) -> bytes:
    """PCR4 of every enclave on the instance that `module_id` names."""
    return hashlib.sha384(ZERO + module_id.partition("-enc")[0].encode()).digest()


def _initial_pcrs(measurements: Measurements, module_id: str, *, debug: bool) -> dict[int, bytes]:
    """What a Nitro hypervisor fills in; in debug mode PCR0-2 are zero and PCR4 is not."""
    return ({} if debug else dict(measurements.pcrs)) | {4: initial_pcr4(module_id)}


def _start_nsm(run: Path, state: Path, module_id: str, pcrs: dict[int, bytes]) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent
    command = [
        *processes.interpreter(run.parent),
        "-P",
        "-m",
        "simulator",
        "nsm",
        "--socket",
        str(run / NSM_SOCKET),
        "--state",
        str(state),
        "--module-id",
        module_id,
    ]
    command += [word for index, value in pcrs.items() for word in ("--pcr", f"{index}={value.hex()}")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": str(root)})
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        process.kill()
        process.wait()
        raise HypervisorError("the simulated security module does not start")
    return process


def launch(
    archive: bytes,
    *,
    state: Path,
    run: Path,
    module_id: str | None = None,
    debug: bool = False,
    console: IO[bytes] | int = subprocess.DEVNULL,
) -> Enclave:
    """Start an enclave from this archive in `run`, a fresh directory with a short path in its world's; `state` holds the simulated root.

    `debug` is Nitro's debug mode: PCR0-2 are zero, for the attacks that need it. `console` takes what the enclave writes.
    Raises: HypervisorError, OSError.
    """
    module = module_id or _new_module_id()
    measurements = measure(archive)
    directory = run / "image"
    unpack(archive, directory)
    nsm = _start_nsm(run, state, module, _initial_pcrs(measurements, module, debug=debug))
    process = subprocess.Popen(
        [*processes.interpreter(run.parent), "-I", "-B", os.fspath(ENTRY), os.fspath(directory)],
        cwd=run,
        env={},
        stdin=subprocess.PIPE,  # closes with us: the enclave ends with its hypervisor
        stdout=console,
        stderr=subprocess.STDOUT if console != subprocess.DEVNULL else subprocess.DEVNULL,
    )
    return Enclave(run=run, module_id=module, measurements=measurements, process=process, nsm=nsm)
