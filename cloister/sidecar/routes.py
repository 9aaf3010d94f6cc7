"""Which request is which operation of the inference protocol. Pure; the same names at every door."""

from dataclasses import dataclass
import re

from cloister.sidecar.refusal import RefusedError
from wire.errors import Code

# As manifests name models and versions; anything else cannot be in one.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|config|stats))?")
# What other servers of the protocol have beyond it, refused by name instead of as unknown.
_ELSEWHERE = re.compile(
    r"/v2/(systemsharedmemory|cudasharedmemory|trace|logging|models/stats|models/[^/]+(/versions/[^/]+)?/(config|stats|trace/setting)"
    r"|repository/models/[^/]+/(load|unload))(/.*)?"
)
_FIXED = {
    ("GET", "/v2"): "server",
    ("GET", "/v2/"): "server",
    ("GET", "/v2/health/live"): "live",
    ("GET", "/v2/health/ready"): "ready",
    ("POST", "/v2/repository/index"): "index",
    ("GET", "/metrics"): "metrics",
    ("GET", "/attestation"): "attestation",
}
_ACTIONS = {("GET", None): "metadata", ("GET", "ready"): "ready", ("POST", "infer"): "infer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`operation` is a metric's label; `path` is what the enclave is asked, empty for what the sidecar answers by itself."""

    operation: str
    path: str = ""


def model_path(model: str, version: str, action: str = "") -> str:
    """The enclave's path. Raises: RefusedError for what no manifest can name."""
    if NAME.fullmatch(model) is None:
        raise RefusedError(Code.UNKNOWN_MODEL)
    if version and NAME.fullmatch(version) is None:
        raise RefusedError(Code.UNKNOWN_VERSION)
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + (f"/{action}" if action else "")


def route(method: str, target: str) -> Route:
    """The operation that an HTTP request line asks for. Raises: RefusedError."""
    path = target.partition("?")[0]
    fixed = _FIXED.get((method, path))
    if fixed is not None:
        asked = {"server": "/v2", "ready": "/v2/health/ready", "index": "/v2/repository/index"}.get(fixed, "")
        return Route(operation="metadata" if fixed == "server" else fixed, path=asked)
    if _ELSEWHERE.fullmatch(path) is not None:
        raise RefusedError(Code.NOT_IMPLEMENTED)
    found = _MODEL.fullmatch(path)
    operation = None if found is None else _ACTIONS.get((method, found[3]))
    if found is None or operation is None:
        raise RefusedError(Code.UNKNOWN_PATH)
    return Route(operation=operation, path=model_path(found[1], found[2] or "", found[3] or ""))
