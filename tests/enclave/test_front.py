"""The enclave's front, piece by piece: who is let in, how evidence is rationed, what a subject has used, what time it is."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
import socket
import threading
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
import pytest

from enclave import clock as clocks
from enclave.clock import TrustedClock
from enclave.evidence import EvidenceBusy, EvidenceSource
from enclave.limits import HOUR_SECONDS, Quotas
from enclave.nsm import Nsm, NsmError, NsmErrorCode
from enclave.serve import from_parent, listen
from wire import ports
from wire.endpoint import Tcp, UnixConnect
from wire.manifest_values import Quota


@dataclass(slots=True)
class Listening:
    """As much of a listener as the judgement looks at; no vsock socket is ever opened by a test."""

    family: int


@pytest.mark.parametrize(
    ("address", "let_in"), [((ports.PARENT_CID, 9), True), ((2, 9), False), ((0, 9), False), ((16, 9), False), ("x", False)]
)
def test_only_the_parents_cid(address: object, let_in: bool) -> None:
    """Over vsock the parent's CID alone is let in, whatever its port."""
    assert let_in is from_parent(cast("socket.socket", Listening(socket.AF_VSOCK)), address)


@pytest.mark.parametrize("endpoint", [Tcp("127.0.0.1", 1), UnixConnect("x", 1)])
def test_listens_on_nothing_else(endpoint: Any) -> None:
    """An enclave listens neither on TCP nor through anything."""
    with pytest.raises(ValueError):
        listen(endpoint)


@dataclass(slots=True)
class SlowNsm:
    """Answers when it is let."""

    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[bytes] = field(default_factory=list)
    at_once: int = 0
    most: int = 0

    def attest(self, *, user_data: bytes, nonce: bytes, public_key: bytes | None) -> bytes:
        self.asked.append(nonce)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.go.acquire(timeout=20)
        self.at_once -= 1
        if nonce == b"bad":
            raise NsmError(NsmErrorCode.UNAVAILABLE)
        return user_data + nonce


def run(work: Callable[[EvidenceSource, SlowNsm], Any], waiting: int = 2) -> None:
    async def bounded() -> None:
        nsm = SlowNsm()
        source = EvidenceSource(cast("Nsm", nsm), waiting=waiting)
        try:
            async with asyncio.timeout(20):
                await work(source, nsm)
        finally:
            for _ in range(20):
                nsm.go.release()
            source.close()

    asyncio.run(bounded())


def test_a_bounded_number_waits() -> None:
    """As many calls as allowed wait, one at a time; one more is refused at once, and taken when another has ended."""

    async def work(source: EvidenceSource, nsm: SlowNsm) -> None:
        calls = [asyncio.ensure_future(source.document(nonce=bytes((n,)), user_data=b"u")) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(EvidenceBusy):
            await source.document(nonce=b"3", user_data=b"u")
        nsm.go.release()
        assert b"u\x00" == await calls[0]
        await asyncio.sleep(0.05)
        nsm.go.release(2)
        assert b"u4" == await source.document(nonce=b"4", user_data=b"u")
        assert b"u\x01" == await calls[1]
        assert 1 == nsm.most

    run(work)


def test_an_abandoned_call_keeps_its_permit() -> None:
    """A session that is gone does not free the place of its call before the module has answered: no queue can build up."""

    async def work(source: EvidenceSource, nsm: SlowNsm) -> None:
        call = asyncio.ensure_future(source.document(nonce=b"1", user_data=b""))
        while not nsm.asked:
            await asyncio.sleep(0.005)
        call.cancel()
        await asyncio.wait((call,))
        with pytest.raises(EvidenceBusy):
            await source.document(nonce=b"2", user_data=b"")
        nsm.go.release(2)
        while True:
            try:
                assert b"3" == await source.document(nonce=b"3", user_data=b"")
            except EvidenceBusy:
                await asyncio.sleep(0.005)
            else:
                return

    run(work, waiting=1)


def test_a_failed_call_gives_its_permit_back() -> None:
    """A call that the module refuses fails its own session alone."""

    async def work(source: EvidenceSource, nsm: SlowNsm) -> None:
        nsm.go.release(10)
        for _ in range(5):
            with pytest.raises(NsmError):
                await source.document(nonce=b"bad", user_data=b"")
            await asyncio.sleep(0.02)
        assert b"1" == await source.document(nonce=b"1", user_data=b"")

    run(work, waiting=1)


@given(
    st.lists(
        st.tuples(st.tuples(st.sampled_from([b"x", b"y"]), st.sampled_from("ab")), st.integers(0, 60), st.integers(0, 1800)), max_size=60
    )
)
def test_quotas_against_a_plain_count(uses: list[tuple[tuple[bytes, str], int, int]]) -> None:
    """Every subject of every issuer has its own hour, from its first request on; what would exceed its quota is refused and not counted."""
    now, quota = [0.0], Quota(requests=5, bytes=100)
    quotas = Quotas(clock=lambda: now[0])
    hours: dict[tuple[bytes, str], tuple[float, list[int]]] = {}
    for account, size, later in uses:
        now[0] += later
        since, taken = hours.get(account, (now[0], []))
        if now[0] - since >= HOUR_SECONDS:
            since, taken = now[0], []
        fits = len(taken) < 5 and sum(taken) + size <= 100
        hours[account] = (since, [*taken, size] if fits else taken)
        assert fits is quotas.charge(account, quota, size)


def test_no_quota_is_no_limit() -> None:
    """Where neither manifest nor credential sets one, nothing is counted."""
    quotas = Quotas(clock=lambda: 0.0)
    assert all(quotas.charge(None, None, 1 << 40) for _ in range(100))


def test_trusted_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is the module's stamp plus what has passed since; asking again replaces the base, a failed question does not."""
    stamps, passed = [1_000.0, 5_000.0], [10.0]

    @dataclass(slots=True)
    class Stamping:
        broken: bool = False

        def attest(self, *, user_data: None, nonce: None, public_key: None) -> bytes:
            if self.broken:
                raise NsmError(NsmErrorCode.UNAVAILABLE)
            return b"document"

    monkeypatch.setattr(clocks, "document_time", lambda _: datetime.fromtimestamp(stamps.pop(0), UTC))
    nsm = Stamping()
    clock = TrustedClock(cast("Nsm", nsm), elapsed=lambda: passed[0])
    passed[0] = 17.5
    assert 1_007.5 == clock.now()
    clock.refresh()
    assert 5_000.0 == clock.now()
    nsm.broken = True
    with pytest.raises(NsmError):
        clock.refresh()
    passed[0] = 20.0
    assert 5_002.5 == clock.now()
