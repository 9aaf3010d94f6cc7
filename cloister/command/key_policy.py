"""`cloister key-policy`: write the policy of a model's KMS key, and see before deploying who gets the key."""

import argparse
from collections.abc import Callable
from pathlib import Path
import sys

from attestation import reference_values
from attestation.values import ReferenceValues
from cloister.command.output import Context, CouldNotAskError, Exit, RejectedError, UsageError
from owner import key_policy, key_policy_template
from owner.errors import OwnerError
from owner.key_policy_attack import Attack
from owner.key_policy_explain import diff, explain
from owner.key_policy_lint import TEXTS, Finding, cautions, lint
from owner.key_policy_matrix import Matrix, Row, Verdict, matrix
from owner.key_policy_metadata import Metadata
from owner.key_policy_metadata import parse as parse_metadata
from owner.key_policy_rollout import RolloutStep, rollout
from owner.key_policy_subject import Expected
from owner.policy_document import Policy, parse
from owner.policy_principal import principal_from_arn
from wire.manifest import owner_hash

FORMATS: dict[str, Callable[[key_policy.Inputs], str]] = {
    "json": key_policy.generate,
    "cloudformation": key_policy_template.cloudformation,
    "terraform": key_policy_template.terraform,
}
FILE_MAX = 8 << 20


def _text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read(FILE_MAX + 1) if path == "-" else Path(path).read_bytes()
        if len(data) > FILE_MAX:
            raise CouldNotAskError(f"{path}: larger than {FILE_MAX >> 20} MiB, no policy is")
        return data.decode()
    except UnicodeDecodeError:
        raise RejectedError(f"{path}: not UTF-8 text") from None


def _policy(path: str) -> Policy:
    try:
        return parse(_text(path))
    except OwnerError as error:
        raise RejectedError(f"{path}: kms would refuse this policy: {error}", data={"malformed": str(error)}) from None


def _metadata(path: str | None) -> Metadata:
    try:
        return parse_metadata(_text(path)) if path else Metadata()
    except OwnerError as error:
        raise RejectedError(f"{path}: {error}") from None


def _values(path: str) -> tuple[ReferenceValues, bytes]:
    values = reference_values.parse(_text(path).encode())
    if values.owner_key is None:
        raise RejectedError(f"{path}: holds no owner_key, which the policy is bound to; add it to the reference values")
    return values, values.owner_key


def _inputs(args: argparse.Namespace) -> key_policy.Inputs:
    values, owner_key = _values(args.reference_values)
    try:
        return key_policy.Inputs(
            measurements=values.measurements,
            owner_key=owner_key,
            epochs=tuple(dict.fromkeys(args.epoch)),
            admin=args.admin,
            sealer=args.sealer,
            parent=args.parent,
        )
    except ValueError as error:
        raise UsageError(f"{error}") from None


def _expected(args: argparse.Namespace) -> Expected | None:
    if args.reference_values is None:
        if args.epoch:
            raise UsageError("--epoch goes with --reference-values: alone it says too little of what is expected")
        return None
    values, owner_key = _values(args.reference_values)
    if not args.epoch:
        raise UsageError("--reference-values needs --epoch: which epoch is current")
    pcr16 = {16: values.pcr16.hex()}
    sets = tuple({**{index: value.hex() for index, value in one.pcrs.items()}, **pcr16} for one in values.measurements)
    return Expected(measurements=sets, owner=owner_hash(owner_key), epochs=tuple(map(str, args.epoch)))


def _judged(args: argparse.Namespace) -> tuple[Policy, Matrix]:
    try:
        principal_from_arn(args.admin or "arn:aws:iam::111122223333:root")
    except ValueError as error:
        raise UsageError(f"--admin {args.admin}: {error}") from None
    policy = _policy(args.policy)
    return policy, matrix(policy, metadata=_metadata(args.key_metadata), expected=_expected(args), administrator=args.admin)


def _generate(args: argparse.Namespace, context: Context) -> None:
    text = FORMATS[args.format](_inputs(args))
    context.document(text.rstrip("\n"), {"format": args.format, "document": text})


def _finding_text(finding: Finding) -> str:
    lines = [f"{finding.attack.value if finding.attack else 'policy'}: {finding.text}", f"  statement: {finding.statement}"]
    lines += [f"  how: {line}" for line in finding.how] + [f"  trap: {line}" for line in finding.unheld]
    return "\n".join([*lines, f"  fix: {finding.fix}"])


def _finding_value(finding: Finding) -> dict[str, object]:
    return {
        "attack": finding.attack.value if finding.attack else None,
        "statement": finding.statement,
        "text": finding.text,
        "how": list(finding.how),
        "traps": list(finding.unheld),
        "fix": finding.fix,
    }


def _assumed(judged: Matrix) -> dict[str, object]:
    return {
        "administrator": judged.administrator,
        "account": judged.cast.account,
        "measurements": [{f"PCR{index}": value for index, value in sorted(one.items())} for one in judged.subject.enclaves],
        "contexts": [dict(one) for one in judged.subject.contexts],
    }


def _lint(args: argparse.Namespace, context: Context) -> Exit:
    policy, judged = _judged(args)
    findings, notes = lint(policy, judged), cautions(policy, judged)
    lines = [_finding_text(finding) for finding in findings] + [f"note: {note}" for note in notes]
    holes = sum(finding.attack is not None for finding in findings)
    lines.append("the policy holds" if not findings else f"the policy does not hold: {holes} attacks get the key")
    value = {"accepted": not findings, "findings": list(map(_finding_value, findings)), "notes": list(notes), "assumed": _assumed(judged)}
    context.show("\n".join(lines), value)
    return Exit.REJECTED if findings else Exit.ACCEPTED


def _verdict(row: Row) -> str:
    if row.attack is Attack.RIGHT_ENCLAVE:
        return "admitted" if row.verdict is Verdict.RELEASED else "LOCKED OUT"
    return "RELEASED" if row.verdict is Verdict.RELEASED else row.verdict.value


def _by(row: Row) -> str:
    if row.verdict is Verdict.RELEASED and row.decisions and row.decisions[-1].deciding:
        return row.decisions[-1].deciding.statement
    return row.why


def _simulate(args: argparse.Namespace, context: Context) -> Exit:
    _, judged = _judged(args)
    lines = [f"{'attack':<16} {'key':<12} by"]
    lines += [f"{row.attack.value:<16} {_verdict(row):<12} {_by(row)}" for row in judged.rows]
    lines += [f"{flaw.where}: {flaw.text}" for flaw in judged.flaws]
    lines += [f"not checked: {item}" for item in judged.unchecked]
    lines.append(f"released: {len(judged.released)} of {len(judged.rows) - 1} attacks")
    rows = [{"attack": row.attack.value, "verdict": row.verdict.value, "by": _by(row), "what": TEXTS[row.attack]} for row in judged.rows]
    flaws = [{"where": flaw.where, "text": flaw.text, "fix": flaw.fix} for flaw in judged.flaws]
    value = {"accepted": judged.sound, "rows": rows, "flaws": flaws, "not_checked": list(judged.unchecked), "assumed": _assumed(judged)}
    context.show("\n".join(lines), value)
    return Exit.ACCEPTED if judged.sound else Exit.REJECTED


def _diff(args: argparse.Namespace, context: Context) -> None:
    differences = diff(_policy(args.old), _policy(args.new))
    lines = []
    for one in differences:
        lines += [f"newly allowed: {one.principal}: {item}" for item in one.allowed]
        lines += [f"newly forbidden: {one.principal}: {item}" for item in one.forbidden]
    value = [{"principal": one.principal, "allowed": list(one.allowed), "forbidden": list(one.forbidden)} for one in differences]
    context.show("\n".join(lines) or "nothing: the policies decide alike", {"differences": value})


def _step_text(number: int, step: RolloutStep) -> str:
    lines = [f"{number}. {step.title}", f"   why here: {step.why}", f"   done when: {step.check}"]
    if step.policy is not None:
        lines.append(f"   file: {number}-key-policy.json")
    if step.reference_values is not None:
        sets = len(step.reference_values.measurements)
        lines.append(
            f"   file: {number}-reference-values.json (sequence {step.reference_values.sequence}, {sets} measurement sets; sign it)"
        )
    return "\n".join(lines)


def _files(steps: tuple[RolloutStep, ...]) -> dict[str, str]:
    files = {}
    for number, step in enumerate(steps, 1):
        if step.policy is not None:
            files[f"{number}-key-policy.json"] = step.policy
        if step.reference_values is not None:
            files[f"{number}-reference-values.json"] = reference_values.render(step.reference_values).decode()
    return files


def _rollout(args: argparse.Namespace, context: Context) -> None:
    values, _ = _values(args.reference_values)
    new = reference_values.parse(_text(args.new).encode()).measurements
    if len(new) != 1:
        raise UsageError(f"{args.new}: expected exactly one measurement set, the new one")
    try:
        steps = rollout(_inputs(args), values, new[0])
    except ValueError as error:
        raise RejectedError(f"{error}") from None
    files = _files(steps)
    if args.write is not None:
        args.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (args.write / name).write_text(text, encoding="utf-8")
    done = (
        f"written to {args.write}; nothing was deployed"
        if args.write
        else "dry run: nothing was written or deployed; --write DIR writes the files"
    )
    lines = [_step_text(number, step) for number, step in enumerate(steps, 1)]
    value = {"steps": [{"title": s.title, "why": s.why, "check": s.check} for s in steps], "files": files}
    context.show("\n".join([*lines, done]), value)


def _explain(args: argparse.Namespace, context: Context) -> None:
    paragraphs = explain(_policy(args.policy))
    context.show("\n\n".join(paragraphs), {"principals": list(paragraphs)})


def _roles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference-values", required=True, metavar="FILE", help="measurements and owner key")
    parser.add_argument(
        "--epoch", type=int, action="append", required=True, metavar="N", help="the manifest's epoch; twice while re-sealing"
    )
    parser.add_argument("--admin", required=True, metavar="ARN", help="the role in the owner's account that manages the key")
    parser.add_argument("--sealer", required=True, metavar="ARN", help="the role in the owner's account that seals models")
    parser.add_argument("--parent", required=True, metavar="ARN", help="the role of the parent instances, in another account")


def _judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="POLICY", help="key policy, JSON; - reads standard input")
    parser.add_argument("--key-metadata", metavar="FILE", help="JSON of DescribeKey, ListGrants or both; what is absent is not checked")
    parser.add_argument("--reference-values", metavar="FILE", help="what the policy ought to admit (default: what it names itself)")
    parser.add_argument("--epoch", type=int, action="append", metavar="N", help="the current epoch, with --reference-values")
    parser.add_argument("--admin", metavar="ARN", help="the one administrator (default: the one that the policy singles out)")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("key-policy", help="generate, check and explain the policy of a model's KMS key")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    generate = verbs.add_parser("generate", help="write the policy that holds")
    _roles(generate)
    generate.add_argument("--format", choices=tuple(FORMATS), default="json", help="default: json")
    generate.set_defaults(run=_generate)
    lint_parser = verbs.add_parser("lint", help="find the statements that let an attack through; exit 1 if there are any")
    _judging(lint_parser)
    lint_parser.set_defaults(run=_lint)
    simulate = verbs.add_parser("simulate", help="run every attack through the policy and show who gets the key")
    _judging(simulate)
    simulate.set_defaults(run=_simulate)
    differ = verbs.add_parser("diff", help="say in words what NEW allows or forbids that OLD did not")
    differ.add_argument("old", metavar="OLD")
    differ.add_argument("new", metavar="NEW")
    differ.set_defaults(run=_diff)
    explainer = verbs.add_parser("explain", help="say in words what each principal can do, and under which measurements")
    explainer.add_argument("policy", metavar="POLICY")
    explainer.set_defaults(run=_explain)
    roll = verbs.add_parser("rollout", help="the ordered steps from one measurement set to another, as a dry run")
    _roles(roll)
    roll.add_argument("--new", required=True, metavar="FILE", help="reference values of the new image alone")
    roll.add_argument("--write", type=Path, metavar="DIR", help="write the files of the steps here")
    roll.set_defaults(run=_rollout)
