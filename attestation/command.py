"""`cloister attestation ...` and `python -P -m attestation ...`: read files, judge, answer. Decides nothing itself.

`register` adds the noun; `fetch` belongs to the caller's SDK and is handed in where that is installed.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import platform
import re
import sys

from attestation import answers, appraise, document, explain, pack, reference_values, report_html, report_text, source, verify
from attestation.appraise import AttestationResult
from attestation.chain import Root
from attestation.output import Context, Exit, UsageError
from attestation.report import Verdict, links, registers
from attestation.report_text import date
from attestation.values import MAX_AGE, ReferenceValues
from attestation.verify import Claims, Moment
from wire.evidence import Evidence, encode_evidence_body, parse_evidence_body

Handler = Callable[[argparse.Namespace, Context], Exit | None]

UNVERIFIED = "UNVERIFIED: what the document says; nobody has checked who says it"
NOT_APPRAISED = "NOT APPRAISED: authentic, and perhaps of an enclave that you do not want"
UNTRUSTED_ROOT = "UNTRUSTED ROOT: judged under the certificate that you gave, not under AWS's"
ARCHIVED = "AT THE DOCUMENT'S OWN MOMENT: says nothing about now"
_NONCE = re.compile(r"[0-9a-f]{64}")


def _now() -> datetime:
    return datetime.now(UTC)


def read(path: str) -> bytes:
    """A file's bytes, `-` for standard input; bounded, so that no device or log is read for ever."""
    if path == "-":
        data = sys.stdin.buffer.read(source.INPUT_MAX + 1)
    else:
        with Path(path).open("rb") as stream:
            data = stream.read(source.INPUT_MAX + 1)
    if len(data) > source.INPUT_MAX:
        raise UsageError(f"{path} is larger than {source.INPUT_MAX} bytes, which no evidence is")
    return data


def _nonce(text: str) -> bytes:
    if _NONCE.fullmatch(text) is None:
        raise UsageError("the nonce is 64 lower-case hex digits: the 32 bytes that the evidence was asked for with")
    return bytes.fromhex(text)


def _seconds(text: str) -> timedelta:
    if re.fullmatch(r"[0-9]{1,3}", text) is None or not 1 <= int(text) <= MAX_AGE:
        raise argparse.ArgumentTypeError(f"expected whole seconds from 1 to {MAX_AGE}")
    return timedelta(seconds=int(text))


def _evidence(args: argparse.Namespace) -> tuple[Evidence | None, bytes]:
    """The evidence body and its document; a bare document becomes a body with --config and --pk."""
    data = source.decode(read(args.evidence))
    if args.config is None and args.pk is None:
        return explain.split(data)
    if args.config is None or args.pk is None:
        raise UsageError("--config and --pk go together")
    try:
        body = encode_evidence_body(source.decode(read(args.config)), source.decode(read(args.pk)), data)
    except ValueError as error:
        raise UsageError(f"{error}") from None
    evidence = parse_evidence_body(body)
    return evidence, evidence.document


def _values(path: str) -> ReferenceValues:
    return reference_values.parse(read(path))


def _roots(args: argparse.Namespace, context: Context) -> tuple[tuple[Root, ...], list[str]]:
    """The roots to judge under, and what to say over the answer."""
    if args.root is None:
        return context.roots, []
    try:
        return (source.root(read(args.root), "untrusted"),), [UNTRUSTED_ROOT]
    except ValueError:
        raise UsageError(f"{args.root} is not one certificate, PEM or DER") from None


def _lines(headings: list[str], rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([*headings, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _optional(value: bytes | None) -> str:
    return "absent" if value is None else f"{len(value)} bytes {value.hex()}"


def _inspect(args: argparse.Namespace, context: Context) -> None:
    _, raw = explain.split(source.decode(read(args.document)))
    parsed = document.parse(raw)
    rows = [("module_id", source.printable(parsed.module_id)), ("timestamp", date(parsed.timestamp // 1000))]
    rows += [(f"PCR{index}", value.hex()) for index, value in parsed.pcrs.items()]
    rows += [(name, _optional(getattr(parsed, name))) for name in ("public_key", "user_data", "nonce")]
    rows += [(link.place, f"{link.begins:%Y-%m-%d %H:%M} to {link.ends:%Y-%m-%d %H:%M}  {link.subject}") for link in links(parsed.chain)]
    rows += [("unknown member", source.printable(name)) for name in parsed.unknown_keys]
    context.show(
        _lines([UNVERIFIED], rows), {"accepted": True, "answer": "inspected", "status": "UNVERIFIED", "document": answers.document(parsed)}
    )


def claims_rows(claims: Claims) -> list[tuple[str, str]]:
    """Claims for a person."""
    rows = [
        ("module_id", source.printable(claims.module_id)),
        ("made at", f"{claims.timestamp:%Y-%m-%d %H:%M:%S} UTC"),
        ("partition", claims.partition),
        ("expires", f"{claims.expires:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    rows += [(f"PCR{row.index}", "" if row.value is None else f"{row.value.hex()}  {row.measures}") for row in registers(claims, None)]
    rows += [(name, _optional(getattr(claims, name))) for name in ("public_key", "user_data", "nonce")]
    return rows + [("unknown member", source.printable(name)) for name in claims.unknown_keys]


def _verify(args: argparse.Namespace, context: Context) -> None:
    _, raw = explain.split(source.decode(read(args.document)))
    roots, headings = _roots(args, context)
    if args.at == Moment.DOCUMENT:
        claims, headings = verify.verify_archive(raw, roots=roots), [*headings, ARCHIVED]
    else:
        claims = verify.verify(raw, now=_now(), roots=roots)
    headings.append(NOT_APPRAISED)
    value = {"accepted": True, "answer": "verified", "status": "; ".join(item.partition(":")[0] for item in headings)}
    context.show(_lines(headings, claims_rows(claims)), {**value, "claims": answers.claims(claims)})


def show_result(result: AttestationResult, context: Context, answer: str, **more: object) -> None:
    """Say that evidence was accepted, and what it is of."""
    config = result.config
    rows = [
        ("enclave", source.printable(result.claims.module_id)),
        ("image", f"{result.measurement.label or 'accepted'}  PCR0 {result.measurement.pcr0.hex()}"),
        ("owner", config.owner_key.hex()),
        ("manifest", f"sequence {config.sequence}, not after {date(config.not_after)}"),
        ("callers", "anyone" if answers.config(config)["callers"] == "anyone" else "with a credential"),
        ("made at", f"{result.claims.timestamp:%Y-%m-%d %H:%M:%S} UTC"),
        ("evidence", f"SHA-256 {result.evidence_digest.hex()}"),
    ]
    context.show(_lines(["ACCEPTED"], rows), {"accepted": True, "answer": answer, **answers.result(result), **more})


def _appraise(args: argparse.Namespace, context: Context) -> None:
    values, nonce = _values(args.reference_values), _nonce(args.nonce)
    evidence, raw = _evidence(args)
    now = _now()
    claims = verify.verify(raw, now=now, roots=context.roots)
    result = appraise.appraise(claims, evidence, nonce=nonce, reference_values=values, now=now, max_age=args.max_age)
    show_result(result, context, "appraised")


def _explain(args: argparse.Namespace, context: Context) -> Exit:
    evidence, raw = _evidence(args)
    roots, headings = _roots(args, context)
    question = explain.Question(
        data=raw if evidence is None else encode_evidence_body(evidence.config_raw, evidence.pk, evidence.document),
        roots=roots,
        now=_now(),
        moment=Moment(args.at),
        reference_values=None if args.reference_values is None else _values(args.reference_values),
        nonce=None if args.nonce is None else _nonce(args.nonce),
    )
    report = explain.explain(question)
    banner = "; ".join([*([context.heading] if context.heading else []), *headings]) or None
    if args.html is not None:
        Path(args.html).write_text(report_html.render(report, banner=banner), encoding="utf-8")
    text = "\n".join([*headings, report_text.render(report, colour=context.stdout.isatty() and not context.json)])
    accepted = report.verdict in (Verdict.ACCEPTED, Verdict.AUTHENTIC)
    context.show(text, {"accepted": accepted, "answer": "explained", "html": args.html, **answers.report(report)})
    return Exit.ACCEPTED if accepted else Exit.REJECTED


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("cloister", "cryptography", "pyopenssl", "cbor2"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found


def _pack(args: argparse.Namespace, context: Context) -> None:
    if args.check:
        _check_pack(args, context)
        return
    if args.evidence is None or args.reference_values is None or args.nonce is None:
        raise UsageError("packing needs --evidence, --reference-values and --nonce; to check a pack: --check")
    body, values_file, nonce = source.decode(read(args.evidence)), read(args.reference_values), _nonce(args.nonce)
    evidence, raw = explain.split(body)
    now = _now()
    claims = verify.verify(raw, now=now, roots=context.roots)
    values = reference_values.parse(values_file)
    appraise.appraise(claims, evidence, nonce=nonce, reference_values=values, now=now)
    question = explain.Question(data=body, roots=context.roots, now=now, moment=Moment.NOW, reference_values=values, nonce=nonce)
    page = report_html.render(explain.explain(question), banner=context.heading)
    members = {
        "evidence.bin": body,
        "nonce.bin": nonce,
        "reference-values.json": values_file,
        "report.html": page.encode(),
        "versions.json": answers.text(_versions()),
    }
    for name, path in (("measurements.json", args.image), ("key-policy.json", args.key_policy)):
        if path is not None:
            members[name] = read(path)
    data = pack.build(appraised_at=now, members=members)
    pack.check(pack.read(data), roots=context.roots)
    Path(args.out).write_bytes(data)
    names = sorted(members)
    context.show(f"ACCEPTED, and packed into {args.out}: {', '.join(names)}", {"accepted": True, "answer": "packed", "members": names})


def _check_pack(args: argparse.Namespace, context: Context) -> None:
    with Path(args.out).open("rb") as stream:
        opened = pack.read(stream.read(pack.PACK_MAX + 1))
    report = pack.check(opened, roots=context.roots)
    names = sorted(opened.members)
    said = f"it was appraised at {opened.appraised_at:%Y-%m-%d %H:%M:%S} UTC, as the packer says, who alone knows that the nonce was fresh"
    text = f"ACCEPTED as of then; {said}\n{ARCHIVED}\n  members: {', '.join(names)}\n\n{report_text.render(report)}"
    value = {"accepted": True, "answer": "checked", "status": ARCHIVED.partition(":")[0], "members": names}
    context.show(text, {**value, "appraised_at": int(opened.appraised_at.timestamp()), **answers.report(report)})


def _no_fetch(args: argparse.Namespace, context: Context) -> None:
    raise UsageError("fetch needs the caller's SDK; try: pip install 'cloister[client]' and cloister attestation fetch")


def _add_no_fetch(parser: argparse.ArgumentParser) -> None:
    """The arguments of the real one, so that the answer is what is missing, and not which argument."""
    parser.add_argument("endpoint", metavar="ENDPOINT", nargs="?")
    parser.add_argument("--reference-values", metavar="FILE")
    parser.add_argument("--out", metavar="FILE")


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", metavar="EVIDENCE", help="evidence body as fetch --out writes it, or a document; - for stdin")
    parser.add_argument("--config", metavar="FILE", help="service config, where EVIDENCE is a bare document")
    parser.add_argument("--pk", metavar="FILE", help="session key, where EVIDENCE is a bare document")


def _add_at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", choices=[item.value for item in Moment], default=Moment.NOW.value, help="the moment to judge at")
    parser.add_argument("--root", metavar="FILE", help="judge under this certificate, PEM or DER, instead of AWS's; for forensics")


def register(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", fetch: Callable[[argparse.ArgumentParser], None] | None = None
) -> None:
    """Add the noun. `fetch` adds its arguments and handler to the verb's parser; without it the verb says what is missing."""
    noun = subparsers.add_parser("attestation", help="fetch, verify, inspect and appraise evidence")
    register_verbs(noun, fetch)


def register_verbs(noun: argparse.ArgumentParser, fetch: Callable[[argparse.ArgumentParser], None] | None = None) -> None:
    """Add the verbs to the noun's own parser."""
    verbs = noun.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=text, description=text)
        parser.set_defaults(run=handler)
        return parser

    inspect = verb("inspect", _inspect, "show what a document says, without believing it")
    inspect.add_argument("document", metavar="DOC", help="document or evidence body: raw, base64 or hex; - for stdin")
    check = verb("verify", _verify, "is the document authentic? says nothing about whether you want it")
    check.add_argument("document", metavar="DOC", help="document or evidence body: raw, base64 or hex; - for stdin")
    _add_at(check)
    judge = verb("appraise", _appraise, "is it fresh evidence of an enclave that you accept?")
    _add_evidence(judge)
    judge.add_argument("--reference-values", metavar="FILE", required=True)
    judge.add_argument("--nonce", metavar="HEX", required=True, help="the 32 bytes that the evidence was asked for with")
    judge.add_argument("--max-age", metavar="S", type=_seconds, help="seconds; can only tighten the reference values' own")
    tell = verb("explain", _explain, "one page for a person: what was proven, by whom, and what was not")
    _add_evidence(tell)
    _add_at(tell)
    tell.add_argument("--reference-values", metavar="FILE")
    tell.add_argument("--nonce", metavar="HEX")
    tell.add_argument("--html", metavar="OUT", help="write the page as one self-contained file")
    packer = verb("pack", _pack, "put all that an appraisal rests on into one file, or check such a file")
    packer.add_argument("out", metavar="OUT.zip")
    packer.add_argument("--check", action="store_true", help="judge the pack OUT.zip again, offline")
    packer.add_argument("--evidence", metavar="EVIDENCE")
    packer.add_argument("--reference-values", metavar="FILE")
    packer.add_argument("--nonce", metavar="HEX")
    packer.add_argument("--image", metavar="FILE", help="output of cloister image measure --json")
    packer.add_argument("--key-policy", metavar="FILE")
    fetcher = verb("fetch", _no_fetch, "ask a running appliance for fresh evidence and appraise it")
    (fetch or _add_no_fetch)(fetcher)
