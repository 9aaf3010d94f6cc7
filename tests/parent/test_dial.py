"""Dialling: a connected stream or DialError, always in bounded time."""

import asyncio
from pathlib import Path
import socket

import pytest

from parent.dial import dial
from parent.errors import DialError
from tests.parent.streams import receive, run, send
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect


def test_nothing_there_is_dial_error(tmp_path: Path) -> None:
    """A missing socket, a dead socket, a closed port."""
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(dead))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoints: tuple[Endpoint, ...] = (Unix(str(tmp_path / "missing")), Unix(str(dead)), Tcp("127.0.0.1", port), UnixConnect(str(dead), 1))
    for endpoint in endpoints:
        with pytest.raises(DialError):
            run(dial(endpoint, seconds=5))


def test_a_proxy_is_misuse() -> None:
    """The parent has no way through a proxy; asking for one is a mistake in the code, not an answer."""
    with pytest.raises(ValueError, match="no proxy"):
        run(dial(Tcp("127.0.0.1", 1, ("p", 1)), seconds=5))


@pytest.mark.parametrize(
    ("answer", "good"), [(b"OK 1073741824\n", True), (b"NO\n", False), (b"OK \n", False), (b"OK 1", False), (b"x" * 99, False)]
)
def test_a_guests_socket_must_answer_ok(tmp_path: Path, answer: bytes, *, good: bool) -> None:
    """CONNECT and the port go first; what follows OK is the stream's, any other answer is refused."""

    async def body() -> None:
        path = tmp_path / "v"
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.setblocking(False)
            dialling = loop.create_task(dial(UnixConnect(str(path), 7000), seconds=5))
            guest, _ = await loop.sock_accept(server)
            guest.setblocking(False)
            assert await receive(guest, 13) == b"CONNECT 7000\n"
            await send(guest, answer + b"stream")
            guest.shutdown(socket.SHUT_WR)
            if good:
                stream = await dialling
                assert await receive(stream, 99) == b"stream"
                stream.close()
            else:
                with pytest.raises(DialError):
                    await dialling
            guest.close()

    run(body())


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A guest's socket that takes the connection and says nothing costs the dial time alone."""

    async def body() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "v"))
            server.listen()
            with pytest.raises(DialError, match="in time"):
                await dial(UnixConnect(str(tmp_path / "v"), 7000), seconds=0.1)

    run(body())
