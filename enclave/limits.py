"""Quotas per credential subject and hour (T30). Per boot: against the parent the bound is quota times boots."""

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
