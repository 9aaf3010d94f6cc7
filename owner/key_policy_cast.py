"""Who might call: every principal that a policy names, those whom it does not name and who come all the same, and one
principal for each further way in which the policy's conditions can tell callers apart, negations and patterns included.

Each caller has every identity policy it could wish for: outside the key's account who owns the account writes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
import re

from owner.key_policy_flaw import Flaw, entangled, unjudged
from owner.key_policy_subject import named
from owner.patterns import DIGITS, NAME, PATH, Form, Pattern, Run, Shape, TooManyError, kinds, literal, some
from owner.policy import allows, matches_action, seen
from owner.policy_condition import evaluate, patterns
from owner.policy_document import Effect, Policy, PrincipalKind, parse_identity
from owner.policy_principal import CallerKind, Principal, principal_from_arn

STRANGER_ACCOUNT = "999999999999"
OWNER_ACCOUNT = "111122223333"
_GRANTEE = "kms:granteeprincipal"
ARN_KEYS = ("aws:principalarn", _GRANTEE)
ACCOUNT_KEYS = ("kms:calleraccount", "aws:principalaccount")
EVERYTHING = parse_identity('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}')
_PUT = parse_identity('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:PutKeyPolicy","Resource":"*"}]}')
_ACCOUNT = re.compile(r"[0-9]{12}")
_PARTITION = re.compile(r"arn:(aws|aws-cn|aws-us-gov):")
_SERVICE = re.compile(r"[a-z0-9.-]{1,128}\.amazonaws\.com(\.cn)?")
_DELETED = re.compile(r"A[A-Z0-9]{15,127}")
_PEOPLE = "whole ARNs of roles as principals, and account numbers in full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller, how to call it in a report, and its identity policies."""

    principal: Principal
    name: str
    identity: tuple[Policy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """`callers`: all whom the policy names, other accounts, who else fits its conditions, strangers. The rest are the
    key's account's own dangers. `strangers`: those of `callers` from an account that the policy does not name.
    `accomplices`: to whom grants may be made, where the policy tells grantees apart. `flaws`: what of the policy's
    principals nobody could be cast for."""

    account: str
    callers: tuple[Caller, ...]
    strangers: tuple[Caller, ...]
    root: Caller
    iam_admin: Caller
    ci: Caller
    accomplices: tuple[Caller, ...]
    flaws: tuple[Flaw, ...]

    apart: tuple[Caller, ...] = ()
    """Of `callers`, one for each way in which the policy can tell them apart."""

    @property
    def stranger(self) -> Caller:
        """Someone from an account that the policy does not name."""
        return self.strangers[0]


def caller_of(principal: Principal, name: str, identity: Policy = EVERYTHING) -> Caller:
    """A caller with one identity policy."""
    return Caller(principal=principal, name=name, identity=(identity,))


def _entries(policy: Policy) -> list[tuple[PrincipalKind, str]]:
    return [
        (entry.kind, entry.value)
        for statement in policy.statements
        if statement.principals is not None
        for entry in statement.principals.entries
    ]


def _principals(arns: Iterable[str]) -> dict[str, Principal]:
    found = {}
    for arn in dict.fromkeys(arns):
        try:
            found[arn] = principal_from_arn(arn)
        except ValueError:
            continue
    return found


def named_principals(policy: Policy) -> dict[str, Principal]:
    """Users, roles and sessions that the policy names by a whole ARN, as principals or as aws:PrincipalArn in a condition."""
    arns = [value for kind, value in _entries(policy) if kind is PrincipalKind.ARN]
    arns += [value for value in named(policy, "aws:principalarn") if not set(value) & set("*?")]
    return {arn: principal for arn, principal in _principals(arns).items() if principal.kind is not CallerKind.ROOT}


def decrypting_arns(policy: Policy) -> frozenset[str]:
    """ARNs that an Allow of kms:Decrypt names; whether it comes to anything is for the engine to say."""
    return frozenset(
        entry.value
        for statement in policy.statements
        if statement.effect is Effect.ALLOW and statement.principals is not None and matches_action(statement.actions, "kms:Decrypt")
        for entry in statement.principals.entries
        if entry.kind is PrincipalKind.ARN and not statement.principals.negated
    )


def _accounts(policy: Policy) -> tuple[str, ...]:
    """The accounts that the policy names in full."""
    accounts = [value for kind, value in _entries(policy) if kind is PrincipalKind.ACCOUNT]
    accounts += [value for key in ACCOUNT_KEYS for value in named(policy, key)]
    accounts += [principal.account for principal in named_principals(policy).values()]
    accounts += [value.split(":")[4] for value in named(policy, "aws:principalarn") if value.count(":") >= 5]
    return tuple(dict.fromkeys(account for account in accounts if _ACCOUNT.fullmatch(account)))


def owner_account(policy: Policy, administrators: tuple[str, ...], users: tuple[str, ...]) -> str:
    """The account that owns the key, where no metadata says it: an administrator's, one from which nobody decrypts if there is any."""
    accounts = [principal_from_arn(arn).account for arn in administrators]
    others = [account for account in accounts if account not in users]
    return next(iter([*others, *accounts, *_accounts(policy)]), OWNER_ACCOUNT)


def partition(policy: Policy) -> str:
    """The partition that the policy's principals are in."""
    arns = [*(value for kind, value in _entries(policy) if kind is PrincipalKind.ARN), *named(policy, "aws:principalarn")]
    return next((match[1] for match in map(_PARTITION.match, arns) if match), "aws")


def _of_account(account: str) -> Pattern:
    return Pattern(form=Form.ARN, text=f"*:*:*:*:{account}:*")


def _patterns(policy: Policy) -> dict[Pattern, tuple[str, str]]:
    """Patterns over callers' ARNs, each with the statement and the value that it comes from."""
    found: dict[Pattern, tuple[str, str]] = {}
    for statement in policy.statements:
        for condition in statement.conditions:
            key = condition.key.lower()
            for pattern in patterns(condition) if key in ARN_KEYS + ACCOUNT_KEYS else ():
                where = (statement.name, f"{pattern.text} for {condition.key}")
                if key in ARN_KEYS:
                    found.setdefault(pattern, where)
                elif ":" in pattern.text or (pattern.form in (Form.EXACT, Form.ANY_CASE) and not _ACCOUNT.fullmatch(pattern.text)):
                    found.setdefault(Pattern(form=Form.EXACT, text=f"no account: {pattern.text}"), where)
                else:
                    found.setdefault(_of_account(pattern.text), where)
    return found


def _shapes(where: str) -> dict[CallerKind, tuple[Shape, ...]]:
    """What ARNs of callers there can be in a partition."""
    account = (Run(characters=DIGITS),) * 12
    iam, sts = (literal(f"arn:{where}:{service}::") + account for service in ("iam", "sts"))
    names = (some(NAME), some(PATH) + literal("/") + some(NAME))
    return {
        CallerKind.ROLE: tuple(iam + literal(":role/") + name for name in names),
        CallerKind.USER: tuple(iam + literal(":user/") + name for name in names),
        CallerKind.ROOT: (iam + literal(":root"),),
        CallerKind.FEDERATED: (sts + literal(":federated-user/") + some(NAME),),
    }


def _sessions(policy: Policy) -> list[tuple[Shape, str]]:
    """The roles with a path that a session whose ARN the policy names may be of: the ARN of a session does not say it."""
    found = []
    for arn, principal in named_principals(policy).items():
        if principal.arn == arn and principal.kind is CallerKind.ROLE:
            head, tail = f"arn:{principal.partition}:iam::{principal.account}:role/", f"/{principal.name.rpartition('/')[2]}"
            found.append((literal(head) + some(PATH) + literal(tail), principal.session))
    return found


def _fitting(policy: Policy, account: str) -> tuple[list[Principal], list[Flaw]]:
    """A principal for each way in which the policy's conditions tell callers apart, and the patterns that none fits."""
    origin = _patterns(policy)
    if not origin:
        return [], []
    exact = [Pattern(form=Form.EXACT, text=arn) for arn in named_principals(policy)]
    apart = [*origin, *exact, *map(_of_account, (account, *_accounts(policy)))]
    found: list[Principal] = []
    fitted: set[Pattern] = set()
    try:
        for shapes in _shapes(partition(policy)).values():
            told = kinds(shapes, apart)
            found += [principal_from_arn(arn) for arn in told.values()]
            fitted.update(*told)
        for shape, session in _sessions(policy):
            found += [principal_from_arn(arn, session=session) for arn in kinds((shape,), apart).values()]
    except TooManyError:
        return found, [entangled("callers")]
    unfit = [where for pattern, where in origin.items() if pattern not in fitted and not _SERVICE.fullmatch(pattern.text)]
    return found, [unjudged(name, f"no principal fits {what}", _PEOPLE) for name, what in unfit]


def _uncastable(policy: Policy) -> list[Flaw]:
    """Principals that are let in, or spared by a Deny, and that this model has no caller for: identity providers, canonical users."""
    flaws = []
    for statement in policy.statements:
        principals = statement.principals
        if principals is None or principals.negated != (statement.effect is Effect.DENY):
            continue
        strange = [one.value for one in principals.entries if one.kind is PrincipalKind.NOBODY and not _DELETED.fullmatch(one.value)]
        flaws += [unjudged(statement.name, f"the principal {value} is not modelled", _PEOPLE) for value in strange]
    return flaws


def _service(name: str) -> Principal:
    return Principal(kind=CallerKind.SERVICE, account="", name=name)


def _services(policy: Policy) -> list[Caller]:
    return [caller_of(_service(value), value) for kind, value in dict.fromkeys(_entries(policy)) if kind is PrincipalKind.SERVICE]


def grantee(arn: str) -> Principal:
    """Whom a grant's GranteePrincipal names. Raises: ValueError where it is none that is modelled."""
    return _service(arn) if _SERVICE.fullmatch(arn) else principal_from_arn(arn)


def _accomplices(policy: Policy, players: list[Caller], fitting: list[Principal]) -> tuple[Caller, ...]:
    """Someone to make a grant to, for each way in which the policy tells grantees apart."""
    conditions = [one for statement in policy.statements for one in statement.conditions if one.key.lower() == _GRANTEE]
    services = [_service(value) for value in named(policy, _GRANTEE) if _SERVICE.fullmatch(value)]
    found: dict[tuple[object, ...], Caller] = {}
    for caller in (*players, *(caller_of(one, f"{one.source_arn}, as an example") for one in (*fitting, *services))):
        context = {_GRANTEE: (caller.principal.source_arn,)}
        found.setdefault(tuple(evaluate(one, context, variables=policy.variables) for one in conditions), caller)
    return tuple(found.values()) if conditions else ()


def _outside(policy: Policy, account: str) -> list[Caller]:
    callers = []
    for other in _accounts(policy):
        if other != account:
            admin = Principal(kind=CallerKind.ROLE, account=other, name="Admin", session="session", partition=partition(policy))
            root = Principal(kind=CallerKind.ROOT, account=other, partition=partition(policy))
            callers += [caller_of(admin, f"an administrator of account {other}"), caller_of(root, f"the root user of account {other}")]
    return callers


def cast(policy: Policy, account: str) -> Cast:
    """The callers to try on a key of `account`."""
    where = partition(policy)

    def role(home: str, name: str, label: str, identity: Policy = EVERYTHING) -> Caller:
        return caller_of(Principal(kind=CallerKind.ROLE, account=home, name=name, session="session", partition=where), label, identity)

    root = caller_of(Principal(kind=CallerKind.ROOT, account=account, partition=where), "the root user of the key's account")
    iam_admin = role(account, "IamAdmin", "an IAM administrator of the key's account")
    stranger = role(STRANGER_ACCOUNT, "Stranger", "a stranger from another account")
    callers = [caller_of(principal, arn) for arn, principal in named_principals(policy).items()]
    callers += [*_outside(policy, account), *_services(policy)]
    homes = {account, *_accounts(policy)}

    def marks(principal: Principal) -> tuple[object, ...]:
        """All that matters of a caller: what the policy sees, and whether it names the account."""
        return principal.account in homes, seen(policy, principal, account)

    known = {marks(one.principal) for one in (*callers, root, iam_admin, stranger)}
    fitting, flaws = _fitting(policy, account)
    others = []
    for principal in (*fitting, _service("another.amazonaws.com")):
        if marks(principal) not in known and allows(policy, principal):
            known.add(marks(principal))
            others.append(caller_of(principal, f"{principal.source_arn}, as an example"))
    everyone = (*callers, *others, stranger)
    return Cast(
        account=account,
        callers=everyone,
        strangers=(stranger, *(one for one in others if one.principal.account not in homes)),
        root=root,
        iam_admin=iam_admin,
        ci=role(account, "Ci", "a CI role of the key's account", _PUT),
        accomplices=_accomplices(policy, callers, fitting),
        flaws=(*_uncastable(policy), *flaws),
        apart=tuple({marks(one.principal): one for one in reversed(everyone)}.values())[::-1],
    )
