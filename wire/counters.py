"""The counters that an enclave may tell its parent: totals since boot, none per caller, model or request size."""

from enum import Enum, unique


@unique
class Counter(Enum):
    """Name and help text as the parent's metrics show them; the order is the order on the wire."""

    SESSIONS_OPENED = "sessions opened"
    SESSIONS_REFUSED = "sessions refused after their opening"
    HANDSHAKES_FAILED = "handshakes that ended before an opening"
    REQUESTS = "requests answered"
    ERRORS = "requests answered with an error"
    VIOLATIONS = "sessions ended by a protocol violation"
    WORKERS_LOST = "model workers that ended unexpectedly"
    QUOTA_REFUSALS = "requests refused by a quota"
