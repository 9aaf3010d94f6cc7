"""Whom a manifest lets answer for KMS: the host name of a key's Region, and Amazon's own root certificates.

The certificates are public and come with botocore; which of its many are Amazon's is pinned here by SHA-256
(https://www.amazontrust.com/repository/).
"""

import base64
import hashlib
from pathlib import Path

import botocore

from owner.errors import OwnerError

ROOTS = frozenset(
    (
        "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",  # Amazon Root CA 1
        "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",  # Amazon Root CA 2
        "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",  # Amazon Root CA 3
        "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",  # Amazon Root CA 4
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",  # Starfield Services Root CA - G2
    )
)
_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_END = b"-----END CERTIFICATE-----\n"


def bundle(pem: bytes | None = None) -> bytes:
    """Amazon's roots among the certificates of `pem` (default: botocore's), as PEM. Raises: OwnerError where one is missing."""
    if pem is None:
        pem = (Path(botocore.__file__).parent / "cacert.pem").read_bytes()
    found: dict[str, bytes] = {}
    for block in pem.split(_END)[:-1]:
        body = block.rpartition(_BEGIN)[2]
        digest = _digest(body)
        if digest in ROOTS:
            found[digest] = _BEGIN + body + _END
    if found.keys() != ROOTS:
        raise OwnerError("not all of Amazon's root certificates are among those of this botocore; give a bundle of your own")
    return b"".join(found[digest] for digest in sorted(found))


def _digest(body: bytes) -> str:
    """SHA-256 of the DER, whose content is not looked at: some of botocore's certificates are malformed."""
    try:
        return hashlib.sha256(base64.b64decode(body)).hexdigest()
    except ValueError:
        return ""


def host(key_arn: str) -> str:
    """The host name of KMS in the Region that a key's ARN names."""
    return f"kms.{key_arn.split(':')[3]}.amazonaws.com"
