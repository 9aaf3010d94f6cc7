"""An appliance in this process: the enclave's own front on a Unix socket, genuine evidence, answers of the test's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cloister.api import Client
from cloister.connection import Opening
from cloister.session import CallerIdentity
from enclave.connection import Connection, Desk
from enclave.evidence import EvidenceSource
from enclave.limits import Memory
from enclave.nsm import Nsm
from enclave.session import Caller
from tests.session import world
from tests.wire.examples import NOW
from wire.endpoint import Endpoint, Unix
from wire.manifest import Limits
from wire.message import Message, Refused, encode
from wire.record import Octets

Answer = Callable[[Message], Awaitable[list[Octets]]]
REQUEST_BYTES = 8 << 20


class _Module:
    def __init__(self, enclave: world.Enclave) -> None:
        self._enclave = enclave

    def attest(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        return self._enclave.document(nonce, user_data, public_key)


async def echo(message: Message) -> list[Octets]:
    """The request's JSON and tensors come back."""
    return encode(json=bytes(message.json).rstrip(b" ") or b"{}", tensors=[bytes(message.tensors)])


@dataclass(kw_only=True)
class Appliance:
    """What the test sees of it."""

    path: str
    desk: Desk
    answer: Answer
    paths: list[str] = field(default_factory=list)
    accepted: int = 0

    async def handle(self, message: Message | Refused, caller: Caller) -> list[Octets]:
        """Note the request, let the test's answer it."""
        assert isinstance(message, Message)
        self.paths.append(message.path)
        return await self.answer(message)

    def protocol(self) -> Connection:
        """One more connection."""
        self.accepted += 1
        return Connection(self.desk)

    @property
    def connections(self) -> list[Connection]:
        """Those that are open now."""
        return list(self.desk.connections)


@asynccontextmanager
async def appliance(folder: Path, answer: Answer = echo, limits: Limits | None = None) -> AsyncIterator[Appliance]:
    """Serve on a socket in `folder`; afterwards no connection is left."""
    enclave = world.an_enclave(limits=limits, request_bytes=REQUEST_BYTES)
    source = EvidenceSource(cast("Nsm", _Module(enclave)), waiting=16)
    made: Appliance | None = None

    async def handle(message: Message | Refused, caller: Caller) -> list[Octets]:
        assert made is not None
        return await made.handle(message, caller)

    desk = Desk(terms=enclave.terms, evidence=source, answer=handle, now=lambda: float(NOW), counters={}, memory=Memory(64 << 20))
    made = Appliance(path=str(folder / "appliance"), desk=desk, answer=answer)
    server = await asyncio.get_running_loop().create_unix_server(made.protocol, made.path)
    try:
        yield made
        async with asyncio.timeout(10):
            while desk.connections:
                await asyncio.sleep(0.005)
    finally:
        server.close()
        for connection in made.connections:
            connection._abort()
        source.close()


def client(where: Endpoint | str, *, identity: CallerIdentity | None = None, answer_bytes: int = 16 << 20, seconds: float = 10.0) -> Client:
    """A caller of the deployment that judges evidence for real; nothing is opened before its first request."""
    endpoint = Unix(where) if isinstance(where, str) else where
    opening = Opening(
        endpoint=endpoint, judge=world.result, identity=identity or world.identity(), answer_bytes=answer_bytes, seconds=seconds
    )
    return Client(opening)


async def later(seconds: float) -> None:
    """The clock of both ends goes ahead, and what was due until then is done."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]
    for _ in range(3):
        await asyncio.sleep(0)
