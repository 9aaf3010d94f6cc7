"""The enclave's KMS client against the simulated KMS, which judges, and against scripted ones, which lie."""

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
import json
import os
from pathlib import Path
import socket
import ssl
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
import pytest

from enclave import kms
from enclave.dial import DialError
from enclave.kms import KmsClient, KmsFailure
from enclave.nsm import NsmError, NsmErrorCode
from simulator.kms import accounts
from simulator.kms.envelope import seal
from simulator.kms.keys import encrypt, new_key
from simulator.kms.tls import server_context
from tests.enclave_kms.world import (
    CONTEXT,
    HOST,
    OWNER_ACCOUNT,
    OWNER_KEY,
    PARENT,
    REGION,
    World,
    http,
    issued,
    nsm,
    policy,
    scripted,
)
from wire.errors import BOOT_TABLE, BootFailure
from wire.evidence import KMS_USER_DATA
from wire.feed import AwsCredentials
from wire.manifest import encryption_context

DATA_KEY = bytes(range(32))


def failure(client: KmsClient, blob: bytes = b"blob", context: dict[str, str] = CONTEXT) -> BootFailure:
    """What the client makes of one attempt that must not succeed."""
    with pytest.raises(KmsFailure) as caught:
        client.decrypt(blob, context)
    assert caught.value.__cause__ is None
    assert (caught.value.boot_failure.name,) == caught.value.args
    return caught.value.boot_failure


class RecordingNsm:
    """The module, with what it was asked to attest."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.asked: list[dict[str, bytes | None]] = []

    def attest(self, **fields: bytes | None) -> bytes:
        """As the module, remembered."""
        self.asked.append(fields)
        document: bytes = self.inner.attest(**fields)
        return document


def test_the_accepted_image_gets_its_data_key(world: World) -> None:
    """The accepted image gets its data key from KMS over TLS that ends in the enclave."""
    data_key = os.urandom(32)
    assert data_key == world.client().decrypt(world.wrap(data_key), CONTEXT)


def test_no_connection_is_left_open(world: World) -> None:
    """Every attempt, good or bad, closes its connection."""
    dialled: list[socket.socket] = []

    def dial() -> socket.socket:
        dialled.append(world.dial())
        return dialled[-1]

    client = world.client(dial=dial)
    client.decrypt(world.wrap(DATA_KEY), CONTEXT)
    failure(client)
    assert [-1, -1] == [stream.fileno() for stream in dialled]


def test_unwrap_is_one_attempt(world: World) -> None:
    """`unwrap` gives the data key with a client of its own."""
    assert DATA_KEY == kms.unwrap(
        part_header_edk=world.wrap(DATA_KEY),
        key_arn=world.key_arn,
        context=CONTEXT,
        nsm=nsm(world.pki),
        dial=world.dial,
        host=HOST,
        ca_pem=world.ca_pem,
        credentials=lambda: issued(world.state, PARENT),
        now=lambda: datetime.now(UTC),
        region=REGION,
    )


def test_the_request_says_everything(world: World) -> None:
    """Each request carries the full ARN, the exact context, the algorithm and a fresh document for this boot's RSA key."""
    requests: list[dict[str, Any]] = []

    def answer(request: bytes) -> bytes:
        requests.append(json.loads(request.split(b"\r\n\r\n", 1)[1]))
        return http(500, b"{}")

    module = RecordingNsm(nsm(world.pki))
    client = world.client(nsm=module, dial=scripted(server_context(world.state, (HOST,)), answer))
    failure(client)
    failure(client)
    failure(world.client(nsm=module))
    first, second = requests
    assert (world.key_arn, CONTEXT, "SYMMETRIC_DEFAULT") == (first["KeyId"], first["EncryptionContext"], first["EncryptionAlgorithm"])
    assert first["Recipient"]["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
    assert first["Recipient"]["AttestationDocument"] != second["Recipient"]["AttestationDocument"]
    assert all(asked["user_data"] == KMS_USER_DATA and asked["nonce"] is None for asked in module.asked)
    keys = [asked["public_key"] for asked in module.asked]
    assert keys[0] == keys[1] != keys[2]
    key = load_der_public_key(keys[0] or b"")
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048


def test_a_closed_client_has_no_key(world: World) -> None:
    """After `close` the RSA key is gone and the client refuses to work."""
    client = world.client()
    client.close()
    with pytest.raises(RuntimeError):
        client.decrypt(b"", CONTEXT)


def test_another_owner_is_refused(world: World) -> None:
    """PCR16 of another owner: KMS refuses, and no second attempt makes sense."""
    blob = world.wrap(DATA_KEY)
    assert BootFailure.KMS_REFUSED == failure(world.client(nsm=nsm(world.pki, owner_key=bytes(32))), blob)
    assert not BOOT_TABLE[BootFailure.KMS_REFUSED].retried


def test_another_model_is_a_wrong_context(world: World) -> None:
    """A data key that was wrapped for another model does not open under this model's context."""
    blob = world.wrap(DATA_KEY, encryption_context(OWNER_KEY, "other", 1))
    assert BootFailure.KMS_WRONG_CONTEXT == failure(world.client(), blob)


def test_a_blob_of_another_key_is_a_wrong_key(world: World) -> None:
    """A data key wrapped under another KMS key, even one with the same policy, is refused by the full ARN."""
    other = new_key(account=OWNER_ACCOUNT, region=REGION, policy=policy(), description="", now=datetime.now(UTC))
    world.server.kms.keys.put(other)
    assert BootFailure.KMS_WRONG_KEY == failure(world.client(), encrypt(other, DATA_KEY, CONTEXT))


def test_no_module_no_request(world: World) -> None:
    """Without evidence KMS is not asked."""

    class Gone:
        def attest(self, **_: object) -> bytes:
            raise NsmError(NsmErrorCode.UNAVAILABLE)

    assert BootFailure.NSM_UNAVAILABLE == failure(world.client(nsm=Gone(), dial=lambda: pytest.fail("dialled")))


# --- the peer


def test_another_authority_is_untrusted(world: World, tmp_path: Path) -> None:
    """A server whose certificate the manifest's bundle does not vouch for gets no request."""
    dial = scripted(server_context(tmp_path, (HOST,)), lambda _: pytest.fail("got the request"))
    assert BootFailure.KMS_UNTRUSTED_HOST == failure(world.client(dial=dial))


def test_another_name_is_untrusted(world: World) -> None:
    """A genuine certificate for another host gets no request."""
    dial = scripted(server_context(world.state, (f"sts.{REGION}.amazonaws.com",)), lambda _: pytest.fail("got the request"))
    assert BootFailure.KMS_UNTRUSTED_HOST == failure(world.client(dial=dial))


def test_older_tls_is_refused(world: World) -> None:
    """TLS 1.2 is not spoken."""
    context = server_context(world.state, (HOST,))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    dial = scripted(context, lambda _: pytest.fail("got the request"))
    assert BootFailure.KMS_UNREACHABLE == failure(world.client(dial=dial))


@pytest.mark.parametrize("bundle", [b"", b"no PEM", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_bundle_without_authority_is_refused(world: World, bundle: bytes) -> None:
    """A CA bundle that holds no authority stops the boot instead of trusting the machine's."""
    with pytest.raises(KmsFailure) as caught:
        world.client(ca_pem=bundle)
    assert caught.value.boot_failure is BootFailure.KMS_UNTRUSTED_HOST


def _unreachable() -> socket.socket:
    raise DialError("nobody")


def _hang_up() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


def _babble() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n" * 64)
    theirs.close()
    return ours


@pytest.mark.parametrize("dial", [_unreachable, _hang_up, _babble])
def test_a_parent_in_the_way_is_retried(world: World, dial: Callable[[], socket.socket]) -> None:
    """No connection, a cut one and garbage are the parent's doing: tried again."""
    assert BootFailure.KMS_UNREACHABLE == failure(world.client(dial=dial))
    assert BOOT_TABLE[BootFailure.KMS_UNREACHABLE].retried


def test_a_silent_peer_meets_the_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that accepts and says nothing holds the boot for ANSWER_SECONDS, no longer."""
    monkeypatch.setattr(kms, "ANSWER_SECONDS", 0.05)
    kept = []

    def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        return ours

    assert BootFailure.KMS_UNREACHABLE == failure(world.client(dial=dial))


# --- the answer


def lying(world: World, answer: Callable[[bytes], bytes]) -> KmsClient:
    """A client whose KMS answers what `answer` makes of the request."""
    return world.client(dial=scripted(server_context(world.state, (HOST,)), answer))


def attested_key(request: bytes) -> rsa.RSAPublicKey:
    """The RSA key in a request's document, unverified."""
    document = base64.b64decode(json.loads(request.split(b"\r\n\r\n", 1)[1])["Recipient"]["AttestationDocument"])
    key = load_der_public_key(cbor2.loads(cbor2.loads(document)[2])["public_key"])
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def released(world: World, request: bytes, plaintext: bytes = DATA_KEY) -> dict[str, Any]:
    """What a genuine KMS would answer."""
    envelope = base64.b64encode(seal(plaintext, attested_key(request))).decode()
    return {"KeyId": world.key_arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "CiphertextForRecipient": envelope}


def ok(answer: dict[str, Any]) -> bytes:
    """The HTTP form of a successful answer."""
    return http(200, json.dumps(answer).encode())


def test_the_scripted_kms_is_believed_when_it_tells_the_truth(world: World) -> None:
    """The twin of the lies below: without one, the same script succeeds."""
    assert DATA_KEY == lying(world, lambda request: ok(released(world, request))).decrypt(b"blob", CONTEXT)


OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()

LIES: dict[str, tuple[Callable[[World, bytes], dict[str, Any]], BootFailure]] = {
    "another key's ARN": (lambda w, r: {**released(w, r), "KeyId": w.key_arn[:-1] + "x"}, BootFailure.KMS_WRONG_KEY),
    "an alias": (lambda w, r: {**released(w, r), "KeyId": "alias/model"}, BootFailure.KMS_WRONG_KEY),
    "no key": (lambda w, r: {k: v for k, v in released(w, r).items() if k != "KeyId"}, BootFailure.KMS_WRONG_KEY),
    "another algorithm": (lambda w, r: {**released(w, r), "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, BootFailure.KMS_BAD_ANSWER),
    "a plaintext": (lambda w, r: {**released(w, r), "Plaintext": base64.b64encode(DATA_KEY).decode()}, BootFailure.KMS_BAD_ANSWER),
    "no envelope": (lambda w, r: {**released(w, r), "CiphertextForRecipient": None}, BootFailure.KMS_BAD_ANSWER),
    "an envelope for another": (
        lambda w, r: {**released(w, r), "CiphertextForRecipient": base64.b64encode(seal(DATA_KEY, OTHER_KEY)).decode()},
        BootFailure.KMS_BAD_ANSWER,
    ),
    "a short data key": (lambda w, r: released(w, r, DATA_KEY[:31]), BootFailure.KMS_BAD_ANSWER),
    "a long data key": (lambda w, r: released(w, r, DATA_KEY + b"x"), BootFailure.KMS_BAD_ANSWER),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_answer_is_refused(world: World, lie: str) -> None:
    """Everything about an answer is checked, whoever gave it."""
    make, expected = LIES[lie]
    assert expected == failure(lying(world, lambda request: ok(make(world, request))))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(200, b"no JSON"), BootFailure.KMS_WRONG_KEY),
        (http(200, b"[]"), BootFailure.KMS_BAD_ANSWER),
        (http(200, b'"text"'), BootFailure.KMS_BAD_ANSWER),
        (http(200, b'{"CiphertextForRecipient": 7}'), BootFailure.KMS_BAD_ANSWER),
        (http(200, b'{"CiphertextForRecipient": "\xff"}'), BootFailure.KMS_BAD_ANSWER),
        (http(200, b"[" * 30_000), BootFailure.KMS_BAD_ANSWER),
        (http(200, b""), BootFailure.KMS_WRONG_KEY),
        (http(200, b" " * (kms.ANSWER_MAX + 1)), BootFailure.KMS_UNREACHABLE),
        (b"\0" * 1000, BootFailure.KMS_UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500, BootFailure.KMS_UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", BootFailure.KMS_UNREACHABLE),
        (http(307, b"", headers="Location: https://example.com/\r\n"), BootFailure.KMS_REFUSED),
        (http(500, b"<html>"), BootFailure.KMS_UNREACHABLE),
        (http(400, b"{}"), BootFailure.KMS_REFUSED),
    ],
)
def test_whatever_is_answered_is_one_failure(world: World, answer: bytes, expected: BootFailure) -> None:
    """Any bytes in place of an answer end in one boot failure, never in another exception."""
    assert expected == failure(lying(world, lambda _: answer))


ERRORS = {
    "AccessDeniedException": BootFailure.KMS_REFUSED,
    "DisabledException": BootFailure.KMS_REFUSED,
    "NotFoundException": BootFailure.KMS_REFUSED,
    "KMSInvalidStateException": BootFailure.KMS_REFUSED,
    "SomethingNew": BootFailure.KMS_REFUSED,
    "IncorrectKeyException": BootFailure.KMS_WRONG_KEY,
    "InvalidCiphertextException": BootFailure.KMS_WRONG_CONTEXT,
    "ValidationException": BootFailure.KMS_STALE_EVIDENCE,
    "ThrottlingException": BootFailure.KMS_THROTTLED,
    "LimitExceededException": BootFailure.KMS_THROTTLED,
    "KMSInternalException": BootFailure.KMS_UNREACHABLE,
    "DependencyTimeoutException": BootFailure.KMS_UNREACHABLE,
    "KeyUnavailableException": BootFailure.KMS_UNREACHABLE,
    "ExpiredTokenException": BootFailure.CREDENTIALS_EXPIRED,
    "UnrecognizedClientException": BootFailure.CREDENTIALS_EXPIRED,
    "InvalidSignatureException": BootFailure.CREDENTIALS_EXPIRED,
}


@pytest.mark.parametrize("code", ERRORS)
def test_error_codes_map_to_boot_failures(world: World, code: str) -> None:
    """Each code of KMS is one boot failure, after exactly one request."""
    asked = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return http(400, json.dumps({"__type": code, "message": "text that must not leave"}).encode())

    assert ERRORS[code] == failure(lying(world, answer))
    assert len(asked) == 1


# --- credentials


def test_no_credentials(world: World) -> None:
    """A parent that hands over no credentials is asked again later."""

    def none() -> AwsCredentials:
        raise OSError("no")

    assert BootFailure.CREDENTIALS_UNAVAILABLE == failure(world.client(credentials=none))
    assert BOOT_TABLE[BootFailure.CREDENTIALS_UNAVAILABLE].retried


def test_credentials_expired_by_trusted_time(world: World) -> None:
    """Credentials that trusted time calls expired are refreshed, and refused where the fresh ones are expired too."""
    client = world.client(now=lambda: datetime.now(UTC) + timedelta(days=1))
    assert BootFailure.CREDENTIALS_EXPIRED == failure(client, world.wrap(DATA_KEY))


def test_credentials_that_kms_calls_expired_are_asked_anew(world: World) -> None:
    """After ExpiredToken the next attempt begins with new credentials, whatever expiry the old ones claimed."""
    old = issued(world.state, PARENT, expires=datetime.now(UTC) - timedelta(hours=1))
    handed: Iterator[AwsCredentials] = iter((old, issued(world.state, PARENT)))
    client = world.client(credentials=lambda: next(handed))
    blob = world.wrap(DATA_KEY)
    assert BootFailure.CREDENTIALS_EXPIRED == failure(client, blob)
    assert DATA_KEY == client.decrypt(blob, CONTEXT)


def test_refresh_that_fails_is_unavailable(world: World) -> None:
    """Credentials that lapse and cannot be had again are unavailable, not a crash."""
    first = iter((issued(world.state, PARENT),))
    client = world.client(credentials=lambda: next(first), now=lambda: datetime.now(UTC) + timedelta(minutes=55))
    assert BootFailure.CREDENTIALS_UNAVAILABLE == failure(client, world.wrap(DATA_KEY))


def test_the_environment_is_no_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment changes credentials, endpoint, proxy or trust."""
    blob = world.wrap(DATA_KEY)
    strange = accounts.issue(world.state, f"arn:aws:iam::{OWNER_ACCOUNT}:user/eve")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", strange.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", strange.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "https://example.com")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://example.com")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert DATA_KEY == world.client().decrypt(blob, CONTEXT)
    assert PARENT.rsplit("/", 1)[1] in json.loads(world.log[-1])["userIdentity"]["arn"]
