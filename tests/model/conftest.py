"""Worlds of one zygote for the tests of this folder."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave.model import ModelHost
from enclave.zygote import Zygote

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """One zygote for the whole run: it keeps no state of its own."""
    started = Zygote.start()
    yield started
    started.close()


@pytest.fixture
def lost() -> list[int]:
    """One entry for each worker that ended unexpectedly."""
    return []


@pytest.fixture
def host(zygote: Zygote, lost: list[int]) -> Iterator[ModelHost]:
    """A host without models."""
    made = ModelHost(zygote, MEMORY, on_lost=lambda: lost.append(1))
    yield made
    made.close()


@pytest.fixture
def until() -> Callable[..., object]:
    """Wait, bounded, until a condition holds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
