"""Owner key files: encrypted, one's own, closed to others, and nothing else."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
import pytest

from owner import amazon, keys
from owner.errors import KeyFileError, OwnerError

PASSPHRASE = b"several random words"
KEY = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file."""
    path = tmp_path / "owner.pem"
    keys.write_private(path, KEY, PASSPHRASE)
    return path


def test_round_trip(file: Path) -> None:
    """What is written is read back, from a file that only its owner may read and that holds no key in the clear."""
    assert KEY.private_bytes_raw() == keys.read_private(file, PASSPHRASE).private_bytes_raw()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_a_key_is_never_replaced(file: Path) -> None:
    """Writing where something is fails."""
    with pytest.raises(FileExistsError):
        keys.write_private(file, KEY, PASSPHRASE)


@pytest.mark.parametrize("passphrase", [b"", b"eleven byte"])
def test_short_passphrases_are_refused(tmp_path: Path, passphrase: bytes) -> None:
    """A short passphrase writes no file."""
    with pytest.raises(KeyFileError):
        keys.write_private(tmp_path / "k", KEY, passphrase)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o777])
def test_files_open_to_others_are_refused(file: Path, mode: int) -> None:
    """Any permission for group or others refuses the file."""
    file.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.read_private(file, PASSPHRASE)


def test_files_of_others_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another user could exchange is refused."""
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(KeyFileError, match="another user"):
        keys.read_private(file, PASSPHRASE)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe is no key file, and reading it does not wait."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="no regular file"):
        keys.read_private(tmp_path / "pipe", PASSPHRASE)


def written(path: Path, data: bytes) -> Path:
    """A file with mode 0600."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_other_contents_are_refused(tmp_path: Path, file: Path) -> None:
    """Unencrypted keys, other kinds of key, wrong passphrases, damage and large files are refused."""
    plain = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    good = file.read_bytes()
    for data in (plain, other, good[:100], b"", b"text", good + b"\n" * keys.FILE_MAX):
        with pytest.raises(KeyFileError):
            keys.read_private(written(tmp_path / "other", data), PASSPHRASE)
    with pytest.raises(KeyFileError, match="no encrypted private key"):
        keys.read_private(written(tmp_path / "other", plain), PASSPHRASE)
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        keys.read_private(file, PASSPHRASE + b".")


def test_public_keys_are_pem_or_hex() -> None:
    """Both forms give the raw key; weak keys and other kinds are refused."""
    raw = KEY.public_key().public_bytes_raw()
    assert raw == keys.parse_public(keys.public_pem(KEY.public_key())) == keys.parse_public(raw.hex().encode() + b"\n")
    for data in (b"01" + b"00" * 31, b"00" * 31, b"zz" * 32, b"-----BEGIN PUBLIC KEY-----\n", b"\xff"):
        with pytest.raises(KeyFileError):
            keys.parse_public(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_public_key_or_our_error(data: bytes) -> None:
    """Any bytes: a key of 32 bytes, or our error."""
    try:
        assert len(keys.parse_public(data)) == 32
    except KeyFileError:
        return


def test_amazons_roots() -> None:
    """Botocore's bundle gives exactly the five pinned roots; a bundle without one of them gives none."""
    bundle = amazon.bundle()
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") == 5
    assert bundle == amazon.bundle(b"# a comment\n" + bundle)
    for broken in (b"", bundle[:-500], bundle.replace(b"A", b"B", 1), b"no PEM"):
        with pytest.raises(OwnerError):
            amazon.bundle(broken)
    assert amazon.host("arn:aws:kms:eu-west-1:111122223333:key/x") == "kms.eu-west-1.amazonaws.com"
