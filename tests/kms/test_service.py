"""The simulated service call by call: shapes, signatures, errors, key state, grants, policies, persistence."""

import base64
from datetime import UTC, datetime, timedelta
import json
from pathlib import Path
from typing import Any

import pytest

from owner.policy_document import MalformedPolicyError
from simulator.kms import Access, SimulatedKms, issue
from simulator.kms.keys import KeyState
from simulator.kms.service import BODY_MAX, MODELLED, HttpRequest
from simulator.kms.shapes import service_model
from simulator.kms.signature import Signed, compute
from tests.kms.world import (
    ADMIN,
    ALLOW_ALL,
    CONTEXT,
    OWNER_ACCOUNT,
    PARENT_ACCOUNT,
    POLICY,
    REGION,
    Callers,
    Clock,
    callers,
    root_of,
    signed,
)

ROOT_ARN = f"arn:aws:iam::{OWNER_ACCOUNT}:root"
OPEN = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ROOT_ARN}, "Action": "kms:*", "Resource": "*"}]}
)


class Service:
    """The service with an owner's root user, and a key that it may do everything with."""

    def __init__(self, kms: SimulatedKms, state: Path, clock: Clock) -> None:
        self.kms, self.state, self.clock = kms, state, clock
        self.root: Access = issue(state, ROOT_ARN, identity=[ALLOW_ALL])
        self.key: str = self.ask("CreateKey")[1]["KeyMetadata"]["Arn"]

    def ask(self, operation: str, _as: Access | None = None, _headers: dict[str, str] | None = None, **members: Any) -> tuple[int, Any]:
        """One call by the root user, or by another."""
        return signed(self.kms, _as or self.root, operation, members, self.clock.now, **(_headers or {}))

    def error(self, operation: str, _as: Access | None = None, **members: Any) -> str:
        """The code of a refusal."""
        status, answer = self.ask(operation, _as, **members)
        assert status == 400
        return str(answer["__type"])


@pytest.fixture
def service(kms: SimulatedKms, tmp_path: Path, clock: Clock) -> Service:
    """The service with its key."""
    return Service(kms, tmp_path / "kms", clock)


def test_encrypt_and_decrypt_under_a_context(service: Service) -> None:
    """What Encrypt wrapped Decrypt unwraps under the same context, with or without naming the key."""
    wrapped = service.ask("Encrypt", KeyId=service.key, Plaintext=b"data", EncryptionContext=CONTEXT)[1]
    assert (wrapped["KeyId"], wrapped["EncryptionAlgorithm"]) == (service.key, "SYMMETRIC_DEFAULT")
    blob = wrapped["CiphertextBlob"]
    ways: list[dict[str, Any]] = [{}, {"KeyId": service.key}, {"KeyId": service.key.rpartition("/")[2]}]
    for named in ways:
        status, opened = service.ask("Decrypt", CiphertextBlob=_bytes(blob), EncryptionContext=CONTEXT, **named)
        assert (status, opened["Plaintext"], opened["KeyId"]) == (200, "ZGF0YQ==", service.key)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def test_decrypt_refuses_by_the_codes_of_aws(service: Service) -> None:
    """Another context, a damaged blob, no blob: InvalidCiphertext; another key: IncorrectKey; no such key: NotFound."""
    blob = _bytes(service.ask("Encrypt", KeyId=service.key, Plaintext=b"data", EncryptionContext=CONTEXT)[1]["CiphertextBlob"])
    other = service.ask("CreateKey")[1]["KeyMetadata"]["Arn"]
    assert service.error("Decrypt", CiphertextBlob=blob) == "InvalidCiphertextException"
    assert (
        service.error("Decrypt", CiphertextBlob=blob[:-1] + bytes((blob[-1] ^ 1,)), EncryptionContext=CONTEXT)
        == "InvalidCiphertextException"
    )
    assert service.error("Decrypt", CiphertextBlob=b"x" * 80, EncryptionContext=CONTEXT) == "InvalidCiphertextException"
    for length in (1, 10, 40):
        assert service.error("Decrypt", CiphertextBlob=blob[:length], EncryptionContext=CONTEXT) == "InvalidCiphertextException"
    assert service.error("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=other) == "IncorrectKeyException"
    assert service.error("Decrypt", CiphertextBlob=blob[:4] + bytes(16) + blob[20:], EncryptionContext=CONTEXT) == "AccessDeniedException"
    assert (
        service.error("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT, EncryptionAlgorithm="RSAES_OAEP_SHA_1")
        == "InvalidKeyUsageException"
    )
    assert service.error("Decrypt", EncryptionContext=CONTEXT) == "ValidationException"


@pytest.mark.parametrize(
    ("key_id", "code"),
    [
        ("alias/model", "NotFoundException"),
        (f"arn:aws:kms:{REGION}:{OWNER_ACCOUNT}:alias/model", "NotFoundException"),
        (f"arn:aws:kms:{REGION}:{OWNER_ACCOUNT}:key/00000000-0000-0000-0000-000000000000", "NotFoundException"),
        (f"arn:aws:kms:us-east-1:{OWNER_ACCOUNT}:key/00000000-0000-0000-0000-000000000000", "NotFoundException"),
        ("00000000-0000-0000-0000-000000000000", "NotFoundException"),
        ("model", "NotFoundException"),
        ("arn:aws:s3:::x", "InvalidArnException"),
        ("", "ValidationException"),
    ],
)
def test_what_names_no_key_is_refused(service: Service, key_id: str, code: str) -> None:
    """Aliases are never there, ids are looked for in the caller's account, other ARNs are malformed."""
    assert service.error("DescribeKey", KeyId=key_id) == code


def test_key_state(service: Service) -> None:
    """A disabled key and one pending deletion do nothing, and are described as what they are."""
    blob = _bytes(service.ask("Encrypt", KeyId=service.key, Plaintext=b"data")[1]["CiphertextBlob"])
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Encrypt", {"Plaintext": b"x"}),
        ("Decrypt", {"CiphertextBlob": blob}),
        ("GenerateDataKey", {"KeySpec": "AES_256"}),
    ]
    calls.append(("CreateGrant", {"GranteePrincipal": ADMIN, "Operations": ["Decrypt"]}))
    for state, code in ((KeyState.DISABLED, "DisabledException"), (KeyState.PENDING_DELETION, "KMSInvalidStateException")):
        service.kms.keys.set_state(service.key, state)
        assert {service.error(operation, KeyId=service.key, **members) for operation, members in calls} == {code}
        described = service.ask("DescribeKey", KeyId=service.key)[1]["KeyMetadata"]
        assert (described["KeyState"], described["Enabled"], "DeletionDate" in described) == (
            state.value,
            False,
            state is KeyState.PENDING_DELETION,
        )
    assert service.error("PutKeyPolicy", KeyId=service.key, Policy=OPEN) == "KMSInvalidStateException"


def test_data_keys_and_random_bytes(service: Service) -> None:
    """GenerateDataKey's plaintext is what its blob opens to; lengths are those asked for; exactly one way of asking."""
    ways: list[tuple[dict[str, Any], int]] = [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 7}, 7)]
    for members, length in ways:
        made = service.ask("GenerateDataKey", KeyId=service.key, **members)[1]
        opened = service.ask("Decrypt", CiphertextBlob=_bytes(made["CiphertextBlob"]))[1]["Plaintext"]
        assert (opened, len(_bytes(opened))) == (made["Plaintext"], length)
    assert service.error("GenerateDataKey", KeyId=service.key) == "ValidationException"
    assert service.error("GenerateDataKey", KeyId=service.key, KeySpec="AES_256", NumberOfBytes=7) == "ValidationException"
    assert len(_bytes(service.ask("GenerateRandom", NumberOfBytes=24)[1]["Plaintext"])) == 24
    assert service.error("GenerateRandom") == "ValidationException"
    assert service.error("GenerateRandom", NumberOfBytes=1_025) == "ValidationException"


def test_a_dry_run_does_nothing(service: Service) -> None:
    """DryRun answers its own error after authorization, and before anything comes out."""
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"x", DryRun=True) == "DryRunOperationException"
    assert service.error("GenerateDataKey", KeyId=service.key, KeySpec="AES_256", DryRun=True) == "DryRunOperationException"


def test_grants_are_listed_paged_filtered_and_effective(service: Service) -> None:
    """A grant lets its grantee decrypt within its constraint, at once; ListGrants shows it, page by page."""
    holder = issue(service.state, f"arn:aws:iam::{PARENT_ACCOUNT}:role/Holder")
    blob = _bytes(service.ask("Encrypt", KeyId=service.key, Plaintext=b"data", EncryptionContext=CONTEXT)[1]["CiphertextBlob"])
    assert service.error("Decrypt", holder, CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=service.key) == "AccessDeniedException"
    made = service.ask(
        "CreateGrant",
        KeyId=service.key,
        GranteePrincipal=holder.arn,
        Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": {"cloister-epoch": "1"}},
        RetiringPrincipal=ADMIN,
        Name="one",
    )[1]
    assert service.ask("Decrypt", holder, CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=service.key)[0] == 200
    assert service.error("Decrypt", holder, CiphertextBlob=blob, EncryptionContext={}, KeyId=service.key) == "AccessDeniedException"
    service.ask("CreateGrant", KeyId=service.key, GranteePrincipal=ADMIN, Operations=["Encrypt"])
    first = service.ask("ListGrants", KeyId=service.key, Limit=1)[1]
    second = service.ask("ListGrants", KeyId=service.key, Limit=1, Marker=first["NextMarker"])[1]
    assert ([len(first["Grants"]), len(second["Grants"])], first["Truncated"], second["Truncated"]) == ([1, 1], True, False)
    only = service.ask("ListGrants", KeyId=service.key, GrantId=made["GrantId"])[1]["Grants"]
    assert (only[0]["GranteePrincipal"], only[0]["Constraints"]) == (holder.arn, {"EncryptionContextSubset": {"cloister-epoch": "1"}})
    assert len(service.ask("ListGrants", KeyId=service.key, GranteePrincipal=ADMIN)[1]["Grants"]) == 1
    assert service.error("ListGrants", KeyId=service.key, Marker="x") == "ValidationException"
    assert service.error("CreateGrant", KeyId=service.key, GranteePrincipal=ADMIN, Operations=["Sign"]) == "ValidationException"


def test_policies_are_read_and_put(service: Service) -> None:
    """A policy is put whole, read back as it was put, and decides the next call; a policy that would lock its putter out is refused."""
    assert json.loads(service.ask("GetKeyPolicy", KeyId=service.key)[1]["Policy"])["Id"] == "key-default-1"
    assert service.error("PutKeyPolicy", KeyId=service.key, Policy="{}") == "MalformedPolicyDocumentException"
    assert service.error("PutKeyPolicy", KeyId=service.key, Policy=" " * 32_769) == "LimitExceededException"
    assert service.error("PutKeyPolicy", KeyId=service.key, Policy=POLICY) == "MalformedPolicyDocumentException"
    assert service.error("PutKeyPolicy", KeyId=service.key, Policy=OPEN, PolicyName="other") == "NotFoundException"
    assert service.ask("PutKeyPolicy", KeyId=service.key, Policy=POLICY, BypassPolicyLockoutSafetyCheck=True)[0] == 200
    assert service.error("GetKeyPolicy", KeyId=service.key) == "AccessDeniedException"
    people: Callers = callers(service.state)
    assert service.ask("GetKeyPolicy", people.admin, KeyId=service.key)[1] == {"Policy": POLICY, "PolicyName": "default"}
    assert service.error("GetKeyPolicy", people.admin, KeyId=service.key, PolicyName="other") == "NotFoundException"


def test_creating_a_key(service: Service) -> None:
    """CreateKey needs an identity policy, takes symmetric keys of origin AWS_KMS alone, and a policy that leaves its maker in."""
    nobody = issue(service.state, f"arn:aws:iam::{OWNER_ACCOUNT}:role/Nobody")
    assert service.error("CreateKey", nobody) == "AccessDeniedException"
    others: list[dict[str, Any]] = [{"KeySpec": "RSA_2048"}, {"KeyUsage": "SIGN_VERIFY"}, {"Origin": "EXTERNAL"}]
    for members in others:
        assert service.error("CreateKey", **members) == "UnsupportedOperationException"
    assert service.error("CreateKey", Policy=POLICY) == "MalformedPolicyDocumentException"
    made = service.ask("CreateKey", MultiRegion=True, Description="two Regions")[1]["KeyMetadata"]
    assert (made["KeyId"][:4], made["MultiRegion"], made["MultiRegionConfiguration"]["MultiRegionKeyType"]) == ("mrk-", True, "PRIMARY")


def test_what_is_not_modelled_is_judged_first(service: Service) -> None:
    """An operation beyond the model answers AccessDenied to who may not and UnsupportedOperation to who may."""
    stranger = issue(service.state, "arn:aws:iam::999999999999:role/Stranger", identity=[ALLOW_ALL])
    assert service.error("DisableKey", stranger, KeyId=service.key) == "AccessDeniedException"
    assert service.error("DisableKey", KeyId=service.key) == "UnsupportedOperationException"
    assert service.error("ListKeys", KeyId=service.key) == "UnsupportedOperationException"
    blob = _bytes(service.ask("Encrypt", KeyId=service.key, Plaintext=b"x")[1]["CiphertextBlob"])
    members: dict[str, Any] = {"CiphertextBlob": blob, "DestinationKeyId": service.key}
    assert service.error("ReEncrypt", stranger, **members) == "AccessDeniedException"
    assert service.error("ReEncrypt", **members) == "UnsupportedOperationException"
    assert service.error("ReEncrypt", **{**members, "CiphertextBlob": blob[:4] + bytes(16) + blob[20:]}) == "AccessDeniedException"


def test_signatures(service: Service) -> None:
    """A request that is unsigned, by an unknown key, by another secret, altered, out of date or out of scope is refused by its own code."""
    other = Access(access_key_id=service.root.access_key_id, secret_access_key="x", arn=ROOT_ARN)
    unknown = Access(access_key_id="AKIAUNKNOWN", secret_access_key="x", arn=ROOT_ARN)
    key = {"KeyId": service.key}
    assert service.error("DescribeKey", other, **key) == "InvalidSignatureException"
    assert service.error("DescribeKey", unknown, **key) == "UnrecognizedClientException"
    for minutes, code in ((-6, "InvalidSignatureException"), (6, "InvalidSignatureException"), (-4, None), (4, None)):
        date = (service.clock.now + timedelta(minutes=minutes)).strftime("%Y%m%dT%H%M%SZ")
        status, answer = service.ask("DescribeKey", None, {"x-amz-date": date}, **key)
        assert (status == 200 and code is None) or answer["__type"] == code
    assert service.ask("DescribeKey", None, {"x-amz-date": "20260101"}, **key)[1]["__type"] == "IncompleteSignatureException"


def _raw(kms: SimulatedKms, headers: dict[str, str], body: bytes = b"{}", method: str = "POST", path: str = "/") -> str:
    response = kms.handle(HttpRequest(method=method, path=path, headers=headers, body=body))
    assert response.status == 400
    return str(json.loads(response.body)["__type"])


def test_requests_that_are_none(kms: SimulatedKms) -> None:
    """Another method, path, target or Authorization is refused before anything is looked up."""
    target = {"x-amz-target": "TrentService.DescribeKey"}
    assert _raw(kms, target) == "MissingAuthenticationTokenException"
    assert _raw(kms, {**target, "authorization": "Basic eA=="}) == "IncompleteSignatureException"
    assert _raw(kms, target, method="GET") == "UnknownOperationException"
    assert _raw(kms, target, path="/x") == "UnknownOperationException"
    assert _raw(kms, {"x-amz-target": "TrentService.Destroy"}) == "UnknownOperationException"
    assert _raw(kms, {"x-amz-target": "DynamoDB.DescribeKey"}) == "UnknownOperationException"


@pytest.mark.parametrize("dropped", ["host", "x-amz-date", "x-amz-target", "x-amz-security-token"])
def test_headers_that_must_be_signed(service: Service, dropped: str) -> None:
    """Host, date, target and session token count only if they are signed."""
    access = callers(service.state).admin
    date = service.clock.now.strftime("%Y%m%dT%H%M%SZ")
    sent = {
        "host": "kms",
        "x-amz-date": date,
        "x-amz-target": "TrentService.DescribeKey",
        "x-amz-security-token": access.session_token or "",
    }
    names = tuple(sorted(set(sent) - {dropped}))
    shape = Signed(access_key_id=access.access_key_id, date=date[:8], region=REGION, service="kms", headers=names, signature="")
    value = compute(shape, sent, b"{}", access.secret_access_key)
    scope = f"{access.access_key_id}/{date[:8]}/{REGION}/kms/aws4_request"
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(names)}, Signature={value}"
    assert _raw(service.kms, sent) == "InvalidSignatureException"


@pytest.mark.parametrize(("region", "name"), [("us-east-1", "kms"), (REGION, "s3")])
def test_a_signature_for_another_scope_is_refused(service: Service, region: str, name: str) -> None:
    """A signature made for another Region or service does not count here."""
    date = service.clock.now.strftime("%Y%m%dT%H%M%SZ")
    sent = {"host": "kms", "x-amz-date": date, "x-amz-target": "TrentService.DescribeKey"}
    shape = Signed(
        access_key_id=service.root.access_key_id, date=date[:8], region=region, service=name, headers=tuple(sorted(sent)), signature=""
    )
    value = compute(shape, sent, b"{}", service.root.secret_access_key)
    scope = f"{service.root.access_key_id}/{date[:8]}/{region}/{name}/aws4_request"
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(sorted(shape.headers))}, Signature={value}"
    assert _raw(service.kms, sent) == "InvalidSignatureException"


def test_sessions_expire_and_tokens_belong_to_their_key(service: Service) -> None:
    """An expired session answers ExpiredToken; a missing or foreign session token UnrecognizedClient."""
    role = f"arn:aws:iam::{OWNER_ACCOUNT}:role/Reader"
    expires = service.clock.now + timedelta(seconds=60)
    access = issue(service.state, role, identity=[ALLOW_ALL], expires=expires)
    assert service.ask("DescribeKey", access, KeyId=service.key)[0] == 200
    service.clock.now = expires
    assert service.error("DescribeKey", access, KeyId=service.key) == "ExpiredTokenException"
    fresh = issue(service.state, role, identity=[ALLOW_ALL])
    for token in (None, "another"):
        forged = Access(access_key_id=fresh.access_key_id, secret_access_key=fresh.secret_access_key, session_token=token, arn=role)
        assert service.error("DescribeKey", forged, KeyId=service.key) == "UnrecognizedClientException"


def test_shapes_are_judged(service: Service) -> None:
    """Types, lengths, enums, patterns and required members are those of AWS's model; unknown members are ignored."""
    assert service.error("Encrypt", KeyId=service.key) == "ValidationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"") == "ValidationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"x" * 4_097) == "ValidationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext="not base64!") == "SerializationException"
    assert service.error("Encrypt", KeyId=7, Plaintext=b"x") == "SerializationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"x", EncryptionContext=[]) == "SerializationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"x", DryRun="yes") == "SerializationException"
    assert service.error("Encrypt", KeyId=service.key, Plaintext=b"x", EncryptionAlgorithm="ROT13") == "ValidationException"
    assert service.error("GenerateDataKey", KeyId=service.key, NumberOfBytes=True) == "SerializationException"
    assert service.error("GenerateDataKey", KeyId=service.key, NumberOfBytes=0) == "ValidationException"
    assert service.error("CreateGrant", KeyId=service.key, GranteePrincipal=ADMIN, Operations="Decrypt") == "SerializationException"
    assert service.error("CreateGrant", KeyId=service.key, GranteePrincipal="!", Operations=["Decrypt"]) == "ValidationException"
    assert service.ask("Encrypt", KeyId=service.key, Plaintext=b"x", Unknown=1)[0] == 200
    assert (
        service.error("CreateGrant", KeyId=service.key, GranteePrincipal=ADMIN, Operations=[], Constraints=[]) == "SerializationException"
    )
    assert service.error("Decrypt", CiphertextBlob=b"x", Recipient={"AttestationDocument": b"x"}) == "ValidationException"
    assert (
        service.error("Decrypt", CiphertextBlob=b"x", Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}) == "ValidationException"
    )


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b"{", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_object_are_refused(service: Service, body: bytes) -> None:
    """A signed body that is no JSON object is SerializationException."""
    date = service.clock.now.strftime("%Y%m%dT%H%M%SZ")
    sent = {"host": "kms", "x-amz-date": date, "x-amz-target": "TrentService.GenerateRandom"}
    names = tuple(sorted(sent))
    shape = Signed(access_key_id=service.root.access_key_id, date=date[:8], region=REGION, service="kms", headers=names, signature="")
    value = compute(shape, sent, body, service.root.secret_access_key)
    scope = f"{service.root.access_key_id}/{date[:8]}/{REGION}/kms/aws4_request"
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(names)}, Signature={value}"
    assert _raw(service.kms, sent, body) == "SerializationException"


def test_what_the_simulator_does_not_model_is_named_in_the_refusal(service: Service) -> None:
    """A policy beyond the model denies, and the refusal names the condition."""
    beyond = json.loads(OPEN)
    beyond["Statement"].append({**beyond["Statement"][0], "Effect": "Deny", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}})
    service.ask("PutKeyPolicy", KeyId=service.key, Policy=json.dumps(beyond), BypassPolicyLockoutSafetyCheck=True)
    status, answer = service.ask("DescribeKey", KeyId=service.key)
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    assert "does not model IpAddress aws:SourceIp (key policy, statement 2)" in answer["message"]


@pytest.mark.parametrize("operation", sorted(MODELLED))
def test_answers_conform_to_the_service_model(service: Service, operation: str) -> None:
    """Every answer's members are in AWS's model of the operation, of the modelled types, with none that it requires left out."""
    blob = _bytes(service.ask("Encrypt", KeyId=service.key, Plaintext=b"x")[1]["CiphertextBlob"])
    service.ask(
        "CreateGrant",
        KeyId=service.key,
        GranteePrincipal=ADMIN,
        Operations=["Decrypt"],
        Constraints={"EncryptionContextEquals": {"a": "b"}},
    )
    members: dict[str, dict[str, Any]] = {
        "CreateGrant": {"KeyId": service.key, "GranteePrincipal": ADMIN, "Operations": ["Decrypt"]},
        "CreateKey": {"MultiRegion": True},
        "Decrypt": {"CiphertextBlob": blob},
        "DescribeKey": {"KeyId": service.key},
        "Encrypt": {"KeyId": service.key, "Plaintext": b"x"},
        "GenerateDataKey": {"KeyId": service.key, "KeySpec": "AES_256"},
        "GenerateRandom": {"NumberOfBytes": 8},
        "GetKeyPolicy": {"KeyId": service.key},
        "ListGrants": {"KeyId": service.key, "Limit": 1},
        "PutKeyPolicy": {"KeyId": service.key, "Policy": OPEN},
    }
    status, answer = service.ask(operation, **members[operation])
    assert status == 200
    output = service_model().operation_model(operation).output_shape
    if output is None:
        assert answer == {}
    else:
        conforms(output, answer, operation)


def conforms(shape: Any, value: Any, where: str) -> None:
    """Walk an answer along its shape."""
    match shape.type_name:
        case "structure":
            assert isinstance(value, dict) and value.keys() <= shape.members.keys(), where
            assert set(shape.required_members) <= value.keys(), where
            for name, member in value.items():
                conforms(shape.members[name], member, f"{where}.{name}")
        case "list":
            assert isinstance(value, list), where
            for item in value:
                conforms(shape.member, item, where)
        case "map":
            assert isinstance(value, dict) and all(isinstance(item, str) for item in value.values()), where
        case "string":
            assert isinstance(value, str) and (not shape.enum or value in shape.enum), where
        case "blob":
            assert isinstance(value, str) and _bytes(value) is not None, where
        case "boolean":
            assert isinstance(value, bool), where
        case "timestamp":
            assert isinstance(value, int | float) and not isinstance(value, bool), where
        case _:
            assert isinstance(value, int), where


@pytest.mark.parametrize("operation", sorted(MODELLED))
def test_refusals_are_in_the_service_model(service: Service, operation: str) -> None:
    """The codes of every modelled operation are of AWS's model of it, or of AWS's common errors."""
    common = {"AccessDeniedException", "ValidationException", "SerializationException"}
    known = {shape.name for shape in service_model().operation_model(operation).error_shapes} | common
    tries: list[dict[str, Any]] = [
        {},
        {"KeyId": service.key},
        {"KeyId": "alias/x"},
        {"KeyId": "arn:aws:s3:::x"},
        {"KeyId": service.key, "CiphertextBlob": b"x" * 60},
    ]
    tries += [{"NumberOfBytes": -1}, {"KeyId": service.key, "Policy": "x"}, {"Recipient": {"AttestationDocument": b"x"}}]
    seen = {answer["__type"] for status, answer in (service.ask(operation, **members) for members in tries) if status != 200}
    assert seen <= known


def test_the_state_directory_is_all_there_is(service: Service, tmp_path: Path, clock: Clock) -> None:
    """A second service on the same directory knows keys, policies, grants and callers; what is secret there is private."""
    service.ask(
        "CreateGrant",
        KeyId=service.key,
        GranteePrincipal=ADMIN,
        Operations=["Decrypt"],
        Constraints={"EncryptionContextEquals": {"a": "b"}},
    )
    again = SimulatedKms(state=service.state, region=REGION, roots=(root_of(tmp_path / "pki"),), clock=clock)
    assert signed(again, service.root, "ListGrants", {"KeyId": service.key}, clock.now) == service.ask("ListGrants", KeyId=service.key)
    assert {path.stat().st_mode & 0o077 for path in service.state.iterdir() if path.name in ("keys.json", "accounts.json")} == {0}


def test_issue_refuses_what_is_no_caller(tmp_path: Path) -> None:
    """A caller is a root user, user, role or session, and its identity policies parse."""
    with pytest.raises(ValueError, match="not the ARN"):
        issue(tmp_path, "arn:aws:iam::111122223333:group/x")
    with pytest.raises(MalformedPolicyError):
        issue(tmp_path, ROOT_ARN, identity=["{}"])
    later = issue(tmp_path, ROOT_ARN, expires=datetime(2030, 1, 1, tzinfo=UTC))
    assert (later.access_key_id[:4], later.session_token) == ("AKIA", None)


def test_requests_over_the_limit_are_not_read(service: Service) -> None:
    """The largest request that makes sense is a 32 KB policy; the limit leaves room for its JSON."""
    assert BODY_MAX >= 2 * 32_768
