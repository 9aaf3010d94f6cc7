"""Feed frames on a non-blocking socket, each wait with its deadline; for the small ports, not for sessions."""

import asyncio
import socket

from wire.feed import FEED_BODIES
from wire.frame import FrameReader

_SLICE = 4096


class FrameStream:
    """One enclave-facing connection: ask for the next frame, send whole frames."""

    def __init__(self, stream: socket.socket, *, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._reader = FrameReader(FEED_BODIES)
        self._loop = asyncio.get_running_loop()

    async def next(self, *expected: int) -> bytes | None:
        """The next whole frame, one of `expected`; None at the end of the stream.

        Raises: MalformedFrameError; TimeoutError where it is not whole in time; OSError.
        """
        async with asyncio.timeout(self._seconds):
            while (frame := self._reader.next(*expected)) is None:
                data = await self._loop.sock_recv(self._stream, _SLICE)
                if not data:
                    return None
                self._reader.feed(data)
        return frame

    async def send(self, *parts: "bytes | memoryview") -> None:
        """Send all of it. Raises: TimeoutError where the peer does not take it in time; OSError."""
        async with asyncio.timeout(self._seconds):
            for part in parts:
                await self._loop.sock_sendall(self._stream, part)
