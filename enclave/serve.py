"""The session listener: binds the port, accepts only the parent, hands each stream to a `Connection`."""

import asyncio
import contextlib
import os
import socket

from enclave.connection import Connection, Desk
from wire import ports
from wire.endpoint import Endpoint, Unix, Vsock
from wire.errors import Code

BACKLOG = 128


class ListenError(Exception):
    """The session port cannot be opened."""


def listen(endpoint: Endpoint) -> socket.socket:
    """A listening socket. Raises: ListenError; ValueError for an endpoint that an enclave does not listen on."""
    match endpoint:
        case Vsock(cid, port):
            address: tuple[int, int] | str = (cid, port)
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        case Unix(path):
            address = path
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        case _:
            raise ValueError("an enclave listens on vsock alone (on a Unix socket where it is simulated)")
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise ListenError("the session port cannot be opened") from None
    listener.setblocking(False)
    return listener


def from_parent(listener: socket.socket, address: object) -> bool:
    """Whether a peer is the parent: over vsock, its CID and no other's (T20)."""
    if listener.family == socket.AF_UNIX:
        return True
    return isinstance(address, tuple) and address[0] == ports.PARENT_CID


class Server:
    """Accepts connections until `close`; holds at most sessions + handshakes of them at once."""

    def __init__(self, listener: socket.socket, desk: Desk) -> None:
        self._listener = listener
        self._desk = desk
        self._closed = False

    @property
    def _full(self) -> bool:
        limits, connections = self._desk.terms.limits, self._desk.connections
        strangers = sum(1 for connection in connections if connection.is_stranger)
        return strangers >= limits.handshakes or len(connections) >= limits.sessions + limits.handshakes

    async def serve(self) -> None:
        """Accept until cancelled or closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            try:
                stream, address = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(0.1)  # out of descriptors: what is open ends some time
                continue
            if not from_parent(self._listener, address) or self._full:
                stream.close()
                continue
            stream.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(lambda: Connection(self._desk), stream)

    async def close(self, seconds: float) -> None:
        """Stop accepting, end every session with SHUTTING_DOWN, wait up to `seconds` for open messages."""
        self._closed = True
        if self._listener.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(self._listener.getsockname())
        self._listener.close()
        for connection in tuple(self._desk.connections):
            connection.end(Code.SHUTTING_DOWN)
        if self._desk.connections:
            await asyncio.wait([connection.lost for connection in self._desk.connections], timeout=seconds)
