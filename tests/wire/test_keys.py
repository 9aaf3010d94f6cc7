"""Ed25519 keys: every point of small order is refused, computed here from the curve itself (RFC 8032, 5.1)."""

import contextlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire.keys import WeakKeyError, load_public

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493

Point = tuple[int, int]


def _add(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1]
    return (
        (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P) % P,
        (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P,
    )


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1)
    for bit in f"{scalar:b}":
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


def _x(y: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    return root if root * root % P == square else None


def _torsion() -> set[Point]:
    """The points of order 1, 2, 4 and 8: multiples of the group's prime order, from points found by trying y."""
    found: set[Point] = set()
    for y in range(2, 40):
        x = _x(y)
        if x is not None:
            point = _times(ORDER, (x, y))
            found |= {_times(k, point) for k in range(8)}
    return found


def _encode(point: Point, *, sign: int | None = None, add: int = 0) -> bytes:
    return (point[1] + add | (point[0] & 1 if sign is None else sign) << 255).to_bytes(32, "little")


TORSION = sorted(_torsion())


def test_there_are_eight_points_of_small_order() -> None:
    """The torsion subgroup has eight points."""
    assert len(TORSION) == 8
    assert all(_times(8, point) == (0, 1) for point in TORSION)


@pytest.mark.parametrize("point", TORSION)
@pytest.mark.parametrize("sign", [0, 1])
def test_small_order_key_is_refused(point: Point, sign: int) -> None:
    """Each point of small order is refused with either sign bit."""
    with pytest.raises(WeakKeyError):
        load_public(_encode(point, sign=sign))


def test_small_order_key_would_verify_what_nobody_signed() -> None:
    """The reason: with key 01 00.. the signature R = identity, S = 0 verifies over any message in `cryptography`."""
    key = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    key.verify(b"\x01" + bytes(63), b"anything")


@pytest.mark.parametrize("y", [0, 1, 2, 18])
@pytest.mark.parametrize("sign", [0, 1])
def test_non_canonical_key_is_refused(y: int, sign: int) -> None:
    """A y coordinate of p or more is another spelling of a key and refused."""
    with pytest.raises(WeakKeyError):
        load_public((y + P | sign << 255).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_is_refused(length: int) -> None:
    """A key has 32 bytes."""
    with pytest.raises(WeakKeyError):
        load_public(b"\x55" * length)


@given(st.binary(min_size=32, max_size=32))
def test_genuine_keys_are_loaded(seed: bytes) -> None:
    """Every generated key loads and verifies its own signatures."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    load_public(private.public_key().public_bytes_raw()).verify(private.sign(b"m"), b"m")


@given(st.binary(max_size=40))
def test_any_bytes_give_a_key_or_our_error(data: bytes) -> None:
    """Any bytes: a key, or WeakKeyError."""
    with contextlib.suppress(WeakKeyError):
        assert load_public(data).public_bytes_raw() == data
