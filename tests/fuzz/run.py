"""`make fuzz`: each target for some seconds under atheris, then every genuine document with one byte flipped at each offset.

`python -m tests.fuzz.run SECONDS [TARGET...]`; a finding is written to build/fuzz/ and ends the run with its traceback.
"""

import importlib
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from attestation import verify
from attestation.errors import AttestationError
from tests.fuzz.targets import TARGETS
from tests.vectors_path import ROOT, vectors_directory

FLIPS = (0x01, 0x80)
BUILD = ROOT / "build" / "fuzz"


def _fuzz(name: str, seconds: int) -> None:
    """Never returns: atheris ends the process."""
    atheris: Any = importlib.import_module("atheris")
    target = TARGETS[name]
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    options = [f"-max_total_time={seconds}", "-max_len=33000", "-rss_limit_mb=1024", f"-artifact_prefix={BUILD}/finding-{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()


def flips(path: Path) -> tuple[int, list[int]]:
    """How many one-byte changes of a document were tried, and the offsets at which one was accepted."""
    data = path.read_bytes()
    verify.verify_archive(data)
    accepted = []
    for place in range(len(data)):
        for flip in FLIPS:
            damaged = bytearray(data)
            damaged[place] ^= flip
            try:
                verify.verify_archive(bytes(damaged))
            except AttestationError:
                continue
            accepted.append(place)
    return len(data) * len(FLIPS), accepted


def _flip_all() -> int:
    vectors = vectors_directory()
    if vectors is None:
        sys.stdout.write("flips: shared/vectors absent\n")
        return 0
    total, found = 0, 0
    for path in sorted((vectors / "attestation" / "real").glob("*.bin")):
        tried, accepted = flips(path)
        total, found = total + tried, found + len(accepted)
        if accepted:
            sys.stdout.write(f"ACCEPTED {path.name} with a byte changed at {accepted}\n")
    sys.stdout.write(f"flips: {total} damaged genuine documents, {found} accepted\n")
    return 1 if found else 0


def main() -> int:
    """All targets, each in a process of its own."""
    seconds, names = int(sys.argv[1]), sys.argv[2:]
    if os.environ.get("CLOISTER_FUZZ_ONE"):
        _fuzz(names[0], seconds)
    for name in names or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz.run", str(seconds), name]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CLOISTER_FUZZ_ONE": "1"}, capture_output=True, text=True, check=False)
        last = [line for line in done.stderr.splitlines() if "cov:" in line or "Done" in line][-1:]
        sys.stdout.write(f"{name:<20} {'ok' if done.returncode == 0 else 'FOUND'} {''.join(last)}\n")
        sys.stdout.flush()
        if done.returncode:
            sys.stdout.write(done.stderr[-4000:])
            return 1
    return 0 if names else _flip_all()


if __name__ == "__main__":
    sys.exit(main())
