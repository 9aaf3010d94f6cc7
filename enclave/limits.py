"""Quotas per credential subject and hour (T30; per boot: against the parent the bound is quota times boots), and the
memory that all sessions together may hold (T19)."""

from collections.abc import Callable
from dataclasses import dataclass

from wire.manifest_values import Quota

HOUR_SECONDS = 3600.0
SUBJECTS_MAX = 100_000


@dataclass(slots=True)
class _Use:
    since: float
    requests: int = 0
    bytes: int = 0


class Quotas:
    """What each subject has used in its current hour; hours start with a subject's first request."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def charge(self, subject: str | None, quota: Quota | None, size: int) -> bool:
        """Count one request of `size` bytes; False where it would exceed the quota (it is then not counted).

        Callers without a subject share one account.
        """
        if quota is None:
            return True
        now, name = self._clock(), subject or ""
        use = self._uses.get(name)
        if use is None or now - use.since >= HOUR_SECONDS:
            self._forget(now)
            if len(self._uses) >= SUBJECTS_MAX:
                return False
            use = self._uses[name] = _Use(since=now)
        if use.requests + 1 > quota.requests or use.bytes + size > quota.bytes:
            return False
        use.requests += 1
        use.bytes += size
        return True

    def _forget(self, now: float) -> None:
        """Drop accounts whose hour is over, once there are many."""
        if len(self._uses) >= SUBJECTS_MAX // 2:
            self._uses = {name: use for name, use in self._uses.items() if now - use.since < HOUR_SECONDS}


class Memory:
    """Bytes of requests and answers held for all sessions; what does not fit is refused, not waited for.

    Pieces up to `FREE` are not counted: their number is bounded by sessions and open messages, and a small request is
    served whatever the large ones do.
    """

    FREE = 64 << 10

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False where they do not fit (nothing is reserved then)."""
        if size <= self.FREE:
            return True
        if self._used + size > self._limit:
            return False
        self._used += size
        return True

    def give(self, size: int) -> None:
        """Give back what one `take` reserved."""
        if size > self.FREE:
            self._used -= size
