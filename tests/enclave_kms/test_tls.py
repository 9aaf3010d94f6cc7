"""TLS over memory BIOs: the stream, and the group read from the ServerHello."""

from contextlib import closing
import os
from pathlib import Path
import socket
import ssl
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from enclave import tls
from simulator.kms.tls import CA, server_context

HOST = "kms.eu-west-1.amazonaws.com"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority."""
    folder = tmp_path_factory.mktemp("tls")
    server_context(folder, (HOST,))
    return folder


def connect(state: Path, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch | None = None) -> tls.TlsStream:
    """A client's stream to a server that sends back what it gets."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        with closing(theirs):
            try:
                with context.wrap_socket(theirs, server_side=True) as stream:
                    while data := stream.recv(65536):
                        stream.sendall(data)
                    stream.unwrap()
            except OSError:
                return

    theirs.settimeout(10)
    threading.Thread(target=echo, daemon=True).start()
    return tls.TlsStream(ours, tls.context((state / CA).read_bytes()), HOST, seconds=10)


def test_bytes_go_through(state: Path) -> None:
    """What is sent comes back, in pieces smaller than it and larger than a TLS record."""
    stream = connect(state, server_context(state, (HOST,)))
    data = os.urandom(40_000)
    reader = stream.makefile("rb")
    for _ in range(5):
        stream.sendall(data)
        assert data == reader.read(len(data))
    stream.close()


def test_the_group_is_the_servers(state: Path) -> None:
    """The group is the one that the server chose, also after it asked the client to begin again with it."""
    context = server_context(state, (HOST,))
    context.set_ecdh_curve("secp384r1")
    assert connect(state, context).group == 24
    context.set_ecdh_curve("X25519")
    assert connect(state, context).group == 29


def test_the_best_common_group_is_post_quantum_where_the_library_can(state: Path) -> None:
    """With OpenSSL 3.5 and later the hybrid group is chosen by itself; older libraries have none."""
    group = connect(state, server_context(state, (HOST,))).group
    assert group == tls.X25519MLKEM768 if ssl.OPENSSL_VERSION_INFO >= (3, 5) else group == 29


def test_every_wait_ends_at_the_deadline(state: Path) -> None:
    """A peer that goes quiet in the middle costs the remaining seconds, whatever it sent before."""
    now = [0.0]
    ours, theirs = socket.socketpair()
    context = server_context(state, (HOST,))

    def accept() -> None:
        with context.wrap_socket(theirs, server_side=True) as stream:
            stream.sendall(b"x")
            stream.recv(1)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    stream = tls.TlsStream(ours, tls.context((state / CA).read_bytes()), HOST, seconds=10, monotonic=lambda: now[0])
    reader = stream.makefile("rb")
    assert reader.read(1) == b"x"
    now[0] = 10.0
    with pytest.raises(TimeoutError):
        reader.read(1)
    with pytest.raises(TimeoutError):
        stream.sendall(b"x")
    stream.close()
    thread.join(10)


def test_a_cut_is_no_end(state: Path) -> None:
    """A stream that ends without TLS saying so is an error, not an end."""
    ours, theirs = socket.socketpair()
    context = server_context(state, (HOST,))

    def accept() -> None:
        with context.wrap_socket(theirs, server_side=True) as stream:
            stream.sendall(b"x")
            stream.recv(1)

    threading.Thread(target=accept, daemon=True).start()
    stream = tls.TlsStream(ours, tls.context((state / CA).read_bytes()), HOST, seconds=10)
    reader = stream.makefile("rb")
    assert reader.read(1) == b"x"
    stream.sendall(b"go")
    with pytest.raises(OSError):
        reader.read(1)


HELLO = bytes.fromhex(
    "160303005a020000560303" + "11" * 32 + "20" + "22" * 32 + "130200" + "000e" + "002b00020304" + "0033000411ec0000" + "16030300"
)


def test_a_known_hello() -> None:
    """Extensions in any order, behind a session id, with bytes of the next record behind it."""
    assert tls.server_group(HELLO) == tls.X25519MLKEM768


@pytest.mark.parametrize("end", range(len(HELLO) - 4))
def test_a_short_hello_names_no_group(end: int) -> None:
    """A hello that has not arrived whole names no group."""
    assert tls.server_group(HELLO[:end]) is None


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x17), (5, 0x01), (8, 0x55), (8, 0x57)],
    ids=["no handshake", "no ServerHello", "ends early", "ends late"],
)
def test_what_is_no_server_hello_names_no_group(at: int, value: int) -> None:
    """Record type, message type and both lengths are those of one whole ServerHello."""
    assert tls.server_group(HELLO[:at] + bytes((value,)) + HELLO[at + 1 :]) is None


def test_a_short_message_with_a_fitting_length_names_no_group() -> None:
    """Nothing is looked for behind its end."""
    assert tls.server_group(bytes.fromhex("1603030008" + "02000004" + "03031111")) is None


def test_a_bundle_without_authorities_is_refused(state: Path) -> None:
    """PEM that holds a server's certificate alone trusts nobody, and is said to."""
    texts = (path.read_text() for path in state.iterdir())
    key_and_leaf = next(text for text in texts if "PRIVATE KEY" in text and "BEGIN CERTIFICATE" in text)
    leaf = key_and_leaf[key_and_leaf.index("-----BEGIN CERTIFICATE") :].encode()
    for bundle in (leaf, b"text", b"\xff"):
        with pytest.raises(ValueError, match="CA bundle"):
            tls.context(bundle)


def test_a_stream_is_read_only_in_bytes(state: Path) -> None:
    """There is no text and no writing on the reader."""
    stream = connect(state, server_context(state, (HOST,)))
    with pytest.raises(ValueError, match="reading"):
        stream.makefile("wb")
    stream.close()


@given(st.binary(max_size=300), st.integers(0, len(HELLO)))
@settings(max_examples=300)
def test_any_bytes_name_a_group_or_none(data: bytes, keep: int) -> None:
    """Any bytes: a number or None, nothing else."""
    group = tls.server_group(HELLO[:keep] + data)
    assert group is None or 0 <= group < 1 << 16
