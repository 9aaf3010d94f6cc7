"""The devices against a driver made of bytes: queues, the vhost-user protocol, the module's two buffers, vsock's rules."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import socket
import struct
import tempfile
import threading

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from simulator.qemu import vsock_packet
from simulator.qemu.backend import Backend, Request
from simulator.qemu.loop import Loop
from simulator.qemu.nsm_device import NsmDevice
from simulator.qemu.vring import INDIRECT, NEXT, WRITE, DeviceError, Queue
from simulator.qemu.vsock_device import RECEIVE, TRANSMIT, VsockDevice, by_port, to_guest
from simulator.qemu.vsock_packet import Op, Packet
from simulator.qemu.vsock_stream import BUFFER
from tests.qemu.driver import GUEST, QUEUE, SIZE, USER, Driver, FrontEnd, GuestMemory


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


# Queues


def test_a_chain_comes_with_its_readable_and_writable_parts() -> None:
    """Two descriptors to read, one to write; taken and given back with its length."""
    guest = GuestMemory(1)
    driver, queue = guest.drivers[0], guest.drivers[0].queue()
    at = guest.place(16)
    guest.view[at : at + 6] = b"abcdef"
    head = driver.offer([(at, 3, False), (at + 3, 3, False), (at + 8, 4, True)])
    chain = queue.peek()
    assert chain is not None
    assert [bytes(view) for view in chain.readable] == [b"abc", b"def"]
    assert queue.peek() is not None
    chain.writable[0][:] = b"1234"
    queue.pop()
    queue.push(chain.head, 4)
    assert queue.peek() is None
    assert driver.done() == [(head, 4)]
    assert bytes(guest.view[at + 8 : at + 12]) == b"1234"


@pytest.mark.parametrize(
    "descriptors",
    [
        [(GUEST + SIZE - 1, 2, 0, 0)],
        [(GUEST - 1, 1, 0, 0)],
        [(0, 1, 0, 0)],
        [(GUEST, 16, INDIRECT, 0)],
        [(GUEST, 1, NEXT, 0)],
        [(GUEST, 1, NEXT, 1), (GUEST, 1, NEXT, 0)],
        [(GUEST, 1, NEXT, QUEUE)],
        [(GUEST, 1, NEXT | WRITE, 1), (GUEST, 1, 0, 0)],
    ],
)
def test_a_chain_against_the_rules_stops_the_device(descriptors: list[tuple[int, int, int, int]]) -> None:
    """Outside memory, indirect, in a loop, outside the table, readable after writable."""
    guest = GuestMemory(1)
    for index, descriptor in enumerate(descriptors):
        guest.drivers[0].raw(index, *descriptor)
    guest.drivers[0].publish(0)
    with pytest.raises(DeviceError):
        guest.drivers[0].queue().peek()


def test_more_buffers_than_the_queue_holds_stop_the_device() -> None:
    """An available index that ran ahead by more than the queue's size."""
    guest = GuestMemory(1)
    guest.drivers[0].raw(0, GUEST, 1, 0, 0)
    struct.pack_into("<H", guest.view, guest.drivers[0].available + 2, QUEUE)
    assert guest.drivers[0].queue().peek() is not None
    struct.pack_into("<H", guest.view, guest.drivers[0].available + 2, QUEUE + 1)
    with pytest.raises(DeviceError):
        guest.drivers[0].queue().peek()


@pytest.mark.parametrize("size", [0, 3, 63, 1 << 16])
def test_a_queue_has_a_power_of_two_of_places(size: int) -> None:
    """At most 32,768 of them."""
    guest = GuestMemory(1)
    with pytest.raises(DeviceError):
        Queue(guest.memory, size=size, descriptors=USER, available=USER + 0x1000, used=USER + 0x2000, next_available=0)


@settings(max_examples=300, deadline=None)
@given(table=st.binary(max_size=16 * 8), head=st.integers(0, 0xFFFF))
def test_any_descriptors_are_a_chain_or_our_error(table: bytes, head: int) -> None:
    """Whatever stands in the table: a chain within guest memory, or DeviceError."""
    guest = GuestMemory(1)
    guest.view[: len(table)] = table
    guest.drivers[0].publish(head)
    try:
        chain = guest.drivers[0].queue().peek()
    except DeviceError:
        return
    finally:
        os.close(guest.descriptor)
    assert chain is not None


# The security module


def module_device(tmp_path: Path) -> NsmDevice:
    pki = SimulatedPki.open(tmp_path, instance_id="i-0")
    return NsmDevice(SimulatedNsm(pcrs={0: b"\1" * 48}, module_id="i-0-enc0", pki=pki).call)


def test_request_and_response_are_two_buffers_given_back_together(tmp_path: Path) -> None:
    """As Linux's driver posts them: out comes back with 0, in with the length of the CBOR, in that order, one interrupt."""
    guest, device = GuestMemory(1), module_device(tmp_path)
    driver, queue = guest.drivers[0], guest.drivers[0].queue()
    interrupts: list[int] = []
    device.interrupt = interrupts.append
    request = driver.send(cbor2.dumps({"DescribePCR": {"index": 0}}))
    device.kicked(0, queue)
    assert (driver.done(), interrupts) == ([], [])
    (place,) = driver.room(0x3000)
    device.kicked(0, queue)
    (first, second), expected = driver.done(), {"DescribePCR": {"lock": True, "data": b"\1" * 48}}
    assert first == (request, 0)
    assert cbor2.loads(bytes(guest.view[place : place + second[1]])) == expected
    assert interrupts == [0]


def test_a_response_longer_than_its_buffer_is_cut(tmp_path: Path) -> None:
    """Silently, as the device does."""
    guest, device = GuestMemory(1), module_device(tmp_path)
    driver, queue = guest.drivers[0], guest.drivers[0].queue()
    driver.send(cbor2.dumps("GetRandom"))
    driver.room(10)
    device.kicked(0, queue)
    assert [written for _, written in driver.done()] == [0, 10]


def test_a_response_buffer_without_request_and_an_oversized_request_stop_the_device(tmp_path: Path) -> None:
    """And a second request before the first one's buffer."""
    for sends in ([4097], [1, 1], []):
        guest, device = GuestMemory(1), module_device(tmp_path)
        for size in sends:
            guest.drivers[0].send(bytes(size))
        if not sends:
            guest.drivers[0].room(100)
        with pytest.raises(DeviceError):
            device.kicked(0, guest.drivers[0].queue())


# vhost-user


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[Path]:
    loop = Loop()
    device = module_device(tmp_path)
    device.interrupt = Backend(loop, run / "n", device).interrupt
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield run / "n"
    loop.stop()
    thread.join(10)


def test_a_queue_is_set_up_kicked_and_answered(served: Path) -> None:
    """Through messages and event descriptors alone, twice: the back-end takes a new QEMU after the first is gone."""
    for _ in range(2):
        front, guest = FrontEnd.to(served), GuestMemory(1)
        (features,) = struct.unpack("<Q", front.ask(Request.GET_FEATURES))
        assert features == 1 << 32 | 1 << 30
        front.send(Request.SET_FEATURES, struct.pack("<Q", features))
        kick, call = front.start(guest, 0)
        guest.drivers[0].send(cbor2.dumps("GetRandom"))
        guest.drivers[0].room(0x3000)
        os.eventfd_write(kick, 1)
        assert os.eventfd_read(call) == 1
        assert len(guest.drivers[0].done()) == 2
        assert struct.unpack("<II", front.ask(Request.GET_VRING_BASE, struct.pack("<II", 0, 0))) == (0, 2)
        front.connection.close()


def test_a_driver_that_wants_no_interrupt_gets_none(served: Path) -> None:
    """Its flag is honoured; the answer is there all the same."""
    front, guest = FrontEnd.to(served), GuestMemory(1)
    struct.pack_into("<H", guest.view, guest.drivers[0].available, 1)
    kick, call = front.start(guest, 0)
    guest.drivers[0].send(cbor2.dumps("GetRandom"))
    guest.drivers[0].room(0x3000)
    os.eventfd_write(kick, 1)
    while len(front.ask(Request.GET_FEATURES)) == 8 and not (back := guest.drivers[0].done()):
        pass
    assert len(back) == 2
    os.set_blocking(call, False)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(call)


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (99, b""),
        (Request.SET_FEATURES, struct.pack("<Q", 1 << 34)),
        (Request.SET_VRING_NUM, struct.pack("<II", 7, 64)),
        (Request.SET_VRING_NUM, b"\0"),
        (Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32)),
        (Request.SET_VRING_KICK, struct.pack("<Q", 1 << 8)),
        (Request.GET_CONFIG, struct.pack("<III", 250, 250, 0)),
        (Request.SET_VRING_ADDR, bytes(47)),
    ],
)
def test_a_message_against_the_protocol_ends_the_connection(served: Path, request_: int, payload: bytes) -> None:
    """Unknown, not offered, another queue, too short, without its descriptors: hung up, and the next QEMU is served."""
    assert FrontEnd.to(served).ask(request_, payload, reply=True) == b""
    assert len(FrontEnd.to(served).ask(Request.GET_FEATURES)) == 8


@pytest.mark.parametrize("size", [2 * SIZE, 0])
def test_a_region_larger_than_its_file_or_empty_is_refused(served: Path, size: int) -> None:
    """It would be a bus error on first touch; an empty one would map everything."""
    front, guest = FrontEnd.to(served), GuestMemory(1)
    region = struct.pack("<IIQQQQ", 1, 0, GUEST, size, 0, 0)
    assert front.ask(Request.SET_MEM_TABLE, region, [guest.descriptor], reply=True) == b""


@settings(max_examples=100, deadline=None)
@given(messages=st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=64)), max_size=4))
def test_any_messages_leave_the_back_end_serving(messages: list[tuple[int, bytes]]) -> None:
    """Whatever QEMU says, the next one is served."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        loop = Loop()
        device = NsmDevice(lambda request: request)
        Backend(loop, Path(folder) / "n", device)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            front = FrontEnd.to(Path(folder) / "n")
            for number, payload in messages:
                try:
                    front.send(number, payload)
                except OSError:
                    break
            front.connection.close()
            assert len(FrontEnd.to(Path(folder) / "n").ask(Request.GET_FEATURES)) == 8
        finally:
            loop.stop()
            thread.join(10)


# vsock

CID, PORT = 16, 1024


class Guest:
    """A guest with both queues of a vsock device, driven step by step in one thread."""

    def __init__(self, run: Path, **routes: object) -> None:
        self.memory = GuestMemory(2)
        self.loop = Loop()
        table = {3: by_port(run / "parent"), **{int(cid[1:]): route for cid, route in routes.items()}}
        self.device = VsockDevice(self.loop, guest_cid=CID, peer_cid=3, routes=table, path=run / "vsock")  # type: ignore[arg-type]
        self.queues = [driver.queue() for driver in self.memory.drivers]
        self.device.queue = lambda index: self.queues[index]
        self.places: list[int] = []

    @property
    def transmit(self) -> Driver:
        return self.memory.drivers[TRANSMIT]

    def room(self, count: int, size: int = 4096) -> None:
        """Offer receive buffers."""
        for _ in range(count):
            self.places += self.memory.drivers[RECEIVE].room(size)

    def says(self, op: int, *data: bytes, split: int = 0, **fields: int) -> None:
        """Send one packet; `split` puts that many of the header's bytes into a descriptor of their own."""
        values = {"src_cid": CID, "dst_cid": 3, "src_port": PORT, "dst_port": 7001, "buf_alloc": 1 << 18, "fwd_cnt": 0} | fields
        values.setdefault("length", sum(len(piece) for piece in data))
        head = Packet(op=op, **values).encode()
        self.transmit.send(*((head[:split], head[split:]) if split else (head,)), *data)
        self.device.kicked(TRANSMIT, self.queues[TRANSMIT])

    def turn(self) -> None:
        """One round of the loop, without waiting."""
        for key, mask in self.loop._selector.select(0.05):
            key.data(mask)

    def hears(self) -> list[tuple[int, Packet, bytes]]:
        """The packets that arrived."""
        found = []
        for _, written in self.memory.drivers[RECEIVE].done():
            at = self.places.pop(0)
            data = bytes(self.memory.view[at : at + written])
            packet = vsock_packet.decode(data)
            found.append((packet.op, packet, data[44:]))
        return found


def server(run: Path, port: int = 7001) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run / f"parent_{port}"))
    listener.listen(4)
    listener.settimeout(10)
    return listener


@pytest.fixture
def guest(run: Path) -> Guest:
    return Guest(run)


def opened(guest: Guest, run: Path) -> socket.socket:
    """A stream from guest port 1024 to the parent's 7001, open."""
    listener = server(run)
    guest.room(8)
    guest.says(Op.REQUEST)
    ((op, packet, _),) = guest.hears()
    assert (op, packet.src_cid, packet.src_port, packet.dst_port, packet.buf_alloc) == (Op.RESPONSE, 3, 7001, PORT, BUFFER)
    connection, _ = listener.accept()
    connection.settimeout(10)
    return connection


@pytest.mark.parametrize("split", [0, 1, 20, 43])
def test_bytes_of_many_descriptors_arrive_in_order(guest: Guest, run: Path, split: int) -> None:
    """Header and data may lie in any descriptors."""
    stream = opened(guest, run)
    guest.says(Op.RW, b"one", b"", b"two", b"x" * 5000, split=split)
    assert stream.recv(10_000, socket.MSG_PEEK)[:6] == b"onetwo"
    assert len(stream.recv(10_000)) == 5006


def test_bytes_from_outside_keep_to_buffers_and_credit(guest: Guest, run: Path) -> None:
    """No packet is longer than its buffer, none goes out without credit, and more credit brings the rest."""
    stream = opened(guest, run)
    guest.says(Op.CREDIT_UPDATE, buf_alloc=5000)
    stream.sendall(b"z" * 9000)
    guest.turn()
    guest.turn()
    guest.turn()
    packets = guest.hears()
    assert [len(data) for _, _, data in packets] == [4096 - 44, 5000 - (4096 - 44)]
    guest.says(Op.CREDIT_UPDATE, buf_alloc=5000, fwd_cnt=5000)
    guest.turn()
    guest.turn()
    assert sum(len(data) for _, _, data in guest.hears()) == 4000


def test_without_buffers_nothing_is_read_and_nothing_lost(guest: Guest, run: Path) -> None:
    """A guest that offers no buffer gets everything once it does."""
    stream = opened(guest, run)
    taken = guest.memory.drivers[RECEIVE].made - 1
    stream.sendall(b"q" * (4052 * taken + 100))
    for _ in range(taken + 3):
        guest.turn()
    first = sum(len(data) for _, _, data in guest.hears())
    assert first == 4052 * taken
    guest.room(2)
    guest.device.kicked(RECEIVE, guest.queues[RECEIVE])
    for _ in range(3):
        guest.turn()
    assert sum(len(data) for _, _, data in guest.hears()) == 100


def test_a_guest_beyond_its_credit_is_reset(guest: Guest, run: Path) -> None:
    """What our side does not read fills socket and buffer; the first byte over the credit ends the stream."""
    stream = opened(guest, run)
    ops: list[int] = []
    for _ in range(40):
        guest.memory.free = 0x10000
        guest.says(Op.RW, bytes(60_000))
        ops += [op for op, _, _ in guest.hears()]
        if Op.RST in ops:
            break
        guest.room(1)
    assert ops[-1] == Op.RST
    stream.close()


def test_freed_buffer_is_told_to_the_guest(guest: Guest, run: Path) -> None:
    """After a quarter of the buffer, and whenever it asks."""
    stream = opened(guest, run)
    guest.says(Op.RW, bytes(BUFFER // 4))
    received = 0
    while received < BUFFER // 4:
        received += len(stream.recv(1 << 20))
        guest.turn()
    guest.says(Op.CREDIT_REQUEST)
    updates = [packet.fwd_cnt for op, packet, _ in guest.hears() if op == Op.CREDIT_UPDATE]
    assert updates[-1] == BUFFER // 4


def test_each_side_may_end_its_sending_first(guest: Guest, run: Path) -> None:
    """The guest's SHUTDOWN is our end of stream, ours its SHUTDOWN; when both have, RST closes."""
    stream = opened(guest, run)
    guest.says(Op.SHUTDOWN, flags=vsock_packet.SHUTDOWN_SEND)
    assert stream.recv(1) == b""
    stream.sendall(b"still")
    guest.turn()
    assert [(op, data) for op, _, data in guest.hears()] == [(Op.RW, b"still")]
    stream.close()
    guest.turn()
    assert [op for op, _, _ in guest.hears()] == [Op.SHUTDOWN, Op.RST]


@pytest.mark.parametrize(
    ("fields", "answer"), [({"dst_port": 7002}, True), ({"dst_cid": 9}, True), ({"src_cid": 17}, False), ({"kind": 2}, True)]
)
def test_what_is_not_there_is_reset_and_what_is_not_the_guests_is_dropped(
    guest: Guest, run: Path, fields: dict[str, int], answer: bool
) -> None:
    """No listener, no route, not a stream: RST. Another guest's CID: nothing."""
    listener = server(run)
    guest.room(4)
    guest.says(Op.REQUEST, **fields)
    assert [op for op, _, _ in guest.hears()] == ([Op.RST] if answer else [])
    listener.close()


@pytest.mark.parametrize("op", [Op.RESPONSE, Op.RW, Op.SHUTDOWN, Op.CREDIT_UPDATE, Op.CREDIT_REQUEST, 99])
def test_a_packet_of_no_stream_is_reset_but_never_a_reset(guest: Guest, op: int) -> None:
    """RST answers everything except RST."""
    guest.room(4)
    guest.says(Op.RST)
    assert guest.hears() == []
    guest.says(op)
    assert [heard for heard, _, _ in guest.hears()] == [Op.RST]


def test_a_packet_of_another_length_than_it_says_stops_the_device(guest: Guest) -> None:
    """Longer, shorter, or without a whole header."""
    for length, data in ((5, b"four"), (3, b"four")):
        with pytest.raises(DeviceError):
            guest.says(Op.RW, data, length=length)
    guest.transmit.send(bytes(43))
    with pytest.raises(DeviceError):
        guest.device.kicked(TRANSMIT, guest.queues[TRANSMIT])


def outside(guest: Guest, run: Path, line: bytes) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(10)
    stream.connect(str(run / "vsock"))
    stream.sendall(line)
    guest.turn()
    guest.turn()
    return stream


def test_a_connection_into_the_guest_comes_from_the_parents_cid(guest: Guest, run: Path) -> None:
    """CONNECT, the guest's RESPONSE, OK, then bytes; what was sent early is not lost."""
    guest.room(4)
    stream = outside(guest, run, b"CONNECT 7000\nearly")
    ((op, packet, _),) = guest.hears()
    assert (op, packet.src_cid, packet.dst_cid, packet.dst_port) == (Op.REQUEST, 3, CID, 7000)
    guest.says(Op.RESPONSE, src_port=7000, dst_port=packet.src_port)
    assert stream.recv(64) == b"OK %d\n" % packet.src_port
    guest.turn()
    assert [data for _, _, data in guest.hears()] == [b"early"]


def test_a_refusing_guest_ends_the_connection_without_ok(guest: Guest, run: Path) -> None:
    """RST in answer to our request: an end of stream."""
    guest.room(4)
    stream = outside(guest, run, b"CONNECT 7000\n")
    ((_, packet, _),) = guest.hears()
    guest.says(Op.RST, src_port=7000, dst_port=packet.src_port)
    assert stream.recv(64) == b""


@pytest.mark.parametrize("line", [b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967295\n", b"GET / HTTP/1.1\r\n", b"CONNECT -1\n", b"C" * 64])
def test_another_first_line_is_hung_up_on(guest: Guest, run: Path, line: bytes) -> None:
    """And the guest hears nothing of it."""
    guest.room(4)
    stream = outside(guest, run, line)
    with contextlib.suppress(ConnectionResetError):
        assert stream.recv(64) == b""
    assert guest.hears() == []


def test_a_route_to_another_guest_speaks_its_devices_language(run: Path) -> None:
    """CONNECT goes out first; the guest gets its RESPONSE once OK came back."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run / "other"))
    listener.listen(1)
    guest = Guest(run, _5=to_guest(run / "other"))
    guest.room(4)
    guest.says(Op.REQUEST, dst_cid=5)
    connection, _ = listener.accept()
    assert connection.recv(64) == b"CONNECT 7001\n"
    assert guest.hears() == []
    connection.sendall(b"OK 1\nfirst")
    guest.turn()
    guest.turn()
    assert [(op, data) for op, _, data in guest.hears()] == [(Op.RESPONSE, b""), (Op.RW, b"first")]


def test_a_reset_ends_every_stream(guest: Guest, run: Path) -> None:
    """When QEMU goes, so do its streams."""
    stream = opened(guest, run)
    guest.device.reset()
    assert stream.recv(1) == b""


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=44, max_size=60), request_first=st.booleans())
def test_any_packet_is_served_or_our_error(data: bytes, request_first: bool) -> None:
    """Whatever the guest sends, also for an open stream: an answer, nothing, or DeviceError."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        guest = Guest(Path(folder))
        listener = server(Path(folder))
        guest.room(4)
        if request_first:
            guest.says(Op.REQUEST)
            head = Packet(src_cid=CID, dst_cid=3, src_port=PORT, dst_port=7001, op=data[30]).encode()
            data = head[:24] + data[24:28] + head[28:30] + data[30:]
        guest.transmit.send(data)
        with contextlib.suppress(DeviceError):
            guest.device.kicked(TRANSMIT, guest.queues[TRANSMIT])
        guest.device.close()
        listener.close()
        os.close(guest.memory.descriptor)
