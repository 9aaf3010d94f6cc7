"""Guest memory and split virtqueues (virtio 1.2, 2.7) as a device sees them, over shared memory that QEMU hands us.

Every address and length in here comes from the guest: each is checked against the memory table before use. Indices are
read and written as native 16-bit items of a memoryview, which is one access; x86 and arm64 TSO-like order suffices here
because each side publishes an index only after what it covers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import mmap
import os
import struct
import sys

if sys.byteorder != "little":
    raise ImportError("virtqueues are little endian, and so must be this machine")

DESCRIPTOR = struct.Struct("<QIHH")
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
QUEUE_MAX = 1 << 15


class DeviceError(Exception):
    """The driver or QEMU broke the protocol of the queue; the device stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One stretch of guest memory: its place in the guest, its place in QEMU's address space, and our view of it."""

    guest: int
    user: int
    view: memoryview


class Memory:
    """The memory table. Views are given out for address ranges that lie within one region."""

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def add(self, *, guest: int, size: int, user: int, offset: int, descriptor: int) -> None:
        """Map one region; the descriptor is closed. Raises: DeviceError."""
        try:
            if size == 0 or os.fstat(descriptor).st_size < offset + size:
                raise DeviceError("a memory region reaches beyond its file")
            mapped = mmap.mmap(descriptor, offset + size)
        finally:
            os.close(descriptor)
        self._regions.append(Region(guest=guest, user=user, view=memoryview(mapped)[offset:]))

    def clear(self) -> None:
        """Forget every region."""
        self._regions = []

    def _find(self, place: str, address: int, size: int) -> memoryview:
        for region in self._regions:
            at = address - (region.guest if place == "guest" else region.user)
            if at >= 0 and at + size <= len(region.view):
                return region.view[at : at + size]
        raise DeviceError("an address outside guest memory")

    def guest(self, address: int, size: int) -> memoryview:
        """`size` bytes at a guest physical address. Raises: DeviceError."""
        return self._find("guest", address, size)

    def user(self, address: int, size: int) -> memoryview:
        """`size` bytes at an address of QEMU's. Raises: DeviceError."""
        return self._find("user", address, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One buffer that the driver made available: what the device reads, what it may write."""

    head: int
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]


class Queue:
    """One split virtqueue. `peek` looks at the next chain, `pop` takes it, `push` gives it back used."""

    def __init__(self, memory: Memory, *, size: int, descriptors: int, available: int, used: int, next_available: int) -> None:
        if not 0 < size <= QUEUE_MAX or size & (size - 1):
            raise DeviceError("a queue's size is a power of two")
        self._memory = memory
        self._size = size
        self._descriptors = memory.user(descriptors, DESCRIPTOR.size * size)
        self._available = memory.user(available, 4 + 2 * size).cast("H")
        used_ring = memory.user(used, 4 + 8 * size)
        self._used_index = used_ring[:4].cast("H")
        self._used = used_ring[4:].cast("I")
        self.next_available = next_available & 0xFFFF

    def waiting(self) -> int:
        """How many chains are available. Raises: DeviceError for more than the queue holds."""
        count = (self._available[1] - self.next_available) & 0xFFFF
        if count > self._size:
            raise DeviceError("more buffers than the queue holds")
        return count

    def peek(self) -> Chain | None:
        """The next chain, left where it is. Raises: DeviceError."""
        if not self.waiting():
            return None
        head = self._available[2 + self.next_available % self._size]
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        for view, writes in self._walk(head):
            if writes:
                writable.append(view)
            elif writable:
                raise DeviceError("a readable descriptor after a writable one")
            else:
                readable.append(view)
        return Chain(head=head, readable=tuple(readable), writable=tuple(writable))

    def _walk(self, index: int) -> Iterator[tuple[memoryview, bool]]:
        for _ in range(self._size):
            if index >= self._size:
                raise DeviceError("a descriptor outside the table")
            address, length, flags, following = DESCRIPTOR.unpack_from(self._descriptors, DESCRIPTOR.size * index)
            if flags & INDIRECT:
                raise DeviceError("an indirect descriptor, which was not offered")
            yield self._memory.guest(address, length), bool(flags & WRITE)
            if not flags & NEXT:
                return
            index = following
        raise DeviceError("a loop of descriptors")

    def pop(self) -> None:
        """Take the chain that `peek` showed."""
        self.next_available = (self.next_available + 1) & 0xFFFF

    def push(self, head: int, written: int) -> None:
        """Give a chain back, `written` bytes of it written."""
        index = self._used_index[1]
        at = 2 * (index % self._size)
        self._used[at] = head
        self._used[at + 1] = written
        self._used_index[1] = (index + 1) & 0xFFFF

    def wants_interrupt(self) -> bool:
        """Whether the driver asks to be told of used buffers."""
        return not self._available[0] & NO_INTERRUPT
