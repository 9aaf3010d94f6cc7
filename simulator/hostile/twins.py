"""Twins: the same attack in a copy of the tree from which one named check was taken out, where it must succeed.

A twin edits source text in a copy; measurement, key policy and reference values are made anew from that copy by the run
itself, so that nothing but the missing check decides. Product code has no hook for any of this.
"""

from dataclasses import dataclass
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from simulator.world import TREE, memory_folder

PACKAGES = ("wire", "enclave", "attestation", "owner", "parent", "cloister", "simulator")
RUN_SECONDS = 240.0


class TwinError(Exception):
    """A twin does not apply to the tree as it is, or its run broke: the registry must be mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Replace `old`, which stands exactly once in `file`, by `new`."""

    file: str
    old: str
    new: str


def copy_tree(target: Path, edits: tuple[Edit, ...] = ()) -> None:
    """The product and simulator packages of this tree in `target`, edited. Raises: TwinError."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in PACKAGES:
        shutil.copytree(TREE / package, target / package, ignore=ignored)
    (target / "requirements").mkdir()
    shutil.copy(TREE / "requirements" / "enclave.lock", target / "requirements" / "enclave.lock")
    for edit in edits:
        path = target / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise TwinError(f"{edit.file}: the check to take out stands {text.count(edit.old)} times, not once")
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run of an attack ended: whether it got what it wanted, and what refused it."""

    succeeded: bool
    refused_by: str | None


def run_in(tree: Path, attack: str) -> Outcome:
    """Run one attack in a process of its own with the code of `tree`. Raises: TwinError."""
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-m", "simulator", "attack", attack, "--here"],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=memory_folder(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        return Outcome(succeeded=found["succeeded"], refused_by=found["refused_by"])
    except (ValueError, IndexError, KeyError):
        raise TwinError(f"{attack} broke: {done.stderr.decode(errors='replace')[-2000:]}") from None


def run_with(attack: str, edits: tuple[Edit, ...]) -> Outcome:
    """Run the attack in a copy of the tree with these edits, or in this tree if there are none. Raises: TwinError."""
    if not edits:
        return run_in(TREE, attack)
    with tempfile.TemporaryDirectory(prefix="cloister-twin-", dir=memory_folder()) as folder:
        tree = Path(folder)
        copy_tree(tree, edits)
        return run_in(tree, attack)
