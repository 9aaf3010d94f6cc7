"""Socket pairs and small moves on them, for tests that hold both ends of what the parent serves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
import socket
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 20.0  # how long a test waits for what must happen; never what it asserts


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine; hanging is failing."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE * 3):
            return await coroutine

    return asyncio.run(bounded())


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking Unix streams."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking TCP streams on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


async def send(stream: socket.socket, data: bytes) -> None:
    """Send all of it."""
    await asyncio.get_running_loop().sock_sendall(stream, data)


async def receive(stream: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or what came before the end."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < count:
        part = await loop.sock_recv(stream, min(1 << 18, count - len(data)))
        if not part:
            break
        data += part
    return bytes(data)


async def rest(stream: socket.socket) -> bytes:
    """Everything until the end; a reset is an end."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while True:
        try:
            part = await loop.sock_recv(stream, 1 << 18)
        except ConnectionError:
            return bytes(data)
        if not part:
            return bytes(data)
        data += part


async def served(handle: Callable[[socket.socket], Awaitable[None]]) -> tuple[socket.socket, "asyncio.Task[None]"]:
    """A stream to a handler that runs as a task; the handler's end closes its side, as a listener does."""
    mine, theirs = pair()

    async def body() -> None:
        try:
            await handle(theirs)
        finally:
            theirs.close()

    return mine, asyncio.get_running_loop().create_task(body())
