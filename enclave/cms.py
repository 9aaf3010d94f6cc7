"""Open a KMS `CiphertextForRecipient`: one CMS EnvelopedData (RFC 5652) in BER, read against an allow-list of one shape.

The shape is that of genuine answers: ContentInfo id-envelopedData, EnvelopedData v2, one KeyTransRecipientInfo v2 named
by the SHA-256 of our SubjectPublicKeyInfo, RSAES-OAEP with SHA-256, AES-256-CBC content in one or several octet strings.

The format carries no authentication: who can replace the answer can replace what it opens to. So the channel to KMS
ends in the enclave, every failure is the same error, and what is opened is trusted only after the artifact's pinned
header digest and key commitment agree (`enclave.artifact`).
"""

from dataclasses import dataclass, field
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ENVELOPE_MAX = 6_144  # a plaintext of 4,096 bytes, the most that KMS encrypts, gives about 4,560
KEY_BITS = 2_048  # the only size that KMS answers to; another key's envelope differs in the length of its wrapped key
SKI_BYTES = 32
BLOCK = 16

_INTEGER, _OCTETS, _OID, _SEQUENCE, _SET = 0x02, 0x04, 0x06, 0x30, 0x31
_CONTEXT_0, _CONTEXT_0_CONSTRUCTED = 0x80, 0xA0
_INDEFINITE = 0x80

_ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")
_DATA = bytes.fromhex("2a864886f70d010701")
_VERSION = b"\x02"
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
# AlgorithmIdentifier contents: rsaesOaep {sha256, mgf1 {sha256}}, empty label by default. RFC 4055, 2.1: the hash
# parameters may be NULL, as KMS writes them, or absent, as OpenSSL does; they mean the same.
_RSAES_OAEP = frozenset(
    bytes.fromhex(text.replace(" ", ""))
    for text in (
        "06092a864886f70d010107 302f a00f300d06096086480165030402010500 a11c301a06092a864886f70d010108300d06096086480165030402010500",
        "06092a864886f70d010107 302b a00d300b0609608648016503040201 a11a301806092a864886f70d010108300b0609608648016503040201",
    )
)


class CmsError(Exception):
    """The envelope does not open. Why is not said: the answer is unauthenticated, and a reason would be an oracle."""

    def __init__(self) -> None:
        super().__init__("the envelope does not open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An envelope of the right shape, not opened: for whom it is, and what it carries."""

    subject_key_identifier: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes = field(repr=False)


class _Reader:
    """A cursor over one BER value's content; `indefinite` content ends with two zero bytes instead of at a length."""

    def __init__(self, data: bytes, at: int, end: int, *, indefinite: bool = False) -> None:
        self._data, self._at, self._end, self._indefinite = data, at, end, indefinite

    def _byte(self) -> int:
        if self._at >= self._end:
            raise CmsError
        self._at += 1
        return self._data[self._at - 1]

    def _length(self) -> int | None:
        """A definite length in its shortest form, at most two bytes of it; None is the indefinite form."""
        first = self._byte()
        if first < 0x80:
            return first
        if first == _INDEFINITE:
            return None
        if first == 0x81 and (value := self._byte()) >= 0x80:
            return value
        if first == 0x82 and (value := self._byte() << 8 | self._byte()) >= 0x100:
            return value
        raise CmsError

    def take(self, tag: int) -> bytes:
        """The content of the next value, which has this tag and a definite length."""
        if self._byte() != tag:
            raise CmsError
        length = self._length()
        if length is None or length > self._end - self._at:
            raise CmsError
        self._at += length
        return self._data[self._at - length : self._at]

    def next_is(self, tag: int) -> bool:
        """Whether a value with this tag comes next."""
        return self._at < self._end and self._data[self._at] == tag

    def enter(self, tag: int) -> "_Reader":
        """Go into the next value, constructed, with this tag and a definite or an indefinite length."""
        if self._byte() != tag:
            raise CmsError
        length = self._length()
        if length is None:
            return _Reader(self._data, self._at, self._end, indefinite=True)
        if length > self._end - self._at:
            raise CmsError
        return _Reader(self._data, self._at, self._at + length)

    def leave(self, inner: "_Reader") -> None:
        """Come back from `inner`, which must be at its end."""
        if inner._indefinite:
            if inner._byte() or inner._byte():
                raise CmsError
        elif inner._at != inner._end:
            raise CmsError
        self._at = inner._at

    def finish(self) -> None:
        """Nothing may follow."""
        if self._at != self._end:
            raise CmsError


def _expect(actual: bytes, expected: bytes) -> None:
    if actual != expected:
        raise CmsError


def _recipient(enveloped: _Reader) -> tuple[bytes, bytes]:
    recipients = enveloped.enter(_SET)
    recipient = recipients.enter(_SEQUENCE)
    _expect(recipient.take(_INTEGER), _VERSION)
    identifier = recipient.take(_CONTEXT_0)
    if recipient.take(_SEQUENCE) not in _RSAES_OAEP:
        raise CmsError
    encrypted_key = recipient.take(_OCTETS)
    recipients.leave(recipient)
    enveloped.leave(recipients)  # exactly one recipient
    if len(identifier) != SKI_BYTES or len(encrypted_key) != KEY_BITS // 8:
        raise CmsError
    return identifier, encrypted_key


def _content(enveloped: _Reader) -> tuple[bytes, bytes]:
    info = enveloped.enter(_SEQUENCE)
    _expect(info.take(_OID), _DATA)
    algorithm = info.take(_SEQUENCE)
    _expect(algorithm[:-BLOCK], _AES_256_CBC + bytes((_OCTETS, BLOCK)))
    if info.next_is(_CONTEXT_0):
        ciphertext = info.take(_CONTEXT_0)
    else:
        chunks = info.enter(_CONTEXT_0_CONSTRUCTED)
        parts = []
        while chunks.next_is(_OCTETS):
            parts.append(chunks.take(_OCTETS))
        info.leave(chunks)
        ciphertext = b"".join(parts)
    enveloped.leave(info)
    if not ciphertext or len(ciphertext) % BLOCK:
        raise CmsError
    return algorithm[-BLOCK:], ciphertext


def parse_envelope(envelope: bytes) -> Envelope:
    """Judge the shape, up to the key. Raises: CmsError, and nothing else, for any other bytes."""
    if len(envelope) > ENVELOPE_MAX:
        raise CmsError
    outer = _Reader(bytes(envelope), 0, len(envelope))
    content_info = outer.enter(_SEQUENCE)
    _expect(content_info.take(_OID), _ENVELOPED_DATA)
    explicit = content_info.enter(_CONTEXT_0_CONSTRUCTED)
    enveloped = explicit.enter(_SEQUENCE)
    _expect(enveloped.take(_INTEGER), _VERSION)
    identifier, encrypted_key = _recipient(enveloped)
    iv, ciphertext = _content(enveloped)
    explicit.leave(enveloped)  # no unprotected attributes
    content_info.leave(explicit)
    outer.leave(content_info)
    outer.finish()
    return Envelope(subject_key_identifier=identifier, encrypted_key=encrypted_key, iv=iv, ciphertext=ciphertext)


def open_envelope(envelope: bytes, key: RSAPrivateKey) -> bytes:
    """The plaintext that KMS sealed to `key`, the RSA-2048 key attested in the request's document.

    Raises: CmsError, and nothing else, for any other bytes or another key. Does not tell a genuine answer from a forged one.
    """
    parsed = parse_envelope(envelope)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _expect(parsed.subject_key_identifier, hashlib.sha256(spki).digest())
    try:
        cek = key.decrypt(parsed.encrypted_key, OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), label=None))
        decryptor = Cipher(AES256(cek), CBC(parsed.iv)).decryptor()
        padded = decryptor.update(parsed.ciphertext) + decryptor.finalize()
        unpadder = PKCS7(8 * BLOCK).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:  # AES256 takes 32 bytes and no others
        raise CmsError from None
