"""A guest's side of virtqueues and of vhost-user, as small as tests need it: descriptors, rings, messages."""

import array
from dataclasses import dataclass
import os
from pathlib import Path
import socket
import struct

from simulator.qemu.backend import HEADER, NEED_REPLY, REPLY, VERSION, Request
from simulator.qemu.vring import DESCRIPTOR, NEXT, WRITE, Memory, Queue

GUEST, USER = 0x1000_0000, 0x7F00_0000_0000  # where the guest and QEMU see the memory
SIZE = 1 << 20
QUEUE = 64


class GuestMemory:
    """One region of shared memory with rings for some queues at its start and buffers after them."""

    def __init__(self, queues: int) -> None:
        self.descriptor = os.memfd_create("guest")
        os.truncate(self.descriptor, SIZE)
        self.memory = Memory()
        self.memory.add(guest=GUEST, size=SIZE, user=USER, offset=0, descriptor=os.dup(self.descriptor))
        self.view = self.memory.guest(GUEST, SIZE)
        self.drivers = [Driver(self, 0x4000 * index) for index in range(queues)]
        self.free = 0x4000 * queues

    def place(self, size: int) -> int:
        """Room for a buffer: its offset."""
        at = self.free
        self.free += size + (-size % 16)
        return at


class Driver:
    """One queue as its driver sees it."""

    def __init__(self, guest: GuestMemory, base: int) -> None:
        self.guest = guest
        self.descriptors, self.available, self.used = base, base + 0x1000, base + 0x2000
        self.next_descriptor = 0
        self.made = 0
        self.taken = 0

    def queue(self) -> Queue:
        """The device's view of it."""
        return Queue(
            self.guest.memory,
            size=QUEUE,
            descriptors=USER + self.descriptors,
            available=USER + self.available,
            used=USER + self.used,
            next_available=0,
        )

    def offer(self, parts: list[tuple[int, int, bool]]) -> int:
        """Make a chain available: (offset, length, device writes); its head."""
        head = self.next_descriptor
        for place, (offset, length, writes) in enumerate(parts):
            index = (head + place) % QUEUE
            flags = (WRITE if writes else 0) | (NEXT if place + 1 < len(parts) else 0)
            self.raw(index, GUEST + offset, length, flags, (index + 1) % QUEUE)
        self.next_descriptor = (head + len(parts)) % QUEUE
        self.publish(head)
        return head

    def raw(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        """Any descriptor at all."""
        DESCRIPTOR.pack_into(self.guest.view, self.descriptors + DESCRIPTOR.size * index, address, length, flags, following)

    def publish(self, head: int) -> None:
        """Put a head into the available ring."""
        struct.pack_into("<H", self.guest.view, self.available + 4 + 2 * (self.made % QUEUE), head)
        self.made += 1
        struct.pack_into("<H", self.guest.view, self.available + 2, self.made & 0xFFFF)

    def send(self, *pieces: bytes) -> int:
        """Offer bytes to be read, a descriptor each; the head."""
        parts = []
        for piece in pieces:
            at = self.guest.place(len(piece))
            self.guest.view[at : at + len(piece)] = piece
            parts.append((at, len(piece), False))
        return self.offer(parts)

    def room(self, *sizes: int) -> list[int]:
        """Offer buffers to be written, one chain; their offsets."""
        places = [self.guest.place(size) for size in sizes]
        self.offer([(at, size, True) for at, size in zip(places, sizes, strict=True)])
        return places

    def done(self) -> list[tuple[int, int]]:
        """What came back since the last time: (head, bytes written)."""
        (index,) = struct.unpack_from("<H", self.guest.view, self.used + 2)
        back = []
        while self.taken != index:
            back.append(struct.unpack_from("<II", self.guest.view, self.used + 4 + 8 * (self.taken % QUEUE)))
            self.taken = (self.taken + 1) & 0xFFFF
        return back


@dataclass
class FrontEnd:
    """QEMU's side of the socket."""

    connection: socket.socket

    @classmethod
    def to(cls, path: Path) -> "FrontEnd":
        """Connect to a back-end."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(path))
        return cls(connection)

    def send(self, request: int, payload: bytes = b"", descriptors: list[int] | None = None, *, flags: int = VERSION) -> None:
        """One message."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.connection.sendmsg([HEADER.pack(request, flags, len(payload)) + payload], rights)

    def ask(self, request: int, payload: bytes = b"", descriptors: list[int] | None = None, *, reply: bool = False) -> bytes:
        """One message and its answer's payload; empty where the back-end hung up."""
        self.send(request, payload, descriptors, flags=VERSION | (NEED_REPLY if reply else 0))
        try:
            head = self.connection.recv(HEADER.size, socket.MSG_WAITALL)
            if not head:
                return b""
            number, flags, size = HEADER.unpack(head)
            assert (number, flags) == (request, VERSION | REPLY)
            return self.connection.recv(size, socket.MSG_WAITALL)
        except ConnectionError:
            return b""

    def start(self, guest: GuestMemory, index: int) -> tuple[int, int]:
        """Set one queue up and run it; its kick and call descriptors."""
        driver = guest.drivers[index]
        kick, call = os.eventfd(0), os.eventfd(0)
        region = struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE, USER, 0)
        assert self.ask(Request.SET_MEM_TABLE, region, [guest.descriptor], reply=True) == bytes(8)
        self.send(Request.SET_VRING_NUM, struct.pack("<II", index, QUEUE))
        self.send(Request.SET_VRING_BASE, struct.pack("<II", index, 0))
        places = (USER + driver.descriptors, USER + driver.used, USER + driver.available)
        self.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, *places, 0))
        self.send(Request.SET_VRING_CALL, struct.pack("<Q", index), [call])
        self.send(Request.SET_VRING_KICK, struct.pack("<Q", index), [kick])
        assert self.ask(Request.SET_VRING_ENABLE, struct.pack("<II", index, 1), reply=True) == bytes(8)
        return kick, call
