"""The process that model workers are forked from: started at boot before any secret exists, under a user of its own.

It is a fresh interpreter with an empty environment: none of the enclave's memory, not its address layout, no LD_*,
OMP_* or ORT_* variable. It holds one socket, on which the enclave asks for workers by number and ends them; it never
sees a tensor. When that socket ends it ends its workers and itself.
"""

from collections.abc import Callable
import contextlib
import importlib
import os
from pathlib import Path
import select
import signal
import socket
import struct
import subprocess
import sys

from enclave import worker
from enclave.confine import restrict_process
from enclave.errors import WorkersGoneError

_COMMAND = struct.Struct("<BI")
_SPAWN, _KILL = 1, 2
_NEWS_MILLISECONDS = 100
# numpy's BLAS would start a thread per core, which forks lose; on telemetry see `enclave.engine`.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


class Zygote:
    """The enclave's handle on it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._next = 0

    @classmethod
    def start(cls, drop: Callable[[], None] | None = None) -> "Zygote":
        """Start it; `drop` runs in the new process before anything else and gives it its own user. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parent.parent)
        code = f"import sys; sys.path.insert(0, {root!r}); from enclave.zygote import main; main({theirs.fileno()})"
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", code],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                preexec_fn=drop,  # noqa: PLW1509  # boot has one thread; there is no other hook between fork and exec
            )
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Becomes readable when the zygote is gone, and never otherwise."""
        return self._control.fileno()

    @property
    def gone(self) -> bool:
        """Whether it has ended; waits a moment for the news, which a worker's end may precede."""
        ended = select.poll()
        ended.register(self._control, select.POLLIN)
        return bool(ended.poll(_NEWS_MILLISECONDS))

    def spawn(self) -> tuple[int, socket.socket]:
        """A new worker's number and the enclave's end of its socket. Raises: WorkersGoneError."""
        self._next += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [_COMMAND.pack(_SPAWN, self._next)], [theirs.fileno()])
            except OSError:
                ours.close()
                raise WorkersGoneError from None
        return self._next, ours

    def kill(self, number: int) -> None:
        """End a worker; one that is gone already is no error."""
        with contextlib.suppress(OSError):
            self._control.send(_COMMAND.pack(_KILL, number))

    def close(self) -> None:
        """End it and all its workers."""
        self._control.close()
        self._process.wait()


class _Nursery:
    """The zygote's own side: a loop over one socket and the pidfds of its children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, int]] = {}  # pidfd: (worker number, process id)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def loop(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                elif descriptor == self._control.fileno() and not self._command():
                    for child in self._children:
                        signal.pidfd_send_signal(child, signal.SIGKILL)
                    return

    def _reap(self, descriptor: int) -> None:
        _, process = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.waitpid(process, 0)
        os.close(descriptor)

    def _command(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, _COMMAND.size, 1)
        except ConnectionResetError:
            return False
        if len(message) != _COMMAND.size:
            return False
        command, number = _COMMAND.unpack(message)
        if command == _SPAWN and descriptors:
            self._fork(number, descriptors[0])
        elif command == _KILL:
            for child, (known, _) in self._children.items():
                if known == number:
                    signal.pidfd_send_signal(child, signal.SIGKILL)
        return True

    def _fork(self, number: int, descriptor: int) -> None:
        zygote = os.getpid()
        try:
            process = os.fork()
        except OSError:
            os.close(descriptor)  # the enclave sees the worker's socket end
            return
        if process == 0:
            self._control.close()
            for child in self._children:
                os.close(child)
            worker.run(socket.socket(fileno=descriptor), zygote)
        os.close(descriptor)
        pidfd = os.pidfd_open(process)
        self._children[pidfd] = (number, process)
        self._poll.register(pidfd, select.POLLIN)


def main(descriptor: int) -> None:
    """The zygote's process, on the control socket that it inherited."""
    restrict_process()
    importlib.import_module("numpy")  # once, for all workers: their pages are shared

    with socket.socket(fileno=descriptor) as control:
        _Nursery(control).loop()
