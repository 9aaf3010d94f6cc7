"""Back off and try again: what may still succeed is tried for ten minutes, what was refused never again (architecture.md)."""

from collections.abc import Callable
import time
from typing import TypeVar

from enclave.errors import BootError
from wire.errors import BOOT_TABLE

RETRY_SECONDS = 600.0
FIRST_DELAY = 0.5
DELAY_MAX = 30.0

T = TypeVar("T")


def retried(
    attempt: Callable[[], T],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    seconds: float = RETRY_SECONDS,
) -> T:
    """Call `attempt` until it returns; waits of 0.5 s, doubling to 30 s, lie between.

    Raises: BootError: the first whose row in BOOT_TABLE is not `retried`, or the last before `seconds` would have passed.
    """
    end = monotonic() + seconds
    delay = FIRST_DELAY
    while True:
        try:
            return attempt()
        except BootError as error:
            if not BOOT_TABLE[error.boot_failure].retried or monotonic() + delay > end:
                raise
        sleep(delay)
        delay = min(2 * delay, DELAY_MAX)
