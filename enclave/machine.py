"""What a boot runs on, and what it tells the parent."""

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import TypeVar

from enclave import feed
from enclave.dial import Endpoints, dialler
from enclave.nsm import Nsm
from enclave.platform import Platform
from enclave.retry import retried
from wire.errors import BootFailure, Stage
from wire.feed import BootReport, encode_boot_report

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The security module, the platform and the parent; `sleep` and `monotonic` so that ten minutes can be tested."""

    nsm: Nsm
    platform: Platform
    endpoints: Endpoints
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def persist(machine: Machine, step: Callable[[], T]) -> T:
    """`enclave.retry.retried` in the machine's time. Raises: BootError."""
    return retried(step, monotonic=machine.monotonic, sleep=machine.sleep)


def tell(machine: Machine, stage: Stage, failure: BootFailure | None = None) -> None:
    """Push a boot report; a parent that does not listen misses it."""
    feed.report(dialler(machine.endpoints.status), encode_boot_report(BootReport(stage=stage, failure=failure)))
