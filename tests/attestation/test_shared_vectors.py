"""Every shared vector is judged by the entry points, and refused by the check that it was made for and by no other."""

from collections.abc import Callable
from datetime import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from attestation import appraise, eif, verify
from attestation.chain import AWS_ROOTS, Root
from attestation.checks import Check
from attestation.errors import AttestationError
from attestation.values import Measurement, ReferenceValues
from attestation.verify import Claims
from tests.vectors_path import ROOT

REASONS: dict[str, dict[str, int | None]] = json.loads((ROOT / "tests" / "vectors" / "reasons.json").read_text())
DOCUMENTS = sorted(name for name in REASONS if name.startswith("attestation/"))
IMAGES = sorted(name for name in REASONS if name.startswith("eif/"))


def refusing(judge: Callable[[], object]) -> Check | None:
    """The check that refuses, None for acceptance."""
    try:
        judge()
    except AttestationError as error:
        return error.checks[0]
    return None


def cases(vectors: Path) -> dict[str, Any]:
    """What the vectors' author says of the synthetic documents."""
    value: dict[str, Any] = json.loads((vectors / "attestation" / "synthetic" / "cases.json").read_text())
    return value


def roots_for(vectors: Path, name: str) -> tuple[Root, ...]:
    """The roots that a document is judged under."""
    if "/synthetic/" not in name:
        return AWS_ROOTS
    return (Root(partition="aws", sha256=hashlib.sha256((vectors / "attestation/synthetic/root.der").read_bytes()).digest()),)


def appraised(claims: Claims, nonce: bytes | None) -> Check | None:
    """The first mismatch of debug, nonce and measurements, the document's own PCR0, PCR1 and PCR2 being the reference."""
    own = {index: claims.pcrs[index] for index in (0, 1, 2)}
    if appraise.debug(claims.pcrs) is not None:
        return Check.DEBUG
    accepted = (Measurement(pcr0=own[0], pcr1=own[1], pcr2=own[2]),)
    assert appraise.matching(claims.pcrs, accepted) == accepted[0]
    if nonce is None:
        return None
    values = ReferenceValues(measurements=accepted, pcr16=bytes(47) + b"\1", min_sequence=1)
    found = appraise.mismatches(claims, None, nonce=nonce, reference_values=values, now=claims.timestamp, max_age=verify.TOLERANCE)
    wanted = {Check.DEBUG, Check.NONCE, Check.MEASUREMENTS}
    return next((item.check for item in found if item.check in wanted), None)


def asked_nonce(vectors: Path, name: str) -> bytes | None:
    """The nonce that the vectors' author asked with; None where none is asked."""
    if "/synthetic/" not in name:
        return None
    table = cases(vectors)
    case = next(case for case in table["cases"] if name.endswith("/" + case["file"]))
    nonce = case.get("nonce", "asked")
    return bytes.fromhex(table["asked_nonce"] if nonce == "asked" else nonce) if nonce is not None else None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_refused_by_the_check_it_was_made_for(shared_vectors: Path, name: str) -> None:
    """Live, archive and appraisal verdicts are those of reasons.json."""
    data, roots = (shared_vectors / name).read_bytes(), roots_for(shared_vectors, name)
    actual: dict[str, int | None] = {}
    if "live" in REASONS[name]:
        now = datetime.fromisoformat(cases(shared_vectors)["now"])
        actual["live"] = refusing(lambda: verify.verify(data, now=now, roots=roots))
    actual["archive"] = refusing(lambda: verify.verify_archive(data, roots=roots))
    if "appraise" in REASONS[name]:
        actual["appraise"] = appraised(verify.verify_archive(data, roots=roots), asked_nonce(shared_vectors, name))
    assert actual == REASONS[name]


@pytest.mark.parametrize("name", IMAGES)
def test_image_is_refused_by_the_rule_it_breaks(shared_vectors: Path, name: str) -> None:
    """An image is measured, or refused by the number of reasons.json."""
    with (shared_vectors / name).open("rb") as stream:
        assert refusing(lambda: eif.measure(stream)) == REASONS[name]["measure"]


def test_every_shared_vector_has_a_reason(shared_vectors: Path) -> None:
    """No document and no image is left unjudged."""
    documents = {
        f"attestation/{path.relative_to(shared_vectors / 'attestation')}" for path in (shared_vectors / "attestation").rglob("*.bin")
    }
    images = {f"eif/{path.name}" for path in (shared_vectors / "eif").glob("*.eif")}
    assert documents | images == set(REASONS)


def test_the_profile_agrees_with_the_vectors_authors(shared_vectors: Path) -> None:
    """What their authors accept passes, what they reject does not; only `policy` cases are ours to decide."""
    manifest = json.loads((shared_vectors / "attestation" / "manifest.json").read_text())
    for vector in manifest["vectors"]:
        verdict = REASONS[f"attestation/{vector['file']}"]
        assert (verdict["archive"] is None) == (vector["expect_archive_allow_debug"] == "accept")
        if "expect_archive" in vector:
            assert verdict["appraise"] == (None if vector["expect_archive"] == "accept" else Check.DEBUG)
    for case in cases(shared_vectors)["cases"]:
        verdict = REASONS[f"attestation/synthetic/{case['file']}"]
        if case["verdict"] != "policy":
            assert all(check is None for check in verdict.values()) == (case["verdict"] == "accept"), case["file"]
    for case in json.loads((shared_vectors / "eif" / "cases.json").read_text())["cases"]:
        if case["verdict"] != "policy":
            assert (REASONS[f"eif/{case['file']}"]["measure"] is None) == (case["verdict"] == "accept")


def test_measured_images_have_the_vectors_registers(shared_vectors: Path) -> None:
    """PCR0, PCR1, PCR2 and PCR8 equal those computed by the vectors' author."""
    for case in json.loads((shared_vectors / "eif" / "cases.json").read_text())["cases"]:
        if case["pcrs"] is None:
            continue
        with (shared_vectors / "eif" / case["file"]).open("rb") as stream:
            measured = eif.measure(stream)
        assert {f"PCR{index}": value.hex() for index, value in measured.pcrs.items()} == case["pcrs"]


def test_pcr4_is_the_instance_that_module_id_names_in_every_genuine_document(shared_vectors: Path) -> None:
    """The consistency check 609 holds for each of them, so that demanding it refuses no real enclave."""
    for path in sorted((shared_vectors / "attestation" / "real").glob("*.bin")):
        claims = verify.verify_archive(path.read_bytes())
        assert claims.pcrs[4] == appraise.pcr4_of(claims.module_id.split("-enc")[0])


def test_genuine_documents_are_expired_for_a_live_verifier(shared_vectors: Path) -> None:
    """A document of another day is refused as expired, whatever its age does to the other rules."""
    now = datetime.fromisoformat("2026-11-01T12:00:00+00:00")
    for path in sorted((shared_vectors / "attestation" / "real").glob("*.bin")):
        data = path.read_bytes()
        assert refusing(lambda data=data: verify.verify(data, now=now)) == Check.EXPIRED  # type: ignore[misc]


def test_the_roots_of_the_vectors_are_the_pinned_ones(shared_vectors: Path) -> None:
    """Both partitions' roots are pinned by the digest of the certificate that AWS publishes."""
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in (shared_vectors / "attestation" / "roots").glob("*.der")}
    assert {root.sha256 for root in AWS_ROOTS} == digests


def test_no_byte_of_a_genuine_document_is_free(shared_vectors: Path) -> None:
    """Flipped at every 101st offset, another one first in each document; `make fuzz` takes every offset."""
    for number, path in enumerate(sorted((shared_vectors / "attestation" / "real").glob("*.bin"))):
        data = path.read_bytes()
        for place in range(number, len(data), 101):
            damaged = bytearray(data)
            damaged[place] ^= 1 << (place % 8)
            assert refusing(lambda damaged=damaged: verify.verify_archive(bytes(damaged))) is not None  # type: ignore[misc]
