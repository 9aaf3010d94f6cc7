"""Lint, the matrix and a KMS with real documents agree on every committed policy, and with what was expected of it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from owner.key_policy_attack import Attack, plans
from owner.key_policy_lint import lint
from owner.key_policy_matrix import KEY_ID, Verdict
from owner.policy_principal import CallerKind
from tests.owner_policy.kms_run import Lab
from tests.owner_policy.vectors import CASES, FOLDER, IDS, Case


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A simulated KMS with attested enclaves."""
    state: Path = tmp_path_factory.mktemp("lab")
    yield Lab(state, datetime.now(UTC))


def test_there_are_enough_policies_and_none_is_forgotten() -> None:
    """At least 25 policies, sound and broken, and every file in the folder is a case."""
    assert len(CASES) >= 25
    assert {path.stem for path in FOLDER.glob("*.json")} == {case.name for case in CASES} | {"cases"}
    assert {case.name for case in CASES if case.name.endswith("_fail")} == {case.name for case in CASES if case.attacks or not case.admits}


def test_every_attack_that_a_policy_can_let_through_is_let_through_by_one() -> None:
    """Each row but those that KMS itself refuses is released by some committed policy."""
    never = {Attack.RIGHT_ENCLAVE, Attack.STALE, Attack.REPLAY, Attack.OTHER_MODEL}
    assert set(Attack) - never == {attack for case in CASES for attack in case.attacks}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_matrix_is_as_expected(case: Case) -> None:
    """The matrix releases the key to exactly the expected attacks, and admits the right enclave exactly where expected."""
    result = case.matrix()
    unjudged = any(row.verdict is Verdict.NOT_MODELLED for row in result.rows)
    assert (case.attacks, case.admits, case.unjudged) == (result.released, result.admitted, unjudged)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_lint_reports_exactly_what_the_matrix_released(case: Case) -> None:
    """Lint's attacks are the rows that released the key; it says nothing about a sound policy, something about any other."""
    result = case.matrix()
    findings = lint(case.policy, result)
    assert {finding.attack for finding in findings if finding.attack} == {
        row.attack for row in result.rows[1:] if row.verdict is Verdict.RELEASED
    }
    assert bool(findings) is (not case.admits or bool(case.attacks))
    assert all(finding.statement and finding.text and finding.fix for finding in findings)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_kms_with_real_documents_releases_exactly_what_the_matrix_says(case: Case, lab: Lab) -> None:
    """Every row's telling plan, run as signed requests against the simulated KMS, ends as the matrix says: both directions."""
    result = case.matrix()
    arn = case.metadata.arn or f"arn:aws:kms:eu-central-1:{result.cast.account}:{KEY_ID}"
    lab.lay(arn, case.text, case.metadata, result.cast, dict(result.subject.contexts[0]))
    everything = plans(result.cast, (), result.subject, case.metadata)
    for row in result.rows:
        tried = [row.plan] if row.plan else []
        if row.verdict is Verdict.REFUSED and row.attack is not Attack.PUT_KEY_POLICY:  # who is trusted there, KMS does not know
            tried += everything[row.attack][:1] + everything[row.attack][-1:]
        for plan in tried:
            if plan.steps and all(step.caller.principal.kind is not CallerKind.SERVICE for step in plan.steps):
                expected = row.verdict in (Verdict.RELEASED, Verdict.NOT_CHECKED) and plan is row.plan
                assert lab.releases(row.attack, plan) is expected, (row.attack, plan)
