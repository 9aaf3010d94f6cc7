"""Fixtures of the KMS simulator's tests."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulator.kms import KmsServer, SimulatedKms, server_context
from simulator.kms.trail import to_file
from simulator.pki import SimulatedPki
from tests.kms.world import REGION, Clock, root_of


@pytest.fixture
def clock() -> Clock:
    """The clock of the service and of the security modules; clients keep the machine's."""
    return Clock(now=datetime.now(UTC))


@pytest.fixture
def pki(tmp_path: Path, clock: Clock) -> SimulatedPki:
    """The simulated Nitro PKI."""
    return SimulatedPki.open(tmp_path / "pki", instance_id="i-0123456789abcdef0", clock=clock)


@pytest.fixture
def kms(tmp_path: Path, pki: SimulatedPki, clock: Clock) -> SimulatedKms:
    """The service, trusting that PKI."""
    del pki
    (tmp_path / "kms").mkdir()
    log = to_file(tmp_path / "kms" / "trail.jsonl")
    return SimulatedKms(state=tmp_path / "kms", region=REGION, roots=(root_of(tmp_path / "pki"),), clock=clock, log=log)


@pytest.fixture
def server(kms: SimulatedKms, tmp_path: Path) -> Iterator[KmsServer]:
    """The service on a socket."""
    running = KmsServer(kms, server_context(tmp_path / "kms", ("localhost",))).start()
    yield running
    running.stop()
