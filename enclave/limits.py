"""Quotas per issuer, subject and hour (T30; per boot: against the parent the bound is quota times boots), and the
memory that all sessions together may hold (T19)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from enclave.errors import RequestError
from wire.errors import Code
from wire.manifest_values import Quota

HOUR_SECONDS = 3600.0
ACCOUNTS_MAX = 100_000


@dataclass(slots=True)
class _Use:
    since: float
    requests: int = 0
    bytes: int = 0


class Quotas:
    """What each account (an issuer's key and its subject) has used in its current hour; hours start with an account's first request."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._uses: dict[tuple[bytes, str] | None, _Use] = {}

    def charge(self, account: tuple[bytes, str] | None, quota: Quota | None, size: int) -> bool:
        """Count one request of `size` bytes; False where it would exceed the quota (it is then not counted).

        Callers without a credential share one account.
        """
        if quota is None:
            return True
        now = self._clock()
        use = self._uses.get(account)
        if use is None or now - use.since >= HOUR_SECONDS:
            self._forget(now)
            if len(self._uses) >= ACCOUNTS_MAX:
                return False
            use = self._uses[account] = _Use(since=now)
        if use.requests + 1 > quota.requests or use.bytes + size > quota.bytes:
            return False
        use.requests += 1
        use.bytes += size
        return True

    def _forget(self, now: float) -> None:
        """Drop accounts whose hour is over, once there are many."""
        if len(self._uses) >= ACCOUNTS_MAX // 2:
            self._uses = {account: use for account, use in self._uses.items() if now - use.since < HOUR_SECONDS}


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

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """A function that reserves more for one request, given back together at the end; it raises RequestError (BUSY)."""
        held: list[int] = []

        def more(size: int) -> None:
            if not self.take(size):
                raise RequestError(Code.BUSY)
            held.append(size)

        try:
            yield more
        finally:
            for size in held:
                self.give(size)
