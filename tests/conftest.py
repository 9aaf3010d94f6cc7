"""Fixtures of the whole suite, and the policing of skips: in CI a skip that tests/allowed-skips.txt does not list fails the run."""

import os
from pathlib import Path

from hypothesis import settings
import pytest

from tests.vectors_path import shared_vectors

__all__ = ["shared_vectors"]

# The same examples in every run, and no clock: a busy machine fails no test.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

ALLOWED_SKIPS = Path(__file__).with_name("allowed-skips.txt")


def allowed_reasons(text: str) -> tuple[str, ...]:
    """The reasons listed, comments and empty lines left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class SkipPolice:
    """Counts skips by reason; unlisted ones fail the run in CI, listed ones are said in capitals with what they hide."""

    def __init__(self, allowed: tuple[str, ...], *, strict: bool) -> None:
        self.allowed = allowed
        self.strict = strict
        self.counts: dict[str, int] = {}

    def unlisted(self) -> tuple[str, ...]:
        """Reasons met that no listed prefix covers."""
        return tuple(reason for reason in self.counts if not reason.startswith(self.allowed))

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Record a skip's reason."""
        if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            self.counts[reason] = self.counts.get(reason, 0) + 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hook: every phase of every test."""
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Hook: a module skipped as a whole."""
        self.note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hook: an unlisted skip is a failure of the run."""
        if self.strict and self.unlisted() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Hook: what was skipped, and whether that may be."""
        for reason, count in self.counts.items():
            if reason.startswith(self.allowed):
                terminalreporter.write_line(f"SKIPPED, AND NOT SHOWN BY THIS RUN: {count} TESTS, BECAUSE {reason.upper()}")
            elif self.strict:
                terminalreporter.write_line(f"SKIP NOT IN tests/allowed-skips.txt: {count} TESTS: {reason}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Install the police; strict where CI=true."""
    allowed = allowed_reasons(ALLOWED_SKIPS.read_text(encoding="utf-8"))
    config.pluginmanager.register(SkipPolice(allowed, strict=os.environ.get("CI") == "true"), "skip-police")
