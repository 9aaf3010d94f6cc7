"""AWS as the parent meets it: the instance role's credentials by IMDSv2, handed to the enclave and kept in memory alone."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
import http.client
import json
import logging
import time
from typing import Protocol

from parent.errors import CredentialsError
from wire.errors import MalformedFeedError
from wire.feed import CREDENTIALS_MAX, AwsCredentials, decode_credentials

IMDS = ("169.254.169.254", 80)
IMDS_SECONDS = 2.0
ANSWER_MAX = 16 * 1024
TOKEN_SECONDS = 60
FRESH_SECONDS = 300  # fetched again once fewer than these are left
_ROLES = "/latest/meta-data/iam/security-credentials/"

log = logging.getLogger(__name__)


class CredentialSource(Protocol):
    """Where role credentials come from."""

    async def fetch(self) -> AwsCredentials:
        """Credentials that hold for a while yet. Raises: CredentialsError."""
        ...


class FileSource:
    """A JSON file with the four fields of AwsCredentials, read anew each time."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def fetch(self) -> AwsCredentials:
        """As the protocol says."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> AwsCredentials:
        try:
            with open(self._path, "rb") as file:
                return decode_credentials(file.read(CREDENTIALS_MAX + 1))
        except OSError as error:
            raise CredentialsError(f"credentials file: {error.strerror}") from None
        except MalformedFeedError as error:
            raise CredentialsError(f"credentials file: {error}") from None


class ImdsSource:
    """The instance role's credentials, asked for again from five minutes before they expire. IMDSv2 alone: a token first.

    Where the metadata service then gives none, those at hand are good as long as they hold.
    """

    def __init__(self, *, address: tuple[str, int] = IMDS, now: Callable[[], float] = time.time) -> None:
        self._address = address
        self._now = now
        self._cached: AwsCredentials | None = None
        self._lock = asyncio.Lock()

    async def fetch(self) -> AwsCredentials:
        """As the protocol says."""
        async with self._lock:
            if self._cached is None or self._cached.expires - self._now() < FRESH_SECONDS:
                try:
                    self._cached = await asyncio.to_thread(self._ask)
                except CredentialsError as error:
                    if self._cached is None or self._cached.expires <= self._now():
                        raise
                    log.warning("%s; the credentials at hand hold for another %d s", error, self._cached.expires - self._now())
            return self._cached

    def _ask(self) -> AwsCredentials:
        try:
            token = self._request("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
            headers = {"X-aws-ec2-metadata-token": token}
            role = self._request("GET", _ROLES, headers).partition("\n")[0].strip()
            if not role or "/" in role:
                raise CredentialsError("the instance has no role; attach an instance profile")
            return _parse(self._request("GET", _ROLES + role, headers))
        except (OSError, http.client.HTTPException) as error:
            raise CredentialsError(f"instance metadata: {type(error).__name__}") from None

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        connection = http.client.HTTPConnection(*self._address, timeout=IMDS_SECONDS)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(ANSWER_MAX)
        finally:
            connection.close()
        if answer.status == 404 and path == _ROLES:
            raise CredentialsError("the instance has no role; attach an instance profile")
        if answer.status != 200 or not body.isascii():
            raise CredentialsError(f"instance metadata answers status {answer.status}")
        text = body.decode("ascii")
        if method == "PUT" and not text.isprintable():  # it becomes a header
            raise CredentialsError("instance metadata gives no usable token")
        return text


def _parse(text: str) -> AwsCredentials:
    """The metadata service's JSON; its field names are AWS's."""
    try:
        value = json.loads(text)
        expires = datetime.strptime(value["Expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        fields = {
            "access_key_id": value["AccessKeyId"],
            "secret_access_key": value["SecretAccessKey"],
            "session_token": value["Token"],
            "expires": int(expires.timestamp()),
        }
        return decode_credentials(json.dumps(fields).encode())
    except (ValueError, KeyError, TypeError, RecursionError, MalformedFeedError):
        raise CredentialsError("instance metadata answers no credentials") from None
