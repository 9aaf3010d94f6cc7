"""Is the appliance ready? The enclave's own word, and whether its session port takes a connection now."""

import asyncio
from collections.abc import Awaitable, Callable
import socket

from parent.errors import DialError
from parent.status import StatusService

CACHED_SECONDS = 2.0  # however often somebody asks, the enclave sees one connection in this time


class Readiness:
    """Ready when the enclave last reported SERVING and its session port can be reached.

    `two` says whether a next enclave is booting beside the one that serves: reports may then be the next one's, and the
    session port alone counts.
    """

    def __init__(
        self, status: StatusService, reach: Callable[[], Awaitable[socket.socket]], *, two: Callable[[], bool] = lambda: False
    ) -> None:
        self._status = status
        self._reach = reach
        self._two = two
        self._asked_at = float("-inf")
        self._reachable = False
        self._lock = asyncio.Lock()

    async def ready(self) -> tuple[bool, str]:
        """The verdict and its reason, for people."""
        if not self._two() and (refusal := self._unready()) is not None:
            return False, refusal
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._asked_at >= CACHED_SECONDS:
                self._reachable = await self._dials()
                self._asked_at = now
        return self._reachable, "serving" if self._reachable else "the enclave's session port does not take connections"

    def _unready(self) -> str | None:
        """What the enclave's last report has against it."""
        if self._status.failure is not None:
            return f"the enclave's boot failed: {self._status.failure.name}"
        if not self._status.serving:
            stage = self._status.stage
            return f"the enclave has reached stage {stage.name}" if stage else "the enclave has not reported yet"
        return None

    async def _dials(self) -> bool:
        try:
            (await self._reach()).close()
        except DialError:
            return False
        return True
