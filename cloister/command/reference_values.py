"""`cloister reference-values`: make, show, sign and follow what evidence is appraised against."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attestation import reference_values, strict_json, withdrawn
from attestation.command import read
from attestation.report_text import date
from attestation.source import printable
from attestation.values import MAX_AGE, Measurement, ReferenceValues, pcr16_of, pcr17_of
from cloister.command import keyfile, withdrawals
from cloister.command.output import Context, UsageError
from cloister.command.withdrawals import write_whole
from wire import manifest as manifests

_REGISTERS = ("pcr0", "pcr1", "pcr2", "pcr8")


def _hex(text: str, size: int, what: str) -> bytes:
    try:
        value = bytes.fromhex(text.strip())
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(f"{what} is {size} bytes in hex")
    return value


def _measurements(args: argparse.Namespace) -> tuple[Measurement, ...]:
    found = [reference_values.measurement_of(_json(path)) for path in args.image or ()]
    given = {name: getattr(args, name) for name in _REGISTERS if getattr(args, name) is not None}
    if given:
        if not {"pcr0", "pcr1", "pcr2"} <= set(given):
            raise UsageError("by hand, an image is --pcr0, --pcr1 and --pcr2 together")
        pcrs = {name: _hex(text, 48, f"--{name}") for name, text in given.items()}
        found.append(Measurement(pcr0=pcrs["pcr0"], pcr1=pcrs["pcr1"], pcr2=pcrs["pcr2"], pcr8=pcrs.get("pcr8")))
    labels = args.label or []
    if len(labels) > len(found):
        raise UsageError("more labels than images")
    return tuple(replace(item, label=label) for item, label in zip(found, [*labels, *[""] * (len(found) - len(labels))], strict=True))


def _json(path: str) -> strict_json.Json:
    try:
        return strict_json.parse(read(path))
    except strict_json.MalformedJsonError as error:
        raise UsageError(f"{path}: {error}") from None


def _pinned(args: argparse.Namespace, owner: bytes) -> bytes | None:
    if args.manifest is None:
        return None
    signed = manifests.open_envelope(read(args.manifest))
    if signed.owner_key != owner:
        raise UsageError(f"{args.manifest} is signed by another owner than --owner-key")
    return pcr17_of(signed.digest)


def _usable(make: Callable[[], ReferenceValues]) -> ReferenceValues:
    try:
        return make()
    except ValueError as error:
        raise UsageError(f"these reference values would check too little or contradict themselves: {error}") from None


def _new(args: argparse.Namespace, context: Context) -> None:
    owner = keyfile.public_key(args.owner_key)
    measurements = _measurements(args)
    pcr17 = _pinned(args, owner)
    values = _usable(
        lambda: ReferenceValues(
            measurements=measurements,
            pcr16=pcr16_of(owner),
            pcr17=pcr17,
            min_sequence=args.min_sequence,
            pcr3=tuple(_hex(text, 48, "--pcr3") for text in args.pcr3 or ()),
            pcr4=tuple(_hex(text, 48, "--pcr4") for text in args.pcr4 or ()),
            partition=context.roots[0].partition if args.partition is None else args.partition,
            max_age=args.max_age,
            accept_anyone=args.accept_anyone,
            owner_key=owner,
            sequence=args.sequence,
            withdrawn=None if args.withdrawn is None else withdrawn.open_envelope(read(args.withdrawn)),
        )
    )
    write_whole(args.file, reference_values.render(values))
    context.show(_text(values), {"accepted": True, "answer": "made", "file": args.file, "reference_values": _value(values)})


def _value(values: ReferenceValues) -> strict_json.Json:
    return strict_json.parse(reference_values.render(values))


def _text(values: ReferenceValues) -> str:
    lines = [f"reference values, sequence {values.sequence}, partition {values.partition}"]
    for place, item in enumerate(values.measurements):
        lines.append(f"  image {place + 1}{' ' + printable(item.label) if item.label else ''}")
        lines += [f"    PCR{index}  {value.hex()}" for index, value in item.pcrs.items()]
    lines.append(f"  owner     {'by PCR16 alone' if values.owner_key is None else values.owner_key.hex()}")
    lines.append(f"    PCR16 {values.pcr16.hex()}")
    if values.pcr17 is not None:
        lines.append(f"  manifest\n    PCR17 {values.pcr17.hex()}")
    if values.min_sequence is not None:
        lines.append(f"  manifest  sequence {values.min_sequence} or later")
    for name, pinned in (("role", values.pcr3), ("instance", values.pcr4)):
        lines += [f"  {name:<9} {value.hex()}" for value in pinned]
    lines.append(f"  age       at most {values.max_age} s")
    lines.append(f"  callers   {'anyone is accepted' if values.accept_anyone else 'only enclaves that authenticate theirs'}")
    if values.withdrawn is None:
        lines.append("  withdrawn no list: a flaw found later will not be noticed")
    else:
        listed = values.withdrawn.withdrawals
        lines.append(f"  withdrawn {len(listed.entries)} entries, list {listed.sequence}, not after {date(listed.not_after)}")
    return "\n".join(lines)


def _show(args: argparse.Namespace, context: Context) -> None:
    data = read(args.file)
    values = reference_values.parse(data)
    members = strict_json.parse(data)
    signed = isinstance(members, dict) and members.get("signature") is not None
    said = "signed by the owner key" if signed else "not signed: worth what its source is worth"
    context.show(f"{_text(values)}\n  {said}", {"accepted": True, "answer": "shown", "signed": signed, "reference_values": _value(values)})


def _sign(args: argparse.Namespace, context: Context) -> None:
    values = reference_values.parse(read(args.file))
    if args.sequence is not None:
        values = _usable(lambda: replace(values, sequence=args.sequence))
    try:
        data = reference_values.sign(values, keyfile.private_key(args.key, args))
    except ValueError as error:
        raise UsageError(f"{error}") from None
    write_whole(args.file, data)
    context.show(f"signed {args.file}, sequence {values.sequence}", {"accepted": True, "answer": "signed", "sequence": values.sequence})


def _update(args: argparse.Namespace, context: Context) -> None:
    held = reference_values.parse(read(args.file))
    if held.owner_key is None:
        raise UsageError(f"{args.file} names no owner key to believe a newer version by; make it anew")
    if args.newer is not None:
        data = read(args.newer)
        brought = reference_values.open_signed(data, owner_key=held.owner_key, after=held.sequence).withdrawn
        kept = held.withdrawn
        if kept is not None and (brought is None or brought.withdrawals.sequence < kept.withdrawals.sequence):
            data = reference_values.take_in(data, kept)  # an older list never displaces the one held
    else:
        data = reference_values.take_in(read(args.file), withdrawn.open_envelope(read(args.withdrawn)))
    values = reference_values.parse(data)
    write_whole(args.file, data)
    context.show(f"updated {args.file}\n{_text(values)}", {"accepted": True, "answer": "updated", "reference_values": _value(values)})


def _add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--image", metavar="JSON", action="append", help="cloister image measure --json, or nitro-cli's output; repeatable")
    for name in _REGISTERS:
        parser.add_argument(f"--{name}", metavar="HEX", help="an image by hand")
    parser.add_argument("--label", action="append", help="a name for each image, in order")
    parser.add_argument("--owner-key", metavar="PUB", required=True, help="the owner's public key: PEM or hex file, or 64 hex digits")
    floor = parser.add_mutually_exclusive_group(required=True)
    floor.add_argument("--manifest", metavar="FILE", help="accept this manifest alone (PCR17)")
    floor.add_argument("--min-sequence", metavar="N", type=int, help="accept the owner's manifests from this sequence on")
    parser.add_argument("--pcr3", metavar="HEX", action="append", help="an accepted IAM role; repeatable")
    parser.add_argument("--pcr4", metavar="HEX", action="append", help="an accepted instance; repeatable")
    parser.add_argument("--partition", metavar="NAME", help="aws (default) or aws-us-gov")
    parser.add_argument("--max-age", metavar="S", type=int, default=MAX_AGE, help="seconds")
    parser.add_argument("--accept-anyone", action="store_true", help="accept an enclave that authenticates no caller")
    parser.add_argument("--sequence", metavar="N", type=int, default=1, help="of these reference values")
    parser.add_argument("--withdrawn", metavar="FILE", help="the owner's list of withdrawn measurements")
    parser.set_defaults(run=_new)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("reference-values", help="make, sign and inspect what evidence is appraised against")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    _add_new(verbs.add_parser("new", help="make FILE from image measurements and the owner key"))
    show = verbs.add_parser("show", help="say what FILE accepts")
    show.add_argument("file", metavar="FILE")
    show.set_defaults(run=_show)
    sign = verbs.add_parser("sign", help="sign FILE with the owner key, so that callers can follow it")
    sign.add_argument("file", metavar="FILE")
    sign.add_argument("--key", metavar="KEY.pem", type=Path, required=True, help="the owner's private key")
    keyfile.add_passphrase(sign)
    sign.add_argument("--sequence", metavar="N", type=int, help="of this version; must rise with each")
    sign.set_defaults(run=_sign)
    withdrawals.add(verbs.add_parser("withdraw", help="take an image or a manifest back, on a signed list that expires"))
    update = verbs.add_parser("update", help="replace FILE by a newer version that its owner signed")
    update.add_argument("file", metavar="FILE")
    source = update.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", metavar="FILE", dest="newer", help="a signed version with a higher sequence")
    source.add_argument("--withdrawn", metavar="FILE", help="the owner's newer list of withdrawn measurements")
    update.set_defaults(run=_update)
