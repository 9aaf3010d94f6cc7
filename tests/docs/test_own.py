"""docs/own.md and docs/kms-simulator.md say what the code does."""

import json
from pathlib import Path
import re
import shlex

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import pytest

from attestation.reference_values import render
from attestation.values import ReferenceValues, pcr16_of
from cloister.command.main import main
from owner.key_policy_attack import Attack
from owner.key_policy_lint import TEXTS
from owner.policy_condition import known_key, known_operator
from simulator.kms.service import MODELLED
from tests.kms.world import MEASUREMENT

DOCS = Path(__file__).parents[2] / "docs"
OWN = (DOCS / "own.md").read_text(encoding="utf-8")
PAGE = (DOCS / "kms-simulator.md").read_text(encoding="utf-8")


def row(subject: str) -> list[str]:
    """The cells of a row of the page's table."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {subject} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_commands_of_the_walk_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The walk's key-policy commands run as printed, on reference values of a real owner key."""
    owner_key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    values = ReferenceValues(measurements=(MEASUREMENT,), pcr16=pcr16_of(owner_key), min_sequence=1, owner_key=owner_key)
    monkeypatch.chdir(tmp_path)
    Path("values.json").write_bytes(render(values))
    arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    Path("metadata.json").write_text(json.dumps({"KeyMetadata": {"Arn": arn, "MultiRegion": False, "Origin": "AWS_KMS"}, "Grants": []}))
    commands = [shlex.split(line) for line in re.findall(r"^ +cloister (key-policy .*)$", OWN, re.MULTILINE)]
    assert [command[1] for command in commands] == ["generate", "simulate", "explain", "lint"]
    for command in commands:
        arguments = command[: command.index(">")] if ">" in command else command
        assert main(arguments) == 0
        if ">" in command:
            Path(command[-1]).write_text(capsys.readouterr().out)
            Path("deployed.json").write_text(Path(command[-1]).read_text())


def test_every_file_that_the_walk_names_is_there() -> None:
    """Templates and pages named in the walk exist."""
    for name in re.findall(r"`(deploy/[a-z./-]+)`", OWN):
        assert (DOCS.parent / name).is_file(), name
    for text in (OWN, PAGE):
        for name in re.findall(r"\]\(([a-z-]+\.md)\)", text):
            assert (DOCS / name).is_file(), name


def test_operations_and_operators_are_those_modelled() -> None:
    """The page lists the operations that answer and the operators that are judged, all of them."""
    assert set(row("Operations")[1].split(", ")) == MODELLED
    operators, set_forms = row("Operators")[1].split("; ", 1)
    assert all(known_operator(name) for name in operators.split(", "))
    bases = ("StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike", "Bool", "Null")
    negated = tuple(re.sub(r"^(String|Arn)", r"\1Not", name) for name in bases if name not in ("Bool", "Null"))
    assert set(operators.split(", ")) == set(bases + negated)
    assert "IfExists" in set_forms and "ForAnyValue" in set_forms


def test_condition_keys_are_those_modelled() -> None:
    """Each plain condition key that the page lists is one that the model vouches for; those it disclaims are not."""
    modelled, disclaimed = row("Condition keys")[1:3]
    plain = [
        name
        for name in re.findall(r"(?:kms|aws):[A-Za-z0-9:]+(?![A-Za-z0-9:]*[*{])", modelled)
        if name not in ("kms:Grant", "aws:Via", "aws:Source")
    ]
    assert len(plain) >= 15 and all(known_key(name) for name in plain)
    assert not [name for name in re.findall(r"aws:[A-Za-z]+", disclaimed) if known_key(name)]


def test_every_attack_is_on_the_page() -> None:
    """The attack table is the matrix, row by row."""
    assert re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", PAGE, re.MULTILINE) == [(attack.value, TEXTS[attack]) for attack in Attack]
