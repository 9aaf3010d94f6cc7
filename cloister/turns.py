"""Whose message begins next: as many are open at once as the enclave takes, the others wait in order."""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """`has_room(reserved)` tells whether one more message may begin beside those reserved and not begun yet."""

    def __init__(self, has_room: Callable[[int], bool]) -> None:
        self._has_room = has_room
        self._reserved = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for one's turn and reserve it; `done` gives it back."""
        if not self._waiting and self._has_room(self._reserved):
            self._reserved += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.done()
            raise

    def done(self) -> None:
        """The reserved message has begun, or never will."""
        self._reserved -= 1
        self.let_in()

    def let_in(self) -> None:
        """Something ended: let in whoever has room now."""
        while self._waiting and self._has_room(self._reserved):
            turn = self._waiting.popleft()
            if not turn.done():
                self._reserved += 1
                turn.set_result(None)
