"""Who may call: the credential matrix, model by model, quotas and the mode without credentials, through the whole path."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import replace
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import numpy as np
import pytest

from attestation.appraise import AttestationResult
from cloister import api
from cloister.api import Client, connect
from cloister.errors import EvidenceRefusedError, RequestRefusedError, SessionRefusedError
from cloister.session import CallerIdentity
from simulator.hostile.small import booted
from simulator.world import World
from tests.appliance.models import specs
from wire.errors import Code
from wire.evidence import CALLERS_ANYONE
from wire.manifest import Anyone, Quota

Callers = Callable[..., Coroutine[Any, Any, Client]]
X = np.arange(4, dtype=np.float32).reshape(1, 4)
DAY = 86_400


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


async def refusal(world: World, identity: CallerIdentity | None) -> Code:
    values = world.owner.reference_values([world.measured()])
    with pytest.raises(SessionRefusedError) as refused:
        await connect(world.endpoint, values, identity=identity, roots=world.roots)
    return refused.value.code


def of_another_issuer(world: World) -> CallerIdentity:
    genuine, world.owner.issuer = world.owner.issuer, Ed25519PrivateKey.generate()
    try:
        return world.owner.identity()
    finally:
        world.owner.issuer = genuine


def flipped(identity: CallerIdentity) -> CallerIdentity:
    data = bytearray(identity.credential)
    data[-1] ^= 1
    return replace(identity, credential=bytes(data))


def at(seconds: int) -> int:
    """Unix time so many seconds from now."""
    return int(time.time()) + seconds


MATRIX: list[tuple[str, Callable[[World], CallerIdentity | None], Code]] = [
    ("none at all", lambda world: None, Code.CREDENTIAL_REQUIRED),
    ("no credential's bytes", lambda world: replace(world.owner.identity(), credential=b"\xa0"), Code.CREDENTIAL_MALFORMED),
    ("expired", lambda world: world.owner.identity(issued=at(-999), not_before=at(-999), expires=at(-300)), Code.CREDENTIAL_EXPIRED),
    ("not yet valid", lambda world: world.owner.identity(not_before=at(900), expires=at(1800)), Code.CREDENTIAL_NOT_YET_VALID),
    ("issued in the future", lambda world: world.owner.identity(issued=at(900)), Code.CREDENTIAL_NOT_YET_VALID),
    ("of another deployment", lambda world: world.owner.identity(audience="other"), Code.CREDENTIAL_WRONG_AUDIENCE),
    ("valid for too long", lambda world: world.owner.identity(expires=at(2 * DAY)), Code.CREDENTIAL_LIFETIME),
    ("valid from long ago", lambda world: world.owner.identity(issued=at(-2 * DAY), not_before=at(-2 * DAY)), Code.CREDENTIAL_LIFETIME),
    ("of another issuer", of_another_issuer, Code.CREDENTIAL_UNKNOWN_ISSUER),
    ("with another signature", lambda world: flipped(world.owner.identity()), Code.CREDENTIAL_BAD_SIGNATURE),
    ("another caller's", lambda world: replace(world.owner.identity(), key=Ed25519PrivateKey.generate()), Code.CALLER_BAD_SIGNATURE),
]


@pytest.mark.parametrize(("identity", "code"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX])
def test_credential_matrix(world: World, identity: Callable[[World], CallerIdentity | None], code: Code) -> None:
    """A credential that breaks one rule is refused with that rule's code."""

    async def work() -> None:
        assert code is await refusal(world, identity(world))

    run(work())


def test_skew_is_tolerated(world: World, callers: Callers) -> None:
    """A minute's difference of the clocks refuses nobody, at either end."""

    async def work() -> None:
        now = int(time.time())
        async with (
            await callers(not_before=now + 50, issued=now + 50) as early,
            await callers(expires=now - 30, not_before=now - 99) as late,
        ):
            assert await early.ready() and await late.ready()

    run(work())


def test_models_of_the_credential(callers: Callers) -> None:
    """A caller sees and uses the models that its credential names; others answer alike, whether they are there or not."""

    async def work() -> None:
        async with await callers(models=("shift", "absent")) as client:
            assert (X + 2).tolist() == (await client.infer("shift", {"x": X})).outputs["y"].tolist()
            for ask in (lambda: client.infer("copy", {"x": X[0]}), lambda: client.metadata("copy"), lambda: client.ready("no-such-model")):
                with pytest.raises(RequestRefusedError) as refused:
                    await ask()
                assert (Code.MODEL_NOT_AUTHORISED, "") == (refused.value.code, refused.value.field)
            with pytest.raises(RequestRefusedError) as unknown:
                await client.ready("absent")
            assert Code.UNKNOWN_MODEL is unknown.value.code
            message, _ = await client.call("/v2/repository/index")
            assert bytes(message.json).count(b'"name"') == bytes(message.json).count(b'"shift"') == 2

    run(work())


def test_quota_of_requests(callers: Callers) -> None:
    """A subject's requests end with its quota, over all of its sessions, and no other subject's do."""

    async def work() -> None:
        claims = {"quota": Quota(requests=3, bytes=1 << 30)}
        async with await callers("frugal", **claims) as one, await callers("frugal", **claims) as two:
            for client in (one, two, one):
                await client.infer("shift", {"x": X})
            for client in (one, two):
                with pytest.raises(RequestRefusedError) as refused:
                    await client.infer("shift", {"x": X})
                assert Code.QUOTA_EXHAUSTED is refused.value.code
                assert await client.ready("shift")
        async with await callers("spender", **claims) as other:
            await other.infer("shift", {"x": X})

    run(work())


def test_quota_of_bytes(callers: Callers) -> None:
    """A request that would exceed the quota's bytes is refused, a smaller one is not."""

    async def work() -> None:
        async with await callers("thin", quota=Quota(requests=100, bytes=100_000)) as client:
            with pytest.raises(RequestRefusedError) as refused:
                await client.infer("copy", {"x": np.zeros(30_000, np.float32)})
            assert Code.QUOTA_EXHAUSTED is refused.value.code
            await client.infer("copy", {"x": np.zeros(10_000, np.float32)})

    run(work())


@pytest.fixture(scope="module")
def open_world() -> Iterator[World]:
    """A deployment that takes anyone."""
    with closing(World.create()) as made:
        made.start_kms()
        made.owner.create_key([made.measured()])
        made.owner.seal(specs()[:2])
        made.owner.publish(made.owner.manifest(callers=Anyone(), quota=Quota(requests=5, bytes=1 << 30)))
        yield booted(made)


def test_anyone_is_refused_by_default(open_world: World) -> None:
    """A caller that did not agree to an enclave that takes anyone refuses its evidence, and says why."""

    async def work() -> None:
        values = open_world.owner.reference_values([open_world.measured()])
        with pytest.raises(EvidenceRefusedError) as refused:
            await connect(open_world.endpoint, values, roots=open_world.roots)
        assert ["anyone"] == [mismatch.check.name.lower() for mismatch in refused.value.mismatches]

    run(work())


def test_anyone_agreed_to(open_world: World) -> None:
    """Who agreed is served without a credential, is not named even if it has one, and shares one quota with everybody."""

    async def work() -> None:
        values = open_world.owner.reference_values([open_world.measured()], accept_anyone=True)
        async with (
            await connect(open_world.endpoint, values, roots=open_world.roots) as nobody,
            await connect(open_world.endpoint, values, identity=open_world.owner.identity(), roots=open_world.roots) as somebody,
        ):
            result: AttestationResult = nobody.attestation
            assert CALLERS_ANYONE == result.config.callers
            for client in (nobody, somebody, nobody, somebody, nobody):
                await client.infer("shift", {"x": X})
            for client in (nobody, somebody):
                with pytest.raises(RequestRefusedError) as refused:
                    await client.infer("shift", {"x": X})
                assert Code.QUOTA_EXHAUSTED is refused.value.code

    run(work())


def test_renewal_fails_no_request(monkeypatch: pytest.MonkeyPatch, world: World, callers: Callers) -> None:
    """Sessions are replaced while requests, large and small, go on: none fails, each session attests with its own nonce."""
    monkeypatch.setattr(api, "RENEW_FROM", 0.0001)
    monkeypatch.setattr(api, "RENEW_TO", 0.0002)  # of an hour: a session lives for less than a second

    async def work() -> None:
        nonces = set()
        large = np.zeros(1 << 20, np.float32)
        async with await callers("renewing") as client:

            async def many(data: Any, model: str, by: int, times: int = 20) -> None:
                for _ in range(times):
                    answer = await client.infer(model, {"x": data})
                    assert (data + np.float32(by)).tobytes() == answer.outputs["y"].tobytes()
                    nonces.add(answer.attestation.nonce)

            crowd = [many(X, "shift", 2, 100) for _ in range(60)]  # more than the enclave takes at once: some wait their turn
            await asyncio.gather(*crowd, *(many(large, "copy", 0) for _ in range(3)))
        assert len(nonces) >= 3

    run(work())


def test_renewal_time(callers: Callers) -> None:
    """A session is replaced at a random moment between half and nine tenths of its lifetime."""

    async def work() -> None:
        found = []
        for _ in range(12):
            async with await callers("renewing") as client:
                session = client._current
                assert session is not None
                found.append(session.renew_at / session.accepted.seconds)
        assert all(0.5 <= share <= 0.9 for share in found)
        assert len(set(found)) > 1

    run(work())


def test_session_ends_with_the_credential(callers: Callers) -> None:
    """A session is granted for no longer than the credential lives, and its lifetime is kept by the caller too."""

    async def work() -> None:
        now = int(time.time())
        async with await callers("short", expires=now + 5, not_before=now - 60, issued=now - 60) as client:
            session = client._current
            assert session is not None
            assert 55 <= session.accepted.seconds <= 66
            session.connection._started -= session.accepted.seconds
            assert not session.usable
            assert await client.ready()
            assert client._current is not session

    run(work())
