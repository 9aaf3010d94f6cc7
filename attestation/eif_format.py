"""The Enclave Image Format, version 4: its numbers, its header, and the rule by which a section becomes a PCR.

All integers are big endian. Header, metadata, signature and section boundaries are not measured: bytes can move between
sections with PCR0 equal, which is why PCR0, PCR1 and PCR2 only count together.
"""

from dataclasses import dataclass
from enum import IntEnum
import hashlib
import struct

from attestation.checks import Check
from attestation.errors import MalformedImageError

MAGIC = b".eif"
VERSION = 4
FLAG_AARCH64 = 1
SECTIONS_MAX = 32
HEADER = struct.Struct(">4sHHQQHH32Q32QII")
SECTION = struct.Struct(">HHQ")
CRC_BYTES = 4
PCR_BYTES = 48


class Kind(IntEnum):
    """What a section is."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header: where each section's own header is said to start, and the size of its data. `raw` is the 548 bytes."""

    aarch64: bool
    default_memory: int
    default_cpus: int
    places: tuple[tuple[int, int], ...]
    crc: int
    raw: bytes


def parse_header(raw: bytes) -> Header:
    """Raises: MalformedImageError. `raw`: the first 548 bytes, or fewer where the image is cut short."""
    if len(raw) != HEADER.size:
        raise MalformedImageError(Check.EIF_TRUNCATED, "header")
    magic, version, flags, memory, cpus, reserved, count, *rest = HEADER.unpack(raw)
    offsets, sizes = rest[:SECTIONS_MAX], rest[SECTIONS_MAX : 2 * SECTIONS_MAX]
    unused, crc = rest[2 * SECTIONS_MAX :]
    if magic != MAGIC:
        raise MalformedImageError(Check.EIF_MAGIC)
    if version != VERSION:
        raise MalformedImageError(Check.EIF_VERSION, f"version {version}")
    if flags & ~FLAG_AARCH64 or reserved or unused:
        raise MalformedImageError(Check.EIF_HEADER_FLAGS)
    if not 1 <= count <= SECTIONS_MAX or any(offsets[count:]) or any(sizes[count:]):
        raise MalformedImageError(Check.EIF_SECTION_COUNT, f"{count} sections")
    return Header(
        aarch64=bool(flags & FLAG_AARCH64),
        default_memory=memory,
        default_cpus=cpus,
        places=tuple(zip(offsets[:count], sizes[:count], strict=True)),
        crc=crc,
        raw=raw,
    )


def pcr(data_sha384: bytes) -> bytes:
    """The PCR of measured data whose SHA-384 this is."""
    return hashlib.sha384(bytes(PCR_BYTES) + data_sha384).digest()
