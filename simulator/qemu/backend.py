"""The back-end side of vhost-user: one listening socket, one QEMU, one device behind it.

Answers what QEMU asks while it sets a device up, maps guest memory, and calls the device when the driver kicks a queue.
Of the protocol's features REPLY_ACK and CONFIG are offered; of virtio's VERSION_1, and no ring feature at all.
"""

import array
from collections.abc import Callable
from enum import IntEnum
import os
from pathlib import Path
import socket
import struct
from typing import Protocol

from simulator.qemu.loop import READ, Loop
from simulator.qemu.vring import DeviceError, Memory, Queue

HEADER = struct.Struct("<III")
REGION = struct.Struct("<QQQQ")
VERSION, REPLY, NEED_REPLY = 0x1, 0x4, 0x8
PAYLOAD_MAX = 4096
DESCRIPTORS_MAX = 8
CONFIG_MAX = 256
VERSION_1 = 1 << 32
PROTOCOL_FEATURES = 1 << 30
REPLY_ACK = 1 << 3
CONFIG = 1 << 9
NO_DESCRIPTOR = 1 << 8


class Request(IntEnum):
    """The requests of the vhost-user specification that QEMU makes of such a device."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


class Device(Protocol):
    """What stands behind a back-end."""

    queue_count: int
    config: bytes

    def kicked(self, index: int, queue: Queue) -> None:
        """The driver made buffers available in a queue, or started it."""
        ...

    def reset(self) -> None:
        """The guest is gone, or starts anew: every queue is."""
        ...


class _Ring:
    """What QEMU has said of one queue so far."""

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.addresses: tuple[int, int, int] | None = None
        self.kick: int | None = None
        self.call: int | None = None
        self.enabled = False
        self.queue: Queue | None = None


class Backend:
    """Serves one device on a Unix socket; QEMU connects, and may connect again after it ended."""

    def __init__(self, loop: Loop, path: Path, device: Device) -> None:
        self._loop = loop
        self._device = device
        self._memory = Memory()
        self._connection: socket.socket | None = None
        self._rings = [_Ring() for _ in range(device.queue_count)]
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(1)
        loop.watch(self._listener.fileno(), READ, self._accept)
        self._handlers: dict[int, Callable[[bytes, list[int]], bytes | None]] = {
            Request.GET_FEATURES: lambda _payload, _fds: struct.pack("<Q", VERSION_1 | PROTOCOL_FEATURES),
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: lambda _payload, _fds: None,
            Request.RESET_OWNER: lambda _payload, _fds: None,
            Request.SET_MEM_TABLE: self._set_mem_table,
            Request.SET_VRING_NUM: self._set_num,
            Request.SET_VRING_ADDR: self._set_addresses,
            Request.SET_VRING_BASE: self._set_base,
            Request.GET_VRING_BASE: self._get_base,
            Request.SET_VRING_KICK: self._set_kick,
            Request.SET_VRING_CALL: self._set_call,
            Request.SET_VRING_ERR: lambda _payload, fds: _close(fds),
            Request.GET_PROTOCOL_FEATURES: lambda _payload, _fds: struct.pack("<Q", REPLY_ACK | CONFIG),
            Request.SET_PROTOCOL_FEATURES: lambda _payload, _fds: None,
            Request.GET_QUEUE_NUM: lambda _payload, _fds: struct.pack("<Q", len(self._rings)),
            Request.SET_VRING_ENABLE: self._set_enable,
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: lambda _payload, _fds: None,
        }

    def close(self) -> None:
        """End the connection and listen no more."""
        self._disconnect()
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def queue(self, index: int) -> Queue | None:
        """A queue that runs, or None."""
        return self._rings[index].queue

    def interrupt(self, index: int) -> None:
        """Tell the driver of used buffers, if it wants to be told."""
        ring = self._rings[index]
        if ring.call is not None and ring.queue is not None and ring.queue.wants_interrupt():
            os.eventfd_write(ring.call, 1)

    def _accept(self, _mask: int) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(10)
        self._connection = connection
        self._loop.forget(self._listener.fileno())  # one QEMU at a time; the next one waits in the backlog
        self._loop.watch(connection.fileno(), READ, self._message)

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        self._loop.forget(self._connection.fileno())
        self._connection.close()
        self._connection = None
        for index in range(len(self._rings)):
            self._stop(index)
        self._rings = [_Ring() for _ in self._rings]
        self._memory.clear()
        self._device.reset()
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _message(self, _mask: int) -> None:
        connection = self._connection
        if connection is None:
            return
        descriptors: list[int] = []
        try:
            header, ancillary, _, _ = connection.recvmsg(HEADER.size, socket.CMSG_SPACE(4 * DESCRIPTORS_MAX), socket.MSG_CMSG_CLOEXEC)
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors += array.array("i", data[: len(data) - len(data) % 4])
            self._serve(connection, header, descriptors)
        except (OSError, DeviceError, struct.error):
            _close(descriptors)
            self._disconnect()

    def _serve(self, connection: socket.socket, header: bytes, descriptors: list[int]) -> None:
        if len(header) != HEADER.size:
            raise DeviceError("the connection ended")
        number, flags, size = HEADER.unpack(header)
        if flags & 3 != VERSION or size > PAYLOAD_MAX or number not in self._handlers:
            raise DeviceError("a request that is not of the protocol, or was not offered")
        payload = b""
        while len(payload) < size:
            piece = connection.recv(size - len(payload))
            if not piece:
                raise DeviceError("the connection ended")
            payload += piece
        answer = self._handlers[number](payload, descriptors)
        if answer is None and flags & NEED_REPLY:
            answer = bytes(8)
        if answer is not None:
            connection.sendall(HEADER.pack(number, VERSION | REPLY, len(answer)) + answer)

    def _ring(self, index: int) -> _Ring:
        if index >= len(self._rings):
            raise DeviceError("a queue that the device has not")
        return self._rings[index]

    def _set_features(self, payload: bytes, _fds: list[int]) -> None:
        (features,) = struct.unpack("<Q", payload)
        if features & ~(VERSION_1 | PROTOCOL_FEATURES):
            raise DeviceError("a feature that was not offered")
        for ring in self._rings:  # without PROTOCOL_FEATURES rings start enabled
            ring.enabled = ring.enabled or not features & PROTOCOL_FEATURES

    def _set_mem_table(self, payload: bytes, descriptors: list[int]) -> None:
        count, _ = struct.unpack_from("<II", payload)
        if count != len(descriptors) or len(payload) < 8 + REGION.size * count:
            raise DeviceError("as many descriptors as memory regions")
        self._memory.clear()
        for place in range(count):
            guest, size, user, offset = REGION.unpack_from(payload, 8 + REGION.size * place)
            self._memory.add(guest=guest, size=size, user=user, offset=offset, descriptor=descriptors.pop(0))

    def _set_num(self, payload: bytes, _fds: list[int]) -> None:
        index, size = struct.unpack("<II", payload)
        self._ring(index).size = size

    def _set_base(self, payload: bytes, _fds: list[int]) -> None:
        index, base = struct.unpack("<II", payload)
        self._ring(index).base = base

    def _set_addresses(self, payload: bytes, _fds: list[int]) -> None:
        index, _flags, descriptors, used, available, _log = struct.unpack("<IIQQQQ", payload)
        self._ring(index).addresses = (descriptors, available, used)

    def _get_base(self, payload: bytes, _fds: list[int]) -> bytes:
        index = struct.unpack("<II", payload)[0]
        ring = self._ring(index)
        base = ring.queue.next_available if ring.queue is not None else ring.base
        self._stop(index)
        return struct.pack("<II", index, base)

    def _set_kick(self, payload: bytes, descriptors: list[int]) -> None:
        index = self._descriptor(payload, descriptors)
        self._stop(index)
        self._ring(index).kick = descriptors.pop(0)
        self._start(index)

    def _set_call(self, payload: bytes, descriptors: list[int]) -> None:
        ring = self._ring(self._descriptor(payload, descriptors))
        if ring.call is not None:
            os.close(ring.call)
        ring.call = descriptors.pop(0)

    def _descriptor(self, payload: bytes, descriptors: list[int]) -> int:
        value = int(struct.unpack("<Q", payload)[0])
        if value & NO_DESCRIPTOR or len(descriptors) != 1:
            raise DeviceError("a queue without event descriptors, which is not served")
        self._ring(value)
        return value

    def _set_enable(self, payload: bytes, _fds: list[int]) -> None:
        index, enabled = struct.unpack("<II", payload)
        self._ring(index).enabled = bool(enabled)
        self._start(index)

    def _get_config(self, payload: bytes, _fds: list[int]) -> bytes:
        offset, size, _flags = struct.unpack_from("<III", payload)
        if offset + size > CONFIG_MAX:
            raise DeviceError("more configuration than a device has")
        return payload[:12] + self._device.config.ljust(CONFIG_MAX, b"\0")[offset : offset + size]

    def _start(self, index: int) -> None:
        ring = self._ring(index)
        if ring.kick is None or not ring.enabled or ring.addresses is None or ring.queue is not None:
            return
        descriptors, available, used = ring.addresses
        ring.queue = Queue(self._memory, size=ring.size, descriptors=descriptors, available=available, used=used, next_available=ring.base)
        self._loop.watch(ring.kick, READ, lambda _mask: self._kicked(index))
        self._serve_queue(index)

    def _stop(self, index: int) -> None:
        ring = self._ring(index)
        ring.queue = None
        if ring.kick is not None:
            self._loop.forget(ring.kick)
            os.close(ring.kick)
            ring.kick = None

    def _kicked(self, index: int) -> None:
        kick = self._rings[index].kick
        if kick is not None:
            os.eventfd_read(kick)
            self._serve_queue(index)

    def _serve_queue(self, index: int) -> None:
        queue = self._rings[index].queue
        if queue is None:
            return
        try:
            self._device.kicked(index, queue)
        except DeviceError:
            self._disconnect()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()
