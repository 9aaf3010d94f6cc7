"""Write a `CiphertextForRecipient` byte for byte in the shape of genuine KMS answers: BER with indefinite lengths."""

import hashlib
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
_DATA = bytes.fromhex("06092a864886f70d010701")
_VERSION_2 = bytes.fromhex("020102")
_OAEP_SHA256 = bytes.fromhex(
    "303c06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500"
)
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def _definite(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size < 0x100:
        return bytes((tag, 0x81, size)) + content
    return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + b"\0\0"


def seal(plaintext: bytes, public_key: RSAPublicKey, *, chunk: int = 4_096) -> bytes:
    """The envelope of `plaintext` for `public_key`, its content cut into octet strings of `chunk` bytes.

    461 bytes for a plaintext below 16 bytes, 493 for one of 32, as measured on genuine answers for an RSA-2048 key.
    """
    cek, iv = os.urandom(32), os.urandom(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES256(cek), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    encrypted_key = public_key.encrypt(cek, OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), label=None))
    identifier = hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

    recipient = _definite(0x30, _VERSION_2 + _definite(0x80, identifier) + _OAEP_SHA256 + _definite(0x04, encrypted_key))
    chunks = b"".join(_definite(0x04, ciphertext[at : at + chunk]) for at in range(0, len(ciphertext), chunk))
    content = _DATA + _definite(0x30, _AES_256_CBC + _definite(0x04, iv)) + _indefinite(0xA0, chunks)
    enveloped = _indefinite(0x30, _VERSION_2 + _definite(0x31, recipient) + _indefinite(0x30, content))
    return _indefinite(0x30, _ENVELOPED_DATA + _indefinite(0xA0, enveloped))
