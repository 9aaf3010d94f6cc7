"""Reports: the verdict, what was proven and what was not; a page that needs nothing and that nothing hostile gets into."""

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation import explain, report_html, report_text, source
from attestation.checks import TEXT, Check
from attestation.explain import Question
from attestation.report import Report, Verdict
from attestation.values import Measurement, ReferenceValues, pcr17_of
from attestation.verify import Moment
from tests.attestation import forge, parties


def judged(
    data: bytes | None = None,
    *,
    values: ReferenceValues | None = parties.VALUES,
    nonce: bytes | None = forge.NONCE,
    moment: Moment = Moment.NOW,
) -> Report:
    """The report on this evidence, a good body by default."""
    return explain.explain(
        Question(
            data=parties.evidence_body() if data is None else data,
            roots=forge.roots(),
            now=forge.NOW,
            moment=moment,
            reference_values=values,
            nonce=nonce,
        )
    )


def registers(**changes: bytes) -> dict[int, bytes]:
    """The appliance's registers, changed."""
    return parties.pcrs() | {int(name[3:]): value for name, value in changes.items()}


OTHER = b"\x11" * 48
CASES: dict[str, tuple[Report, Verdict]] = {
    "good": (judged(), Verdict.ACCEPTED),
    "no nonce": (judged(nonce=None), Verdict.AUTHENTIC),
    "no reference values": (judged(values=None), Verdict.AUTHENTIC),
    "archive": (judged(moment=Moment.DOCUMENT), Verdict.AUTHENTIC),
    "bare document": (judged(forge.document(pcrs=parties.pcrs())), Verdict.REJECTED),
    "other image": (judged(parties.evidence_body(pcrs=registers(pcr0=OTHER))), Verdict.REJECTED),
    "other nonce": (judged(nonce=bytes(32)), Verdict.REJECTED),
    "other image in the archive": (judged(parties.evidence_body(pcrs=registers(pcr0=OTHER)), moment=Moment.DOCUMENT), Verdict.REJECTED),
    "broken signature": (judged(forge.document()[:-1] + b"!"), Verdict.UNTRUSTED),
    "not CBOR": (judged(b"\x84"), Verdict.MALFORMED),
    "nothing": (judged(b""), Verdict.MALFORMED),
    "nothing in the archive": (judged(b"", moment=Moment.DOCUMENT), Verdict.MALFORMED),
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_the_judgement(name: str) -> None:
    """Only a whole body, live, with nonce and reference values is ever ACCEPTED; refused evidence is reported, not raised."""
    report, verdict = CASES[name]
    assert report.verdict is verdict
    assert bool(report.refusals) == (verdict not in (Verdict.ACCEPTED, Verdict.AUTHENTIC))


def statements(report: Report) -> set[Check]:
    """The checks that the report says have shown something."""
    return {check for proof in report.proofs for check in proof.checks}


def test_what_was_refused_is_never_said_to_be_proven() -> None:
    """No proof names a check that failed."""
    for report, _ in CASES.values():
        assert not statements(report) & {item.check for item in report.refusals}


def test_a_refusal_is_said_once() -> None:
    """The rule of the check is not repeated as what was wanted or found."""
    for report, _ in CASES.values():
        text = " ".join(report_text.render(report).split())
        for item in report.refusals:
            assert text.count(" ".join(TEXT[item.check].split())) == 1


def test_what_is_not_there_has_no_section() -> None:
    """Of bytes that are no document the page shows neither chain nor service."""
    good, nothing = (report_html.render(CASES[name][0]) for name in ("good", "nothing"))
    for said in ("Each issues the next", "a session lasts"):
        assert (said in good, said in nothing) == (True, False)


def test_nothing_is_proven_of_what_is_not_authentic() -> None:
    """No proof, no register, no claim: what the document says stands there as said."""
    for name in ("broken signature", "not CBOR", "nothing"):
        report = CASES[name][0]
        assert (report.proofs, report.registers, report.claims, report.attacker) == ((), (), None, ())


def test_an_unknown_image_vouches_for_nothing() -> None:
    """Owner, manifest, binding and sequence are the image's word: worthless where the image is a stranger."""
    pinned = parties.values(pcr17=parties.pcrs()[17], min_sequence=1)
    shown = statements(judged(parties.evidence_body(pcrs=registers(pcr0=OTHER)), values=pinned))
    assert Check.COSE_SIGNATURE in shown
    vouched = {Check.OWNER, Check.MANIFEST, Check.BINDING, Check.SEQUENCE, Check.MANIFEST_EXPIRED}
    assert not shown & (vouched | {Check.MEASUREMENTS})
    assert vouched | {Check.MEASUREMENTS, Check.NONCE, Check.CLOCK_AHEAD} <= statements(judged(values=pinned))


@pytest.mark.parametrize(
    ("changes", "unshown"),
    [
        ({"nonce": None}, {Check.NONCE}),
        ({"values": None}, {Check.NONCE, Check.OWNER, Check.MEASUREMENTS, Check.BINDING, Check.MANIFEST_EXPIRED, Check.SEQUENCE}),
        ({"moment": Moment.DOCUMENT}, {Check.CLOCK_AHEAD, Check.CLOCK_BEHIND}),
        ({"values": parties.values(pcr17=None)}, {Check.MANIFEST}),
        ({"values": parties.values(pcr17=parties.pcrs()[17], min_sequence=None)}, {Check.SEQUENCE}),
        ({"data": forge.document(pcrs=parties.pcrs())}, {Check.BINDING, Check.MANIFEST_EXPIRED, Check.SEQUENCE}),
    ],
    ids=["no nonce", "no reference values", "archive", "no PCR17", "no floor", "bare document"],
)
def test_what_was_not_compared_is_never_said_to_be_proven(changes: dict[str, Any], unshown: set[Check]) -> None:
    """Without its question there is no answer: nonce, reference values, registers, floor, the moment, the body."""
    report = judged(changes.pop("data", None), **changes)
    assert Check.COSE_SIGNATURE in statements(report)
    assert not statements(report) & unshown


def test_the_age_is_the_reference_values() -> None:
    """What `appraise` refuses as too old the report refuses too; the archive compares no age."""
    values = parties.values(max_age=10)
    late = Question(
        data=parties.evidence_body(),
        roots=forge.roots(),
        now=forge.NOW + timedelta(seconds=60),
        moment=Moment.NOW,
        reference_values=values,
        nonce=forge.NONCE,
    )
    report = explain.explain(late)
    assert (report.verdict, [item.check for item in report.refusals]) == (Verdict.REJECTED, [Check.AGE])
    assert explain.explain(replace(late, moment=Moment.DOCUMENT)).verdict is Verdict.AUTHENTIC


def test_the_archive_proves_nothing_about_now() -> None:
    """Neither clock is compared, and the page says so first."""
    report = CASES["archive"][0]
    assert Check.CLOCK_AHEAD not in statements(report)
    assert "now" in report.unknown[0]


def test_registers_say_equal_differs_or_missing() -> None:
    """Beside what was wanted; with two accepted images both are named unless one matches."""
    second = parties.values(measurements=(parties.MEASUREMENT, Measurement(pcr0=OTHER, pcr1=OTHER, pcr2=OTHER)), pcr17=OTHER)
    rows = {row.index: row for row in judged(parties.evidence_body(pcrs=registers(pcr0=OTHER)), values=second).registers}
    assert (rows[0].verdict, len(rows[0].expected), rows[17].verdict, rows[3].verdict) == ("equal", 2, "differs", "")
    rows = {row.index: row for row in judged(values=second).registers}
    assert (rows[1].verdict, rows[1].expected) == ("equal", (parties.MEASUREMENT.pcr1,))
    assert 5 not in rows
    unlocked = {index: value for index, value in parties.pcrs().items() if index != 16}
    rows = {row.index: row for row in judged(parties.evidence_body(pcrs=unlocked)).registers}
    assert (rows[16].verdict, rows[16].value) == ("missing", None)


def test_what_an_attacker_could_do_follows_from_the_reference_values() -> None:
    """A pinned manifest, a list of withdrawals and closed doors each take a sentence away."""
    pinned = parties.values(pcr17=pcr17_of(parties.CONFIG.manifest_digest), withdrawn=parties.withdrawals(), accept_anyone=False)
    loose = parties.values(accept_anyone=True)
    assert len(judged(values=loose).attacker) - len(judged(values=pinned).attacker) == 3
    assert any("any image of their own" in row for row in judged(values=None).attacker)


HOSTILE = "i-1\x1b[2J<script>alert(1)</script>\"'&\u202e"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize("name", CASES)
def test_the_page_is_self_contained(name: str) -> None:
    """No script, no image, no link, no address: it opens from anywhere and asks for nothing."""
    page = report_html.render(CASES[name][0])
    parsed = _Page()
    parsed.feed(page)
    assert not {"script", "img", "link", "iframe", "object", "form", "a"} & set(parsed.tags)
    assert not {"src", "href", "onload", "onclick"} & {attribute for attribute, _ in parsed.attributes}
    assert re.search(r"url\(|@import|https?:", page) is None
    assert "default-src 'none'" in page
    assert f"<h1>{CASES[name][1]}" in page


def test_nothing_that_a_document_says_reaches_terminal_or_page_as_it_is() -> None:
    """Control characters, tags and direction marks are escaped."""
    hostile: dict[str, Any] = {"module_id": HOSTILE, HOSTILE: 1}
    report = judged(parties.evidence_body(parties.CONFIG, parties.PK, **hostile), values=None)
    text, page = report_text.render(report), report_html.render(report, banner=HOSTILE)
    for character in ("\x1b", "\u202e"):
        assert character not in text
        assert character not in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_colour_is_only_where_it_is_seen() -> None:
    """Plain text by default."""
    report = CASES["good"][0]
    assert "\x1b" not in report_text.render(report)
    assert "\x1b[1;32m" in report_text.render(report, colour=True)


@pytest.mark.parametrize("name", CASES)
def test_the_text_fits_a_terminal(name: str) -> None:
    """No line is wider than 100 columns, but for a check's own sentence."""
    lines = report_text.render(CASES[name][0]).splitlines()
    assert lines[0].startswith(CASES[name][1].value)
    assert max(len(line) for line in lines if "not so that" not in line) <= 104


def test_dates_beyond_the_calendar_are_numbers() -> None:
    """A hostile config cannot break the page."""
    assert report_text.date(1 << 52) == f"{1 << 52} s after 1970"
    assert report_text.date(0) == "1970-01-01 00:00:00 UTC"


@given(st.floats(-1e12, 1e12))
def test_every_moment_has_a_place_on_the_axis(seconds: float) -> None:
    """From 0 to 1, in order, the document in the middle."""
    assert 0 <= report_text.position(seconds) <= 1
    assert (report_text.position(seconds) > 0.5) == (seconds > 0) or abs(seconds) < 1e-9
    assert report_text.position(timedelta(days=36500 * 2).total_seconds()) == 1


@given(st.binary(max_size=120))
def test_any_bytes_are_decoded_or_taken_as_they_are(data: bytes) -> None:
    """Reading what a person has never fails."""
    assert isinstance(source.decode(data), bytes)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_report(data: bytes) -> None:
    """And both renderings of it."""
    report = judged(data)
    assert report_text.render(report)
    assert report_html.render(report)
