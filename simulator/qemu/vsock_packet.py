"""The packets of virtio-vsock (virtio 1.2, 5.10.6): a 44-byte header, then the bytes of a stream."""

from dataclasses import dataclass
from enum import IntEnum
import struct

HEADER = struct.Struct("<QQIIIHHIII")
HEADER_BYTES = HEADER.size
STREAM = 1
SHUTDOWN_RECEIVE, SHUTDOWN_SEND = 1, 2


class Op(IntEnum):
    """What a packet says."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One header. `buf_alloc` and `fwd_cnt` are the sender's credit: its buffer, and how much of it was freed so far."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int = 0
    kind: int = STREAM
    op: int
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0

    def encode(self) -> bytes:
        """The 44 bytes."""
        return HEADER.pack(
            self.src_cid,
            self.dst_cid,
            self.src_port,
            self.dst_port,
            self.length,
            self.kind,
            self.op,
            self.flags,
            self.buf_alloc,
            self.fwd_cnt,
        )


def decode(data: bytes) -> Packet:
    """The header of a packet; `data` is at least 44 bytes. Raises: ValueError for fewer."""
    if len(data) < HEADER_BYTES:
        raise ValueError("a header has 44 bytes")
    src_cid, dst_cid, src_port, dst_port, length, kind, op, flags, buf_alloc, fwd_cnt = HEADER.unpack_from(data)
    return Packet(
        src_cid=src_cid,
        dst_cid=dst_cid,
        src_port=src_port,
        dst_port=dst_port,
        length=length,
        kind=kind,
        op=op,
        flags=flags,
        buf_alloc=buf_alloc,
        fwd_cnt=fwd_cnt,
    )
