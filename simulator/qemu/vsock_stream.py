"""One vsock connection: its state, its credit both ways, and the Unix socket on our side of it.

The guest may send as much as it has credit for; what the socket does not take at once is kept, never more than that
credit. The guest's buffer is never overrun: the socket is read only as far as the guest's credit reaches.
"""

from collections import deque
from enum import Enum
import socket

from simulator.qemu.vsock_packet import HEADER_BYTES, Op, Packet

BUFFER = 256 * 1024  # our buf_alloc, as Linux's default
WRAP = 1 << 32
PIECE_MAX = 64 * 1024


class State(Enum):
    """DIALLING: our socket is not connected yet; ASKED: the guest has not answered our request yet."""

    DIALLING = 1
    ASKED = 2
    OPEN = 3
    CLOSED = 4


class Stream:
    """A connection between guest port and a Unix socket; names it keeps are those of the packets to the guest."""

    def __init__(
        self, stream: socket.socket, *, state: State, guest: tuple[int, int], ours: tuple[int, int], answers: bool = False
    ) -> None:
        self.socket = stream
        self.answers = answers
        self.state = state
        self.guest_cid, self.guest_port = guest
        self.our_cid, self.our_port = ours
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self.received = 0  # from the guest, in all
        self.forwarded = 0  # of that, taken by the socket
        self.told = 0  # `forwarded` when the guest heard of it last
        self.sent = 0  # to the guest, in all
        self.guest_buffer = 0
        self.guest_forwarded = 0
        self.guest_done_sending = False
        self.guest_done_receiving = False
        self.socket_ended = False
        self.shut = False
        self.preamble = bytearray()  # what the other side says before the stream begins

    @property
    def key(self) -> tuple[int, int, int]:
        """Guest port, our CID, our port."""
        return self.guest_port, self.our_cid, self.our_port

    def credit(self) -> int:
        """Bytes that the guest still has room for."""
        return max(0, self.guest_buffer - ((self.sent - self.guest_forwarded) % WRAP))

    def heard(self, packet: Packet) -> None:
        """Take over the guest's credit from any of its packets."""
        self.guest_buffer, self.guest_forwarded = packet.buf_alloc, packet.fwd_cnt

    def packet(self, op: Op, *, length: int = 0, flags: int = 0) -> Packet:
        """A packet to the guest; tells it our credit as well."""
        self.told = self.forwarded
        return Packet(
            src_cid=self.our_cid,
            dst_cid=self.guest_cid,
            src_port=self.our_port,
            dst_port=self.guest_port,
            length=length,
            op=op,
            flags=flags,
            buf_alloc=BUFFER,
            fwd_cnt=self.forwarded % WRAP,
        )

    def owes_update(self) -> bool:
        """Whether the guest should hear of freed buffer: from a quarter of it on."""
        return self.forwarded - self.told >= BUFFER // 4

    def take(self, views: list[memoryview]) -> bool:
        """Bytes from the guest: to the socket, or kept. False where the guest has exceeded its credit."""
        size = sum(len(view) for view in views)
        self.received += size
        if self.received - self.forwarded > BUFFER:
            return False
        if self.socket_ended and self.shut:
            self.forwarded += size
            return True
        if not self.unsent and self.state is State.OPEN:
            views = self._send(views)
        for view in views:  # guest memory is given back to the driver: what is kept is copied
            self.unsent.append(memoryview(bytes(view)))
            self.unsent_bytes += len(view)
        return True

    def flush(self) -> None:
        """Send what was kept, as far as the socket takes it. Raises: OSError where the socket is gone."""
        if self.unsent:
            rest = self._send(list(self.unsent))
            self.unsent = deque(rest)
            self.unsent_bytes = sum(len(view) for view in rest)
        if self.guest_done_sending and not self.unsent and not self.shut:
            self.shut = True
            self.socket.shutdown(socket.SHUT_WR)

    def _send(self, views: list[memoryview]) -> list[memoryview]:
        """Returns what is left over. Raises: OSError."""
        while views:
            try:
                done = self.socket.sendmsg(views[:64])
            except BlockingIOError:
                return views
            self.forwarded += done
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]
        return views

    def finished(self) -> bool:
        """Whether both sides have ended and nothing is on its way any more."""
        return self.guest_done_sending and not self.unsent and (self.socket_ended or self.guest_done_receiving)

    def wants_to_read(self) -> bool:
        """Whether the socket has anything to be read for: an open stream, a guest that still takes, and room there."""
        return self.state is State.OPEN and not self.socket_ended and not self.guest_done_receiving and self.credit() > 0

    def read_into(self, views: tuple[memoryview, ...]) -> int | None:
        """Read from the socket behind a header's place in these views. 0 at its end, None if nothing is there. Raises: OSError."""
        left = min(self.credit(), PIECE_MAX)
        targets, skip = [], HEADER_BYTES
        for view in views:
            part = view[skip : skip + left]
            skip = max(0, skip - len(view))
            left -= len(part)
            if part:
                targets.append(part)
        if not targets:
            return None
        try:
            size, _, _, _ = self.socket.recvmsg_into(targets)
        except BlockingIOError:
            return None
        self.sent += size
        return size
