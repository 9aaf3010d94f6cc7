"""A caller's latency counted in requests, not seconds: how many of an undisturbed caller's are answered while it waits for one.

The undisturbed caller asks another appliance of the same machine from the same process, with the same pause between its
requests. So whatever slows the machine or this process slows both alike, and only what an appliance does to its own
callers shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PAUSE_SECONDS = 0.002
QUIET_RANGE = 10  # where nothing is wrong it is 0 to 2, and seldom 5 with three busy processes per core
WINDOW = 60  # requests in a row
OUTLIERS = 3  # among them may be beyond the range


@dataclass(slots=True)
class Pace:
    """The waits of one caller, in answers to the undisturbed one."""

    undisturbed: int = 0
    waits: list[int] = field(default_factory=list)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Around one request of the caller that is watched."""
        before = self.undisturbed
        yield
        self.waits.append(self.undisturbed - before)

    @property
    def outliers(self) -> int:
        """Waits beyond the quiet range, among the worst WINDOW of them in a row."""
        beyond = [wait > QUIET_RANGE for wait in self.waits]
        return max(sum(beyond[at : at + WINDOW]) for at in range(max(1, len(beyond) - WINDOW + 1)))

    @property
    def is_decided(self) -> bool:
        """Whether what goes on has gone on for long enough."""
        return len(self.waits) >= WINDOW or self.outliers > OUTLIERS

    @property
    def is_quiet(self) -> bool:
        """Whether the caller waited no longer than one whom nobody disturbs; never where there was nothing to compare with."""
        compared = len(self.waits) >= WINDOW and 10 * self.undisturbed >= len(self.waits)
        return compared and self.outliers <= OUTLIERS
