"""What a caller is told of evidence that it refused: the verifier's own error, every mismatch, one code; and nothing was sealed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attestation import evaluate
from attestation.appraise import AttestationResult
from attestation.chain import Root
from attestation.checks import Check
from attestation.errors import AppraisalError, MalformedEvidenceError, Mismatch, UntrustedEvidenceError
from attestation.values import Measurement, pcr16_of
from cloister.api import Client
from cloister.connection import Opening
from cloister.errors import EvidenceRefusedError
from tests.sdk.appliance import Appliance, appliance
from tests.sdk.test_connection import asked, run
from tests.session import world
from wire.counters import Counter
from wire.endpoint import Unix
from wire.errors import Code

Judge = Callable[[bytes, bytes], AttestationResult]
OTHER_OWNER, OTHER_PCR0 = bytes(32), b"\x11" * 48
(ACCEPTED,) = world.REFERENCE.measurements


def refusal(folder: Path, judge: Judge) -> EvidenceRefusedError:
    """What a request meets where evidence is judged so; the enclave saw no opening."""
    told: list[EvidenceRefusedError] = []

    async def work() -> None:
        async with appliance(folder) as there:
            opening = Opening(endpoint=Unix(there.path), judge=judge, identity=world.identity(), answer_bytes=1 << 20)
            async with Client(opening) as caller:
                with pytest.raises(EvidenceRefusedError) as refused:
                    await asked(caller, repeatable=True)
                told.append(refused.value)
            assert_untouched(there)

    run(work())
    (error,) = told
    return error


def assert_untouched(there: Appliance) -> None:
    """One connection was made, no session was opened, no request came."""
    assert (1, 0, []) == (there.accepted, there.desk.counters.get(Counter.SESSIONS_OPENED, 0), there.paths)


def roots() -> tuple[Root, ...]:
    """The one that vouches for the appliance."""
    return (world.pki()[1],)


def test_every_mismatch_is_told(tmp_path: Path) -> None:
    """Authentic evidence of something else: each reference value that differs, as expected and as found, at once."""
    values = replace(
        world.REFERENCE,
        measurements=(Measurement(pcr0=OTHER_PCR0, pcr1=ACCEPTED.pcr1, pcr2=ACCEPTED.pcr2),),
        pcr16=pcr16_of(OTHER_OWNER),
        min_sequence=4,
    )
    error = refusal(tmp_path, lambda body, nonce: evaluate(body, nonce=nonce, reference_values=values, now=world.now(), roots=roots()))
    expected = (
        Mismatch(check=Check.MEASUREMENTS, expected=f"PCR0 {OTHER_PCR0.hex()}", actual=f"PCR0 {ACCEPTED.pcr0.hex()}"),
        Mismatch(check=Check.OWNER, expected=pcr16_of(OTHER_OWNER).hex(), actual=world.REFERENCE.pcr16.hex()),
        Mismatch(check=Check.SEQUENCE, expected="at least 4", actual="3"),
    )
    assert isinstance(error.reason, AppraisalError)
    assert (expected, expected) == (error.mismatches, error.reason.mismatches)
    assert Code.EVIDENCE_REFUSED is error.code


def test_another_root(tmp_path: Path) -> None:
    """Evidence that the pinned root does not vouch for is not authentic: there is nothing to compare."""
    other = (Root(partition="aws", sha256=bytes(32)),)
    error = refusal(
        tmp_path, lambda body, nonce: evaluate(body, nonce=nonce, reference_values=world.REFERENCE, now=world.now(), roots=other)
    )
    assert isinstance(error.reason, UntrustedEvidenceError)
    assert (Check.ROOT, (), Code.EVIDENCE_REFUSED) == (error.reason.check, error.mismatches, error.code)


def test_malformed(tmp_path: Path) -> None:
    """Bytes that are no evidence, the same."""
    error = refusal(
        tmp_path, lambda body, nonce: evaluate(body[:-1], nonce=nonce, reference_values=world.REFERENCE, now=world.now(), roots=roots())
    )
    assert isinstance(error.reason, MalformedEvidenceError)
    assert (Check.CBOR_TRUNCATED, (), Code.EVIDENCE_REFUSED) == (error.reason.check, error.mismatches, error.code)
