"""`cloister image measure` and `image diff`: what an Enclave Image File would have in its registers, and why two differ."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from attestation import eif
from attestation.eif import Measurements, Progress, Section
from attestation.source import printable
from cloister.command import image_build
from cloister.command.output import Context, Exit

BAR_FROM = 64 << 20  # smaller images are measured before a bar would be drawn


@contextmanager
def _progress(path: Path) -> Iterator[Progress | None]:
    """A bar on standard error where a person is looking and the image is large."""
    if not sys.stderr.isatty() or path.stat().st_size < BAR_FROM:
        yield None
        return

    with Bars(
        f"{path.name}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    ) as bars:
        task = bars.add_task("measure", total=path.stat().st_size)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def measured(path: str) -> Measurements:
    """Measure a file. Raises: MalformedImageError, OSError."""
    with Path(path).open("rb") as stream, _progress(Path(path)) as progress:
        return eif.measure(stream, progress)


def _section(section: Section) -> dict[str, object]:
    return {
        "kind": section.kind.name.lower(),
        "offset": section.offset,
        "size": section.size,
        "sha256": section.sha256.hex(),
        "pcrs": list(section.pcrs),
    }


def _signer(image: Measurements) -> dict[str, object] | None:
    if image.signer is None:
        return None
    return {"subject": printable(image.signer.subject), "certificate_sha256": image.signer.certificate_sha256.hex()}


def _value(image: Measurements) -> dict[str, object]:
    return {
        "pcrs": {
            "0": image.pcr0.hex(),
            "1": image.pcr1.hex(),
            "2": image.pcr2.hex(),
            "8": None if image.pcr8 is None else image.pcr8.hex(),
        },
        "sections": [_section(section) for section in image.sections],
        "signer": _signer(image),
        "architecture": "aarch64" if image.aarch64 else "x86_64",
    }


def _text(image: Measurements) -> str:
    lines = [f"PCR{index}  {value.hex()}" for index, value in image.pcrs.items()]
    lines.append("PCR8  zero: the image is not signed" if image.signer is None else f"signed by {printable(image.signer.subject)}")
    for section in image.sections:
        moves = ", ".join(f"PCR{index}" for index in section.pcrs) or "no register"
        lines.append(f"  {section.kind.name.lower():<9} {section.size:>12} bytes  SHA-256 {section.sha256.hex()[:16]}...  moves {moves}")
    return "\n".join(lines)


def _measure(args: argparse.Namespace, context: Context) -> None:
    image = measured(args.image)
    context.show(_text(image), {"accepted": True, "answer": "measured", **_value(image)})


def _named(image: Measurements) -> dict[str, Section]:
    """Sections by name: ramdisks are numbered, for their order decides which registers they move."""
    count: Counter[str] = Counter()
    named = {}
    for section in image.sections:
        kind = section.kind.name.lower()
        named[f"{kind} {count[kind]}" if kind == "ramdisk" else kind] = section
        count[kind] += 1
    return named


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One section that two images do not share, and the registers that it moves."""

    section: str
    change: str
    pcrs: tuple[int, ...]
    sizes: tuple[int | None, int | None]


def differences(first: Measurements, second: Measurements) -> tuple[Difference, ...]:
    """Section by section, in file order; metadata too, which moves nothing."""
    left, right = _named(first), _named(second)
    rows = []
    for name in dict.fromkeys([*left, *right]):
        one, other = left.get(name), right.get(name)
        if one is not None and other is not None and (one.size, one.sha256) == (other.size, other.sha256):
            continue
        there = [item for item in (one, other) if item is not None]
        change = "changed" if len(there) == 2 else "removed" if one is not None else "added"
        pcrs = tuple(sorted({index for item in there for index in item.pcrs}))
        sizes = (None if one is None else one.size, None if other is None else other.size)
        rows.append(Difference(section=name, change=change, pcrs=pcrs, sizes=sizes))
    return tuple(rows)


def _registers(indexes: Iterable[int], none: str) -> str:
    return ", ".join(f"PCR{index}" for index in indexes) or none


def _diff(args: argparse.Namespace, context: Context) -> Exit:
    first, second = measured(args.first), measured(args.second)
    rows = differences(first, second)
    moved = [index for index in (0, 1, 2, 8) if first.pcrs.get(index) != second.pcrs.get(index)]
    still = sorted({index for row in rows for index in row.pcrs} - {8, *moved})
    lines = [f"{row.section:<10} {row.change}: moves {_registers(row.pcrs, 'no register')}" for row in rows]
    lines.append(f"registers that differ: {_registers(moved, 'none')}")
    if still:
        lines.append(f"equal all the same: {_registers(still, '')}; bytes moved across a section's boundary, which no register binds")
    value = {
        "accepted": not rows,
        "answer": "compared",
        "sections": [asdict(row) for row in rows],
        "pcrs": moved,
        "equal_all_the_same": still,
    }
    context.show("\n".join(lines), value)
    return Exit.REJECTED if rows else Exit.ACCEPTED


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("image", help="build, measure and compare enclave images")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    measure = verbs.add_parser("measure", help="PCR0, PCR1, PCR2 and PCR8 of an image, without booting it")
    measure.add_argument("image", metavar="FILE.eif")
    measure.set_defaults(run=_measure)
    diff = verbs.add_parser("diff", help="which section of two images moved which register; exit 1 where they differ")
    diff.add_argument("first", metavar="A.eif")
    diff.add_argument("second", metavar="B.eif")
    diff.set_defaults(run=_diff)
    image_build.register_build(verbs)
