"""The simulated service on a loopback socket: HTTP/1.1 over TLS, a thread per connection, every size and wait bounded."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import socket
import ssl
import threading

from simulator.kms.service import BODY_MAX, HttpRequest, SimulatedKms

IDLE_SECONDS = 60.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: "KmsServer"

    def setup(self) -> None:
        """Shake hands in this connection's own thread: a silent client keeps nobody waiting."""
        self.request.settimeout(IDLE_SECONDS)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_POST(self) -> None:
        """The one method of the protocol."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or len(length) > 9 or int(length) > BODY_MAX or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self.send_error(413)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(length))
        response = self.server.kms.handle(HttpRequest(method="POST", path=self.path, headers=headers, body=body))
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the standard library's
        """The log is CloudTrail's shape, not a web server's."""


class KmsServer(ThreadingHTTPServer):
    """Serves `kms` on `address` from a thread of its own between `start` and `stop`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, kms: SimulatedKms, context: ssl.SSLContext, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.kms = kms
        self.context = context
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """A client that breaks off, or does not trust us, is no news."""

    @property
    def port(self) -> int:
        """The port that the system chose."""
        return int(self.server_address[1])

    def start(self) -> "KmsServer":
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Serve no more and close the socket."""
        self.shutdown()
        self.server_close()
        self._thread.join()
