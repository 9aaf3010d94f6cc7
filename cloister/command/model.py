"""`cloister model`: look at an ONNX file, seal it for one owner, key and epoch, and check what was sealed."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import hashlib
from pathlib import Path
import re
import secrets
import sys
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from cloister.command import keyfile, model_metadata
from cloister.command.output import Context, CouldNotAskError, Exit, RejectedError, UsageError
from owner import draft, inspection
from owner.onnx_file import ModelFile, judge
from owner.seal import Progress, seal_split, sealing
from owner.weights import split
from wire import artifact, manifest
from wire.manifest import Intake, Model, Part, Runtime, Tensor, encryption_context
from wire.manifest_codec import ID, KEY_ARN

BAR_FROM = 64 << 20


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """A bar on standard error where a person is looking and the work is long."""
    if not sys.stderr.isatty() or total < BAR_FROM:
        yield lambda _: None
        return
    with Bars(what, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)


def _read(path: Path) -> ModelFile:
    with keyfile.owner_errors():
        return judge(path.read_bytes(), path.parent)


def tensor_text(tensor: Tensor) -> str:
    """One line: name, datatype, shape with * where free."""
    return f"{tensor.name}  {tensor.datatype}[{', '.join('*' if size < 0 else str(size) for size in tensor.shape)}]"


def _tensors(tensors: tuple[Tensor, ...]) -> list[dict[str, object]]:
    return [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors]


def _inspect(args: argparse.Namespace, context: Context) -> None:
    if (head := _sealed_header(args.file)) is not None:
        _inspect_sealed(args.file, head, context)
        return
    model = _read(args.file)
    facts = inspection.facts(model)
    lines = [f"ONNX opset {model.opset}, {facts.nodes} nodes, {facts.parameters:,} parameters, {facts.weights:,} bytes of weights"]
    lines += [f"input   {tensor_text(tensor)}" for tensor in model.inputs] + [f"output  {tensor_text(tensor)}" for tensor in model.outputs]
    value = {"opset": model.opset, "nodes": facts.nodes, "parameters": facts.parameters, "weights": facts.weights}
    context.show("\n".join(lines), {**value, "inputs": _tensors(model.inputs), "outputs": _tensors(model.outputs)})


def _sealed_header(path: Path) -> artifact.Header | None:
    with path.open("rb") as file:
        data = file.read(artifact.HEADER_MAX)
    try:
        return artifact.parse_header(data)
    except artifact.MalformedArtifactError:
        return None


def _inspect_sealed(path: Path, head: artifact.Header, context: Context) -> None:
    layout = artifact.Layout(header_length=len(head.raw), frame_length=head.frame_length, artifact_length=path.stat().st_size)
    keys = [f"{key.provider} {key.info}" for key in head.data_keys]
    lines = [f"sealed part: {layout.length:,} bytes in {layout.count} frames; nothing here is authenticated without the manifest"]
    lines += [f"key      {key}" for key in keys] + [f"context  {name} = {value}" for name, value in head.context]
    value = {"sealed": True, "length": layout.length, "frames": layout.count, "keys": keys, "context": dict(head.context)}
    context.show("\n".join([*lines, f"commits  {head.commitment.hex()}"]), {**value, "commitment": head.commitment.hex()})


def _card(pairs: list[str]) -> tuple[tuple[str, str], ...]:
    card = dict(pair.partition("=")[::2] for pair in pairs)
    if len(card) != len(pairs) or not all(card):
        raise UsageError("--card takes NAME=TEXT, each name once")
    return tuple(sorted(card.items()))


@contextmanager
def _files(folder: Path) -> Iterator[dict[str, Path]]:
    """Unfinished artifacts; removed again if sealing them fails."""
    drafts: dict[str, Path] = {}
    try:
        yield drafts
    finally:
        for path in drafts.values():
            path.unlink(missing_ok=True)


def _create(folder: Path, drafts: dict[str, Path], name: str) -> BinaryIO:
    """A new file as the umask has it: artifacts are ciphertext, and the parent that hands them out is another user."""
    drafts[name] = folder / f".{name}-{secrets.token_hex(8)}"
    return drafts[name].open("xb")


def _model(args: argparse.Namespace, model: ModelFile, parts: tuple[Part, ...]) -> Model:
    runtime = {name: value for name in Runtime.__slots__ if (value := getattr(args, name)) is not None}
    return Model(
        id=args.id,
        version=args.version,
        parts=parts,
        inputs=model.inputs,
        outputs=model.outputs,
        intake=Intake(max_bytes=max(Intake().max_bytes, sum(part.length for part in parts))),
        runtime=replace(Runtime(), **runtime),
        reject_non_finite=args.reject_non_finite,
        isolation=args.isolation,
        answer_padding=args.answer_padding,
        card=_card(args.card),
    )


def _check(args: argparse.Namespace) -> None:
    if not re.fullmatch(ID, args.id) or not re.fullmatch(ID, args.version):
        raise UsageError("an id or version has 1 to 64 letters, digits, dots, dashes and underscores, the first no sign")
    if not re.fullmatch(KEY_ARN, args.key_arn):
        raise UsageError("--key-arn is the full ARN of a single-Region key: no alias, no key id alone, no mrk-")
    if args.epoch < 1:
        raise UsageError("--epoch counts from 1")


def _seal(args: argparse.Namespace, context: Context) -> None:
    import boto3  # noqa: PLC0415 - only sealing asks AWS
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    _check(args)
    owner_key = keyfile.public_key(args.owner_key)
    model = _read(args.file)
    args.out.mkdir(parents=True, exist_ok=True)
    with keyfile.owner_errors(), _files(args.out) as drafts:
        divided = split(model)
        kms = boto3.session.Session().client("kms", region_name=args.key_arn.split(":")[3])
        whom = sealing(kms, key_arn=args.key_arn, owner_key=owner_key, model=args.id, epoch=args.epoch)
        try:
            with progress(f"seal {args.id}", len(divided.graph) + divided.length) as told:
                parts = seal_split(divided, whom, lambda name: _create(args.out, drafts, name), told)
        except ClientError as error:
            raise RejectedError(f"kms refuses to encrypt: {error.response['Error']['Code']}; the sealer's role needs kms:Encrypt") from None
        except BotoCoreError as error:
            raise CouldNotAskError(f"kms cannot be asked: {type(error).__name__}; check credentials and network") from None
        described = draft.Description(model=_model(args, model, parts), owner_key=owner_key, key_arn=args.key_arn, epoch=args.epoch)
        text = draft.dump(draft.describe(draft.read_description(draft.describe(described))))
        for part in parts:
            drafts.pop(part.name).replace(args.out / part.artifact_sha256.hex())
    file = args.out / f"{args.id}-{args.version}.json"
    file.write_text(text, encoding="utf-8")
    lines = [f"{part.name:<8} {part.length:>14,} bytes  {part.artifact_sha256.hex()}" for part in parts]
    value = {"accepted": True, "description": str(file), "parts": {part.name: part.artifact_sha256.hex() for part in parts}}
    context.show("\n".join([*lines, f"described in {file}; next: cloister manifest add DRAFT {file}"]), value)


def check_part(part: Part, path: Path, *, key_arn: str, expected: dict[str, str], told: Progress = lambda _: None) -> str | None:
    """What is wrong with a sealed file, compared with what is pinned of it; None where nothing is. Raises: OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        data = file.read(artifact.HEADER_MAX)
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            told(len(chunk))
    try:
        head = artifact.parse_header(data)
        size = path.stat().st_size
        length = artifact.Layout(header_length=len(head.raw), frame_length=head.frame_length, artifact_length=size).length
    except artifact.MalformedArtifactError as error:
        return f"{error}"
    judged = (
        (digest.digest() == part.artifact_sha256, "digest"),
        (size == part.artifact_length and length == part.length, "length"),
        (hashlib.sha256(head.raw).digest() == part.header_sha256, "header digest"),
        (head.commitment == part.commitment, "key commitment"),
        (dict(head.context) == expected, "encryption context (owner, model or epoch)"),
        ([(key.provider, key.info) for key in head.data_keys] == [(artifact.PROVIDER, key_arn)], "KMS key"),
    )
    wrong = [what for right, what in judged if not right]
    return f"another {', '.join(wrong)} than pinned" if wrong else None


def check_model(model: Model, folder: Path, *, owner_key: bytes, key_arn: str, epoch: int) -> list[dict[str, object]]:
    """Judge every part of one model; one row each, `fault` None where it is what is pinned."""
    expected = encryption_context(owner_key, model.id, epoch)
    rows: list[dict[str, object]] = []
    with progress(f"verify {model.id}", sum(part.artifact_length for part in model.parts)) as told:
        for part in model.parts:
            path = folder / part.artifact_sha256.hex()
            fault = "not there" if not path.is_file() else check_part(part, path, key_arn=key_arn, expected=expected, told=told)
            rows.append({"model": model.id, "version": model.version, "part": part.name, "file": path.name, "fault": fault})
    return rows


def show_rows(rows: list[dict[str, object]], context: Context) -> Exit:
    """One line for each part; rejected where one has a fault."""
    good = not any(row["fault"] for row in rows)
    lines = [f"{row['model']} {row['version']} {row['part']:<8} {row['fault'] or 'as pinned'}" for row in rows]
    context.show("\n".join(lines), {"accepted": good, "parts": rows})
    return Exit.ACCEPTED if good else Exit.REJECTED


def _verify(args: argparse.Namespace, context: Context) -> Exit:
    data = args.file.read_bytes()
    folder = args.artifacts or args.file.parent
    if data.lstrip()[:1] == b"{":
        with keyfile.owner_errors():
            known = draft.read_description(draft.load(data))
        rows = check_model(known.model, folder, owner_key=known.owner_key, key_arn=known.key_arn, epoch=known.epoch)
    else:
        signed = manifest.open_envelope(data)
        held = signed.manifest
        rows = []
        for model in held.models:
            rows += check_model(model, folder, owner_key=signed.owner_key, key_arn=held.kms.key_arn, epoch=held.epoch)
    return show_rows(rows, context)


def _add_seal(seal: argparse.ArgumentParser) -> None:
    seal.add_argument("file", type=Path, metavar="FILE.onnx")
    seal.add_argument("--id", required=True, metavar="ID", help="the model's id, part of the encryption context")
    seal.add_argument("--version", required=True, metavar="V")
    seal.add_argument("--key-arn", required=True, metavar="ARN", help="the KMS key, by full ARN")
    seal.add_argument("--owner-key", required=True, metavar="PUB", help="the owner's public key: PEM file or hex")
    seal.add_argument("--epoch", type=int, default=1, metavar="N", help="default: 1")
    seal.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the parts and their description go")
    seal.add_argument("--card", action="append", default=[], metavar="NAME=TEXT", help="a field of the model card; may be repeated")
    seal.add_argument("--isolation", choices=("process", "inline"), default="process", help="default: process")
    seal.add_argument("--reject-non-finite", action="store_true", help="refuse NaN and infinity in inputs")
    seal.add_argument("--answer-padding", type=int, metavar="BYTES", help="pad every answer to this size")
    for name, what in (
        ("workers", "worker processes"),
        ("memory_bytes", "memory beyond the loaded model, per request"),
        ("seconds", "time, per request"),
        ("request_bytes", "size of a request"),
        ("answer_bytes", "size of an answer"),
    ):
        seal.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{what} (default: {getattr(Runtime(), name)})")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("model", help="look at models, seal them, check what was sealed")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    seal = verbs.add_parser("seal", help="seal an ONNX file into DIR; asks kms:Encrypt with the usual AWS credentials")
    _add_seal(seal)
    seal.set_defaults(run=_seal)
    look = verbs.add_parser("inspect", help="the signature and size of an ONNX file, or the header of a sealed part")
    look.add_argument("file", type=Path, metavar="FILE")
    look.set_defaults(run=_inspect)
    verify = verbs.add_parser("verify", help="compare sealed parts with a description or a signed manifest; needs no key")
    verify.add_argument("file", type=Path, metavar="FILE", help="ID-VERSION.json, or a signed manifest")
    verify.add_argument("--artifacts", type=Path, metavar="DIR", help="where the parts are (default: beside FILE)")
    verify.set_defaults(run=_verify)
    model_metadata.add(verbs)
