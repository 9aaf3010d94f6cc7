"""The caller's key and credential as files."""

import base64
from contextlib import suppress
import os
from pathlib import Path
import stat
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cloister import IdentityError, load_identity
from cloister.identity import read_key, write_key
from wire import credential
from wire.credential import Credential
from wire.manifest_values import Quota

PASSPHRASE = b"some random words here"


def issued(key: Ed25519PrivateKey) -> bytes:
    now = int(time.time())
    return credential.issue(
        Credential(
            issuer="i",
            subject="s",
            audience="d",
            issued=now,
            not_before=now,
            expires=now + 60,
            key=key.public_key().public_bytes_raw(),
            models=("m",),
            quota=Quota(requests=1, bytes=1),
        ),
        Ed25519PrivateKey.generate(),
    )


def pem(data: bytes) -> bytes:
    """These bytes where a private key is expected."""
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(data) + b"-----END PRIVATE KEY-----\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    write_key(tmp_path / "key.pem", key)
    (tmp_path / "credential").write_bytes(issued(key))
    return tmp_path / "credential", tmp_path / "key.pem"


def test_round_trip(files: tuple[Path, Path]) -> None:
    """What was written is the identity that is loaded; the key file is its user's alone."""
    identity = load_identity(*files)
    assert files[0].read_bytes() == identity.credential
    assert 0o600 == stat.S_IMODE(files[1].stat().st_mode)
    assert "PRIVATE" not in repr(identity) and identity.key.private_bytes_raw().hex() not in repr(identity)


def test_never_replaces_a_key(files: tuple[Path, Path]) -> None:
    """A key file that is there is not written over."""
    with pytest.raises(FileExistsError):
        write_key(files[1], Ed25519PrivateKey.generate())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_open_to_others(files: tuple[Path, Path], mode: int) -> None:
    """A key file that anyone else may touch is refused."""
    files[1].chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_identity(*files)


def test_not_a_file(tmp_path: Path) -> None:
    """A pipe is refused without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError):
        read_key(tmp_path / "pipe")


def test_another_key(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A credential for another key is refused here, not first by the enclave."""
    write_key(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    with pytest.raises(IdentityError, match="another key"):
        load_identity(files[0], tmp_path / "other.pem")


@pytest.mark.parametrize("data", [b"", b"\xa0", bytes(2000)])
def test_no_credential(files: tuple[Path, Path], data: bytes) -> None:
    """A file that holds no credential is refused."""
    files[0].write_bytes(data)
    with pytest.raises(IdentityError):
        load_identity(*files)


def test_encrypted(tmp_path: Path) -> None:
    """An encrypted key opens with its passphrase and with nothing else."""
    key, path = Ed25519PrivateKey.generate(), tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE)))
    path.chmod(0o600)
    assert key.private_bytes_raw() == read_key(path, PASSPHRASE).private_bytes_raw()
    for wrong in (None, b"other words"):
        with pytest.raises(IdentityError):
            read_key(path, wrong)


def test_another_kind_of_key(tmp_path: Path) -> None:
    """A key that does not sign is refused."""
    path = tmp_path / "key.pem"
    path.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="Ed25519"):
        read_key(path)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(pem))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes in a key file: a key, or our error."""
    path = tmp_path_factory.getbasetemp() / "any.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    with suppress(IdentityError):
        assert isinstance(read_key(path), Ed25519PrivateKey)
