"""Error answers: the code, its fixed text and the field, never anything of the request (T25)."""

import json

from wire.errors import TABLE, Code
from wire.message import encode
from wire.record import Octets


def error_answer(code: Code, field: str = "", *, least: int = 0) -> list[Octets]:
    """The pieces of an error answer of at least `least` bytes; `field` is a path of positions and manifest names."""
    row = TABLE[code]
    body = {"error": f"{row.text}: {field}" if row.field and field else row.text, "code": code.name.lower().replace("_", "-")}
    if row.field and field:
        body["field"] = field
    return encode(status=code, json=json.dumps(body, separators=(",", ":")).encode(), least=least)
