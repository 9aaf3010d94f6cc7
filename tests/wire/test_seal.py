"""HPKE of the opening: one use, one error, malformed keys told apart from nothing."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from wire.seal import SealError, SessionKeyPair, seal

PLAIN = bytes(4096)


def test_sealed_opening_has_the_protocols_size() -> None:
    """enc 1,120 + 4,096 + 16 bytes, and the public key 1,216."""
    pair = SessionKeyPair()
    assert len(pair.public) == 1216
    sealed = seal(pair.public, PLAIN, b"info")
    assert len(sealed) == 1120 + 4096 + 16
    assert pair.open(sealed, b"info") == PLAIN


def test_key_opens_once() -> None:
    """A second opening with the same key is refused, even of the same genuine bytes."""
    pair = SessionKeyPair()
    sealed = seal(pair.public, PLAIN, b"info")
    pair.open(sealed, b"info")
    with pytest.raises(SealError):
        pair.open(sealed, b"info")


def test_key_is_gone_after_a_failed_opening() -> None:
    """The key is used up whatever the outcome."""
    pair = SessionKeyPair()
    sealed = seal(pair.public, PLAIN, b"info")
    with pytest.raises(SealError):
        pair.open(sealed, b"other")
    with pytest.raises(SealError):
        pair.open(sealed, b"info")


def test_dropped_key_opens_nothing() -> None:
    """After `drop` the private key is gone."""
    pair = SessionKeyPair()
    sealed = seal(pair.public, PLAIN, b"info")
    pair.drop()
    with pytest.raises(SealError):
        pair.open(sealed, b"info")


def test_each_session_has_its_own_key() -> None:
    """No two key pairs are equal, and one does not open what was sealed to another."""
    one, other = SessionKeyPair(), SessionKeyPair()
    assert one.public[:1184] != other.public[:1184]
    assert one.public[1184:] != other.public[1184:]
    with pytest.raises(SealError):
        other.open(seal(one.public, PLAIN, b"info"), b"info")


BAD_KEYS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda key: b"",
    "short": lambda key: key[:-1],
    "long": lambda key: key + b"\0",
    "x25519 zero": lambda key: key[:1184] + bytes(32),
    "x25519 one": lambda key: key[:1184] + b"\x01" + bytes(31),
    "x25519 of order 8": lambda key: key[:1184] + bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "ml-kem coefficients over q": lambda key: b"\xff" * 1152 + key[1152:],
    "orders swapped": lambda key: key[1184:] + key[:1184],
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_malformed_key_is_refused(name: str) -> None:
    """A key of another length, of low order or outside the ring is never sealed to."""
    with pytest.raises(SealError):
        seal(BAD_KEYS[name](SessionKeyPair().public), PLAIN, b"info")


@settings(max_examples=30)
@given(st.binary(max_size=3000))
def test_any_sealed_bytes_are_refused_by_our_error(data: bytes) -> None:
    """Bytes of any length do not open and raise nothing else."""
    with pytest.raises(SealError):
        SessionKeyPair().open(data, b"info")
