"""`cloister reference-values withdraw`: take an image or a manifest back, on a signed list that expires."""

import argparse
from datetime import UTC, datetime, timedelta
import os
from pathlib import Path
import tempfile

from attestation import reference_values, strict_json, withdrawn
from attestation.command import read
from attestation.report_text import date
from attestation.source import printable
from attestation.values import pcr17_of
from attestation.withdrawn import LIFETIME_MAX, Withdrawal, Withdrawals
from cloister.command import keyfile
from cloister.command.output import Context, UsageError
from wire import manifest as manifests


def write_whole(path: str, data: bytes) -> None:
    """Replace a file as a whole or not at all: a relying party may be reading it."""
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _now() -> datetime:
    return datetime.now(UTC)


def _entries(args: argparse.Namespace) -> list[Withdrawal]:
    """What this run withdraws: images by their tuple, manifests by PCR17."""
    found = []
    for path in args.image or ():
        try:
            measurement = reference_values.measurement_of(strict_json.parse(read(path)))
        except strict_json.MalformedJsonError as error:
            raise UsageError(f"{path}: {error}") from None
        found.append(Withdrawal(pcrs={index: measurement.pcrs[index] for index in (0, 1, 2)}, reason=args.reason))
    for path in args.manifest or ():
        signed = manifests.open_envelope(read(path))
        found.append(Withdrawal(pcrs={17: pcr17_of(signed.digest)}, reason=args.reason))
    return found


def _withdraw(args: argparse.Namespace, context: Context) -> None:
    key = keyfile.private_key(args.key, args)
    owner = key.public_key().public_bytes_raw()
    entries, sequence = _entries(args), 1
    if Path(args.list).exists():
        held = withdrawn.open_envelope(read(args.list)).withdrawals
        if held.owner_key != owner:
            raise UsageError(f"{args.list} is another owner's list")
        entries, sequence = [*held.entries, *(entry for entry in entries if entry not in held.entries)], held.sequence + 1
    issued = _now()
    try:
        listed = Withdrawals(
            owner_key=owner,
            sequence=sequence,
            issued=int(issued.timestamp()),
            not_after=int((issued + timedelta(days=args.days)).timestamp()),
            entries=tuple(entries),
        )
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{error}") from None
    write_whole(args.list, withdrawn.sign(listed, key))
    lines = [f"{args.list}: list {listed.sequence}, {len(entries)} entries, not after {date(listed.not_after)}"]
    for entry in entries:
        names = ", ".join(f"PCR{index} {value.hex()[:16]}..." for index, value in entry.pcrs.items())
        lines.append(f"  {names}  {printable(entry.reason)}")
    lines.append("callers take it in with: cloister reference-values update FILE --withdrawn " + printable(args.list))
    value = {"accepted": True, "answer": "withdrawn", "sequence": listed.sequence, "not_after": listed.not_after, "entries": len(entries)}
    context.show("\n".join(lines), value)


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("list", metavar="LIST", help="made, or renewed with all that it holds")
    parser.add_argument("--key", metavar="KEY.pem", type=Path, required=True, help="the owner's private key")
    keyfile.add_passphrase(parser)
    parser.add_argument("--image", metavar="JSON", action="append", help="withdraw this image: cloister image measure --json; repeatable")
    parser.add_argument("--manifest", metavar="FILE", action="append", help="withdraw this manifest; repeatable")
    parser.add_argument("--reason", metavar="TEXT", default="", help="for people")
    parser.add_argument(
        "--days", metavar="N", type=int, default=30, help=f"how long the list is good for, at most {LIFETIME_MAX // 86_400}"
    )
    parser.set_defaults(run=_withdraw)
