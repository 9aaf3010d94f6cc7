"""Who may do what with a KMS key: a pure engine over the key policy, the caller's identity policies and the key's grants.

Evaluated as AWS documents it: an explicit Deny anywhere wins; a key policy that names the caller, or everyone, suffices
within the key's account; one that names the account hands the decision to the account's identity policies; across
accounts both must allow; a grant allows its grantee by itself. What the model does not know denies and is named.
Sources: IAM User Guide, "Policy evaluation logic", "AWS JSON policy elements: Principal" and "NotPrincipal"; KMS
Developer Guide, "Determining access to AWS KMS keys", "Default key policy", "Grants in AWS KMS".
Not modelled: SCPs, RCPs, permissions boundaries, session policies, VPC endpoint policies. They can only take away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from owner.policy_condition import Context, Truth, arn_glob, evaluate, glob
from owner.policy_document import Effect, Patterns, Policy, PrincipalKind, Principals, Statement
from owner.policy_principal import CallerKind, Principal

KEY_POLICY = "key policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant on the key. Its constraint, if any, is on the encryption context: equal to, or containing, these pairs."""

    id: str
    grantee: str
    operations: frozenset[str]
    context_equals: Mapping[str, str] | None = None
    context_subset: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: who, which action (`kms:Decrypt`), on which key, with which encryption context and condition keys.

    `context` maps condition keys in lower case to values; those that follow from the other fields are added here.
    `key_account` defaults to the account in the resource's ARN.
    """

    principal: Principal
    action: str
    resource: str
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    context: Context = field(default_factory=dict)
    identity: tuple[Policy, ...] = ()


class Outcome(StrEnum):
    """How a request was decided; only ALLOWED allows."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicit deny"
    IMPLICIT_DENY = "implicit deny"
    NOT_MODELLED = "not modelled"


class Because(StrEnum):
    """Why a statement applies or does not."""

    APPLIES = "applies"
    APPLIES_WITH_IDENTITY = "applies only with an identity policy that allows too"
    PRINCIPAL = "another principal"
    ACTION = "another action"
    RESOURCE = "another resource"
    CONDITION = "a condition is not fulfilled"
    CONSTRAINT = "the grant's constraint is not fulfilled"
    NOT_MODELLED = "an element is not modelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One statement against one request; `detail` names the condition or element that said so."""

    source: str
    statement: str
    effect: Effect
    because: Because
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome, the verdict that decided it (None: nothing allowed), and why each statement did or did not apply."""

    outcome: Outcome
    deciding: Verdict | None
    verdicts: tuple[Verdict, ...]

    @property
    def allowed(self) -> bool:
        """Whether the call may proceed."""
        return self.outcome is Outcome.ALLOWED


class _Match(Enum):
    NO = 0
    ACCOUNT = 1
    DIRECT = 2


def _matched(principals: Principals, caller: Principal) -> _Match:
    best = _Match.NO
    for entry in principals.entries:
        if entry.kind is PrincipalKind.EVERYONE or (entry.kind is PrincipalKind.ARN and entry.value in caller.arns):
            return _Match.DIRECT
        if entry.kind is PrincipalKind.SERVICE and caller.kind is CallerKind.SERVICE and entry.value == caller.name:
            return _Match.DIRECT
        if entry.kind is PrincipalKind.ACCOUNT and caller.kind is not CallerKind.SERVICE and entry.value == caller.account:
            best = _Match.DIRECT if caller.kind is CallerKind.ROOT else _Match.ACCOUNT
    return best


def _exempt(principals: Principals, caller: Principal) -> bool:
    """NotPrincipal: a caller is spared only if its account, its role or user and its session are all listed."""
    listed = {entry.value for entry in principals.entries if entry.kind is PrincipalKind.ARN}
    accounts = {entry.value for entry in principals.entries if entry.kind is PrincipalKind.ACCOUNT}
    if any(entry.kind is PrincipalKind.EVERYONE for entry in principals.entries):
        return True
    if caller.kind is CallerKind.SERVICE:
        return any(entry.kind is PrincipalKind.SERVICE and entry.value == caller.name for entry in principals.entries)
    return caller.account in accounts and set(caller.arns) <= listed


def _principal(statement: Statement, caller: Principal) -> _Match:
    principals = statement.principals
    if principals is None:
        return _Match.DIRECT
    if not principals.negated:
        return _matched(principals, caller)
    if statement.effect is Effect.ALLOW:  # everyone but those listed, by any of their names
        return _Match.NO if _matched(principals, caller) is not _Match.NO else _Match.DIRECT
    return _Match.NO if _exempt(principals, caller) else _Match.DIRECT


def matches_action(patterns: Patterns, action: str) -> bool:
    """Whether an Action or NotAction element covers this action; letter case does not count."""
    return patterns.negated != any(glob(pattern.lower(), action.lower()) for pattern in patterns.values)


def _resource(patterns: Patterns, arn: str, *, variables: bool) -> Truth:
    found = False
    for pattern in patterns.values:
        if pattern == "*":
            found = True
        elif pattern.count(":") < 5 or (variables and "${" in pattern):
            return Truth.NOT_MODELLED
        else:
            found = found or arn_glob(pattern, arn)
    return Truth.TRUE if found != patterns.negated else Truth.FALSE


def _conditions(statement: Statement, context: Context, *, variables: bool) -> tuple[Truth, str]:
    """Conditions are ANDed, so that one false one settles it, whatever is not modelled beside it."""
    unknown = ""
    for condition in statement.conditions:
        truth = evaluate(condition, context, variables=variables)
        if truth is Truth.FALSE:
            return truth, f"{condition.operator} {condition.key}"
        if truth is Truth.NOT_MODELLED:
            unknown = unknown or f"{condition.operator} {condition.key}"
    return (Truth.NOT_MODELLED, unknown) if unknown else (Truth.TRUE, "")


def _judge(statement: Statement, source: str, request: Request, context: Context, *, variables: bool) -> tuple[Verdict, _Match]:
    def verdict(because: Because, detail: str = "") -> Verdict:
        return Verdict(source=source, statement=statement.name, effect=statement.effect, because=because, detail=detail)

    match = _principal(statement, request.principal)
    if match is _Match.NO:
        return verdict(Because.PRINCIPAL), match
    if not matches_action(statement.actions, request.action):
        return verdict(Because.ACTION), match
    resource = _resource(statement.resources, request.resource, variables=variables)
    if resource is Truth.FALSE:
        return verdict(Because.RESOURCE), match
    truth, detail = _conditions(statement, context, variables=variables)
    if truth is Truth.FALSE:
        return verdict(Because.CONDITION, detail), match
    if Truth.NOT_MODELLED in (resource, truth):
        return verdict(Because.NOT_MODELLED, detail or "Resource"), match
    needs_identity = statement.effect is Effect.ALLOW and statement.principals is not None and _needs_identity(match, request)
    return verdict(Because.APPLIES_WITH_IDENTITY if needs_identity else Because.APPLIES), match


def _needs_identity(match: _Match, request: Request) -> bool:
    if request.principal.kind is CallerKind.SERVICE:
        return False
    if request.principal.account != request.resource.split(":")[4]:
        return request.principal.kind is not CallerKind.ROOT
    return match is _Match.ACCOUNT


def _grant(grant: Grant, request: Request) -> Verdict:
    def verdict(because: Because) -> Verdict:
        return Verdict(source="grant", statement=f"grant {grant.id}", effect=Effect.ALLOW, because=because)

    if grant.grantee not in request.principal.arns:
        return verdict(Because.PRINCIPAL)
    if request.action.removeprefix("kms:") not in grant.operations:
        return verdict(Because.ACTION)
    if grant.context_equals is not None and dict(request.encryption_context) != dict(grant.context_equals):
        return verdict(Because.CONSTRAINT)
    if grant.context_subset is not None and not grant.context_subset.items() <= request.encryption_context.items():
        return verdict(Because.CONSTRAINT)
    return verdict(Because.APPLIES)


def full_context(request: Request) -> dict[str, tuple[str, ...]]:
    """The condition keys of a request: its own, and those that follow from its principal and encryption context."""
    context = dict(request.principal.context)
    context.update({f"kms:encryptioncontext:{name.lower()}": (value,) for name, value in request.encryption_context.items()})
    if request.encryption_context:
        context["kms:encryptioncontextkeys"] = tuple(sorted(request.encryption_context))
    context.setdefault("aws:securetransport", ("true",))
    context.update(request.context)
    return context


_OF_THE_CALLER = frozenset(
    ("aws:principalarn", "aws:principalaccount", "kms:calleraccount", "aws:principaltype", "aws:principalisawsservice")
)


def seen(policy: Policy, caller: Principal, key_account: str) -> tuple[object, ...]:
    """All that a key policy tells callers apart by: who are seen alike, with the same identity policies and grants, are decided alike."""
    marks: list[object] = [caller.account == key_account, caller.kind is CallerKind.ROOT, caller.kind is CallerKind.SERVICE]
    for statement in policy.statements:
        match = _principal(statement, caller)
        conditions = [one for one in statement.conditions if match is not _Match.NO and one.key.lower() in _OF_THE_CALLER]
        marks.append((match, *(evaluate(one, caller.context, variables=policy.variables) for one in conditions)))
    return tuple(marks)


def allows(policy: Policy, caller: Principal) -> bool:
    """Whether some Allow means this caller at all, whatever its conditions; if none does, only a grant lets it do anything."""
    return any(one.effect is Effect.ALLOW and _principal(one, caller) is not _Match.NO for one in policy.statements)


def narrowed(policy: Policy, caller: Principal, action: str) -> Policy:
    """The policy without the statements that mean another caller or action: `decide` ends alike, and says less."""
    meant = [one for one in policy.statements if _principal(one, caller) is not _Match.NO and matches_action(one.actions, action)]
    return Policy(statements=tuple(meant), variables=policy.variables)


def decide(policy: Policy, request: Request, *, grants: tuple[Grant, ...] = ()) -> Decision:
    """Decide one request against the key's policy, the caller's identity policies and the key's grants."""
    context = full_context(request)
    sources = [(KEY_POLICY, policy)] + [(f"identity policy {n}", one) for n, one in enumerate(request.identity, 1)]
    verdicts = tuple(
        _judge(statement, source, request, context, variables=one.variables)[0] for source, one in sources for statement in one.statements
    ) + tuple(_grant(grant, request) for grant in grants)

    def decided(outcome: Outcome, deciding: Verdict | None) -> Decision:
        return Decision(outcome=outcome, deciding=deciding, verdicts=verdicts)

    def first(source: str, effect: Effect, *because: Because) -> Verdict | None:
        return next((v for v in verdicts if v.source.startswith(source) and v.effect is effect and v.because in because), None)

    if denied := first("", Effect.DENY, Because.APPLIES):
        return decided(Outcome.EXPLICIT_DENY, denied)
    unknown = first("", Effect.DENY, Because.NOT_MODELLED) or first("", Effect.ALLOW, Because.NOT_MODELLED)
    if unknown:
        return decided(Outcome.NOT_MODELLED, unknown)
    allowed = first(KEY_POLICY, Effect.ALLOW, Because.APPLIES) or first("grant", Effect.ALLOW, Because.APPLIES)
    if allowed is None and first("identity", Effect.ALLOW, Because.APPLIES):
        allowed = first(KEY_POLICY, Effect.ALLOW, Because.APPLIES_WITH_IDENTITY)
    return decided(Outcome.ALLOWED if allowed else Outcome.IMPLICIT_DENY, allowed)
