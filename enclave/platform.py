"""The machine under the enclave, as an argument of boot: clock, entropy, clock source and identity.

`NitroPlatform` is the image's own and the only one that sets anything on a machine. Whoever boots the package elsewhere
passes a platform that sets nothing.
"""

from datetime import datetime
import fcntl
import os
from pathlib import Path
import resource
import struct
import time
from typing import Protocol

from enclave import privileges
from wire.errors import BootFailure

SERVER_UID = 7001
WORKER_UID = 7002
RNDADDENTROPY = 0x40085203  # _IOW('R', 3, int[2]), linux/random.h
RANDOM_DEVICE = "/dev/random"
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
STATUS = "/proc/self/status"


class PlatformError(Exception):
    """The machine did not do what boot needs; `boot_failure` is all that is said about it."""

    def __init__(self, boot_failure: BootFailure) -> None:
        super().__init__(boot_failure.name)
        self.boot_failure = boot_failure


class Platform(Protocol):
    """Called during boot alone, from the main thread; every method raises PlatformError and nothing else."""

    def set_clock(self, now: datetime) -> None:
        """Set the machine's clock."""
        ...

    def credit_entropy(self, data: bytes) -> None:
        """Mix `data` into the kernel's generator and credit all of its bits."""
        ...

    def clocksource(self) -> str:
        """Name of the kernel's current clock source."""
        ...

    def become_server(self) -> None:
        """Give up root for the server's own user, for good, and check that it is gone."""
        ...

    def become_worker(self) -> None:
        """In the worker zygote, before anything else there: give up root for the workers' own user, and check."""
        ...


class NitroPlatform:
    """The guest of a Nitro enclave, where we start as root."""

    def set_clock(self, now: datetime) -> None:
        """Set CLOCK_REALTIME."""
        try:
            time.clock_settime(time.CLOCK_REALTIME, now.timestamp())
        except (OSError, OverflowError, ValueError):
            raise PlatformError(BootFailure.CLOCK_REFUSED) from None

    def credit_entropy(self, data: bytes) -> None:
        """RNDADDENTROPY: from here on getrandom(2) does not block."""
        try:
            with open(RANDOM_DEVICE, "wb", buffering=0) as device:
                fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(data), len(data)) + data)
        except OSError:
            raise PlatformError(BootFailure.ENTROPY_UNAVAILABLE) from None

    def clocksource(self) -> str:
        """From sysfs."""
        try:
            return Path(CLOCKSOURCE).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise PlatformError(BootFailure.CLOCKSOURCE_REFUSED) from None

    def become_server(self) -> None:
        """User 7001, no capability, no new privileges, no core dumps."""
        _become(SERVER_UID)

    def become_worker(self) -> None:
        """User 7002, likewise; what else a worker gives up once its model is loaded is `enclave.confine`'s."""
        _become(WORKER_UID)


def _become(uid: int) -> None:
    try:
        privileges.become(uid)
        privileges.no_core_dumps()
        privileges.no_new_privileges()
        status = Path(STATUS).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        raise PlatformError(BootFailure.PRIVILEGES_KEPT) from None
    if privileges.fault(status, uid) is not None or resource.getrlimit(resource.RLIMIT_CORE) != (0, 0) or _root_again():
        raise PlatformError(BootFailure.PRIVILEGES_KEPT)


def _root_again() -> bool:
    """Whether root can be had back: it must not."""
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True
