"""An enclave image from a root file system: two ramdisks in the layout of AWS's bootstrap, and `attestation.eif` around them.

The first ramdisk has `init` and the kernel's modules, the second `rootfs/`, `cmd` and `env`. Both are deterministic
archives, compressed by a deflate that is checked to be the usual one: PCR2 depends on the root file system alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
import io
import json
from pathlib import Path
import re
import stat
import zlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import eif
from owner import cpio
from owner.cpio import ArchiveError, Entry
from owner.errors import OwnerError

COMMAND = ("/usr/bin/python3", "-I", "-m", "enclave")
# AWS's, less `nomodules` and `random.trust_cpu`: nothing but the NSM seeds the generator before boot credits it.
OWN_CMDLINE = "reboot=k panic=30 pci=off console=ttyS0"
BLOBS = ("bzImage", "cmdline", "init", "nsm.ko")
FOLDERS = ("dev", "proc", "run", "sys", "tmp")  # mount points, which no file has to bring along
LEVEL = 6
OURS = ("usr/lib/python3/dist-packages/enclave/", "usr/lib/python3/dist-packages/wire/")
FILES_HEADING = "# Every file of the image's root, less the modules of wire/ and enclave/. Written by `make image-files`.\n"
_LOCK_LINE = re.compile(r"(x86_64|aarch64) ([A-Za-z0-9._-]+) ([0-9a-f]{64})")
# SHA-256 of what zlib makes of PROBE at LEVEL. Other implementations compress as well, but to other bytes.
PROBE_SHA256 = "f889f3525b527653af4a9cc0fbb40a0bc25d826738cd3e3ad91aa0ec8172eeda"
Signer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


class ImageError(OwnerError):
    """The parts do not make an image; the text says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Kernel, command line, init, and modules in the order in which init loads them."""

    kernel: bytes
    cmdline: bytes
    init: bytes
    modules: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The finished file, and what went into it: name to SHA-256."""

    eif: bytes
    parts: Mapping[str, str]


def probe() -> bytes:
    """Two hundred kilobytes that exercise matches near and far, the same everywhere."""
    words = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest().encode() for number in range(500)]
    return b" ".join(words[(number * number + number // 7) % 500][: 8 + number % 50] for number in range(6000))


def deflated(data: bytes) -> bytes:
    """gzip without name or time."""
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 8)
    body = squeeze.compress(data) + squeeze.flush()
    trailer = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFF_FFFF).to_bytes(4, "little")
    return bytes.fromhex("1f8b0800000000000003") + body + trailer


def check_compressor() -> None:
    """Refuse to compress where the result would have another PCR2 than elsewhere. Raises: ImageError."""
    if hashlib.sha256(deflated(probe())).hexdigest() != PROBE_SHA256:
        raise ImageError(
            f"this zlib ({zlib.ZLIB_RUNTIME_VERSION}) compresses to other bytes than zlib 1.2 and 1.3: PCR2 would differ; build in Debian"
        )


def scan(root: Path) -> list[Entry]:
    """Every file, directory and link below a directory, without their times and owners. Raises: ImageError, OSError."""
    entries = []
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(root).as_posix()
        if stat.S_ISLNK(mode):
            entries.append(cpio.link(name, str(path.readlink())))
        elif stat.S_ISDIR(mode):
            entries.append(cpio.directory(name, stat.S_IMODE(mode)))
        elif stat.S_ISREG(mode):
            entries.append(cpio.file(name, path.read_bytes(), stat.S_IMODE(mode)))
        else:
            raise ImageError(f"{name} is neither file nor directory nor link")
    return entries


def file_list(entries: Iterable[Entry]) -> str:
    """One line an entry, sorted: octal mode, path, a link's target. Contents are measured, not listed; nor are our modules."""
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        target = f" -> {entry.data.decode()}" if stat.S_ISLNK(entry.mode) else ""
        if not entry.path.startswith(OURS):
            lines.append(f"{entry.mode:06o} {entry.path}{target}\n")
    return "".join(lines)


def _judged(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of a root file system, mount points added; nothing that changes its user, nothing that all may write."""
    for entry in entries:
        if entry.mode & (stat.S_ISUID | stat.S_ISGID):
            raise ImageError(f"{entry.path} changes its user or group when executed")
        if stat.S_ISREG(entry.mode) and entry.mode & 0o022:
            raise ImageError(f"{entry.path} can be written by others than root")
    names = {entry.path for entry in entries}
    return [*entries, *(cpio.directory(name) for name in FOLDERS if name not in names)]


def application_ramdisk(entries: Sequence[Entry], command: Sequence[str] = COMMAND) -> bytes:
    """The second ramdisk, which PCR2 measures: `cmd`, an empty `env`, and the root file system. Raises: ImageError."""
    if any("\n" in word or not word for word in command):
        raise ImageError("a word of the command is empty or has a line break")
    moved = [Entry(path=f"rootfs/{entry.path}", mode=entry.mode, data=entry.data) for entry in _judged(entries)]
    lines = "".join(f"{word}\n" for word in command).encode()
    try:
        return deflated(cpio.pack([cpio.file("cmd", lines), cpio.file("env", b""), cpio.directory("rootfs"), *moved]))
    except ArchiveError as error:
        raise ImageError(str(error)) from None


def bootstrap_ramdisk(bootstrap: Bootstrap) -> bytes:
    """The first ramdisk: `init` and, where the kernel has not everything built in, modules and their order."""
    entries = [cpio.directory("dev"), cpio.file("init", bootstrap.init, 0o755)]
    entries += [cpio.file(name, data) for name, data in bootstrap.modules]
    if [name for name, _ in bootstrap.modules] not in ([], ["nsm.ko"]):  # AWS's init knows nsm.ko by name
        entries.append(cpio.file("modules", "".join(f"/{name}\n" for name, _ in bootstrap.modules).encode()))
    return deflated(cpio.pack(entries))


def build(
    bootstrap: Bootstrap,
    entries: Sequence[Entry],
    *,
    signer: Signer | None = None,
    aarch64: bool = False,
    command: Sequence[str] = COMMAND,
) -> Image:
    """The image: equal parts give equal PCRs; unsigned, equal bytes. Raises: ImageError."""
    check_compressor()
    ramdisks = (bootstrap_ramdisk(bootstrap), application_ramdisk(entries, command))
    parts = {"kernel": bootstrap.kernel, "cmdline": bootstrap.cmdline, "init": bootstrap.init}
    parts |= dict(bootstrap.modules)
    parts |= {"bootstrap ramdisk": ramdisks[0], "application ramdisk": ramdisks[1]}
    data = eif.compose(
        kernel=bootstrap.kernel,
        cmdline=bootstrap.cmdline,
        ramdisks=ramdisks,
        metadata=_metadata(),
        signer=signer,
        aarch64=aarch64,
    )
    return Image(eif=data, parts={name: hashlib.sha256(part).hexdigest() for name, part in parts.items()})


def _metadata() -> bytes:
    """What nitro-cli's describe-eif wants to find; a fixed time, for it is not measured but would change the file."""
    fields = {
        "ImageName": "cloister",
        "ImageVersion": "1",
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00+00:00",
            "BuildTool": "cloister",
            "BuildToolVersion": "1",
            "OperatingSystem": "Linux",
            "KernelVersion": "unknown",
        },
        "DockerInfo": {},
        "CustomMetadata": {},
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def measure(image: Image) -> eif.Measurements:
    """What an enclave made from the image will have in its PCRs, read back from the file."""
    return eif.measure(io.BytesIO(image.eif))


def parse_blobs_lock(text: str) -> dict[tuple[str, str], str]:
    """`ARCHITECTURE NAME SHA256` a line, `#` comments: (architecture, name) to digest. Raises: ImageError."""
    digests = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LOCK_LINE.fullmatch(line)
        if match is None or (match[1], match[2]) in digests:
            raise ImageError("a line of the blobs lock is not ARCHITECTURE NAME SHA256, or stands there twice")
        digests[match[1], match[2]] = match[3]
    return digests


def aws_bootstrap(directory: Path, lock: str, architecture: str) -> Bootstrap:
    """AWS's kernel, command line, init and nsm.ko from a directory, each as the lock names it. Raises: ImageError, OSError."""
    digests = parse_blobs_lock(lock)
    names = ("Image" if architecture == "aarch64" else "bzImage", *BLOBS[1:])
    blobs = {name: (directory / name).read_bytes() for name in names}
    odd = {name: hashlib.sha256(data).hexdigest() for name, data in blobs.items()}
    odd = {name: digest for name, digest in odd.items() if digests.get((architecture, name)) != digest}
    if odd:
        found = "; ".join(f"{architecture} {name} {digest}" for name, digest in odd.items())
        raise ImageError(f"not in the blobs lock, compare them with another installation before adding: {found}")
    kernel, cmdline, init, module = (blobs[name] for name in names)
    return Bootstrap(kernel=kernel, cmdline=cmdline.rstrip(b"\n"), init=init, modules=(("nsm.ko", module),))
