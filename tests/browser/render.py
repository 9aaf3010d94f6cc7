"""`make lane-browser`: the report's page in headless Chromium, light and dark, desktop and phone; the verdict is read back.

`python -m tests.browser.render DIRECTORY` writes the pages and screenshots there, for a person to look at.
"""

from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import struct
import subprocess
import sys
import tempfile

from attestation import report_html
from attestation.explain import Question, explain
from attestation.verify import Moment
from tests.attestation import forge, parties

# What a container's Chromium needs, and nothing that talks to a network.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SCHEMES = {"light": "1", "dark": "0"}
WIDTHS = {"desktop": (1100, 2600), "phone": (500, 3800)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page and what must be readable on it."""

    name: str
    html: str
    verdict: str


def pages() -> list[Page]:
    """Accepted, rejected for several reasons, authentic in the archive, and bytes that are none."""
    other = parties.pcrs() | {1: b"\x11" * 48, 4: b"\x22" * 48}
    cases = {
        "accepted": (parties.evidence_body(), Moment.NOW, "ACCEPTED at"),
        "rejected": (parties.evidence_body(pcrs=other, nonce=bytes(32)), Moment.NOW, "REJECTED at"),
        "archive": (parties.evidence_body(), Moment.DOCUMENT, "AUTHENTIC, NOT APPRAISED (judged at"),
        "malformed": (b"\x84nothing", Moment.NOW, "MALFORMED at"),
    }
    found = []
    for name, (data, moment, verdict) in cases.items():
        question = Question(
            data=data, roots=forge.roots(), now=forge.NOW, moment=moment, reference_values=parties.VALUES, nonce=forge.NONCE
        )
        html = report_html.render(explain(question), banner="SIMULATED: judged under a root of the tests")
        found.append(Page(name=name, html=html, verdict=verdict))
    return found


def _chromium(*arguments: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [os.environ.get("CHROMIUM", "chromium"), *FLAGS, f"--user-data-dir={profile}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def _size(png: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    return width, height


def check(page: Page, directory: Path) -> list[str]:
    """Open the page, read the verdict and the banner back, take the four screenshots; what is wrong, as lines."""
    path = directory / f"{page.name}.html"
    path.write_text(page.html, encoding="utf-8")
    shown = _chromium("--dump-dom", f"file://{path}")
    wrong = [f"{page.name}: {text!r} is not on the page" for text in (f"<h1>{page.verdict}", "SIMULATED: judged") if text not in shown]
    for scheme, number in SCHEMES.items():
        for width, size in WIDTHS.items():
            png = directory / f"{page.name}-{scheme}-{width}.png"
            setting = f"--blink-settings=preferredColorScheme={number}"
            _chromium(setting, f"--window-size={size[0]},{size[1]}", f"--screenshot={png}", f"file://{path}")
            if _size(png) != size:
                wrong.append(f"{png.name}: no screenshot of {size}")
    return wrong


def main() -> int:
    """All pages."""
    if shutil.which(os.environ.get("CHROMIUM", "chromium")) is None:
        sys.stdout.write("lane-browser: chromium is missing; install it with: sudo apt-get install chromium\n")
        return 1
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    wrong = [line for page in pages() for line in check(page, directory.resolve())]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    sys.stdout.write(f"lane-browser: {len(pages())} pages, {len(wrong)} wrong, screenshots in {sys.argv[1]}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
