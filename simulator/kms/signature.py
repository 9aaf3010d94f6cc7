"""AWS Signature Version 4, verified: who signed this request, within five minutes of our clock.

Source: IAM User Guide, "AWS Signature Version 4 for API requests"; KMS answers a skew of more than five minutes with
InvalidSignatureException.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
import hashlib
import hmac
import re

from simulator.kms.errors import ErrorCode, KmsError

SKEW = timedelta(minutes=5)
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[A-Za-z0-9]{4,128})/(?P<date>[0-9]{8})/(?P<region>[a-z0-9-]{1,40})/(?P<service>[a-z0-9-]{1,40})"
    r"/aws4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]{1,1024}), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An Authorization header, parsed and not verified."""

    access_key_id: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str


def parse(headers: Mapping[str, str]) -> Signed:
    """Headers have lower-case names. Raises: KmsError."""
    text = headers.get("authorization")
    if text is None:
        raise KmsError(ErrorCode.MISSING_TOKEN, "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(text)
    if match is None:
        raise KmsError(ErrorCode.INCOMPLETE_SIGNATURE, "Authorization header is not one of AWS4-HMAC-SHA256")
    return Signed(
        access_key_id=match["key"],
        date=match["date"],
        region=match["region"],
        service=match["service"],
        headers=tuple(match["headers"].split(";")),
        signature=match["signature"],
    )


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def compute(signed: Signed, headers: Mapping[str, str], body: bytes, secret: str) -> str:
    """The signature that the holder of `secret` puts on `POST /` with these headers and this body."""
    canonical = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed.headers)
    request = f"POST\n/\n\n{canonical}\n{';'.join(signed.headers)}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{signed.date}/{signed.region}/{signed.service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + secret.encode()
    for part in (signed.date, signed.region, signed.service, "aws4_request"):
        key = _hmac(key, part)
    return _hmac(key, to_sign).hex()


def verify(signed: Signed, headers: Mapping[str, str], body: bytes, *, secret: str, region: str, now: datetime) -> None:
    """Raises: KmsError for another scope, a date five minutes off, headers left unsigned, or a signature that differs."""
    if (signed.service, signed.region) != ("kms", region):
        raise KmsError(ErrorCode.INVALID_SIGNATURE, f"Credential should be scoped to a valid region and service: {region}, kms")
    if not {"host", "x-amz-date", "x-amz-target"} <= set(signed.headers) or ("x-amz-security-token" in headers) != (
        "x-amz-security-token" in signed.headers
    ):
        raise KmsError(ErrorCode.INVALID_SIGNATURE, "host and every x-amz- header must be signed")
    try:
        date = datetime.strptime(headers.get("x-amz-date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise KmsError(ErrorCode.INCOMPLETE_SIGNATURE, "X-Amz-Date is not of the form 20260101T000000Z") from None
    if signed.date != date.strftime("%Y%m%d") or abs(now - date) > SKEW:
        raise KmsError(
            ErrorCode.INVALID_SIGNATURE,
            f"Signature expired or not yet current: {date:%Y%m%dT%H%M%SZ} is more than 5 min. from {now:%Y%m%dT%H%M%SZ}",
        )
    if not hmac.compare_digest(signed.signature, compute(signed, headers, body, secret)):
        raise KmsError(ErrorCode.INVALID_SIGNATURE, "The request signature we calculated does not match the signature you provided.")
