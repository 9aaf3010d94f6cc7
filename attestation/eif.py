"""Measure an Enclave Image File as Nitro does, and compose one: PCR0, PCR1, PCR2 and PCR8 without booting it.

`measure` reads a stream once, in pieces of 1 MiB, and refuses every image that is not exactly what `compose` or AWS's
tools write (docs/verification.md, checks 9xx). PCRn = SHA-384(48 zero bytes || SHA-384(data)).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
from typing import BinaryIO
import zlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import eif_format, eif_signature
from attestation.checks import Check
from attestation.eif_format import HEADER, SECTION, Header, Kind
from attestation.eif_signature import Signer
from attestation.errors import MalformedImageError

PIECE = 1 << 20
SMALL_MAX = 1 << 20  # bytes of a command line, signature or metadata section, which are held in memory

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section: `pcrs` names the registers that its data moves."""

    kind: Kind
    offset: int
    size: int
    sha256: bytes
    pcrs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What an enclave made from the image has in its PCRs; `pcr8` is None where the image is not signed (PCR8 is zero)."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes | None
    sections: tuple[Section, ...]
    signer: Signer | None
    aarch64: bool
    cmdline: bytes
    metadata: bytes | None

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """Register to value; PCR8 only where the image is signed."""
        pcrs = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return pcrs if self.pcr8 is None else {**pcrs, 8: self.pcr8}


class _Measuring:
    """The state of one pass: hashes by register, the CRC, small sections kept."""

    def __init__(self, stream: BinaryIO, progress: Progress | None) -> None:
        self.stream = stream
        self.progress = progress
        self.total = 0
        self.done = 0
        self.crc = 0
        self.all = hashlib.sha384()
        self.boot: bytes | None = None
        self.application = hashlib.sha384()
        self.kept: dict[Kind, bytes] = {}
        self.ramdisks = 0
        self.seen: list[Kind] = []

    def read(self, size: int, where: str) -> bytes:
        pieces = []
        while size:
            piece = self.stream.read(size)
            if not piece:
                raise MalformedImageError(Check.EIF_TRUNCATED, where)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def header(self) -> Header:
        raw = bytearray()
        while len(raw) < HEADER.size:
            piece = self.stream.read(HEADER.size - len(raw))
            if not piece:
                break
            raw += piece
        header = eif_format.parse_header(bytes(raw))
        self.crc = zlib.crc32(header.raw[: -eif_format.CRC_BYTES])
        self.total = HEADER.size + sum(SECTION.size + size for _, size in header.places)
        self.done = HEADER.size
        return header

    def admit(self, number: int, place: int) -> Kind:
        """Check that a section of this kind may stand here (908, 910, 911)."""
        try:
            kind = Kind(number)
        except ValueError:
            raise MalformedImageError(Check.EIF_SECTION_TYPE, f"section {place} has type {number}") from None
        if kind is not Kind.RAMDISK and kind in self.seen:
            raise MalformedImageError(Check.EIF_SECTIONS, f"a second {kind.name.lower()}")
        later = {Kind.KERNEL: (Kind.CMDLINE, Kind.RAMDISK), Kind.CMDLINE: (Kind.RAMDISK,)}.get(kind, ())
        if any(item in self.seen for item in later):
            raise MalformedImageError(Check.EIF_ORDER, f"{kind.name.lower()} after {self.seen[-1].name.lower()}")
        self.seen.append(kind)
        return kind

    def section(self, place: int, offset: int, size: int) -> Section:
        where = f"section {place}"
        if offset != self.done:
            raise MalformedImageError(Check.EIF_SECTION_PLACE, f"{where} at {offset}, not {self.done}")
        raw = self.read(SECTION.size, where)
        number, flags, own_size = SECTION.unpack(raw)
        if own_size != size:
            raise MalformedImageError(Check.EIF_SECTION_SIZE, f"{where}: {own_size} bytes, not {size}")
        if flags:
            raise MalformedImageError(Check.EIF_SECTION_FLAGS, where)
        kind = self.admit(number, place)
        keep = kind in (Kind.CMDLINE, Kind.SIGNATURE, Kind.METADATA)
        if keep and size > SMALL_MAX:
            raise MalformedImageError(Check.EIF_SECTION_LIMIT, f"{where}: {kind.name.lower()} of {size} bytes")
        self.crc = zlib.crc32(raw, self.crc)
        self.done += len(raw)
        pcrs = self.registers(kind)
        digest = hashlib.sha256()
        kept = bytearray()
        left = size
        while left:
            piece = self.read(min(PIECE, left), where)
            left -= len(piece)
            self.measure(piece, pcrs)
            digest.update(piece)
            if keep:
                kept += piece
            self.done += len(piece)
            if self.progress is not None:
                self.progress(self.done, self.total)
        if keep:
            self.kept[kind] = bytes(kept)
        return Section(kind=kind, offset=offset, size=size, sha256=digest.digest(), pcrs=pcrs)

    def registers(self, kind: Kind) -> tuple[int, ...]:
        match kind:
            case Kind.KERNEL | Kind.CMDLINE:
                return (0, 1)
            case Kind.RAMDISK:
                self.ramdisks += 1
                if self.ramdisks == 1:
                    return (0, 1)
                if self.boot is None:
                    self.boot = self.all.copy().digest()
                return (0, 2)
            case Kind.SIGNATURE:
                return (8,)
            case Kind.METADATA:
                return ()

    def measure(self, piece: bytes, pcrs: tuple[int, ...]) -> None:
        self.crc = zlib.crc32(piece, self.crc)
        if 0 in pcrs:
            self.all.update(piece)
        if 2 in pcrs:
            self.application.update(piece)


def measure(stream: BinaryIO, progress: Progress | None = None) -> Measurements:
    """Read one image to its end. `progress` hears bytes done and bytes in all. Raises: MalformedImageError.

    Not checked: that kernel, command line and ramdisks are what their section says; who may sign is PCR8's business.
    """
    state = _Measuring(stream, progress)
    header = state.header()
    sections = tuple(state.section(place, offset, size) for place, (offset, size) in enumerate(header.places))
    for kind in (Kind.KERNEL, Kind.CMDLINE, Kind.RAMDISK):
        if kind not in state.seen:
            raise MalformedImageError(Check.EIF_SECTIONS, f"no {kind.name.lower()}")
    if stream.read(1):
        raise MalformedImageError(Check.EIF_TRAILING_BYTES)
    if state.crc != header.crc:
        raise MalformedImageError(Check.EIF_CRC)
    all_digest = state.all.digest()
    pcr0 = eif_format.pcr(all_digest)
    signature = state.kept.get(Kind.SIGNATURE)
    signer = None if signature is None else eif_signature.check(signature, pcr0)
    return Measurements(
        pcr0=pcr0,
        pcr1=eif_format.pcr(state.boot or all_digest),
        pcr2=eif_format.pcr(state.application.digest()),
        pcr8=None if signer is None else signer.pcr8,
        sections=sections,
        signer=signer,
        aarch64=header.aarch64,
        cmdline=state.kept[Kind.CMDLINE],
        metadata=state.kept.get(Kind.METADATA),
    )


def compose(
    *,
    kernel: bytes,
    cmdline: bytes,
    ramdisks: Sequence[bytes],
    metadata: bytes | None = None,
    signer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None = None,
    aarch64: bool = False,
    default_memory: int = 0,
    default_cpus: int = 0,
) -> bytes:
    """The image, in the order in which AWS writes it. The same arguments give the same bytes.

    Raises ValueError for what is no image: no ramdisk, too many sections.
    """
    sections: list[tuple[Kind, bytes]] = [(Kind.KERNEL, kernel), (Kind.CMDLINE, cmdline)]
    if metadata is not None:
        sections.append((Kind.METADATA, metadata))
    sections += [(Kind.RAMDISK, ramdisk) for ramdisk in ramdisks]
    if signer is not None:
        digest = hashlib.sha384(b"".join(data for kind, data in sections if kind is not Kind.METADATA)).digest()
        sections.append((Kind.SIGNATURE, eif_signature.build(eif_format.pcr(digest), *signer)))
    if not ramdisks or len(sections) > eif_format.SECTIONS_MAX:
        raise ValueError(f"an image has one ramdisk or more and at most {eif_format.SECTIONS_MAX} sections")
    offsets, at = [], HEADER.size
    for _, data in sections:
        offsets.append(at)
        at += SECTION.size + len(data)
    body = b"".join(SECTION.pack(kind, 0, len(data)) + data for kind, data in sections)
    empty = (0,) * (eif_format.SECTIONS_MAX - len(sections))
    sizes = [len(data) for _, data in sections]
    flags = eif_format.FLAG_AARCH64 if aarch64 else 0
    fields = (eif_format.MAGIC, eif_format.VERSION, flags, default_memory, default_cpus, 0, len(sections))
    header = HEADER.pack(*fields, *offsets, *empty, *sizes, *empty, 0, 0)[: -eif_format.CRC_BYTES]
    crc = zlib.crc32(body, zlib.crc32(header))
    return header + crc.to_bytes(eif_format.CRC_BYTES, "big") + body
