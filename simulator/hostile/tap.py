"""The parent's own view: every byte that it forwards between callers, enclave and KMS, recorded and searched.

Relays stand between the parent and the enclave on Unix sockets, in threads; they change nothing.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
import socket
import threading

from wire import ports

PARENT_PORTS = (ports.FEED, ports.STATUS, ports.CREDENTIALS, ports.EGRESS)
CHUNK = 1 << 16


@dataclass(kw_only=True)
class Tap:
    """Relays for one enclave: its sockets are in `run`, the parent's ends in `side`."""

    run: Path
    side: Path
    streams: list[bytearray] = field(default_factory=list)
    _listeners: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> "Tap":
        """Listen where the parent and the enclave will connect."""
        self.side.mkdir(mode=0o700)
        for port in PARENT_PORTS:
            self._relay(self.run / f"parent_{port}", self.side / f"parent_{port}")
        self._relay(self.side / f"enclave_{ports.SESSION}", self.run / f"enclave_{ports.SESSION}")
        return self

    def _relay(self, listen: Path, connect: Path) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(listen))
        listener.listen(64)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, connect), daemon=True).start()

    def _accept(self, listener: socket.socket, connect: Path) -> None:
        with suppress(OSError):
            while True:
                stream, _ = listener.accept()
                upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    upstream.connect(str(connect))
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
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    @property
    def forwarded(self) -> int:
        """Bytes that passed, both directions."""
        return sum(len(stream) for stream in self.streams)

    def found(self, needles: list[bytes]) -> int:
        """How many of the needles occur in what passed, or in any stream of it."""
        streams = [bytes(stream) for stream in self.streams]
        return sum(any(needle in stream for stream in streams) for needle in needles)
