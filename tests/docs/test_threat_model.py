"""docs/threat-model.md promises nothing that no test shows."""

import ast
from pathlib import Path
import re

from simulator.hostile.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (T\d+[a-z]?) \| (.+) \| (.+) \|$", re.MULTILINE)
EXPECTED = [f"T{number}" for number in range(1, 34)] + ["T9a", "T9b", "T9c", "T30a"]


def function_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_has_its_row_once() -> None:
    """All rows of the requirements, none twice, none invented."""
    assert sorted(row for row, _, _ in ROW.findall(TEXT)) == sorted(EXPECTED)


def test_every_row_names_tests_that_exist_or_says_unproven() -> None:
    """A name in the last column is a test or an attack of the registry; a row without one is marked unproven."""
    wrong = []
    for row, _, shown in ROW.findall(TEXT):
        tests = re.findall(r"`([^`]+)`", shown)
        attacks = re.findall(r"attack:([a-z0-9-]+)", shown)
        for name in tests:
            path, _, function = name.partition("::")
            if not (ROOT / "tests" / path).is_file() or function not in function_names(ROOT / "tests" / path):
                wrong.append((row, name))
        wrong += [(row, attack) for attack in attacks if attack not in ATTACKS]
        if not tests and not attacks and "**unproven**" not in shown:
            wrong.append((row, shown))
    assert wrong == []


def test_every_attack_of_the_registry_is_in_its_row() -> None:
    """An attack stands in the row of the threat that it belongs to."""
    rows = {row: set(re.findall(r"attack:([a-z0-9-]+)", shown)) for row, _, shown in ROW.findall(TEXT)}
    missing = [(attack.id, attack.threat) for attack in ATTACKS.values() if attack.id not in rows[attack.threat]]
    assert missing == []
