"""The boot: COLD, MEASURED, UNWRAPPED, LOADED, SERVING, once and with no way back (docs/architecture.md).

Every failed check stops it with one fixed code, pushed to the parent's status port: a production enclave has no console.
What may be the parent's or AWS's passing trouble is tried again for ten minutes; a refusal or a bad signature never is.
Configuration comes from the signed manifest alone; the environment is cleared before anything reads it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
import os
from pathlib import Path
import subprocess
import time

from enclave import feed
from enclave.clock import TrustedClock
from enclave.dial import Endpoints, dialler
from enclave.errors import BootError
from enclave.load import load
from enclave.machine import Machine, persist, tell
from enclave.model import ModelHost
from enclave.nsm import PCR_COUNT, Nsm, NsmError
from enclave.platform import Platform, PlatformError
from enclave.service import serve
from enclave.zygote import Zygote
from wire import manifest
from wire.counters import Counter
from wire.errors import BootFailure, Stage, WireError
from wire.manifest import SignedManifest

CLOCK_TOLERANCE_SECONDS = 5.0
PCR_OWNER, PCR_MANIFEST = 16, 17
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a tmpfs; WeightsFolder refuses anything else
# Read by libraries that we import later; nothing else of the environment survives.
_ENVIRONMENT = {"AWS_EC2_METADATA_DISABLED": "true", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """After COLD: trusted time, and the process that workers will be forked from."""

    clock: TrustedClock
    zygote: Zygote


def _now(clock: TrustedClock) -> datetime:
    return datetime.fromtimestamp(clock.now(), UTC)


def cold(machine: Machine) -> Cold:
    """Entropy and clock from the NSM, then the worker zygote, then no privileges. Raises: BootError."""
    nsm, platform = machine.nsm, machine.platform
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    try:
        nsm.describe()
        try:
            for _ in range(2):
                platform.credit_entropy(nsm.random())
        except NsmError:
            raise BootError(BootFailure.ENTROPY_UNAVAILABLE) from None
        clock = TrustedClock(nsm)
        platform.set_clock(_now(clock))
        if abs(time.time() - clock.now()) > CLOCK_TOLERANCE_SECONDS:
            raise BootError(BootFailure.CLOCK_REFUSED)
        zygote = Zygote.start(platform.become_worker)
        platform.become_server()
    except NsmError:
        raise BootError(BootFailure.NSM_UNAVAILABLE) from None
    except PlatformError as error:
        raise BootError(error.boot_failure) from None
    except subprocess.SubprocessError:  # the zygote could not give up what it had
        raise BootError(BootFailure.PRIVILEGES_KEPT) from None
    except OSError:
        raise BootError(BootFailure.INTERNAL) from None
    return Cold(clock=clock, zygote=zygote)


def _fetch_manifest(machine: Machine) -> bytes:
    try:
        return feed.manifest(dialler(machine.endpoints.feed))
    except feed.FeedUnavailable:
        raise BootError(BootFailure.MANIFEST_UNAVAILABLE) from None


def judge_manifest(envelope: bytes, *, now: float, clocksource: str) -> SignedManifest:
    """The owner's signature first, then the content, then time and clock source. Raises: BootError."""
    try:
        signed = manifest.open_envelope(envelope)
    except manifest.MalformedManifestError:
        raise BootError(BootFailure.MANIFEST_MALFORMED) from None
    except WireError:
        raise BootError(BootFailure.MANIFEST_SIGNATURE) from None
    left = signed.manifest.not_after - now
    if not 0 < left <= manifest.NOT_AFTER_MAX_SECONDS:
        raise BootError(BootFailure.MANIFEST_EXPIRED)
    if clocksource not in signed.manifest.clocksources:
        raise BootError(BootFailure.CLOCKSOURCE_REFUSED)
    if signed.manifest.audit is not None:
        raise BootError(BootFailure.MANIFEST_MALFORMED)  # there is no audit log yet: a setting is never silently ignored
    return signed


def measure(nsm: Nsm, signed: SignedManifest) -> None:
    """Extend PCR16 with the owner and PCR17 with the manifest, check both, lock all 32. Raises: BootError.

    A register that is not as it must be is PCR_NOT_EMPTY or PCR_MISMATCH; a module that is gone or refuses says nothing
    about registers: NSM_UNAVAILABLE.
    """
    measurements = {PCR_OWNER: manifest.owner_measurement(signed.owner_key), PCR_MANIFEST: signed.digest}
    try:
        for index in measurements:
            state = nsm.describe_pcr(index)
            if state.locked or any(state.value):
                raise BootError(BootFailure.PCR_NOT_EMPTY)
        for index, measurement in measurements.items():
            nsm.extend_pcr(index, measurement)
        nsm.lock_pcrs(PCR_COUNT)
        for index, measurement in measurements.items():
            if nsm.describe_pcr(index).value != manifest.extended(measurement):
                raise BootError(BootFailure.PCR_MISMATCH)
        if not all(nsm.describe_pcr(index).locked for index in range(PCR_COUNT)):
            raise BootError(BootFailure.PCR_MISMATCH)
    except NsmError:
        raise BootError(BootFailure.NSM_UNAVAILABLE) from None


def measured(machine: Machine, clock: TrustedClock) -> SignedManifest:
    """The manifest, judged and measured. Raises: BootError."""
    envelope = persist(machine, lambda: _fetch_manifest(machine))
    try:
        signed = judge_manifest(envelope, now=clock.now(), clocksource=machine.platform.clocksource())
    except PlatformError as error:
        raise BootError(error.boot_failure) from None
    measure(machine.nsm, signed)
    return signed


def _renew(clock: TrustedClock) -> None:
    """The time once more, after what may have been minutes; a module that is gone by now could attest no session. Raises: BootError."""
    try:
        clock.refresh()
    except NsmError:
        raise BootError(BootFailure.NSM_UNAVAILABLE) from None


def _count_lost(counters: dict[Counter, int]) -> None:
    counters[Counter.WORKERS_LOST] = counters.get(Counter.WORKERS_LOST, 0) + 1


def run(*, nsm: Nsm, platform: Platform, endpoints: Endpoints, memory: Path = MEMORY_FOLDER) -> int:
    """Boot and serve until terminated; the process's exit code: 0 after an orderly end, 1 after a stopped boot.

    `memory`: the folder for weights, refused unless it is backed by memory.
    """
    machine = Machine(nsm=nsm, platform=platform, endpoints=endpoints)
    stage = Stage.COLD
    counters: dict[Counter, int] = {}
    host: ModelHost | None = None
    zygote: Zygote | None = None
    try:
        started = cold(machine)
        zygote = started.zygote
        tell(machine, stage)
        signed = measured(machine, started.clock)
        tell(machine, stage := Stage.MEASURED)
        host = ModelHost(started.zygote, memory, on_lost=lambda: _count_lost(counters))
        for stage in load(machine, started.clock, signed, host):
            tell(machine, stage)
        _renew(started.clock)
        serve(machine, started.clock, signed, host, counters)
    except BootError as error:
        tell(machine, stage, error.boot_failure)
        return 1
    except Exception:  # noqa: BLE001 - whatever it is, its text and traceback must not leave (T25)
        tell(machine, stage, BootFailure.INTERNAL)
        return 1
    finally:
        if host is not None:
            host.close()
        if zygote is not None:
            zygote.close()
    return 0
