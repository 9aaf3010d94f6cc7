"""The image's command: `python -I -m enclave`, as root, on `/dev/nsm` and vsock; no argument and no environment is read."""

import os
import sys

from enclave import boot, feed
from enclave.dial import VSOCK, dialler
from enclave.nsm import DEVICE, DeviceNsm, NsmError, open_device
from enclave.platform import NitroPlatform
from wire.errors import BootFailure, Stage
from wire.feed import BootReport, encode_boot_report


def main() -> int:
    """Boot on the device and serve; the process's exit code."""
    try:
        device = open_device()
        os.chmod(DEVICE, 0o600)  # the driver's 0666 would let a worker ask the module for evidence
    except (NsmError, OSError):
        report = BootReport(stage=Stage.COLD, failure=BootFailure.NSM_UNAVAILABLE)
        feed.report(dialler(VSOCK.status), encode_boot_report(report))
        return 1
    return boot.run(nsm=DeviceNsm(device), platform=NitroPlatform(), endpoints=VSOCK)


if __name__ == "__main__":
    sys.exit(main())
