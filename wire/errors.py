"""The fixed error tables: every code that crosses a boundary, its text, its field rule and its HTTP status.

A peer never sees parser text, a traceback or an echo of what it sent (T25): only a code from here and, where the row
says so, the path of the field that was refused (`inputs[0].shape`), built from positions and manifest names alone.
"""

from dataclasses import dataclass
from enum import IntEnum


class WireError(Exception):
    """Any bytes from a peer that this package refuses; one subclass per format."""


class MalformedFrameError(WireError):
    """A frame's length or type is not one that may stand here."""


class MalformedEndpointError(WireError):
    """The text of an endpoint does not parse."""


class MalformedFeedError(WireError):
    """A feed message between enclave and parent does not parse."""


class Code(IntEnum):
    """A refusal of a request (message status) or of a session (close record). Numbers never change their meaning."""

    OK = 0

    # A session is refused or ended: close record.
    SESSION_EXPIRED = 1
    SESSION_IDLE = 2
    SESSION_LIMIT = 3
    SHUTTING_DOWN = 4
    PROTOCOL_VIOLATION = 5
    OPEN_MALFORMED = 6
    CREDENTIAL_REQUIRED = 10
    CREDENTIAL_MALFORMED = 11
    CREDENTIAL_UNKNOWN_ISSUER = 12
    CREDENTIAL_BAD_SIGNATURE = 13
    CREDENTIAL_EXPIRED = 14
    CREDENTIAL_NOT_YET_VALID = 15
    CREDENTIAL_WRONG_AUDIENCE = 16
    CREDENTIAL_LIFETIME = 17
    CALLER_BAD_SIGNATURE = 18

    # A request is refused: message status, the session lives on.
    MALFORMED_MESSAGE = 100
    MALFORMED_JSON = 101
    UNKNOWN_PATH = 102
    UNKNOWN_MODEL = 103
    UNKNOWN_VERSION = 104
    MODEL_NOT_READY = 105
    MODEL_NOT_AUTHORISED = 106
    MISSING_FIELD = 110
    WRONG_FIELD_TYPE = 111
    MISSING_INPUT = 112
    UNEXPECTED_INPUT = 113
    DUPLICATE_INPUT = 114
    UNKNOWN_OUTPUT = 115
    WRONG_DATATYPE = 116
    WRONG_RANK = 117
    WRONG_SHAPE = 118
    WRONG_DATA_SIZE = 119
    INVALID_VALUE = 120
    NON_FINITE_INPUT = 121
    UNSUPPORTED_PARAMETER = 122
    REQUEST_TOO_LARGE = 123
    ANSWER_TOO_LARGE = 124
    DEADLINE_EXPIRED = 130
    CANCELLED = 131
    QUOTA_EXHAUSTED = 132
    BUSY = 133
    MODEL_FAILED = 140
    OUT_OF_MEMORY = 141
    WORKER_LOST = 142
    INTERNAL = 143
    NOT_IMPLEMENTED = 144

    # Said by the caller's own side (SDK, sidecar), never by the enclave.
    EVIDENCE_REFUSED = 200
    APPLIANCE_UNREACHABLE = 201
    SESSION_REFUSED = 202
    SESSION_LOST = 203
    HOST_REFUSED = 204
    TOKEN_REQUIRED = 205
    MALFORMED_HTTP = 206


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: `field` says whether the answer names the field; `http` and `grpc` are status numbers."""

    text: str
    field: bool
    http: int
    grpc: int


def _row(text: str, http: int, grpc: int, *, field: bool = False) -> Row:
    return Row(text=text, field=field, http=http, grpc=grpc)


# gRPC: 1 CANCELLED, 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED,
# 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 16 UNAUTHENTICATED.
TABLE: dict[Code, Row] = {
    Code.OK: _row("ok", 200, 0),
    Code.SESSION_EXPIRED: _row("the session reached its end, open a new one", 503, 14),
    Code.SESSION_IDLE: _row("the session was idle for too long, open a new one", 503, 14),
    Code.SESSION_LIMIT: _row("the enclave serves its maximum of sessions, try again later", 503, 14),
    Code.SHUTTING_DOWN: _row("the enclave is shutting down, open a new session", 503, 14),
    Code.PROTOCOL_VIOLATION: _row("the peer broke the session protocol", 502, 13),
    Code.OPEN_MALFORMED: _row("the sealed opening is malformed", 502, 13),
    Code.CREDENTIAL_REQUIRED: _row("this deployment accepts only callers with a credential", 401, 16),
    Code.CREDENTIAL_MALFORMED: _row("the credential is malformed", 401, 16),
    Code.CREDENTIAL_UNKNOWN_ISSUER: _row("the credential's issuer is not one of the manifest's", 401, 16),
    Code.CREDENTIAL_BAD_SIGNATURE: _row("the issuer's signature on the credential does not verify", 401, 16),
    Code.CREDENTIAL_EXPIRED: _row("the credential has expired, ask the issuer for a new one", 401, 16),
    Code.CREDENTIAL_NOT_YET_VALID: _row("the credential is not valid yet, compare the clocks", 401, 16),
    Code.CREDENTIAL_WRONG_AUDIENCE: _row("the credential is for another deployment", 401, 16),
    Code.CREDENTIAL_LIFETIME: _row("the credential's lifetime exceeds the manifest's maximum", 401, 16),
    Code.CALLER_BAD_SIGNATURE: _row("the caller's signature for this session does not verify", 401, 16),
    Code.MALFORMED_MESSAGE: _row("the message header or its padding is malformed", 400, 3),
    Code.MALFORMED_JSON: _row("the JSON header is not a JSON object of the inference protocol", 400, 3),
    Code.UNKNOWN_PATH: _row("no such path", 404, 5),
    Code.UNKNOWN_MODEL: _row("no such model", 404, 5),
    Code.UNKNOWN_VERSION: _row("no such version of the model", 404, 5),
    Code.MODEL_NOT_READY: _row("the model is not ready", 503, 14),
    Code.MODEL_NOT_AUTHORISED: _row("the credential does not name this model", 403, 7),
    Code.MISSING_FIELD: _row("a required field is missing", 400, 3, field=True),
    Code.WRONG_FIELD_TYPE: _row("the field has the wrong type or range", 400, 3, field=True),
    Code.MISSING_INPUT: _row("a required input is missing", 400, 3, field=True),
    Code.UNEXPECTED_INPUT: _row("the model has no such input", 400, 3, field=True),
    Code.DUPLICATE_INPUT: _row("the input is given twice", 400, 3, field=True),
    Code.UNKNOWN_OUTPUT: _row("the model has no such output", 400, 3, field=True),
    Code.WRONG_DATATYPE: _row("the datatype is not the one that the model's metadata gives", 400, 3, field=True),
    Code.WRONG_RANK: _row("the number of dimensions is not the one that the model's metadata gives", 400, 3, field=True),
    Code.WRONG_SHAPE: _row("the shape does not fit the one that the model's metadata gives", 400, 3, field=True),
    Code.WRONG_DATA_SIZE: _row("the data does not have the size that shape and datatype give", 400, 3, field=True),
    Code.INVALID_VALUE: _row("a value is not one of the datatype", 400, 3, field=True),
    Code.NON_FINITE_INPUT: _row("the model refuses NaN and infinity", 400, 3, field=True),
    Code.UNSUPPORTED_PARAMETER: _row("the parameter is not supported", 400, 3, field=True),
    Code.REQUEST_TOO_LARGE: _row("the request exceeds the model's or the enclave's limit", 413, 8),
    Code.ANSWER_TOO_LARGE: _row("the answer exceeds the enclave's limit", 500, 8),
    Code.DEADLINE_EXPIRED: _row("the request's deadline passed before it was answered", 504, 4),
    Code.CANCELLED: _row("the request was cancelled", 499, 1),
    Code.QUOTA_EXHAUSTED: _row("the credential's quota for this hour is exhausted", 429, 8),
    Code.BUSY: _row("too many requests are waiting, try again later", 503, 14),
    Code.MODEL_FAILED: _row("the model failed on this input", 500, 13),
    Code.OUT_OF_MEMORY: _row("the model exceeded its memory limit on this input", 500, 8),
    Code.WORKER_LOST: _row("the model's worker process ended while it ran this request", 500, 13),
    Code.INTERNAL: _row("internal error", 500, 13),
    Code.NOT_IMPLEMENTED: _row("not implemented", 501, 12),
    Code.EVIDENCE_REFUSED: _row("the appliance's evidence was refused, nothing was sent", 502, 14),
    Code.APPLIANCE_UNREACHABLE: _row("the appliance cannot be reached", 503, 14),
    Code.SESSION_REFUSED: _row("the enclave refused the session", 502, 14),
    Code.SESSION_LOST: _row("the session ended before the answer was complete", 502, 14),
    Code.HOST_REFUSED: _row("the Host header is not one of this listener's", 421, 7),
    Code.TOKEN_REQUIRED: _row("a bearer token is required here", 401, 16),
    Code.MALFORMED_HTTP: _row("the HTTP request is malformed, or its encoding or lengths are not supported", 400, 3),
}


class Stage(IntEnum):
    """The boot stages, in order, with no way back (architecture.md)."""

    COLD = 1
    MEASURED = 2
    UNWRAPPED = 3
    LOADED = 4
    SERVING = 5


class BootFailure(IntEnum):
    """Why a boot stopped: all that a production enclave ever says to its parent about it."""

    NSM_UNAVAILABLE = 1
    CLOCK_REFUSED = 2
    CLOCKSOURCE_REFUSED = 3
    ENTROPY_UNAVAILABLE = 4
    PRIVILEGES_KEPT = 5
    MANIFEST_UNAVAILABLE = 20
    MANIFEST_MALFORMED = 21
    MANIFEST_SIGNATURE = 22
    MANIFEST_EXPIRED = 23
    PCR_NOT_EMPTY = 25
    PCR_MISMATCH = 26
    KMS_UNREACHABLE = 40
    KMS_THROTTLED = 41
    KMS_REFUSED = 42
    KMS_WRONG_KEY = 43
    KMS_WRONG_CONTEXT = 44
    KMS_BAD_ANSWER = 45
    KMS_STALE_EVIDENCE = 46
    CREDENTIALS_UNAVAILABLE = 47
    CREDENTIALS_EXPIRED = 48
    KMS_UNTRUSTED_HOST = 49
    ARTIFACT_UNAVAILABLE = 60
    ARTIFACT_HEADER = 61
    ARTIFACT_COMMITMENT = 62
    ARTIFACT_DAMAGED = 63
    ARTIFACT_DIGEST = 64
    MODEL_REFUSED = 65
    MODEL_SIGNATURE = 66
    MODEL_LOAD = 67
    LISTEN_FAILED = 80
    INTERNAL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRow:
    """`retried`: the enclave backs off and tries again for ten minutes with fresh evidence before it says this."""

    text: str
    retried: bool


BOOT_TABLE: dict[BootFailure, BootRow] = {
    BootFailure.NSM_UNAVAILABLE: BootRow(text="the NSM device does not open or does not answer", retried=False),
    BootFailure.CLOCK_REFUSED: BootRow(text="the clock differs from the NSM's by more than 5 s after setting", retried=False),
    BootFailure.CLOCKSOURCE_REFUSED: BootRow(text="the kernel's clock source is not one that the manifest accepts", retried=False),
    BootFailure.ENTROPY_UNAVAILABLE: BootRow(text="the kernel's generator could not be fed from the NSM", retried=False),
    BootFailure.PRIVILEGES_KEPT: BootRow(text="privileges could not be dropped", retried=False),
    BootFailure.MANIFEST_UNAVAILABLE: BootRow(text="the parent does not hand over a manifest", retried=True),
    BootFailure.MANIFEST_MALFORMED: BootRow(text="the manifest is not one of this version", retried=False),
    BootFailure.MANIFEST_SIGNATURE: BootRow(text="the owner's signature on the manifest does not verify", retried=False),
    BootFailure.MANIFEST_EXPIRED: BootRow(text="the manifest's not_after has passed or lies too far ahead", retried=False),
    BootFailure.PCR_NOT_EMPTY: BootRow(text="PCR16 or PCR17 was not zero and unlocked at boot", retried=False),
    BootFailure.PCR_MISMATCH: BootRow(text="a PCR has not the expected value or did not lock", retried=False),
    BootFailure.KMS_UNREACHABLE: BootRow(text="KMS cannot be reached through the parent, or answers 5xx", retried=True),
    BootFailure.KMS_THROTTLED: BootRow(text="KMS throttles", retried=True),
    BootFailure.KMS_REFUSED: BootRow(text="KMS refuses: the key policy does not allow this image, owner or role", retried=False),
    BootFailure.KMS_WRONG_KEY: BootRow(text="the data key was wrapped under another key than the manifest's", retried=False),
    BootFailure.KMS_WRONG_CONTEXT: BootRow(text="the data key was wrapped under another encryption context", retried=False),
    BootFailure.KMS_BAD_ANSWER: BootRow(text="the KMS answer does not open", retried=False),
    BootFailure.KMS_STALE_EVIDENCE: BootRow(text="KMS finds the evidence stale", retried=True),
    BootFailure.CREDENTIALS_UNAVAILABLE: BootRow(text="the parent hands over no AWS credentials", retried=True),
    BootFailure.CREDENTIALS_EXPIRED: BootRow(text="the AWS credentials are expired or invalid", retried=True),
    BootFailure.KMS_UNTRUSTED_HOST: BootRow(text="the TLS peer is not the manifest's KMS endpoint", retried=False),
    BootFailure.ARTIFACT_UNAVAILABLE: BootRow(text="the parent does not deliver an artifact", retried=True),
    BootFailure.ARTIFACT_HEADER: BootRow(text="an artifact's header is not the manifest's", retried=False),
    BootFailure.ARTIFACT_COMMITMENT: BootRow(text="the data key does not fit the artifact's key commitment", retried=False),
    BootFailure.ARTIFACT_DAMAGED: BootRow(text="an artifact's frame does not open", retried=False),
    BootFailure.ARTIFACT_DIGEST: BootRow(text="an artifact's length or digest is not the manifest's", retried=False),
    BootFailure.MODEL_REFUSED: BootRow(text="a model exceeds the intake limits or uses what is not allowed", retried=False),
    BootFailure.MODEL_SIGNATURE: BootRow(text="a model's inputs or outputs are not the manifest's", retried=False),
    BootFailure.MODEL_LOAD: BootRow(text="ONNX Runtime does not load a model", retried=False),
    BootFailure.LISTEN_FAILED: BootRow(text="the session port cannot be opened", retried=False),
    BootFailure.INTERNAL: BootRow(text="internal error", retried=False),
}
