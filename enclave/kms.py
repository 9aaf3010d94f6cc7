"""Ask KMS for a data key from inside the enclave: unmodified boto3, TLS that ends here, the answer sealed to a key made here.

Nothing of an answer is believed for coming from KMS: the caller of `unwrap` still compares the artifact's pinned key
commitment. Credentials, and the stream itself, are the parent's and untrusted.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
import http.client
import logging
import ssl
from typing import Any, cast

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import CredentialResolver, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
import botocore.session
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave import tls
from enclave.cms import CmsError, open_envelope
from enclave.dial import Dial, DialError
from enclave.errors import BootError
from enclave.nsm import Nsm, NsmError
from wire.errors import BootFailure
from wire.evidence import KMS_USER_DATA
from wire.feed import AwsCredentials

ANSWER_SECONDS = 30.0  # connect, handshake, request and answer together
ANSWER_MAX = 64 * 1024
DATA_KEY_BYTES = 32
RSA_BITS = 2048  # the only size KMS answers to
KEY_ALGORITHM = "SYMMETRIC_DEFAULT"
RECIPIENT_ALGORITHM = "RSAES_OAEP_SHA_256"

_log = logging.getLogger(__name__)

# kms.md: by code, whatever the status. What is in none of these is a refusal.
_CODES: dict[str, BootFailure] = {
    **dict.fromkeys(
        ("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException"),
        BootFailure.KMS_THROTTLED,
    ),
    **dict.fromkeys(
        (
            "ExpiredTokenException",
            "ExpiredToken",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "RequestExpired",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ),
        BootFailure.CREDENTIALS_EXPIRED,
    ),
    **dict.fromkeys(
        ("DependencyTimeoutException", "KeyUnavailableException", "KMSInternalException", "ServiceUnavailableException", "InternalFailure"),
        BootFailure.KMS_UNREACHABLE,
    ),
    "IncorrectKeyException": BootFailure.KMS_WRONG_KEY,
    "InvalidCiphertextException": BootFailure.KMS_WRONG_CONTEXT,
    "ValidationException": BootFailure.KMS_STALE_EVIDENCE,
}


class KmsFailure(BootError):
    """No data key; the row of `boot_failure` says whether another attempt, with fresh evidence, makes sense."""


def failure_of(code: str, status: int) -> BootFailure:
    """What an error answer of KMS, by its code and HTTP status, means for the boot."""
    if code in _CODES:
        return _CODES[code]
    return BootFailure.KMS_UNREACHABLE if status >= 500 else BootFailure.KMS_REFUSED


class _Raw:
    """The part of a urllib3 response that botocore reads."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> tuple[bytes]:
        return (self._body,)


class _Transport:
    """The `before-send.kms` hook: sends botocore's prepared request over our own TLS and hands back the answer.

    botocore wraps what a hook raises in various ways, so the reason is kept in `failure`.
    """

    def __init__(self, dial: Dial, context: ssl.SSLContext, host: str) -> None:
        self._dial = dial
        self._context = context
        self._host = host
        self.failure: BootFailure | None = None
        self.group: int | None = None

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        try:
            return self._exchange(request)
        except ssl.SSLCertVerificationError:
            self.failure = BootFailure.KMS_UNTRUSTED_HOST
        except (OSError, DialError, http.client.HTTPException):
            self.failure = BootFailure.KMS_UNREACHABLE
        raise HTTPClientError(error="no answer")

    def _exchange(self, request: AWSPreparedRequest) -> AWSResponse:
        stream = self._dial()
        try:
            channel = tls.TlsStream(stream, self._context, self._host, seconds=ANSWER_SECONDS)
            self.group = channel.group
            connection = http.client.HTTPConnection(self._host)
            connection.auto_open = 0
            connection.sock = channel
            headers = {name: value.decode("ascii") if isinstance(value, bytes) else value for name, value in request.headers.items()}
            body = request.body if isinstance(request.body, bytes) else b""
            connection.request("POST", "/", body=body, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
            answer = response.read(ANSWER_MAX + 1)
        finally:
            stream.close()
        if len(answer) > ANSWER_MAX:
            raise http.client.HTTPException("the answer exceeds its limit")
        return AWSResponse(request.url, response.status, HTTPHeaders.from_pairs(response.getheaders()), _Raw(answer))


class _CredentialsMissing(Exception):
    """The parent hands over none."""


def _metadata(credentials: AwsCredentials) -> dict[str, str]:
    return {
        "access_key": credentials.access_key_id,
        "secret_key": credentials.secret_access_key,
        "token": credentials.session_token,
        "expiry_time": datetime.fromtimestamp(credentials.expires, UTC).isoformat(),
    }


def _refreshable(source: Callable[[], AwsCredentials], now: Callable[[], datetime]) -> RefreshableCredentials:
    first = source()
    return RefreshableCredentials(
        access_key=first.access_key_id,
        secret_key=first.secret_access_key,
        token=first.session_token,
        expiry_time=datetime.fromtimestamp(first.expires, UTC),
        refresh_using=lambda: _metadata(source()),
        method="parent",
        time_fetcher=now,
    )


class KmsClient:
    """Decrypts data keys for one boot: one fresh RSA-2048 key, dropped at `close`; a fresh document for every request.

    `credentials` may raise anything for credentials that cannot be had. `now` is trusted time, by which credentials expire.
    Requests are signed and certificates judged by the machine's clock, which boot has set. One thread at a time.
    """

    def __init__(
        self,
        *,
        key_arn: str,
        host: str,
        ca_pem: bytes,
        region: str,
        nsm: Nsm,
        dial: Dial,
        credentials: Callable[[], AwsCredentials],
        now: Callable[[], datetime],
    ) -> None:
        """Raises: KmsFailure(KMS_UNTRUSTED_HOST) for a CA bundle that does not parse."""
        self._key_arn, self._host, self._region = key_arn, host, region
        self._nsm, self._now = nsm, now
        self._credentials_source = credentials
        try:
            self._transport = _Transport(dial, tls.context(ca_pem), host)
        except ValueError:
            raise KmsFailure(BootFailure.KMS_UNTRUSTED_HOST) from None
        self._key: rsa.RSAPrivateKey | None = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        self._client: tuple[Any, RefreshableCredentials] | None = None

    @property
    def tls_group(self) -> int | None:
        """The TLS group of the last connection; None where there was none or it could not be read."""
        return self._transport.group

    def close(self) -> None:
        """Drop the key; answers sealed to it are lost for good."""
        self._key = None
        self._client = None

    def decrypt(self, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """The 32-byte data key, from one request. Raises: KmsFailure; RuntimeError after `close`."""
        if self._key is None:
            raise RuntimeError("the client is closed")
        try:
            return self._opened(self._answer(self._key, ciphertext, context), self._key)
        except KmsFailure as error:
            if error.boot_failure in (BootFailure.CREDENTIALS_EXPIRED, BootFailure.CREDENTIALS_UNAVAILABLE):
                self._client = None  # the next attempt begins with credentials asked anew
            raise

    def _answer(self, key: rsa.RSAPrivateKey, ciphertext: bytes, context: Mapping[str, str]) -> Mapping[str, object]:
        public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            document = self._nsm.attest(user_data=KMS_USER_DATA, nonce=None, public_key=public_key)
        except NsmError:
            raise KmsFailure(BootFailure.NSM_UNAVAILABLE) from None
        client = self._connected()
        self._transport.failure = None
        try:
            answer: Mapping[str, object] = client.decrypt(
                KeyId=self._key_arn,
                CiphertextBlob=ciphertext,
                EncryptionContext=dict(context),
                EncryptionAlgorithm=KEY_ALGORITHM,
                Recipient={"KeyEncryptionAlgorithm": RECIPIENT_ALGORITHM, "AttestationDocument": document},
            )
        except ClientError as error:
            metadata = error.response.get("ResponseMetadata", {})
            raise KmsFailure(failure_of(error.response.get("Error", {}).get("Code", ""), metadata.get("HTTPStatusCode", 0))) from None
        except BotoCoreError:
            raise KmsFailure(self._transport.failure or BootFailure.KMS_BAD_ANSWER) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # botocore's parser on what is no answer of KMS
            raise KmsFailure(BootFailure.KMS_BAD_ANSWER) from None
        return answer

    def _opened(self, answer: Mapping[str, object], key: rsa.RSAPrivateKey) -> bytes:
        envelope = answer.get("CiphertextForRecipient")
        if answer.get("KeyId") != self._key_arn:
            raise KmsFailure(BootFailure.KMS_WRONG_KEY)
        if answer.get("EncryptionAlgorithm") != KEY_ALGORITHM or answer.get("Plaintext") or not isinstance(envelope, bytes):
            raise KmsFailure(BootFailure.KMS_BAD_ANSWER)
        try:
            data_key = open_envelope(envelope, key)
        except CmsError:
            raise KmsFailure(BootFailure.KMS_BAD_ANSWER) from None
        if len(data_key) != DATA_KEY_BYTES:
            raise KmsFailure(BootFailure.KMS_BAD_ANSWER)
        if self._transport.group != tls.X25519MLKEM768:
            _log.warning("the TLS connection to KMS is not post-quantum: group %s", self._transport.group)
        return data_key

    def _ask_credentials(self) -> AwsCredentials:
        try:
            return self._credentials_source()
        except Exception:  # noqa: BLE001 - whatever kept the parent's credentials away, none are there
            raise _CredentialsMissing from None

    def _connected(self) -> Any:
        """The boto3 client, with credentials that have not expired by trusted time."""
        try:
            if self._client is None:
                credentials = _refreshable(self._ask_credentials, self._now)
                self._client = self._build(credentials), credentials
            client, credentials = self._client
            credentials.get_frozen_credentials()
        except _CredentialsMissing:
            raise KmsFailure(BootFailure.CREDENTIALS_UNAVAILABLE) from None
        except RuntimeError:  # botocore: "Credentials were refreshed, but the refreshed credentials are still expired."
            raise KmsFailure(BootFailure.CREDENTIALS_EXPIRED) from None
        return client

    def _build(self, credentials: RefreshableCredentials) -> Any:
        """A boto3 KMS client with these credentials alone and no other way out than our transport."""
        import boto3  # noqa: PLC0415 - 150 ms and 30 MB that only a boot pays

        session = botocore.session.Session()
        session.register_component("credential_provider", CredentialResolver([]))
        session._credentials = credentials  # type: ignore[attr-defined] # the one way in without a provider chain
        client = boto3.session.Session(botocore_session=session).client(
            "kms",
            region_name=self._region,
            endpoint_url=f"https://{self._host}",
            # One attempt: a second one wants fresh evidence, so that the repetition is the boot's.
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, proxies={}, signature_version="v4"),
        )
        client.meta.events.register_first("before-send.kms", cast("Callable[..., None]", self._transport))
        return client


def unwrap(
    *,
    part_header_edk: bytes,
    key_arn: str,
    context: Mapping[str, str],
    nsm: Nsm,
    dial: Dial,
    host: str,
    ca_pem: bytes,
    credentials: Callable[[], AwsCredentials],
    now: Callable[[], datetime],
    region: str,
) -> bytes:
    """One attempt to decrypt one data key with a client, and an RSA key, of its own. Raises: KmsFailure."""
    client = KmsClient(key_arn=key_arn, host=host, ca_pem=ca_pem, region=region, nsm=nsm, dial=dial, credentials=credentials, now=now)
    try:
        return client.decrypt(part_header_edk, context)
    finally:
        client.close()
