"""The MEASURED stage: a manifest is judged before it is measured, and measured into registers that nothing touched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.boot import PCR_MANIFEST, PCR_OWNER, judge_manifest, measure
from enclave.errors import BootError
from enclave.nsm import NsmError, NsmErrorCode
from simulator.enclave_entry import SocketNsm
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from tests.wire import examples
from wire import manifest
from wire.errors import BootFailure
from wire.manifest import SignedManifest

MANIFEST = examples.a_manifest(audit=None)
SOURCE = MANIFEST.clocksources[0]
OWNER = examples.key(1)


def envelope(**changes: object) -> bytes:
    return manifest.sign(manifest.encode(replace(MANIFEST, **changes)), OWNER)  # type: ignore[arg-type]


def failure(call: Callable[[], object]) -> BootFailure:
    with pytest.raises(BootError) as caught:
        call()
    return caught.value.boot_failure


@pytest.mark.parametrize("left", [1, manifest.NOT_AFTER_MAX_SECONDS])
def test_a_good_manifest_passes_to_its_last_second(left: int) -> None:
    """not_after lies ahead, by at most 90 days."""
    assert judge_manifest(envelope(), now=MANIFEST.not_after - left, clocksource=SOURCE).manifest == MANIFEST


@pytest.mark.parametrize("left", [0, -1, manifest.NOT_AFTER_MAX_SECONDS + 1])
def test_an_expired_manifest_or_one_without_end_stops_the_boot(left: int) -> None:
    """Trusted time at or after not_after, or more than 90 days before it: MANIFEST_EXPIRED."""
    assert failure(lambda: judge_manifest(envelope(), now=MANIFEST.not_after - left, clocksource=SOURCE)) is BootFailure.MANIFEST_EXPIRED


def test_a_clock_source_that_the_manifest_does_not_accept_stops_the_boot() -> None:
    """Fail, not warn (T23)."""
    now = MANIFEST.not_after - 1000
    assert failure(lambda: judge_manifest(envelope(), now=now, clocksource="jiffies")) is BootFailure.CLOCKSOURCE_REFUSED


def test_a_damaged_signature_stops_the_boot_before_anything_is_parsed() -> None:
    """One flipped bit: MANIFEST_SIGNATURE, not a word about the content."""
    data = bytearray(envelope())
    data[-1] ^= 1
    assert failure(lambda: judge_manifest(bytes(data), now=MANIFEST.not_after - 1, clocksource=SOURCE)) is BootFailure.MANIFEST_SIGNATURE
    unparsable = manifest.sign(b"\xff", OWNER)
    assert failure(lambda: judge_manifest(unparsable, now=0, clocksource=SOURCE)) is BootFailure.MANIFEST_MALFORMED


def simulated(directory: Path) -> Callable[[bytes], bytes]:
    pki = SimulatedPki.open(directory, instance_id="i-0123456789abcdef0")
    return SimulatedNsm(pcrs={0: b"\1" * 48}, module_id="i-0123456789abcdef0-enc0123456789abcdef", pki=pki).call


@pytest.fixture
def module(tmp_path: Path) -> SocketNsm:
    return SocketNsm(simulated(tmp_path))


@pytest.fixture
def signed() -> SignedManifest:
    return manifest.open_envelope(envelope())


def test_owner_and_manifest_are_measured_and_everything_is_locked(module: SocketNsm, signed: SignedManifest) -> None:
    """PCR16 names the owner, PCR17 the manifest, and none of the 32 can change any more (T17)."""
    measure(module, signed)
    assert module.describe_pcr(PCR_OWNER).value == manifest.extended(manifest.owner_measurement(signed.owner_key))
    assert module.describe_pcr(PCR_MANIFEST).value == manifest.extended(signed.digest)
    assert all(module.describe_pcr(index).locked for index in range(32))


@pytest.mark.parametrize("index", [PCR_OWNER, PCR_MANIFEST])
@pytest.mark.parametrize("how", ["extended", "locked"])
def test_a_register_that_was_touched_stops_the_boot(module: SocketNsm, signed: SignedManifest, index: int, how: str) -> None:
    """Something ran before: PCR_NOT_EMPTY, and nothing is extended."""
    if how == "extended":
        module.extend_pcr(index, b"before")
    else:
        module.lock_pcrs(index + 1)
    assert failure(lambda: measure(module, signed)) is BootFailure.PCR_NOT_EMPTY


class Lying(SocketNsm):
    """A module that does not do what it says."""

    lie = ""

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        if self.lie == "extends otherwise" and index == PCR_MANIFEST:
            data += b"x"
        return super().extend_pcr(index, data)

    def lock_pcrs(self, range_: int) -> None:
        if self.lie == "fails":
            raise NsmError(NsmErrorCode.INTERNAL_ERROR)
        super().lock_pcrs(range_ - 1 if self.lie == "leaves one open" else range_)


@pytest.mark.parametrize("lie", ["extends otherwise", "leaves one open"])
def test_a_register_without_its_value_or_lock_stops_the_boot(tmp_path: Path, signed: SignedManifest, lie: str) -> None:
    """What was extended and locked is read back: PCR_MISMATCH."""
    lying = Lying(simulated(tmp_path))
    lying.lie = lie
    assert failure(lambda: measure(lying, signed)) is BootFailure.PCR_MISMATCH


@pytest.mark.parametrize("calls", range(2 + 2 + 1 + 2 + 32))
def test_a_module_that_ends_meanwhile_says_nothing_about_registers(tmp_path: Path, signed: SignedManifest, calls: int) -> None:
    """Gone at any call: NSM_UNAVAILABLE, and not that the image is not to be used."""
    answer = simulated(tmp_path)
    left = iter(range(calls))

    def gone(request: bytes) -> bytes:
        if next(left, None) is None:
            raise OSError
        return answer(request)

    assert failure(lambda: measure(SocketNsm(gone), signed)) is BootFailure.NSM_UNAVAILABLE


def test_a_module_that_refuses_says_nothing_about_registers(tmp_path: Path, signed: SignedManifest) -> None:
    """An error of the module: NSM_UNAVAILABLE."""
    lying = Lying(simulated(tmp_path))
    lying.lie = "fails"
    assert failure(lambda: measure(lying, signed)) is BootFailure.NSM_UNAVAILABLE


def test_a_setting_that_this_version_does_not_keep_stops_the_boot() -> None:
    """A manifest that asks for an audit log, which there is none of, is refused and not half obeyed."""
    asked = envelope(audit=examples.a_manifest().audit)
    assert failure(lambda: judge_manifest(asked, now=MANIFEST.not_after - 1, clocksource=SOURCE)) is BootFailure.MANIFEST_MALFORMED
