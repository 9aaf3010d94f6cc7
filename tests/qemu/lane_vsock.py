"""The vsock device under a real guest kernel: it is the ground that the other machine tests stand on."""

from collections.abc import Iterator
import contextlib
import hashlib
from pathlib import Path
import socket
import threading
import time

import pytest

from simulator.qemu.machine import Machine
from tests.qemu import lane

ECHO, SINK, SLOW, SOURCE, ABRUPT, DIAL, HALF = range(5000, 5007)
PATTERN = bytes(range(256)) * 4096  # one MiB
SECONDS = 60

# One thread a connection; each port behaves in its own way. Port numbers as above.
GUEST = """
import hashlib, socket, struct, threading, time

def whole(stream):
    parts = []
    while part := stream.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)

def echo(stream):
    while part := stream.recv(1 << 20):
        stream.sendall(part)

def sink(stream):  # reads to the end, then says what it got
    stream.sendall(hashlib.sha256(whole(stream)).digest())

def slow(stream):  # reads nothing until the other side says so on a second connection
    gate.wait(120)
    sink(stream)

def source(stream):  # sends as many bytes as asked for, in pieces of more than a packet
    size = struct.unpack(">Q", stream.recv(8))[0]
    pattern = bytes(range(256)) * 4096
    while size:
        size -= stream.send(pattern[: min(size, len(pattern))])

def abrupt(stream):  # closes with unread data
    stream.recv(1)

def dial(stream):  # dials out: cid, port; sends what it was given, answers with what came back or the error
    cid, port = struct.unpack(">II", stream.recv(8))
    data = whole(stream)
    try:
        with socket.socket(socket.AF_VSOCK) as out:
            out.settimeout(60)
            out.connect((cid, port))
            out.sendall(data)
            out.shutdown(socket.SHUT_WR)
            stream.sendall(b"=" + whole(out))
    except OSError as error:
        stream.sendall(b"!" + str(error.errno).encode())

def half(stream):  # ends its sending first, then reads to the end and tells over another connection
    stream.sendall(b"first")
    stream.shutdown(socket.SHUT_WR)
    data = whole(stream)
    with socket.socket(socket.AF_VSOCK) as out:
        out.connect((3, 7778))
        out.sendall(data)

gate = threading.Event()

def opened(stream):
    gate.set()

def once(stream, behave):
    try:
        behave(stream)
    except OSError:
        pass
    finally:
        stream.close()

threading.stack_size(256 * 1024)
for port, behave in enumerate((echo, sink, slow, source, abrupt, dial, half, opened), 5000):
    def listen(port=port, behave=behave):
        listener = socket.socket(socket.AF_VSOCK)
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(512)
        while True:
            stream, peer = listener.accept()
            if peer[0] != 3:
                stream.close()
                continue
            threading.Thread(target=once, args=(stream, behave), daemon=True).start()
    threading.Thread(target=listen, daemon=True).start()
with socket.socket(socket.AF_VSOCK) as out:
    out.connect((3, 7777))
time.sleep(600)
"""
GATE = 5007


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    with lane.guest(lane.script("vsock", GUEST)) as booted, listening(booted.run, 7777) as ready:
        ready.settimeout(120)
        ready.accept()[0].close()
        yield booted


def listening(run: Path, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run / f"parent_{port}"))
    listener.listen(16)
    listener.settimeout(SECONDS)
    return listener


def connected(guest: Machine, port: int) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(SECONDS)
    stream.connect(str(guest.run / "vsock"))
    stream.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        piece = stream.recv(1)
        if not piece:
            raise ConnectionRefusedError
        answer += piece
    assert answer.startswith(b"OK ")
    return stream


def whole(stream: socket.socket) -> bytes:
    parts = []
    while part := stream.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def echoes(guest: Machine, data: bytes) -> bool:
    def send(stream: socket.socket) -> None:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)

    with connected(guest, ECHO) as stream:
        sender = threading.Thread(target=send, args=(stream,))
        sender.start()
        back = whole(stream)
        sender.join(SECONDS)
    return back == data


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65_536, 65_537, 8 << 20])
def test_bytes_come_back(guest: Machine, size: int) -> None:
    """From nothing to 8 MiB, through packets of one and of many descriptors, both ways at once."""
    assert echoes(guest, (PATTERN * 8)[:size])


def test_a_stream_into_the_guest_arrives_whole(guest: Machine) -> None:
    """16 MiB in, then our end of sending: the guest's digest is right, and it could still answer."""
    with connected(guest, SINK) as stream:
        stream.sendall(PATTERN * 16)
        stream.shutdown(socket.SHUT_WR)
        assert whole(stream) == hashlib.sha256(PATTERN * 16).digest()


def test_a_stream_out_of_the_guest_arrives_whole(guest: Machine) -> None:
    """16 MiB out, then the guest's close: everything arrives before the end."""
    with connected(guest, SOURCE) as stream:
        stream.sendall((16 << 20).to_bytes(8, "big"))
        assert whole(stream) == PATTERN * 16


def test_two_hundred_connections_at_once(guest: Machine) -> None:
    """Two hundred streams are open together, and each gets its own bytes back."""
    streams = [connected(guest, ECHO) for _ in range(200)]
    for index, stream in enumerate(streams):
        stream.sendall(index.to_bytes(4, "big") * 64)
    for index, stream in enumerate(streams):
        data = b""
        while len(data) < 256:
            data += stream.recv(256 - len(data))
        assert data == index.to_bytes(4, "big") * 64
    for stream in streams:
        stream.close()


def test_a_guest_that_does_not_read_stops_its_own_stream_alone(guest: Machine) -> None:
    """While one stream is full to the brim others go on; when the guest reads, nothing of it is missing."""
    with connected(guest, SLOW) as stream:
        stream.settimeout(2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += stream.send(PATTERN[sent % len(PATTERN) :])
        assert sent < 16 << 20
        assert echoes(guest, PATTERN)
        connected(guest, GATE).close()
        stream.settimeout(SECONDS)
        rest = PATTERN[sent % len(PATTERN) :]
        stream.sendall(rest)
        stream.shutdown(socket.SHUT_WR)
        total = sent + len(rest)
        assert whole(stream) == hashlib.sha256(PATTERN * (total // len(PATTERN))).digest()


def test_a_host_that_does_not_read_stops_its_own_stream_alone(guest: Machine) -> None:
    """The guest's writer waits for us; others go on; later everything is there."""
    with connected(guest, SOURCE) as stream:
        stream.sendall((8 << 20).to_bytes(8, "big"))
        time.sleep(1)
        assert echoes(guest, PATTERN)
        assert whole(stream) == PATTERN * 8


def test_a_port_that_nobody_serves_is_refused(guest: Machine) -> None:
    """No OK, an end of stream at once."""
    with pytest.raises(ConnectionRefusedError):
        connected(guest, 6000)


def test_an_abrupt_end_of_the_guest_is_an_end_here(guest: Machine) -> None:
    """A guest that closes with unread data ends the stream; it does not hang."""
    with connected(guest, ABRUPT) as stream:
        stream.sendall(b"xy")
        with contextlib.suppress(ConnectionResetError):
            assert whole(stream) == b""


def dialled(guest: Machine, cid: int, port: int, data: bytes) -> bytes:
    with connected(guest, DIAL) as stream:
        stream.sendall(cid.to_bytes(4, "big") + port.to_bytes(4, "big") + data)
        stream.shutdown(socket.SHUT_WR)
        return whole(stream)


@pytest.mark.parametrize("cid", [2, 3])
def test_the_guest_dials_out_to_both_cids(guest: Machine, cid: int) -> None:
    """CID 3 and CID 2 lead to the host's sockets, 1 MiB each way, half-closed in between."""

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as stream:
            stream.settimeout(SECONDS)
            data = whole(stream)
            stream.sendall(data[::-1])

    port = 7100 + cid
    with listening(guest.run, port) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        assert dialled(guest, cid, port, PATTERN) == b"=" + PATTERN[::-1]
        server.join(SECONDS)


@pytest.mark.parametrize(("cid", "port"), [(3, 7999), (2, 7999), (99, 7100)])
def test_what_nobody_serves_is_reset_for_the_guest(guest: Machine, cid: int, port: int) -> None:
    """A port without a listener, and a CID without a route: ECONNRESET, or ENODEV, never a wait."""
    assert dialled(guest, cid, port, b"x") in (b"!104", b"!19", b"!113")


def test_the_guest_may_end_its_sending_first(guest: Machine) -> None:
    """We see its end of stream and still send; it receives all of it."""
    with listening(guest.run, 7778) as listener, connected(guest, HALF) as stream:
        assert whole(stream) == b"first"
        stream.sendall(PATTERN)
        stream.shutdown(socket.SHUT_WR)
        with listener.accept()[0] as told:
            told.settimeout(SECONDS)
            assert whole(told) == PATTERN


def test_streams_that_break_off_leave_nothing_behind(guest: Machine) -> None:
    """Three hundred connections that vanish in the middle of sending: the next one is served as ever."""
    for _ in range(300):
        stream = connected(guest, ECHO)
        stream.sendall(b"x" * 10_000)
        stream.close()
    assert echoes(guest, PATTERN)
