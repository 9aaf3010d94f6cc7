"""TLS 1.3 that ends in the enclave, over a stream that the parent forwards: client side, a loop over two memory BIOs.

The bytes pass through here so that the key exchange group can be read from the ServerHello, which Python's `ssl` cannot
name: an answer under a classical group could be recorded by the parent and opened by a later quantum computer.
"""

from collections.abc import Callable
from functools import partial
import io
import socket
import ssl
import time

X25519MLKEM768 = 0x11EC
RECEIVE_BYTES = 64 * 1024
_HANDSHAKE, _SERVER_HELLO, _KEY_SHARE = 22, 2, 51
_HELLO_MAX = 16 * 1024


def context(ca_pem: bytes) -> ssl.SSLContext:
    """A client context that trusts `ca_pem` alone. Raises ValueError for certificates that do not parse."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies peer and host name
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        tls.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise ValueError("the CA bundle is not PEM") from None
    if not tls.get_ca_certs():
        raise ValueError("the CA bundle holds no certificate authority")
    return tls


def server_group(received: bytes) -> int | None:
    """The key exchange group that the ServerHello selects; `received` are the first bytes from a TLS 1.3 server.

    None where none can be read. RFC 8446, 4.1.3 and 4.2.8; of a HelloRetryRequest it is the group asked for, which the
    ServerHello behind it must repeat.
    """
    record = received[5:]
    if len(received) < 5 or received[0] != _HANDSHAKE or len(record) < (length := int.from_bytes(received[3:5], "big")):
        return None
    hello = record[4:length]
    if len(hello) < 35 or record[0] != _SERVER_HELLO or len(hello) != int.from_bytes(record[1:4], "big"):
        return None
    at = 35 + hello[34] + 3  # version, random, session id, cipher suite, compression
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    while at + 4 <= end <= len(hello):
        kind, size = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
        if kind == _KEY_SHARE:
            return int.from_bytes(hello[at + 4 : at + 6], "big") if size >= 2 and at + 6 <= end else None
        at += 4 + size
    return None


class TlsStream:
    """A client's TLS connection over a connected blocking socket, which it owns. Every wait ends at `seconds` from construction.

    The handshake, with the verification of the peer, happens at construction. Raises: ssl.SSLError (SSLCertVerificationError
    for a peer that is not `host` under the context's authorities), OSError.
    """

    def __init__(
        self, stream: socket.socket, tls: ssl.SSLContext, host: str, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._monotonic = monotonic
        self._deadline = monotonic() + seconds
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._in, self._out, server_hostname=host)
        self._first = b""
        self._loop(self._tls.do_handshake)
        self.group = server_group(self._first)

    def _wait(self) -> None:
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the connection has passed")
        self._stream.settimeout(left)

    def _flush(self) -> None:
        if self._out.pending:
            self._wait()
            self._stream.sendall(self._out.read())

    def _fill(self) -> None:
        self._wait()
        data = self._stream.recv(RECEIVE_BYTES)
        if len(self._first) < _HELLO_MAX:
            self._first += data
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _loop(self, step: Callable[[], bytes | int | None]) -> bytes | int | None:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                self._flush()  # the alert
                raise
            else:
                self._flush()
                return result

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        view = memoryview(bytes(data))
        while view:
            sent = self._loop(partial(self._tls.write, view))
            view = view[int(sent or 0) :]

    def recv_into(self, view: memoryview) -> int:
        """Receive into `view`; 0 at the orderly end of the stream."""
        try:
            data = self._loop(lambda: self._tls.read(len(view)))
        except ssl.SSLZeroReturnError:
            return 0
        if not isinstance(data, bytes):
            return 0
        view[: len(data)] = data
        return len(data)

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        """A buffered reader over the stream; what `http.client` asks of a socket."""
        if mode != "rb":
            raise ValueError("only reading")
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        """Close the socket underneath, without a closing alert."""
        self._stream.close()


class _Raw(io.RawIOBase):
    def __init__(self, stream: TlsStream) -> None:
        self._tls = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with memoryview(buffer) as view:
            return self._tls.recv_into(view)
