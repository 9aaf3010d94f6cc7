"""How long a verification takes: `make bench-verify`. Medians of interleaved rounds, CPU time, one process, no network.

The evidence is the tests' own; with the shared vectors there, genuine documents are verified as well.
"""

from collections.abc import Callable
import io
import json
from pathlib import Path
import platform
import statistics
import sys
import time

import attestation
from attestation import document, eif, verify
from attestation.chain import PathCache
from attestation.eif_format import HEADER
from tests.attestation import forge, parties
from tests.vectors_path import vectors_directory

ROUNDS = 300
IMAGE_BYTES = 256 << 20


def _timed(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e6


def _cold(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        verify._CACHE = PathCache()
        return work()

    return run


def _evaluate() -> Callable[[], object]:
    body = parties.evidence_body()
    return lambda: attestation.evaluate(body, nonce=forge.NONCE, reference_values=parties.VALUES, now=forge.NOW, roots=forge.roots())


def _cases() -> dict[str, Callable[[], object]]:
    evaluate = _evaluate()
    raw = parties.evidence().document
    cases: dict[str, Callable[[], object]] = {
        "evaluate, first of its chain": _cold(evaluate),
        "evaluate, chain seen before": evaluate,
        "parse alone": lambda: document.parse(raw),
    }
    directory = vectors_directory()
    if directory is not None:
        newest = max((directory / "attestation" / "real").glob("*.bin")).read_bytes()
        cases["genuine document, first of its chain"] = _cold(lambda: verify.verify_archive(newest))
        cases["genuine document, chain seen before"] = lambda: verify.verify_archive(newest)
    return cases


def _image_rate() -> float:
    """GB/s of CPU time for an image whose application is 256 MiB."""
    image = io.BytesIO(eif.compose(kernel=bytes(1 << 20), cmdline=b"reboot=k", ramdisks=[bytes(1 << 20), bytes(IMAGE_BYTES)]))
    size = len(image.getbuffer()) - HEADER.size
    return size / 1e6 / _timed(lambda: eif.measure(image))


def main() -> None:
    """Print a table; with a path as argument, write the JSON there too."""
    cases = _cases()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, work in cases.items():
            taken[name].append(_timed(work))
    rows = {}
    for name, values in taken.items():
        deciles = statistics.quantiles(values, n=10)
        rows[name] = {"median_ms": round(statistics.median(values), 3), "p10_ms": round(deciles[0], 3), "p90_ms": round(deciles[8], 3)}
        sys.stdout.write(f"{name:<40} {rows[name]['median_ms']:>7.2f} ms  ({rows[name]['p10_ms']:.2f} to {rows[name]['p90_ms']:.2f})\n")
    rate = round(_image_rate(), 2)
    sys.stdout.write(f"{'image measured at':<40} {rate:>7.2f} GB/s\n")
    if len(sys.argv) > 1:
        result = {"python": platform.python_version(), "rounds": ROUNDS, "verification": rows, "image_gb_per_s": rate}
        Path(sys.argv[1]).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
