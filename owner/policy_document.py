"""The policy language as bytes: a key policy or an identity policy parsed strictly into values, nothing judged yet.

What is refused here, AWS KMS refuses as MalformedPolicyDocumentException or LimitExceededException, or leaves undefined:
duplicate JSON members, unknown elements, wildcards inside a principal's ARN, an element together with its Not-form.
Sources: IAM User Guide, "IAM JSON policy element reference"; KMS Developer Guide, "Key policies" and "Resource quotas".
"""

from dataclasses import dataclass
from enum import StrEnum
import json
import re

from owner.errors import OwnerError

KEY_POLICY_MAX = 32_768  # KMS Developer Guide, "Resource quotas": key policy document size 32 KB
IDENTITY_POLICY_MAX = 6_144  # IAM User Guide, "IAM and AWS STS quotas": managed policy
VERSION = "2012-10-17"
VERSION_OLD = "2008-10-17"  # also the default; it knows no policy variables

_IAM_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):iam::([0-9]{12}):(root|(user|role)/[\x21-\x7e]{1,512})")
_STS_ARN = re.compile(
    r"arn:(aws|aws-cn|aws-us-gov):sts::([0-9]{12}):(assumed-role/[\w+=,.@-]{1,64}/[\w+=,.@-]{2,64}|federated-user/[\w+=,.@-]{2,64})"
)
_UNIQUE_ID = re.compile(r"A[A-Z0-9]{15,127}")  # what a deleted user or role in a policy turns into
_SERVICE = re.compile(r"[a-z0-9.-]{1,128}\.amazonaws\.com(\.cn)?")


class PolicyRule(StrEnum):
    """Which rule of the policy language a document breaks."""

    SIZE = "size"
    JSON = "json"
    DUPLICATE = "duplicate-member"
    VERSION = "version"
    ELEMENT = "element"
    EFFECT = "effect"
    PRINCIPAL = "principal"
    ACTION = "action"
    RESOURCE = "resource"
    CONDITION = "condition"


class MalformedPolicyError(OwnerError):
    """The text is no policy of its kind: `rule` is broken at `where`."""

    def __init__(self, rule: PolicyRule, where: str) -> None:
        super().__init__(f"{where}: {rule.value}")
        self.rule = rule
        self.where = where


class Effect(StrEnum):
    """What a statement does when it applies."""

    ALLOW = "Allow"
    DENY = "Deny"


class PrincipalKind(StrEnum):
    """What one entry of a Principal element names."""

    EVERYONE = "everyone"
    ACCOUNT = "account"
    ARN = "arn"
    SERVICE = "service"
    NOBODY = "nobody"
    """A deleted principal's unique id, a canonical user or an identity provider: none of those is ever a caller here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalEntry:
    """One principal of a statement; `value` is the account id, the ARN or the service name."""

    kind: PrincipalKind
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """The patterns of an element, or of its Not-form."""

    values: tuple[str, ...]
    negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    """A statement's Principal or NotPrincipal."""

    entries: tuple[PrincipalEntry, ...]
    negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One operator over one key: any of `values` fulfils it. A statement's conditions are ANDed."""

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement; `principals` is None in an identity policy. `index` counts from 1, as people do."""

    index: int
    sid: str | None
    effect: Effect
    principals: Principals | None
    actions: Patterns
    resources: Patterns
    conditions: tuple[Condition, ...]

    @property
    def name(self) -> str:
        """How reports name this statement."""
        return f"statement {self.index}" + (f" ({self.sid})" if self.sid else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed policy; `variables`: its version gives `${...}` a meaning."""

    statements: tuple[Statement, ...]
    variables: bool


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedPolicyError(PolicyRule.DUPLICATE, "policy")
    return members


def _load(text: str, limit: int) -> dict[str, object]:
    try:
        if len(text.encode()) > limit:
            raise MalformedPolicyError(PolicyRule.SIZE, "policy")
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        raise MalformedPolicyError(PolicyRule.JSON, "policy") from None
    if not isinstance(value, dict):
        raise MalformedPolicyError(PolicyRule.JSON, "policy")
    return value


def _texts(value: object, rule: PolicyRule, where: str, *, scalars: bool = False) -> tuple[str, ...]:
    """A text or a non-empty list of texts; `scalars` also takes true, false and integers, as condition values may be."""
    items = value if isinstance(value, list) else [value]
    texts = []
    for item in items:
        if scalars and isinstance(item, bool | int):
            texts.append(json.dumps(item))
        elif isinstance(item, str):
            texts.append(item)
        else:
            raise MalformedPolicyError(rule, where)
    if not texts:
        raise MalformedPolicyError(rule, where)
    return tuple(texts)


def _entry(kind: str, text: str, where: str) -> PrincipalEntry:
    if kind == "AWS":
        if text == "*":
            return PrincipalEntry(kind=PrincipalKind.EVERYONE, value="*")
        if re.fullmatch(r"[0-9]{12}", text):
            return PrincipalEntry(kind=PrincipalKind.ACCOUNT, value=text)
        if match := _IAM_ARN.fullmatch(text):
            if match[3] == "root":
                return PrincipalEntry(kind=PrincipalKind.ACCOUNT, value=match[2])
            if "*" not in text and "?" not in text:
                return PrincipalEntry(kind=PrincipalKind.ARN, value=text)
        elif _STS_ARN.fullmatch(text):
            return PrincipalEntry(kind=PrincipalKind.ARN, value=text)
        elif _UNIQUE_ID.fullmatch(text):
            return PrincipalEntry(kind=PrincipalKind.NOBODY, value=text)
    elif kind == "Service" and _SERVICE.fullmatch(text):
        return PrincipalEntry(kind=PrincipalKind.SERVICE, value=text)
    elif kind in {"Federated", "CanonicalUser"}:
        return PrincipalEntry(kind=PrincipalKind.NOBODY, value=text)
    raise MalformedPolicyError(PolicyRule.PRINCIPAL, where)


def _principals(value: object, where: str, *, negated: bool) -> Principals:
    if value == "*":
        return Principals(entries=(PrincipalEntry(kind=PrincipalKind.EVERYONE, value="*"),), negated=negated)
    if not isinstance(value, dict) or not value:
        raise MalformedPolicyError(PolicyRule.PRINCIPAL, where)
    entries = [_entry(kind, text, where) for kind, texts in value.items() for text in _texts(texts, PolicyRule.PRINCIPAL, where)]
    return Principals(entries=tuple(entries), negated=negated)


def _either(members: dict[str, object], name: str, rule: PolicyRule, where: str) -> tuple[object, bool]:
    """The element `name` or its Not-form, exactly one of them."""
    if (name in members) == (f"Not{name}" in members):
        raise MalformedPolicyError(rule, where)
    return (members[name], False) if name in members else (members[f"Not{name}"], True)


def _conditions(value: object, where: str) -> tuple[Condition, ...]:
    if not isinstance(value, dict):
        raise MalformedPolicyError(PolicyRule.CONDITION, where)
    conditions = []
    for operator, keys in value.items():
        if not isinstance(keys, dict) or not keys:
            raise MalformedPolicyError(PolicyRule.CONDITION, where)
        for key, values in keys.items():
            conditions.append(Condition(operator=operator, key=key, values=_texts(values, PolicyRule.CONDITION, where, scalars=True)))
    return tuple(conditions)


_ELEMENTS = frozenset(("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"))
_PRINCIPAL_ELEMENTS = frozenset(("Principal", "NotPrincipal"))


def _statement(value: object, index: int, *, identity: bool) -> Statement:
    where = f"statement {index}"
    if not isinstance(value, dict) or not value.keys() <= (_ELEMENTS if identity else _ELEMENTS | _PRINCIPAL_ELEMENTS):
        raise MalformedPolicyError(PolicyRule.ELEMENT, where)
    sid = value.get("Sid")
    if not (sid is None or isinstance(sid, str)):
        raise MalformedPolicyError(PolicyRule.ELEMENT, where)
    if value.get("Effect") not in ("Allow", "Deny"):
        raise MalformedPolicyError(PolicyRule.EFFECT, where)
    principals = None
    if not identity:
        element, negated = _either(value, "Principal", PolicyRule.PRINCIPAL, where)
        principals = _principals(element, where, negated=negated)
    actions, not_actions = _either(value, "Action", PolicyRule.ACTION, where)
    resources, not_resources = _either(value, "Resource", PolicyRule.RESOURCE, where)
    action_texts = _texts(actions, PolicyRule.ACTION, where)
    if not all(text == "*" or re.fullmatch(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+", text) for text in action_texts):
        raise MalformedPolicyError(PolicyRule.ACTION, where)
    return Statement(
        index=index,
        sid=sid,
        effect=Effect(str(value["Effect"])),
        principals=principals,
        actions=Patterns(values=action_texts, negated=not_actions),
        resources=Patterns(values=_texts(resources, PolicyRule.RESOURCE, where), negated=not_resources),
        conditions=_conditions(value.get("Condition", {}), where),
    )


def _policy(text: str, limit: int, *, identity: bool) -> Policy:
    members = _load(text, limit)
    if not members.keys() <= {"Version", "Id", "Statement"} or not isinstance(members.get("Id", ""), str):
        raise MalformedPolicyError(PolicyRule.ELEMENT, "policy")
    version = members.get("Version", VERSION_OLD)
    if version not in (VERSION, VERSION_OLD):
        raise MalformedPolicyError(PolicyRule.VERSION, "policy")
    body = members.get("Statement")
    statements = body if isinstance(body, list) else [body]
    if not statements:
        raise MalformedPolicyError(PolicyRule.ELEMENT, "policy")
    parsed = tuple(_statement(value, index, identity=identity) for index, value in enumerate(statements, 1))
    return Policy(statements=parsed, variables=version == VERSION)


def parse(text: str) -> Policy:
    """A key policy, at most 32 KB of JSON. Raises: MalformedPolicyError, and nothing else, for any other text."""
    return _policy(text, KEY_POLICY_MAX, identity=False)


def parse_identity(text: str) -> Policy:
    """An identity policy: as `parse`, without principals, at most 6,144 bytes. Raises: MalformedPolicyError."""
    return _policy(text, IDENTITY_POLICY_MAX, identity=True)
