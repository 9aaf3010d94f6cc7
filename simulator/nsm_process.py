"""`python -P -m simulator nsm`: one simulated security module as a process of its own, on a Unix socket.

Each request and each response is u32be length, then that many bytes. The module ends with the process that started it:
it serves until its standard input closes.
"""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import socket
import sys
import threading

from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki

CONNECTIONS_MAX = 16
FRAMED_MAX = 1 << 16  # more than a driver passes on; the module itself refuses what exceeds its own limit


class _Server:
    def __init__(self, nsm: SimulatedNsm) -> None:
        self._nsm = nsm
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while True:
                    header = stream.read(4)
                    length = int.from_bytes(header, "big")
                    if len(header) < 4 or length > FRAMED_MAX:
                        return
                    request = stream.read(length)
                    if len(request) < length:
                        return
                    response = self._nsm.call(request)
                    connection.sendall(len(response).to_bytes(4, "big") + response)
        except OSError:
            return
        finally:
            self._places.release()


def _pcr(text: str) -> tuple[int, bytes]:
    index, _, value = text.partition("=")
    return int(index), bytes.fromhex(value)


def main(argv: Sequence[str]) -> int:
    """Serve until standard input closes; prints `ready` once the socket listens."""
    parser = argparse.ArgumentParser(prog="python -P -m simulator nsm", description="A simulated Nitro Security Module on a Unix socket.")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; the path must not exist")
    parser.add_argument("--state", type=Path, required=True, help="directory of the simulated root, made where absent")
    parser.add_argument("--module-id", required=True, help="i-<instance>-enc<enclave>")
    parser.add_argument("--pcr", type=_pcr, action="append", default=[], metavar="INDEX=HEX", help="initial value of PCR0 to PCR15")
    arguments = parser.parse_args(argv)
    instance_id = arguments.module_id.partition("-enc")[0]
    pki = SimulatedPki.open(arguments.state, instance_id=instance_id)
    nsm = SimulatedNsm(pcrs=dict(arguments.pcr), module_id=arguments.module_id, pki=pki)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(arguments.socket))
        arguments.socket.chmod(0o600)
        listener.listen(CONNECTIONS_MAX)
        threading.Thread(target=_Server(nsm).accept, args=(listener,), daemon=True).start()
        print("ready", flush=True)
        while sys.stdin.buffer.read(4096):
            pass
    return 0
