"""JSON 1.1 in and out by AWS's own service model, as botocore ships it: the one description of requests and responses.

Unknown members are ignored, as AWS ignores them; wrong types are SerializationException, broken constraints are
ValidationException. Blobs are base64 in JSON and bytes here.
"""

import base64
import binascii
from functools import cache
import re

import botocore.loaders
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

from simulator.kms.errors import ErrorCode, KmsError

TARGET_PREFIX = "TrentService"
Value = dict[str, "Value"] | list["Value"] | str | bytes | int | float | bool | None


@cache
def service_model() -> ServiceModel:
    """AWS's model of KMS."""
    return ServiceModel(botocore.loaders.Loader().load_service_model("kms", "service-2"), "kms")


def _serialization(where: str) -> KmsError:
    return KmsError(ErrorCode.SERIALIZATION, f"{where} has the wrong type")


def _validation(where: str, constraint: str) -> KmsError:
    return KmsError(ErrorCode.VALIDATION, f"1 validation error detected: Value at '{where}' failed to satisfy constraint: {constraint}")


def _check_range(shape: Shape, size: float, where: str) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    kind = "value" if shape.type_name in {"integer", "long"} else "length"
    if least is not None and size < least:
        raise _validation(where, f"Member must have {kind} greater than or equal to {least}")
    if most is not None and size > most:
        raise _validation(where, f"Member must have {kind} less than or equal to {most}")


def _string(shape: StringShape, value: Value, where: str) -> str:
    if not isinstance(value, str):
        raise _serialization(where)
    _check_range(shape, len(value), where)
    if shape.enum and value not in shape.enum:
        raise _validation(where, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and re.fullmatch(pattern.replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9").replace(r"\p{Z}", " "), value) is None:
        raise _validation(where, f"Member must satisfy regular expression pattern: {pattern}")
    return value


def _blob(shape: Shape, value: Value, where: str) -> bytes:
    if not isinstance(value, str):
        raise _serialization(where)
    try:
        data = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise _serialization(where) from None
    _check_range(shape, len(data), where)
    return data


def _number(shape: Shape, value: Value, where: str) -> Value:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _serialization(where)
    _check_range(shape, value, where)
    return value


def _structure(shape: StructureShape, value: Value, where: str) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise _serialization(where or "the request")
    members: dict[str, Value] = {}
    for name, member in shape.members.items():
        at = f"{where}.{name}" if where else name
        if value.get(name) is not None:
            members[name] = read(member, value[name], at)
        elif name in shape.required_members:
            raise _validation(at, "Member must not be null")
    return members


def read(shape: Shape, value: Value, where: str = "") -> Value:
    """A JSON value as values of Python, judged against a shape. Raises: KmsError."""
    match shape:
        case StructureShape():
            return _structure(shape, value, where)
        case ListShape():
            if not isinstance(value, list):
                raise _serialization(where)
            _check_range(shape, len(value), where)
            return [read(shape.member, item, f"{where}.member") for item in value]
        case MapShape():
            if not isinstance(value, dict):
                raise _serialization(where)
            return {str(read(shape.key, key, where)): read(shape.value, item, f"{where}.{key}") for key, item in value.items()}
        case StringShape():
            return _string(shape, value, where)
    if shape.type_name == "blob":
        return _blob(shape, value, where)
    if shape.type_name == "boolean":
        if not isinstance(value, bool):
            raise _serialization(where)
        return value
    return _number(shape, value, where)


def read_input(operation: str, body: Value) -> dict[str, Value]:
    """The members of an operation's request. Raises: KmsError."""
    shape = service_model().operation_model(operation).input_shape
    return _structure(shape, body, "") if shape is not None else {}


def write(value: Value) -> Value:
    """Values of Python as JSON values: bytes become base64."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {name: write(item) for name, item in value.items() if item is not None}
        case list():
            return [write(item) for item in value]
        case _:
            return value
