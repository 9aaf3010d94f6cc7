"""What happens to one accepted stream: reach the other side, pump, count. Sessions and egress differ in where they lead."""

from collections.abc import Awaitable, Callable
import logging
import socket

from parent.errors import DialError, EgressRefusedError
from parent.pump import Buffers, Ending, Pump, PumpLimits, Totals
from wire.frame import CHALLENGE_BODY, HEADER_BYTES, OPEN_BODY

# What a caller has sent once its handshake is behind it: the challenge and the open, both of fixed size.
OPENING_BYTES = HEADER_BYTES + CHALLENGE_BODY + HEADER_BYTES + OPEN_BODY

log = logging.getLogger(__name__)


class Forwarder:
    """Forwards each accepted stream to where `reach` leads; holds totals alone, none per peer."""

    def __init__(self, name: str, reach: Callable[[], Awaitable[socket.socket]], *, limits: PumpLimits, buffers: Buffers) -> None:
        self.name = name
        self._reach = reach
        self._limits = limits
        self._buffers = buffers
        self.active = 0
        self.unreachable = 0
        self.refused = 0
        self.to_far = 0
        self.to_near = 0
        self.endings: dict[Ending, int] = dict.fromkeys(Ending, 0)
        self._was_reachable = True

    async def handle(self, stream: socket.socket) -> None:
        """Forward one stream until it ends; where the far side cannot be reached the stream is closed at once."""
        self.active += 1
        try:
            far = await self._connect()
            if far is not None:
                self._count(await Pump(stream, far, limits=self._limits, buffers=self._buffers).run())
        finally:
            self.active -= 1

    async def _connect(self) -> socket.socket | None:
        try:
            far = await self._reach()
        except EgressRefusedError as error:
            self.refused += 1
            log.error("%s: refused: %s", self.name, error)
            return None
        except DialError as error:
            self.unreachable += 1
            if self._was_reachable:  # callers that try again and again fill no log
                log.warning("%s: unreachable: %s", self.name, error)
            self._was_reachable = False
            return None
        if not self._was_reachable:
            log.info("%s: reachable again", self.name)
        self._was_reachable = True
        return far

    def _count(self, totals: Totals) -> None:
        self.to_far += totals.to_far
        self.to_near += totals.to_near
        self.endings[totals.ending] += 1
