"""The Nitro Security Module as typed calls: the values, the errors, and the device behind `/dev/nsm`.

`Nsm` is what boot and evidence are given. `DeviceNsm` is the only implementation in the image; the device is opened by
us, because the library's own `open_nsm_device` wants a seekable file and the kernel's driver is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
import threading
from typing import BinaryIO, Protocol, TypeVar

import aws_nsm_interface
from aws_nsm_interface.exceptions import IoctlError
import cbor2

from wire.cbor import MalformedCborError, decode_evidence

DEVICE = "/dev/nsm"
PCR_COUNT = 32
PCR_BYTES = 48
RANDOM_BYTES = 256  # one GetRandom call
FIELD_MAX = 1024  # user_data, nonce and public_key; AWS's text and its documents agree on no lower number
DOCUMENT_MAX = 32_768  # attestation.md, profile
TIMESTAMP_MAX = 1 << 53

T = TypeVar("T")


class NsmErrorCode(StrEnum):
    """The module's own error codes, and two for what happens in front of it."""

    INVALID_ARGUMENT = "InvalidArgument"
    INVALID_INDEX = "InvalidIndex"
    INVALID_RESPONSE = "InvalidResponse"
    READ_ONLY_INDEX = "ReadOnlyIndex"
    INVALID_OPERATION = "InvalidOperation"
    BUFFER_TOO_SMALL = "BufferTooSmall"
    INPUT_TOO_LARGE = "InputTooLarge"
    INTERNAL_ERROR = "InternalError"
    UNAVAILABLE = "unavailable"
    """The device does not open, or the call did not reach the module."""
    MALFORMED = "malformed"
    """The module's answer has not the shape of one."""


class NsmError(Exception):
    """A call to the security module failed; `code` says how. Carries no request and no response."""

    def __init__(self, code: NsmErrorCode) -> None:
        super().__init__(code.value)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class NsmDescription:
    """What DescribeNSM says: `module_id` is `i-<instance>-enc<enclave>` on EC2."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcr:
    """One platform configuration register: 48 bytes, and whether it can still change."""

    value: bytes
    locked: bool


class Nsm(Protocol):
    """Blocking calls, safe from any thread; every one raises NsmError and nothing else."""

    def describe(self) -> NsmDescription:
        """Name, version and locked PCRs of the module."""
        ...

    def describe_pcr(self, index: int) -> Pcr:
        """Value and lock of PCR `index`."""
        ...

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """PCR := SHA-384(PCR || data); returns the new value."""
        ...

    def lock_pcrs(self, range_: int) -> None:
        """Lock PCRs 0 to `range_` - 1 until the enclave ends."""
        ...

    def random(self) -> bytes:
        """256 bytes of the module's generator."""
        ...

    def attest(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        """A fresh attestation document (untagged COSE_Sign1) over these fields and all locked PCRs."""
        ...


def error_code(value: object) -> NsmErrorCode:
    """The code that an `Error` answer carries; MALFORMED for one that the module does not have."""
    try:
        return NsmErrorCode(str(value)) if value is not None else NsmErrorCode.MALFORMED
    except ValueError:
        return NsmErrorCode.MALFORMED


def _field(answer: object, name: str, kind: type[T]) -> T:
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if type(value) is not kind:
        raise NsmError(NsmErrorCode.MALFORMED)
    return value


def description(answer: object) -> NsmDescription:
    """The value of a DescribeNSM answer. Raises: NsmError(MALFORMED)."""
    locked = _field(answer, "locked_pcrs", list)
    if any(type(index) is not int for index in locked):
        raise NsmError(NsmErrorCode.MALFORMED)
    return NsmDescription(
        version=(_field(answer, "version_major", int), _field(answer, "version_minor", int), _field(answer, "version_patch", int)),
        module_id=_field(answer, "module_id", str),
        max_pcrs=_field(answer, "max_pcrs", int),
        locked_pcrs=tuple(sorted(locked)),
        digest=_field(answer, "digest", str),
    )


def pcr(answer: object) -> Pcr:
    """The value of a DescribePCR answer. Raises: NsmError(MALFORMED)."""
    return Pcr(value=pcr_value(answer), locked=_field(answer, "lock", bool))


def pcr_value(answer: object) -> bytes:
    """The new value in an ExtendPCR answer. Raises: NsmError(MALFORMED)."""
    value = _field(answer, "data", bytes)
    if len(value) != PCR_BYTES:
        raise NsmError(NsmErrorCode.MALFORMED)
    return value


def random_bytes(value: object) -> bytes:
    """What a GetRandom answer carries: exactly 256 bytes. Raises: NsmError(MALFORMED)."""
    if type(value) is not bytes or len(value) != RANDOM_BYTES:
        raise NsmError(NsmErrorCode.MALFORMED)
    return value


def document(answer: object) -> bytes:
    """The document in an Attestation answer, not verified. Raises: NsmError(MALFORMED)."""
    value = _field(answer, "document", bytes)
    if not 0 < len(value) <= DOCUMENT_MAX:
        raise NsmError(NsmErrorCode.MALFORMED)
    return value


def document_time(data: bytes) -> datetime:
    """The timestamp of a document from *our own* module; no signature is checked. Raises: NsmError(MALFORMED)."""
    try:
        match decode_evidence(data):
            case [bytes(), dict(), bytes(payload), bytes()]:
                fields = decode_evidence(payload)
            case _:
                raise NsmError(NsmErrorCode.MALFORMED)
    except MalformedCborError:
        raise NsmError(NsmErrorCode.MALFORMED) from None
    timestamp = _field(fields, "timestamp", int)
    if not 0 < timestamp < TIMESTAMP_MAX:
        raise NsmError(NsmErrorCode.MALFORMED)
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise NsmError(NsmErrorCode.MALFORMED) from None


def open_device(path: str = DEVICE) -> BinaryIO:
    """The device as DeviceNsm wants it. Raises: NsmError(UNAVAILABLE)."""
    try:
        return open(path, "rb", buffering=0)
    except OSError:
        raise NsmError(NsmErrorCode.UNAVAILABLE) from None


class DeviceNsm:
    """`Nsm` on an open `/dev/nsm`. One call at a time, as the driver's own mutex would have it."""

    def __init__(self, device: BinaryIO) -> None:
        self._device = device
        self._one_call = threading.Lock()

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """The library raises IoctlError for the module's codes and whatever it stumbles over for the rest."""
        try:
            with self._one_call:
                return function(self._device, *arguments)
        except IoctlError as error:
            raise NsmError(error_code(error.args[0] if error.args else None)) from None
        except OSError:
            raise NsmError(NsmErrorCode.UNAVAILABLE) from None
        except ValueError:  # the library's "Request too large."
            raise NsmError(NsmErrorCode.INPUT_TOO_LARGE) from None
        except (AttributeError, TypeError, cbor2.CBORError):  # a response that is no map of the right names, or no CBOR
            raise NsmError(NsmErrorCode.MALFORMED) from None

    def describe(self) -> NsmDescription:
        """Name, version and locked PCRs of the module."""
        return description(self._call(aws_nsm_interface.describe_nsm))

    def describe_pcr(self, index: int) -> Pcr:
        """Value and lock of PCR `index`."""
        return pcr(self._call(aws_nsm_interface.describe_pcr, index))

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """PCR := SHA-384(PCR || data); returns the new value."""
        return pcr_value(self._call(aws_nsm_interface.extend_pcr, index, data))

    def lock_pcrs(self, range_: int) -> None:
        """Lock PCRs 0 to `range_` - 1 until the enclave ends."""
        self._call(aws_nsm_interface.lock_pcrs, range_)

    def random(self) -> bytes:
        """256 bytes of the module's generator."""
        return random_bytes(self._call(aws_nsm_interface.get_random, RANDOM_BYTES))

    def attest(self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
        """A fresh attestation document (untagged COSE_Sign1) over these fields and all locked PCRs."""
        return document(self._call(aws_nsm_interface.get_attestation_doc, user_data, nonce, public_key))
