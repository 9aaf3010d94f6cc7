"""A report for a terminal: plain text, 100 columns at most, colour only where the caller says that it is seen."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
import math
import textwrap

from attestation.checks import TEXT
from attestation.report import Link, Register, Report, Verdict
from attestation.source import printable
from attestation.verify import Moment
from wire.evidence import CALLERS_ANYONE

WIDTH = 100
BAR = 41
_COLOURS = {Verdict.ACCEPTED: 32, Verdict.AUTHENTIC: 33}
_MARKS = {"equal": "=", "differs": "!", "missing": "!", "": " "}


def position(seconds: float) -> float:
    """Where a moment lies on an axis from 0 to 1 whose middle is 0 s: logarithmic, a minute to a century each way."""
    reach = math.log(1 + 100 * 365 * 86_400 / 60)
    return 0.5 + math.copysign(min(math.log(1 + abs(seconds) / 60) / reach, 1), seconds) / 2


def _bar(link: Link, moment: datetime) -> str:
    left, right = (round(position((at - moment).total_seconds()) * (BAR - 1)) for at in (link.begins, link.ends))
    cells = ["─" if left <= place <= right else " " for place in range(BAR)]
    cells[BAR // 2] = "┼" if left <= BAR // 2 <= right else "│"
    return "".join(cells)


def _chain(report: Report) -> Iterator[str]:
    moment = report.judged_at if report.claims is None else report.claims.timestamp
    what = "now" if report.claims is None else "the document"
    yield f"  the line in the middle is {what}, {moment:%Y-%m-%d %H:%M:%S} UTC; the axis is logarithmic"
    for link in report.chain:
        yield f"  {link.place:<9}{_bar(link, moment)}  {link.begins:%Y-%m-%d %H:%M} to {link.ends:%Y-%m-%d %H:%M}"
        yield f"           {link.subject[: WIDTH - 11]}"


def _hex(value: bytes, indent: int) -> Iterator[str]:
    text = value.hex()
    yield from (" " * indent + text[place : place + 64] for place in range(0, len(text), 64))


def _register(row: Register) -> Iterator[str]:
    yield f"{_MARKS[row.verdict]} PCR{row.index:<3} {row.measures}" + (f" ({row.verdict})" if row.verdict else "")
    yield from ["         absent"] if row.value is None else _hex(row.value, 9)
    if row.verdict not in ("", "equal"):
        for place, value in enumerate(row.expected):
            yield "         wanted:" if place == 0 else "         or:"
            yield from _hex(value, 9)


def _service(report: Report) -> Iterator[str]:
    if report.evidence is None:
        return
    config = report.evidence.config
    callers = "anyone" if config.callers == CALLERS_ANYONE else "with a credential of the manifest's issuers"
    yield f"  owner key         {config.owner_key.hex()}"
    yield f"  manifest          sequence {config.sequence}, not after {date(config.not_after)}"
    yield f"  callers           {callers}"
    yield f"  audit log         {'none' if config.audit_key is None else 'signed by ' + config.audit_key.hex()}"
    yield f"  a session lasts   {config.session_seconds} s at most"


def _wrapped(rows: Iterable[str]) -> Iterator[str]:
    for row in rows:
        yield from textwrap.wrap(row, WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _refusals(report: Report) -> Iterator[str]:
    for item in report.refusals:
        yield f"  check {item.check.value} {item.check.reason}: not so that {TEXT[item.check]}"
        for name, value in (("wanted", item.expected), ("found ", item.actual)):
            if value == TEXT[item.check]:
                continue
            yield from textwrap.wrap(printable(value), WIDTH, initial_indent=f"    {name}  ", subsequent_indent=" " * 12)


def _proven(report: Report) -> Iterator[str]:
    for proof in report.proofs:
        yield from textwrap.wrap(proof.statement, WIDTH, initial_indent="  - ", subsequent_indent="    ")
        numbers = ", ".join(str(check.value) for check in proof.checks)
        yield from textwrap.wrap(f"by {proof.by} (checks {numbers})", WIDTH, initial_indent="    ", subsequent_indent="    ")


def date(seconds: int) -> str:
    """Seconds since 1970 for a person."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"


def headline(report: Report) -> str:
    """The verdict and the moment that it is about."""
    if report.moment is Moment.NOW or report.claims is None:
        return f"{report.verdict} at {report.judged_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{report.verdict} (judged at the document's own moment, {report.claims.timestamp:%Y-%m-%d %H:%M:%S} UTC)"


def render(report: Report, *, colour: bool = False) -> str:
    """The whole report."""
    head = headline(report)
    sections = (
        ("refused because", _refusals(report)),
        ("proven", _proven(report)),
        ("registers", (line for row in report.registers for line in _register(row))),
        ("service" if report.verdict is Verdict.ACCEPTED else "service, as the evidence says", _service(report)),
        ("certificates", _chain(report) if report.chain else ()),
        ("not proven", _wrapped(report.unknown)),
        ("an attacker could still", _wrapped(report.attacker)),
    )
    lines = [f"\x1b[1;{_COLOURS.get(report.verdict, 31)}m{head}\x1b[0m" if colour else head]
    for title, rows in sections:
        body = list(rows)
        if body:
            lines += ["", f"\x1b[1m{title}\x1b[0m" if colour else title, *body]
    return "\n".join(lines)
