"""`python -P -m simulator qemu-devices`: the devices of one machine as a process: a security module and a vsock.

In the directory of the run it listens on `v` and `n` for QEMU, on `vsock` for connections into the guest (`CONNECT <port>`), and on
`enclave_<port>` for those ports that are named; what the guest dials is `parent_<port>`, or another machine's `vsock`.
It ends when its standard input closes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import threading

from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from simulator.qemu.backend import Backend
from simulator.qemu.loop import Loop
from simulator.qemu.nsm_device import NsmDevice
from simulator.qemu.vsock_device import Route, VsockDevice, by_port, to_guest
from wire import ports


def _pcr(text: str) -> tuple[int, bytes]:
    index, _, value = text.partition("=")
    return int(index), bytes.fromhex(value)


def _route(text: str, run: Path) -> tuple[int, Route]:
    cid, _, where = text.partition("=")
    own = by_port(run / "parent")
    if not where:
        return int(cid), own
    other = to_guest(Path(where))
    return int(cid), lambda port: own(port) if port == ports.HEARTBEAT else other(port)  # the heartbeat is the hypervisor's


def main(argv: Sequence[str]) -> int:
    """Serve until standard input closes; prints `ready` once every socket listens."""
    parser = argparse.ArgumentParser(prog="python -P -m simulator qemu-devices", description="Devices for one machine in QEMU.")
    parser.add_argument("--run", type=Path, required=True, help="directory for the sockets")
    parser.add_argument("--cid", type=int, required=True, help="the guest's own CID")
    parser.add_argument("--peer-cid", type=int, default=3, help="whose connections into the guest are (3, the parent)")
    parser.add_argument("--route", action="append", default=[], metavar="CID[=SOCKET]", help="what the guest may dial")
    parser.add_argument("--forward", type=int, action="append", default=[], metavar="PORT", help="make enclave_PORT")
    parser.add_argument("--state", type=Path, help="directory of the simulated root; without it there is no security module")
    parser.add_argument("--module-id", default="i-0-enc0")
    parser.add_argument("--pcr", type=_pcr, action="append", default=[], metavar="INDEX=HEX")
    args = parser.parse_args(argv)
    loop = Loop()
    routes = dict(_route(text, args.run) for text in args.route)
    vsock = VsockDevice(loop, guest_cid=args.cid, peer_cid=args.peer_cid, routes=routes, path=args.run / "vsock")
    backend = Backend(loop, args.run / "v", vsock)
    vsock.queue, vsock.interrupt = backend.queue, backend.interrupt
    for port in args.forward:
        vsock.forward(args.run / f"enclave_{port}", port)
    if args.state is not None:
        pki = SimulatedPki.open(args.state, instance_id=args.module_id.partition("-enc")[0])
        module = NsmDevice(SimulatedNsm(pcrs=dict(args.pcr), module_id=args.module_id, pki=pki).call)
        module.interrupt = Backend(loop, args.run / "n", module).interrupt
    serving = threading.Thread(target=loop.run)
    serving.start()
    print("ready", flush=True)
    while sys.stdin.buffer.read(4096):
        pass
    loop.stop()
    serving.join()
    return 0
