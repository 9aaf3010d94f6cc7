"""Where the enclave's streams come from and go to; the only module besides `serve` that opens a socket."""

from collections.abc import Callable
from dataclasses import dataclass
import socket

from wire import ports
from wire.endpoint import Endpoint, Unix, Vsock

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0


class DialError(Exception):
    """The parent does not take the connection."""


Dial = Callable[[], socket.socket]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The session listener, and the parent's services; `kms` is entry 0 of the parent's egress."""

    session: Endpoint
    feed: Endpoint
    status: Endpoint
    credentials: Endpoint
    kms: Endpoint


# The image's: every service on the parent's CID, the session port for any peer to connect, judged at accept.
VSOCK = Endpoints(
    session=Vsock(socket.VMADDR_CID_ANY, ports.SESSION),
    feed=Vsock(ports.PARENT_CID, ports.FEED),
    status=Vsock(ports.PARENT_CID, ports.STATUS),
    credentials=Vsock(ports.PARENT_CID, ports.CREDENTIALS),
    kms=Vsock(ports.PARENT_CID, ports.EGRESS),
)


def connect(endpoint: Endpoint, *, connect_seconds: float = CONNECT_SECONDS, read_seconds: float = READ_SECONDS) -> socket.socket:
    """A connected blocking stream whose every wait is bounded. Raises: DialError; ValueError for another kind of endpoint."""
    match endpoint:
        case Vsock(cid, port):
            address: tuple[int, int] | str = (cid, port)
            stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        case Unix(path):
            address = path
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        case _:
            raise ValueError("an enclave dials its parent over vsock alone (over a Unix socket where it is simulated)")
    try:
        stream.settimeout(connect_seconds)
        stream.connect(address)
        stream.settimeout(read_seconds)
    except OSError:
        stream.close()
        raise DialError("the parent does not take the connection") from None
    return stream


def dialler(endpoint: Endpoint) -> Dial:
    """A function that connects to `endpoint` anew at every call."""
    return lambda: connect(endpoint)
