"""A skip that nobody allowed must not look like success in CI."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from tests.conftest import ALLOWED_SKIPS, allowed_reasons

CASE = """
import pytest

def test_runs():
    pass

def test_skips():
    pytest.skip({reason!r})
"""


def run(tmp_path: Path, reason: str, ci: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "test_case.py").write_text(CASE.format(reason=reason))
    plugin = "from tests.conftest import pytest_configure\n"
    (tmp_path / "conftest.py").write_text(plugin)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-c", os.devnull, str(tmp_path)]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ALLOWED_SKIPS.parent.parent)}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("reason", "ci", "code"), [("because", "true", 1), ("because", "", 0), ("shared/vectors absent", "true", 0)])
def test_unlisted_skip_fails_in_ci_alone(tmp_path: Path, reason: str, ci: str, code: int) -> None:
    """In CI a skip with an unlisted reason fails the run; a listed one, and any outside CI, does not."""
    done = run(tmp_path, reason, ci)
    assert done.returncode == code, done.stdout


def test_listed_skip_is_said_in_capitals_with_its_count(tmp_path: Path) -> None:
    """A run that hid tests for want of the vectors says how many."""
    assert "1 TESTS, BECAUSE SHARED/VECTORS ABSENT" in run(tmp_path, "shared/vectors absent", "true").stdout


def test_empty_reason_is_never_allowed() -> None:
    """An empty line in the list would allow every skip; it is left out."""
    assert allowed_reasons("\n# comment\n  \nreason\n") == ("reason",)
