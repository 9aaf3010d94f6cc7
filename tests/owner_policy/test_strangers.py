"""Whoever a condition lets in, by a pattern or by what it leaves out, is found: lint against a search over callers."""

from collections.abc import Mapping
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from owner.key_policy_attack import Attack, Step
from owner.key_policy_cast import EVERYTHING, Caller, cast
from owner.key_policy_lint import lint
from owner.key_policy_matrix import matrix, request
from owner.key_policy_metadata import Metadata
from owner.policy import decide
from owner.policy_document import Policy, parse
from owner.policy_principal import CallerKind, Principal
from tests.kms.world import ADMIN, OWNER_ACCOUNT, PARENT, PARENT_ACCOUNT, POLICY

ARN = f"arn:aws:kms:eu-central-1:{OWNER_ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = Metadata(arn=ARN, multi_region=False, replicas=(), origin="AWS_KMS", grants=())
Json = dict[str, Any]
LOCKS: list[Json] = list(json.loads(POLICY)["Statement"])


def policy_of(statements: list[Json]) -> Policy:
    """A policy."""
    return parse(json.dumps({"Version": "2012-10-17", "Statement": statements}))


def let_in(condition: Json, action: str = "kms:Decrypt") -> Json:
    """An Allow to everyone who fits."""
    return {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": action, "Resource": "*", "Condition": condition}


def sparing(condition: Json) -> list[Json]:
    """The generated policy, whose locks on Decrypt spare whoever does not fulfil the condition."""
    locks = [s for s in LOCKS if s["Effect"] == "Deny" and s["Action"] == ["kms:Decrypt"]]
    return [s for s in LOCKS if s not in locks] + [{**s, "Condition": {**s["Condition"], **condition}} for s in locks]


def attacks(statements: list[Json]) -> set[Attack | None]:
    """What lint finds."""
    policy = policy_of(statements)
    return {finding.attack for finding in lint(policy, matrix(policy, metadata=KEY))}


STRANGERS: list[Json] = [
    {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/Parent"}},
    {"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}},
    {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::????????????:root"}},
    {"ArnLike": {"aws:PrincipalArn": "arn:aws:sts::*:federated-user/Bob"}},
    {"StringLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/Parent"}},
    {"StringLike": {"aws:PrincipalArn": "*:role/Parent"}},
    {"StringLike": {"aws:PrincipalArn": "*Parent*"}},
    {"StringLike": {"kms:CallerAccount": "4444*"}},
    {"StringLike": {"aws:PrincipalAccount": "4?4455556666"}},
    {"StringNotEquals": {"aws:PrincipalAccount": "999999999999"}},
    {"StringNotLike": {"kms:CallerAccount": "9*"}},
    {"StringNotLike": {"aws:PrincipalArn": "*Stranger"}},
    {"StringNotEqualsIgnoreCase": {"aws:PrincipalArn": "ARN:AWS:IAM::999999999999:ROLE/STRANGER"}},
    {"StringLike": {"aws:PrincipalArn": "*Par*"}, "StringNotLike": {"aws:PrincipalArn": ["*Parent", "*Stranger"]}},
    {"StringEquals": {"aws:PrincipalType": "User"}},
    {"Bool": {"aws:PrincipalIsAWSService": "true"}},
    {"StringNotEquals": {"aws:PrincipalType": "AssumedRole"}},
]


@pytest.mark.parametrize("condition", STRANGERS, ids=[json.dumps(one) for one in STRANGERS])
def test_a_condition_that_admits_strangers_is_found(condition: Json) -> None:
    """An Allow of Decrypt to everyone who fits a pattern, or fits none, admits a stranger; one that means the parent alone does not."""
    assert Attack.STRANGER in attacks([*LOCKS, let_in(condition)])
    assert attacks([*LOCKS, let_in({"StringLike": {"aws:PrincipalArn": PARENT + "*"}})]) == set()


@pytest.mark.parametrize("pattern", ["arn:aws:iam::*:role/BreakGlass", f"arn:aws:iam::{OWNER_ACCOUNT}:role/Break*", "*:role/*/Break*"])
def test_a_lock_that_spares_whoever_fits_a_pattern_is_found(pattern: str) -> None:
    """A role that every lock spares, and that is allowed, decrypts without attestation: from wherever the pattern fits."""
    spare, admit = ("StringNotLike", "StringLike") if pattern.startswith("*") else ("ArnNotLike", "ArnLike")
    found = attacks([*sparing({spare: {"aws:PrincipalArn": pattern}}), let_in({admit: {"aws:PrincipalArn": pattern}})])
    assert {Attack.NO_ATTESTATION, Attack.WRONG_PCR0, Attack.DEBUG} <= found
    assert (Attack.STRANGER in found) is (OWNER_ACCOUNT not in pattern)


ARRANGED: list[Json] = [
    {"StringNotLike": {"kms:RequestAlias": "alias/open*"}},
    {"StringNotEqualsIfExists": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}},
    {"Bool": {"aws:ViaAWSService": "false"}},
    {"Null": {"kms:RecipientAttestation:NitroTPMPCR4": "true"}},
    {"StringEquals": {"kms:EncryptionContext:cloister-model": "credit"}},
    {"StringEquals": {"kms:EncryptionContext:tenant": "one"}},
]


@pytest.mark.parametrize("lock", ARRANGED, ids=[json.dumps(one) for one in ARRANGED])
def test_what_a_caller_can_arrange_is_tried(lock: Json) -> None:
    """Locks that do not hold for an alias, a service in between, another kind of document or another model are found."""
    assert Attack.NO_ATTESTATION in attacks(sparing(lock))


GRANTS: list[Json] = [
    {"Null": {"kms:GrantConstraintType": "true"}},
    {"Bool": {"kms:GrantIsForAWSResource": "false"}},
    {"ForAnyValue:StringEquals": {"kms:GrantOperations": "Decrypt"}},
    {"ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt", "ReEncryptFrom", "GenerateDataKey"]}},
    {"StringNotLike": {"kms:GranteePrincipal": "arn:aws:iam::*:role/Helper"}},
    {"StringNotEquals": {"kms:GranteePrincipal": "lambda.amazonaws.com"}},
]


@pytest.mark.parametrize("condition", GRANTS, ids=[json.dumps(one) for one in GRANTS])
def test_a_deny_of_create_grant_with_a_way_around_it_is_found(condition: Json) -> None:
    """A Deny of CreateGrant that spares some grants holds none: grants are made of the spared kind."""
    statements = [s for s in LOCKS if s.get("Sid") not in ("NoEscape", "Unwrap") and not str(s.get("Sid")).startswith("Unless")]
    gate = {f"kms:RecipientAttestation:PCR{n}": f"{n + 16:02x}" * 48 for n in (0, 1, 2)}
    decrypt = {**let_in({"StringEquals": gate}), "Principal": {"AWS": PARENT}}
    make = {"Effect": "Allow", "Principal": {"AWS": PARENT}, "Action": "kms:CreateGrant", "Resource": "*"}
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:CreateGrant", "Resource": "*"}
    assert Attack.GRANT_HOLDER in attacks([*statements, decrypt, make, {**deny, "Condition": condition}])
    assert Attack.GRANT_HOLDER not in attacks([*statements, decrypt, make, deny])


UNJUDGED: list[tuple[Json, str]] = [
    (let_in({"ArnLike": {"aws:PrincipalArn": "arn:aws:sts::*:assumed-role/Parent/*"}}), "no principal fits"),
    (let_in({"ArnLike": {"aws:PrincipalArn": "*"}}), "no principal fits"),
    (let_in({"StringEquals": {"aws:PrincipalAccount": "4444*"}}), "no principal fits"),
    (let_in({"StringLike": {"kms:CallerAccount": "*:444455556666"}}), "no principal fits"),
    (let_in({"StringLike": {"aws:PrincipalArn": [f"*{c}{c.upper()}{c}*" for c in "abcdefghijkl"]}}), "too many to tell apart"),
    (let_in({"StringLike": {"kms:RequestAlias": [f"*{c}{c.upper()}{c}*" for c in "abcdefghijkl"]}}), "too many to tell apart"),
    (
        {"Effect": "Allow", "Principal": {"Federated": "cognito-identity.amazonaws.com"}, "Action": "kms:Decrypt", "Resource": "*"},
        "principal",
    ),
]


@pytest.mark.parametrize(("statement", "words"), UNJUDGED, ids=[words + str(n) for n, (_, words) in enumerate(UNJUDGED)])
def test_what_nobody_can_be_cast_for_is_said(statement: Json, words: str) -> None:
    """A pattern that fits nobody, patterns beyond telling apart and principals beyond the model are findings, never nothing."""
    policy = policy_of([*LOCKS, statement])
    judged = matrix(policy, metadata=KEY)
    assert not judged.sound
    assert any(words in finding.text and finding.attack is None for finding in lint(policy, judged))


def test_a_role_whose_path_its_session_does_not_say_is_cast() -> None:
    """A session named by its ARN may be one of a role with a path, which a lock may spare."""
    session = f"arn:aws:sts::{PARENT_ACCOUNT}:assumed-role/Parent/one"
    allow = {"Effect": "Allow", "Principal": {"AWS": session}, "Action": "kms:Decrypt", "Resource": "*"}
    statements = sparing({"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{PARENT_ACCOUNT}:role/ops/*"}})
    assert Attack.NO_ATTESTATION in attacks([*statements, allow])
    assert Attack.NO_ATTESTATION not in attacks([*LOCKS, allow])


def test_a_principal_that_is_denied_by_name_does_not_stand_for_its_pattern() -> None:
    """Who fits the same pattern as a role that is named and denied is tried as well."""
    role = f"arn:aws:iam::{PARENT_ACCOUNT}:role/Ops"
    denied = {"Effect": "Deny", "Principal": {"AWS": role}, "Action": "kms:*", "Resource": "*"}
    spared = sparing({"ArnNotLike": {"aws:PrincipalArn": f"{role}*"}})
    assert Attack.NO_ATTESTATION in attacks([*spared, denied, let_in({"ArnLike": {"aws:PrincipalArn": f"{role}*"}})])


def test_callers_alike_are_tried_once() -> None:
    """Of many roles in one statement one stands for all: the attacks do not multiply with names."""
    many = [f"arn:aws:iam::{PARENT_ACCOUNT}:role/Parent{number}" for number in range(200)]
    players = cast(policy_of([*LOCKS, {**LOCKS[3], "Sid": "Many", "Principal": {"AWS": many}}]), OWNER_ACCOUNT)
    assert len(players.callers) > 200 and len(players.apart) < 12


# The search: callers of every account, name and kind that can be put together from the policy's own words.
_NAMES = ("Parent", "Break", "KeyAdmin")
_ACCOUNTS = (OWNER_ACCOUNT, PARENT_ACCOUNT, "777777777777", "444400000000", "000000000000")
_ROLES = tuple(f"{before}{name}{after}" for name in (*_NAMES, "x") for before in ("", "x", "ops/") for after in ("", "x"))
CALLERS = tuple(
    Caller(principal=principal, name=principal.source_arn, identity=(EVERYTHING,))
    for account in _ACCOUNTS
    for principal in (
        Principal(kind=CallerKind.ROOT, account=account),
        *(Principal(kind=CallerKind.ROLE, account=account, name=name, session="session") for name in _ROLES),
        *(Principal(kind=CallerKind.USER, account=account, name=name) for name in _ROLES),
        *(Principal(kind=CallerKind.FEDERATED, account=account, name=name) for name in _NAMES),
    )
)
_ACCOUNT = st.sampled_from((*_ACCOUNTS[:3], "*", "4444*", "????????????", "*7"))
_PIECE = st.sampled_from(
    [f"{kind}/{name}" for kind in ("role", "user", "*") for name in (*_NAMES, "Break*", "*", "ops/*", "*/Parent", "?*Break")]
    + ["root", "*"]
)
_ARNS = st.builds("arn:aws:iam::{}:{}".format, _ACCOUNT, _PIECE) | st.sampled_from(
    ["*", "*Break*", "*:role/Parent", "*Parent", "arn:*:root"]
)
_PREFIX = st.sampled_from(["", "", "", "ForAnyValue:", "ForAllValues:"])
_ON_ARN = st.tuples(_PREFIX, st.sampled_from(["ArnLike", "ArnNotLike", "ArnEquals", "StringLike", "StringNotLike", "StringNotEquals"]))
_ON_ACCOUNT = st.tuples(_PREFIX, st.sampled_from(["StringLike", "StringNotLike"]))


def _conditions() -> st.SearchStrategy[Json]:
    arn = st.tuples(_ON_ARN.map("".join), st.just("aws:PrincipalArn"), st.lists(_ARNS, min_size=1, max_size=2))
    key = st.sampled_from(["aws:PrincipalAccount", "kms:CallerAccount"])
    like = st.tuples(_ON_ACCOUNT.map("".join), key, st.lists(_ACCOUNT, min_size=1, max_size=2))
    equal = st.tuples(st.sampled_from(["StringEquals", "StringNotEquals"]), key, st.lists(st.sampled_from(_ACCOUNTS[:3]), min_size=1))
    account = like | equal
    kind = st.tuples(
        st.just("StringEquals"), st.just("aws:PrincipalType"), st.lists(st.sampled_from(list(CallerKind)), min_size=1, max_size=1)
    )
    return st.lists(arn | account | kind, min_size=1, max_size=2).map(
        lambda drawn: {operator: {name: values} for operator, name, values in drawn}
    )


_WHOM = st.sampled_from(["*", "*", PARENT_ACCOUNT, "777777777777", f"arn:aws:iam::{PARENT_ACCOUNT}:role/Break"])
_ALLOWS = st.builds(
    lambda whom, action, condition: {**let_in(condition, action), "Principal": {"AWS": whom}},
    _WHOM,
    st.sampled_from(["kms:Decrypt", "kms:Decrypt", "kms:PutKeyPolicy", "kms:ReEncryptFrom", "kms:*"]),
    _conditions(),
)
_STATEMENTS = st.builds(
    lambda spare, allows: [*(sparing(spare) if spare else LOCKS), *allows], st.none() | _conditions(), st.lists(_ALLOWS, max_size=2)
)


def searched(policy: Policy, text: str) -> set[Attack]:
    """The attacks with which some caller of the search gets what it ought not to get; a stranger's account is not in the text."""
    right = {n: f"{n + 16:02x}" * 48 for n in (0, 1, 2)} | {16: re.findall("PCR16[^0-9a-f]*([0-9a-f]{96})", text)[0]}
    context = {"cloister-format": "1", "cloister-owner": re.findall("owner[^0-9a-f]*([0-9a-f]{96})", text)[0]}
    context |= {"cloister-model": "model", "cloister-epoch": "1"}
    keys = {"kms:reencryptonsamekey": ("false",), "kms:bypasspolicylockoutsafetycheck": ("true",)}
    tries: list[tuple[Attack, str, Mapping[int, str] | None]] = [
        (Attack.NO_ATTESTATION, "Decrypt", None),
        (Attack.WRONG_PCR0, "Decrypt", {**right, 0: "ab" * 48}),
        (Attack.STRANGER, "Decrypt", right),
        (Attack.PUT_KEY_POLICY, "PutKeyPolicy", None),
        (Attack.RE_ENCRYPT, "ReEncryptFrom", None),
    ]
    found = set()
    for attack, action, pcrs in tries:
        for caller in CALLERS:
            meant = (
                caller.principal.account in text if attack is Attack.STRANGER else (attack, caller.name) == (Attack.PUT_KEY_POLICY, ADMIN)
            )
            step = Step(caller=caller, action=f"kms:{action}", pcrs=pcrs, context=context, keys=keys)
            if not meant and decide(policy, request(step, ARN, False)).allowed:
                found.add(attack)
                break
    return found


@settings(max_examples=40)
@given(_STATEMENTS)
def test_whom_a_search_finds_admitted_lint_has_found(statements: list[Json]) -> None:
    """For policies over patterns of callers: every attack with which a search over callers succeeds is one of lint's findings."""
    policy = policy_of(statements)
    judged = matrix(policy, metadata=KEY, administrator=ADMIN)
    found = {finding.attack for finding in lint(policy, judged)}
    assert None in found or searched(policy, json.dumps(statements)) <= found
