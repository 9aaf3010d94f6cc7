"""The image's platform: what it hands to the kernel, and what it says when the kernel refuses. The machine is never touched."""

from datetime import UTC, datetime
import fcntl
from pathlib import Path
import struct
import time

import pytest

from enclave import platform
from enclave.platform import NitroPlatform, PlatformError
from wire.errors import BootFailure


def test_the_clock_is_set_to_the_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_REALTIME is set to the instant, whatever its zone."""
    calls: list[tuple[int, float]] = []
    monkeypatch.setattr(time, "clock_settime", lambda clock, seconds: calls.append((clock, seconds)))
    NitroPlatform().set_clock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert calls == [(time.CLOCK_REALTIME, 1767323045.0)]


def test_a_refused_clock_is_said_as_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's refusal becomes CLOCK_REFUSED."""

    def refuse(_clock: int, _seconds: float) -> None:
        raise PermissionError

    monkeypatch.setattr(time, "clock_settime", refuse)
    with pytest.raises(PlatformError) as caught:
        NitroPlatform().set_clock(datetime(2026, 1, 2, tzinfo=UTC))
    assert caught.value.boot_failure is BootFailure.CLOCK_REFUSED


def test_entropy_is_credited_with_all_its_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RNDADDENTROPY carries struct rand_pool_info: bits, bytes, buffer."""
    device = tmp_path / "random"
    device.touch()
    monkeypatch.setattr(platform, "RANDOM_DEVICE", str(device))
    calls: list[tuple[int, bytes]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _file, number, data: calls.append((number, data)))
    NitroPlatform().credit_entropy(b"\xaa" * 256)
    assert calls == [(0x40085203, struct.pack("ii", 2048, 256) + b"\xaa" * 256)]


def test_entropy_that_the_kernel_refuses_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A generator that takes nothing (here: a plain file, which knows no such ioctl) is ENTROPY_UNAVAILABLE."""
    device = tmp_path / "random"
    device.touch()
    monkeypatch.setattr(platform, "RANDOM_DEVICE", str(device))
    with pytest.raises(PlatformError) as caught:
        NitroPlatform().credit_entropy(bytes(256))
    assert caught.value.boot_failure is BootFailure.ENTROPY_UNAVAILABLE


def test_the_clock_source_is_read_from_sysfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name without its newline; without the file CLOCKSOURCE_REFUSED."""
    monkeypatch.setattr(platform, "CLOCKSOURCE", str(tmp_path / "current"))
    with pytest.raises(PlatformError) as caught:
        NitroPlatform().clocksource()
    assert caught.value.boot_failure is BootFailure.CLOCKSOURCE_REFUSED
    (tmp_path / "current").write_text("kvm-clock\n")
    assert NitroPlatform().clocksource() == "kvm-clock"
