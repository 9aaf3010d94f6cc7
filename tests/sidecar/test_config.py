"""The sidecar's file and command: strict, and nothing is opened to others by default."""

from pathlib import Path
from typing import Any

import pytest

from cloister.sidecar.access import Access
from cloister.sidecar.config import Config, ConfigError, parse_config, read_token
from cloister.sidecar.refusal import RefusedError, refusal_of
from wire.endpoint import Tcp, Unix, UnixConnect
from wire.errors import Code

FOLDER = Path("/etc/cloister")
GOOD = """
[appliance]
endpoint = "tcp:parent.example:8443?proxy=proxy.example:3128"
reference_values = "values.json"
credential = "credential"
caller_key = "/run/keys/caller.pem"
owner_key = "{key}"
sessions = 3

[http]
listen = "unix:/run/user/1000/cloister.sock"

[grpc]
listen = "tcp:127.0.0.1:8001"
token_file = "token"
""".replace("{key}", "ab" * 32)


def parse(text: str) -> Config:
    return parse_config(text.encode(), FOLDER)


def test_a_file_is_read() -> None:
    """Every entry arrives; paths are relative to the file; defaults are the safe ones."""
    found = parse(GOOD)
    assert found.endpoint == Tcp("parent.example", 8443, ("proxy.example", 3128))
    assert (found.reference_values, found.credential) == (FOLDER / "values.json", FOLDER / "credential")
    assert (found.caller_key, found.owner_key, found.sessions) == (Path("/run/keys/caller.pem"), b"\xab" * 32, 3)
    assert found.http is not None
    assert found.grpc is not None
    assert (found.http.at, found.http.token_file) == (Unix("/run/user/1000/cloister.sock"), None)
    assert (found.grpc.at, found.grpc.token_file) == (Tcp("127.0.0.1", 8001), FOLDER / "token")
    assert found.grpc.hosts == ()  # its own names, once its port is known
    assert (found.request_seconds, found.request_bytes, found.repeatable) == (60, 72 << 20, True)


def test_paths_of_sockets_are_relative_to_the_file() -> None:
    """A socket's path is found from the file's folder as every other path is, wherever the sidecar is started."""
    found = parse(GOOD.replace("/run/user/1000/cloister.sock", "door.sock").replace("tcp:127.0.0.1:8001", "unix:/run/rpc.sock"))
    assert found.http is not None
    assert found.grpc is not None
    assert (found.http.at, found.grpc.at) == (Unix("/etc/cloister/door.sock"), Unix("/run/rpc.sock"))
    endpoint = "tcp:parent.example:8443?proxy=proxy.example:3128"
    assert parse(GOOD.replace(endpoint, "unix:up.sock")).endpoint == Unix("/etc/cloister/up.sock")
    assert parse(GOOD.replace(endpoint, "unix-connect:up.sock:7000")).endpoint == UnixConnect("/etc/cloister/up.sock", 7000)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[appliance]", "[appliances]"),
        ("sessions = 3", "sessions = 0"),
        ("sessions = 3", "sessions = true"),
        ("sessions = 3", 'sessions = "3"'),
        ("sessions = 3", "surprise = 3"),
        ("sessions = 3", "request_bytes = 1"),
        ("tcp:parent.example:8443", "http://parent.example"),
        ('reference_values = "values.json"', ""),
        ('credential = "credential"', ""),
        ("abab", "xyxy"),
        ("tcp:127.0.0.1:8001", "tcp:0.0.0.0:8001"),
        ("tcp:127.0.0.1:8001", "tcp:192.0.2.1:8001"),
        ("tcp:127.0.0.1:8001", "tcp:localhost:8001?proxy=a:1"),
        ("tcp:127.0.0.1:8001", "vsock:3:5000"),
        ('token_file = "token"', ""),
        ('token_file = "token"', 'token_file = "token"\nhosts = "a"'),
        ('token_file = "token"', 'token_file = "token"\nhosts = [3]'),
        ('token_file = "token"', 'token_file = "token"\nopen = true'),
        ("[grpc]", "[[grpc]]"),
        ("[grpc]", "[rpc]"),
        ("=", ":"),
    ],
)
def test_what_is_not_understood_is_refused(old: str, new: str) -> None:
    """A missing, unknown or ill-typed entry, and a listener that others could reach, are refused when the file is read."""
    assert old in GOOD
    with pytest.raises(ConfigError):
        parse(GOOD.replace(old, new))


def test_a_sidecar_has_a_door() -> None:
    """A file without any listener is refused."""
    with pytest.raises(ConfigError):
        parse(GOOD.partition("[http]")[0])


@pytest.mark.parametrize(
    "data", [b"", b"short", b"two words of token text", "tökentökentöken".encode(), b"a" * 20 + b"\nb" * 20, b"\0" * 32]
)
def test_a_token_is_one_long_word(data: bytes) -> None:
    """A token that is short, or more than one printable word, is refused."""
    with pytest.raises(ConfigError):
        read_token(data)
    assert read_token(b"0123456789abcdef\n") == "0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "accepted"),
    [("Bearer 0123456789abcdef", True), ("bearer  0123456789abcdef", True), ("Bearer 0123456789abcdeg", False), ("", False), (None, False)],
)
def test_tokens_are_compared_whole(given: str | None, accepted: bool) -> None:
    """Only the token itself is accepted."""
    access = Access(token="0123456789abcdef")
    if accepted:
        access.check_token(given)
    else:
        with pytest.raises(RefusedError, check=lambda error: error.code is Code.TOKEN_REQUIRED):
            access.check_token(given)


def test_what_is_not_ours_is_internal() -> None:
    """An exception that is not of the table is INTERNAL and its text stays here."""
    found: Any = refusal_of(ValueError("canary"))
    assert found.code is Code.INTERNAL
    assert b"canary" not in found.body()
