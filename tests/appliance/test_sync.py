"""The client without an event loop, on the booted world."""

from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
import threading

import numpy as np
import pytest

from cloister import DeadlineError, RequestRefusedError, sync
from simulator.world import World
from wire.errors import Code

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture
def client(world: World) -> Iterator[sync.Client]:
    values = world.owner.reference_values([world.measured()])
    with sync.connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots) as made:
        yield made


def test_infer(client: sync.Client) -> None:
    """It infers, tells readiness and metadata, and shows the evidence."""
    assert (X + 2).tolist() == client.infer("shift", {"x": X}).outputs["y"].tolist()
    assert client.ready("shift")
    assert "shift" == client.metadata("shift")["name"]
    assert "simulated" == client.attestation.claims.partition


def test_threads_share_a_session(client: sync.Client) -> None:
    """Requests of many threads go through one session, each with its own answer."""
    before = client.attestation

    def one(number: int) -> bool:
        data = np.full((1, 4), number, np.float32)
        return bool((data + 2).tolist() == client.infer("shift", {"x": data}).outputs["y"].tolist())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(64)))
    assert client.attestation is before


def test_errors_are_the_same(client: sync.Client) -> None:
    """Errors arrive as they are, with their data."""
    with pytest.raises(RequestRefusedError) as refused:
        client.infer("shift", {"x": X[:, :2]})
    assert (Code.WRONG_SHAPE, "inputs[0].shape") == (refused.value.code, refused.value.field)
    with pytest.raises(DeadlineError):
        client.infer("spin", {"n": np.array(10**12)}, timeout=0.2)


def test_submitted_and_cancelled(client: sync.Client) -> None:
    """A submitted request runs beside others and can be cancelled."""
    slow = client.submit("spin", {"n": np.array(10**12)}, timeout=30)
    assert (X + 2).tolist() == client.submit("shift", {"x": X}).result(30).outputs["y"].tolist()
    assert slow.cancel()
    with pytest.raises(CancelledError):
        slow.result(30)


def test_closed(world: World) -> None:
    """A closed client refuses to be used, closes again quietly, and leaves no thread."""
    before = threading.active_count()
    values = world.owner.reference_values([world.measured()])
    client = sync.connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots)
    client.close()
    client.close()
    with pytest.raises(RuntimeError):
        client.infer("shift", {"x": X})
    assert before == threading.active_count()


def test_dropped(world: World) -> None:
    """A client that is forgotten without close ends its thread."""
    before = threading.active_count()
    values = world.owner.reference_values([world.measured()])
    client = sync.connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots)
    del client
    assert before == threading.active_count()
