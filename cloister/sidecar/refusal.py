"""What every door answers when something fails: one code of the fixed table, and the field or the reasons. Pure."""

from dataclasses import dataclass
import json

from cloister.errors import CloisterError, EvidenceRefusedError, RequestRefusedError
from wire.errors import TABLE, Code


class RefusedError(Exception):
    """The door itself refuses a request, before anything was sent."""

    def __init__(self, code: Code, field: str = "") -> None:
        super().__init__(code.name, field)
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`reasons`: for refused evidence, each check that failed with what was expected and found."""

    code: Code
    field: str = ""
    reasons: tuple[dict[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The code as JSON, metrics and gRPC metadata spell it."""
        return self.code.name.lower().replace("_", "-")

    @property
    def text(self) -> str:
        """The table's text, with the field where the table names one."""
        row = TABLE[self.code]
        return f"{row.text}: {self.field}" if row.field and self.field else row.text

    @property
    def http(self) -> int:
        """The HTTP status."""
        return TABLE[self.code].http

    @property
    def grpc(self) -> int:
        """The gRPC status number."""
        return TABLE[self.code].grpc

    def body(self) -> bytes:
        """The JSON body of an HTTP error."""
        value: dict[str, object] = {"error": self.text, "code": self.name}
        if self.field and TABLE[self.code].field:
            value["field"] = self.field
        if self.reasons:
            value["reasons"] = list(self.reasons)
        return json.dumps(value, separators=(",", ":")).encode()


def refusal_of(error: BaseException) -> Refusal:
    """The refusal that an exception is to a client; what is not one of ours is INTERNAL, without its text."""
    match error:
        case RefusedError() | RequestRefusedError():
            return Refusal(code=error.code, field=error.field)
        case EvidenceRefusedError():
            found = tuple({"check": str(item.check.value), "expected": item.expected, "actual": item.actual} for item in error.mismatches)
            return Refusal(code=error.code, reasons=found or tuple({"check": str(check.value)} for check in error.reason.checks))
        case CloisterError():
            return Refusal(code=error.code)
        case TimeoutError():
            return Refusal(code=Code.DEADLINE_EXPIRED)
    return Refusal(code=Code.INTERNAL)
