"""The mutation tool takes out what it says, and sees both fates."""

import ast
import json
import os
from pathlib import Path
import subprocess
import sys

from tests.mutants.__main__ import ROOT, _Finder
from tests.mutants.checks import mutants

SOURCE = """
def f(x, y):
    if x < 0 or not y:
        raise ValueError
    if x and y:
        return 0
    verify(x)
    match x:
        case 1:
            pass
        case _:
            raise ValueError
    return x == 1 and y == 2

def g(x):
    if x:
        print(x)
    else:
        raise ValueError
    helper(x)
    yield _equal(x)
"""


def test_every_kind_of_check_is_taken_out_once() -> None:
    """Guards by operand, calls that check, cases and else branches that raise, yields, returned conjunctions; nothing else."""
    found = [(mutant.function, mutant.check) for mutant in mutants("m", SOURCE)]
    assert found == [
        ("f", "x < 0"),
        ("f", "not y"),
        ("f", "x and y"),
        ("f", "x -> True"),
        ("f", "y -> True"),
        ("f", "verify(x)"),
        ("f", "raise ValueError"),
        ("f", "x == 1 -> True"),
        ("f", "y == 2 -> True"),
        ("g", "raise ValueError"),
        ("g", "yield _equal(x)"),
    ]


def test_checks_that_read_alike_have_names_of_their_own() -> None:
    """The fate of one is never taken for the other's."""
    source = "def f(x):\n    if x:\n        raise ValueError\n    if x:\n        return 1\n    return 2\n"
    assert [mutant.key for mutant in mutants("m", source)] == ["m f x", "m f x #2"]


def test_a_mutant_differs_in_its_check_alone() -> None:
    """Without the first operand the second one still refuses."""
    first = mutants("m", SOURCE)[0]
    assert "if False or not y:" in ast.unparse(first.tree)
    assert ast.unparse(first.tree).replace("False or", "x < 0 or") == ast.unparse(ast.parse(SOURCE))


def test_the_finder_gives_the_mutant_for_its_module_alone(tmp_path: Path) -> None:
    """Other modules are found as always."""
    mutant = mutants("m", "def f(x):\n    if x:\n        raise ValueError\n    return 7\n")[0]
    finder = _Finder(mutant, tmp_path / "m.py")
    assert finder.find_spec("other") is None
    assert finder.find_spec("m") is not None
    namespace: dict[str, object] = {}
    exec(finder.get_code("m"), namespace)  # noqa: S102 - the mutant itself
    assert namespace["f"](1) == 7  # type: ignore[operator]


def test_killed_survived_and_uncovered_are_told_apart(tmp_path: Path) -> None:
    """A test that misses the check kills the mutant, one that does not lets it live, none covers nothing."""
    module = tmp_path / "wire_probe.py"
    lines = ["def f(x):", "    if x < 0:", "        raise ValueError", "    if x > 9:", "        raise ValueError"]
    module.write_text("\n".join([*lines, "    if x == 5:", "        return 1", "    return 0", ""]))
    test = tmp_path / "test_probe.py"
    test.write_text(
        "import sys\nsys.path.insert(0, '.')\n"
        "import pytest\n"
        "def test_low():\n    from wire_probe import f\n    with pytest.raises(ValueError):\n        f(-1)\n"
        "def test_fine():\n    from wire_probe import f\n    assert f(1) == 0\n"
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {tmp_path}\n")
    low, fine = f"{test}::test_low", f"{test}::test_fine"
    # A process of its own, as `make mutants` is one: a fork of this one would take over the threads' locks of other tests.
    program = (
        "import json, pathlib, time\n"
        "from tests.mutants.__main__ import Coverage, run\n"
        "from tests.mutants.checks import mutants\n"
        f"module = pathlib.Path({str(module)!r})\n"
        f"coverage = Coverage(lines={{'wire_probe': {{2: [{low!r}, {fine!r}], 4: [{fine!r}]}}}}, seconds={{}})\n"
        "todo = mutants('wire_probe', module.read_text())\n"
        "fates = run(todo, {'wire_probe': module}, coverage, jobs=2, deadline=time.monotonic() + 60)\n"
        "print(json.dumps(fates))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "wire_probe f x < 0": "killed",
        "wire_probe f x > 9": "survived",
        "wire_probe f x == 5": "uncovered",
    }
