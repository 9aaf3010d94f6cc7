"""The parent put together from its configuration: which listener leads to which service, and what the metrics say."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
import logging
from pathlib import Path

from parent.aws import CredentialSource, FileSource, ImdsSource
from parent.config import Config, DirectoryFeed, Egress, FileCredentials
from parent.credentials import CredentialsService
from parent.egress import reach
from parent.errors import ConfigError
from parent.feed import DirectorySource, FeedService, Source
from parent.forward import OPENING_BYTES, Forwarder
from parent.launch import Launcher
from parent.listen import Admission, Listener, refusals
from parent.metrics import CONNECTIONS_MAX, Metric, MetricsService, counter, counters, gauge
from parent.probes import Readiness
from parent.pump import Buffers, PumpLimits
from parent.status import StatusService
from parent.succession import Succession
from wire.endpoint import Endpoint
from wire.errors import BootFailure, Stage

STATUS_CONNECTIONS = 8
STATUS_IDLE_SECONDS = 86_400.0
FILES_PER_CONNECTION = 2
FILES_BESIDE = 128  # interpreter, listeners, feed files, nitro-cli

log = logging.getLogger(__name__)


def feed_source(config: Config) -> Source:
    """Where the feed's bytes come from."""
    if isinstance(config.feed, DirectoryFeed):
        return DirectorySource(Path(config.feed.directory))
    # boto3 costs 30 MB and 0.2 s, which a feed from a directory does not pay.
    from parent.bucket import connect  # noqa: PLC0415
    from parent.feed_s3 import S3Source  # noqa: PLC0415

    return S3Source(connect(config.feed.region), config.feed.bucket, config.feed.prefix, Path(config.feed.cache))


def credential_source(config: Config) -> CredentialSource:
    """Where the role's credentials come from."""
    return FileSource(config.credentials.path) if isinstance(config.credentials, FileCredentials) else ImdsSource()


def files_needed(config: Config) -> int:
    """Open files at the limits, all of them reached at once."""
    limits = config.limits
    connections = limits.sessions * len(config.sessions) + limits.feed_connections + limits.egress_connections * len(config.egress)
    return FILES_PER_CONNECTION * connections + FILES_BESIDE


class Appliance:
    """Every service and listener of one parent; made inside a running loop."""

    def __init__(self, config: Config) -> None:
        limits = config.limits
        self.config = config
        self._buffers = Buffers()
        self.succession = Succession(config.enclave, seconds=limits.dial_seconds, switched=self._switched)
        self.status = StatusService(idle_seconds=STATUS_IDLE_SECONDS)
        self.feed = FeedService(feed_source(config), seconds=limits.feed_seconds)
        self.credentials = CredentialsService(credential_source(config), seconds=limits.feed_seconds)
        session_limits = PumpLimits(
            idle=limits.idle_seconds, stall=limits.stall_seconds, handshake=limits.handshake_seconds, opening_bytes=OPENING_BYTES
        )
        self.sessions = Forwarder("sessions", self.succession.reach, limits=session_limits, buffers=self._buffers)
        self.egress = tuple(self._forward(index, entry) for index, entry in enumerate(config.egress))
        self.launcher = Launcher(config.launch, config.cid) if config.launch is not None and config.cid is not None else None
        self.listeners = self._listeners()
        self._reported = self._word()  # before a next enclave reported too

    def _forward(self, index: int, entry: Egress) -> Forwarder:
        limits = self.config.limits
        pump = PumpLimits(idle=limits.stall_seconds, stall=limits.stall_seconds)
        return Forwarder(f"egress {index}", partial(reach, entry, seconds=limits.dial_seconds), limits=pump, buffers=self._buffers)

    def _listeners(self) -> dict[str, Listener]:
        config, limits = self.config, self.config.limits
        callers = Admission(
            connections=limits.sessions, per_address=limits.sessions_per_address, per_second=limits.new_sessions_per_second, cid=None
        )

        def enclave(most: int) -> Admission:
            return Admission(connections=most, cid=config.cid, also=config.next.cid if config.next else None)

        found = {
            "feed": Listener(config.feed_listen, self.feed.handle, enclave(limits.feed_connections)),
            "status": Listener(config.status_listen, self.status.handle, enclave(STATUS_CONNECTIONS)),
            "credentials": Listener(config.credentials_listen, self.credentials.handle, enclave(limits.feed_connections)),
        }
        for index, (entry, forward) in enumerate(zip(config.egress, self.egress, strict=True)):
            found[f"egress-{index}"] = Listener(entry.listen, forward.handle, enclave(limits.egress_connections))
        for index, endpoint in enumerate(config.sessions):
            found[f"sessions-{index}"] = Listener(endpoint, self.sessions.handle, callers)
        if config.metrics_listen is not None:
            readiness = Readiness(self.status, self.succession.reach, two=lambda: self.config.next is not None)
            service = MetricsService(collect=self.collect, readiness=readiness)
            found["metrics"] = Listener(config.metrics_listen, service.handle, Admission(connections=CONNECTIONS_MAX))
        return found

    def reload(self, config: Config) -> None:
        """Take over a changed `next`, the only thing that can change while the parent runs. Raises: ConfigError for any other change.

        With a next enclave, new sessions go to it once it takes connections. Without one, nothing more is waited for; after
        a switch `enclave` must name the enclave that took over.
        """
        if replace(config, next=None) != replace(self.config, next=None):
            raise ConfigError("only [next] can change while the parent runs; after a switch [enclave] names the one that took over")
        if config.next == self.config.next:
            return
        if self.config.next is not None:
            self.succession.abandon()
            self.status.stage, self.status.failure, self.status.last_failure = self._reported
        self._reported = self._word()
        self.config = config
        self._admit(config.next.cid if config.next else None)
        if config.next is not None:
            self.succession.follow(config.next.session)

    def _word(self) -> tuple[Stage | None, BootFailure | None, BootFailure | None]:
        return self.status.stage, self.status.failure, self.status.last_failure

    def _switched(self, endpoint: Endpoint) -> None:
        former, following = self.config.cid, self.config.next
        self.config = replace(self.config, enclave=endpoint, cid=following.cid if following else former, next=None)
        self._admit(former)
        # It takes connections: its own word may be on its way.
        self.status.stage, self.status.failure, self.status.last_failure = Stage.SERVING, None, None

    def _admit(self, also: int | None) -> None:
        """Let the enclave in, and the CID of the one before or after it."""
        for listener in self.listeners.values():
            if (rule := listener.gate.admission).cid is not None:
                listener.gate.admission = replace(rule, cid=self.config.cid, also=also)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then let sessions end within the drain time. Raises: BindError before anything is served."""
        try:
            for name, listener in self.listeners.items():
                log.info("listening: %s on %s", name, listener.open())
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(listener.serve()) for listener in self.listeners.values()]
                if self.launcher is not None:
                    tasks.append(group.create_task(self._keep(self.launcher)))
                log.info("parent is ready")
                if self.config.next is not None:
                    self.succession.follow(self.config.next.session)
                await stop.wait()
                log.info("parent is stopping")
                self.succession.abandon()
                for task in tasks:
                    task.cancel()
        finally:
            for listener in self.listeners.values():
                listener.close()
            drain = self.config.limits.drain_seconds if stop.is_set() else 0.0
            await asyncio.gather(self.feed.close(), *(listener.drain(drain) for listener in self.listeners.values()))

    async def _keep(self, launcher: Launcher) -> None:
        lost = asyncio.Event()

        async def forget() -> None:
            while True:
                await lost.wait()
                lost.clear()
                self.status.reset()

        async with asyncio.TaskGroup() as group:
            group.create_task(launcher.keep(lost, lambda: self.status.serving))
            group.create_task(forget())

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        stage, failure = self.status.stage, self.status.last_failure
        yield gauge("enclave_stage", "boot stage last reported: 1 cold to 5 serving, 0 none", stage.value if stage else 0)
        text = "last boot failure until a boot succeeds, 0 none; docs/operate.md has the list"
        yield gauge("enclave_boot_failure", text, failure.value if failure else 0)
        yield counter("enclave_boot_failures", "boots that reported a failure", self.status.boot_failures)
        for each, value in self.status.counters.items():
            yield counter(f"enclave_{each.name.lower()}", each.value, value)
        yield gauge("parent_sessions", "sessions forwarded now", self.sessions.active)
        ended = {ending.name.lower(): float(count) for ending, count in self.sessions.endings.items()}
        yield counters("parent_sessions_ended", "sessions ended, by reason", "reason", ended)
        yield counter("parent_enclave_unreachable", "sessions closed because the enclave took no connection", self.sessions.unreachable)
        yield counters(
            "parent_bytes", "session bytes forwarded", "direction", {"to_enclave": self.sessions.to_far, "to_caller": self.sessions.to_near}
        )
        refused = refusals(self.listeners)
        samples = tuple(({"listener": name, "reason": reason}, float(count)) for (name, reason), count in refused.items())
        yield Metric(name="parent_refused_total", text="connections refused at once", kind="counter", samples=samples)
        exhausted = sum(listener.exhausted for listener in self.listeners.values())
        yield counter("parent_accept_exhausted", "times that no file descriptor was left to accept with", exhausted)
        yield counter("parent_feed_bytes", "sealed bytes handed to the enclave", self.feed.bytes_sent)
        yield counters(
            "parent_feed_errors", "feed requests answered with an error", "reason", {k: float(v) for k, v in self.feed.errors.items()}
        )
        yield counter("parent_credentials", "credentials handed to the enclave", self.credentials.handed_out)
        yield counter("parent_credentials_errors", "times that no credentials could be had", self.credentials.errors)
        yield counters(
            "parent_egress_refused", "egress refused by address", "entry", {str(i): float(f.refused) for i, f in enumerate(self.egress)}
        )
        unreachable = {str(i): float(f.unreachable) for i, f in enumerate(self.egress)}
        yield counters("parent_egress_unreachable", "egress not reached", "entry", unreachable)
        if self.launcher is not None:
            yield counter("parent_enclave_starts", "times that nitro-cli was asked to start the enclave", self.launcher.starts)
