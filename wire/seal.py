"""HPKE (RFC 9180) with MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM: the sealed opening of a session, and nothing else.

Only the two session modules import this. A build of `cryptography` without the hybrid KEM fails here at import; there is
no fallback and no other suite.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite

from wire.errors import WireError

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_BYTES = 1184


class SealError(WireError):
    """The bytes do not open, or the public key is none; no detail is given."""


class SessionKeyPair:
    """One session's key pair: made for one challenge, opens at most once, dropped after it whatever the outcome."""

    def __init__(self) -> None:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self._private: MLKEM768X25519PrivateKey | None = MLKEM768X25519PrivateKey(mlkem, x25519)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of `enc || ciphertext || tag`. Raises: SealError, also for a second call."""
        private, self._private = self._private, None
        if private is None:
            raise SealError("the session key was used")
        try:
            return _SUITE.decrypt(sealed, private, info)
        except (InvalidTag, ValueError):
            raise SealError("the opening does not open") from None

    def drop(self) -> None:
        """Forget the private key."""
        self._private = None


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """`enc || ciphertext || tag`. Raises: SealError for a malformed or low-order public key: an evidence error."""
    try:  # both constructors refuse any other length than their key's: 1,184 and 32 bytes
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_BYTES]), X25519PublicKey.from_public_bytes(public[_MLKEM_BYTES:])
        )
        return _SUITE.encrypt(plaintext, key, info)
    except ValueError:
        raise SealError("the session key is malformed") from None
