"""Stream endpoints as values, and their text form; nothing here opens anything."""

from dataclasses import dataclass

from wire.errors import MalformedEndpointError

PORT_MAX = 65_535
VSOCK_MAX = 0xFFFF_FFFE  # VMADDR_CID_ANY and VMADDR_PORT_ANY (2**32 - 1) name no single peer


@dataclass(frozen=True, slots=True)
class Vsock:
    """An AF_VSOCK address; CID 3 is the parent as an enclave sees it."""

    cid: int
    port: int


@dataclass(frozen=True, slots=True)
class Unix:
    """A Unix stream socket."""

    path: str


@dataclass(frozen=True, slots=True)
class UnixConnect:
    """A Unix socket in front of a guest's vsock: connect, send `CONNECT <port>\\n`, read `OK <number>\\n`, then the stream."""

    path: str
    port: int


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP address; `proxy` is the (host, port) of an HTTP CONNECT proxy to go through."""

    host: str
    port: int
    proxy: tuple[str, int] | None = None


Endpoint = Vsock | Unix | UnixConnect | Tcp


def _number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 0 <= int(text) <= most:
        raise MalformedEndpointError(f"not a number from 0 to {most}")
    return int(text)


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise MalformedEndpointError("an IPv6 address stands in brackets: tcp:[::1]:8443")
    if not host or any(c in host for c in "[]/@? \t\r\n\0"):
        raise MalformedEndpointError("expected host:port")
    return host, _number(port, PORT_MAX)


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise MalformedEndpointError("expected a path")
    return text


def parse(text: str) -> Endpoint:
    """Parse `vsock:CID:PORT`, `unix:PATH`, `unix-connect:PATH:PORT`, `tcp:HOST:PORT` or `tcp:HOST:PORT?proxy=HOST:PORT`.

    Raises: MalformedEndpointError, with a text that says what was expected.
    """
    kind, _, rest = text.partition(":")
    if kind == "vsock":
        cid, colon, port = rest.partition(":")
        if colon:
            return Vsock(_number(cid, VSOCK_MAX), _number(port, VSOCK_MAX))
    elif kind == "unix":
        return Unix(_path(rest))
    elif kind == "unix-connect":
        path, colon, port = rest.rpartition(":")
        if colon:
            return UnixConnect(_path(path), _number(port, VSOCK_MAX))
    elif kind == "tcp":
        address, query, proxy = rest.partition("?proxy=")
        host, port_number = _host_port(address)
        return Tcp(host, port_number, _host_port(proxy) if query else None)
    raise MalformedEndpointError("expected vsock:CID:PORT, unix:PATH, unix-connect:PATH:PORT or tcp:HOST:PORT")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def render(endpoint: Endpoint) -> str:
    """The text that `parse` reads back to the same value."""
    match endpoint:
        case Vsock(cid, port):
            return f"vsock:{cid}:{port}"
        case Unix(path):
            return f"unix:{path}"
        case UnixConnect(path, port):
            return f"unix-connect:{path}:{port}"
        case Tcp(host, port, proxy):
            return f"tcp:{_address(host, port)}" + (f"?proxy={_address(*proxy)}" if proxy else "")
