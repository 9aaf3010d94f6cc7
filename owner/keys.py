"""Owner and issuer keys as files: Ed25519 in encrypted PKCS #8 PEM, readable by their owner alone.

Whoever reads such a file in the clear signs manifests; so an unencrypted key, or one that others may read, is refused
rather than used with a warning.
"""

import os
from pathlib import Path
import stat

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from owner.errors import KeyFileError
from wire.keys import WeakKeyError, load_public

PASSPHRASE_MIN = 12  # bytes; the key derivation of PKCS #8 alone does not save a short one
FILE_MAX = 16 * 1024
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def _check_passphrase(passphrase: bytes) -> None:
    if len(passphrase) < PASSPHRASE_MIN:
        raise KeyFileError(f"the passphrase is shorter than {PASSPHRASE_MIN} bytes; take several random words")


def write_private(path: Path, key: Ed25519PrivateKey, passphrase: bytes) -> None:
    """Write a new key file, mode 0600. Raises: KeyFileError for a short passphrase; FileExistsError, never replacing a key; OSError."""
    _check_passphrase(passphrase)
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def read_secret(path: Path, limit: int = FILE_MAX) -> bytes:
    """The bytes of a small file that is regular, the user's own and closed to everyone else. Raises: KeyFileError, OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is no regular file")
        if status.st_uid != os.geteuid():
            raise KeyFileError(f"{path} belongs to another user")
        if status.st_mode & 0o077:
            raise KeyFileError(f"{path} is open to others; run: chmod 600 {path}")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise KeyFileError(f"{path} is larger than {limit} bytes")
    return data


def read_private(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """The key of an encrypted file. Raises: KeyFileError, OSError."""
    data = read_secret(path)
    if not data.startswith(_ENCRYPTED):
        raise KeyFileError(f"{path} is no encrypted private key in PEM; run: openssl pkcs8 -topk8 -in OLD -out {path}")
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} does not open: wrong passphrase, or damaged") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds another kind of key than Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The public key as PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_public(data: bytes) -> bytes:
    """The raw key from PEM or from 64 hex digits. Raises: KeyFileError, also for a weak one."""
    try:
        if data.lstrip().startswith(b"-----"):
            key = load_pem_public_key(data)
            raw = key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else b""
        else:
            raw = bytes.fromhex(data.decode("ascii").strip())
        load_public(raw)
    except (ValueError, UnsupportedAlgorithm, WeakKeyError):
        raise KeyFileError("no Ed25519 public key, in PEM or as 64 hex digits") from None
    return raw
