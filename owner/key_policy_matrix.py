"""Who gets the key: every attack run through the policy engine, before anything is deployed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from owner.key_policy_attack import Attack, Guard, Plan, Step, plans
from owner.key_policy_cast import Caller, Cast, cast, decrypting_arns, named_arns, owner_account
from owner.key_policy_metadata import Metadata
from owner.key_policy_subject import IMAGE, PCR_PREFIX, Expected, Subject, subject
from owner.policy import Decision, Grant, Outcome, Request, decide
from owner.policy_document import Policy
from owner.policy_principal import principal_from_arn

_NOBODYS_ACCOUNT = "000000000000"
KEY_ID = "key/00000000-0000-0000-0000-000000000000"


class Verdict(StrEnum):
    """What became of an attack."""

    RELEASED = "released"
    REFUSED = "refused"
    NOT_CHECKED = "not checked"
    NOT_MODELLED = "not modelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack: the verdict, the plan that shows it, the decisions of its steps, and by what it was refused."""

    attack: Attack
    verdict: Verdict
    plan: Plan | None
    decisions: tuple[Decision, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All rows, what was assumed right, who the administrator is taken to be, and what could not be checked."""

    rows: tuple[Row, ...]
    subject: Subject
    cast: Cast
    administrator: str | None
    unchecked: tuple[str, ...]

    @property
    def released(self) -> frozenset[Attack]:
        """The attacks that got the key."""
        return frozenset(row.attack for row in self.rows if row.verdict is Verdict.RELEASED and row.attack is not Attack.RIGHT_ENCLAVE)

    @property
    def admitted(self) -> bool:
        """Whether the right enclave gets it."""
        return self.rows[0].verdict is Verdict.RELEASED

    @property
    def sound(self) -> bool:
        """The right enclave is admitted, nobody else is, and nothing was beyond the model."""
        return self.admitted and not self.released and all(row.verdict is not Verdict.NOT_MODELLED for row in self.rows)


def request(step: Step, arn: str, multi_region: bool | None) -> Request:
    """A step as the engine takes it."""
    keys: dict[str, tuple[str, ...]] = {f"{PCR_PREFIX}{index}": (value,) for index, value in (step.pcrs or {}).items()}
    if step.pcrs is not None and 0 in step.pcrs:
        keys[IMAGE] = (step.pcrs[0],)
    keys.update({"kms:keyspec": ("SYMMETRIC_DEFAULT",), "kms:keyusage": ("ENCRYPT_DECRYPT",), "kms:keyorigin": ("AWS_KMS",)})
    keys.update({"kms:multiregion": ("true" if multi_region else "false",), "kms:encryptionalgorithm": ("SYMMETRIC_DEFAULT",)})
    keys["aws:requestedregion"] = (arn.split(":")[3],)
    return Request(
        principal=step.caller.principal,
        action=step.action,
        resource=arn,
        encryption_context=step.context,
        context={**keys, **step.keys},
        identity=step.caller.identity,
    )


def _grant(step: Step) -> Grant:
    return Grant(id="made", grantee=step.caller.principal.source_arn, operations=frozenset(("Decrypt",)))


def _run(plan: Plan, policy: Policy, arn: str, metadata: Metadata) -> tuple[Decision, ...]:
    """The decisions up to the first that does not allow."""
    decisions: list[Decision] = []
    for step in plan.steps:
        grants = (metadata.grants or ()) + ((_grant(step),) if step.granted else ())
        decisions.append(decide(policy, request(step, arn, metadata.multi_region), grants=grants))
        if not decisions[-1].allowed:
            break
    return tuple(decisions)


def _refusal(plan: Plan, decisions: tuple[Decision, ...]) -> str:
    last = decisions[-1]
    if last.allowed:
        return plan.guard.value
    if last.deciding is None:
        return f"no statement allows {plan.steps[len(decisions) - 1].action}"
    detail = f" ({last.deciding.detail})" if last.outcome is Outcome.NOT_MODELLED else ""
    return f"{last.deciding.statement}{detail}"


def _rank(decisions: tuple[Decision, ...]) -> int:
    """How telling a refusal is: KMS's own guard behind an allowing policy, an explicit Deny, nothing that allows."""
    last = decisions[-1].outcome
    return 0 if last is Outcome.ALLOWED else 1 if last is Outcome.EXPLICIT_DENY else 2


def _row(attack: Attack, tried: list[Plan], policy: Policy, arn: str, metadata: Metadata) -> Row:
    """A released plan decides the row; then one beyond the model; then one from an unchecked start; else the most telling refusal."""
    best: dict[Verdict, Row] = {}
    for plan in tried:
        decisions = _run(plan, policy, arn, metadata)
        allowed = all(decision.allowed for decision in decisions)
        if allowed and plan.guard is Guard.NONE:
            verdict = Verdict.NOT_CHECKED if plan.supposed else Verdict.RELEASED
        elif any(decision.outcome is Outcome.NOT_MODELLED for decision in decisions):
            verdict = Verdict.NOT_MODELLED
        else:
            verdict = Verdict.REFUSED
        why = "" if verdict in (Verdict.RELEASED, Verdict.NOT_CHECKED) else _refusal(plan, decisions)
        row = Row(attack=attack, verdict=verdict, plan=plan, decisions=decisions, why=why)
        if verdict is Verdict.RELEASED:
            return row
        if verdict not in best or (verdict is Verdict.REFUSED and _rank(decisions) < _rank(best[verdict].decisions)):
            best[verdict] = row
    for verdict in (Verdict.NOT_MODELLED, Verdict.NOT_CHECKED, Verdict.REFUSED):
        if verdict in best:
            return best[verdict]
    return Row(attack=attack, verdict=Verdict.REFUSED, plan=None, decisions=(), why="the policy names nobody who could try")


def _may(policy: Policy, caller: Caller, action: str, arn: str, enclave: Mapping[int, str] | None, context: Mapping[str, str]) -> bool:
    step = Step(caller=caller, action=action, pcrs=enclave, context=context, keys={})
    return decide(policy, request(step, arn, False)).allowed


def administrators(policy: Policy) -> tuple[str, ...]:
    """The named users and roles that the policy lets put a key policy, each in its own account."""
    found = []
    for arn in named_arns(policy):
        account = principal_from_arn(arn).account
        caller = next(one for one in cast(policy, account).callers if one.name == arn)
        if _may(policy, caller, "kms:PutKeyPolicy", f"arn:aws:kms:eu-central-1:{account}:{KEY_ID}", None, {}):
            found.append(arn)
    return tuple(found)


def _user_accounts(policy: Policy, about: Subject) -> tuple[str, ...]:
    """The accounts of those whom a statement names, by their own ARN, as allowed to decrypt, and who may."""
    players = cast(policy, _NOBODYS_ACCOUNT)
    arn = f"arn:aws:kms:eu-central-1:{_NOBODYS_ACCOUNT}:{KEY_ID}"
    users = decrypting_arns(policy)
    return tuple(
        caller.principal.account
        for caller in players.callers
        if caller.name in users
        and any(
            _may(policy, caller, "kms:Decrypt", arn, enclave, context) for enclave in (*about.enclaves, None) for context in about.contexts
        )
    )


def _administrator(candidates: tuple[str, ...], users: tuple[str, ...]) -> str | None:
    """The one administrator: a single named role or user, not in an account from which somebody may decrypt."""
    if len(candidates) != 1 or principal_from_arn(candidates[0]).account in users:
        return None
    return candidates[0]


def matrix(
    policy: Policy, *, metadata: Metadata | None = None, expected: Expected | None = None, administrator: str | None = None
) -> Matrix:
    """Run every attack. `expected`: what the policy ought to admit, else it is read out of the policy; `administrator`: the
    role that is trusted to put policies, else the one that the policy itself singles out."""
    known = metadata or Metadata()
    about, candidates = subject(policy, expected), administrators(policy)
    users = _user_accounts(policy, about)
    account = known.arn.split(":")[4] if known.arn else owner_account(policy, (administrator,) if administrator else candidates, users)
    arn = known.arn or f"arn:aws:kms:eu-central-1:{account}:{KEY_ID}"
    players = cast(policy, account)
    trusted = administrator or _administrator(candidates, users)
    trusted_callers = tuple(caller for caller in players.callers if caller.name == trusted)
    holders = [caller for grant in known.grants or () for caller in _holder(grant)]
    tried = plans(players, trusted_callers, about, known)
    if holders:
        context = about.contexts[0]
        held = [Plan(steps=(Step(caller=holder, action="kms:Decrypt", context=context, keys={}),)) for holder in holders]
        tried[Attack.GRANT_HOLDER] = held + tried[Attack.GRANT_HOLDER]
    rows = tuple(_row(attack, attempts, policy, arn, known) for attack, attempts in tried.items())
    return Matrix(rows=rows, subject=about, cast=players, administrator=trusted, unchecked=known.unchecked)


def _holder(grant: Grant) -> tuple[Caller, ...]:
    try:
        principal = principal_from_arn(grant.grantee)
    except ValueError:
        return ()
    return (Caller(principal=principal, name=f"{grant.grantee} (grant {grant.id})", identity=()),)
