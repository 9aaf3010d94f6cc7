"""One booted simulated world for the whole folder; tests that break things boot their own."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from cloister.api import Client, connect
from simulator.hostile.small import booted, prepared
from simulator.world import World
from tests.appliance.models import specs

Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Serving every model of `tests.appliance.models`."""
    with closing(World.create()) as made:
        made.start_kms()
        made.owner.create_key([made.measured()])
        made.owner.seal(specs())
        made.owner.publish(made.owner.manifest())
        yield booted(made)


@pytest.fixture
def own_world() -> Iterator[World]:
    """A world of the test's own, with KMS, key, the `shift` model and a manifest; nothing booted."""
    with closing(World.create()) as made:
        yield prepared(made)


def caller(world: World, subject: str = "caller", *, endpoint: str | None = None, **claims: Any) -> Any:
    """A coroutine for a client of `world` with an identity of its own, by way of `endpoint` where that is another."""
    values = world.owner.reference_values([world.measured()])
    return connect(endpoint or world.endpoint, values, identity=world.owner.identity(subject, **claims), roots=world.roots)


@pytest.fixture(scope="session")
def callers(world: World) -> Callable[..., Any]:
    """Makes clients of the shared world: `async with await callers() as client`."""
    values = world.owner.reference_values([world.measured()])

    async def client(subject: str = "caller", **claims: Any) -> Client:
        return await connect(world.endpoint, values, identity=world.owner.identity(subject, **claims), roots=world.roots)

    return client
