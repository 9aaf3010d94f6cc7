"""Whatever wrong measurement or old epoch a lock lets through is found: lint against a search over values."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from owner.key_policy_attack import Attack, Step
from owner.key_policy_cast import EVERYTHING, Caller
from owner.key_policy_lint import lint
from owner.key_policy_matrix import matrix, request
from owner.key_policy_metadata import Metadata
from owner.key_policy_subject import Expected
from owner.policy import decide
from owner.policy_document import parse
from owner.policy_principal import principal_from_arn
from tests.kms.world import OWNER_ACCOUNT, PARENT, PCR16, POLICY

Json = dict[str, Any]
ARN = f"arn:aws:kms:eu-central-1:{OWNER_ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = Metadata(arn=ARN, multi_region=False, replicas=(), origin="AWS_KMS", grants=())
RIGHT = {n: f"{n + 16:02x}" * 48 for n in (0, 1, 2)} | {16: PCR16.hex()}
OWNER = next(s["Condition"]["StringEquals"] for s in json.loads(POLICY)["Statement"] if s["Sid"] == "Seal")[
    "kms:EncryptionContext:cloister-owner"
]
EPOCH = "25"
PARENTS = Caller(principal=principal_from_arn(PARENT), name=PARENT, identity=(EVERYTHING,))


def test_locks_that_hold_only_together_are_found() -> None:
    """Each lock holds while the next PCR is right: an image that is wrong in one is refused, and one that is wrong in all gets in."""
    ring = [(n, m) for n, m in zip(RIGHT, [*list(RIGHT)[1:], 0], strict=True)]
    conditions: list[Json] = [{"Null": {"kms:RecipientAttestation:PCR0": "true"}}]
    for one, other in ring:
        keys = [f"kms:RecipientAttestation:PCR{n}" for n in (one, other)]
        conditions.append({"StringNotEquals": {keys[0]: RIGHT[one]}, "StringEquals": {keys[1]: RIGHT[other]}})
    lock = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    account = {"Effect": "Allow", "Principal": {"AWS": OWNER_ACCOUNT}, "Action": "kms:Decrypt", "Resource": "*"}
    kept = [s for s in json.loads(POLICY)["Statement"] if not s["Sid"].startswith("UnlessPCR")]
    policy = parse(json.dumps({"Statement": [*kept, account, *({**lock, "Condition": one} for one in conditions)]}))
    released = matrix(policy, metadata=KEY).released
    single = {Attack.WRONG_PCR0, Attack.WRONG_PCR1, Attack.WRONG_PCR2, Attack.WRONG_PCR16}
    assert released == {*single, Attack.IAM_ADMIN, Attack.ROOT_USER}


_PREFIX = st.sampled_from(["", "", "", "ForAnyValue:", "ForAllValues:"])
_SUFFIX = st.sampled_from(["", "", "IfExists"])
_OPERATOR = st.sampled_from(
    ["StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike", "StringNotLike"]
)
_NAMES = st.builds("{}{}{}".format, _PREFIX, _OPERATOR, _SUFFIX)
_PCR = st.sampled_from(
    [RIGHT[0], RIGHT[0].upper(), f"{RIGHT[0][:10]}*", "ab*", "*ab", "?" * 96, "*", "0" * 96, "cd" * 48, f"{RIGHT[0][:-1]}?"]
)
_EPOCHS = st.sampled_from(["25", "2?", "*", "1*", "?", "??", "24", "*5", "7"])


def _lock(key: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    made = st.tuples(_NAMES, st.lists(values, min_size=1, max_size=3, unique=True))
    return st.lists(made, max_size=2).map(lambda drawn: {operator: {key: some} for operator, some in drawn})


def _policy(pcr0: Json, epoch: Json) -> list[Json]:
    statements = json.loads(POLICY.replace('cloister-epoch": "1"', f'cloister-epoch": "{EPOCH}"'))["Statement"]
    for statement in statements:
        if statement["Sid"] in ("UnlessPCR0", "UnlessEpoch"):
            statement["Condition"] = pcr0 if statement["Sid"] == "UnlessPCR0" else epoch
    return [statement for statement in statements if statement.get("Condition") != {}]


def _wrong() -> list[tuple[Attack, Json, str]]:
    words = ["ab" * 48, "cd" * 48, RIGHT[0][:-1] + "e", RIGHT[0][:10] + "e" * 86, "ab" * 47 + "cd", "cd" * 47 + "ab", "0" * 95 + "1"]
    tries = [(Attack.WRONG_PCR0, {**RIGHT, 0: word}, EPOCH) for word in words]
    return tries + [(Attack.OLD_EPOCH, RIGHT, str(epoch)) for epoch in range(int(EPOCH))]


WRONG = _wrong()


@settings(max_examples=50)
@given(_lock("kms:RecipientAttestation:PCR0", _PCR), _lock("kms:EncryptionContext:cloister-epoch", _EPOCHS))
def test_the_wrong_value_that_a_search_finds_let_through_lint_has_found(pcr0: Json, epoch: Json) -> None:
    """For locks of any operator over patterns: a wrong PCR0 or a retired epoch that is let through is one of lint's findings."""
    policy = parse(json.dumps({"Version": "2012-10-17", "Statement": _policy(pcr0, epoch)}))
    expected = Expected(measurements=(RIGHT,), owner=OWNER, epochs=(EPOCH,))
    found = {finding.attack for finding in lint(policy, matrix(policy, metadata=KEY, expected=expected))}
    for attack, pcrs, number in WRONG:
        context = {"cloister-format": "1", "cloister-owner": OWNER, "cloister-model": "model", "cloister-epoch": number}
        step = Step(caller=PARENTS, action="kms:Decrypt", pcrs=pcrs, context=context, keys={})
        if decide(policy, request(step, ARN, False)).allowed:
            assert attack in found


def _locked(*left_out: str, more: list[Json]) -> set[Attack]:
    """What is released of the policy with other locks in the place of some."""
    kept = [statement for statement in json.loads(POLICY)["Statement"] if statement["Sid"] not in left_out]
    lock = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": ["kms:Decrypt"], "Resource": "*"}
    policy = parse(json.dumps({"Statement": [*kept, *({**lock, "Condition": condition} for condition in more)]}))
    return set(matrix(policy, metadata=KEY).released)


def test_locks_of_two_registers_that_hold_one_at_a_time_are_found() -> None:
    """The parent's own kernel around the right application: two registers wrong together, the others right."""
    one, other = (f"kms:RecipientAttestation:PCR{n}" for n in (0, 1))
    more = [
        {"StringNotEquals": {one: RIGHT[0]}, "StringEquals": {other: RIGHT[1]}},
        {"StringNotEquals": {other: RIGHT[1]}, "StringEquals": {one: RIGHT[0]}},
        {"Null": {one: "true"}},
    ]
    assert {Attack.WRONG_PCR0, Attack.WRONG_PCR1} <= _locked("UnlessPCR0", "UnlessPCR1", more=more)


def test_a_register_and_an_epoch_that_lock_one_at_a_time_are_found() -> None:
    """A wrong image that asks under a retired epoch."""
    pcr0, epoch = "kms:RecipientAttestation:PCR0", "kms:EncryptionContext:cloister-epoch"
    more = [
        {"StringNotEquals": {pcr0: RIGHT[0]}, "StringEquals": {epoch: "1"}},
        {"StringNotEquals": {epoch: "1"}, "StringEquals": {pcr0: RIGHT[0]}},
        {"Null": {pcr0: "true"}},
    ]
    assert Attack.WRONG_PCR0 in _locked("UnlessPCR0", "UnlessEpoch", more=more)


@pytest.mark.parametrize("beside", ["Encrypt", "RetireGrant", "DescribeKey", "Decrypt"])
def test_a_grant_of_something_harmless_beside_is_found(beside: str) -> None:
    """Grants that must be for one harmless thing at least may be for decryption too."""
    statements = json.loads(POLICY)["Statement"]
    kept = [s for s in statements if s["Sid"] not in ("NoEscape", "Unwrap") and not s["Sid"].startswith("Unless")]
    locks = {f"kms:RecipientAttestation:PCR{n}": value for n, value in RIGHT.items()}
    context = {"kms:EncryptionContext:cloister-epoch": "1", "kms:EncryptionContext:cloister-owner": OWNER}
    unwrap = next(s for s in statements if s["Sid"] == "Unwrap") | {"Condition": {"StringEquals": {**locks, **context}}}
    grants = {
        "Effect": "Allow",
        "Principal": {"AWS": PARENT},
        "Action": "kms:CreateGrant",
        "Resource": "*",
        "Condition": {"ForAnyValue:StringEquals": {"kms:GrantOperations": [beside]}},
    }
    closed, opened = (matrix(parse(json.dumps({"Statement": [*kept, unwrap, *more]})), metadata=KEY) for more in ((), (grants,)))
    assert (Attack.GRANT_HOLDER in closed.released, Attack.GRANT_HOLDER in opened.released) == (False, True)
