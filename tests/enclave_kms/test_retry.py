"""Ten minutes of back-off, in a time of its own."""

from collections.abc import Callable

import pytest

from enclave.errors import BootError
from enclave.retry import retried
from wire.errors import BOOT_TABLE, BootFailure


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Now."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.slept.append(seconds)
        self.now += seconds


def failing(failure: BootFailure, times: int) -> Callable[[], int]:
    """An attempt that fails so many times and then gives their number."""
    calls = 0

    def attempt() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise BootError(failure)
        return calls

    return attempt


def test_success_after_failures() -> None:
    """A passing failure is tried again after growing waits, of half a minute at most."""
    time = Time()
    assert retried(failing(BootFailure.KMS_THROTTLED, 9), monotonic=time.monotonic, sleep=time.sleep) == 10
    assert time.slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_ten_minutes_and_no_longer() -> None:
    """What fails all the time is given up before ten minutes have passed."""
    time = Time()
    with pytest.raises(BootError) as caught:
        retried(failing(BootFailure.KMS_UNREACHABLE, 10_000), monotonic=time.monotonic, sleep=time.sleep)
    assert caught.value.boot_failure is BootFailure.KMS_UNREACHABLE
    assert 570 < time.now <= 600


@pytest.mark.parametrize("failure", [failure for failure, row in BOOT_TABLE.items() if not row.retried])
def test_refusals_are_final(failure: BootFailure) -> None:
    """A refusal, a digest or a signature is never asked for twice."""
    time = Time()
    with pytest.raises(BootError):
        retried(failing(failure, 1), monotonic=time.monotonic, sleep=time.sleep)
    assert time.slept == []


@pytest.mark.parametrize("failure", [failure for failure, row in BOOT_TABLE.items() if row.retried])
def test_what_may_pass_is_retried(failure: BootFailure) -> None:
    """Whatever the table calls passing is tried again."""
    time = Time()
    assert retried(failing(failure, 1), monotonic=time.monotonic, sleep=time.sleep) == 2
