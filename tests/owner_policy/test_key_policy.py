"""What `generate` writes, the templates around it, and the words: explain, diff, lint's cautions, roll-out."""

import contextlib
from dataclasses import replace
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation.values import Measurement, ReferenceValues
from owner import key_policy, key_policy_metadata
from owner.key_policy import ADMINISTRATION, Inputs, document, generate
from owner.key_policy_attack import Attack
from owner.key_policy_explain import diff, explain
from owner.key_policy_lint import cautions, lint
from owner.key_policy_matrix import matrix
from owner.key_policy_metadata import MalformedMetadataError
from owner.key_policy_rollout import rollout
from owner.key_policy_subject import Expected
from owner.key_policy_template import cloudformation, terraform
from owner.policy_document import parse
from tests.kms.world import ADMIN, CONTEXT, INPUTS, MEASUREMENT, OWNER_KEY, PARENT, PARENT_ACCOUNT, PCR16, POLICY, SEALER
from tests.owner_policy.vectors import CASES, Case

NEW = Measurement(pcr0=b"\x20" * 48, pcr1=b"\x21" * 48, pcr2=b"\x22" * 48)
# A real Ed25519 key: reference values refuse bytes that are none.
VALUES = ReferenceValues(measurements=(MEASUREMENT,), pcr16=PCR16, min_sequence=1)


def case(name: str) -> Case:
    """A committed case by name."""
    return next(one for one in CASES if one.name == name)


def test_generate_writes_the_committed_policy() -> None:
    """The same inputs give the same bytes, which are the vector `generated`."""
    assert generate(INPUTS) == generate(replace(INPUTS))
    assert json.loads(POLICY) == json.loads(case("generated").text)


def test_every_lock_is_a_deny_of_its_own() -> None:
    """PCR0, 1, 2 and 16, owner and epoch: one Deny to everyone with one condition each; escapes are denied without any."""
    denies = {s["Sid"]: s for s in json.loads(POLICY)["Statement"] if s["Effect"] == "Deny"}
    locks = [s for s in denies.values() if s["Action"] == ["kms:Decrypt"]]
    keys = [key for s in locks for key in s["Condition"]["StringNotEqualsIgnoreCase"]]
    assert keys == [f"kms:RecipientAttestation:PCR{n}" for n in (0, 1, 2, 16)] + [
        "kms:EncryptionContext:cloister-owner",
        "kms:EncryptionContext:cloister-epoch",
    ]
    assert all(s["Principal"] == {"AWS": "*"} and len(s["Condition"]) == 1 for s in locks)
    assert (denies["NoEscape"].get("Condition"), denies["NoEscape"]["Action"]) == (
        None,
        ["kms:CreateGrant", "kms:ReEncryptFrom", "kms:ReplicateKey"],
    )


def test_administration_does_not_use_the_key() -> None:
    """No action of the administrator's gives a plaintext, a grant or a copy, and nobody is allowed by account."""
    assert not [
        action
        for action in ADMINISTRATION
        if any(word in action for word in ("crypt", "Generate", "CreateGrant", "Replicate", "Import", "*"))
    ]
    assert not [s for s in json.loads(POLICY)["Statement"] if s["Effect"] == "Allow" and "root" in json.dumps(s["Principal"])]


def test_pcr8_is_locked_where_every_set_has_one() -> None:
    """A signed image's PCR8 is one more lock; with one set unsigned it cannot be."""
    signed = Measurement(pcr0=b"\x20" * 48, pcr1=b"\x21" * 48, pcr2=b"\x22" * 48, pcr8=b"\x28" * 48)
    assert "PCR8" in generate(replace(INPUTS, measurements=(signed,)))
    assert "PCR8" not in generate(replace(INPUTS, measurements=(signed, MEASUREMENT)))


UNSOUND: list[dict[str, Any]] = [
    {"measurements": ()},
    {"measurements": (MEASUREMENT, NEW, MEASUREMENT)},
    {"epochs": ()},
    {"epochs": (0,)},
    {"epochs": (1, 2, 3)},
    {"epochs": (1 << 63,)},
    {"owner_key": b"short"},
    {"admin": SEALER},
    {"parent": ADMIN.replace("KeyAdmin", "Other")},
    {"admin": f"arn:aws:iam::{PARENT_ACCOUNT}:role/Admin"},
    {"sealer": f"arn:aws:iam::{PARENT_ACCOUNT}:role/Sealer"},
    {"admin": "arn:aws:iam::111122223333:root"},
    {"admin": "arn:aws:iam::111122223333:user/alice"},
    {"parent": "arn:aws:sts::444455556666:assumed-role/Parent/session"},
    {"parent": "Parent"},
]


@pytest.mark.parametrize("changed", UNSOUND, ids=[json.dumps(sorted(one)) + str(n) for n, one in enumerate(UNSOUND)])
def test_what_no_sound_policy_can_be_made_from_is_refused(changed: dict[str, Any]) -> None:
    """Zero or three measurement sets, epochs out of range, roles that are the same, none, or in the wrong account."""
    with pytest.raises(ValueError, match=r"."):
        replace(INPUTS, **changed)


def test_a_policy_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What exceeds the 32 KB of KMS is not handed out."""
    monkeypatch.setattr(key_policy, "KEY_POLICY_MAX", len(POLICY) - 1)
    with pytest.raises(ValueError, match="32 KB"):
        generate(INPUTS)


@given(
    st.sets(st.integers(1, (1 << 63) - 1), min_size=1, max_size=2),
    st.lists(st.binary(min_size=48, max_size=48).filter(any), min_size=3, max_size=3),
)
def test_whatever_is_generated_holds(epochs: set[int], pcrs: list[bytes]) -> None:
    """For any measurements and epochs the generated policy admits the right enclave and no attack."""
    measurement = Measurement(pcr0=pcrs[0], pcr1=pcrs[1], pcr2=pcrs[2])
    made = replace(INPUTS, epochs=tuple(sorted(epochs)), measurements=(measurement,))
    expected = Expected(
        measurements=({**{n: v.hex() for n, v in measurement.pcrs.items()}, 16: PCR16.hex()},),
        owner=CONTEXT["cloister-owner"],
        epochs=tuple(map(str, sorted(epochs))),
    )
    assert matrix(parse(generate(made)), expected=expected).sound


def test_cloudformation_reads_back() -> None:
    """The template holds the policy as values, on a key that is single-Region and kept."""
    template = json.loads(cloudformation(INPUTS))
    key = template["Resources"]["ModelKey"]
    assert key["Properties"]["KeyPolicy"] == document(INPUTS)
    assert (key["DeletionPolicy"], key["Properties"]["MultiRegion"]) == ("Retain", False)
    assert matrix(parse(json.dumps(key["Properties"]["KeyPolicy"]))).sound


def test_terraform_reads_back() -> None:
    """The Terraform file holds the policy as the text that is deployed, on a key that is single-Region and kept."""
    resource = json.loads(terraform(INPUTS))["resource"]["aws_kms_key"]["model"]
    assert resource["policy"] == POLICY
    assert (resource["multi_region"], resource["lifecycle"]) == (False, {"prevent_destroy": True})


def test_expectations_from_outside_outrank_the_policy() -> None:
    """A sound policy for another image, owner or epoch is not sound for these reference values."""
    right = {**{n: v.hex() for n, v in MEASUREMENT.pcrs.items()}, 16: PCR16.hex()}
    owner = CONTEXT["cloister-owner"]
    assert matrix(parse(POLICY), expected=Expected(measurements=(right,), owner=owner, epochs=("1",))).sound
    later = matrix(parse(POLICY), expected=Expected(measurements=(right,), owner=owner, epochs=("2",)))
    assert (later.admitted, later.released) == (False, frozenset((Attack.OLD_EPOCH,)))
    other = matrix(parse(POLICY), expected=Expected(measurements=({**right, 2: "77" * 48},), owner=owner, epochs=("1",)))
    assert (other.admitted, other.released) == (False, frozenset((Attack.WRONG_PCR2,)))
    assert not matrix(parse(POLICY), expected=Expected(measurements=(right,), owner="0b" * 48, epochs=("1",))).admitted


def test_a_stated_administrator_is_trusted() -> None:
    """Who is named with --admin may put policies; every other one may not."""
    text = case("ci-puts-policy_fail").text
    assert matrix(parse(text), administrator=ADMIN).released == {Attack.PUT_KEY_POLICY}
    assert matrix(parse(POLICY), administrator=PARENT).released == {Attack.PUT_KEY_POLICY}


def test_lint_names_statement_trap_and_fix() -> None:
    """The finding for ANDed conditions names the statement that let it through, the trap, and the statement to write."""
    one = case("anded-deny_fail")
    finding = next(f for f in lint(one.policy, one.matrix()) if f.attack is Attack.WRONG_PCR1)
    assert finding.statement == "statement 4 (Unwrap)"
    assert "statement 9 (Unless)" in finding.unheld[0] and "ANDed" in finding.unheld[0]
    assert "kms:RecipientAttestation:PCR1" in finding.fix
    assert "PCR1=eeeeeeee.." in finding.how[0]
    for name, word in (("for-any-value_fail", "ForAnyValue"), ("only-null_fail", "positive operator")):
        assert any(word in trap for f in lint(case(name).policy, case(name).matrix()) for trap in f.unheld) or name == "only-null_fail"


def test_findings_without_an_attack() -> None:
    """A locked-out enclave and an unmodelled element are findings that name no attack."""
    for name, words in (
        ("truncated_fail", "the right enclave is refused"),
        ("dates_fail", "cannot be judged"),
        ("source-vpc_fail", "cannot be judged"),
    ):
        findings = lint(case(name).policy, case(name).matrix())
        assert {finding.attack for finding in findings} == {None} and words in findings[0].text


CAUTIONS = [
    ("truncated_fail", "fits no document"),
    ("no-epoch_fail", "existing grants"),
    ("default_fail", "no single administrator"),
    ("generated", "multi-Region replicas"),
    ("default_fail", "held by PCR16 alone"),
]


@pytest.mark.parametrize(("name", "words"), CAUTIONS)
def test_cautions(name: str, words: str) -> None:
    """What is worth knowing and no hole is said, once each."""
    notes = cautions(case(name).policy, case(name).matrix())
    assert sum(words in note for note in notes) >= 1


def test_what_metadata_says_is_not_reported_as_unchecked() -> None:
    """With DescribeKey and ListGrants nothing is left unchecked; a supposed grant is, without."""
    assert not cautions(case("generated-known-key").policy, case("generated-known-key").matrix())
    conditional = case("conditional-allow")
    without = matrix(conditional.policy)
    assert any("grant-holder" in note for note in cautions(conditional.policy, without))
    assert lint(conditional.policy, without) == ()


def test_explain_says_who_can_what() -> None:
    """One paragraph per principal: administration, sealing, decrypting under which measurements, and nothing for the rest."""
    paragraphs = explain(parse(POLICY))
    said = {paragraph.split(" can ")[0]: paragraph for paragraph in paragraphs}
    assert "kms:PutKeyPolicy" in said[f"{ADMIN} (the administrator)"] and "Decrypt" not in said[f"{ADMIN} (the administrator)"]
    assert said[SEALER].endswith("can kms:Encrypt; kms:DescribeKey.")
    assert "PCR0 10101010.." in said[PARENT] and "without attestation" not in said[PARENT] and "any other" not in said[PARENT]
    assert sum("can do nothing" in paragraph for paragraph in paragraphs) == 5


def test_diff_says_what_changes_by_effect() -> None:
    """A new set is newly allowed, a lock taken away lets every other value in, and another style of the same is nothing."""
    two = parse(case("rollout-two-sets").text)
    gained = diff(parse(POLICY), two)
    assert [(one.principal, len(one.forbidden)) for one in gained] == [(PARENT, 0)] and "PCR0 20202020.." in gained[0].allowed[0]
    assert diff(two, parse(POLICY))[0].forbidden == gained[0].allowed
    unlocked = diff(parse(POLICY), parse(case("no-pcr1_fail").text))
    assert any("any other PCR1" in item for item in unlocked[0].allowed)
    assert diff(parse(POLICY), parse(case("case-sensitive").text)) == ()
    assert any("kms:PutKeyPolicy" in one.allowed for one in diff(parse(POLICY), parse(case("ci-puts-policy_fail").text)))


def test_rollout_adds_with_callers_first_and_removes_with_callers_last() -> None:
    """Every policy of a roll-out holds, and what KMS admits is at every step among what callers accept."""
    steps = rollout(INPUTS, VALUES, NEW)
    accepted, admitted = {MEASUREMENT.pcr0}, {MEASUREMENT.pcr0}
    for step in steps:
        if step.reference_values is not None:
            accepted = {one.pcr0 for one in step.reference_values.measurements}
        if step.policy is not None:
            judged = matrix(parse(step.policy))
            assert judged.sound
            admitted = {bytes.fromhex(enclave[0]) for enclave in judged.subject.enclaves}
        assert admitted <= accepted
        assert step.title and step.why and step.check
    assert (accepted, admitted) == ({NEW.pcr0}, {NEW.pcr0})
    sequences = [step.reference_values.sequence for step in steps if step.reference_values]
    assert sequences == [VALUES.sequence + 1, VALUES.sequence + 2]


@pytest.mark.parametrize(
    ("inputs", "values", "new"),
    [
        (replace(INPUTS, measurements=(MEASUREMENT, NEW)), VALUES, NEW),
        (INPUTS, replace(VALUES, measurements=(MEASUREMENT, NEW)), NEW),
        (INPUTS, VALUES, MEASUREMENT),
        (INPUTS, replace(VALUES, measurements=(NEW,)), NEW),
        (INPUTS, replace(VALUES, pcr17=b"\x17" * 48), NEW),
    ],
)
def test_rollout_refuses_to_start_from_anything_else(inputs: Inputs, values: ReferenceValues, new: Measurement) -> None:
    """From one set to another one, with the same set in policy and reference values, and no manifest pinned."""
    with pytest.raises(ValueError, match=r"."):
        rollout(inputs, values, new)


KEY = {"KeyMetadata": {"Arn": "arn:aws:kms:eu-central-1:111122223333:key/x", "MultiRegion": False, "Origin": "AWS_KMS"}}
GRANTS = {"Grants": [{"GranteePrincipal": ADMIN, "Operations": ["Decrypt"]}]}


def test_metadata_is_describe_key_list_grants_or_both() -> None:
    """Either answer of the AWS CLI, or both in one object; what is absent is named as unchecked."""
    assert [len(key_policy_metadata.parse(json.dumps(one)).unchecked) for one in (KEY, GRANTS, {**KEY, **GRANTS})] == [1, 1, 0]
    replica = {"KeyMetadata": {**KEY["KeyMetadata"], "MultiRegion": True, "MultiRegionConfiguration": {"MultiRegionKeyType": "REPLICA"}}}
    assert key_policy_metadata.parse(json.dumps(replica)).replicas == ("primary",)


BAD = [
    "",
    "[]",
    "{}",
    '{"Grants":{}}',
    '{"Grants":[1]}',
    '{"Grants":[{"GranteePrincipal":"x"}]}',
    '{"KeyMetadata":[]}',
    '{"KeyMetadata":{}}',
]
BAD += [json.dumps({**GRANTS, "Truncated": True}), json.dumps({"Grants": [{**GRANTS["Grants"][0], "Constraints": [1]}]}), "[" * 100_000]


@pytest.mark.parametrize("text", BAD)
def test_metadata_that_is_none_is_refused(text: str) -> None:
    """Anything else, and one page of several, is refused."""
    with pytest.raises(MalformedMetadataError):
        key_policy_metadata.parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda i: st.lists(i, max_size=2) | st.dictionaries(st.text(max_size=3), i, max_size=2),
)


@given(
    st.text(max_size=40)
    | st.dictionaries(st.sampled_from(["KeyMetadata", "Grants", "Truncated"]), JSON | st.just([GRANTS["Grants"][0]])).map(json.dumps)
)
def test_any_text_is_metadata_or_our_error(text: str) -> None:
    """Any text: metadata or MalformedMetadataError."""
    with contextlib.suppress(MalformedMetadataError):
        key_policy_metadata.parse(text)


def test_the_owner_key_is_the_worlds() -> None:
    """The test world's policy is bound to its owner key."""
    assert INPUTS.owner_key == OWNER_KEY
