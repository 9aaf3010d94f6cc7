"""Who might call: every principal that a policy names, and those whom it does not name and who come all the same.

Outside the owner's account each caller has every identity policy it could wish for: who owns the account writes them.
"""

from dataclasses import dataclass
import re

from owner.key_policy_subject import filled, named
from owner.policy import matches_action
from owner.policy_document import Effect, Policy, PrincipalKind, parse_identity
from owner.policy_principal import CallerKind, Principal, principal_from_arn

STRANGER_ACCOUNT = "999999999999"
OWNER_ACCOUNT = "111122223333"
_EVERYTHING = parse_identity('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}')
_PUT = parse_identity('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:PutKeyPolicy","Resource":"*"}]}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller, how to call it in a report, and its identity policies."""

    principal: Principal
    name: str
    identity: tuple[Policy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """`callers`: all whom the policy names, other accounts, a stranger. The rest are the owner's account's own dangers."""

    account: str
    callers: tuple[Caller, ...]
    root: Caller
    iam_admin: Caller
    ci: Caller
    stranger: Caller


def _caller(principal: Principal, name: str, identity: Policy = _EVERYTHING) -> Caller:
    return Caller(principal=principal, name=name, identity=(identity,))


def _role(account: str, name: str, label: str, identity: Policy = _EVERYTHING) -> Caller:
    return _caller(Principal(kind=CallerKind.ROLE, account=account, name=name, session="session"), label, identity)


def _entries(policy: Policy) -> list[tuple[PrincipalKind, str]]:
    return [
        (entry.kind, entry.value)
        for statement in policy.statements
        if statement.principals is not None
        for entry in statement.principals.entries
    ]


def named_arns(policy: Policy) -> tuple[str, ...]:
    """ARNs of users and roles that the policy names, as principals or as aws:PrincipalArn in a condition."""
    arns = [value for kind, value in _entries(policy) if kind is PrincipalKind.ARN]
    arns += [filled(value, "x", len(value)) for value in named(policy, "aws:principalarn")]
    found = []
    for arn in dict.fromkeys(arns):
        try:
            principal = principal_from_arn(arn)
        except ValueError:
            continue
        if principal.kind is not CallerKind.ROOT:
            found.append(arn)
    return tuple(found)


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
    accounts = [value for kind, value in _entries(policy) if kind is PrincipalKind.ACCOUNT]
    accounts += [value for key in ("kms:calleraccount", "aws:principalaccount") for value in named(policy, key)]
    accounts += [principal_from_arn(arn).account for arn in named_arns(policy)]
    return tuple(dict.fromkeys(account for account in accounts if re.fullmatch(r"[0-9]{12}", account)))


def owner_account(policy: Policy, administrators: tuple[str, ...], users: tuple[str, ...]) -> str:
    """The account that owns the key, where no metadata says it: an administrator's, one from which nobody decrypts if there is any."""
    accounts = [principal_from_arn(arn).account for arn in administrators]
    others = [account for account in accounts if account not in users]
    return next(iter([*others, *accounts, *_accounts(policy)]), OWNER_ACCOUNT)


def cast(policy: Policy, account: str) -> Cast:
    """The callers to try on a key of `account`."""
    callers = [_caller(principal_from_arn(arn), arn) for arn in named_arns(policy)]
    for other in _accounts(policy):
        if other != account:
            callers.append(_role(other, "Admin", f"an administrator of account {other}"))
            callers.append(_caller(Principal(kind=CallerKind.ROOT, account=other), f"the root user of account {other}"))
    for kind, value in dict.fromkeys(_entries(policy)):
        if kind is PrincipalKind.SERVICE:
            callers.append(_caller(Principal(kind=CallerKind.SERVICE, account="", name=value), value))
    stranger = _role(STRANGER_ACCOUNT, "Stranger", "a stranger from another account")
    return Cast(
        account=account,
        callers=(*callers, stranger),
        root=_caller(Principal(kind=CallerKind.ROOT, account=account), "the root user of the key's account"),
        iam_admin=_role(account, "IamAdmin", "an IAM administrator of the key's account"),
        ci=_role(account, "Ci", "a CI role of the key's account", _PUT),
        stranger=stranger,
    )
