"""How many bytes of requests the doors hold at once: past that a request waits its turn before it is read. No I/O."""

import asyncio
from collections import deque

from cloister.sidecar.refusal import RefusedError
from wire.errors import Code

# Bodies up to here need no room: the numbers of connections and calls bound them, and small requests never wait for large ones.
FREE_BYTES = 64 << 10
WAIT_SECONDS = 30.0


class Room:
    """Shared by all doors; first come, first served."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._turns: deque[tuple[int, asyncio.Future[None]]] = deque()

    def claim(self, size: int) -> bool:
        """Take room for `size` bytes if that needs no waiting."""
        if size <= FREE_BYTES:
            return True
        if self._turns or size > self._left:
            return False
        self._left -= size
        return True

    async def take(self, size: int) -> None:
        """Wait for room for `size` bytes. Raises: RefusedError (BUSY) where none came free in time."""
        if self.claim(size):
            return
        turn = (size, asyncio.get_running_loop().create_future())
        self._turns.append(turn)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn[1]
        except BaseException as error:
            if turn[1].done() and not turn[1].cancelled():
                self.give(size)  # granted in the moment that the wait ended
            self._grant()  # to those behind
            if isinstance(error, TimeoutError):
                raise RefusedError(Code.BUSY) from None
            raise

    def give(self, size: int, *, kept: int = 0) -> None:
        """Give back what was claimed or taken for `size` bytes, but for `kept` of them."""
        if size > FREE_BYTES:
            self._left += size - (kept if kept > FREE_BYTES else 0)
            self._grant()

    def _grant(self) -> None:
        while self._turns and (self._turns[0][1].done() or self._turns[0][0] <= self._left):
            size, turn = self._turns.popleft()
            if not turn.done():
                self._left -= size
                turn.set_result(None)


class Body:
    """A request's body as it arrives, and the room that it has."""

    def __init__(self, room: Room) -> None:
        self.data = bytearray()
        self._room = room
        self._size = 0

    def claim(self, size: int) -> bool:
        """Room for a body of at most `size` bytes, if there is some at once."""
        found = self._room.claim(size)
        self._size = size if found else 0
        return found

    async def take(self, size: int) -> None:
        """Wait for that room. Raises: RefusedError (BUSY)."""
        await self._room.take(size)
        self._size = size

    def keep(self, size: int) -> None:
        """It has `size` bytes, no more than was taken, and is another's from here on: those go on taking room."""
        self.data = bytearray()
        self._room.give(self._size, kept=size)
        self._size = size

    def drop(self) -> None:
        """It is needed no more."""
        self.keep(0)
