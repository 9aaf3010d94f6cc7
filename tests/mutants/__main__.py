"""`make mutants`: take each check out in turn and see a test fail. Options: --modules PREFIX..., --minutes N, --seed N, --jobs N.

First the tests below run once under coverage, so that a mutant runs only those tests that execute its line, fastest first;
the modules' branch coverage is printed, with every branch that no test takes.
Each mutant then runs in a forked child whose import of the one module gives the tree without the check. Where not all
mutants fit into the minutes, a sample by a printed seed runs, and the report says so.
"""

import argparse
import ast
from collections import Counter
from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
import importlib
import importlib.abc
import importlib.machinery
import json
import os
from pathlib import Path
import random
import resource
import signal
import subprocess
import sys
import time
from types import CodeType, ModuleType

import pytest

from tests.mutants.checks import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    "wire",
    "attestation",
    "enclave.session",
    "enclave.cms",
    "enclave.kms",
    "enclave.tls",
    "enclave.boot",
    "enclave.artifact",
    "enclave.intake",
    "enclave.protobuf",
)
# Folders of tests that run in this process; those that start worlds would show nothing, for a child process imports its own.
TESTS = ("wire", "session", "attestation", "cms", "enclave_kms", "artifact", "nsm", "boot", "request", "tensors")
LEFT_OUT = ("__init__", "__main__")
SURVIVORS = Path(__file__).with_name("survivors.txt")
WORK = ROOT / "build" / "mutants"
CPU_SECONDS = 60  # a mutant that loops is killed by them; the clock on the wall would count a busy machine
WALL_SECONDS = 600
THRESHOLD = 0.95
PRELOADED = (
    "cryptography.hazmat.primitives.hpke",
    "OpenSSL.crypto",
    "cbor2",
    "hypothesis.strategies",
    "numpy",
    "botocore.session",
    "pytest",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which tests execute a line of a module, and the seconds of each test."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]


def target_modules(prefixes: Sequence[str]) -> dict[str, Path]:
    """Module name to file."""
    found = {}
    for target in dict.fromkeys([*TARGETS, *(prefix for prefix in prefixes if not prefix.startswith(TARGETS))]):
        path = ROOT / target.replace(".", "/")
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if file.stem not in LEFT_OUT and file.exists() and (not prefixes or name.startswith(tuple(prefixes))):
                found[name] = file
    return found


def measure(modules: dict[str, Path]) -> Coverage:
    """Run the tests once under coverage, each test a context of its own."""
    WORK.mkdir(parents=True, exist_ok=True)
    data, report, config = (WORK / f"{os.getpid()}.{name}" for name in ("coverage", "json", "rc"))
    packages = sorted({name.partition(".")[0] for name in modules})
    config.write_text(
        f"[run]\ndata_file = {data}\ncore = ctrace\nbranch = true\nsource =\n" + "".join(f"    {name}\n" for name in packages)
    )
    beside = {name.partition(".")[0] for name in modules} - {"wire", "attestation", "enclave"}
    folders = [f"tests/{name}" for name in [*TESTS, *sorted(beside)] if (ROOT / "tests" / name).is_dir()]
    command = [
        sys.executable,
        "-P",
        "-m",
        "coverage",
        "run",
        f"--rcfile={config}",
        "-m",
        "pytest",
        "-p",
        "tests.mutants.contexts",
        *folders,
    ]
    environment = {**os.environ, "MUTANTS_REPORT": str(report), "PYTHONPATH": str(ROOT), "CI": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit("the tests do not run without any mutant")
    ran = json.loads(report.read_text())
    for test in ran["failed"]:
        print(f"left out, fails without any mutant: {test}", flush=True)
    import coverage

    read = coverage.CoverageData(basename=str(data))
    read.read()
    print_branches(modules, data, config)
    lines: dict[str, dict[int, list[str]]] = {}
    for name, path in modules.items():
        contexts = read.contexts_by_lineno(str(path))
        lines[name] = {line: sorted({context for context in tests if context} - set(ran["failed"])) for line, tests in contexts.items()}
    _check_found({test for found in lines.values() for tests in found.values() for test in tests}, environment)
    return Coverage(lines=lines, seconds=ran["seconds"])


def _check_found(tests: set[str], environment: dict[str, str]) -> None:
    """That pytest finds each test by its name, without any mutant."""
    names = WORK / f"{os.getpid()}.tests"
    names.write_text("\n".join(sorted(tests)), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", f"@{names}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"pytest does not find the tests by their names:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def print_branches(modules: dict[str, Path], data: Path, config: Path) -> None:
    """Print what share of the modules' branches these tests take, and each one that they do not."""
    import coverage

    measured = coverage.Coverage(data_file=str(data), config_file=str(config))
    measured.load()
    target = data.with_suffix(".branches")
    with contextlib.redirect_stdout(None):
        measured.json_report(morfs=[str(path) for path in modules.values()], outfile=str(target))
    report = json.loads(target.read_text())
    for name, found in sorted(report["files"].items()):
        for begin, end in found["missing_branches"]:
            print(f"branch not taken: {name} {begin} -> {'exit' if end < 0 else end}", flush=True)
    totals = report["totals"]
    taken, there = totals["covered_branches"], totals["num_branches"]
    print(f"branch coverage: {taken} of {there} branches, {taken / max(1, there):.1%}", flush=True)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives the one module's tree without its check; everything else is found as always."""

    def __init__(self, mutant: Mutant, path: Path) -> None:
        self.mutant = mutant
        self.path = path

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(self.path))
        spec.has_location = True
        return spec

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.mutant.tree, str(self.path), "exec")
        return code

    def get_source(self, fullname: str) -> str:
        return ast.unparse(self.mutant.tree)


def _child(mutant: Mutant, path: Path, tests: list[str]) -> int:
    """In the forked child: run the tests with the mutant in place. Its value is pytest's exit code."""
    import hypothesis

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    signal.alarm(WALL_SECONDS)
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, max_examples=100, deadline=None)
    hypothesis.settings.load_profile("mutants")
    sys.meta_path.insert(0, _Finder(mutant, path))
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no", *tests]))


def start(mutant: Mutant, path: Path, tests: list[str]) -> int:
    """Fork a child for the mutant; its process id."""
    process = os.fork()
    if process == 0:
        code = 1
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.setpgid(0, 0)
            code = _child(mutant, path, tests)
        os._exit(code)
    return process


_FAILED = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)


def _fate(status: int) -> str:
    """What a child's end says. A failed test or import kills, and so does a loop until no CPU time is left; nothing else does.

    That the tests were found is known (`_check_found`), so that finding none of them means that an import failed.
    """
    if status == 0:
        return "survived"
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "unjudged"
    return "killed" if os.WEXITSTATUS(status) in _FAILED else "unjudged"


def _quickest(tests: list[str], coverage: Coverage) -> list[str]:
    """Fastest first."""
    return sorted(tests, key=lambda test: coverage.seconds.get(test, 1.0))


def run(todo: list[Mutant], modules: dict[str, Path], coverage: Coverage, *, jobs: int, deadline: float) -> dict[str, str]:
    """What became of each mutant: killed, survived, uncovered, or unjudged where its tests did not end; absent where no time was left."""
    fates: dict[str, str] = {}
    running: dict[int, Mutant] = {}
    queue = list(reversed(todo))
    while queue or running:
        while queue and len(running) < jobs and time.monotonic() < deadline:
            mutant = queue.pop()
            tests = coverage.lines[mutant.module].get(mutant.line, [])
            if not tests:
                fates[mutant.key] = "uncovered"
                continue
            running[start(mutant, modules[mutant.module], _quickest(tests, coverage))] = mutant
        if not running:
            break
        process, status = os.wait()
        if process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)  # what a test of the child left behind
            mutant = running.pop(process)
            fates[mutant.key] = _fate(status)
            if fates[mutant.key] != "killed":
                print(f"{fates[mutant.key]}: {mutant.key} (line {mutant.line})", flush=True)
    return fates


def listed() -> dict[str, str]:
    """Survivors that are known, with the reason."""
    if not SURVIVORS.exists():
        return {}
    rows = [line.split(" | ") for line in SURVIVORS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {row[0]: row[1] for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Run and report; 0 where at least 95 % are killed and every survivor is listed with a reason."""
    parser = argparse.ArgumentParser(prog="python -P -m tests.mutants")
    parser.add_argument("--modules", nargs="*", default=[], metavar="PREFIX")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    began = time.monotonic()
    modules = target_modules(args.modules)
    coverage = measure(modules)
    for name in PRELOADED:
        importlib.import_module(name)
    todo = [mutant for name, path in modules.items() for mutant in mutants(name, path.read_text(encoding="utf-8"))]
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    random.Random(seed).shuffle(todo)
    print(f"{len(todo)} mutants in {len(modules)} modules, order by seed {seed}", flush=True)
    fates = run(todo, modules, coverage, jobs=args.jobs, deadline=began + args.minutes * 60)
    return report(todo, fates, seed)


def report(todo: list[Mutant], fates: dict[str, str], seed: int) -> int:
    """Print the summary; the exit code."""
    known = listed()
    if len(fates) < len(todo):
        print(f"SAMPLE of {len(fates)} of {len(todo)} mutants, seed {seed}: the time was up")
    alive = sorted(key for key, fate in fates.items() if fate != "killed")
    for key in alive:
        print(f"  {fates[key]}: {key} | {known.get(key, 'NOT LISTED')}")
    by_package = Counter((key.split()[0].partition(".")[0], fate == "killed") for key, fate in fates.items())
    for package in sorted({package for package, _ in by_package}):
        killed = by_package[package, True]
        print(f"{package}: {killed} of {killed + by_package[package, False]} killed")
    killed = sum(fate == "killed" for fate in fates.values())
    share = killed / len(fates) if fates else 0.0
    print(f"mutants: {killed} killed, {len(alive)} alive of {len(fates)}: {share:.1%}")
    return 0 if share >= THRESHOLD and all(key in known for key in alive) else 1


if __name__ == "__main__":
    sys.exit(main())
