"""The transcript of a session's opening, the sealed opening's plaintext and the key schedule (protocol.md).

Transcripts take whole frames, length and type included. Every label ends in one zero byte; H is SHA-384.
"""

from dataclasses import dataclass, field
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from wire.errors import WireError
from wire.evidence import NONCE_BYTES
from wire.frame import FrameType, encode

VERSION = 1
SECRET_BYTES = 32
SIGNATURE_BYTES = 64
CREDENTIAL_MAX = 1024
PLAINTEXT_BYTES = 4096
INFO_LABEL = b"cloister/1 open\0"
HANDSHAKE_SECONDS = 10


class MalformedHandshakeError(WireError):
    """A challenge or a sealed opening's plaintext is not one of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The plaintext of `open`; without a credential both `credential` is empty and `signature` is zeros."""

    secret: bytes = field(repr=False)
    signature: bytes
    credential: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionKey:
    """One direction's AES-256-GCM key and IV."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeys:
    """Keys of both directions: caller to server (enclave) and back."""

    c2s: DirectionKey
    s2c: DirectionKey


def encode_challenge(nonce: bytes) -> bytes:
    """The whole challenge frame."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 32 bytes")
    return encode(FrameType.CHALLENGE, bytes((VERSION,)) + nonce)


def parse_challenge(body: bytes) -> bytes:
    """The nonce. Raises: MalformedHandshakeError."""
    if len(body) != 1 + NONCE_BYTES or body[0] != VERSION:
        raise MalformedHandshakeError("not a challenge of version 1")
    return body[1:]


def transcript1(challenge_frame: bytes, evidence_frame: bytes) -> bytes:
    """th1, over both whole frames."""
    return hashlib.sha384(b"cloister/1 th1\0" + challenge_frame + evidence_frame).digest()


def transcript2(th1: bytes, open_frame: bytes) -> bytes:
    """th2, over th1 and the whole open frame."""
    return hashlib.sha384(b"cloister/1 th2\0" + th1 + open_frame).digest()


def hpke_info(th1: bytes) -> bytes:
    """HPKE's info for the sealed opening."""
    return INFO_LABEL + th1


def to_be_signed(th1: bytes, secret: bytes, credential: bytes) -> bytes:
    """What the credential's key signs: this session, this secret, this credential."""
    secret_hash = hashlib.sha384(b"cloister/1 secret\0" + secret).digest()
    return b"cloister/1 caller\0" + th1 + secret_hash + hashlib.sha384(credential).digest()


def encode_opening(opening: Opening) -> bytes:
    """The 4,096-byte plaintext, padded with zeros."""
    if len(opening.secret) != SECRET_BYTES or len(opening.signature) != SIGNATURE_BYTES or len(opening.credential) > CREDENTIAL_MAX:
        raise ValueError("secret, signature or credential out of bounds")
    content = opening.secret + opening.signature + len(opening.credential).to_bytes(2, "big") + opening.credential
    return content.ljust(PLAINTEXT_BYTES, b"\0")


def parse_opening(plaintext: bytes) -> Opening:
    """Raises: MalformedHandshakeError, also where the padding is not zero or a signature stands without a credential."""
    if len(plaintext) != PLAINTEXT_BYTES:
        raise MalformedHandshakeError("an opening has 4,096 bytes")
    start = SECRET_BYTES + SIGNATURE_BYTES + 2
    length = int.from_bytes(plaintext[start - 2 : start], "big")
    credential, padding = plaintext[start : start + length], plaintext[start + length :]
    signature = plaintext[SECRET_BYTES : SECRET_BYTES + SIGNATURE_BYTES]
    if length > CREDENTIAL_MAX or padding != bytes(len(padding)) or (not credential and any(signature)):
        raise MalformedHandshakeError("an opening's credential or padding is malformed")
    return Opening(secret=plaintext[:SECRET_BYTES], signature=signature, credential=credential)


def session_keys(secret: bytes, th2: bytes) -> SessionKeys:
    """The key schedule: HKDF-SHA384, extract with salt th2, one expansion per label."""
    prk = HKDF.extract(hashes.SHA384(), th2, secret)

    def expand(label: bytes, length: int) -> bytes:
        return HKDFExpand(hashes.SHA384(), length, b"cloister/1 " + label + b"\0").derive(prk)

    return SessionKeys(
        c2s=DirectionKey(key=expand(b"c2s key", 32), iv=expand(b"c2s iv", 12)),
        s2c=DirectionKey(key=expand(b"s2c key", 32), iv=expand(b"s2c iv", 12)),
    )
