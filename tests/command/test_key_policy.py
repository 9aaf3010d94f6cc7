"""`cloister key-policy` from arguments to exit status."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import pytest

from attestation.reference_values import render
from attestation.values import Measurement, ReferenceValues, pcr16_of
from cloister.command.main import main
from tests.kms.world import ADMIN, MEASUREMENT, PARENT, SEALER
from tests.owner_policy.vectors import CASES, FOLDER, IDS, Case

OWNER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
VALUES = ReferenceValues(measurements=(MEASUREMENT,), pcr16=pcr16_of(OWNER_KEY), min_sequence=1, owner_key=OWNER_KEY)
NEW = Measurement(pcr0=b"\x20" * 48, pcr1=b"\x21" * 48, pcr2=b"\x22" * 48)
ROLES = ["--admin", ADMIN, "--sealer", SEALER, "--parent", PARENT]


@pytest.fixture
def values(tmp_path: Path) -> str:
    """Reference values with an owner key, in a file."""
    (tmp_path / "values.json").write_bytes(render(VALUES))
    return str(tmp_path / "values.json")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and standard output."""
    status = main(["key-policy", *arguments])
    return status, capsys.readouterr().out


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit status and the answer of `--json`."""
    status = main(["--json", "key-policy", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_generated_is_linted_and_simulated(values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What generate prints passes lint and simulate against the same reference values, and fails against another epoch."""
    status, text = run(capsys, "generate", "--reference-values", values, "--epoch", "3", *ROLES)
    assert status == 0
    (tmp_path / "policy.json").write_text(text)
    policy = str(tmp_path / "policy.json")
    for verb in ("lint", "simulate"):
        assert run(capsys, verb, policy)[0] == 0
        assert run(capsys, verb, policy, "--reference-values", values, "--epoch", "3")[0] == 0
        assert run(capsys, verb, policy, "--reference-values", values, "--epoch", "4")[0] == 1


@pytest.mark.parametrize("form", ["cloudformation", "terraform"])
def test_templates_are_json(values: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both templates parse."""
    status, text = run(capsys, "generate", "--reference-values", values, "--epoch", "1", "--format", form, *ROLES)
    assert (status, isinstance(json.loads(text), dict)) == (0, True)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_lint_and_simulate_agree_in_status_and_attacks(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For every committed policy both exit alike, and lint's attacks are simulate's released rows."""
    arguments = [str(FOLDER / f"{case.name}.json")]
    if case.metadata_text:
        (tmp_path / "metadata.json").write_text(case.metadata_text)
        arguments += ["--key-metadata", str(tmp_path / "metadata.json")]
    lint_status, linted = answer(capsys, "lint", *arguments)
    status, simulated = answer(capsys, "simulate", *arguments)
    released = {row["attack"] for row in simulated["rows"][1:] if row["verdict"] == "released"}
    assert (lint_status, {f["attack"] for f in linted["findings"] if f["attack"]}) == (status, released)
    assert status == (1 if case.name.endswith("_fail") else 0)


@pytest.mark.parametrize("epoch", ["9" * 5000, "9" * 5000 + "*", "?" * 5000])
def test_an_epoch_of_thousands_of_digits_is_judged(epoch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fits no manifest: the right enclave is refused, and that is what lint says."""
    policy = (FOLDER / "generated.json").read_text().replace('cloister-epoch": "1"', f'cloister-epoch": "{epoch}"')
    (tmp_path / "policy.json").write_text(policy)
    status, linted = answer(capsys, "lint", str(tmp_path / "policy.json"))
    assert (status, [finding["text"].partition(":")[0] for finding in linted["findings"]]) == (1, ["the right enclave is refused"])


def test_what_is_wrong_with_the_key_is_said_by_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported material is a finding of lint and a line of simulate, and both exit 1."""
    key = {"Arn": "arn:aws:kms:eu-central-1:111122223333:key/x", "MultiRegion": False, "Origin": "EXTERNAL"}
    (tmp_path / "key.json").write_text(json.dumps({"KeyMetadata": key, "Grants": []}))
    arguments = (str(FOLDER / "generated.json"), "--key-metadata", str(tmp_path / "key.json"))
    for verb in ("lint", "simulate"):
        status, text = run(capsys, verb, *arguments)
        assert (status, "of origin EXTERNAL" in text) == (1, True)
    assert answer(capsys, "simulate", *arguments)[1]["flaws"][0]["where"] == "the key"


def test_lint_prints_attack_statement_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    """People see the attack, the statement, how it goes and what to write."""
    status, text = run(capsys, "lint", str(FOLDER / "no-pcr1_fail.json"))
    assert status == 1
    assert [line.split(":")[0].strip() for line in text.splitlines()[:4]] == ["wrong-pcr1", "statement", "how", "fix"]


def test_the_table_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Simulate prints one line per attack, what is not checked, and the count."""
    _, text = run(capsys, "simulate", str(FOLDER / "default_fail.json"))
    assert text.count("RELEASED") == 15
    assert "not checked: existing grants (ListGrants)" in text
    assert text.splitlines()[-1] == "released: 15 of 19 attacks"


def test_diff_and_explain_speak(capsys: pytest.CaptureFixture[str]) -> None:
    """Diff and explain answer in words, exit 0."""
    old, new = str(FOLDER / "generated.json"), str(FOLDER / "rollout-two-sets.json")
    assert run(capsys, "diff", old, old) == (0, "nothing: the policies decide alike\n")
    status, text = run(capsys, "diff", new, old)
    assert (status, text.startswith("newly forbidden: ")) == (0, True)
    status, text = run(capsys, "explain", old)
    assert (status, text.count("\n\n")) == (0, 7)


def test_rollout_is_a_dry_run_unless_told(values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six steps are printed; files are written only with --write, and each policy among them lints."""
    new = ReferenceValues(measurements=(NEW,), pcr16=VALUES.pcr16, min_sequence=1, owner_key=OWNER_KEY)
    (tmp_path / "new.json").write_bytes(render(new))
    arguments = ["rollout", "--reference-values", values, "--new", str(tmp_path / "new.json"), "--epoch", "1", *ROLES]
    before = sorted(tmp_path.iterdir())
    status, text = run(capsys, *arguments)
    assert (status, "dry run" in text, sorted(tmp_path.iterdir())) == (0, True, before)
    assert [line[:2] for line in text.splitlines() if line[:1].isdigit()] == [f"{n}." for n in range(1, 7)]
    assert run(capsys, *arguments, "--write", str(tmp_path / "steps"))[0] == 0
    names = ["1-reference-values.json", "2-key-policy.json", "5-key-policy.json", "6-reference-values.json"]
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == names
    assert run(capsys, "lint", str(tmp_path / "steps" / names[1]))[0] == 0


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`-` reads the policy from standard input."""
    with (FOLDER / "generated.json").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run(capsys, "lint", "-")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["lint", "{}/none.json"], 3),
        (["lint", "{}/broken.json"], 1),
        (["lint", "{}/bytes.json"], 1),
        (["lint", "{}/policy.json", "--key-metadata", "{}/broken.json"], 1),
        (["lint", "{}/policy.json", "--key-metadata", "{}/arn.json"], 1),
        (["simulate", "{}/policy.json", "--key-metadata", "{}/arn.json"], 1),
        (["lint", "{}/policy.json", "--admin", "x"], 2),
        (["simulate", "{}/policy.json", "--admin", "arn:aws:iam::111122223333:group/x"], 2),
        (["lint", "{}/policy.json", "--epoch", "1"], 2),
        (["lint", "{}/policy.json", "--reference-values", "{}/values.json", "--epoch", "9" * 5000], 2),
        (["lint", "{}/policy.json", "--reference-values", "{}/values.json"], 2),
        (["lint", "{}/policy.json", "--reference-values", "{}/ownerless.json", "--epoch", "1"], 1),
        (["generate", "--reference-values", "{}/values.json", "--epoch", "0", *ROLES], 2),
        (["generate", "--reference-values", "{}/ownerless.json", "--epoch", "1", *ROLES], 1),
        (["rollout", "--reference-values", "{}/values.json", "--new", "{}/values.json", "--epoch", "1", *ROLES], 1),
        (["rollout", "--reference-values", "{}/values.json", "--new", "{}/two.json", "--epoch", "1", *ROLES], 2),
        (["sing"], 2),
        ([], 2),
    ],
)
def test_exit_status(arguments: list[str], status: int, values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 for what is no sound input, 2 for usage, 3 for what cannot be read."""
    del values
    (tmp_path / "policy.json").write_text((FOLDER / "generated.json").read_text())
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "arn.json").write_text('{"KeyMetadata": {"Arn": "foo", "MultiRegion": false, "Origin": "AWS_KMS"}}')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "ownerless.json").write_bytes(render(ReferenceValues(measurements=(MEASUREMENT,), pcr16=VALUES.pcr16, min_sequence=1)))
    (tmp_path / "two.json").write_bytes(render(ReferenceValues(measurements=(MEASUREMENT, NEW), pcr16=VALUES.pcr16, min_sequence=1)))
    assert main(["key-policy", *(argument.replace("{}", str(tmp_path)) for argument in arguments)]) == status
    assert capsys.readouterr().err
