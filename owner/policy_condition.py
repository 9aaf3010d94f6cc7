"""One condition against one request context: true, false, or not modelled.

Sources: IAM User Guide, "Condition operators" (an absent key makes an operator false and its negated form true;
IfExists makes it true; Null asks for absence; Arn operators compare the six components one by one) and "Multivalued
context keys" (ForAllValues is true, ForAnyValue false on an absent key, whatever IfExists says); KMS Developer Guide,
"AWS KMS condition keys". What is not modelled is never guessed: `owner.policy` denies and names the statement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from owner.patterns import Form, Pattern
from owner.policy_document import Condition

Context = Mapping[str, tuple[str, ...]]
"""Condition keys in lower case (their names ignore case) with the request's values."""


class Truth(Enum):
    """A condition's outcome; NOT_MODELLED is neither, and must decide against the caller."""

    FALSE = 0
    TRUE = 1
    NOT_MODELLED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operator:
    base: str
    negated: bool
    any_value: bool
    all_values: bool
    if_exists: bool


_POSITIVE = {
    "StringEquals": "equals",
    "StringEqualsIgnoreCase": "equals-ignore-case",
    "StringLike": "like",
    "ArnEquals": "arn",
    "ArnLike": "arn",
    "Bool": "bool",
    "Null": "null",
}
_NEGATED = {
    "StringNotEquals": "equals",
    "StringNotEqualsIgnoreCase": "equals-ignore-case",
    "StringNotLike": "like",
    "ArnNotEquals": "arn",
    "ArnNotLike": "arn",
}

# Keys of which this model knows that a request without them has none: direct calls from a principal, no AWS service in
# between. Every other key that the request does not carry may exist at AWS, and is not modelled.
_KNOWN = frozenset(
    name.lower()
    for name in (
        *("aws:PrincipalArn", "aws:PrincipalAccount", "aws:PrincipalType", "aws:PrincipalIsAWSService", "aws:SecureTransport"),
        *("aws:ViaAWSService", "aws:CalledVia", "aws:CalledViaFirst", "aws:CalledViaLast"),
        *("aws:SourceArn", "aws:SourceAccount", "aws:RequestedRegion"),
        *("kms:CallerAccount", "kms:ViaService", "kms:EncryptionAlgorithm", "kms:EncryptionContextKeys", "kms:ReEncryptOnSameKey"),
        *("kms:GrantIsForAWSResource", "kms:GrantConstraintType", "kms:GrantOperations", "kms:GranteePrincipal", "kms:RetiringPrincipal"),
        *("kms:BypassPolicyLockoutSafetyCheck", "kms:KeySpec", "kms:KeyUsage", "kms:KeyOrigin", "kms:MultiRegion"),
        *("kms:MultiRegionKeyType", "kms:ReplicaRegion", "kms:PrimaryRegion", "kms:RequestAlias"),
        "kms:RecipientAttestation:ImageSha384",
        *(f"kms:RecipientAttestation:{prefix}{n}" for prefix in ("PCR", "NitroTPMPCR") for n in range(32)),
    )
)
_KNOWN_PREFIX = "kms:encryptioncontext:"


def known_key(key: str) -> bool:
    """Whether the model can say of a request without this key that AWS would not have it either."""
    return key.lower() in _KNOWN or (key.lower().startswith(_KNOWN_PREFIX) and len(key) > len(_KNOWN_PREFIX))


def _operator(name: str) -> _Operator | None:
    prefix, _, rest = name.rpartition(":")
    if prefix not in ("", "ForAnyValue", "ForAllValues"):
        return None
    stem = rest.removesuffix("IfExists")
    base = _POSITIVE.get(stem) or _NEGATED.get(stem)
    if base is None or (base == "null" and (prefix or stem != rest)):
        return None
    return _Operator(
        base=base,
        negated=stem in _NEGATED,
        any_value=prefix == "ForAnyValue",
        all_values=prefix == "ForAllValues",
        if_exists=stem != rest,
    )


def known_operator(name: str) -> bool:
    """Whether `evaluate` can judge this operator."""
    return _operator(name) is not None


_FORMS = {"equals": Form.EXACT, "equals-ignore-case": Form.ANY_CASE, "bool": Form.ANY_CASE, "like": Form.GLOB, "arn": Form.ARN}


def patterns(condition: Condition) -> tuple[Pattern, ...]:
    """What the condition compares its key with; nothing for Null, and for an operator that `evaluate` cannot judge."""
    operator = _operator(condition.operator)
    form = _FORMS.get(operator.base) if operator else None
    return tuple(Pattern(form=form, text=value) for value in condition.values) if form else ()


def glob(pattern: str, text: str) -> bool:
    """Whether `text` matches a pattern of `*` (any characters) and `?` (one), in time proportional to the product of lengths."""
    p = t = 0
    star, mark = -1, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, mark = p, t
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", text[t]):
            p, t = p + 1, t + 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return all(c == "*" for c in pattern[p:])


def arn_glob(pattern: str, arn: str) -> bool:
    """Whether an ARN matches, each of the six components by itself."""
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(glob(p, part) for p, part in zip(patterns, parts, strict=True))


def _matches(base: str, expected: str, actual: str) -> bool:
    match base:
        case "equals":
            return expected == actual
        case "equals-ignore-case" | "bool":
            return expected.lower() == actual.lower()
        case "like":
            return glob(expected, actual)
        case _:
            return arn_glob(expected, actual)


def _absent(operator: _Operator) -> bool:
    if operator.any_value:
        return False
    return operator.all_values or operator.if_exists or operator.negated


def evaluate(condition: Condition, context: Context, *, variables: bool) -> Truth:
    """Judge one condition. `variables`: the policy's version gives `${...}` in a value a meaning, which is not modelled."""
    operator = _operator(condition.operator)
    if operator is None or (variables and any("${" in value for value in condition.values)):
        return Truth.NOT_MODELLED
    actual = context.get(condition.key.lower())
    if actual is None and not known_key(condition.key):
        return Truth.NOT_MODELLED
    if operator.base == "null":
        wanted = {value.lower() for value in condition.values}
        if not wanted <= {"true", "false"}:
            return Truth.NOT_MODELLED
        return Truth.TRUE if ("false" if actual else "true") in wanted else Truth.FALSE
    if not actual:
        return Truth.TRUE if _absent(operator) else Truth.FALSE
    if len(actual) > 1 and not (operator.any_value or operator.all_values):
        return Truth.NOT_MODELLED  # a multivalued key without a set operator: AWS leaves the outcome open
    each = [operator.negated != any(_matches(operator.base, value, one) for value in condition.values) for one in actual]
    return Truth.TRUE if (any(each) if operator.any_value else all(each)) else Truth.FALSE
