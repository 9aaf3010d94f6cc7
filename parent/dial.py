"""Where the parent's outgoing streams are opened: to the enclave's session port, and to addresses that egress has judged."""

import asyncio
import contextlib
import re
import socket

from parent.errors import DialError
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, Vsock

_OK = re.compile(rb"OK [0-9]{1,10}\n")
_OK_MAX = 16


def _socket(endpoint: Endpoint) -> tuple[socket.socket, "tuple[int, int] | tuple[str, int] | str"]:
    match endpoint:
        case Vsock(cid, port):
            return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), (cid, port)
        case Unix(path) | UnixConnect(path, _):
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path
        case Tcp(host, port, None):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.socket(family, socket.SOCK_STREAM), (host, port)
        case Tcp():
            raise ValueError("the parent goes through no proxy")


async def _greet(stream: socket.socket, port: int) -> None:
    """The two lines of a `UnixConnect` endpoint; reads byte by byte, for the stream follows at once."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(stream, b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        byte = await loop.sock_recv(stream, 1)
        answer += byte
        if not byte or len(answer) > _OK_MAX:
            raise DialError("the guest's socket does not answer OK")
    if not _OK.fullmatch(answer):
        raise DialError("the guest's socket does not answer OK")


async def dial(endpoint: Endpoint, *, seconds: float) -> socket.socket:
    """A connected, non-blocking stream. A `Tcp` host is an address, not a name: names are egress's to resolve and judge.

    Raises: DialError where nothing answers within `seconds`.
    """
    try:
        stream, address = _socket(endpoint)
    except OSError as error:  # no file descriptor left, or no such address family here
        raise DialError(f"no socket: {error.strerror}") from None
    stream.setblocking(False)
    with contextlib.ExitStack() as undo:
        undo.callback(stream.close)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(stream, address)
                if isinstance(endpoint, UnixConnect):
                    await _greet(stream, endpoint.port)
        except TimeoutError:
            raise DialError("no answer in time") from None
        except OSError as error:
            raise DialError(error.strerror or type(error).__name__) from None
        undo.pop_all()
    return stream
