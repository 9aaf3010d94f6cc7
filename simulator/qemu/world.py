"""The simulated world with the real image in a machine: KMS, parent, owner and callers as before, the enclave in QEMU."""

from dataclasses import dataclass, field
from pathlib import Path
import time
from typing import IO

from attestation.eif import Measurements
from simulator.hypervisor import Enclave
from simulator.qemu import machine
from simulator.qemu.machine import Machine, Parts, Settings
from simulator.world import World, WorldError
from wire import ports

BOOT_SECONDS = 180.0


@dataclass(kw_only=True)
class QemuWorld(World):
    """A world whose enclave is an image file; made by `of`."""

    machine: Machine | None = None
    settings: Settings = field(init=False)
    parts: Parts = field(init=False)
    image: Measurements = field(init=False)

    @classmethod
    def of(cls, image: Path, settings: Settings) -> "QemuWorld":
        """An empty world whose enclave is this image file, booted so. Raises: MalformedImageError, OSError."""
        parts, measurements = machine.split(image)
        world = cls.create()
        if not isinstance(world, QemuWorld):
            raise TypeError("a world of another kind was made")
        world.parts, world.image, world.settings = parts, measurements, settings
        return world

    def measured(self) -> Measurements:
        """What the image file measures to."""
        return self.image

    def start_enclave(self, archive: bytes | None = None, *, debug: bool = False, console: IO[bytes] | None = None) -> Enclave:
        """Not in this world: `start_machine`."""
        raise NotImplementedError("this world's enclave is a machine")

    def start_machine(self) -> Machine:
        """Boot the image in the run directory; it boots while this returns."""
        self.machine = machine.boot(self.parts, self.image, self.settings, run=self.run, state=self.state)
        return self.machine

    def wait_serving(self) -> None:
        """Wait until the guest takes connections to the session port. Raises: WorldError where its boot stopped."""
        guest = self.machine
        if guest is None:
            raise RuntimeError("start the machine first")
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end:
            if guest.process.poll() is not None:
                raise WorldError(f"the enclave's boot stopped: {self.boot_failure() or 'no report'}\n{guest.console[-1500:]}")
            if guest.connects(ports.SESSION):
                return
            time.sleep(0.2)
        raise WorldError(f"the enclave does not serve in time\n{guest.console[-1500:]}")

    def wait_ended(self, seconds: float = BOOT_SECONDS) -> str | None:
        """Wait until the guest ends by itself; the boot failure that it reported."""
        if self.machine is None:
            raise RuntimeError("start the machine first")
        self.machine.wait(seconds)
        time.sleep(0.2)
        return self.boot_failure()

    def stop_enclave(self) -> None:
        """Terminate the machine."""
        if self.machine is not None:
            self.machine.terminate()
            self.machine = None
