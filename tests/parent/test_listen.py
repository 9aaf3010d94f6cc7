"""Who is let in: the enclave's CID alone, and no more than the limits say."""

import asyncio
import os
from pathlib import Path
import socket
import stat

import pytest

from parent.errors import BindError
from parent.listen import Admission, Gate, Listener, Refusal, bind
from tests.parent.streams import receive, rest, run, send
from wire.endpoint import Tcp, Unix, UnixConnect


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate(admission: Admission, clock: Clock | None = None) -> Gate:
    return Gate(admission=admission, clock=clock or Clock())


def test_only_the_enclaves_cid_is_let_in() -> None:
    """Over vsock every CID but the configured one is refused, and each one where none is configured (T20)."""
    one = gate(Admission(connections=8, cid=16))
    assert one.enter((16, 5000), socket.AF_VSOCK) == ""
    for cid in (0, 1, 2, 3, 15, 17, 0xFFFF_FFFF):
        assert one.enter((cid, 5000), socket.AF_VSOCK) is Refusal.CID
    assert gate(Admission(connections=8)).enter((16, 5000), socket.AF_VSOCK) is Refusal.CID
    assert one.refused[Refusal.CID] == 7


def test_connections_are_bounded_and_places_come_free() -> None:
    """The connection past the limit is refused; one that ends makes room for one."""
    one = gate(Admission(connections=2))
    names = [one.enter("", socket.AF_UNIX) for _ in range(2)]
    assert one.enter("", socket.AF_UNIX) is Refusal.FULL
    assert isinstance(names[0], str)
    one.leave(names[0])
    assert one.enter("", socket.AF_UNIX) == ""
    assert one.enter("", socket.AF_UNIX) is Refusal.FULL


def test_one_address_cannot_take_every_place() -> None:
    """An address at its limit is refused, whatever its ports, while another is let in."""
    one = gate(Admission(connections=100, per_address=3))
    for port in range(3):
        assert one.enter(("10.0.0.1", port), socket.AF_INET) == "10.0.0.1"
    assert one.enter(("10.0.0.1", 99), socket.AF_INET) is Refusal.ADDRESS
    assert one.enter(("10.0.0.2", 1), socket.AF_INET) == "10.0.0.2"
    assert one.enter(("::1", 1, 0, 0), socket.AF_INET6) == "::1"
    one.leave("10.0.0.1")
    assert one.enter(("10.0.0.1", 100), socket.AF_INET) == "10.0.0.1"


def test_local_peers_share_no_limit_per_address() -> None:
    """Peers of a Unix socket are not told apart, and no limit per address is one for all of them; nor is there one by default."""
    one = gate(Admission(connections=100, per_address=2))
    assert [one.enter("", socket.AF_UNIX) for _ in range(5)] == [""] * 5
    other = gate(Admission(connections=100))
    assert [other.enter(("10.0.0.1", port), socket.AF_INET) for port in range(5)] == ["10.0.0.1"] * 5


def test_connections_per_second_are_bounded() -> None:
    """A flood is refused beyond one second's worth; a quiet second fills the allowance again, and no more than that."""
    clock = Clock()
    one = gate(Admission(connections=1000, per_second=5), clock)
    assert [one.enter("", socket.AF_UNIX) for _ in range(7)] == [""] * 5 + [Refusal.RATE] * 2
    clock.now += 100
    assert [one.enter("", socket.AF_UNIX) for _ in range(6)] == [""] * 5 + [Refusal.RATE]
    clock.now += 0.2
    assert [one.enter("", socket.AF_UNIX) for _ in range(2)] == ["", Refusal.RATE]


def test_unix_sockets_are_their_users_alone(tmp_path: Path) -> None:
    """A Unix listener is made with mode 0600 from its first moment."""
    path = tmp_path / "s"
    bind(Unix(str(path))).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not(tmp_path: Path) -> None:
    """What a killed parent left behind does not stop the next one; a running one, or a file, is not overwritten."""
    path = tmp_path / "s"
    bind(Unix(str(path))).close()
    live = bind(Unix(str(path)))
    with pytest.raises(BindError):
        bind(Unix(str(path)))
    live.close()
    file = tmp_path / "file"
    file.write_text("keep")
    with pytest.raises(BindError):
        bind(Unix(str(file)))
    assert file.read_text() == "keep"


def test_a_socket_that_does_not_answer_is_not_stale(tmp_path: Path) -> None:
    """A listener whose backlog is full, and a socket of another kind, are in use: only one that refuses connections is replaced."""
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(tmp_path / "full"))
            with pytest.raises(BindError):
                bind(Unix(str(tmp_path / "full")))
        other.bind(str(tmp_path / "other"))
        with pytest.raises(BindError):
            bind(Unix(str(tmp_path / "other")))


def test_a_successors_socket_stays(tmp_path: Path) -> None:
    """A listener that ends removes its own name alone: one that took the path meanwhile still listens there."""
    path = tmp_path / "s"

    async def body() -> None:
        old = Listener(Unix(str(path)), _echo, Admission(connections=3))
        new = Listener(Unix(str(path)), _echo, Admission(connections=3))
        old.open()
        path.unlink()
        new.open()
        old.close()
        assert path.is_socket()
        new.close()
        assert not path.exists()

    run(body())


def test_a_listener_gives_its_name_up_before_it_stops_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment the path is this listener's or free: a successor that finds it free is never removed with it."""
    path, unlink = tmp_path / "s", os.unlink
    live = []

    def look(name: str) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            live.append(probe.connect_ex(name) == 0)
        unlink(name)

    async def body() -> None:
        listener = Listener(Unix(str(path)), _echo, Admission(connections=3))
        listener.open()
        monkeypatch.setattr("parent.listen.os.unlink", look)
        listener.close()

    run(body())
    monkeypatch.undo()
    assert live == [True]


def test_endpoints_that_cannot_listen_are_refused(tmp_path: Path) -> None:
    """Missing directories and taken ports are BindError; endpoint kinds for dialling are misuse."""
    with pytest.raises(BindError):
        bind(Unix(str(tmp_path / "missing" / "s")))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BindError):
        bind(Tcp("127.0.0.1", taken.getsockname()[1]))
    for endpoint in (UnixConnect("x", 1), Tcp("127.0.0.1", 0, ("proxy", 1))):
        with pytest.raises(ValueError, match="no listener"):
            bind(endpoint)


async def _echo(stream: socket.socket) -> None:
    while data := await receive(stream, 1):
        if data == b"!":
            raise ZeroDivisionError
        if data == b"?":
            raise ConnectionResetError
        await send(stream, data)


def test_a_listener_serves_refuses_survives_and_drains(tmp_path: Path) -> None:
    """One handler's defect or broken peer ends its own connection alone; the one past the limit is closed at once; stopping ends all."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "s")
        listener = Listener(Unix(path), _echo, Admission(connections=3))
        assert listener.open() == f"unix:{path}"
        serving = loop.create_task(listener.serve())
        streams = []
        for _ in range(4):
            stream = socket.socket(socket.AF_UNIX)
            stream.setblocking(False)
            await loop.sock_connect(stream, path)
            streams.append(stream)
        assert await rest(streams[3]) == b""
        for index, poison in enumerate((b"!", b"?")):
            await send(streams[index], poison)
            assert await rest(streams[index]) == b""
        await send(streams[2], b"x")
        assert await receive(streams[2], 1) == b"x"
        assert listener.gate.active == 1
        serving.cancel()
        await asyncio.wait([serving])
        assert list(tmp_path.iterdir()) == []
        await send(streams[2], b"y")
        assert await receive(streams[2], 1) == b"y"
        await listener.drain(0)
        assert await rest(streams[2]) == b""
        assert listener.gate.active == 0
        for stream in streams:
            stream.close()

    run(body())


def test_a_tcp_listener_tells_its_port() -> None:
    """Port 0 becomes a real one in what `open` returns."""

    async def body() -> None:
        listener = Listener(Tcp("127.0.0.1", 0), _echo, Admission(connections=3))
        text = listener.open()
        assert text.startswith("tcp:127.0.0.1:")
        assert not text.endswith(":0")
        listener.close()

    run(body())
