"""A simulated appliance and a sidecar in front of it, for the whole folder."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
import threading

import pytest

from cloister.sidecar.appliance import Target
from cloister.sidecar.config import Listener
from cloister.sidecar.serve import Opened, Settings, serve
from tests.sidecar import appliance_models
from wire import endpoint
from wire.endpoint import Tcp

TOKEN = "test-token-of-the-sidecar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A running sidecar: where its doors are."""

    http: str
    grpc: str
    host: str
    port: int


class Running:
    """A sidecar in a thread with a loop of its own, as a process would be."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Opened | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
            await serve(self._settings, self._tell, self._ended)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - shown by start
            self._error = error
            self._ready.set()

    def _tell(self, opened: Opened) -> None:
        self._opened = opened
        self._ready.set()

    def start(self) -> Sidecar:
        """Start; raises what `serve` raised."""
        self._thread.start()
        self._ready.wait(20)
        if self._error is not None:
            raise self._error
        if self._opened is None or self._opened.http is None:
            raise TimeoutError
        address = self._opened.http.removeprefix("http://")
        host, _, port = address.rpartition(":")
        return Sidecar(http=self._opened.http, grpc=self._opened.grpc or "", host=host, port=int(port) if port.isdecimal() else 0)

    def tell_to_end(self) -> None:
        """Begin to end, as SIGTERM does."""
        if self._loop is not None and self._ended is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)

    def stop(self) -> None:
        """End in order."""
        self.tell_to_end()
        self._thread.join(20)
        if self._thread.is_alive():
            raise TimeoutError


@pytest.fixture(scope="session")
def serving() -> Iterator[appliance_models.Serving]:
    """One appliance."""
    made = appliance_models.serving()
    yield made
    made.world.close()


def target_of(serving: appliance_models.Serving) -> Target:
    """How a sidecar calls the appliance."""
    return Target(
        endpoint=endpoint.parse(serving.world.endpoint),
        reference_values=serving.world.owner.reference_values([serving.measured]),
        roots=serving.world.roots,
        identity=serving.world.owner.identity(models=(*serving.names, "absent")),
    )


@pytest.fixture(scope="session")
def target(serving: appliance_models.Serving) -> Target:
    """How it is called."""
    return target_of(serving)


@pytest.fixture(scope="session")
def settings(target: Target) -> Settings:
    """Both doors on loopback."""
    listener = Listener(at=Tcp("127.0.0.1", 0))
    return Settings(target=target, http=listener, http_token=TOKEN, grpc=listener, grpc_token=TOKEN, request_seconds=20)


@pytest.fixture(scope="session")
def sidecar(settings: Settings) -> Iterator[Sidecar]:
    """One sidecar."""
    running = Running(settings)
    yield running.start()
    running.stop()
