"""Who gets the key: every attack run through the policy engine, before anything is deployed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from owner.key_policy_attack import Attack, Guard, Plan, Step, plans
from owner.key_policy_cast import Caller, Cast, caller_of, cast, decrypting_arns, named_principals, owner_account, partition
from owner.key_policy_circumstance import Circumstance, circumstances
from owner.key_policy_flaw import Flaw
from owner.key_policy_grant import holdings
from owner.key_policy_metadata import Metadata
from owner.key_policy_subject import IMAGE, PCR_PREFIX, Expected, Subject, subject
from owner.policy import Decision, Grant, Outcome, Request, decide, narrowed
from owner.policy_document import Policy
from owner.policy_principal import Principal, principal_from_arn

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
    """All rows, what was assumed right, who the administrator is taken to be, other faults, and what could not be checked."""

    rows: tuple[Row, ...]
    subject: Subject
    cast: Cast
    administrator: str | None
    unchecked: tuple[str, ...]
    flaws: tuple[Flaw, ...] = ()

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
        judged = all(row.verdict is not Verdict.NOT_MODELLED for row in self.rows)
        return self.admitted and judged and not self.released and not self.flaws


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
    return Grant(id="made", grantee=step.caller.principal.source_arn, operations=frozenset((step.action.removeprefix("kms:"),)))


class _Bench:
    """One policy on one key, asked again and again: it remembers which statements mean whom."""

    def __init__(self, policy: Policy, arn: str, metadata: Metadata) -> None:
        self._policy, self._arn, self._metadata = policy, arn, metadata
        self._narrowed: dict[tuple[Principal, str], Policy] = {}

    def decide(self, step: Step) -> Decision:
        """One step."""
        key = (step.caller.principal, step.action)
        if key not in self._narrowed:
            self._narrowed[key] = narrowed(self._policy, *key)
        grants = (self._metadata.grants or ()) + ((_grant(step),) if step.granted else ())
        return decide(self._narrowed[key], request(step, self._arn, self._metadata.multi_region), grants=grants)

    def run(self, plan: Plan) -> tuple[Decision, ...]:
        """The decisions up to the first that does not allow."""
        decisions: list[Decision] = []
        for step in plan.steps:
            decisions.append(self.decide(step))
            if not decisions[-1].allowed:
                break
        return tuple(decisions)


def _under(plan: Plan, circumstance: Circumstance) -> Plan:
    """The same plan, with condition keys that the caller arranges."""
    if not circumstance:
        return plan
    return replace(plan, steps=tuple(replace(step, keys={**step.keys, **circumstance}) for step in plan.steps))


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


def _row(attack: Attack, tried: list[Plan], bench: _Bench) -> Row:
    """A released plan decides the row; then one beyond the model; then one from an unchecked start; else the most telling refusal."""
    best: dict[Verdict, Row] = {}
    for plan in tried:
        decisions = bench.run(plan)
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
    for arn, principal in named_principals(policy).items():
        key = f"arn:{principal.partition}:kms:eu-central-1:{principal.account}:{KEY_ID}"
        if _may(policy, caller_of(principal, arn), "kms:PutKeyPolicy", key, None, {}):
            found.append(arn)
    return tuple(found)


def _user_accounts(policy: Policy, about: Subject) -> tuple[str, ...]:
    """The accounts of those whom a statement names, by their own ARN, as allowed to decrypt, and who may."""
    arn = f"arn:aws:kms:eu-central-1:{_NOBODYS_ACCOUNT}:{KEY_ID}"
    users = decrypting_arns(policy)
    return tuple(
        principal.account
        for name, principal in named_principals(policy).items()
        if name in users
        and any(
            _may(policy, caller_of(principal, name), "kms:Decrypt", arn, enclave, context)
            for enclave in (*about.enclaves, None)
            for context in about.contexts
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
    arn = known.arn or f"arn:{partition(policy)}:kms:eu-central-1:{account}:{KEY_ID}"
    players = cast(policy, account)
    trusted = administrator or _administrator(candidates, users)
    tried = plans(players, tuple(caller for caller in players.callers if caller.name == trusted), about, known)
    held, strange = holdings(known.grants or (), players, about)
    tried[Attack.GRANT_HOLDER] = held + tried[Attack.GRANT_HOLDER]
    arranged, entangled = circumstances(policy)
    bench = _Bench(policy, arn, known)
    rows = []
    for attack, attempts in tried.items():
        under = arranged[:1] if attack is Attack.RIGHT_ENCLAVE else arranged
        rows.append(_row(attack, [_under(plan, one) for one in under for plan in attempts], bench))
    flaws = (*players.flaws, *about.flaws, *entangled, *strange, *known.flaws)
    return Matrix(rows=tuple(rows), subject=about, cast=players, administrator=trusted, unchecked=known.unchecked, flaws=flaws)
