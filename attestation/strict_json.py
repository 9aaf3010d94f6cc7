"""Strict JSON for files that decide trust: bounded, no duplicate keys, no floats; and one canonical rendering to sign."""

import json

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

JSON_MAX = 262_144  # bytes; the largest reference values with a full list of withdrawals stay below half of it


class MalformedJsonError(ValueError):
    """The bytes are not JSON of this profile."""


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedJsonError("an object has a key twice")
    return value


def _no_float(_: str) -> Json:
    raise MalformedJsonError("a number is not an integer")


def parse(data: bytes, limit: int = JSON_MAX) -> Json:
    """The value. Raises: MalformedJsonError."""
    if len(data) > limit:
        raise MalformedJsonError(f"longer than {limit} bytes")
    try:
        text = data.decode("utf-8")
        value: Json = json.loads(text, object_pairs_hook=_object, parse_float=_no_float, parse_constant=_no_float)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
    except MalformedJsonError:
        raise
    except (ValueError, RecursionError):
        raise MalformedJsonError("not JSON in UTF-8") from None
    return value


def canonical(value: Json) -> bytes:
    """Keys sorted, no spaces, ASCII: one value, one rendering. For values of this profile it is RFC 8785's but for non-ASCII text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
