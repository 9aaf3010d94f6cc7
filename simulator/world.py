"""A whole simulated world on one machine: KMS, security module, enclave and parent as processes, owner and callers as code.

The product's objects run unchanged; what is pretend is the hypervisor, the security module and the KMS, with a root of
their own. A world lives in one directory, best in memory, and ends with `close`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
import hashlib
import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import tempfile
import time
from typing import IO

from attestation.chain import Root
from attestation.eif import Measurements
from simulator import hypervisor, processes
from simulator.hypervisor import Enclave
from simulator.owner import HOST, Owner
from simulator.pki import SimulatedPki, read_root
from wire import ports

TREE = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
CONSOLE_SHOWN = 2000
PARTITION = "simulated"


class WorldError(Exception):
    """Something of the world did not start or ended unasked; the text says what, with the last lines that it wrote."""


def memory_folder() -> Path:
    """Where worlds live: memory-backed where the machine has it, so that no byte of a model meets a disk."""
    shared = Path("/dev/shm")  # noqa: S108 - a tmpfs on Linux; mkdtemp makes the private folder inside
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def remove(directory: Path) -> None:
    """Remove a world's directory; unpacked images in it are read-only."""
    for path in directory.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


@dataclass(kw_only=True)
class Process:
    """One of the world's processes and what it wrote."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """Everything it wrote to standard error so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, seconds: float = 10.0) -> int:
        """Ask it to end; make it end after `seconds`."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
        self.kill()
        return self.popen.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(kw_only=True)
class World:
    """One world. `tree` is the source tree whose enclave is measured and whose processes run."""

    directory: Path
    tree: Path = TREE
    owner: Owner = field(init=False)
    kms: Process | None = None
    kms_port: int = 0
    kms_name: str = HOST
    parent: Process | None = None
    enclave: Enclave | None = None
    run: Path = field(init=False)
    _console: Path | None = None
    _runs: int = 0
    _archive: bytes | None = field(default=None, repr=False)

    @classmethod
    def create(cls, tree: Path = TREE) -> "World":
        """An empty world in a fresh directory with a simulated root."""
        world = cls(directory=Path(tempfile.mkdtemp(prefix="cloister-", dir=memory_folder())), tree=tree)
        for folder in (world.state, world.feed, world.directory / "log"):
            folder.mkdir(mode=0o700)
        SimulatedPki.open(world.state, instance_id="i-00000000000000000")
        return world

    @property
    def state(self) -> Path:
        """The simulated root's and KMS's directory."""
        return self.directory / "state"

    @property
    def feed(self) -> Path:
        """The manifest and the sealed artifacts, as the parent serves them."""
        return self.directory / "feed"

    @property
    def roots(self) -> tuple[Root, ...]:
        """What evidence of this world chains to."""
        return (Root(partition=PARTITION, sha256=hashlib.sha256(read_root(self.state)).digest()),)

    @property
    def endpoint(self) -> str:
        """Where callers reach the parent."""
        return f"unix:{self.run / 'parent.sock'}"

    def spawn(self, name: str, words: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> Process:
        """Start one of the tree's modules as a process of the world."""
        log = self.directory / "log" / f"{name}-{time.monotonic_ns()}"
        with log.open("wb") as errors:
            popen = subprocess.Popen(
                [*processes.interpreter(self.directory), "-P", "-B", "-m", *words],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(self.tree)},  # in front of an installed copy
            )
        return Process(name=name, popen=popen, log=log)

    def start_kms(self, module: str = "simulator", extra: Sequence[str] = ()) -> None:
        """Start the KMS; `module` may be another one with the same command line."""
        noun = ("kms",) if module == "simulator" else ()
        listen = f"127.0.0.1:{self.kms_port}"
        process = self.spawn(
            "kms", (module, *noun, "--state", str(self.state), "--listen", listen, "--name", self.kms_name, "--name", "127.0.0.1", *extra)
        )
        line = process.popen.stdout.readline().decode().strip() if process.popen.stdout else ""
        if not line.startswith("https://"):
            process.kill()
            raise WorldError(f"the KMS simulator did not start: {process.text()[-500:]}")
        self.kms, self.kms_port = process, int(line.rpartition(":")[2])
        if not hasattr(self, "owner"):
            self.owner = Owner(state=self.state, feed=self.feed, kms_url=line)

    def archive(self) -> bytes:
        """The enclave's code of this world's tree, packed once: the tree may change while its world runs."""
        if self._archive is None:
            self._archive = hypervisor.pack(self.tree)
        return self._archive

    def measured(self) -> Measurements:
        """What the enclave of this world's tree measures to."""
        return hypervisor.measure(self.archive())

    def new_run(self) -> Path:
        """A fresh run directory for an enclave and its parent."""
        self._runs += 1
        self.run = self.directory / f"r{self._runs}"
        self.run.mkdir(mode=0o700)
        return self.run

    def _credentials(self) -> Path:
        access = self.owner.parent_access()
        path = self.run / "credentials.json"
        fields = {
            "access_key_id": access.access_key_id,
            "secret_access_key": access.secret_access_key,
            "session_token": access.session_token,
            "expires": int(time.time()) + 3600,
        }
        path.write_text(json.dumps(fields), encoding="utf-8")
        path.chmod(0o600)
        return path

    def start_parent(self, *, enclave_side: Path | None = None, limits: str = "") -> None:
        """Start the parent on the run directory; `enclave_side` holds the sockets between it and the enclave, where
        something else stands in between."""
        side = enclave_side or self.run

        def quoted(port: int) -> str:
            return json.dumps(f"unix:{side / f'parent_{port}'}")

        config = self.run / "parent.toml"
        config.write_text(
            f"""
[enclave]
session = {json.dumps(f"unix:{side / f'enclave_{ports.SESSION}'}")}
[listen]
sessions = [{json.dumps(self.endpoint)}]
feed = {quoted(ports.FEED)}
status = {quoted(ports.STATUS)}
credentials = {quoted(ports.CREDENTIALS)}
metrics = {json.dumps(f"unix:{self.run / 'metrics'}")}
[feed]
directory = {json.dumps(str(self.feed))}
[credentials]
source = "file"
path = {json.dumps(str(self._credentials()))}
[[egress]]
listen = {quoted(ports.EGRESS)}
to = "127.0.0.1:{self.kms_port}"
{limits}
""",
            encoding="utf-8",
        )
        self.parent = self.spawn("parent", ("parent", "--config", str(config)))
        self._wait_for(lambda: (side / f"parent_{ports.EGRESS}").exists() and Path(self.endpoint[5:]).exists(), self.parent)

    def start_enclave(self, archive: bytes | None = None, *, debug: bool = False, console: IO[bytes] | None = None) -> Enclave:
        """Launch the enclave in the run directory; it boots while this returns. What it writes goes to a file of the world."""
        with ExitStack() as stack:
            if console is None:
                self._console = self.directory / "log" / f"enclave-{time.monotonic_ns()}"
                console = stack.enter_context(self._console.open("wb"))
            self.enclave = hypervisor.launch(archive or self.archive(), state=self.state, run=self.run, debug=debug, console=console)
        return self.enclave

    def console(self) -> str:
        """The last lines that the enclave wrote, below the file's name; empty where it wrote nothing."""
        text = "" if self._console is None else self._console.read_text(encoding="utf-8", errors="replace").rstrip()
        return text and f"\n{self._console} ends:\n{text[-CONSOLE_SHOWN:]}"

    def wait_serving(self) -> None:
        """Wait until the enclave's session port takes connections. Raises: WorldError where its boot stopped."""
        path = str(self.run / f"enclave_{ports.SESSION}")
        enclave, parent = self.enclave, self.parent
        if enclave is None or parent is None:
            raise RuntimeError("start parent and enclave first")
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
                probe.connect(path)
                return
            if enclave.process.poll() is not None:
                raise WorldError(f"the enclave's boot stopped: {self.boot_failure() or 'no report'}{self.console()}")
            time.sleep(0.02)
        raise WorldError("the enclave does not serve in time")

    def boot_failure(self) -> str | None:
        """The name of the last boot failure that the parent logged."""
        if self.parent is None:
            return None
        found = [line for line in self.parent.text().splitlines() if "boot_failure=" in line]
        return found[-1].partition("boot_failure=")[2].split()[0] if found else None

    def wait_stopped(self, seconds: float = START_SECONDS) -> str | None:
        """Wait until the enclave's process ends; the boot failure that it reported."""
        if self.enclave is None:
            raise RuntimeError("no enclave was started")
        self.enclave.wait(seconds)
        time.sleep(0.2)  # the report is on its way through the parent's log
        return self.boot_failure()

    def _wait_for(self, ready: Callable[[], bool], process: Process) -> None:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if process.popen.poll() is not None or time.monotonic() > end:
                raise WorldError(f"{process.name} did not start: {process.text()[-800:]}")
            time.sleep(0.01)

    def stop_enclave(self) -> None:
        """Terminate the enclave, as nitro-cli would."""
        if self.enclave is not None:
            self.enclave.terminate()
            self.enclave = None

    def close(self) -> None:
        """End every process and remove the directory."""
        self.stop_enclave()
        for process in (self.parent, self.kms):
            if process is not None:
                process.stop()
        self.parent = self.kms = None
        remove(self.directory)
