"""A parent that answers callers itself: with a session key of its own, and whatever document it can get hold of.

It speaks the protocol with the product's own session machine, so that a caller who accepts the evidence would notice
nothing; what it opens is kept for the attack to look at.
"""

import asyncio
from collections.abc import Awaitable, Callable
import contextlib
import json
import time

from enclave.session import EnclaveSession, Terms
from wire.errors import WireError
from wire.frame import HEADER_BYTES, FrameType, parse_header
from wire.message import Message, encode

SECONDS = 20.0


async def read_frame(reader: asyncio.StreamReader, expected: FrameType) -> bytes:
    """One whole frame of a session. Raises: MalformedFrameError, IncompleteReadError."""
    header = await reader.readexactly(HEADER_BYTES)
    return header + await reader.readexactly(parse_header(header, expected).body)


class Impostor:
    """Serves callers on a Unix socket; `stolen` is the content of every request that it could open."""

    def __init__(self, terms: Terms, document: Callable[[bytes, bytes, bytes], Awaitable[bytes]]) -> None:
        self._terms = terms
        self._document = document
        self.stolen: list[bytes] = []

    async def serve(self, path: str) -> asyncio.Server:
        """Listen on `path`."""
        return await asyncio.start_unix_server(self._session, path)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, WireError, TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self._pretend(reader, writer)
        writer.close()

    async def _pretend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = EnclaveSession(self._terms)
        challenge = await read_frame(reader, FrameType.CHALLENGE)
        nonce, user_data = session.challenge(challenge)
        writer.write(session.offer(await self._document(challenge, nonce, user_data)))
        opened = session.open(await read_frame(reader, FrameType.OPEN), now=time.time())
        writer.write(opened.frame)
        while True:
            event = session.record(await read_frame(reader, FrameType.RECORD))
            if isinstance(event, Message):
                self.stolen.append(bytes(event.json) + bytes(event.tensors))
                for frame in session.answer(event.id, encode(json=json.dumps(self.answer).encode())):
                    writer.write(frame)

    @property
    def answer(self) -> dict[str, object]:
        """What every stolen request is answered with."""
        return {"model_name": "stolen", "model_version": "1", "outputs": []}


async def evidence_of(path: str, challenge: bytes) -> bytes:
    """The evidence body that the appliance behind the Unix socket `path` answers this challenge with."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(challenge)
            return (await read_frame(reader, FrameType.EVIDENCE))[HEADER_BYTES:]
    finally:
        writer.close()
