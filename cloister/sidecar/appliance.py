"""A small pool of attested sessions to one appliance: replaced before they end, re-attested after the enclave was replaced."""

import asyncio
from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from attestation import AttestationError, AttestationResult, ReferenceValues, Root, evaluate
from cloister.api import Client
from cloister.connection import Opening
from cloister.errors import CloisterError, DeadlineError, EvidenceRefusedError, SessionLostError, SessionRefusedError, UnreachableError
from cloister.session import CallerIdentity
from cloister.sidecar.metrics import Metrics
from wire.endpoint import Endpoint
from wire.errors import Code
from wire.message import Message
from wire.record import Octets

DRAIN_SECONDS = 60.0
PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which appliance, how it is judged, as whom it is called."""

    endpoint: Endpoint
    reference_values: ReferenceValues
    roots: tuple[Root, ...]
    identity: CallerIdentity | None = None
    sessions: int = 2
    answer_bytes: int = 128 << 20
    repeatable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The last evidence that was judged, accepted or not."""

    evidence: bytes
    nonce: bytes
    judged_at: datetime
    result: AttestationResult | None
    error: AttestationError | None


class Appliance:
    """One appliance. `call` opens what it needs; nothing is opened before the first call."""

    def __init__(self, target: Target, metrics: Metrics) -> None:
        self.target = target
        self.verdict: Verdict | None = None
        self._metrics = metrics
        self._pool = self._new(target.identity)
        self._old: set[asyncio.Task[None]] = set()

    def _new(self, identity: CallerIdentity | None) -> "_Pool":
        opening = Opening(endpoint=self.target.endpoint, judge=self._judge, identity=identity, answer_bytes=self.target.answer_bytes)
        return _Pool([Client(opening) for _ in range(self.target.sessions)])

    def renew(self, identity: CallerIdentity) -> None:
        """Call as `identity` from now on, on sessions of its own; requests under way are answered on the old ones."""
        old, self._pool = self._pool, self._new(identity)
        task = asyncio.get_running_loop().create_task(old.drain())
        self._old.add(task)
        task.add_done_callback(self._old.discard)

    def _judge(self, body: bytes, nonce: bytes) -> AttestationResult:
        now = datetime.now(UTC)
        try:
            result = evaluate(body, nonce=nonce, reference_values=self.target.reference_values, now=now, roots=self.target.roots)
        except AttestationError as error:
            self._metrics.count("evidence_refused")
            self.verdict = Verdict(evidence=bytes(body), nonce=nonce, judged_at=now, result=None, error=error)
            raise
        self._metrics.count("sessions_opened")
        self.verdict = Verdict(evidence=bytes(body), nonce=nonce, judged_at=now, result=result, error=None)
        return result

    async def call(self, path: str, body: Octets = b"", parts: Sequence[Octets] = (), *, seconds: float) -> Message:
        """One request on the session with the fewest open ones; again, until `seconds` are over, while the appliance is away.

        Where its session broke after anything of it had left, it is sent once more, and only if the target is `repeatable`.
        Raises: RequestRefusedError; EvidenceRefusedError (at once: nothing was sent); SessionRefusedError; DeadlineError;
        SessionLostError where it may have run; UnreachableError where time ran out before the appliance came back.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        attempt = 0
        lost: SessionLostError | None = None  # the request may have run
        while True:
            left = end - loop.time()
            try:
                return await self._once(path, body, parts, max(left, 0.001))
            except (UnreachableError, SessionLostError, SessionRefusedError) as error:
                pause = PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS) - 1)]
                sent = error if isinstance(error, SessionLostError) and error.sent else None
                if not self._again(error, lost) or loop.time() + pause >= end:
                    raise sent or lost or error from None
                lost = lost or sent
            except (EvidenceRefusedError, DeadlineError) as error:
                raise lost or error from None
            attempt += 1
            self._metrics.count("retries")
            await asyncio.sleep(pause)

    def _again(self, error: CloisterError, lost: SessionLostError | None) -> bool:
        """What may have run is sent once more, and never a third time."""
        match error:
            case SessionLostError(sent=True):
                return self.target.repeatable and lost is None
            case SessionRefusedError():
                return error.code in (Code.SHUTTING_DOWN, Code.SESSION_LIMIT)
        return True

    async def _once(self, path: str, body: Octets, parts: Sequence[Octets], seconds: float) -> Message:
        """On one session; the client opens another by itself only where nothing was sent."""
        with self._pool.client() as client:
            message, _ = await client.call(path, bytes(body), parts, seconds=seconds, repeatable=False)
        return message

    async def close(self) -> None:
        """End every session in an orderly way."""
        await asyncio.gather(self._pool.close(), *self._old)


class _Pool:
    """Clients of one identity, each with its open requests counted."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._busy = [0] * len(clients)
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """The one with the fewest open requests."""
        at = min(range(len(self._busy)), key=self._busy.__getitem__)
        self._busy[at] += 1
        self._idle.clear()
        try:
            yield self._clients[at]
        finally:
            self._busy[at] -= 1
            if not any(self._busy):
                self._idle.set()

    async def drain(self) -> None:
        """Close when nothing is open any more, or after a minute."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """End every session."""
        await asyncio.gather(*(client.close() for client in self._clients))
