"""Starts the doors and ends them in order."""

import asyncio
from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import signal

from grpc import aio

from cloister.session import CallerIdentity
from cloister.sidecar import grpc_door, listen
from cloister.sidecar.access import Access
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.config import Listener
from cloister.sidecar.http_door import Door, HttpConnection
from cloister.sidecar.http_service import HttpService
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.room import Room
from wire.endpoint import Tcp, Unix

BODIES_MAX = 8  # of the largest size, at all doors together
DRAIN_SECONDS = 10.0
RENEW_SECONDS = 10.0


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


async def _http(stack: contextlib.AsyncExitStack, settings: Settings, place: Listener, service: HttpService, room: Room) -> str:
    bound = listen.bind(place.at)
    where, hosts = place.at, place.hosts
    if isinstance(where, Tcp):
        port = bound.listener.getsockname()[1]
        hosts = hosts or listen.default_hosts(port)
        url = f"http://{listen.host_of(where)}:{port}"
    else:
        url = where.path
    access = Access(hosts=hosts, token=settings.http_token)
    door = Door(access=access, handler=service.handle, body_max=settings.request_bytes, room=room)
    loop = asyncio.get_running_loop()
    create = loop.create_server if isinstance(where, Tcp) else loop.create_unix_server
    server: asyncio.Server = await create(lambda: HttpConnection(door), sock=bound.listener)
    stack.push_async_callback(_end_http, server, door, bound)
    return url


async def _grpc(where: Unix | Tcp, service: grpc_door.GrpcService) -> tuple[aio.Server, str]:
    made = grpc_door.server(service)
    if isinstance(where, Unix):
        listen.clear(where.path)  # grpcio would take it from whoever listens there
        with listen.private():
            made.add_insecure_port(f"unix:{where.path}")
        target = f"unix:{where.path}"
    else:
        port = made.add_insecure_port(f"{listen.host_of(where)}:{where.port}")
        target = f"{listen.host_of(where)}:{port}"
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
    room = Room(BODIES_MAX * settings.request_bytes)
    door = grpc_door.GrpcDoor(access=Access(token=settings.grpc_token), message_max=settings.request_bytes, room=room)
    grpc_service = grpc_door.GrpcService(appliance, counts, door, seconds=settings.request_seconds)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(appliance.close)
        url = target = None
        if settings.http is not None:
            url = await _http(stack, settings, settings.http, http_service, room)
        if settings.grpc is not None:
            grpc_server, target = await _grpc(settings.grpc.at, grpc_service)
            stack.push_async_callback(grpc_server.stop, DRAIN_SECONDS)
        opened(Opened(http=url, grpc=target))
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await ended.wait()
            identity = await asyncio.to_thread(settings.renewed)
            if identity is not None:
                appliance.renew(identity)


async def _end_http(server: asyncio.Server, door: Door, bound: listen.Bound) -> None:
    """No new connection; requests being answered get ten seconds. The name is given up first: from then on a successor may take it."""
    bound.unlink()
    server.close()
    for connection in tuple(door.connections):
        connection.close()
    end = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while door.connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - bounded, and only at the end
        await asyncio.sleep(0.02)
    for connection in tuple(door.connections):
        connection.abort()
