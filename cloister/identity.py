"""The caller's identity in files: a credential, and the private key that it names, as PEM that its user alone can read.

The key may stand in the clear: it signs sessions, its credential ends after hours or days, and programs start without a
person. One that others may read is refused rather than used with a warning.
"""

import os
from pathlib import Path
import stat

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cloister.errors import IdentityError
from cloister.session import CallerIdentity
from wire import credential as credentials
from wire.handshake import CREDENTIAL_MAX

KEY_FILE_MAX = 16 * 1024


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a new key file, mode 0600. Raises: FileExistsError, never replacing a key; OSError."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def read_private(path: Path) -> bytes:
    """A file that is its user's alone, at most 16 KiB of it. Raises: IdentityError where others may read it, OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"{path} is no regular file")
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise IdentityError(f"{path} is open to others, or another user's; run: chmod 600 {path}")
        return file.read(KEY_FILE_MAX)


def read_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """The key of a PKCS #8 PEM file, with `passphrase` where it is encrypted. Raises: IdentityError, OSError."""
    data = read_private(path)
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} is no private key in PEM, or its passphrase is missing or wrong") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path} holds another kind of key than Ed25519; run: cloister caller-key new")
    return key


def load_identity(credential: str | os.PathLike[str], key: str | os.PathLike[str], *, passphrase: bytes | None = None) -> CallerIdentity:
    """The identity in a credential file and a key file. Raises: IdentityError, also where they do not belong together; OSError.

    Not checked: the issuer's signature and the validity, which are the enclave's to judge.
    """
    private = read_key(Path(key), passphrase)
    with Path(credential).open("rb") as file:
        data = file.read(CREDENTIAL_MAX + 1)
    try:
        named = credentials.parse(data).key
    except credentials.CredentialError:
        raise IdentityError(f"{credential} is no credential") from None
    if named != private.public_key().public_bytes_raw():
        raise IdentityError(f"{credential} was issued for another key than {key}")
    return CallerIdentity(credential=data, key=private)
