"""What stands between enclave and feed: passes requests on, and does to each answer what the test says."""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
import socket
import threading
from typing import BinaryIO

from wire.feed import FeedType, GetRange, decode_get_range
from wire.frame import HEADER_BYTES

PIECE = 1 << 16
SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """After `after` bytes of an answer the connection ends, or stands still until the relay's `go` is set."""

    after: int
    ends: bool


@dataclass(kw_only=True)
class Relay:
    """In the place of the parent's feed socket at `path`. `judge` is asked with each request (None: for the manifest)."""

    path: Path
    judge: Callable[[GetRange | None], Fault | None]
    asked: list[GetRange | None] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Listen there meanwhile."""
        real = self.path.with_name("feed-itself")
        self.path.rename(real)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen(16)
            threading.Thread(target=self._accept, args=(listener, real), daemon=True).start()
            try:
                yield
            finally:
                self.go.set()
                listener.shutdown(socket.SHUT_RDWR)
                self.path.unlink()
                real.rename(self.path)

    def _accept(self, listener: socket.socket, real: Path) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(listener.accept()[0], real), daemon=True).start()

    def _until_end(self, reader: BinaryIO, feed: socket.socket) -> None:
        with contextlib.suppress(OSError):
            reader.read(1)  # it asks no more, so that this is its end
        with contextlib.suppress(OSError):
            feed.shutdown(socket.SHUT_RDWR)

    def _serve(self, stream: socket.socket, real: Path) -> None:
        """One connection: the enclave asks one thing on each."""
        with stream, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as feed, contextlib.suppress(OSError):
            feed.connect(str(real))
            reader = stream.makefile("rb")
            header = reader.read(HEADER_BYTES)
            body = reader.read(int.from_bytes(header[:4], "big") - 1)
            wanted = decode_get_range(body) if header[-1] == FeedType.GET_RANGE else None
            self.asked.append(wanted)
            fault = self.judge(wanted)
            feed.sendall(header + body)
            threading.Thread(target=self._until_end, args=(reader, feed), daemon=True).start()
            passed = 0
            while piece := feed.recv(PIECE if fault is None else max(1, min(PIECE, fault.after - passed))):
                if fault is not None and passed >= fault.after:
                    if fault.ends:
                        stream.shutdown(socket.SHUT_RDWR)  # `reader` keeps the descriptor open
                        return
                    self.stalled.set()
                    self.go.wait(SECONDS)
                    fault = None
                stream.sendall(piece)
                passed += len(piece)
