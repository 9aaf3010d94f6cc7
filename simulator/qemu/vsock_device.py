"""virtio-vsock behind vhost-user: a guest's streams to and from Unix sockets, in the manner of Firecracker's.

Out of the guest: a connection to (cid, port) goes to the Unix socket that the route of that CID gives. Into the guest: connect
to the device's own socket, send `CONNECT <port>\\n`, read `OK <number>\\n`, then the stream; the guest sees it come from
`peer_cid`, the parent's CID 3 for an enclave. This machine's own AF_VSOCK is never touched.
"""

from collections import deque
from collections.abc import Callable, Mapping
import contextlib
import os
from pathlib import Path
import select
import socket

from simulator.qemu import vsock_packet
from simulator.qemu.loop import READ, WRITE, Loop
from simulator.qemu.vring import DeviceError, Queue
from simulator.qemu.vsock_packet import HEADER_BYTES, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, Op, Packet
from simulator.qemu.vsock_stream import State, Stream

RECEIVE, TRANSMIT = 0, 1  # queues as the guest calls them; QEMU keeps the third, for events
STREAMS_MAX = 4096
REQUEST_LINE_MAX = 32
CONTROL_MAX = 65_536
PORT_ANY = 0xFFFF_FFFF  # VMADDR_PORT_ANY, the first number that is no port
PORTS = range(1 << 30, 1 << 31)

Route = Callable[[int], tuple[Path, bytes]]
"""Port to the Unix socket to connect to, and what to say there first (then a line `OK ...` is awaited)."""


def by_port(prefix: Path) -> Route:
    """Each port is a Unix socket of its own: `<prefix>_<port>`."""
    return lambda port: (prefix.with_name(f"{prefix.name}_{port}"), b"")


def to_guest(path: Path) -> Route:
    """Every port is one of another guest, behind its device's own socket."""
    return lambda port: (path, b"CONNECT %d\n" % port)


class VsockDevice:
    """`routes`: CID, as the guest dials it, to where its ports are. `queue(index)` and `interrupt(index)` are the back-end's."""

    queue_count = 2

    def __init__(self, loop: Loop, *, guest_cid: int, peer_cid: int, routes: Mapping[int, Route], path: Path) -> None:
        self.config = guest_cid.to_bytes(8, "little")
        self.queue: Callable[[int], Queue | None] = lambda _index: None
        self.interrupt: Callable[[int], None] = lambda _index: None
        self._loop = loop
        self._cid = guest_cid
        self._peer_cid = peer_cid
        self._routes = dict(routes)
        self._streams: dict[tuple[int, int, int], Stream] = {}
        self._control: deque[Packet] = deque()
        self._starved: dict[tuple[int, int, int], Stream] = {}  # readable, but the guest offers no buffer
        self._greeting: dict[int, tuple[socket.socket, bytearray]] = {}
        self._next_port = PORTS.start
        self._listeners: list[socket.socket] = []
        self._listen(path, self._greeted)

    def forward(self, path: Path, port: int) -> None:
        """Connections to this Unix socket go to one port of the guest, without a word before the stream."""
        self._listen(path, lambda outside: self._ask(outside, port, answers=False))

    def _listen(self, path: Path, accepted: Callable[[socket.socket], None]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(os.fspath(path))
        listener.listen(512)
        self._listeners.append(listener)
        self._loop.watch(listener.fileno(), READ, lambda _mask: self._accept(listener, accepted))

    # From the guest

    def kicked(self, index: int, queue: Queue) -> None:
        """Take what the guest sends; or use the buffers that it offers."""
        if index == TRANSMIT:
            taken = False
            while (chain := queue.peek()) is not None:
                queue.pop()
                self._packet(list(chain.readable))
                queue.push(chain.head, 0)
                taken = True
            if taken:
                self.interrupt(TRANSMIT)
        self._deliver()

    def reset(self) -> None:
        """End every stream."""
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._control.clear()

    def close(self) -> None:
        """Reset, and take no more connections."""
        self.reset()
        for stream, _ in list(self._greeting.values()):
            self._forget_greeting(stream)
        for listener in self._listeners:
            self._loop.forget(listener.fileno())
            listener.close()

    def _packet(self, views: list[memoryview]) -> None:
        """One packet; header and data lie anywhere in the chain's descriptors."""
        head = b""
        while views and len(head) < HEADER_BYTES:
            part = views[0][: HEADER_BYTES - len(head)]
            views[0] = views[0][len(part) :]
            head += part
            if not views[0]:
                views.pop(0)
        if len(head) < HEADER_BYTES:
            raise DeviceError("a packet without its header")
        packet = vsock_packet.decode(head)
        if sum(len(view) for view in views) != packet.length:
            raise DeviceError("a packet of another length than its header says")
        if packet.src_cid != self._cid:
            return  # a guest speaks for itself alone
        key = packet.src_port, packet.dst_cid, packet.dst_port
        stream = self._streams.get(key)
        if packet.op == Op.REQUEST and packet.kind == STREAM and stream is None:
            self._dial(packet)
        elif stream is None or packet.kind != STREAM:
            if packet.op != Op.RST:
                self._refuse(packet)
        else:
            stream.heard(packet)
            self._heard(stream, packet, views)

    def _heard(self, stream: Stream, packet: Packet, views: list[memoryview]) -> None:
        match packet.op:
            case Op.RESPONSE if stream.state is State.ASKED:
                stream.state = State.OPEN
                self._answer(stream)
            case Op.RW if stream.state is State.OPEN and not stream.guest_done_sending:
                self._data(stream, views)
            case Op.SHUTDOWN:
                stream.guest_done_sending |= bool(packet.flags & SHUTDOWN_SEND)
                stream.guest_done_receiving |= bool(packet.flags & SHUTDOWN_RECEIVE)
                self._flush(stream)
            case Op.CREDIT_UPDATE:
                self._watch(stream)
            case Op.CREDIT_REQUEST:
                self._control.append(stream.packet(Op.CREDIT_UPDATE))
            case Op.RST:
                self._drop(stream)
            case _:
                self._reset(stream)

    def _data(self, stream: Stream, views: list[memoryview]) -> None:
        try:
            within = stream.take(views)
        except OSError:
            within = False
        if not within:
            self._reset(stream)
            return
        if stream.owes_update():
            self._control.append(stream.packet(Op.CREDIT_UPDATE))
        self._watch(stream)

    def _refuse(self, packet: Packet) -> None:
        if len(self._control) < CONTROL_MAX:
            self._control.append(
                Packet(src_cid=packet.dst_cid, dst_cid=self._cid, src_port=packet.dst_port, dst_port=packet.src_port, op=Op.RST)
            )

    def _dial(self, packet: Packet) -> None:
        route = self._routes.get(packet.dst_cid)
        if route is None or len(self._streams) >= STREAMS_MAX:
            self._refuse(packet)
            return
        path, first = route(packet.dst_port)
        outside = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            outside.connect(os.fspath(path))  # on Unix sockets at once, or EAGAIN for a full backlog
            if first:
                outside.sendall(first)
        except OSError:
            outside.close()
            self._refuse(packet)
            return
        state = State.DIALLING if first else State.OPEN
        stream = Stream(outside, state=state, guest=(self._cid, packet.src_port), ours=(packet.dst_cid, packet.dst_port))
        stream.heard(packet)
        self._streams[stream.key] = stream
        if state is State.OPEN:
            self._control.append(stream.packet(Op.RESPONSE))
        self._watch(stream)

    # From the sockets

    def _accept(self, listener: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        try:
            outside, _ = listener.accept()
        except OSError:
            return
        if len(self._greeting) + len(self._streams) >= STREAMS_MAX or self.queue(RECEIVE) is None:
            outside.close()
            return
        outside.setblocking(False)
        accepted(outside)

    def _greeted(self, outside: socket.socket) -> None:
        self._greeting[outside.fileno()] = (outside, bytearray())
        self._loop.watch(outside.fileno(), READ, lambda _mask: self._greet(outside))

    def _forget_greeting(self, outside: socket.socket) -> None:
        self._loop.forget(outside.fileno())
        del self._greeting[outside.fileno()]
        outside.close()

    def _greet(self, outside: socket.socket) -> None:
        """Read the line that says which port; byte by byte, for what follows belongs to the stream."""
        line = self._greeting[outside.fileno()][1]
        try:
            while not line.endswith(b"\n"):
                piece = outside.recv(1)
                line += piece
                if not piece or len(line) > REQUEST_LINE_MAX:
                    self._forget_greeting(outside)
                    return
        except BlockingIOError:
            return
        except OSError:
            self._forget_greeting(outside)
            return
        word, _, number = bytes(line[:-1]).partition(b" ")
        port = int(number) if number.isdigit() else -1
        if word != b"CONNECT" or not 0 <= port < PORT_ANY:
            self._forget_greeting(outside)
            return
        self._loop.forget(outside.fileno())
        del self._greeting[outside.fileno()]
        self._ask(outside, port, answers=True)

    def _ask(self, outside: socket.socket, port: int, *, answers: bool) -> None:
        """Ask the guest for a stream to `port`; `answers`: say OK to the socket when it takes it."""
        if self.queue(RECEIVE) is None:
            outside.close()
            return
        ours = (self._peer_cid, self._free_port(port))
        stream = Stream(outside, state=State.ASKED, guest=(self._cid, port), ours=ours, answers=answers)
        self._streams[stream.key] = stream
        self._control.append(stream.packet(Op.REQUEST))
        self._watch(stream)
        self._deliver()

    def _free_port(self, guest_port: int) -> int:
        while True:
            port = self._next_port
            self._next_port = port + 1 if port + 1 in PORTS else PORTS.start
            if (guest_port, self._peer_cid, port) not in self._streams:
                return port

    def _answer(self, stream: Stream) -> None:
        """The guest took the stream: say so to the socket that asked, if it waits for that."""
        try:
            if stream.answers:
                stream.socket.send(b"OK %d\n" % stream.our_port)
        except OSError:
            self._reset(stream)
            return
        self._watch(stream)

    def _ready(self, stream: Stream, mask: int) -> None:
        if stream.state is State.DIALLING and mask & READ:
            self._answered(stream)
        elif stream.state is State.ASKED:
            self._abandoned(stream)
        else:
            if mask & WRITE:
                self._flush(stream)
            if mask & READ and stream.state is State.OPEN:
                self._starved[stream.key] = stream
        self._deliver()

    def _abandoned(self, stream: Stream) -> None:
        """Before the guest has answered nothing is read: only a hang-up is of interest."""
        poll = select.poll()
        poll.register(stream.socket, 0)
        if poll.poll(0):
            self._reset(stream)
        else:
            self._loop.forget(stream.socket.fileno())

    def _answered(self, stream: Stream) -> None:
        """Another guest's device says `OK ...` before the stream begins."""
        with contextlib.suppress(BlockingIOError):
            while not stream.preamble.endswith(b"\n"):
                try:
                    piece = stream.socket.recv(1)
                except ConnectionError:
                    piece = b""
                stream.preamble += piece
                if not piece or len(stream.preamble) > REQUEST_LINE_MAX:
                    self._reset(stream)
                    return
            stream.state = State.OPEN
            self._control.append(stream.packet(Op.RESPONSE))
            self._watch(stream)

    def _flush(self, stream: Stream) -> None:
        try:
            stream.flush()
        except OSError:
            self._reset(stream)
            return
        if stream.owes_update():
            self._control.append(stream.packet(Op.CREDIT_UPDATE))
        if stream.finished():
            self._reset(stream)
        else:
            self._watch(stream)

    def _watch(self, stream: Stream) -> None:
        """Ask the loop for what the stream can use now."""
        if stream.state is State.CLOSED:
            return
        waiting = stream.state in (State.DIALLING, State.ASKED)
        reads = waiting or (stream.wants_to_read() and stream.key not in self._starved)
        events = (READ if reads else 0) | (WRITE if stream.unsent and not waiting else 0)
        self._loop.watch(stream.socket.fileno(), events, lambda mask: self._ready(stream, mask))

    def _reset(self, stream: Stream) -> None:
        """End a stream and tell the guest."""
        if stream.state is not State.CLOSED:
            self._control.append(stream.packet(Op.RST))
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self._loop.forget(stream.socket.fileno())
        stream.socket.close()
        stream.state = State.CLOSED
        self._starved.pop(stream.key, None)
        self._streams.pop(stream.key, None)

    # To the guest

    def _deliver(self) -> None:
        """Fill the guest's buffers: control packets first, then one piece of every readable stream in turn."""
        queue = self.queue(RECEIVE)
        if queue is None:
            return
        used = False
        while (self._control or self._starved) and (chain := queue.peek()) is not None:
            if self._control:
                packet = self._control.popleft().encode()
                if not _put(chain.writable, packet):
                    raise DeviceError("a receive buffer too small for a header")
                queue.pop()
                queue.push(chain.head, len(packet))
                used = True
                continue
            stream = next(iter(self._starved.values()))
            del self._starved[stream.key]
            size = self._fill(stream, chain.writable)
            if size:
                queue.pop()
                queue.push(chain.head, HEADER_BYTES + size)
                used = True
            self._watch(stream)
        if used:
            self.interrupt(RECEIVE)
        for stream in list(self._starved.values()):
            self._watch(stream)  # no buffers: not read until the guest offers some

    def _fill(self, stream: Stream, views: tuple[memoryview, ...]) -> int:
        """Put one piece of a stream into a buffer of the guest; 0 where there was none."""
        if not stream.wants_to_read():
            return 0
        try:
            size = stream.read_into(views)
        except OSError:
            self._reset(stream)
            return 0
        if size == 0:
            stream.socket_ended = True
            flags = SHUTDOWN_SEND | (SHUTDOWN_RECEIVE if _hung_up(stream.socket) else 0)
            self._control.append(stream.packet(Op.SHUTDOWN, flags=flags))
            if stream.finished():
                self._reset(stream)
            return 0
        if size is None:
            return 0
        _put(views, stream.packet(Op.RW, length=size).encode())
        return size


def _hung_up(stream: socket.socket) -> bool:
    """Whether the peer has closed, not only ended its sending."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _put(views: tuple[memoryview, ...], data: bytes) -> bool:
    """Write `data` at the start of the views; False if they are too small."""
    at = 0
    for view in views:
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
    return at == len(data)
