"""Where the doors' sockets are bound and given up; a Unix socket is its user's alone and is never taken from a process that lives."""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import errno
import os
import socket
import stat

from wire.endpoint import Tcp, Unix

BACKLOG = 128
MODE_MASK = 0o177


def host_of(at: Tcp) -> str:
    """The host as it stands in a URL."""
    return f"[{at.host}]" if ":" in at.host else at.host


def default_hosts(port: int) -> tuple[str, ...]:
    """The Host headers under which a loopback listener is reached."""
    return tuple(f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]"))


def clear(path: str) -> None:
    """Remove a socket that nobody listens on any more. Raises: OSError where another process listens there, or it is no socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "exists and is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full backlog is an answer too
            if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
                raise OSError(errno.EADDRINUSE, "in use: another process listens there", path)
        os.unlink(path)


@contextlib.contextmanager
def private() -> Iterator[None]:
    """What is made inside has mode 0600 from its first moment on."""
    before = os.umask(MODE_MASK)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A listening, non-blocking socket; for a Unix one its path, and which file that was when it was bound."""

    listener: socket.socket
    path: str = ""
    file: tuple[int, int] | None = None

    def unlink(self) -> None:
        """Give a Unix socket's name up, before the listener closes: afterwards the name may be a successor's, and that one stays."""
        if self.file is not None and _file(self.path) == self.file:
            os.unlink(self.path)


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def bind(at: Unix | Tcp) -> Bound:
    """Raises: OSError."""
    family = socket.AF_UNIX if isinstance(at, Unix) else socket.AF_INET6 if ":" in at.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(at, Unix):
            clear(at.path)
            with private():
                listener.bind(at.path)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((at.host, at.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return Bound(listener=listener, path=at.path, file=_file(at.path)) if isinstance(at, Unix) else Bound(listener=listener)
