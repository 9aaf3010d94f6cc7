"""Read a decoded CBOR map field by field: every field typed, bounded and known, or the format's own error."""

from collections.abc import Mapping
import re

from wire.errors import WireError


class Fields:
    """The fields of one map at `path`; `done()` refuses what nobody asked for. Raises `error` naming the field."""

    def __init__(self, value: object, path: str, error: type[WireError]) -> None:
        self.path = path
        self.error = error
        if not isinstance(value, dict):
            raise error(f"{path or 'the value'} is not a map")
        self._left: dict[object, object] = dict(value)

    def fail(self, name: object, expected: str) -> WireError:
        """The error for field `name`, to be raised by the caller."""
        return self.error(f"{self.path}.{name} is not {expected}" if self.path else f"{name} is not {expected}")

    def take(self, name: object) -> object:
        """The raw value of a required field."""
        if name not in self._left:
            raise self.fail(name, "there")
        return self._left.pop(name)

    def integer(self, name: object, least: int, most: int) -> int:
        """An integer from `least` to `most`, never a boolean."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.fail(name, f"an integer from {least} to {most}")
        return value

    def boolean(self, name: object) -> bool:
        """A boolean."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.fail(name, "a boolean")
        return value

    def octets(self, name: object, least: int, most: int) -> bytes:
        """A byte string of `least` to `most` bytes."""
        value = self.take(name)
        if not isinstance(value, bytes) or not least <= len(value) <= most:
            raise self.fail(name, f"{least} bytes" if least == most else f"{least} to {most} bytes")
        return value

    def text(self, name: object, pattern: str) -> str:
        """A text that the whole pattern matches."""
        value = self.take(name)
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise self.fail(name, f"a text of the form {pattern}")
        return value

    def items(self, name: object, least: int, most: int) -> list[object]:
        """An array of `least` to `most` items."""
        value = self.take(name)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self.fail(name, f"an array of {least} to {most} items")
        return list(value)

    def inner(self, name: object) -> "Fields":
        """A nested map."""
        return Fields(self.take(name), f"{self.path}.{name}" if self.path else str(name), self.error)

    def mapping(self, name: object, most: int) -> Mapping[str, str]:
        """A map of texts to texts with at most `most` entries."""
        value = self.take(name)
        if not isinstance(value, dict) or len(value) > most:
            raise self.fail(name, f"a map of at most {most} texts")
        pairs = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, str)}
        if len(pairs) != len(value):
            raise self.fail(name, f"a map of at most {most} texts")
        return pairs

    def done(self) -> None:
        """Refuse fields that this version does not know."""
        for name in self._left:
            raise self.error(f"{self.path}.{name} is unknown" if self.path else f"{name} is unknown")
