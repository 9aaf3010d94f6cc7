"""The engine against what AWS documents, each case with its source, and its properties."""

from dataclasses import replace
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from owner.policy import Because, Grant, Outcome, Request, decide
from owner.policy_document import Policy, parse, parse_identity
from owner.policy_principal import CallerKind, Principal, principal_from_arn

ACCOUNT, OTHER = "111122223333", "444455556666"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ROLE, USER = f"arn:aws:iam::{ACCOUNT}:role/path/Reader", f"arn:aws:iam::{ACCOUNT}:user/alice"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/Reader/session"
FOREIGN = f"arn:aws:iam::{OTHER}:role/Reader"
A, E, IMPLICIT, N = Outcome.ALLOWED, Outcome.EXPLICIT_DENY, Outcome.IMPLICIT_DENY, Outcome.NOT_MODELLED


def statement(effect: str = "Allow", principal: Any = "*", action: Any = "kms:Decrypt", resource: Any = "*", **more: Any) -> dict[str, Any]:
    """One statement of a key policy; `more` adds elements, None takes the standard ones away."""
    elements = {"Effect": effect, "Principal": principal, "Action": action, "Resource": resource, **more}
    return {name: value for name, value in elements.items() if value is not None}


def policy(*statements: dict[str, Any], version: str = "2012-10-17") -> Policy:
    """A key policy."""
    return parse(json.dumps({"Version": version, "Statement": list(statements)}))


def identity(*actions: str, effect: str = "Allow", resource: str = "*") -> Policy:
    """An identity policy."""
    return parse_identity(
        json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": list(actions), "Resource": resource}]})
    )


def ask(arn: str = ROLE, action: str = "kms:Decrypt", *policies: Policy, **more: Any) -> Request:
    """A request by the principal with this ARN."""
    return Request(principal=principal_from_arn(arn), action=action, resource=KEY, identity=policies, **more)


ALL, DECRYPT = identity("*"), identity("kms:Decrypt")
DELEGATED = policy(statement(principal={"AWS": ROOT}, action="kms:*"))

# KMS Developer Guide, "Default key policy": the account statement lets identity policies decide, and by itself allows the
# root user alone. IAM User Guide, "Policy evaluation logic": cross account both sides must allow.
PRINCIPALS = [
    ("delegation without an identity policy allows nobody", DELEGATED, ask(ROLE), IMPLICIT),
    ("delegation with an identity policy allows", DELEGATED, ask(ROLE, "kms:Decrypt", DECRYPT), A),
    (
        "delegation with an identity policy for something else does not",
        DELEGATED,
        ask(ROLE, "kms:Decrypt", identity("kms:Encrypt")),
        IMPLICIT,
    ),
    ("delegation allows the root user by itself", DELEGATED, ask(ROOT), A),
    ("the account id is the account's ARN", policy(statement(principal={"AWS": ACCOUNT})), ask(USER, "kms:Decrypt", DECRYPT), A),
    ("an identity policy alone allows nobody", policy(statement(action="kms:Encrypt")), ask(ROLE, "kms:Decrypt", ALL), IMPLICIT),
    ("without a statement for it the root user has nothing", policy(statement(principal={"AWS": ROLE})), ask(ROOT), IMPLICIT),
    ("a role by its ARN needs no identity policy", policy(statement(principal={"AWS": ROLE})), ask(ROLE), A),
    ("a role by its session's ARN", policy(statement(principal={"AWS": SESSION})), ask(ROLE), A),
    ("another session of the role is another principal", policy(statement(principal={"AWS": SESSION + "2"})), ask(ROLE), IMPLICIT),
    ("a user by its ARN", policy(statement(principal={"AWS": [ROLE, USER]})), ask(USER), A),
    (
        "another account by its role needs that account's identity policy too",
        policy(statement(principal={"AWS": FOREIGN})),
        ask(FOREIGN),
        IMPLICIT,
    ),
    ("another account with both", policy(statement(principal={"AWS": FOREIGN})), ask(FOREIGN, "kms:Decrypt", DECRYPT), A),
    ("another account as a whole with both", policy(statement(principal={"AWS": OTHER})), ask(FOREIGN, "kms:Decrypt", DECRYPT), A),
    ("another account's root user", policy(statement(principal={"AWS": OTHER})), ask(f"arn:aws:iam::{OTHER}:root"), A),
    ("everyone in the account", policy(statement(principal="*")), ask(USER), A),
    ("everyone in another account only with an identity policy", policy(statement(principal={"AWS": "*"})), ask(FOREIGN), IMPLICIT),
    ("everyone in another account with one", policy(statement(principal={"AWS": "*"})), ask(FOREIGN, "kms:Decrypt", DECRYPT), A),
    ("a service is not a role", policy(statement(principal={"Service": "lambda.amazonaws.com"})), ask(ROLE, "kms:Decrypt", ALL), IMPLICIT),
    (
        "a deleted principal's unique id is nobody",
        policy(statement(principal={"AWS": "AROAEXAMPLEEXAMPLEXX"})),
        ask(ROLE, "kms:Decrypt", ALL),
        IMPLICIT,
    ),
    (
        "an identity Deny wins",
        policy(statement(principal={"AWS": ROLE})),
        ask(ROLE, "kms:Decrypt", ALL, identity("kms:Decrypt", effect="Deny")),
        E,
    ),
    (
        "an identity policy for another key does not allow",
        DELEGATED,
        ask(ROLE, "kms:Decrypt", identity("kms:*", resource=KEY[:-1] + "0")),
        IMPLICIT,
    ),
    ("an identity policy for this key allows", DELEGATED, ask(ROLE, "kms:Decrypt", identity("kms:*", resource=KEY)), A),
    ("a Deny for the account means everyone in it", policy(statement(), statement("Deny", {"AWS": ROOT})), ask(ROLE), E),
    ("a Deny for the account means its root user", policy(statement(), statement("Deny", {"AWS": ACCOUNT})), ask(ROOT), E),
    ("a Deny for another principal does not apply", policy(statement(), statement("Deny", {"AWS": USER})), ask(ROLE), A),
]

# IAM User Guide, "AWS JSON policy elements: NotPrincipal", "NotAction", "NotResource".
NEGATED = [
    ("Allow NotPrincipal is everyone else", policy(statement(principal=None, NotPrincipal={"AWS": USER})), ask(ROLE), A),
    ("Allow NotPrincipal is not the one named", policy(statement(principal=None, NotPrincipal={"AWS": USER})), ask(USER), IMPLICIT),
    (
        "Allow NotPrincipal with the account is not those in it",
        policy(statement(principal=None, NotPrincipal={"AWS": ROOT})),
        ask(ROLE),
        IMPLICIT,
    ),
    (
        "Deny NotPrincipal spares a user named with the account",
        policy(statement(), statement("Deny", None, NotPrincipal={"AWS": [USER, ROOT]})),
        ask(USER),
        A,
    ),
    (
        "Deny NotPrincipal without the account spares nobody",
        policy(statement(), statement("Deny", None, NotPrincipal={"AWS": USER})),
        ask(USER),
        E,
    ),
    (
        "Deny NotPrincipal with the role but not the session",
        policy(statement(), statement("Deny", None, NotPrincipal={"AWS": [ROLE, ROOT]})),
        ask(ROLE),
        E,
    ),
    (
        "Deny NotPrincipal with account, role and session",
        policy(statement(), statement("Deny", None, NotPrincipal={"AWS": [ROLE, SESSION, ROOT]})),
        ask(ROLE),
        A,
    ),
    ("Deny NotPrincipal everyone denies nobody", policy(statement(), statement("Deny", None, NotPrincipal="*")), ask(ROLE), A),
    ("NotAction is every other action", policy(statement(action=None, NotAction="kms:Encrypt")), ask(ROLE), A),
    ("NotAction is not the one named", policy(statement(action=None, NotAction=["kms:E*", "kms:D*"])), ask(ROLE), IMPLICIT),
    ("Deny NotAction", policy(statement(action="*"), statement("Deny", action=None, NotAction="kms:Encrypt")), ask(ROLE), E),
    ("NotResource of this key", policy(statement(resource=None, NotResource=KEY)), ask(ROLE), IMPLICIT),
    ("NotResource of another", policy(statement(resource=None, NotResource=KEY[:-1] + "0")), ask(ROLE), A),
]

# IAM User Guide, "Action" (not case sensitive, `*` and `?`), "Resource"; KMS Developer Guide, "Resource element": * is this key.
PATTERNS = [
    ("an action ignores case", policy(statement(action="KMS:decrypt")), ask(ROLE), A),
    ("kms:*", policy(statement(action="kms:*")), ask(ROLE), A),
    ("*", policy(statement(action="*")), ask(ROLE), A),
    ("a prefix", policy(statement(action="kms:De*")), ask(ROLE), A),
    ("a question mark", policy(statement(action="kms:Decryp?")), ask(ROLE), A),
    ("ReEncrypt* is From and To", policy(statement(action="kms:ReEncrypt*")), ask(ROLE, "kms:ReEncryptFrom"), A),
    ("another service", policy(statement(action="s3:*")), ask(ROLE), IMPLICIT),
    ("this key", policy(statement(resource=KEY)), ask(ROLE), A),
    ("another key", policy(statement(resource=KEY[:-1] + "0")), ask(ROLE), IMPLICIT),
    ("keys of the account", policy(statement(resource=f"arn:aws:kms:*:{ACCOUNT}:key/*")), ask(ROLE), A),
    ("an ARN of fewer parts is not guessed", policy(statement(resource="arn:aws:kms:*")), ask(ROLE), N),
    ("a variable in a resource is not guessed", policy(statement(resource=KEY[:-1] + "${aws:userid}")), ask(ROLE), N),
]

# KMS Developer Guide, "Grants in AWS KMS": a grant allows, an explicit Deny overrides it; constraints on the encryption context.
GRANT = Grant(id="g", grantee=FOREIGN, operations=frozenset(("Decrypt",)))
NOBODY = policy(statement(action="kms:Encrypt"))
GRANTS = [
    ("a grant allows without any policy", NOBODY, ask(FOREIGN), GRANT, A),
    ("a grant to a role is one to its sessions", NOBODY, ask(FOREIGN), replace(GRANT, grantee=principal_from_arn(FOREIGN).arn), A),
    ("a grant of another operation", NOBODY, ask(FOREIGN), replace(GRANT, operations=frozenset(("Encrypt",))), IMPLICIT),
    ("a grant to another", NOBODY, ask(ROLE), GRANT, IMPLICIT),
    ("a Deny overrides a grant", policy(statement("Deny")), ask(FOREIGN), GRANT, E),
    ("EncryptionContextEquals", NOBODY, ask(FOREIGN, encryption_context={"a": "1"}), replace(GRANT, context_equals={"a": "1"}), A),
    (
        "EncryptionContextEquals with more",
        NOBODY,
        ask(FOREIGN, encryption_context={"a": "1", "b": "2"}),
        replace(GRANT, context_equals={"a": "1"}),
        IMPLICIT,
    ),
    (
        "EncryptionContextSubset with more",
        NOBODY,
        ask(FOREIGN, encryption_context={"a": "1", "b": "2"}),
        replace(GRANT, context_subset={"a": "1"}),
        A,
    ),
    (
        "EncryptionContextSubset with another",
        NOBODY,
        ask(FOREIGN, encryption_context={"a": "2"}),
        replace(GRANT, context_subset={"a": "1"}),
        IMPLICIT,
    ),
    (
        "EncryptionContextSubset ignoring case does not do",
        NOBODY,
        ask(FOREIGN, encryption_context={"A": "1"}),
        replace(GRANT, context_subset={"a": "1"}),
        IMPLICIT,
    ),
]

# Conditions follow from the request: IAM User Guide, "AWS global condition context keys"; KMS, "Condition keys".
CONTEXTS = [
    ("aws:PrincipalArn of a role session is the role's", {"ArnEquals": {"aws:PrincipalArn": ROLE}}, ask(ROLE), A),
    ("aws:PrincipalArn of a role session is not the session's", {"ArnEquals": {"aws:PrincipalArn": SESSION}}, ask(ROLE), IMPLICIT),
    ("kms:CallerAccount", {"StringEquals": {"kms:CallerAccount": ACCOUNT}}, ask(ROLE), A),
    ("aws:PrincipalAccount", {"StringEquals": {"aws:PrincipalAccount": OTHER}}, ask(ROLE), IMPLICIT),
    ("aws:PrincipalType", {"StringEquals": {"aws:PrincipalType": "AssumedRole"}}, ask(ROLE), A),
    ("aws:SecureTransport", {"Bool": {"aws:SecureTransport": "false"}}, ask(ROLE), IMPLICIT),
    ("a direct call is not via a service", {"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}, ask(ROLE), IMPLICIT),
    ("the encryption context by pairs", {"StringEquals": {"kms:EncryptionContext:a": "1"}}, ask(ROLE, encryption_context={"a": "1"}), A),
    (
        "its keys",
        {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a"]}},
        ask(ROLE, encryption_context={"a": "1", "b": "2"}),
        IMPLICIT,
    ),
    ("no keys where there is none", {"Null": {"kms:EncryptionContextKeys": "true"}}, ask(ROLE), A),
    ("several conditions are ANDed", {"StringEquals": {"kms:CallerAccount": ACCOUNT, "aws:PrincipalType": "User"}}, ask(ROLE), IMPLICIT),
    (
        "several operators are ANDed",
        {"StringEquals": {"kms:CallerAccount": ACCOUNT}, "Null": {"kms:ViaService": "false"}},
        ask(ROLE),
        IMPLICIT,
    ),
    (
        "a false condition settles what is not modelled beside it",
        {"DateLessThan": {"x": "1"}, "Bool": {"aws:SecureTransport": "false"}},
        ask(ROLE),
        IMPLICIT,
    ),
    ("what is not modelled denies", {"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}, ask(ROLE), N),
]


def _ids(rows: list[Any]) -> list[str]:
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("_", "document", "request_", "expected"), PRINCIPALS + NEGATED + PATTERNS, ids=_ids(PRINCIPALS + NEGATED + PATTERNS)
)
def test_statements(_: str, document: Policy, request_: Request, expected: Outcome) -> None:
    """Principals, delegation, Not-forms and patterns decide as AWS documents them."""
    assert decide(document, request_).outcome is expected


@pytest.mark.parametrize(("_", "document", "request_", "grant", "expected"), GRANTS, ids=_ids(GRANTS))
def test_grants(_: str, document: Policy, request_: Request, grant: Grant, expected: Outcome) -> None:
    """Grants allow within their constraints, and never against a Deny."""
    assert decide(document, request_, grants=(grant,)).outcome is expected


@pytest.mark.parametrize(("_", "condition", "request_", "expected"), CONTEXTS, ids=_ids(CONTEXTS))
def test_condition_keys_follow_from_the_request(_: str, condition: dict[str, Any], request_: Request, expected: Outcome) -> None:
    """What a request is known by is what conditions see."""
    assert decide(policy(statement(Condition=condition)), request_).outcome is expected


def test_services_match_service_principals_alone() -> None:
    """An AWS service is named by its service principal, by no account and no ARN."""
    service = Principal(kind=CallerKind.SERVICE, account="", name="lambda.amazonaws.com")
    request = Request(principal=service, action="kms:Decrypt", resource=KEY)
    assert decide(policy(statement(principal={"Service": "lambda.amazonaws.com"})), request).allowed
    assert not decide(policy(statement(principal={"Service": "ec2.amazonaws.com"})), request).allowed
    assert not decide(policy(statement(principal={"AWS": ACCOUNT})), request).allowed
    assert decide(policy(statement(), statement("Deny", None, NotPrincipal={"Service": "lambda.amazonaws.com"})), request).allowed


def test_a_role_with_a_services_name_is_not_the_service() -> None:
    """A service principal is no role, whatever the role is called."""
    role = Principal(kind=CallerKind.ROLE, account=ACCOUNT, name="lambda.amazonaws.com", session="s")
    request = Request(principal=role, action="kms:Decrypt", resource=KEY, identity=(ALL,))
    assert not decide(policy(statement(principal={"Service": "lambda.amazonaws.com"})), request).allowed


def test_a_decision_names_what_decided_and_why_nothing_else_did() -> None:
    """Every statement has a verdict; the deciding one is among them."""
    document = policy(
        statement(principal={"AWS": USER}),
        statement(action="kms:Encrypt"),
        statement(resource=KEY[:-1] + "0"),
        statement(Condition={"Bool": {"aws:SecureTransport": "false"}}),
        statement(Condition={"DateLessThan": {"aws:CurrentTime": "x"}, "Bool": {"aws:SecureTransport": "false"}}),
        statement(Sid="Mine"),
        statement("Deny", {"AWS": ROLE}, Sid="Never"),
    )
    decision = decide(document, ask(ROLE), grants=(GRANT,))
    assert [verdict.because for verdict in decision.verdicts] == [
        Because.PRINCIPAL,
        Because.ACTION,
        Because.RESOURCE,
        Because.CONDITION,
        Because.CONDITION,
        Because.APPLIES,
        Because.APPLIES,
        Because.PRINCIPAL,
    ]
    assert (decision.outcome, decision.deciding) == (E, decision.verdicts[6])
    assert decision.verdicts[3].detail == "Bool aws:SecureTransport"
    assert decision.verdicts[5].statement == "statement 6 (Mine)"


def test_what_is_not_modelled_is_named() -> None:
    """The refusal names statement and condition, and outranks an Allow."""
    decision = decide(policy(statement(), statement("Deny", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})), ask(ROLE))
    assert (decision.outcome, decision.deciding and decision.deciding.detail) == (N, "IpAddress aws:SourceIp")


VALUES = st.sampled_from(["a", "b", "*"])
CONDITION = st.dictionaries(
    st.sampled_from(
        ["StringEquals", "StringNotEquals", "StringLike", "ForAnyValue:StringEquals", "StringEqualsIfExists", "Null", "DateEquals"]
    ),
    st.dictionaries(
        st.sampled_from(["kms:EncryptionContext:x", "kms:ViaService", "aws:SourceIp"]), st.lists(VALUES, min_size=1, max_size=2), min_size=1
    ),
    max_size=2,
)
PRINCIPAL = st.sampled_from(["*", {"AWS": ROOT}, {"AWS": ROLE}, {"AWS": [USER, FOREIGN]}, {"Service": "s3.amazonaws.com"}])
STATEMENT = st.builds(
    lambda effect, principal, negated, action, condition: statement(
        effect, None if negated else principal, action, Condition=condition, **({"NotPrincipal": principal} if negated else {})
    ),
    st.sampled_from(["Allow", "Deny"]),
    PRINCIPAL,
    st.booleans(),
    st.sampled_from(["kms:Decrypt", "kms:*", "kms:Encrypt", "*"]),
    CONDITION,
)
STATEMENTS = st.lists(STATEMENT, min_size=1, max_size=5)
REQUEST = st.builds(
    lambda arn, context, all_: ask(arn, "kms:Decrypt", *([ALL] if all_ else []), encryption_context=context),
    st.sampled_from([ROOT, ROLE, USER, FOREIGN]),
    st.sampled_from([{}, {"x": "a"}, {"x": "c"}]),
    st.booleans(),
)


@settings(deadline=None)
@given(STATEMENTS, STATEMENT, REQUEST)
def test_another_deny_never_allows_more(statements: list[dict[str, Any]], more: dict[str, Any], request_: Request) -> None:
    """Adding a Deny statement anywhere never turns a refusal into an allowance."""
    before = decide(policy(*statements), request_)
    after = decide(policy(*statements, {**more, "Effect": "Deny"}), request_)
    assert before.allowed or not after.allowed


@settings(deadline=None)
@given(STATEMENTS, REQUEST, st.randoms(use_true_random=False))
def test_the_order_of_statements_does_not_matter(statements: list[dict[str, Any]], request_: Request, random: Any) -> None:
    """The outcome is the same for any order of the statements."""
    shuffled = list(statements)
    random.shuffle(shuffled)
    assert decide(policy(*statements), request_).outcome is decide(policy(*shuffled), request_).outcome


@settings(deadline=None)
@given(STATEMENTS, REQUEST)
def test_nobody_without_an_allow(statements: list[dict[str, Any]], request_: Request) -> None:
    """Without an Allow that applies nothing is allowed, and every allowance names one."""
    decision = decide(policy(*statements), request_)
    if decision.allowed:
        assert decision.deciding is not None and decision.deciding.effect.value == "Allow" and "applies" in decision.deciding.because.value
    assert not decide(policy(*({**one, "Effect": "Deny"} for one in statements)), request_).allowed


@pytest.mark.parametrize(
    "arn", ["", "arn:aws:iam::1:root", "arn:aws:iam::111122223333:group/x", "arn:aws:sts::111122223333:assumed-role/x", "*"]
)
def test_what_is_no_caller_is_refused(arn: str) -> None:
    """Only root users, users, roles and role sessions are callers."""
    with pytest.raises(ValueError, match="not the ARN"):
        principal_from_arn(arn)


@pytest.mark.parametrize("arn", [ROOT, USER, SESSION])
def test_a_callers_arn_reads_back(arn: str) -> None:
    """A caller made from an ARN has that ARN."""
    assert principal_from_arn(arn).arn == arn
