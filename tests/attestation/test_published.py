"""docs/verification.md and the JSON schemas say what the code does."""

from collections.abc import Callable
import json
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import pytest

import attestation
from attestation import appraise, chain, checks, command, document, eif, reference_values, values, verify, withdrawn
from attestation.checks import TEXT, Check
from cloister.command.main import main
from tests.attestation import forge, parties, schema
from tests.vectors_path import ROOT
from wire import evidence as wire_evidence

PAGE = (ROOT / "docs" / "verification.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def test_every_check_stands_in_the_document() -> None:
    """With its number, its reason for machines and its rule, in order, and no other does."""
    listed = [(int(row[0]), row[1], row[2].replace("\\|", "|")) for row in ROWS if re.fullmatch(r"\d{3}", row[0])]
    assert listed == [(check.value, check.reason, TEXT[check]) for check in Check]


def test_constants_are_the_codes() -> None:
    """Every constant of the table."""
    table = {row[0]: row[1] for row in ROWS if len(row) == 2}
    expected = {
        "document": f"at most {document.DOCUMENT_MAX:,} bytes",
        "payload": f"at most {document.PAYLOAD_MAX:,} bytes",
        "public_key, user_data, nonce": f"at most {document.FIELD_MAX:,} bytes",
        "certificate": f"at most {document.CERTIFICATE_MAX:,} bytes",
        "PCR": f"{document.PCR_BYTES} bytes, {document.PCR_COUNT} of them",
        "nesting": "at most 8",
        "signature": f"{document.SIGNATURE_BYTES} bytes",
        "protected header": document.PROTECTED.hex(),
        "tolerance between clocks": f"{verify.TOLERANCE.seconds} s",
        "nonce of a challenge": f"{wire_evidence.NONCE_BYTES} bytes",
        "session key": f"{wire_evidence.PK_BYTES:,} bytes",
        "config": f"at most {wire_evidence.CONFIG_MAX:,} bytes",
        "maximum age in reference values": f"{values.MAX_AGE} s",
        "list of withdrawals": f"at most {withdrawn.ENTRIES_MAX} entries, {withdrawn.LIFETIME_MAX // 86_400} days",
        "piece in which an image is read": f"{eif.PIECE:,} bytes",
        **{f"{root.partition} root, SHA-256 of the DER": root.sha256.hex() for root in chain.AWS_ROOTS},
    }
    assert {name: value for name, value in table.items() if name in expected} == expected


def test_constructions_are_the_codes() -> None:
    """The labels and layouts of the document, computed as it says."""
    h = appraise.hashlib.sha384  # type: ignore[attr-defined]
    zero = bytes(48)
    key, digest, config = parties.OWNER_KEY, parties.CONFIG.manifest_digest, wire_evidence.encode_config(parties.CONFIG)
    assert r'PCR16 = H(0^48 || H("cloister/1 owner\0" || owner key))' in PAGE
    assert values.pcr16_of(key) == h(zero + h(b"cloister/1 owner\0" + key).digest()).digest()
    assert "PCR17 = H(0^48 || H(manifest payload))" in PAGE
    assert values.pcr17_of(digest) == h(zero + digest).digest()
    assert r'H("cloister/1 evidence\0" || H(config) || pk)' in PAGE
    assert wire_evidence.user_data(config, parties.PK) == h(b"cloister/1 evidence\0" + h(config).digest() + parties.PK).digest()
    assert "PCR4 = H(0^48 || instance id)" in PAGE
    assert appraise.pcr4_of("i-1") == h(zero + b"i-1").digest()


def test_every_check_number_is_used_by_the_code() -> None:
    """A check that nothing raises would be a promise."""
    code = "".join(
        path.read_text()
        for place in ("attestation", "cloister/command")
        for path in (ROOT / place).glob("*.py")
        if path.name != "checks.py"
    )
    assert [check.name for check in Check if f"Check.{check.name}" not in code] == []
    assert set(TEXT) == set(checks.Check)


def test_public_names_are_about_a_dozen_and_typed() -> None:
    """What `from attestation import *` gives, each documented."""
    assert sorted(attestation.__all__) == [
        "AWS_ROOTS",
        "AppraisalError",
        "AttestationError",
        "AttestationResult",
        "Check",
        "Claims",
        "MalformedEvidenceError",
        "MalformedReferenceValuesError",
        "Measurement",
        "Mismatch",
        "ReferenceValues",
        "Root",
        "UntrustedEvidenceError",
        "evaluate",
    ]
    for name in attestation.__all__:
        assert getattr(attestation, name).__doc__
    assert (ROOT / "attestation" / "py.typed").exists()


def test_deciding_does_no_io() -> None:
    """Importing and evaluating need no clock, file, environment or network: only the command does."""
    modules = r"os|socket|time|pathlib|subprocess|random|logging|tempfile"
    forbidden = re.compile(rf"^\s*(?:import|from) (?:{modules})\b|datetime\.now|(?<!archive\.)\bopen\(", re.MULTILINE)
    readers = {"command.py", "__main__.py", "output.py"}
    for path in (ROOT / "attestation").glob("*.py"):
        if path.name not in readers:
            assert forbidden.findall(path.read_text()) == [], path.name


RV_SCHEMA = schema.load("reference-values.schema.json")


def test_reference_values_are_of_the_published_schema() -> None:
    """Signed or not; and what the parser refuses for its form, the schema refuses."""
    signed = reference_values.sign(parties.VALUES, parties.OWNER)
    for data in (reference_values.render(parties.VALUES), signed, reference_values.take_in(signed, parties.withdrawals())):
        assert schema.valid(json.loads(data), RV_SCHEMA)
    good = json.loads(reference_values.render(parties.VALUES))
    changes: list[dict[str, Any]] = [{"max_age": 301}, {"measurements": []}, {"pcr16": "00"}, {"sequence": True}, {"x": 1}]
    changes.append({"accept_anyone": 0})
    for change in changes:
        assert not schema.valid({**good, **change}, RV_SCHEMA)
        with pytest.raises(attestation.MalformedReferenceValuesError):
            reference_values.parse(json.dumps({**good, **change}).encode())
    assert set(RV_SCHEMA["properties"]) == {*reference_values.MEMBERS, *reference_values.BESIDE}


ANSWERS = schema.load("attestation-answers.schema.json")


def test_every_answer_is_of_the_published_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted, rejected, unusable and unanswerable runs of every verb."""
    monkeypatch.setattr(command, "_now", lambda: forge.NOW)
    good, bare, held, out = (str(tmp_path / name) for name in ("good", "bare", "held", "out.zip"))
    Path(good).write_bytes(parties.evidence_body())
    Path(bare).write_bytes(forge.document(extra=1))
    Path(held).write_bytes(reference_values.render(parties.VALUES))
    asked = ["--reference-values", held, "--nonce", forge.NONCE.hex()]
    runs: list[list[str]] = [
        ["inspect", bare],
        ["verify", good],
        ["verify", bare, "--at", "document"],
        ["appraise", good, *asked],
        ["appraise", bare, *asked],
        ["explain", good, *asked],
        ["explain", bare, *asked],
        ["explain", held],
        ["pack", out, "--evidence", good, *asked],
        ["pack", out, "--check"],
        ["pack", good, "--check"],
        ["inspect", held],
        ["inspect", "/nonexistent"],
        ["verify"],
        ["appraise", good, "--reference-values", bare, "--nonce", forge.NONCE.hex()],
    ]
    named: Callable[[str], str] = lambda text: json.loads(text).get("answer", "error")  # noqa: E731
    seen = set()
    for arguments in runs:
        main(["attestation", *arguments, "--json"], forge.roots())
        (line,) = capsys.readouterr().out.splitlines()
        assert schema.valid(json.loads(line), ANSWERS), (arguments, line)
        seen.add(named(line))
    assert seen == {"inspected", "verified", "appraised", "explained", "packed", "checked", "error"}


def test_the_library_example_of_the_readme_of_the_package_runs() -> None:
    """The lines under "As a library" in docs/verification.md."""
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + example[1]
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (
        0,
        "check 101 (document-size) does not hold: the document has 1 to 32,768 bytes [0 bytes]",
    )


def test_every_test_that_the_document_names_is_there() -> None:
    """A pitfall without its test would be a promise."""
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) >= 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / "attestation" / file).read_text()
