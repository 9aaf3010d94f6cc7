"""The policy parser: strict, and never anything but a policy or our error."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from owner.policy_document import KEY_POLICY_MAX, Effect, MalformedPolicyError, PolicyRule, PrincipalKind, parse, parse_identity

SOUND: dict[str, Any] = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}


def text(**changed: Any) -> str:
    """A policy of one statement with elements changed, or taken away by None."""
    statement = {name: value for name, value in {**SOUND, **changed}.items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


REFUSED = {
    "no JSON": ("{", PolicyRule.JSON),
    "an array": ("[]", PolicyRule.JSON),
    "nested too deep": ("[" * 100_000, PolicyRule.SIZE),
    "nested deep": ("[" * 20_000, PolicyRule.JSON),
    "a lone surrogate": ('"\ud800"', PolicyRule.JSON),
    "too large": (text(Sid="x" * KEY_POLICY_MAX), PolicyRule.SIZE),
    "a member twice": ('{"Statement":[],"Statement":[]}', PolicyRule.DUPLICATE),
    "an element twice": (text().replace('"Action"', '"Action": "kms:*", "Action"'), PolicyRule.DUPLICATE),
    "another version": (text().replace("2012", "2013"), PolicyRule.VERSION),
    "an unknown member": (text().replace('"Version"', '"Kind": 1, "Version"'), PolicyRule.ELEMENT),
    "an Id that is no text": ('{"Id":1,"Statement":[]}', PolicyRule.ELEMENT),
    "no statement": ('{"Version":"2012-10-17","Statement":[]}', PolicyRule.ELEMENT),
    "statement missing": ('{"Version":"2012-10-17"}', PolicyRule.ELEMENT),
    "an unknown element": (text(Conditions={}), PolicyRule.ELEMENT),
    "a Sid that is no text": (text(Sid=1), PolicyRule.ELEMENT),
    "another effect": (text(Effect="allow"), PolicyRule.EFFECT),
    "an effect that is a list": (text(Effect=["Allow"]), PolicyRule.EFFECT),
    "no principal": (text(Principal=None), PolicyRule.PRINCIPAL),
    "both principals": (text(NotPrincipal="*"), PolicyRule.PRINCIPAL),
    "an empty principal": (text(Principal={}), PolicyRule.PRINCIPAL),
    "a principal list": (text(Principal=["*"]), PolicyRule.PRINCIPAL),
    "an empty list": (text(Principal={"AWS": []}), PolicyRule.PRINCIPAL),
    "a number": (text(Principal={"AWS": 111122223333}), PolicyRule.PRINCIPAL),
    "an unknown kind": (text(Principal={"Azure": "x"}), PolicyRule.PRINCIPAL),
    "a wildcard in an ARN": (text(Principal={"AWS": "arn:aws:iam::111122223333:role/*"}), PolicyRule.PRINCIPAL),
    "a question mark in an ARN": (text(Principal={"AWS": "arn:aws:iam::111122223333:role/a?"}), PolicyRule.PRINCIPAL),
    "a group": (text(Principal={"AWS": "arn:aws:iam::111122223333:group/x"}), PolicyRule.PRINCIPAL),
    "another partition": (text(Principal={"AWS": "arn:aws-x:iam::111122223333:root"}), PolicyRule.PRINCIPAL),
    "no service": (text(Principal={"Service": "lambda"}), PolicyRule.PRINCIPAL),
    "no action": (text(Action=None), PolicyRule.ACTION),
    "both actions": (text(NotAction="kms:Encrypt"), PolicyRule.ACTION),
    "an action without a service": (text(Action="Decrypt"), PolicyRule.ACTION),
    "an action with a blank": (text(Action="kms: Decrypt"), PolicyRule.ACTION),
    "an empty action": (text(Action=[]), PolicyRule.ACTION),
    "no resource": (text(Resource=None), PolicyRule.RESOURCE),
    "both resources": (text(NotResource="*"), PolicyRule.RESOURCE),
    "a condition that is a list": (text(Condition=[]), PolicyRule.CONDITION),
    "an operator with a list": (text(Condition={"Null": ["kms:ViaService"]}), PolicyRule.CONDITION),
    "an operator without keys": (text(Condition={"Null": {}}), PolicyRule.CONDITION),
    "a key without values": (text(Condition={"Null": {"k": []}}), PolicyRule.CONDITION),
    "a value that is null": (text(Condition={"Null": {"k": None}}), PolicyRule.CONDITION),
    "a value that is a fraction": (text(Condition={"Null": {"k": 1.5}}), PolicyRule.CONDITION),
}


@pytest.mark.parametrize(("document", "rule"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(document: str, rule: PolicyRule) -> None:
    """Each document that breaks one rule is refused by that rule."""
    with pytest.raises(MalformedPolicyError) as caught:
        parse(document)
    assert caught.value.rule is rule


def test_the_forms_that_mean_the_same() -> None:
    """A single statement, action, value; Principal "*" and {"AWS": "*"}; account id and root ARN; booleans in conditions."""
    one = parse(json.dumps({"Statement": {**SOUND, "Condition": {"Bool": {"aws:SecureTransport": True}}}}))
    assert (len(one.statements), one.variables, one.statements[0].conditions[0].values) == (1, False, ("true",))
    assert parse(text()).statements[0].principals == parse(text(Principal={"AWS": "*"})).statements[0].principals
    root, account = (parse(text(Principal={"AWS": value})) for value in ("arn:aws:iam::111122223333:root", "111122223333"))
    assert root == account
    assert parse(text(Effect="Deny")).statements[0].effect is Effect.DENY


@pytest.mark.parametrize("value", ["AROAEXAMPLEEXAMPLEXX", "AIDAEXAMPLEEXAMPLEXX"])
def test_deleted_principals_are_kept_as_nobody(value: str) -> None:
    """A unique id is what AWS shows of a deleted principal; it matches no caller."""
    principals = parse(text(Principal={"AWS": value})).statements[0].principals
    assert principals is not None and principals.entries[0].kind is PrincipalKind.NOBODY


@pytest.mark.parametrize("principal", [{"Federated": "accounts.example"}, {"CanonicalUser": "0" * 64}])
def test_identity_providers_and_canonical_users_are_kept_as_nobody(principal: dict[str, str]) -> None:
    """Both are forms of the language, and neither is ever a caller of a model's key."""
    principals = parse(text(Principal=principal)).statements[0].principals
    assert principals is not None and principals.entries[0].kind is PrincipalKind.NOBODY


def test_an_identity_policy_names_no_principal() -> None:
    """Identity policies have no Principal element and a smaller limit."""
    with pytest.raises(MalformedPolicyError):
        parse_identity(text())
    assert parse_identity(text(Principal=None)).statements[0].principals is None
    with pytest.raises(MalformedPolicyError) as caught:
        parse_identity(text(Principal=None, Sid="x" * 6_144))
    assert caught.value.rule is PolicyRule.SIZE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
ELEMENTS = st.sampled_from(
    ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition", "AWS", "Service"]
)


@given(st.text(max_size=60) | JSON.map(json.dumps))
def test_any_text_is_a_policy_or_our_error(document: str) -> None:
    """Any text: a policy or MalformedPolicyError."""
    for reader in (parse, parse_identity):
        with contextlib.suppress(MalformedPolicyError):
            reader(document)


@given(st.dictionaries(ELEMENTS, JSON | st.just("*") | st.just("Allow") | st.just("kms:*"), max_size=8))
def test_any_statement_is_a_policy_or_our_error(statement: dict[str, Any]) -> None:
    """Any statement made of the language's own elements: a policy or MalformedPolicyError."""
    with contextlib.suppress(MalformedPolicyError):
        parse(json.dumps({"Version": "2012-10-17", "Statement": [{**SOUND, **statement}]}))
