"""One world for all tests of the KMS client."""

from collections.abc import Iterator

import pytest

from tests.enclave_kms.world import World, start


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A running simulated KMS with one key under the generated policy."""
    made = start(tmp_path_factory.mktemp("world"))
    yield made
    made.server.stop()
