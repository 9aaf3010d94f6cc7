"""The attack matrix read backwards: for every attack that got the key, the statement that let it, and what to write instead.

There is no second opinion here: a finding with an attack stands for a row of the matrix that released the key, and the
other way round. Findings without an attack: the right enclave is locked out, something is beyond the model, or the key is
not one that a policy can hold.
"""

from dataclasses import dataclass
import re

from owner.key_policy_attack import WRONG_PCR, Attack, Plan, Step
from owner.key_policy_circumstance import FREE
from owner.key_policy_matrix import Matrix, Row, Verdict
from owner.key_policy_subject import EPOCH, IMAGE, OWNER, PCR_PREFIX
from owner.policy import KEY_POLICY, Because, Decision
from owner.policy import Verdict as StatementVerdict
from owner.policy_document import Effect, Policy, Statement

_DENY = (
    'a statement "Effect": "Deny", "Principal": {{"AWS": "*"}}, "Action": "kms:Decrypt" '
    "with the one condition StringNotEqualsIgnoreCase {key}"
)
_NEVER = 'a statement "Effect": "Deny", "Principal": {{"AWS": "*"}}, "Action": "{action}" without a condition'
_PCR_DENY = {attack: _DENY.format(key=f"kms:RecipientAttestation:PCR{index}") for attack, index in WRONG_PCR.items()}
_ONE_ADMINISTRATOR = (
    "let one role outside the parent's account put the policy, and deny kms:PutKeyPolicy to all but it (ArnNotEquals aws:PrincipalArn)"
)

_NO_DELEGATION = "no statement that allows the account (arn:aws:iam::ACCOUNT:root) anything, and the explicit Denies that `generate` writes"

FIXES: dict[Attack, str] = {
    **_PCR_DENY,
    Attack.NO_ATTESTATION: f"one such statement per PCR0, PCR1, PCR2 and PCR16: {_DENY.format(key='kms:RecipientAttestation:PCR0')}",
    Attack.DEBUG: "the PCR values of the image, which are never zero: zeros are every debug enclave's",
    Attack.OTHER_OWNER: f"{_PCR_DENY[Attack.WRONG_PCR16]}, and one with kms:EncryptionContext:cloister-owner",
    Attack.OLD_EPOCH: _DENY.format(key="kms:EncryptionContext:cloister-epoch") + ", naming the current epoch alone (two while re-sealing)",
    Attack.STRANGER: "the parent's role as the one principal that may kms:Decrypt",
    Attack.ROOT_USER: _NO_DELEGATION,
    Attack.IAM_ADMIN: _NO_DELEGATION,
    Attack.GRANT_HOLDER: _NEVER.format(action="kms:CreateGrant")
    + "; retire the grants that there are, and hold kms:Decrypt by explicit Deny",
    Attack.PUT_KEY_POLICY: _ONE_ADMINISTRATOR,
    Attack.RE_ENCRYPT: _NEVER.format(action="kms:ReEncryptFrom"),
    Attack.REPLICA: _NEVER.format(action="kms:ReplicateKey") + ", on a single-Region key: a replica has a policy of its own",
    Attack.DATA_KEY: "no Allow of kms:GenerateDataKey*: sealing makes its own data key and calls kms:Encrypt",
}
TEXTS: dict[Attack, str] = {
    Attack.RIGHT_ENCLAVE: "the measured image, under the owner's manifest and epoch, unwraps its model",
    Attack.NO_ATTESTATION: "the key is released to a caller without an attestation document",
    Attack.WRONG_PCR0: "the key is released to an image with another PCR0",
    Attack.WRONG_PCR1: "the key is released to an image with another PCR1 (bytes moved between kernel and ramdisk)",
    Attack.WRONG_PCR2: "the key is released to an image with another PCR2 (another application)",
    Attack.WRONG_PCR16: "the key is released to the right image under another owner's manifest (PCR16)",
    Attack.DEBUG: "the key is released to an enclave in debug mode, whose memory and console the parent reads",
    Attack.STALE: "the key is released for a document older than five minutes",
    Attack.REPLAY: "the parent replays the enclave's document within five minutes and gets the key",
    Attack.OTHER_OWNER: "the key is released to the right image under another owner's manifest and encryption context",
    Attack.OTHER_MODEL: "a data key is released as another model's",
    Attack.OLD_EPOCH: "the key of a retired epoch is still released: an older model or manifest comes back",
    Attack.STRANGER: "the key is released to anyone who runs the image, in an account that the policy does not name",
    Attack.ROOT_USER: "the root user of the key's account gets the key",
    Attack.IAM_ADMIN: "whoever writes identity policies in the key's account gets the key",
    Attack.GRANT_HOLDER: "a grant gets the key",
    Attack.PUT_KEY_POLICY: "someone beside the one administrator may put another policy: a CI role, an instance, a second role",
    Attack.RE_ENCRYPT: "the data key is re-encrypted to another context or to a stranger's key",
    Attack.REPLICA: "a replica of the key in another Region has a policy of its own",
    Attack.DATA_KEY: "a data key under this key is handed out in plaintext: a model of someone else's making can be wrapped with it",
}
_HEX = re.compile(r"[0-9a-fA-F]{96}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One hole: the attack (None: not an attack), the statement that decided, how it goes, what did not hold, and the fix."""

    attack: Attack | None
    statement: str
    text: str
    how: tuple[str, ...]
    unheld: tuple[str, ...]
    fix: str


def _short(pcrs: str) -> str:
    return pcrs if len(pcrs) <= 12 else f"{pcrs[:8]}.."


def words(step: Step) -> str:
    """One call in words."""
    arranged = "".join(f", {key} {value[0]}" for key, value in sorted(step.keys.items()) if key in FREE)
    if step.action not in ("kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair"):
        return f"{step.caller.name} calls {step.action}{arranged}"
    evidence = (
        "without attestation"
        if step.pcrs is None
        else "from an enclave with " + " ".join(f"PCR{n}={_short(v)}" for n, v in sorted(step.pcrs.items()))
    )
    by = " by a grant" if step.granted else ""
    context = "".join(
        f" {name}={_short(value)}" for name, value in sorted(step.context.items()) if name in ("cloister-owner", "cloister-epoch")
    )
    return f"{step.caller.name} calls {step.action}{by} {evidence}, context{context}{arranged}"


def _how(plan: Plan | None) -> tuple[str, ...]:
    if plan is None:
        return ()
    return tuple(map(words, plan.steps)) or ("the key has a replica, which its own policy guards",)


def _trap(statement: Statement) -> str:
    """Why a Deny may fail to hold although it is there."""
    operators = " ".join(condition.operator for condition in statement.conditions)
    if len(statement.conditions) > 1:
        return "its conditions are ANDed: write one statement for each"
    if "ForAnyValue" in operators:
        return "ForAnyValue is never fulfilled where the key is absent"
    if "Not" not in operators:
        return "a positive operator is never fulfilled where the key is absent"
    return ""


def _unheld(policy: Policy, decision: Decision) -> tuple[str, ...]:
    """The Denies that meant this caller and action, did not apply, and are written so that they may not."""
    missed = {
        verdict.statement: verdict.detail
        for verdict in decision.verdicts
        if verdict.effect is Effect.DENY and verdict.because is Because.CONDITION and verdict.source == KEY_POLICY
    }
    traps = [(statement.name, _trap(statement)) for statement in policy.statements if statement.name in missed]
    return tuple(f"{name} did not hold ({missed[name]} is not fulfilled): {trap}" for name, trap in traps if trap)


def _statement(deciding: StatementVerdict | None) -> str:
    return "no statement of this policy" if deciding is None else deciding.statement


def _finding(policy: Policy, row: Row) -> Finding:
    decision = row.decisions[-1] if row.decisions else None
    return Finding(
        attack=row.attack,
        statement=_statement(decision.deciding if decision else None),
        text=TEXTS[row.attack],
        how=_how(row.plan),
        unheld=_unheld(policy, decision) if decision else (),
        fix=FIXES.get(row.attack, "the policy that `generate` writes"),
    )


def _not_modelled(row: Row) -> Finding:
    deciding = row.decisions[-1].deciding
    detail = deciding.detail if deciding else ""
    return Finding(
        attack=None,
        statement=_statement(deciding),
        text=f"cannot be judged ({row.attack.value}): {detail} is not modelled",
        how=_how(row.plan),
        unheld=(),
        fix="the operators and keys of docs/kms-simulator.md",
    )


def _locked_out(row: Row) -> Finding:
    decision = row.decisions[-1] if row.decisions else None
    return Finding(
        attack=None,
        statement=_statement(decision.deciding if decision else None),
        text=f"the right enclave is refused: {row.why}",
        how=_how(row.plan),
        unheld=(),
        fix="whole lower-case PCR values of 96 digits, and a statement that allows the parent's role kms:Decrypt",
    )


def lint(policy: Policy, matrix: Matrix) -> tuple[Finding, ...]:
    """Every hole, in the order of the matrix; empty for a policy that holds."""
    findings = []
    for row in matrix.rows:
        if row.verdict is Verdict.NOT_MODELLED:
            findings.append(_not_modelled(row))
        elif row.attack is Attack.RIGHT_ENCLAVE:
            if row.verdict is not Verdict.RELEASED:
                findings.append(_locked_out(row))
        elif row.verdict is Verdict.RELEASED:
            findings.append(_finding(policy, row))
    return tuple(findings) + tuple(
        Finding(attack=None, statement=flaw.where, text=flaw.text, how=(), unheld=(), fix=flaw.fix) for flaw in matrix.flaws
    )


def _never_match(policy: Policy) -> list[str]:
    notes = []
    for statement in policy.statements:
        for condition in statement.conditions:
            key = condition.key.lower()
            if not (key.startswith(PCR_PREFIX) or key == IMAGE) or condition.operator.startswith("Null"):
                continue
            odd = [value for value in condition.values if not _HEX.fullmatch(value) and not set(value) & set("*?")]
            upper = [value for value in condition.values if value != value.lower() and "IgnoreCase" not in condition.operator]
            if odd or upper:
                notes.append(f"{statement.name}: a value of {condition.key} fits no document, which has 96 lower-case hex digits")
    return notes


def cautions(policy: Policy, matrix: Matrix) -> tuple[str, ...]:
    """What is no hole and worth knowing: values that never match, locks that stand alone, what could not be checked."""
    keys = {condition.key.lower() for statement in policy.statements for condition in statement.conditions}
    notes = _never_match(policy)
    if OWNER not in keys:
        notes.append("the owner is held by PCR16 alone: kms:EncryptionContext:cloister-owner would be a second lock")
    if EPOCH not in keys and Attack.OLD_EPOCH not in matrix.released:
        notes.append("no statement names an epoch: raising it would retire nothing")
    if matrix.administrator is None:
        notes.append("no single administrator could be told: state it with --admin")
    for row in matrix.rows:
        if row.verdict is Verdict.NOT_CHECKED:
            notes.append(f"{row.attack.value}: would get the key if there is a grant; not checked without ListGrants")
    return tuple(notes) + tuple(f"not checked: {item}" for item in matrix.unchecked)
