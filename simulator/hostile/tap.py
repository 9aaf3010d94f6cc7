"""The parent's own view: every byte that it forwards between callers, enclave and KMS, recorded and searched.

Relays stand on its sockets, in threads; they change nothing.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
import socket
import threading

from wire import ports

CHUNK = 1 << 16

Address = Path | tuple[str, int]
"""A Unix socket's path, or a TCP host and port."""


def _socket(address: Address) -> tuple[socket.socket, str | tuple[str, int]]:
    """A socket of the address's family, and the address as that takes it."""
    if isinstance(address, Path):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(address)
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM), address


@dataclass(kw_only=True)
class Relay:
    """Passes connections on to `connect`, unchanged, and keeps both directions of each."""

    connect: Address
    streams: list[bytearray] = field(default_factory=list)
    _listener: socket.socket | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, listen: Address) -> int:
        """Take connections at `listen`; the TCP port that it has, 0 on a Unix socket."""
        self._listener, address = _socket(listen)
        self._listener.bind(address)
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return int(self._listener.getsockname()[1]) if isinstance(listen, tuple) else 0

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                stream, _ = listener.accept()
                upstream, address = _socket(self.connect)
                try:
                    upstream.connect(address)
                except OSError:
                    stream.close()
                    continue
                for source, target in ((stream, upstream), (upstream, stream)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        record = bytearray()
        with self._lock:
            self.streams.append(record)
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                record += chunk
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """Take no more connections."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()


@dataclass(kw_only=True)
class Tap:
    """Relays between a parent and its enclave, by name: the enclave's sockets are in `run`, the parent's ends in `side`."""

    run: Path
    side: Path
    relays: dict[str, Relay] = field(default_factory=dict)

    def start(self) -> "Tap":
        """Listen where the parent and the enclave will connect."""
        self.side.mkdir(mode=0o700)
        named = {"feed": ports.FEED, "status": ports.STATUS, "credentials": ports.CREDENTIALS, "egress": ports.EGRESS}
        for name, port in named.items():
            self.between(name, self.run / f"parent_{port}", self.side / f"parent_{port}")
        self.between("session", self.side / f"enclave_{ports.SESSION}", self.run / f"enclave_{ports.SESSION}")
        return self

    def between(self, name: str, listen: Address, connect: Address) -> int:
        """One relay more; the TCP port that it listens on, 0 on a Unix socket."""
        self.relays[name] = Relay(connect=connect)
        return self.relays[name].start(listen)

    def stop(self) -> None:
        """Take no more connections."""
        for relay in self.relays.values():
            relay.stop()

    @property
    def _streams(self) -> list[bytes]:
        return [bytes(stream) for relay in self.relays.values() for stream in relay.streams]

    @property
    def forwarded(self) -> int:
        """Bytes that passed, both directions."""
        return sum(len(stream) for stream in self._streams)

    def found(self, needles: list[bytes]) -> int:
        """How many of the needles occur in what passed, or in any stream of it."""
        streams = self._streams
        return sum(any(needle in stream for stream in streams) for needle in needles)
