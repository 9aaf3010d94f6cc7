"""Where the parent's listeners are opened, and who is let in: the enclave's CID alone on vsock (T20), no more connections
at a time, per address and per second than the limits say (T19)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
import contextlib
from dataclasses import dataclass, field
from enum import Enum
import errno
import logging
import os
import socket
import stat

from parent.errors import BindError, ParentError
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, Vsock, render

BACKLOG = 512
PAUSE_SECONDS = 0.1  # after accept failed
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger(__name__)


class Refusal(Enum):
    """Why a connection was closed at once; the metrics count them by name."""

    CID = "peer is not the enclave"
    FULL = "connection limit"
    ADDRESS = "limit per address"
    RATE = "limit per second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Bounds of one listener; None: no such rule. Every vsock peer but `cid`, and `also` while two enclaves run, is refused."""

    connections: int
    per_address: int | None = None
    per_second: int | None = None
    cid: int | None = None
    also: int | None = None


@dataclass(slots=True)
class Gate:
    """Decides on each connection of one listener; `leave` undoes what `enter` counted."""

    admission: Admission
    clock: Callable[[], float]
    active: int = 0
    refused: dict[Refusal, int] = field(default_factory=lambda: dict.fromkeys(Refusal, 0))
    _by_address: dict[str, int] = field(default_factory=dict)
    _tokens: float = 0.0
    _filled: float = float("-inf")

    def enter(self, peer: object, family: int) -> str | Refusal:
        """The name under which the peer is counted, or why it is refused."""
        refusal = self._judge(peer, family)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        name = _address(peer, family)
        self.active += 1
        self._by_address[name] = self._by_address.get(name, 0) + 1
        return name

    def leave(self, name: str) -> None:
        """The connection has ended."""
        self.active -= 1
        self._by_address[name] -= 1
        if not self._by_address[name]:
            del self._by_address[name]

    def _judge(self, peer: object, family: int) -> Refusal | None:
        rule = self.admission
        if family == socket.AF_VSOCK and (rule.cid is None or not isinstance(peer, tuple) or peer[0] not in (rule.cid, rule.also)):
            return Refusal.CID
        if self.active >= rule.connections:
            return Refusal.FULL
        name = _address(peer, family)
        if rule.per_address is not None and name and self._by_address.get(name, 0) >= rule.per_address:
            return Refusal.ADDRESS
        return None if rule.per_second is None or self._take(rule.per_second) else Refusal.RATE

    def _take(self, per_second: int) -> bool:
        """A token bucket of one second's worth."""
        now = self.clock()
        self._tokens = min(float(per_second), self._tokens + (now - self._filled) * per_second)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _address(peer: object, family: int) -> str:
    """What a peer is counted under: a TCP peer's address without its port; peers of local sockets are not told apart."""
    return str(peer[0]) if family in (socket.AF_INET, socket.AF_INET6) and isinstance(peer, tuple) else ""


def bind(endpoint: Endpoint) -> socket.socket:
    """A listening, non-blocking socket. A Unix socket is its user's alone (mode 0600); a stale one is replaced, a live one not.

    Raises: BindError.
    """
    try:
        match endpoint:
            case Vsock(cid, port):
                listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
                listener.bind((cid, port))
            case Unix(path):
                listener = _bind_unix(path)
            case Tcp(host, port, None):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
            case UnixConnect() | Tcp():
                raise ValueError("no listener has such an endpoint")
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise BindError(f"{render(endpoint)}: {error.strerror or error}") from None
    return listener


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more, and nothing else (the sidecar's listeners do the same)."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full backlog is an answer too
            if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
                raise OSError(errno.EADDRINUSE, "another process listens there")
        os.unlink(path)


def _bind_unix(path: str) -> socket.socket:
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _file(path: str) -> tuple[int, int] | None:
    """Which file a path is."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


Handler = Callable[[socket.socket], Awaitable[None]]


class Listener:
    """Accepts on one socket and runs `handler` for each connection let in; a handler's end closes the connection."""

    def __init__(self, endpoint: Endpoint, handler: Handler, admission: Admission) -> None:
        self.endpoint = endpoint
        self.gate = Gate(admission=admission, clock=_now)
        self.exhausted = 0  # times that accept found no file descriptor
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._bound: tuple[int, int] | None = None  # a Unix socket's name, as a file

    def open(self) -> str:
        """Bind; the text of the address that it has (a TCP port 0 becomes a real one). Raises: BindError."""
        self._socket = bind(self.endpoint)
        if isinstance(self.endpoint, Unix):
            self._bound = _file(self.endpoint.path)
        if isinstance(self.endpoint, Tcp):
            host, port = self._socket.getsockname()[:2]
            return render(Tcp(host, port))
        return render(self.endpoint)

    async def serve(self) -> None:
        """Accept until cancelled; then no new connection is taken, and those at hand go on (see `drain`)."""
        if self._socket is None:
            raise RuntimeError("open the listener before it serves")
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    stream, peer = await loop.sock_accept(self._socket)
                except OSError as error:
                    if error.errno == errno.ECONNABORTED:
                        await asyncio.sleep(0)  # the peer went away between its connection and our accept
                        continue
                    # Of descriptors or memory there are none left: the connection stays in the backlog until a session ends.
                    self.exhausted += error.errno in _EXHAUSTED
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                self._admit(stream, peer)
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening; a Unix socket's name goes first: once nobody listens it may be a successor's, and that one stays."""
        if self._socket is not None and self._socket.fileno() >= 0:
            if isinstance(self.endpoint, Unix) and self._bound is not None and _file(self.endpoint.path) == self._bound:
                os.unlink(self.endpoint.path)
            self._socket.close()

    async def drain(self, seconds: float) -> None:
        """Let connections end by themselves for `seconds`, then cut them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _admit(self, stream: socket.socket, peer: object) -> None:
        name = self.gate.enter(peer, stream.family)
        if isinstance(name, Refusal):
            stream.close()
            return
        stream.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._run(stream, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: socket.socket, name: str) -> None:
        try:
            await self._handler(stream)
        except (OSError, ParentError) as error:
            # What a peer does to its own connection is not the parent's trouble, and its bytes are not in these texts.
            log.debug("connection on %s ended: %s", render(self.endpoint), error)
        except Exception:
            log.exception("defect while serving %s", render(self.endpoint))
        finally:
            stream.close()
            self.gate.leave(name)


def _now() -> float:
    return asyncio.get_running_loop().time()


def refusals(listeners: Mapping[str, Listener]) -> dict[tuple[str, str], int]:
    """Refused connections by (listener, reason), for the metrics."""
    return {(name, reason.name.lower()): count for name, each in listeners.items() for reason, count in each.gate.refused.items()}
