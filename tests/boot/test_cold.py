"""The COLD stage: entropy and clock from the module, a zygote without privileges, then none of our own; each failure has its code."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
import os
from pathlib import Path

import pytest

from enclave import boot
from enclave.boot import CLOCK_TOLERANCE_SECONDS, cold
from enclave.dial import Endpoints
from enclave.errors import BootError
from enclave.machine import Machine
from enclave.platform import PlatformError
from simulator.enclave_entry import SocketNsm
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from wire.endpoint import Unix
from wire.errors import BootFailure, Stage

NOWHERE = Unix("/nonexistent")
ENDPOINTS = Endpoints(session=NOWHERE, feed=NOWHERE, status=NOWHERE, credentials=NOWHERE, kms=NOWHERE)
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"


@dataclass(kw_only=True)
class Recorded:
    """A platform that sets nothing, writes down what it was asked for, and fails where it is told to."""

    fails: str = ""
    failure: BootFailure = BootFailure.INTERNAL
    calls: list[str] = field(default_factory=list)
    entropy: bytes = b""

    def _asked(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise PlatformError(self.failure)

    def set_clock(self, now: datetime) -> None:
        self._asked("set_clock")

    def credit_entropy(self, data: bytes) -> None:
        self.entropy += data
        self._asked("credit_entropy")

    def clocksource(self) -> str:
        return "tsc"

    def become_server(self) -> None:
        self._asked("become_server")

    def become_worker(self) -> None:
        if self.fails == "become_worker":
            raise PlatformError(self.failure)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The stage clears this process's environment; the tests' comes back."""
    kept = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(kept)


def machine(folder: Path, platform: Recorded, ahead: timedelta = timedelta()) -> Machine:
    """A machine whose module's clock is `ahead` of ours."""
    pki = SimulatedPki.open(folder, instance_id="i-0123456789abcdef0")
    module = SimulatedNsm(pcrs={}, module_id=MODULE, pki=pki, clock=lambda: datetime.now(UTC) + ahead)
    return Machine(nsm=SocketNsm(module.call), platform=platform, endpoints=ENDPOINTS)


def test_the_stage_in_order(tmp_path: Path) -> None:
    """512 bytes of the module's generator are credited, the clock is set, and privileges go last, once the zygote runs."""
    platform = Recorded()
    os.environ["LD_PRELOAD_OF_SOMEBODY"] = "x"
    started = cold(machine(tmp_path, platform))
    try:
        assert ["credit_entropy", "credit_entropy", "set_clock", "become_server"] == platform.calls
        assert 512 == len(platform.entropy) and platform.entropy[:256] != platform.entropy[256:]
        assert "LD_PRELOAD_OF_SOMEBODY" not in os.environ
        assert abs(started.clock.now() - datetime.now(UTC).timestamp()) < CLOCK_TOLERANCE_SECONDS
        os.kill(started.zygote.pid, 0)
    finally:
        started.zygote.close()


@pytest.mark.parametrize("seconds", [30, -30])
def test_a_clock_that_stays_wrong_stops_the_boot(tmp_path: Path, seconds: int) -> None:
    """More than 5 s from the module's time after setting: CLOCK_REFUSED."""
    with pytest.raises(BootError, check=lambda error: error.boot_failure is BootFailure.CLOCK_REFUSED):
        cold(machine(tmp_path, Recorded(), ahead=timedelta(seconds=seconds)))


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        ("credit_entropy", BootFailure.ENTROPY_UNAVAILABLE),
        ("set_clock", BootFailure.CLOCK_REFUSED),
        ("become_server", BootFailure.PRIVILEGES_KEPT),
    ],
)
def test_what_the_platform_refuses_stops_the_boot(tmp_path: Path, call: str, failure: BootFailure) -> None:
    """With the platform's own code."""
    with pytest.raises(BootError, check=lambda error: error.boot_failure is failure):
        cold(machine(tmp_path, Recorded(fails=call, failure=failure)))


def test_a_zygote_that_keeps_privileges_stops_the_boot(tmp_path: Path) -> None:
    """It fails between fork and exec, and so does the boot: PRIVILEGES_KEPT."""
    platform = Recorded(fails="become_worker")
    with pytest.raises(BootError, check=lambda error: error.boot_failure is BootFailure.PRIVILEGES_KEPT):
        cold(machine(tmp_path, platform))


def test_a_module_that_is_gone_stops_the_boot(tmp_path: Path) -> None:
    """NSM_UNAVAILABLE before anything else is done."""

    def gone(_: bytes) -> bytes:
        raise OSError

    platform = Recorded()
    with pytest.raises(BootError, check=lambda error: error.boot_failure is BootFailure.NSM_UNAVAILABLE):
        cold(Machine(nsm=SocketNsm(gone), platform=platform, endpoints=ENDPOINTS))
    assert [] == platform.calls


@pytest.mark.parametrize(
    ("error", "failure"),
    [(BootError(BootFailure.MANIFEST_EXPIRED), BootFailure.MANIFEST_EXPIRED), (ValueError("content"), BootFailure.INTERNAL)],
)
def test_whatever_stops_the_boot_is_one_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, failure: BootFailure
) -> None:
    """A refusal's own code, `internal` for a defect; no text of it anywhere, exit code 1, and the zygote ends too."""
    told: list[tuple[Stage, BootFailure | None]] = []
    zygotes: list[int] = []

    def stopped(machine: Machine, clock: object) -> None:
        raise error

    def started(machine: Machine) -> object:
        found = cold(machine)
        zygotes.append(found.zygote.pid)
        return found

    monkeypatch.setattr(boot, "tell", lambda _, stage, failure=None: told.append((stage, failure)))
    monkeypatch.setattr(boot, "measured", stopped)
    monkeypatch.setattr(boot, "cold", started)
    cold_machine = machine(tmp_path, Recorded())
    assert 1 == boot.run(nsm=cold_machine.nsm, platform=cold_machine.platform, endpoints=ENDPOINTS, memory=tmp_path)
    assert [(Stage.COLD, None), (Stage.COLD, failure)] == told
    assert ("", "") == capfd.readouterr()
    with pytest.raises(ProcessLookupError):
        os.kill(zygotes[0], 0)


@pytest.mark.parametrize("gone", [True, False])
def test_the_module_is_asked_once_more_before_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    """One that has ended could attest no session: NSM_UNAVAILABLE, and the port is never opened."""
    told: list[tuple[Stage, BootFailure | None]] = []
    served: list[float] = []
    pki = SimulatedPki.open(tmp_path, instance_id="i-0123456789abcdef0")
    clock = [datetime.now(UTC)]
    module = SimulatedNsm(pcrs={}, module_id=MODULE, pki=pki, clock=lambda: clock[0])
    alive = [True]

    def call(request: bytes) -> bytes:
        if not alive[0]:
            raise OSError
        return module.call(request)

    def loaded(*_: object) -> Iterator[Stage]:
        yield Stage.LOADED
        alive[0] = not gone
        clock[0] += timedelta(seconds=1000)

    monkeypatch.setattr(boot, "tell", lambda _, stage, failure=None: told.append((stage, failure)))
    monkeypatch.setattr(boot, "measured", lambda *_: None)
    monkeypatch.setattr(boot, "load", loaded)
    monkeypatch.setattr(boot, "serve", lambda _, trusted, *__: served.append(trusted.now()))
    started = clock[0].timestamp()
    assert (1 if gone else 0) == boot.run(nsm=SocketNsm(call), platform=Recorded(), endpoints=ENDPOINTS, memory=Path("/dev/shm"))
    stages: list[tuple[Stage, BootFailure | None]] = [(Stage.COLD, None), (Stage.MEASURED, None), (Stage.LOADED, None)]
    assert stages + ([(Stage.LOADED, BootFailure.NSM_UNAVAILABLE)] if gone else []) == told
    assert ([] if gone else [True]) == [now - started >= 999 for now in served]
