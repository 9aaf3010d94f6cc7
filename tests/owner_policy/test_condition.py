"""Condition operators, each row as AWS documents it."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from owner.policy_condition import Truth, arn_glob, evaluate, glob, known_key, known_operator
from owner.policy_document import Condition

KEY = "kms:EncryptionContext:name"
T, F, N = Truth.TRUE, Truth.FALSE, Truth.NOT_MODELLED

# Source: IAM User Guide, "IAM JSON policy elements: Condition operators". Operator, policy values, request values (None:
# absent), outcome.
OPERATORS: list[tuple[str, list[str], tuple[str, ...] | None, Truth]] = [
    # "String condition operators": exact matching, case sensitive; negated; ignoring case; `*` and `?`.
    ("StringEquals", ["a"], ("a",), T),
    ("StringEquals", ["a"], ("A",), F),
    ("StringEquals", ["b", "a"], ("a",), T),
    ("StringEquals", ["a*"], ("ab",), F),
    ("StringNotEquals", ["a"], ("b",), T),
    ("StringNotEquals", ["a"], ("a",), F),
    ("StringNotEquals", ["a", "b"], ("b",), F),
    ("StringNotEquals", ["a"], ("A",), T),
    ("StringEqualsIgnoreCase", ["Ab"], ("aB",), T),
    ("StringEqualsIgnoreCase", ["Ab"], ("aC",), F),
    ("StringNotEqualsIgnoreCase", ["Ab"], ("aB",), F),
    ("StringNotEqualsIgnoreCase", ["Ab"], ("aC",), T),
    ("StringLike", ["a*c"], ("abbc",), T),
    ("StringLike", ["a?c"], ("abbc",), F),
    ("StringLike", ["a?c"], ("abc",), T),
    ("StringLike", ["A*"], ("abc",), F),
    ("StringNotLike", ["a*"], ("abc",), F),
    ("StringNotLike", ["a*"], ("xbc",), T),
    # "If the key that you specify in a policy condition is not present in the request context, the values do not match and
    # the condition is false. If the policy condition requires that the key is not matched [...] the condition is true."
    ("StringEquals", ["a"], None, F),
    ("StringLike", ["*"], None, F),
    ("StringNotEquals", ["a"], None, T),
    ("StringNotEqualsIgnoreCase", ["a"], None, T),
    ("StringNotLike", ["*"], None, T),
    ("ArnNotEquals", ["arn:aws:iam::1:role/a"], None, T),
    ("ArnLike", ["*:*:*:*:*:*"], None, F),
    # "...IfExists condition operators": "If the key is not present, evaluate the condition element as true."
    ("StringEqualsIfExists", ["a"], None, T),
    ("StringEqualsIfExists", ["a"], ("b",), F),
    ("StringEqualsIfExists", ["a"], ("a",), T),
    ("StringNotEqualsIfExists", ["a"], None, T),
    ("StringNotEqualsIfExists", ["a"], ("a",), F),
    ("BoolIfExists", ["true"], None, T),
    # "Null condition operator": "true" means the key must be absent, "false" that it exists and is not null.
    ("Null", ["true"], None, T),
    ("Null", ["true"], ("a",), F),
    ("Null", ["false"], None, F),
    ("Null", ["false"], ("a",), T),
    ("Null", ["true", "false"], ("a",), T),
    ("Null", ["perhaps"], ("a",), N),
    # "Boolean condition operators".
    ("Bool", ["true"], ("true",), T),
    ("Bool", ["True"], ("true",), T),
    ("Bool", ["true"], ("false",), F),
    ("Bool", ["true"], None, F),
    # "ARN condition operators": ArnEquals and ArnLike behave identically, each of the six components separately.
    ("ArnEquals", ["arn:aws:iam::111122223333:role/*"], ("arn:aws:iam::111122223333:role/x/y",), T),
    ("ArnLike", ["arn:aws:iam::*:role/x"], ("arn:aws:iam::111122223333:role/x",), T),
    ("ArnLike", ["arn:aws:iam:*:role/x"], ("arn:aws:iam::111122223333:role/x",), F),
    ("ArnLike", ["arn:*"], ("arn:aws:iam::111122223333:role/x",), F),
    ("ArnNotLike", ["arn:aws:iam::111122223333:role/*"], ("arn:aws:iam::111122223333:role/x",), F),
    ("ArnNotEquals", ["arn:aws:iam::111122223333:role/y"], ("arn:aws:iam::111122223333:role/x",), T),
    # IAM User Guide, "Set operators for multivalued context keys".
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "b"), T),
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "c"), F),
    ("ForAllValues:StringEquals", ["a"], None, T),
    ("ForAnyValue:StringEquals", ["a"], ("a", "c"), T),
    ("ForAnyValue:StringEquals", ["a"], ("b", "c"), F),
    ("ForAnyValue:StringEquals", ["a"], None, F),
    ("ForAllValues:StringNotEquals", ["a"], ("b", "c"), T),
    ("ForAllValues:StringNotEquals", ["a"], ("a", "c"), F),
    ("ForAnyValue:StringNotEquals", ["a"], ("a", "c"), T),
    ("ForAnyValue:StringNotEquals", ["a"], ("a",), F),
    ("ForAnyValue:StringNotEquals", ["a"], None, F),
    ("ForAnyValue:StringEqualsIfExists", ["a"], None, F),
    ("ForAllValues:StringEqualsIfExists", ["a"], None, T),
    # Several values without a set operator are left open by AWS.
    ("StringEquals", ["a"], ("a", "b"), N),
    # Not modelled: other types, unknown names, letter case, Null with IfExists or a set operator.
    ("NumericLessThan", ["5"], ("3",), N),
    ("DateGreaterThan", ["2026-01-01T00:00:00Z"], ("x",), N),
    ("IpAddress", ["10.0.0.0/8"], ("10.0.0.1",), N),
    ("BinaryEquals", ["AA=="], ("AA==",), N),
    ("StringLikeIgnoreCase", ["a"], ("a",), N),
    ("stringequals", ["a"], ("a",), N),
    ("ForSomeValues:StringEquals", ["a"], ("a",), N),
    ("NullIfExists", ["true"], None, N),
    ("ForAnyValue:Null", ["true"], None, N),
    ("", ["a"], ("a",), N),
]


@pytest.mark.parametrize(("operator", "values", "actual", "expected"), OPERATORS)
def test_operators(operator: str, values: list[str], actual: tuple[str, ...] | None, expected: Truth) -> None:
    """Each operator, on a present and on an absent key, is what AWS documents; what AWS leaves open is not guessed."""
    context = {} if actual is None else {KEY.lower(): actual}
    assert evaluate(Condition(operator=operator, key=KEY, values=tuple(values)), context, variables=True) is expected


def test_key_names_ignore_case() -> None:
    """Condition key names are not case sensitive, also the names of encryption context pairs (IAM User Guide, "Condition")."""
    condition = Condition(operator="StringEquals", key="KMS:encryptioncontext:NAME", values=("a",))
    assert evaluate(condition, {KEY.lower(): ("a",)}, variables=True) is T


@pytest.mark.parametrize(("variables", "expected"), [(True, N), (False, T)])
def test_policy_variables_are_not_guessed(*, variables: bool, expected: Truth) -> None:
    """`${...}` is a variable in version 2012-10-17 and not modelled; in 2008-10-17 it is itself."""
    condition = Condition(operator="StringEquals", key=KEY, values=("${aws:username}",))
    assert evaluate(condition, {KEY.lower(): ("${aws:username}",)}, variables=variables) is expected


@pytest.mark.parametrize(
    "key", ["aws:SourceIp", "aws:PrincipalOrgID", "aws:PrincipalTag/x", "kms:EncryptionContext:", "kms:RecipientAttestation:PCR32", "x"]
)
def test_unknown_keys_are_not_taken_for_absent(key: str) -> None:
    """A key that AWS may have and the request does not carry is not modelled, even for Null; carried, it is judged."""
    assert not known_key(key)
    assert evaluate(Condition(operator="StringNotEquals", key=key, values=("a",)), {}, variables=True) is N
    assert evaluate(Condition(operator="Null", key=key, values=("true",)), {}, variables=True) is N
    assert evaluate(Condition(operator="StringEquals", key=key, values=("a",)), {key.lower(): ("a",)}, variables=True) is T


def test_known_operators_are_those_of_the_page() -> None:
    """What `evaluate` judges is what docs/kms-simulator.md lists."""
    assert known_operator("ForAllValues:StringNotEqualsIgnoreCaseIfExists")
    assert not known_operator("NumericEquals")


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_glob_is_the_pattern_language(pattern: str, text: str) -> None:
    """`*` is any characters and `?` exactly one, as a plain recursion says it."""

    def slow(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "*":
            return slow(p[1:], t) or (bool(t) and slow(p, t[1:]))
        return bool(t) and p[0] in ("?", t[0]) and slow(p[1:], t[1:])

    assert glob(pattern, text) is slow(pattern, text)


def test_glob_does_not_explode() -> None:
    """Many wildcards over a long text take the product of the lengths, not a power of them."""
    assert not glob("*a" * 200 + "b", "a" * 4_000)
    assert not arn_glob(":".join(["*a" * 50 + "b"] * 6), ":".join(["a" * 500] * 6))
