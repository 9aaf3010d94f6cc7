"""Where new sessions go: to the enclave that serves, and once the next one takes connections, to that.

Sessions at hand stay where they are until they end by themselves; callers renew theirs before that (docs/protocol.md), so
that the old enclave runs empty without a failed request.
"""

import asyncio
from collections.abc import Awaitable, Callable
import logging
import socket

from parent.dial import dial
from parent.errors import DialError
from wire.endpoint import Endpoint, render

LOOK_SECONDS = 0.5  # between two looks whether the next enclave serves

log = logging.getLogger(__name__)


class Succession:
    """The current session endpoint, and the one that is to follow it. Used from one event loop.

    `switched` is called when new sessions begin to go to the next one.
    """

    def __init__(
        self,
        current: Endpoint,
        *,
        seconds: float,
        switched: Callable[[Endpoint], None],
        reach: Callable[..., Awaitable[socket.socket]] = dial,
    ) -> None:
        self.current = current
        self.next: Endpoint | None = None
        self._seconds = seconds
        self._switched = switched
        self._reach = reach
        self._looking: asyncio.Task[None] | None = None

    async def reach(self) -> socket.socket:
        """A connection for a new session. Raises: DialError."""
        return await self._reach(self.current, seconds=self._seconds)

    def follow(self, endpoint: Endpoint) -> None:
        """Go over to `endpoint` as soon as it takes a connection."""
        self.abandon()
        self.next = endpoint
        log.info("waiting for the next enclave on %s", render(endpoint))
        self._looking = asyncio.get_running_loop().create_task(self._look(endpoint))

    def abandon(self) -> None:
        """Wait no longer; a switch that has happened stays."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self.next = None

    async def _look(self, endpoint: Endpoint) -> None:
        while True:
            try:
                (await self._reach(endpoint, seconds=self._seconds)).close()
                break
            except DialError:
                await asyncio.sleep(LOOK_SECONDS)
        log.info("new sessions go to %s; those at hand stay on %s until they end", render(endpoint), render(self.current))
        self.current, self.next, self._looking = endpoint, None, None
        self._switched(endpoint)
