"""Trusted time: the timestamp of a document from our own NSM, plus CLOCK_BOOTTIME since; never the parent's.

The enclave's own clock drifts seconds per week; the NSM is asked again every ten minutes (threats T23, T24).
"""

from collections.abc import Callable
import threading
import time

from enclave.nsm import Nsm, document_time

REFRESH_SECONDS = 600.0


def boottime() -> float:
    """Seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class TrustedClock:
    """Unix time in seconds. Built from one NSM call; `refresh` makes another. Raises: NsmError at construction."""

    def __init__(self, nsm: Nsm, *, elapsed: Callable[[], float] = boottime) -> None:
        self._nsm = nsm
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._base = self._at = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Ask the NSM again. Blocks: not for the event loop. Raises: NsmError."""
        before = self._elapsed()
        stamp = document_time(self._nsm.attest(user_data=None, nonce=None, public_key=None)).timestamp()
        after = self._elapsed()
        with self._lock:
            self._base, self._at = stamp, (before + after) / 2

    def now(self) -> float:
        """Unix time in seconds."""
        with self._lock:
            return self._base + self._elapsed() - self._at
