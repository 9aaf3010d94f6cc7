"""A report as one self-contained HTML page: no script, no network, light and dark, desktop and phone."""

from collections.abc import Iterable
from datetime import datetime
from html import escape

from attestation.checks import TEXT
from attestation.errors import Mismatch
from attestation.report import Link, Proof, Register, Report, Verdict
from attestation.report_style import STYLE
from attestation.report_text import date, headline, position
from attestation.source import printable
from wire.evidence import CALLERS_ANYONE

_TONES = {Verdict.ACCEPTED: "good", Verdict.AUTHENTIC: "care"}
_ADVICE = {
    Verdict.ACCEPTED: "This enclave is what your reference values describe. What you seal to its session key, only it can open.",
    Verdict.AUTHENTIC: "The pinned root vouches for this document. Whether you want its enclave was not decided: rely on nothing yet.",
    Verdict.REJECTED: "The pinned root vouches for this document, and it is not what you accept. Send nothing.",
    Verdict.UNTRUSTED: "No pinned root vouches for this document. Whatever it says may be anyone's invention.",
    Verdict.MALFORMED: "These bytes are no attestation evidence. Nothing in them was believed.",
}
_TICKS = (
    (-31_536_000, "a year before", "far"),
    (-86_400, "a day before", ""),
    (-600, "10 min", "far"),
    (600, "10 min", "far"),
    (86_400, "a day after", ""),
    (315_360_000, "10 years", "far"),
)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _text(value: str) -> str:
    return escape(printable(value))


def _items(rows: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{_text(row)}</li>' for row in rows)}</ul>" if rows else ""


def _refusal(item: Mismatch) -> str:
    wanted = f'<div>wanted <span class="hex">{_text(item.expected)}</span></div>' if item.expected != TEXT[item.check] else ""
    return (
        f'<div class="row"><div><strong>{_text(TEXT[item.check])}</strong><span class="dim">check {item.check.value}, {item.check.reason}'
        f'</span></div>{wanted}<div class="wanted">found <span class="hex">{_text(item.actual)}</span></div></div>'
    )


def _numbers(proof: Proof) -> str:
    return ", ".join(str(check.value) for check in proof.checks)


def _proofs(report: Report) -> str:
    rows = (
        f'<li>{_text(proof.statement)}<div class="dim">by {_text(proof.by)}; checks {_numbers(proof)}</div></li>' for proof in report.proofs
    )
    return f"<ul>{''.join(rows)}</ul>" if report.proofs else ""


def _register(row: Register) -> str:
    tag = f'<span class="tag {row.verdict}">{row.verdict}</span>' if row.verdict else '<span class="dim">not compared</span>'
    value = "absent" if row.value is None else row.value.hex()
    wanted = ""
    if row.verdict in ("differs", "missing"):
        wanted = "".join(f'<div class="wanted">wanted <span class="hex">{item.hex()}</span></div>' for item in row.expected)
    return (
        f'<div class="row"><div><strong>PCR{row.index}</strong><span>{_text(row.measures)}</span>{tag}</div>'
        f'<div class="hex">{value}</div>{wanted}</div>'
    )


def _link(link: Link, moment: datetime) -> str:
    left, right = (position((at - moment).total_seconds()) * 100 for at in (link.begins, link.ends))
    leaf = ' class="leaf"' if link.place == "leaf" else ""
    return (
        f'<div class="link"><strong>{_text(link.place)}</strong> <span class="dim">{link.begins:%Y-%m-%d %H:%M:%S} to '
        f'{link.ends:%Y-%m-%d %H:%M:%S}</span><div class="axis"><b{leaf} style="left:{left:.2f}%;width:{max(right - left, 0.4):.2f}%"></b>'
        f'<i></i></div><div class="dim hex">{_text(link.subject)}</div></div>'
    )


def _chain(report: Report) -> str:
    if not report.chain:
        return ""
    moment = report.judged_at if report.claims is None else report.claims.timestamp
    what = "now" if report.claims is None else "the moment of the document"
    ticks = "".join(f'<span class="{far}" style="left:{position(seconds) * 100:.1f}%">{label}</span>' for seconds, label, far in _TICKS)
    return (
        f'<p class="dim">Each issues the next, from the pinned root down. The red line is {what}, {moment:%Y-%m-%d %H:%M:%S} UTC; '
        f'time grows logarithmically from it both ways.</p><div class="ticks">{ticks}</div>'
        + "".join(_link(link, moment) for link in report.chain)
    )


def _list(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<dt>{escape(name)}</dt><dd class="hex">{_text(value)}</dd>' for name, value in rows)
    return f"<dl>{cells}</dl>"


def _service(report: Report) -> str:
    if report.evidence is None:
        return ""
    config, pk = report.evidence.config, report.evidence.pk
    rows = (
        ("owner key", config.owner_key.hex()),
        ("manifest", f"sequence {config.sequence}, not after {date(config.not_after)}"),
        ("callers", "anyone" if config.callers == CALLERS_ANYONE else "with a credential of the manifest's issuers"),
        ("audit log", "none" if config.audit_key is None else f"signed by {config.audit_key.hex()}"),
        ("a session lasts", f"{config.session_seconds} s at most"),
        ("session key", f"{pk[:24].hex()}..., {len(pk)} bytes, ML-KEM-768 and X25519"),
    )
    return _list(rows)


def _document(report: Report) -> str:
    document = report.document
    if document is None:
        return ""
    rows = [
        ("enclave", document.module_id),
        ("made at", date(document.timestamp // 1000)),
        *(
            (name, "absent" if value is None else f"{len(value)} bytes: {value[:64].hex()}{'...' if len(value) > 64 else ''}")
            for name, value in (("nonce", document.nonce), ("user_data", document.user_data), ("public_key", document.public_key))
        ),
    ]
    if report.claims is not None:
        rows.append(("SHA-256", report.claims.digest.hex()))
        rows.append(("partition", report.claims.partition))
    if document.unknown_keys:
        rows.append(("members unknown to this version", ", ".join(document.unknown_keys)))
    return _list(rows)


def render(report: Report, *, banner: str | None = None) -> str:
    """The page. `banner`: a line over the verdict, for a judgement under another root than AWS's."""
    over = f'<p class="banner">{_text(banner)}</p>' if banner else ""
    said = "said by the document" if report.claims is not None else "said by the document, and not believed"
    sections = (
        ("Refused: not so that", "".join(_refusal(item) for item in report.refusals)),
        ("Proven, and by whom", _proofs(report)),
        ("Registers", "".join(_register(row) for row in report.registers)),
        ("Service" if report.verdict is Verdict.ACCEPTED else "Service: said by the evidence", _service(report)),
        ("Certificates", _chain(report)),
        ("Document: " + said, _document(report)),
        ("Not proven", _items(report.unknown)),
        ("What an attacker could still do", _items(report.attacker)),
    )
    body = "".join(_section(title, text) for title, text in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(report.verdict)}: attestation report</title><style>{STYLE}</style></head><body><main>"
        f'<header class="{_TONES.get(report.verdict, "bad")}">{over}<h1>{_text(headline(report))}</h1>'
        f"<p>{escape(_ADVICE[report.verdict])}</p></header>{body}</main></body></html>\n"
    )
