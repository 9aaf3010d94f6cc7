"""Challenge, opening plaintext, transcripts and key schedule."""

import contextlib
import hashlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire import handshake
from wire.handshake import CREDENTIAL_MAX, PLAINTEXT_BYTES, MalformedHandshakeError, Opening, encode_opening, parse_challenge, parse_opening


def test_key_schedule_known_answer() -> None:
    """The known answer of the protocol: secret 00..1f, th2 = H("vector")."""
    keys = handshake.session_keys(bytes(range(32)), hashlib.sha384(b"vector").digest())
    assert keys.c2s.key.hex() == "df958a3ef925f1be576519b5be8cfcc9466f6356e8e25e6c6e60a202e8b31827"
    assert keys.c2s.iv.hex() == "a4c1ea8cd9b5454753183853"
    assert keys.s2c.key.hex() == "225ed135da2e8ca0e3e1af7c0eb51ac8214e3329269fceb5b1f5850866306fd2"
    assert keys.s2c.iv.hex() == "1df77ff7dea75483eed94733"


def test_transcripts_are_labelled_hashes_of_whole_frames() -> None:
    """H is SHA-384 and every label ends in one zero byte."""
    assert handshake.transcript1(b"C", b"E") == hashlib.sha384(b"cloister/1 th1\0CE").digest()
    assert handshake.transcript2(b"T", b"O") == hashlib.sha384(b"cloister/1 th2\0TO").digest()
    assert handshake.hpke_info(b"T") == b"cloister/1 open\0T"
    hashed = [hashlib.sha384(part).digest() for part in (b"cloister/1 secret\0S", b"D")]
    assert handshake.to_be_signed(b"T", b"S", b"D") == b"cloister/1 caller\0T" + hashed[0] + hashed[1]


def test_secrets_are_not_shown() -> None:
    """No secret appears in a representation."""
    opening = Opening(secret=b"S" * 32, signature=bytes(64), credential=b"")
    keys = handshake.session_keys(b"S" * 32, bytes(48))
    assert "SSSS" not in repr(opening)
    assert repr(keys.c2s.key) not in repr(keys)


def test_challenge_comes_back() -> None:
    """38 bytes with version 1; the nonce comes back."""
    frame = handshake.encode_challenge(bytes(range(32)))
    assert frame == b"\0\0\0\x22\x01\x01" + bytes(range(32))
    assert parse_challenge(frame[5:]) == bytes(range(32))


@pytest.mark.parametrize("body", [b"", b"\x01" + bytes(31), b"\x01" + bytes(33), b"\x00" + bytes(32), b"\x02" + bytes(32)])
def test_malformed_challenge_is_refused(body: bytes) -> None:
    """Another length or version is refused."""
    with pytest.raises(MalformedHandshakeError):
        parse_challenge(body)


@pytest.mark.parametrize("length", [31, 33])
def test_nonce_of_another_length_is_misuse(length: int) -> None:
    """A nonce has 32 bytes."""
    with pytest.raises(ValueError, match="32"):
        handshake.encode_challenge(bytes(length))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.binary(min_size=1, max_size=CREDENTIAL_MAX))
def test_opening_has_one_size_and_comes_back(secret: bytes, signature: bytes, credential: bytes) -> None:
    """4,096 bytes whatever the credential."""
    opening = Opening(secret=secret, signature=signature, credential=credential)
    plaintext = encode_opening(opening)
    assert len(plaintext) == PLAINTEXT_BYTES == 4096
    assert parse_opening(plaintext) == opening


def test_opening_without_credential_comes_back() -> None:
    """For callers "anyone": no credential and a signature of zeros."""
    opening = Opening(secret=bytes(32), signature=bytes(64), credential=b"")
    assert parse_opening(encode_opening(opening)) == opening


def _plaintext(length: int, credential: bytes = b"c", signature: bytes = b"s" * 64, padding: bytes = b"", size: int = 4096) -> bytes:
    content = bytes(32) + signature + length.to_bytes(2, "big") + credential
    return content.ljust(size - len(padding), b"\0") + padding


BAD = {
    "short": _plaintext(1, size=4095),
    "long": _plaintext(1, size=4097),
    "credential too long": _plaintext(CREDENTIAL_MAX + 1, b"c" * (CREDENTIAL_MAX + 1)),
    "credential longer than all": _plaintext(65_535),
    "padding after": _plaintext(1, b"cx"),
    "padding last": _plaintext(1, padding=b"\x01"),
    "signature without credential": _plaintext(0, b""),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_opening_is_refused(name: str) -> None:
    """Length, bound, zero padding and the empty signature each have a rule."""
    with pytest.raises(MalformedHandshakeError):
        parse_opening(BAD[name])


def test_credential_at_its_limit_is_taken() -> None:
    """1,024 bytes are allowed."""
    opening = parse_opening(_plaintext(CREDENTIAL_MAX, b"c" * CREDENTIAL_MAX))
    assert len(opening.credential) == CREDENTIAL_MAX == 1024
    assert parse_opening(encode_opening(opening)) == opening


@pytest.mark.parametrize(
    "opening",
    [
        Opening(secret=bytes(31), signature=bytes(64), credential=b""),
        Opening(secret=bytes(32), signature=bytes(65), credential=b""),
        Opening(secret=bytes(32), signature=bytes(64), credential=bytes(CREDENTIAL_MAX + 1)),
    ],
)
def test_opening_out_of_bounds_is_misuse(opening: Opening) -> None:
    """Secret, signature and credential have their sizes."""
    with pytest.raises(ValueError, match="bounds"):
        encode_opening(opening)


@given(st.binary(max_size=200), st.integers(0, 5000))
def test_any_bytes_give_an_opening_or_our_error(data: bytes, size: int) -> None:
    """Any bytes: an opening that encodes back, or MalformedHandshakeError."""
    for plaintext in (data, data.ljust(size, b"\0"), data.ljust(4096, b"\0")):
        try:
            opening = parse_opening(plaintext)
        except MalformedHandshakeError:
            continue
        assert encode_opening(opening) == plaintext


@given(st.binary(max_size=40))
def test_any_challenge_gives_a_nonce_or_our_error(data: bytes) -> None:
    """Any bytes: 32 bytes, or MalformedHandshakeError."""
    with contextlib.suppress(MalformedHandshakeError):
        assert len(parse_challenge(data)) == 32
