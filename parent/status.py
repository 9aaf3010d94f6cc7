"""What the enclave reports: boot stage, boot failure, counters. A production enclave has no console, so this is its voice.

Reports are the enclave's word to its operator and no evidence of anything: callers rely on attestation alone.
"""

import logging
import socket

from parent.frames import FrameStream
from wire.counters import Counter
from wire.errors import BOOT_TABLE, BootFailure, Stage, WireError
from wire.feed import BootReport, FeedType, decode_boot_report, decode_counters
from wire.frame import HEADER_BYTES

FRAMES_MAX = 100_000  # per connection; an enclave that says more reconnects

log = logging.getLogger(__name__)


def explain(failure: BootFailure) -> str:
    """The line that the operator finds in the log: number, name, text, and where it is explained."""
    row = BOOT_TABLE[failure]
    anchor = failure.name.lower().replace("_", "-")
    gave_up = " (after ten minutes of trying)" if row.retried else ""
    return f"enclave boot failed: boot_failure={failure.name} code={failure.value}: {row.text}{gave_up}; see docs/operate.md#{anchor}"


class StatusService:
    """Takes the enclave's reports and keeps the last ones."""

    def __init__(self, *, idle_seconds: float) -> None:
        self._seconds = idle_seconds
        self.stage: Stage | None = None
        self.failure: BootFailure | None = None
        self.last_failure: BootFailure | None = None  # outlives the enclave that failed, until one serves
        self.boot_failures = 0
        self.counters: dict[Counter, int] = dict.fromkeys(Counter, 0)
        self.reports = 0
        self._enclaves = 0  # how many are gone: what is still read from one of them revives nothing

    @property
    def serving(self) -> bool:
        """Whether the last report said so."""
        return self.stage is Stage.SERVING and self.failure is None

    def reset(self) -> None:
        """The enclave is gone; what it said last holds no more."""
        self.stage = self.failure = None
        self._enclaves += 1

    async def handle(self, stream: socket.socket) -> None:
        """Read reports until the connection ends."""
        frames = FrameStream(stream, seconds=self._seconds)
        enclave = self._enclaves
        try:
            for _ in range(FRAMES_MAX):
                frame = await frames.next(FeedType.BOOT_REPORT, FeedType.COUNTERS)
                if frame is None:
                    return
                if frame[HEADER_BYTES - 1] == FeedType.BOOT_REPORT:
                    self._report(decode_boot_report(frame[HEADER_BYTES:]))
                else:
                    self.counters = decode_counters(frame[HEADER_BYTES:])
                    if (
                        self.stage is None and enclave == self._enclaves
                    ):  # counters come from an enclave that serves: it did when this parent started
                        self._report(BootReport(stage=Stage.SERVING))
        except (WireError, TimeoutError):
            return

    def _report(self, report: BootReport) -> None:
        """Log changes only: whoever repeats itself fills no log."""
        self.reports += 1
        if (report.stage, report.failure) == (self.stage, self.failure):
            return
        self.stage, self.failure = report.stage, report.failure
        if report.failure is None:
            log.info("enclave reached stage %d %s", report.stage.value, report.stage.name)
            if report.stage is Stage.SERVING:
                self.last_failure = None
        else:
            self.last_failure = report.failure
            self.boot_failures += 1
            log.error("%s", explain(report.failure))
