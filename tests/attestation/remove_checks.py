"""Take one check at a time out of a copy of `attestation/` and see a test fail: `python -m tests.attestation.remove_checks`.

A mutant has one refusal, one clause of a condition, one yielded mismatch or one call of a checking function removed.
A mutant that no test notices is printed and the exit code is 1. Slow (some minutes), hence no part of the suite.
"""

import ast
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import copy
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = (
    "document",
    "certificate",
    "chain",
    "verify",
    "appraise",
    "values",
    "reference_values",
    "withdrawn",
    "strict_json",
    "eif_format",
    "eif_signature",
    "eif",
    "explain",
    "pack",
    "__init__",
)
# Why a mutant may live: what is removed has no effect that a relying party could see.
EQUIVALENT = (
    "cache is not None",  # a speed-up: without it the same answer later
    "MalformedJsonError",  # re-raised as itself, the next handler says the same
)
CHECKERS = ("check", "_check", "_verify", "verify", "load_public", "_fail", "_measured", "done", "parse_config")


def _statements(tree: ast.AST) -> Iterator[tuple[list[ast.stmt], int]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from ((block, place) for place in range(len(block)) if isinstance(block[place], ast.stmt))


def _is_check(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Yield | ast.YieldFrom):
        return True
    if isinstance(statement.value, ast.Call):
        called = ast.unparse(statement.value.func).rsplit(".", 1)[-1]
        return called.startswith(CHECKERS)
    return False


def _mutants(source: str) -> Iterator[tuple[str, str]]:
    """Description and source of each mutant."""
    tree = ast.parse(source)
    for number, (block, place) in enumerate(_statements(tree)):
        if _is_check(block[place]):
            mutant = copy.deepcopy(tree)
            other, _ = list(_statements(mutant))[number]
            removed = other[place]
            other[place] = ast.copy_location(ast.Pass(), removed)
            yield f"line {removed.lineno}: {ast.unparse(removed)}", ast.unparse(ast.fix_missing_locations(mutant))
    operators = [node for node in ast.walk(tree) if isinstance(node, ast.BoolOp)]
    for number, node in enumerate(operators):
        for clause in range(len(node.values)):
            mutant = copy.deepcopy(tree)
            other_node = [item for item in ast.walk(mutant) if isinstance(item, ast.BoolOp)][number]
            removed_clause = other_node.values[clause]
            other_node.values[clause] = ast.copy_location(ast.Constant(isinstance(node.op, ast.And)), removed_clause)
            text = f"line {node.lineno}: clause {ast.unparse(removed_clause)}"
            yield text, ast.unparse(ast.fix_missing_locations(mutant))


def _survives(module: str, source: str) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        copied = Path(directory)
        for name in ("attestation", "wire", "tests"):
            shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copied)
        (copied / "attestation" / f"{module}.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/attestation"]
        environment = {**os.environ, "CLOISTER_VECTORS": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main() -> int:
    """Every mutant of the modules named on the command line, or of all."""
    mutants = [
        (module, text, source)
        for module in sys.argv[1:] or MODULES
        for text, source in _mutants((ROOT / "attestation" / f"{module}.py").read_text())
    ]
    with ThreadPoolExecutor(2) as pool:
        lives = list(pool.map(lambda mutant: _survives(mutant[0], mutant[2]), mutants))
    alive = [(module, text) for (module, text, _), living in zip(mutants, lives, strict=True) if living]
    unexpected = [item for item in alive if not any(reason in item[1] for reason in EQUIVALENT)]
    sys.stdout.write(f"{len(mutants)} mutants, {len(alive)} noticed by no test, {len(unexpected)} of them unexplained\n")
    for module, text in alive:
        sys.stdout.write(f"{'?' if (module, text) in unexpected else 'equivalent'}  attestation/{module}.py {text}\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
