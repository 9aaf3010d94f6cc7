"""The parent's configuration: one TOML document, strictly read into values.

Every key is known or the document is refused; every number has bounds. Secrets have no key here: role credentials come
from the instance's metadata service, or from a file that the configuration only names.
"""

from dataclasses import dataclass, field, fields
import ipaddress
import tomllib
from typing import cast

from parent.errors import ConfigError
from wire import endpoint as endpoints
from wire.endpoint import Endpoint, Tcp, Unix, UnixConnect, Vsock
from wire.errors import MalformedEndpointError

CONFIG_MAX = 64 * 1024
SESSION_LISTENERS_MAX = 8
EGRESS_MAX = 16
CACHE = "/var/cache/cloister"
CID_MIN = 4  # 0 to 3 are the hypervisor's, the local and the parent's


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of T19. Times are seconds; a stream direction without progress while bytes wait is *stalled*."""

    sessions: int = 1024
    sessions_per_address: int = 256
    new_sessions_per_second: int = 500
    handshake_seconds: float = 10.0
    idle_seconds: float = 900.0
    stall_seconds: float = 60.0
    dial_seconds: float = 5.0
    feed_connections: int = 16
    feed_seconds: float = 60.0
    egress_connections: int = 16
    drain_seconds: float = 10.0


_BOUNDS: dict[str, tuple[float, float]] = {
    "sessions": (1, 100_000),
    "sessions_per_address": (1, 100_000),
    "new_sessions_per_second": (1, 100_000),
    "handshake_seconds": (0.1, 60),
    "idle_seconds": (1, 86_400),
    "stall_seconds": (0.1, 3_600),
    "dial_seconds": (0.1, 60),
    "feed_connections": (1, 256),
    "feed_seconds": (0.1, 3_600),
    "egress_connections": (1, 256),
    "drain_seconds": (0, 3_600),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFeed:
    """`manifest.cose`, and artifacts named by the lower-case hex of their SHA-256."""

    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Feed:
    """The same names under a prefix of a bucket; `cache` is a directory for artifacts that came from there."""

    bucket: str
    prefix: str
    region: str
    cache: str = CACHE


@dataclass(frozen=True, slots=True, kw_only=True)
class ImdsCredentials:
    """The instance role's, by IMDSv2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCredentials:
    """A JSON file with the four fields of `wire.feed.AwsCredentials`, read anew at every request."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """One allow-list entry: what connects to `listen` reaches `host`:`port`, and nothing else (T22).

    Private, loopback and link-local addresses are refused unless `host` is that very address, or it is in `private`.
    """

    listen: Endpoint
    host: str
    port: int
    private: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start the enclave with nitro-cli; absent where something else starts it."""

    nitro_cli: str
    eif: str
    name: str
    cpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """The enclave that is to follow the one that serves; `cid` where it connects over vsock."""

    session: Endpoint
    cid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the parent is told. `cid` is the one peer that its vsock listeners take (T20)."""

    sessions: tuple[Endpoint, ...]
    enclave: Endpoint
    cid: int | None
    feed_listen: Endpoint
    status_listen: Endpoint
    credentials_listen: Endpoint
    metrics_listen: Endpoint | None
    feed: DirectoryFeed | S3Feed
    credentials: ImdsCredentials | FileCredentials
    egress: tuple[Egress, ...]
    launch: Launch | None = None
    limits: Limits = field(default_factory=Limits)
    next: Next | None = None

    @property
    def enclave_facing(self) -> tuple[Endpoint, ...]:
        """The listeners that only the enclave may connect to."""
        return (self.feed_listen, self.status_listen, self.credentials_listen, *(entry.listen for entry in self.egress))


class _Table:
    """One TOML table; keys are taken, and `finish` refuses those that nobody took."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{path or 'the document'}: expected a table")
        self.values: dict[str, object] = dict(value)
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.pop(key, default)
        if not isinstance(value, str) or not value or "\0" in value:
            raise ConfigError(f"{self.at(key)}: expected a text")
        return value

    def number(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self.values.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{self.at(key)}: expected a whole number from {least} to {most}")
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        value = self.values.pop(key, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) and item for item in value):
            raise ConfigError(f"{self.at(key)}: expected a list of at most {most} texts")
        return tuple(value)

    def table(self, key: str) -> "_Table":
        return _Table(self.values.pop(key, {}), self.at(key))

    def tables(self, key: str, most: int) -> "tuple[_Table, ...]":
        value = self.values.pop(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise ConfigError(f"{self.at(key)}: expected at most {most} tables")
        return tuple(_Table(item, f"{self.at(key)}[{index}]") for index, item in enumerate(value))

    def endpoint(self, key: str, kinds: tuple[type[Endpoint], ...]) -> Endpoint:
        return _endpoint(self.text(key), self.at(key), kinds)

    def finish(self) -> None:
        for key in self.values:
            raise ConfigError(f"{self.at(key)}: unknown key")


_NAMES: dict[type[Endpoint], str] = {
    Vsock: "vsock:CID:PORT",
    Unix: "unix:PATH",
    UnixConnect: "unix-connect:PATH:PORT",
    Tcp: "tcp:HOST:PORT",
}


def _endpoint(text: str, path: str, kinds: tuple[type[Endpoint], ...]) -> Endpoint:
    expected = " or ".join(_NAMES[kind] for kind in kinds)
    try:
        endpoint = endpoints.parse(text)
    except MalformedEndpointError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(endpoint, kinds) or (isinstance(endpoint, Tcp) and endpoint.proxy is not None):
        raise ConfigError(f"{path}: expected {expected}")
    return endpoint


def _limits(table: _Table) -> Limits:
    values: dict[str, float] = {}
    for each in fields(Limits):
        least, most = _BOUNDS[each.name]
        value = table.values.pop(each.name, each.default)
        whole = each.type is int
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (whole and not isinstance(value, int))
            or not least <= value <= most
        ):
            raise ConfigError(f"{table.at(each.name)}: expected a {'whole ' if whole else ''}number from {least:g} to {most:g}")
        values[each.name] = value if whole else float(value)
    table.finish()
    return Limits(**cast("dict[str, int]", values))


def _feed(table: _Table) -> DirectoryFeed | S3Feed:
    if "directory" in table.values:
        feed: DirectoryFeed | S3Feed = DirectoryFeed(directory=table.text("directory"))
    elif "bucket" in table.values:
        prefix = table.text("prefix", "/").strip("/")
        feed = S3Feed(bucket=table.text("bucket"), prefix=prefix, region=table.text("region"), cache=table.text("cache", CACHE))
    else:
        raise ConfigError("feed: expected directory, or bucket and region")
    table.finish()
    return feed


def _credentials(table: _Table) -> ImdsCredentials | FileCredentials:
    match table.text("source", "imds"):
        case "imds":
            found: ImdsCredentials | FileCredentials = ImdsCredentials()
        case "file":
            found = FileCredentials(path=table.text("path"))
        case _:
            raise ConfigError('credentials.source: expected "imds" or "file"')
    table.finish()
    return found


def _egress(table: _Table) -> Egress:
    to = cast("Tcp", _endpoint("tcp:" + table.text("to"), table.at("to"), (Tcp,)))
    private = table.texts("private", 64)
    for item in private:
        try:
            ipaddress.ip_network(item)
        except ValueError:
            raise ConfigError(f"{table.at('private')}: expected addresses or networks") from None
    entry = Egress(listen=table.endpoint("listen", (Vsock, Unix)), host=to.host, port=to.port, private=private)
    if not entry.port:
        raise ConfigError(f"{table.at('to')}: expected a port")
    table.finish()
    return entry


def _launch(table: _Table) -> Launch | None:
    if not table.values:
        return None
    launch = Launch(
        nitro_cli=table.text("nitro_cli", "nitro-cli"),
        eif=table.text("eif"),
        name=table.text("name", "cloister"),
        cpus=table.number("cpus", 1, 512),
        memory_mib=table.number("memory_mib", 64, 1 << 24),
    )
    table.finish()
    return launch


def _next(table: _Table) -> Next | None:
    if not table.values:
        return None
    cid = table.number("cid", CID_MIN, endpoints.VSOCK_MAX) if "cid" in table.values else None
    found = Next(session=table.endpoint("session", (Vsock, Unix, UnixConnect)), cid=cid)
    table.finish()
    return found


def _check_next(config: Config) -> None:
    if config.next is None:
        return
    if config.launch is not None:
        raise ConfigError("next: not beside launch, which starts one enclave and keeps it")
    if (config.cid is None) != (config.next.cid is None) or (config.cid is not None and config.cid == config.next.cid):
        raise ConfigError("next.cid: expected another CID than enclave.cid, where that has one")
    if isinstance(config.next.session, Vsock) and config.next.session.cid != config.next.cid:
        raise ConfigError("next.cid: expected the CID of next.session")
    if config.next.session == config.enclave:
        raise ConfigError("next.session: expected another endpoint than enclave.session")


def _check(config: Config) -> None:
    """The rules between keys."""
    _check_next(config)
    vsock = [endpoint for endpoint in config.enclave_facing if isinstance(endpoint, Vsock)]
    if vsock and config.cid is None:
        raise ConfigError("enclave.cid: required where the enclave connects over vsock, whose other peers are refused")
    if isinstance(config.enclave, Vsock) and config.enclave.cid != config.cid:
        raise ConfigError("enclave.cid: expected the CID of enclave.session")
    if config.launch is not None and config.cid is None:
        raise ConfigError("enclave.cid: required where the parent launches the enclave")
    listening = [*config.sessions, *config.enclave_facing, *((config.metrics_listen,) if config.metrics_listen else ())]
    fixed = [endpoint for endpoint in listening if not (isinstance(endpoint, Tcp) and endpoint.port == 0)]
    if len(set(fixed)) != len(fixed):
        raise ConfigError("two listeners have the same endpoint")


def parse(text: str) -> Config:
    """Read a configuration. Raises: ConfigError, with a text that names the key and what was expected."""
    if len(text) > CONFIG_MAX:
        raise ConfigError(f"the document is longer than {CONFIG_MAX} characters")
    try:
        root = _Table(tomllib.loads(text), "")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the document is not TOML: {error}") from None
    enclave, listen = root.table("enclave"), root.table("listen")
    facing: tuple[type[Endpoint], ...] = (Vsock, Unix)
    sessions = listen.texts("sessions", SESSION_LISTENERS_MAX)
    if not sessions:
        raise ConfigError("listen.sessions: expected at least one endpoint")
    config = Config(
        sessions=tuple(_endpoint(item, "listen.sessions", (Tcp, Unix)) for item in sessions),
        enclave=enclave.endpoint("session", (Vsock, Unix, UnixConnect)),
        cid=enclave.number("cid", CID_MIN, endpoints.VSOCK_MAX) if "cid" in enclave.values else None,
        feed_listen=listen.endpoint("feed", facing),
        status_listen=listen.endpoint("status", facing),
        credentials_listen=listen.endpoint("credentials", facing),
        metrics_listen=listen.endpoint("metrics", (Tcp, Unix)) if "metrics" in listen.values else None,
        feed=_feed(root.table("feed")),
        credentials=_credentials(root.table("credentials")),
        egress=tuple(_egress(table) for table in root.tables("egress", EGRESS_MAX)),
        launch=_launch(root.table("launch")),
        limits=_limits(root.table("limits")),
        next=_next(root.table("next")),
    )
    for table in (enclave, listen, root):
        table.finish()
    _check(config)
    return config
