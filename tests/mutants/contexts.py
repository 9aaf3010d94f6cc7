"""A pytest plugin for the covering run: each test is a coverage context named by its node id; its seconds are written down."""

import json
import os
from pathlib import Path

import coverage
import pytest

_seconds: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """From here on lines belong to this test; parametrised cases too, each by itself."""
    current = coverage.Coverage.current()
    if current is not None:
        current.switch_context(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the phases; a test that fails without any mutant can show nothing."""
    if report.failed:
        _failed.add(report.nodeid)
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish() -> None:
    """Write the seconds where the runner looks for them."""
    Path(os.environ["MUTANTS_REPORT"]).write_text(json.dumps({"seconds": _seconds, "failed": sorted(_failed)}), encoding="utf-8")
