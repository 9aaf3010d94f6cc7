"""`make lane-oracles`: where other verifiers and this one differ, each difference must be one that is explained.

Needs the shared vectors, faketime, and an environment with the oracles: `python -m tests.oracles.compare PYTHON`.
"""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
import hashlib
import json
from pathlib import Path
import subprocess
import sys
import tempfile

from attestation import document, verify
from attestation.chain import AWS_ROOTS, Root
from attestation.checks import Check
from attestation.errors import AttestationError
from tests.attestation import forge
from tests.oracles.explanations import EXPLANATIONS, explained
from tests.vectors_path import vectors_directory

HERE = Path(__file__).resolve().parent


def ours(data: bytes, roots: tuple[Root, ...]) -> Check | None:
    """This project's answer at the document's own moment."""
    try:
        verify.verify_archive(data, roots=roots)
    except AttestationError as error:
        return error.checks[0]
    return None


def _run(command: list[str]) -> dict[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    verdicts: dict[str, str] = json.loads(done.stdout)
    return verdicts


def _clock(data: bytes) -> str:
    """The moment to freeze a clock at: the document's, or the vectors' own where it says none."""
    try:
        seconds = document.parse(data).timestamp // 1000 + 1
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (AttestationError, ValueError, OverflowError):
        return "2025-09-23 11:56:51"


def judge(python: str, oracle: str, root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """The oracle's verdicts; a clock of its own is frozen for each document."""
    command = [python, str(HERE / "oracles.py"), oracle, str(root)]
    if oracle != "evervault":
        return _run([*command, *map(str, paths)])

    def one(path: Path) -> dict[str, str]:
        return _run(["faketime", _clock(path.read_bytes()), *command, str(path)])

    with ThreadPoolExecutor(2) as pool:
        return {name: verdict for verdicts in pool.map(one, paths) for name, verdict in verdicts.items()}


def _forged(directory: Path) -> list[Path]:
    """Documents of the suite's own root, one for each rule about certificates."""
    documents = {"own-good": forge.document(), "own-tagged": b"\xd2" + forge.document()}
    for name in ("regional", "zonal", "instance", "leaf"):
        for what, changes in forge.DEVIATIONS.items():
            documents[f"own-{name}-{what}"] = forge.document(forge.under_root(forge.changed(name, **changes)))
    paths = []
    for name, data in documents.items():
        (directory / f"{name}.bin").write_bytes(data)
        paths.append(directory / f"{name}.bin")
    return paths


def differences(python: str, vectors: Path) -> dict[tuple[str, str], list[str]]:
    """(oracle, explanation) to the documents on which that oracle and this project differ; unexplained under ""."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        own_root = Path(directory) / "root.der"
        own_root.write_bytes(forge.root_der())
        aws = sorted(
            path for name in ("real", "negative-real", "derived", "qemu") for path in (vectors / "attestation" / name).glob("*.bin")
        )
        synthetic = sorted((vectors / "attestation" / "synthetic").glob("*.bin"))
        synthetic_root = vectors / "attestation" / "synthetic" / "root.der"
        sets = (
            (aws, vectors / "attestation" / "roots" / "aws-nitro-root-g1.der", ("pyopenssl", "cryptography", "evervault")),
            (synthetic, synthetic_root, ("pyopenssl", "cryptography")),
            (_forged(Path(directory)), own_root, ("pyopenssl", "cryptography")),
        )
        for paths, root, oracles in sets:
            pinned = (Root(partition="aws", sha256=hashlib.sha256(root.read_bytes()).digest()),)
            expected = {str(path): ours(path.read_bytes(), AWS_ROOTS if root.name.startswith("aws") else pinned) for path in paths}
            for oracle in oracles:
                for name, verdict in judge(python, oracle, root, paths).items():
                    check = expected[name]
                    found[oracle, "documents"].append(name)
                    if (check is None) != (verdict == "accept"):
                        found[oracle, explained(oracle, check, verdict)].append(f"{Path(name).name} (ours {check}, {verdict})")
    return found


def table(found: dict[tuple[str, str], list[str]]) -> str:
    """The rows of docs/verification.md."""
    rows = ["| oracle | documents | difference | count | why |", "|---|---|---|---|---|"]
    for (oracle, why), names in sorted(found.items()):
        if why in EXPLANATIONS:
            rows.append(
                f"| {oracle} | {len(found[oracle, 'documents'])} | {EXPLANATIONS[why][0]} | {len(names)} | {EXPLANATIONS[why][1]} |"
            )
    return "\n".join(rows)


def main() -> int:
    """Print the table; 1 where a difference has no explanation."""
    vectors = vectors_directory()
    if vectors is None:
        sys.stdout.write("lane-oracles: shared/vectors absent\n")
        return 1
    found = differences(sys.argv[1], vectors)
    sys.stdout.write(table(found) + "\n")
    unexplained = [f"{oracle}: {name}" for (oracle, why), names in found.items() if not why for name in names]
    sys.stdout.write("".join(f"unexplained  {line}\n" for line in unexplained))
    sys.stdout.write(f"lane-oracles: {len(unexplained)} unexplained differences\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
