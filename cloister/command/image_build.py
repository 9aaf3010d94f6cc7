"""`cloister image build`: a root file system, a kernel and an init become an enclave image file, the same bytes every time."""

import argparse
from collections.abc import Sequence
import hashlib
import json
from pathlib import Path
import platform
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.command.output import Context, Exit, RejectedError, UsageError
from owner import image, oci
from owner.cpio import Entry
from owner.image import Bootstrap, ImageError, Signer

ARCHITECTURES = ("x86_64", "aarch64")


def register_build(subparsers: Any) -> None:
    """Add the verb `build`."""
    parser = subparsers.add_parser("build", help="build an image from a root file system, deterministic, signed or not")
    root = parser.add_mutually_exclusive_group(required=True)
    root.add_argument("--oci", type=Path, metavar="DIR", help="root file system: an OCI layout")
    root.add_argument("--rootfs", type=Path, metavar="DIR", help="root file system: a directory")
    parser.add_argument("--blobs", type=Path, metavar="DIR", help="AWS's bzImage, cmdline, init and nsm.ko, as the blobs lock names them")
    parser.add_argument("--blobs-lock", type=Path, metavar="FILE", default=Path("blobs.lock"), help="their SHA-256 (blobs.lock)")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a kernel of one's own")
    parser.add_argument("--init", type=Path, metavar="FILE", help="the first process for it (deploy/init)")
    parser.add_argument("--cmdline", default=image.OWN_CMDLINE, metavar="TEXT", help="the kernel's command line (%(default)s)")
    parser.add_argument("--module", type=Path, action="append", default=[], metavar="FILE", help="a kernel module, in the order of loading")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default=platform.machine() if platform.machine() in ARCHITECTURES else "x86_64"
    )
    parser.add_argument("--signing-key", type=Path, metavar="FILE", help="P-384 private key, PEM")
    parser.add_argument("--signing-certificate", type=Path, metavar="FILE", help="its certificate, PEM; PCR8 names it")
    parser.add_argument("--files", type=Path, metavar="FILE", help="refuse a root file system with another list of files than this one")
    parser.add_argument("--write-files", action="store_true", help="write that list anew instead")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a JSON report: parts by SHA-256, PCRs, sizes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the image file")
    parser.set_defaults(run=run)


def _bootstrap(args: argparse.Namespace) -> Bootstrap:
    own = (args.kernel, args.init)
    if (args.blobs is None) == (own == (None, None)) or (args.blobs is None and None in own):
        raise UsageError("give either --blobs DIR, or --kernel FILE and --init FILE; see: cloister image build --help")
    if args.blobs is not None:
        return image.aws_bootstrap(args.blobs, args.blobs_lock.read_text(encoding="utf-8"), args.architecture)
    return Bootstrap(
        kernel=args.kernel.read_bytes(),
        cmdline=args.cmdline.encode(),
        init=args.init.read_bytes(),
        modules=tuple((path.name, path.read_bytes()) for path in args.module),
    )


def _signer(args: argparse.Namespace) -> Signer | None:
    if args.signing_key is None and args.signing_certificate is None:
        return None
    if args.signing_key is None or args.signing_certificate is None:
        raise UsageError("--signing-key and --signing-certificate go together")
    try:
        key = serialization.load_pem_private_key(args.signing_key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(args.signing_certificate.read_bytes())
        public = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RejectedError("the signing key or its certificate is no unencrypted PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1) or key.public_key() != public:
        raise RejectedError("the signing key is not P-384, or the certificate is another key's")
    return key, certificate


def _check_files(entries: Sequence[Entry], expected: str) -> None:
    found = set(image.file_list(entries).splitlines())
    wanted = {line for line in expected.splitlines() if not line.startswith("#")}
    lines = [f"+ {line}" for line in sorted(found - wanted)] + [f"- {line}" for line in sorted(wanted - found)]
    if lines:
        first = "; ".join(lines[:3])
        raise RejectedError(
            f"{len(lines)} files differ from the list: {first}; if they should: make image-files", data={"differences": lines}
        )


def run(args: argparse.Namespace, context: Context) -> int:
    """Build, read back, report."""
    signer = _signer(args)
    try:
        bootstrap = _bootstrap(args)
        entries = oci.read(args.oci) if args.oci is not None else image.scan(args.rootfs)
        if args.files is not None and args.write_files:
            args.files.write_text(image.FILES_HEADING + image.file_list(entries), encoding="utf-8")
        elif args.files is not None:
            _check_files(entries, args.files.read_text(encoding="utf-8"))
        built = image.build(bootstrap, entries, signer=signer, aarch64=args.architecture == "aarch64")
    except ImageError as error:
        raise RejectedError(str(error)) from None
    measurements = image.measure(built)
    report: dict[str, object] = {
        "image": args.out.name,
        "sha256": hashlib.sha256(built.eif).hexdigest(),
        "bytes": len(built.eif),
        "root_bytes": sum(len(entry.data) for entry in entries),
        "files": len(entries),
        "pcrs": {f"PCR{index}": value.hex() for index, value in sorted(measurements.pcrs.items())},
        "parts": dict(built.parts),
    }
    args.out.write_bytes(built.eif)
    if args.report is not None:
        args.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    context.show(_text(report), report)
    return Exit.ACCEPTED


def _text(report: dict[str, object]) -> str:
    pcrs = report["pcrs"]
    lines = [f"{report['image']}: {report['bytes']} bytes, {report['files']} files"]
    return "\n".join([*lines, *(f"{name} {value}" for name, value in pcrs.items())] if isinstance(pcrs, dict) else lines)
