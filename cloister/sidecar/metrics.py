"""The sidecar's metrics in Prometheus' text format: a fixed set of names and labels, no model, caller or content in any."""

from collections import Counter
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "cloister_sidecar_requests_total": "Requests answered, by door (http, grpc), operation and code (ok or a row of the error table).",
    "cloister_sidecar_request_seconds_sum": "Seconds spent on answered requests, by door.",
    "cloister_sidecar_request_seconds_count": "Answered requests, by door.",
    "cloister_sidecar_bytes_total": "Bytes of request and answer bodies, by door and direction (in, out).",
    "cloister_sidecar_sessions_opened_total": "Sessions whose evidence was accepted.",
    "cloister_sidecar_evidence_refused_total": "Times that the appliance's evidence was refused; nothing was sent.",
    "cloister_sidecar_retries_total": "Requests that were sent again because the appliance went away.",
    "cloister_sidecar_requests_in_flight": "Requests being answered now.",
}
OPERATIONS = ("live", "ready", "metadata", "infer", "index", "attestation", "metrics", "other")


@dataclass(slots=True)
class Metrics:
    """Totals since the start."""

    totals: Counter[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    in_flight: int = 0

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a total."""
        self.totals[f"cloister_sidecar_{name}_total", tuple(labels.items())] += amount

    def answered(self, door: str, operation: str, code: str, seconds: float, sizes: tuple[int, int]) -> None:
        """One request is over."""
        self.count("requests", door=door, operation=operation, code=code)
        self.count("bytes", sizes[0], door=door, direction="in")
        self.count("bytes", sizes[1], door=door, direction="out")
        self.seconds[door] = self.seconds.get(door, 0.0) + seconds

    def render(self) -> bytes:
        """The whole page."""
        values = {(name, labels): str(total) for (name, labels), total in self.totals.items()}
        for door, seconds in self.seconds.items():
            count = sum(
                total for (name, labels), total in self.totals.items() if name.endswith("requests_total") and ("door", door) in labels
            )
            values["cloister_sidecar_request_seconds_sum", (("door", door),)] = f"{seconds:.6f}"
            values["cloister_sidecar_request_seconds_count", (("door", door),)] = str(count)
        values["cloister_sidecar_requests_in_flight", ()] = str(self.in_flight)
        for name in ("sessions_opened", "evidence_refused", "retries"):
            values.setdefault((f"cloister_sidecar_{name}_total", ()), "0")
        lines: list[str] = []
        for name, text in _HELP.items():
            kind = "counter" if name.endswith("_total") else "gauge" if name.endswith("flight") else "untyped"
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            for (found, labels), value in sorted(values.items()):
                if found == name:
                    lines.append(name + ("{" + ",".join(f'{key}="{text}"' for key, text in labels) + "}" if labels else "") + f" {value}")
        return ("\n".join(lines) + "\n").encode()
