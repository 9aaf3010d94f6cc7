"""An envelope writer for tests in which every choice of the format can be made wrong."""

from dataclasses import dataclass
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY = rsa.generate_private_key(65537, 2048)
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
OAEP_NULL = "06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500"
OAEP_ABSENT = "06092a864886f70d010107302ba00d300b0609608648016503040201a11a301806092a864886f70d010108300b0609608648016503040201"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How an envelope deviates from the one that KMS writes; the default deviates in nothing."""

    content_type: str = "2a864886f70d010703"
    version: int = 2
    recipients: int = 1
    recipient_version: int = 2
    identifier: bytes = hashlib.sha256(SPKI).digest()
    key_algorithm: str = ""
    null_parameters: bool = True
    key_prefix: bytes = b""
    inner_type: str = "2a864886f70d010701"
    content_algorithm: str = "060960864801650304012a"
    iv: bytes = b"initialisation.."
    cek: bytes = b"c" * 32
    padding: bytes = b""
    cut_ciphertext: int = 0
    chunk_of_content: bytes = b""
    primitive_content: bool = False
    indefinite: bool = True
    attributes: bytes = b""
    originator: bytes = b""
    trailing: bytes = b""
    long_length: bool = False


def _value(tag: int, content: bytes, *, long: bool = False) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, 0x81, size) if long else (tag, size)) + content
    return bytes((tag, 0x81, size) if size < 0x100 else (tag, 0x82, size >> 8, size & 0xFF)) + content


def _constructed(tag: int, content: bytes, shape: Shape) -> bytes:
    return bytes((tag, 0x80)) + content + b"\0\0" if shape.indefinite else _value(tag, content)


def _ciphertext(plaintext: bytes, shape: Shape) -> bytes:
    fill = 16 - len(plaintext) % 16
    padded = plaintext + (shape.padding or bytes((fill,)) * fill)
    iv, cek = shape.iv.ljust(16, b"\0")[:16], (shape.cek + bytes(32))[: 16 if len(shape.cek) == 16 else 32]
    encryptor = Cipher(AES(cek), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    return ciphertext[: max(0, len(ciphertext) - shape.cut_ciphertext)] + shape.chunk_of_content


def build(plaintext: bytes, shape: Shape) -> bytes:
    """The envelope of `plaintext` for KEY in this shape."""
    algorithm = bytes.fromhex(shape.key_algorithm or (OAEP_NULL if shape.null_parameters else OAEP_ABSENT))
    wrapped = KEY.public_key().encrypt(shape.cek, OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), label=None))
    recipient = _value(
        0x30,
        _value(0x02, bytes((shape.recipient_version,)), long=shape.long_length)
        + _value(0x80, shape.identifier)
        + _value(0x30, algorithm)
        + _value(0x04, shape.key_prefix + wrapped),
    )
    ciphertext = _ciphertext(plaintext, shape)
    content = (
        _value(0x80, ciphertext) if shape.primitive_content else _constructed(0xA0, _value(0x04, ciphertext) if ciphertext else b"", shape)
    )
    info = (
        _value(0x06, bytes.fromhex(shape.inner_type))
        + _value(0x30, bytes.fromhex(shape.content_algorithm) + _value(0x04, shape.iv))
        + content
    )
    enveloped = (
        _value(0x02, bytes((shape.version,)))
        + shape.originator
        + _value(0x31, recipient * shape.recipients)
        + _constructed(0x30, info, shape)
        + shape.attributes
    )
    body = _value(0x06, bytes.fromhex(shape.content_type)) + _constructed(0xA0, _constructed(0x30, enveloped, shape), shape)
    return _constructed(0x30, body, shape) + shape.trailing
