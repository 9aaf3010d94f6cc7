"""`cloister manifest`: make a deployment's manifest as a readable draft, sign it, and see what a signed one says."""

import argparse
from datetime import UTC, datetime
import json
from pathlib import Path
import re
import time

from cloister.command import keyfile
from cloister.command.model import check_model, show_rows, tensor_text
from cloister.command.output import Context, Exit, RejectedError, UsageError
from owner import amazon, draft
from wire import manifest
from wire.feed import MANIFEST_MAX
from wire.manifest import Anyone, Issuers, Limits, Manifest, SignedManifest
from wire.manifest_codec import ID, KEY_ARN
from wire.manifest_values import CREDENTIAL_LIFETIME_DEFAULT

DAY_SECONDS = 86_400
DAYS_MAX = manifest.NOT_AFTER_MAX_SECONDS // DAY_SECONDS


def _signed(path: Path) -> SignedManifest:
    with path.open("rb") as file:
        return manifest.open_envelope(file.read(MANIFEST_MAX + 1))


def _draft(path: Path) -> draft.Json:
    with keyfile.owner_errors():
        return draft.load(path.read_bytes())


def _either(path: Path) -> draft.Json:
    """A draft as it is, or a signed manifest as a draft."""
    data = path.read_bytes()
    if data.lstrip()[:1] == b"{":
        return _draft(path)
    return draft.from_manifest(_signed(path).manifest)


def _write(path: Path, value: draft.Json) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(draft.dump(value), encoding="utf-8")
    new.replace(path)


def _callers(args: argparse.Namespace) -> draft.Json | str:
    if args.anyone == bool(args.issuer):
        raise UsageError("say who may call: --issuer PUB, once for each issuer of credentials, or --anyone")
    if args.anyone:
        return "anyone"
    return {"issuers": [keyfile.public_key(issuer).hex() for issuer in args.issuer], "max_lifetime": args.max_lifetime}


def _fresh(args: argparse.Namespace) -> draft.Json:
    if not args.deployment or not args.key_arn:
        raise UsageError("a first manifest needs --deployment and --key-arn; a later one --from the last signed one")
    if not re.fullmatch(ID, args.deployment) or not re.fullmatch(KEY_ARN, args.key_arn):
        raise UsageError("a deployment is an id, and --key-arn the full ARN of a single-Region key: no alias, no mrk-")
    with keyfile.owner_errors():
        bundle = args.ca_bundle.read_bytes() if args.ca_bundle else amazon.bundle()
    return {
        "version": 1,
        "deployment": args.deployment,
        "sequence": 1,
        "not_after": draft.NOT_AFTER_UNSET,
        "epoch": args.epoch or 1,
        "models": [],
        "pipelines": [],
        "kms": {"key_arn": args.key_arn, "host": args.host or amazon.host(args.key_arn), "ca_bundle": bundle.decode("ascii", "replace")},
        "callers": _callers(args),
        "quota": None,
        "limits": {name: getattr(Limits(), name) for name in Limits.__slots__},
        "platform": {"clocksources": args.clocksource or ["kvm-clock", "tsc"]},
        "audit": None,
    }


def _following(args: argparse.Namespace) -> draft.Json:
    if args.deployment or args.key_arn or args.host or args.ca_bundle or args.clocksource:
        raise UsageError("--from takes deployment, KMS and platform from the earlier manifest; edit the draft to change them")
    value = draft.successor(_signed(args.from_).manifest)
    if args.anyone or args.issuer:
        value["callers"] = _callers(args)
    if args.epoch and args.epoch != value["epoch"]:
        value["epoch"], value["models"] = args.epoch, []  # sealed for the old epoch: none of them would unwrap
    return value


def _new(args: argparse.Namespace, context: Context) -> None:
    if args.draft.exists():
        raise UsageError(f"{args.draft} is there already; take another name")
    value = _following(args) if args.from_ else _fresh(args)
    _write(args.draft, value)
    counts = f"sequence {value['sequence']}, epoch {value['epoch']}, {len(value['models'])} models"
    text = f"{args.draft}: {counts}; next: manifest add, manifest sign"
    context.show(text, {"accepted": True, "draft": str(args.draft), "sequence": value["sequence"], "epoch": value["epoch"]})


def _add(args: argparse.Namespace, context: Context) -> None:
    value, lines = _draft(args.draft), []
    for path in args.model:
        with keyfile.owner_errors():
            described = draft.read_description(draft.load(path.read_bytes()))
            value, replaced = draft.add(value, described)
        lines.append(f"{'replaced' if replaced else 'added'} {described.model.id} {described.model.version}")
    _write(args.draft, value)
    context.show("\n".join(lines), {"accepted": True, "models": lines})


def _sign(args: argparse.Namespace, context: Context) -> None:
    if not 0 < args.days <= DAYS_MAX:
        raise UsageError(f"--days is from 1 to {DAYS_MAX}: an enclave refuses a manifest that is valid for longer")
    value = _draft(args.draft) | {"not_after": int(time.time()) + args.days * DAY_SECONDS}
    with keyfile.owner_errors():
        judged = draft.to_manifest(value)
    key = keyfile.private_key(args.key, args)
    if args.after and (earlier := _signed(args.after)):
        if earlier.manifest.sequence >= judged.sequence:
            raise RejectedError(f"the sequence {judged.sequence} is not above {earlier.manifest.sequence} of {args.after}")
        if earlier.owner_key != key.public_key().public_bytes_raw():
            raise RejectedError(f"{args.after} is signed by another owner key; PCR16 and every key policy would change")
    envelope = manifest.sign(manifest.encode(judged), key)
    signed = manifest.open_envelope(envelope)
    args.out.write_bytes(envelope)
    pcr17 = manifest.extended(signed.digest).hex()
    text = f"{args.out}: sequence {judged.sequence}, valid until {_day(judged.not_after)}\nPCR17  {pcr17}"
    context.show(text, {"accepted": True, "manifest": str(args.out), "sequence": judged.sequence, "pcr17": pcr17})


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"


def _verify(args: argparse.Namespace, context: Context) -> Exit:
    signed = _signed(args.manifest)
    held, left = signed.manifest, signed.manifest.not_after - time.time()
    if args.owner_key and keyfile.public_key(args.owner_key) != signed.owner_key:
        raise RejectedError("signed by another owner key than the one given", data={"owner_key": signed.owner_key.hex()})
    if not 0 < left <= manifest.NOT_AFTER_MAX_SECONDS:
        raise RejectedError(f"not valid now: not_after is {_day(held.not_after)}; an enclave accepts at most {DAYS_MAX} days ahead")
    if args.artifacts is None:
        what = "the owner key given" if args.owner_key else f"owner key {signed.owner_key.hex()}; compare it"
        text = f"signed by {what}; sequence {held.sequence}, valid until {_day(held.not_after)}"
        context.show(text, {"accepted": True, "owner_key": signed.owner_key.hex(), "sequence": held.sequence})
        return Exit.ACCEPTED
    rows = []
    for model in held.models:
        rows += check_model(model, args.artifacts, owner_key=signed.owner_key, key_arn=held.kms.key_arn, epoch=held.epoch)
    return show_rows(rows, context)


def _callers_text(held: Manifest) -> str:
    match held.callers:
        case Anyone():
            return "anyone who attests the enclave"
        case Issuers() as issuers:
            return f"holders of a credential by one of {len(issuers.keys)} issuers, for at most {issuers.max_lifetime / 3600:g} h"


def _show(args: argparse.Namespace, context: Context) -> None:
    signed = _signed(args.manifest)
    held = signed.manifest
    lines = [
        f"deployment {held.deployment}, sequence {held.sequence}, epoch {held.epoch}, valid until {_day(held.not_after)}",
        f"owner key  {signed.owner_key.hex()}",
        f"PCR16      {manifest.extended(manifest.owner_measurement(signed.owner_key)).hex()}",
        f"PCR17      {manifest.extended(signed.digest).hex()}",
        f"KMS        {held.kms.key_arn} at {held.kms.host}",
        f"callers    {_callers_text(held)}",
    ]
    for model in held.models:
        lines.append(
            f"model      {model.id} {model.version}, {sum(part.length for part in model.parts):,} bytes, isolation {model.isolation}"
        )
        lines += [f"  in       {tensor_text(tensor)}" for tensor in model.inputs]
        lines += [f"  out      {tensor_text(tensor)}" for tensor in model.outputs]
    lines += [f"pipeline   {pipeline.id} {pipeline.version}, {len(pipeline.steps)} steps" for pipeline in held.pipelines]
    value = {
        "owner_key": signed.owner_key.hex(),
        "pcr16": manifest.extended(manifest.owner_measurement(signed.owner_key)).hex(),
        "pcr17": manifest.extended(signed.digest).hex(),
        "manifest": draft.from_manifest(held),
    }
    context.show("\n".join(lines), value)


def _word(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _diff(args: argparse.Namespace, context: Context) -> Exit:
    rows = draft.differences(_either(args.old), _either(args.new))
    lines = [f"{field}: {_word(old)} -> {_word(new)}" for field, old, new in rows]
    value = {"accepted": not rows, "differences": [{"field": field, "old": old, "new": new} for field, old, new in rows]}
    context.show("\n".join(lines) or "no difference", value)
    return Exit.REJECTED if rows else Exit.ACCEPTED


def _add_new(new: argparse.ArgumentParser) -> None:
    new.add_argument("draft", type=Path, metavar="DRAFT.json")
    new.add_argument("--from", dest="from_", type=Path, metavar="SIGNED", help="follow this signed manifest: all of it, sequence + 1")
    new.add_argument("--deployment", metavar="ID", help="the audience of credentials")
    new.add_argument("--key-arn", metavar="ARN", help="the KMS key of all models, by full ARN")
    new.add_argument("--epoch", type=int, metavar="N", help="default: 1, or the earlier manifest's; another one drops the models")
    new.add_argument("--host", metavar="NAME", help="the KMS endpoint (default: the Region's)")
    new.add_argument("--ca-bundle", type=Path, metavar="PEM", help="who vouches for it (default: Amazon's five roots)")
    new.add_argument("--issuer", action="append", default=[], metavar="PUB", help="a key that issues callers' credentials; up to 8")
    new.add_argument("--max-lifetime", type=int, default=CREDENTIAL_LIFETIME_DEFAULT, metavar="S", help="of a credential (default: a day)")
    new.add_argument("--anyone", action="store_true", help="callers need no credential")
    new.add_argument("--clocksource", action="append", metavar="NAME", help="accepted clock sources (default: kvm-clock, tsc)")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("manifest", help="make, sign and inspect manifests")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    new = verbs.add_parser("new", help="begin a draft")
    _add_new(new)
    new.set_defaults(run=_new)
    add = verbs.add_parser("add", help="add sealed models to a draft, in place of ones with the same id and version")
    add.add_argument("draft", type=Path, metavar="DRAFT.json")
    add.add_argument("model", type=Path, nargs="+", metavar="ID-VERSION.json", help="as model seal writes them")
    add.set_defaults(run=_add)
    sign = verbs.add_parser("sign", help="judge a draft in full and sign it")
    sign.add_argument("draft", type=Path, metavar="DRAFT.json")
    sign.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="the owner key, as owner-key new writes it")
    sign.add_argument("--days", type=int, default=30, metavar="N", help=f"validity from now, at most {DAYS_MAX} (default: 30)")
    sign.add_argument("--out", type=Path, default=Path("manifest.cose"), metavar="FILE", help="default: manifest.cose")
    sign.add_argument("--after", type=Path, metavar="SIGNED", help="refuse unless this one is older and of the same owner")
    keyfile.add_passphrase(sign)
    sign.set_defaults(run=_sign)
    verify = verbs.add_parser("verify", help="judge signature and validity, and with --artifacts every sealed part")
    verify.add_argument("manifest", type=Path, metavar="SIGNED")
    verify.add_argument("--owner-key", metavar="PUB", help="who must have signed it: PEM file or hex")
    verify.add_argument("--artifacts", type=Path, metavar="DIR", help="where the sealed parts are")
    verify.set_defaults(run=_verify)
    show = verbs.add_parser("show", help="what a signed manifest says, with PCR16 and PCR17")
    show.add_argument("manifest", type=Path, metavar="SIGNED")
    show.set_defaults(run=_show)
    diff = verbs.add_parser("diff", help="field by field, drafts or signed ones; exit 1 where they differ")
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.set_defaults(run=_diff)
