"""`python -I ENTRY DIRECTORY`: boots the enclave unpacked in DIRECTORY, in a simulated machine around it.

This file is no part of what is measured. It puts DIRECTORY first on the path and calls `enclave.boot` as the image's
`enclave.__main__` does, with a security module behind a Unix socket, Unix sockets for vsock (both in the working
directory) and a platform that sets nothing on this machine. It ends when its standard input closes.
"""

import sys

if __name__ == "__main__":  # before anything of the enclave is imported; imported elsewhere, the path is the importer's
    sys.path.insert(0, sys.argv[1])
    # A development environment finds its own checkout by a finder: what is not in the archive must not be found at all.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")]

from collections.abc import Callable
from datetime import datetime
import fcntl
import os
from pathlib import Path
import select
import socket
import threading

import cbor2

import enclave
from enclave import boot, nsm
from enclave.dial import Endpoints
from enclave.nsm import NsmDescription, NsmError, NsmErrorCode, Pcr
from wire import ports
from wire.endpoint import Unix

RESPONSE_MAX = 0x3000
NSM_SOCKET = "nsm"
ENDPOINTS = Endpoints(
    session=Unix(f"enclave_{ports.SESSION}"),
    feed=Unix(f"parent_{ports.FEED}"),
    status=Unix(f"parent_{ports.STATUS}"),
    credentials=Unix(f"parent_{ports.CREDENTIALS}"),
    kms=Unix(f"parent_{ports.EGRESS}"),
)


class SocketNsm:
    """`enclave.nsm.Nsm` over `call(request) -> response`, speaking the CBOR of the device."""

    def __init__(self, call: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._one_call = threading.Lock()

    def _ask(self, name: str, fields: dict[str, object] | None = None) -> object:
        request = cbor2.dumps(name if fields is None else {name: fields})
        try:
            with self._one_call:
                answer = cbor2.loads(self._call(request))
        except (OSError, cbor2.CBORError):
            raise NsmError(NsmErrorCode.UNAVAILABLE) from None
        match answer:
            case {"Error": code}:
                raise NsmError(nsm.error_code(code))
            case dict() if name in answer:
                return answer[name]
            case str() if answer == name:
                return None
        raise NsmError(NsmErrorCode.MALFORMED)

    def describe(self) -> NsmDescription:
        """DescribeNSM."""
        return nsm.description(self._ask("DescribeNSM"))

    def describe_pcr(self, index: int) -> Pcr:
        """DescribePCR."""
        return nsm.pcr(self._ask("DescribePCR", {"index": index}))

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """ExtendPCR."""
        return nsm.pcr_value(self._ask("ExtendPCR", {"index": index, "data": data}))

    def lock_pcrs(self, range_: int) -> None:
        """LockPCRs."""
        self._ask("LockPCRs", {"range": range_})

    def random(self) -> bytes:
        """GetRandom."""
        answer = self._ask("GetRandom")
        return nsm.random_bytes(answer.get("random") if isinstance(answer, dict) else None)

    def attest(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        """Attestation."""
        return nsm.document(self._ask("Attestation", {"user_data": user_data, "nonce": nonce, "public_key": public_key}))


def socket_call(path: str) -> Callable[[bytes], bytes]:
    """A call over one connection to the simulated module's socket. Raises: OSError, then and later."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(120)  # the driver's own limit
    stream.connect(path)
    reader = stream.makefile("rb")

    def call(request: bytes) -> bytes:
        stream.sendall(len(request).to_bytes(4, "big") + request)
        length = int.from_bytes(reader.read(4), "big")
        response = reader.read(length) if 0 < length <= RESPONSE_MAX else b""
        if len(response) != length or not response:
            raise OSError("the simulated module is gone")
        return response

    return call


class SimulatedPlatform:
    """`enclave.platform.Platform` that sets nothing: this machine's clock, entropy and users are not the enclave's."""

    def set_clock(self, now: datetime) -> None:
        """Nothing."""

    def credit_entropy(self, data: bytes) -> None:
        """Nothing."""

    def clocksource(self) -> str:
        """What EC2 has, whatever this machine has."""
        return "kvm-clock"

    def become_server(self) -> None:
        """Nothing."""

    def become_worker(self) -> None:
        """Nothing."""


def _end_with_hypervisor() -> None:
    """Let the kernel end this process (SIGIO) when the other end of its standard input closes: no thread, no handler."""
    stdin = sys.stdin.fileno()
    fcntl.fcntl(stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(stdin, fcntl.F_SETFL, fcntl.fcntl(stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([stdin], [], [], 0)[0]:
        raise SystemExit("the hypervisor is gone")


def main(directory: str) -> int:
    """Boot, and serve until the hypervisor ends us. Refuses code from anywhere but `directory`."""
    if Path(directory).resolve() not in Path(enclave.__file__).resolve().parents:
        raise SystemExit("the enclave's code is not that of the directory")
    _end_with_hypervisor()
    # Weights lie in the run's own directory where that is memory, and so go with the world, however the enclave ends.
    run = Path.cwd()
    memory = run if boot.MEMORY_FOLDER in run.parents else boot.MEMORY_FOLDER
    return boot.run(nsm=SocketNsm(socket_call(NSM_SOCKET)), platform=SimulatedPlatform(), endpoints=ENDPOINTS, memory=memory)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
