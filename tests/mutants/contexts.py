"""A pytest plugin for the covering run: each test is a coverage context named by its node id; its seconds are written down."""

import json
import os
from pathlib import Path

import coverage
import pytest

_seconds: dict[str, float] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """From here on lines belong to this test; parametrised cases too, each by itself."""
    current = coverage.Coverage.current()
    if current is not None:
        current.switch_context(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the phases."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish() -> None:
    """Write the seconds where the runner looks for them."""
    Path(os.environ["MUTANTS_REPORT"]).write_text(json.dumps(_seconds), encoding="utf-8")
