"""As much of JSON Schema as the published schemas use; an unknown keyword fails the test instead of passing everything."""

from collections.abc import Callable
import json
import re
from typing import Any

from tests.vectors_path import ROOT

_ANNOTATIONS = {"$schema", "$defs", "title", "description", "contentEncoding"}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def load(name: str) -> Any:
    """A published schema."""
    return json.loads((ROOT / "docs" / "schemas" / name).read_text())


def valid(value: Any, schema: Any, whole: Any = None) -> bool:
    """Whether the value is of the schema."""
    whole = schema if whole is None else whole
    rules = ((keyword, argument) for keyword, argument in schema.items() if keyword not in _ANNOTATIONS)
    return all(_KEYWORDS[keyword](value, argument, schema, whole) for keyword, argument in rules)


def _type(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (name == "integer" and isinstance(value, bool))


def _patterns(value: Any, patterns: Any, whole: Any) -> bool:
    pairs = ((name, inner) for pattern, inner in patterns.items() for name in value if re.search(pattern, name))
    return all(valid(value[name], inner, whole) for name, inner in pairs)


def _no_more(value: Any, schema: Any) -> bool:
    patterns = schema.get("patternProperties", ())
    return all(name in schema.get("properties", ()) or any(re.search(pattern, name) for pattern in patterns) for name in value)


# value, argument, schema, whole; a KeyError is a keyword that this reader does not know.
_KEYWORDS: dict[str, Callable[[Any, Any, Any, Any], bool]] = {
    "$ref": lambda value, argument, _, whole: valid(value, whole["$defs"][argument.rsplit("/", 1)[-1]], whole),
    "anyOf": lambda value, argument, _, whole: any(valid(value, item, whole) for item in argument),
    "type": lambda value, argument, _, __: _type(value, argument),
    "const": lambda value, argument, _, __: bool(value == argument),
    "enum": lambda value, argument, _, __: value in argument,
    "pattern": lambda value, argument, _, __: isinstance(value, str) and re.search(argument, value) is not None,
    "minimum": lambda value, argument, _, __: bool(value >= argument),
    "maximum": lambda value, argument, _, __: bool(value <= argument),
    "maxLength": lambda value, argument, _, __: bool(len(value) <= argument),
    "maxItems": lambda value, argument, _, __: bool(len(value) <= argument),
    "minItems": lambda value, argument, _, __: bool(len(value) >= argument),
    "required": lambda value, argument, _, __: set(argument) <= set(value),
    "items": lambda value, argument, _, whole: all(valid(item, argument, whole) for item in value),
    "properties": lambda value, argument, _, whole: all(
        valid(value[name], item, whole) for name, item in argument.items() if name in value
    ),
    "patternProperties": lambda value, argument, _, whole: _patterns(value, argument, whole),
    "additionalProperties": lambda value, _, schema, __: _no_more(value, schema),
}
