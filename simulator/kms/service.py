"""The simulated service as a pure handler: one HTTP request in, one HTTP response out, no socket.

JSON 1.1 with `X-Amz-Target: TrentService.<Operation>`, Signature Version 4, errors as AWS codes them. What is asked of a
key is judged by `owner.policy` before anything is done, also for operations that are then answered as not modelled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
import json
from pathlib import Path
import threading
import uuid

from attestation.chain import Root
from simulator.kms import management, operations, shapes, signature, trail
from simulator.kms.accounts import Access, Accounts
from simulator.kms.call import Call
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.keys import KeyStore
from simulator.kms.resolve import resolve
from simulator.kms.shapes import Value

BODY_MAX = 256 * 1024  # a 32 KB policy in JSON, twice over
CONTENT_TYPE = "application/x-amz-json-1.1"

_OPERATIONS: dict[str, Callable[[Call, KeyStore], operations.Answer]] = {
    "CreateGrant": management.create_grant,
    "CreateKey": management.create_key,
    "Decrypt": operations.decrypt_operation,
    "DescribeKey": management.describe_key,
    "Encrypt": operations.encrypt_operation,
    "GenerateDataKey": operations.generate_data_key,
    "GenerateRandom": operations.generate_random,
    "GetKeyPolicy": management.get_key_policy,
    "ListGrants": management.list_grants,
    "PutKeyPolicy": management.put_key_policy,
}
MODELLED = frozenset(_OPERATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came: header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """The answer; its headers are complete but for Content-Length."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class SimulatedKms:
    """The service of one Region. Calls may come from several threads; they run one at a time.

    `roots` is what attestation documents must chain to; `log` takes one CloudTrail event per line.
    """

    def __init__(
        self,
        *,
        state: Path,
        region: str,
        roots: tuple[Root, ...],
        clock: Callable[[], datetime],
        log: trail.Sink | None = None,
    ) -> None:
        self._accounts = Accounts(state)
        self.keys = KeyStore(state)
        self._region = region
        self._roots = roots
        self._clock = clock
        self._log = log
        self._one_call = threading.Lock()

    def handle(self, request: HttpRequest) -> HttpResponse:
        """The response to one request, whatever it is."""
        request_id = str(uuid.uuid4())
        with self._one_call:
            try:
                answer = self._answer(request, request_id)
            except KmsError as error:
                return _response(400, {"__type": error.code.value, "message": error.message}, request_id)
        return _response(200, answer, request_id)

    def _answer(self, request: HttpRequest, request_id: str) -> Value:
        prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        known = shapes.service_model().operation_names
        if (request.method, request.path, prefix) != ("POST", "/", shapes.TARGET_PREFIX) or operation not in known:
            raise KmsError(ErrorCode.UNKNOWN_OPERATION, "")
        access = self._authenticate(request)
        call = Call(operation=operation, members={}, access=access, region=self._region, now=self._clock(), roots=self._roots)
        try:
            call.members = shapes.read_input(operation, _json(request.body))
            answer = _OPERATIONS.get(operation, _re_encrypt if operation == "ReEncrypt" else _not_modelled)(call, self.keys)
        except KmsError as error:
            self._write(call, error, request_id)
            raise
        self._write(call, None, request_id)
        return shapes.write(answer)

    def _authenticate(self, request: HttpRequest) -> Access:
        signed = signature.parse(request.headers)
        access = self._accounts.find(signed.access_key_id)
        if access is None:
            raise KmsError(ErrorCode.UNRECOGNIZED_CLIENT, "The security token included in the request is invalid.")
        now = self._clock()
        signature.verify(signed, request.headers, request.body, secret=access.secret_access_key, region=self._region, now=now)
        if request.headers.get("x-amz-security-token") != access.session_token:
            raise KmsError(ErrorCode.UNRECOGNIZED_CLIENT, "The security token included in the request is invalid.")
        if access.expires is not None and now >= access.expires:
            raise KmsError(ErrorCode.EXPIRED_TOKEN, "The security token included in the request is expired")
        return access

    def _write(self, call: Call, error: KmsError | None, request_id: str) -> None:
        if self._log is not None:
            self._log(trail.event(call, error, request_id))


def _refuse(call: Call) -> KmsError:
    return KmsError(ErrorCode.UNSUPPORTED, f"{call.operation} is allowed but not modelled by this simulator")


def _not_modelled(call: Call, store: KeyStore) -> operations.Answer:
    """Judge the action on the key that the request names, then say that it is not modelled."""
    key_id, blob = call.text("KeyId"), call.members.get("CiphertextBlob")
    call.key = resolve(call, store, key_id) if key_id else store.of_blob(blob) if isinstance(blob, bytes) else None
    call.authorize(call.key, f"kms:{call.operation}")
    raise _refuse(call)


def _re_encrypt(call: Call, store: KeyStore) -> operations.Answer:
    """ReEncrypt asks twice: kms:ReEncryptFrom of the key of the blob, kms:ReEncryptTo of the destination."""
    source_id = call.text("SourceKeyId")
    source = resolve(call, store, source_id) if source_id else store.of_blob(call.blob("CiphertextBlob"))
    destination = resolve(call, store, call.text("DestinationKeyId"))
    if source is None:
        raise KmsError(ErrorCode.ACCESS_DENIED, "The ciphertext refers to a KMS key that does not exist.")
    call.key = source
    same = {"kms:reencryptonsamekey": ("true" if source.arn == destination.arn else "false",)}
    call.authorize(source, "kms:ReEncryptFrom", same, context="SourceEncryptionContext")
    call.authorize(destination, "kms:ReEncryptTo", same, context="DestinationEncryptionContext")
    raise _refuse(call)


def _json(body: bytes) -> Value:
    try:
        value: Value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise KmsError(ErrorCode.SERIALIZATION, "the body is not JSON") from None
    return value


def _response(status: int, answer: Value, request_id: str) -> HttpResponse:
    body = b"" if answer == {} and status == 200 else json.dumps(answer).encode()
    return HttpResponse(status=status, headers={"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": request_id}, body=body)
