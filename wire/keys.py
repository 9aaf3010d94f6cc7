"""Ed25519 public keys of owners, issuers and callers: 32 raw bytes, never one of small order.

`cryptography` accepts small-order keys, and such a key verifies signatures that nobody made: 01 00.. verifies any.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wire.errors import WireError

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
# y coordinates of the eight points of order 1, 2, 4 and 8 (RFC 7748 lists the same for the other form of the curve).
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER_Y = frozenset((0, 1, _P - 1, _ORDER_8, _P - _ORDER_8))


class WeakKeyError(WireError):
    """The bytes are no Ed25519 key that a signature could be believed by."""


def load_public(raw: bytes) -> Ed25519PublicKey:
    """The key. Raises: WeakKeyError for another length, a non-canonical encoding or a point of small order.

    Not checked: that the point lies on the curve; `verify` then fails for every signature.
    """
    if len(raw) != KEY_BYTES:
        raise WeakKeyError("an Ed25519 key has 32 bytes")
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= _P or y in _SMALL_ORDER_Y:
        raise WeakKeyError("an Ed25519 key of small order or in a non-canonical encoding")
    return Ed25519PublicKey.from_public_bytes(raw)
