"""Starts the doors and ends them in order; the only place that binds."""

import asyncio
from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import os
import signal
import socket
import stat

from grpc import aio

from cloister.session import CallerIdentity
from cloister.sidecar import grpc_door
from cloister.sidecar.access import Access
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.config import Listener
from cloister.sidecar.http_door import Door, HttpConnection
from cloister.sidecar.http_service import HttpService
from cloister.sidecar.metrics import Metrics
from wire.endpoint import Tcp, Unix

BACKLOG = 128
DRAIN_SECONDS = 10.0
RENEW_SECONDS = 10.0
SOCKET_MODE_MASK = 0o177


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Where the doors are, as a client writes it: a URL or path for HTTP, a gRPC target."""

    http: str | None
    grpc: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `serve` needs. `renewed` gives a new identity when there is one (asked on a thread, every ten seconds); `banner` is
    shown over the verdict page where evidence is not judged under AWS's root."""

    target: Target
    http: Listener | None = None
    http_token: str | None = None
    grpc: Listener | None = None
    grpc_token: str | None = None
    request_seconds: float = 60.0
    request_bytes: int = 72 << 20
    banner: str | None = None
    renewed: Callable[[], CallerIdentity | None] = lambda: None


def _remove_stale(path: str) -> None:
    """A socket file that nobody listens on any more; anything else is left, and binding fails."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


def _bind(at: Unix | Tcp) -> socket.socket:
    """A listening socket, a Unix one readable by its user alone from the first moment on. Raises OSError."""
    if isinstance(at, Unix):
        _remove_stale(at.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(SOCKET_MODE_MASK)
        try:
            listener.bind(at.path)
        finally:
            os.umask(mask)
    else:
        family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((at.host, at.port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def _http(settings: Settings, listener: Listener, service: HttpService) -> tuple[asyncio.Server, Door, str]:
    bound = _bind(listener.at)
    where, hosts = listener.at, listener.hosts
    if isinstance(where, Tcp):
        port = bound.getsockname()[1]
        name = f"[{where.host}]" if ":" in where.host else where.host
        hosts = hosts or tuple(f"{host}:{port}" for host in (name, "127.0.0.1", "localhost"))
        url = f"http://{name}:{port}"
    else:
        url = where.path
    door = Door(access=Access(hosts=hosts, token=settings.http_token), handler=service.handle, body_max=settings.request_bytes)
    loop = asyncio.get_running_loop()
    if isinstance(where, Tcp):
        server = await loop.create_server(lambda: HttpConnection(door), sock=bound)
    else:
        server = await loop.create_unix_server(lambda: HttpConnection(door), sock=bound)
    return server, door, url


async def _grpc(settings: Settings, listener: Listener, service: grpc_door.GrpcService) -> tuple[aio.Server, str]:
    made = grpc_door.server(service, message_max=settings.request_bytes)
    where = listener.at
    if isinstance(where, Unix):
        _remove_stale(where.path)
        mask = os.umask(SOCKET_MODE_MASK)
        try:
            made.add_insecure_port(f"unix:{where.path}")
        finally:
            os.umask(mask)
        target = f"unix:{where.path}"
    else:
        name = f"[{where.host}]" if ":" in where.host else where.host
        port = made.add_insecure_port(f"{name}:{where.port}")
        target = f"{name}:{port}"
    await made.start()
    return made, target


async def serve(settings: Settings, opened: Callable[[Opened], None], ended: asyncio.Event | None = None) -> None:
    """Open the doors, tell where they are, serve until `ended` (default: SIGTERM or SIGINT), then end in order.

    Raises OSError (RuntimeError from gRPC) where a door cannot be opened.
    """
    loop = asyncio.get_running_loop()
    if ended is None:
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
    counts = Metrics()
    appliance = Appliance(settings.target, counts)
    http_service = HttpService(appliance, counts, seconds=settings.request_seconds, banner=settings.banner)
    access = Access(token=settings.grpc_token)
    grpc_service = grpc_door.GrpcService(appliance, counts, access, seconds=settings.request_seconds)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(appliance.close)
        url = target = None
        if settings.http is not None:
            server, door, url = await _http(settings, settings.http, http_service)
            stack.push_async_callback(_end_http, server, door, settings.http.at)
        if settings.grpc is not None:
            grpc_server, target = await _grpc(settings, settings.grpc, grpc_service)
            stack.push_async_callback(grpc_server.stop, DRAIN_SECONDS)
        opened(Opened(http=url, grpc=target))
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await ended.wait()
            identity = await asyncio.to_thread(settings.renewed)
            if identity is not None:
                appliance.renew(identity)


async def _end_http(server: asyncio.Server, door: Door, at: Unix | Tcp) -> None:
    """No new connection; requests being answered get ten seconds."""
    server.close()
    for connection in tuple(door.connections):
        connection.close()
    end = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while door.connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - bounded, and only at the end
        await asyncio.sleep(0.02)
    for connection in tuple(door.connections):
        connection.abort()
    if isinstance(at, Unix):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(at.path)
