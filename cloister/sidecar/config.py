"""The sidecar's configuration file (TOML): which appliance, as whom, and which local listeners. Strict: unknown keys are refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
import tomllib
from typing import Any

from cloister.sidecar.access import TOKEN_MIN
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, parse
from wire.errors import MalformedEndpointError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ConfigError(Exception):
    """The file is not a configuration of this version; the text names the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One door's place: a Unix socket (mode 0600) or loopback TCP, which needs a token. `hosts`: empty for TCP's own names."""

    at: Unix | Tcp
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. Paths are relative to its folder."""

    endpoint: Endpoint
    reference_values: Path
    credential: Path | None
    caller_key: Path | None = field(repr=False)
    owner_key: bytes | None
    http: Listener | None
    grpc: Listener | None
    sessions: int = 2
    request_seconds: float = 60.0
    request_bytes: int = 72 << 20
    repeatable: bool = True


class _Table:
    """One table of the file, entry by entry."""

    def __init__(self, value: Any, name: str, folder: Path) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is not a table")
        self._left = dict(value)
        self._name = name
        self._folder = folder

    def take(self, key: str, kind: type, default: Any = ...) -> Any:
        """An entry of one type."""
        value = self._left.pop(key, default)
        if value is ...:
            raise ConfigError(f"{self._name}.{key} is missing")
        if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ConfigError(f"{self._name}.{key} is not of type {kind.__name__}")
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """An integer in a range."""
        value: int = self.take(key, int, default)
        if not least <= value <= most:
            raise ConfigError(f"{self._name}.{key} is not from {least} to {most}")
        return value

    def path(self, key: str, default: Any = ...) -> Any:
        """A path, relative to the file's folder."""
        value = self.take(key, str, default)
        return value if value is default else self._folder / value

    def done(self) -> None:
        """Raises ConfigError for what nobody asked for."""
        if self._left:
            raise ConfigError(f"{self._name}.{min(self._left)} is not an entry of this version")


def _endpoint(text: str, name: str, folder: Path) -> Endpoint:
    try:
        found = parse(text)
    except MalformedEndpointError:
        raise ConfigError(f"{name} is not an endpoint") from None
    match found:
        case Unix(path) | UnixConnect(path):
            return replace(found, path=str(folder / path))
    return found


def _listener(value: Any, name: str, folder: Path) -> Listener:
    table = _Table(value, name, folder)
    at = _endpoint(table.take("listen", str), f"{name}.listen", folder)
    hosts = table.take("hosts", list, [])
    token_file = table.path("token_file", None)
    table.done()
    if not all(isinstance(host, str) and host for host in hosts):
        raise ConfigError(f"{name}.hosts is not a list of texts")
    match at:
        case Unix():
            return Listener(at=at, hosts=tuple(hosts), token_file=token_file)
        case Tcp(host, _, None) if host in LOOPBACK:
            if token_file is None:
                raise ConfigError(f"{name}.token_file is missing: loopback TCP is open to every user of this machine")
            return Listener(at=at, hosts=tuple(hosts), token_file=token_file)
    raise ConfigError(f"{name}.listen is neither a Unix socket nor loopback TCP")


def parse_config(data: bytes, folder: Path) -> Config:
    """The configuration in a file that lies in `folder`. Raises: ConfigError."""
    try:
        root = tomllib.loads(data.decode("utf-8"))
    except ValueError:  # both errors are
        raise ConfigError("the file is not TOML") from None
    top = _Table(root, "file", folder)
    appliance = _Table(top.take("appliance", dict), "appliance", folder)
    http = top.take("http", dict, None)
    grpc = top.take("grpc", dict, None)
    top.done()
    key = appliance.take("owner_key", str, None)
    try:
        owner_key = None if key is None else bytes.fromhex(key)
    except ValueError:
        raise ConfigError("appliance.owner_key is not hex") from None
    config = Config(
        endpoint=_endpoint(appliance.take("endpoint", str), "appliance.endpoint", folder),
        reference_values=appliance.path("reference_values"),
        credential=appliance.path("credential", None),
        caller_key=appliance.path("caller_key", None),
        owner_key=owner_key,
        http=None if http is None else _listener(http, "http", folder),
        grpc=None if grpc is None else _listener(grpc, "grpc", folder),
        sessions=appliance.number("sessions", 2, 1, 16),
        request_seconds=appliance.number("request_seconds", 60, 1, 3600),
        request_bytes=appliance.number("request_bytes", 72 << 20, 1024, 1 << 30),
        repeatable=appliance.take("repeatable", bool, True),
    )
    appliance.done()
    if config.http is None and config.grpc is None:
        raise ConfigError("there is neither an http nor a grpc listener")
    if (config.credential is None) is not (config.caller_key is None):
        raise ConfigError("appliance.credential and appliance.caller_key belong together")
    return config


def read_token(data: bytes) -> str:
    """The token in a token file: one line of at least 16 printable characters. Raises: ConfigError."""
    text = data.decode("ascii", errors="replace").strip()
    if len(text) < TOKEN_MIN or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"the token file does not hold one line of at least {TOKEN_MIN} printable characters")
    return text
