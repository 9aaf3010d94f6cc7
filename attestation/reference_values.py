"""Reference values as a JSON file, and the owner's signature on it (docs/verification.md, checks 801 to 804).

The signature member is a COSE_Sign1 by the owner key whose payload is the canonical JSON of all other members but
`newer_withdrawn`: the file stays readable, and what is readable is what was signed. `newer_withdrawn` is a list of withdrawals
that came after the file. It carries the owner's signature itself, so that whoever holds the file can take it in.
"""

import base64
import binascii
from dataclasses import replace
import json
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import strict_json, withdrawn
from attestation.checks import Check
from attestation.errors import MalformedReferenceValuesError
from attestation.strict_json import Json
from attestation.values import Measurement, ReferenceValues, pcr16_of, pcr17_of
from attestation.withdrawn import SignedWithdrawals
from wire import cose, keys
from wire.errors import WireError

__all__ = [
    "FORMAT",
    "Measurement",
    "ReferenceValues",
    "measurement_of",
    "open_signed",
    "parse",
    "pcr16_of",
    "pcr17_of",
    "render",
    "sign",
    "take_in",
]

FORMAT = "cloister-reference-values/1"
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
MEMBERS = (
    "format",
    "sequence",
    "partition",
    "owner_key",
    "measurements",
    "pcr16",
    "pcr17",
    "min_sequence",
    "pcr3",
    "pcr4",
    "max_age",
    "accept_anyone",
    "withdrawn",
)
BESIDE = ("newer_withdrawn", "signature")  # what the signature does not cover


def _fail(where: str, expected: str) -> MalformedReferenceValuesError:
    return MalformedReferenceValuesError(Check.REFERENCE_VALUES, f"{where} is not {expected}")


def _object(value: Json, names: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise _fail(where, "an object")
    for name in names:
        if name not in value:
            raise _fail(f"{where}.{name}", "there")
    for name in value:
        if name not in names + optional:
            raise _fail(f"{where}.{name[:40]!a}", "a member of this version")
    return value


def _octets(value: Json, where: str) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise _fail(where, "lower-case hex")
    return bytes.fromhex(value)


def _optional(value: Json, where: str) -> bytes | None:
    return None if value is None else _octets(value, where)


def _integer(value: Json, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _fail(where, "an integer")
    return value


def _text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise _fail(where, "a text")
    return value


def _array(value: Json, where: str) -> list[Json]:
    if not isinstance(value, list):
        raise _fail(where, "an array")
    return value


def _base64(value: Json, where: str) -> bytes:
    try:
        return base64.b64decode(_text(value, where), validate=True)
    except (ValueError, binascii.Error):
        raise _fail(where, "base64") from None


def _measurement(value: Json, where: str) -> Measurement:
    members = _object(value, ("pcr0", "pcr1", "pcr2"), where, ("pcr8", "label"))
    return Measurement(
        pcr0=_octets(members["pcr0"], f"{where}.pcr0"),
        pcr1=_octets(members["pcr1"], f"{where}.pcr1"),
        pcr2=_octets(members["pcr2"], f"{where}.pcr2"),
        pcr8=_optional(members.get("pcr8"), f"{where}.pcr8"),
        label=_text(members.get("label", ""), f"{where}.label"),
    )


def measurement_of(value: Json) -> Measurement:
    """The measurement in the JSON of `cloister image measure` ({"pcrs": {"0": hex, ...}}) or of nitro-cli ({"Measurements": ...}).

    Raises: MalformedReferenceValuesError.
    """
    match value:
        case {"pcrs": dict() as pcrs}:
            registers = {f"pcr{index}": pcrs.get(str(index)) for index in (0, 1, 2, 8)}
        case {"Measurements": dict() as pcrs}:
            registers = {f"pcr{index}": pcrs.get(f"PCR{index}") for index in (0, 1, 2, 8)}
        case _:
            raise _fail("the file", "the output of cloister image measure --json or of nitro-cli")
    if registers["pcr8"] is None:
        del registers["pcr8"]
    try:
        return _measurement(registers, "the image")
    except ValueError as error:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES, str(error)) from None


def _values(members: dict[str, Json]) -> ReferenceValues:
    floor, envelope, anyone = members["min_sequence"], members["withdrawn"], members["accept_anyone"]
    if not isinstance(anyone, bool):
        raise _fail("accept_anyone", "a boolean")
    measurements = _array(members["measurements"], "measurements")
    try:
        return ReferenceValues(
            sequence=_integer(members["sequence"], "sequence"),
            partition=_text(members["partition"], "partition"),
            owner_key=_optional(members["owner_key"], "owner_key"),
            measurements=tuple(_measurement(item, f"measurements[{place}]") for place, item in enumerate(measurements)),
            pcr16=_octets(members["pcr16"], "pcr16"),
            pcr17=_optional(members["pcr17"], "pcr17"),
            min_sequence=None if floor is None else _integer(floor, "min_sequence"),
            pcr3=tuple(_octets(item, "pcr3") for item in _array(members["pcr3"], "pcr3")),
            pcr4=tuple(_octets(item, "pcr4") for item in _array(members["pcr4"], "pcr4")),
            max_age=_integer(members["max_age"], "max_age"),
            accept_anyone=anyone,
            withdrawn=None if envelope is None else withdrawn.open_envelope(_base64(envelope, "withdrawn")),
        )
    except ValueError as error:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES, str(error)) from None


def _members(values: ReferenceValues) -> dict[str, Json]:
    measurements: list[Json] = []
    for item in values.measurements:
        pcrs: dict[str, Json] = {f"pcr{index}": value.hex() for index, value in item.pcrs.items()}
        measurements.append({"label": item.label, **pcrs} if item.label else pcrs)
    return {
        "format": FORMAT,
        "sequence": values.sequence,
        "partition": values.partition,
        "owner_key": None if values.owner_key is None else values.owner_key.hex(),
        "measurements": measurements,
        "pcr16": values.pcr16.hex(),
        "pcr17": None if values.pcr17 is None else values.pcr17.hex(),
        "min_sequence": values.min_sequence,
        "pcr3": [value.hex() for value in values.pcr3],
        "pcr4": [value.hex() for value in values.pcr4],
        "max_age": values.max_age,
        "accept_anyone": values.accept_anyone,
        "withdrawn": None if values.withdrawn is None else base64.b64encode(values.withdrawn.envelope).decode(),
    }


def _check_signature(envelope: bytes, members: dict[str, Json], owner_key: bytes | None) -> None:
    try:
        parsed = cose.parse(envelope, typ=cose.REFERENCE_VALUES, limit=strict_json.JSON_MAX)
        cose.verify(parsed, keys.load_public(parsed.kid))
    except WireError as error:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_SIGNATURE, str(error)) from None
    if parsed.payload != strict_json.canonical(members):
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_SIGNATURE, "the file was edited after it was signed")
    if parsed.kid != owner_key:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_OWNER)


def _open(data: bytes, *, signed: bool) -> ReferenceValues:
    try:
        value = strict_json.parse(data)
    except strict_json.MalformedJsonError as error:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES, str(error)) from None
    members = _object(value, MEMBERS, "the file", BESIDE)
    if members["format"] != FORMAT:
        raise _fail("format", FORMAT)
    followed = "newer_withdrawn" in members
    newer, signature = (members.pop(name, None) for name in BESIDE)
    values = _values(members)
    if signature is not None:
        _check_signature(_base64(signature, "signature"), members, values.owner_key)
    elif signed:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_SIGNATURE, "there is no signature")
    return _joined(values, withdrawn.open_envelope(_base64(newer, "newer_withdrawn"))) if followed else values


def _joined(values: ReferenceValues, listed: SignedWithdrawals) -> ReferenceValues:
    """The values with the newer of their list and this one, which has to be the same owner's."""
    if listed.withdrawals.owner_key != values.owner_key:
        raise MalformedReferenceValuesError(Check.WITHDRAWALS_SIGNATURE, "signed by another key than the owner's")
    held = values.withdrawn
    return replace(values, withdrawn=listed if held is None or held.withdrawals.sequence <= listed.withdrawals.sequence else held)


def parse(data: bytes) -> ReferenceValues:
    """Parse a file that the relying party trusts for where it came from; a signature that is there must verify.

    Raises: MalformedReferenceValuesError.
    """
    return _open(data, signed=False)


def open_signed(data: bytes, *, owner_key: bytes, after: int | None = None) -> ReferenceValues:
    """Parse a file that came from anywhere, believed for the owner's signature alone.

    `after`: the sequence of the values held, which the new ones must exceed. Raises: MalformedReferenceValuesError.
    """
    values = _open(data, signed=True)
    if values.owner_key != owner_key:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_OWNER)
    if after is not None and values.sequence <= after:
        raise MalformedReferenceValuesError(Check.REFERENCE_VALUES_SEQUENCE, f"{values.sequence} is not above {after}")
    return values


def _file(members: dict[str, Json]) -> bytes:
    return (json.dumps(members, indent=2, ensure_ascii=True) + "\n").encode()


def render(values: ReferenceValues) -> bytes:
    """The unsigned file."""
    return _file(_members(values))


def sign(values: ReferenceValues, owner: Ed25519PrivateKey) -> bytes:
    """The signed file. Raises ValueError where `owner` is not the values' owner."""
    if owner.public_key().public_bytes_raw() != values.owner_key:
        raise ValueError("the key is not the owner key of these reference values")
    members = _members(values)
    envelope = cose.sign(strict_json.canonical(members), kid=values.owner_key, typ=cose.REFERENCE_VALUES, key=owner)
    return _file({**members, "signature": base64.b64encode(envelope).decode()})


def take_in(data: bytes, listed: SignedWithdrawals) -> bytes:
    """The file `data` with this list of withdrawals beside what its owner signed, whose signature stays as it was.

    Raises: MalformedReferenceValuesError, also for another owner's list (806) and for one older than that held (807).
    """
    if _joined(parse(data), listed).withdrawn != listed:
        raise MalformedReferenceValuesError(Check.WITHDRAWALS_SEQUENCE, f"list {listed.withdrawals.sequence}")
    members = _object(strict_json.parse(data), MEMBERS, "the file", BESIDE)
    return _file({**members, "newer_withdrawn": base64.b64encode(listed.envelope).decode()})
