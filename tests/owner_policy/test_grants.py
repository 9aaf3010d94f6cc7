"""Grants that a key has, and what DescribeKey says of it: lint overlooks none that reveals or hands on."""

import json
from typing import Any

import pytest

from owner import key_policy_metadata
from owner.key_policy_attack import Attack
from owner.key_policy_lint import lint
from owner.key_policy_matrix import matrix
from owner.key_policy_metadata import MalformedMetadataError
from owner.policy_document import parse
from tests.kms.world import POLICY
from tests.owner_policy.vectors import CASES

Json = dict[str, Any]
KEY: Json = {"Arn": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "MultiRegion": False}
THIEF = "arn:aws:iam::888888888888:role/Thief"
CONDITIONAL = next(case for case in CASES if case.name == "epoch-grant_fail").text
LOCKED_BUT_RE_ENCRYPT = next(case for case in CASES if case.name == "re-encrypt-grant_fail").text


def found(policy: str, *grants: Json, origin: str = "AWS_KMS") -> tuple[set[Attack | None], str]:
    """What lint finds on a key with these grants, and its texts."""
    listed = [{"GrantId": "f", "GranteePrincipal": THIEF, "Operations": ["Decrypt"], **grant} for grant in grants]
    metadata = key_policy_metadata.parse(json.dumps({"KeyMetadata": {**KEY, "Origin": origin}, "Grants": listed}))
    parsed = parse(policy)
    judged = matrix(parsed, metadata=metadata)
    findings = lint(parsed, judged)
    assert judged.sound is not bool(findings)
    return {finding.attack for finding in findings}, " ".join(finding.text for finding in findings)


HOLDERS = [
    THIEF,
    "arn:aws:iam::888888888888:user/thief",
    "arn:aws:iam::888888888888:root",
    "arn:aws:sts::888888888888:federated-user/Bob",
    "arn:aws:sts::888888888888:assumed-role/Thief/now",
    "lambda.amazonaws.com",
]


@pytest.mark.parametrize("holder", HOLDERS)
def test_whoever_holds_a_grant_is_tried(holder: str) -> None:
    """A grant of Decrypt beside a conditional Allow gives the key away, to a user, role, session, federated user or service."""
    assert found(CONDITIONAL, {"GranteePrincipal": holder})[0] == {Attack.GRANT_HOLDER}
    assert found(POLICY, {"GranteePrincipal": holder})[0] == set()


CONSTRAINTS: list[Json] = [
    {"EncryptionContextSubset": {"cloister-epoch": "1"}},
    {"EncryptionContextSubset": {"cloister-epoch": "2"}},
    {"EncryptionContextSubset": {"cloister-epoch": "7"}},
    {"EncryptionContextSubset": {"cloister-model": "another"}},
    {"EncryptionContextSubset": {"cloister-owner": "e" * 96}},
    {"EncryptionContextEquals": {"cloister-model": "another", "cloister-epoch": "1"}},
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=[json.dumps(one) for one in CONSTRAINTS])
def test_a_grant_is_tried_under_what_its_constraint_demands(constraint: Json) -> None:
    """Whatever epoch, model or owner the constraint means, the grant works under that context, and is found."""
    assert found(CONDITIONAL, {"Constraints": constraint})[0] == {Attack.GRANT_HOLDER}


def test_a_grant_is_tried_on_retired_models() -> None:
    """Locks that hold for the current epoch alone leave a grant every model that was sealed before."""
    policy = json.loads(next(case for case in CASES if case.name == "conditional-allow").text)
    conditions = next(s["Condition"] for s in policy["Statement"] if s["Sid"] == "Unwrap")
    lock = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    epoch = {"StringEquals": {"kms:EncryptionContext:cloister-epoch": "1"}}
    for key, value in [pair for keys in conditions.values() for pair in keys.items() if "PCR" in pair[0]]:
        policy["Statement"].append({**lock, "Condition": {"StringNotEquals": {key: value}, **epoch}})
    assert found(json.dumps(policy))[0] == set()
    assert found(json.dumps(policy), {})[0] == {Attack.GRANT_HOLDER}


OPERATIONS = [("ReEncryptFrom",), ("ReEncryptFrom", "DescribeKey"), ("CreateGrant", "ReEncryptFrom"), ("GenerateDataKey",)]


@pytest.mark.parametrize("operations", [*OPERATIONS, ("GenerateDataKeyPair",)], ids="+".join)
def test_every_operation_that_reveals_is_tried(operations: tuple[str, ...]) -> None:
    """A grant that re-encrypts or hands out data keys is found where no Deny holds it, whoever may decrypt."""
    assert found(LOCKED_BUT_RE_ENCRYPT, {"Operations": list(operations)})[0] == {Attack.GRANT_HOLDER}


def test_a_grant_that_hands_itself_on_is_found() -> None:
    """With CreateGrant the holder makes a grant for an accomplice: no more than its own operations, and none through a Deny."""
    spared = json.loads(CONDITIONAL)
    spared["Statement"] = [s for s in spared["Statement"] if "kms:CreateGrant" not in s["Action"]]
    account = {"StringEquals": {"aws:PrincipalAccount": THIEF.split(":")[4]}}
    spared["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": account})
    delegating = {"Operations": ["CreateGrant", "Decrypt"]}
    assert found(json.dumps(spared), delegating)[0] == {Attack.GRANT_HOLDER}
    assert found(json.dumps(spared), {"Operations": ["CreateGrant"]})[0] == set()
    assert found(json.dumps(spared), {"Operations": ["Decrypt"]})[0] == set()


def test_harmless_grants_are_none() -> None:
    """Operations that neither reveal nor delegate are no finding."""
    assert found(CONDITIONAL, {"Operations": ["DescribeKey", "Encrypt", "RetireGrant", "ReEncryptTo"]})[0] == set()


@pytest.mark.parametrize("grant", [{"GranteePrincipal": "AROAEXAMPLEEXAMPLEEXA"}, {"GranteePrincipal": "?"}, {"Operations": ["Transmute"]}])
def test_a_grant_beyond_the_model_is_said(grant: Json) -> None:
    """A holder or operation that is not modelled is a finding without an attack."""
    attacks, text = found(POLICY, grant)
    assert attacks == {None} and "not modelled" in text


@pytest.mark.parametrize("origin", ["EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"])
def test_material_from_elsewhere_is_a_finding(origin: str) -> None:
    """A key whose material others have is none that a policy holds."""
    attacks, text = found(POLICY, origin=origin)
    assert attacks == {None} and origin in text
    assert found(POLICY)[0] == set()


@pytest.mark.parametrize("change", [{"Arn": "foo"}, {"Arn": KEY["Arn"].replace(":key/", ":alias/")}, {"Origin": None}, {"Arn": 1}])
def test_key_metadata_that_is_none_is_refused(change: Json) -> None:
    """An ARN that is no key's, or no origin, is one error."""
    with pytest.raises(MalformedMetadataError):
        key_policy_metadata.parse(json.dumps({"KeyMetadata": {**KEY, "Origin": "AWS_KMS", **change}}))
