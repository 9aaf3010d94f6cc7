"""The operations that use a key: Encrypt, Decrypt, GenerateDataKey, GenerateRandom."""

import os

from simulator.kms.call import Call
from simulator.kms.envelope import seal
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.keys import Key, KeyState, KeyStore, decrypt, encrypt
from simulator.kms.recipient import open_recipient
from simulator.kms.resolve import resolve
from simulator.kms.shapes import Value

SYMMETRIC = "SYMMETRIC_DEFAULT"
_DATA_KEY_BYTES = {"AES_256": 32, "AES_128": 16}

Answer = dict[str, Value]


def usable(key: Key) -> None:
    """Raises: KmsError unless the key is enabled. Comes after authorization: a stranger learns no state."""
    if key.state is KeyState.DISABLED:
        raise KmsError(ErrorCode.DISABLED, f"{key.arn} is disabled.")
    if key.state is not KeyState.ENABLED:
        raise KmsError(ErrorCode.INVALID_STATE, f"{key.arn} is pending deletion.")


def _algorithm(call: Call) -> None:
    if call.members.get("EncryptionAlgorithm", SYMMETRIC) != SYMMETRIC:
        raise KmsError(ErrorCode.INVALID_KEY_USAGE, "a symmetric key has the algorithm SYMMETRIC_DEFAULT alone")


def _dry_run(call: Call) -> None:
    if call.members.get("DryRun") is True:
        raise KmsError(ErrorCode.DRY_RUN, "The request would have succeeded, but the DryRun option is set.")


def _release(call: Call, plaintext: bytes) -> Answer:
    """The plaintext itself, or sealed to the attested key: never both."""
    if call.recipient is None:
        return {"Plaintext": plaintext}
    return {"CiphertextForRecipient": seal(plaintext, call.recipient.public_key)}


def encrypt_operation(call: Call, store: KeyStore) -> Answer:
    """Encrypt."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    _algorithm(call)
    call.authorize(key, "kms:Encrypt")
    usable(key)
    _dry_run(call)
    return {"CiphertextBlob": encrypt(key, call.blob("Plaintext"), call.context()), "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}


def decrypt_operation(call: Call, store: KeyStore) -> Answer:
    """Decrypt. The named key, if there is one, is judged and must be the blob's."""
    call.recipient = open_recipient(call.members.get("Recipient"), roots=call.roots, now=call.now)
    _algorithm(call)
    blob = call.members.get("CiphertextBlob")
    if not isinstance(blob, bytes):
        raise KmsError(ErrorCode.VALIDATION, "CiphertextBlob must not be null")
    named = call.text("KeyId")
    wrapped_by = store.of_blob(blob)
    key = resolve(call, store, named) if named else wrapped_by
    if key is None:
        raise KmsError(
            ErrorCode.ACCESS_DENIED,
            "The ciphertext refers to a KMS key that does not exist, does not exist in this region, or you are not allowed to access.",
        )
    call.key = key
    call.authorize(key, "kms:Decrypt")
    usable(key)
    if wrapped_by is None or wrapped_by.arn != key.arn:
        raise KmsError(ErrorCode.INCORRECT_KEY, "The key ID in the request does not identify a KMS key that can perform this operation.")
    plaintext = decrypt(key, blob, call.context())
    _dry_run(call)
    return {"KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC, **_release(call, plaintext)}


def generate_data_key(call: Call, store: KeyStore) -> Answer:
    """GenerateDataKey."""
    call.recipient = open_recipient(call.members.get("Recipient"), roots=call.roots, now=call.now)
    key = call.key = resolve(call, store, call.text("KeyId"))
    spec, count = call.text("KeySpec"), call.members.get("NumberOfBytes")
    if (spec is None) == (count is None):
        raise KmsError(ErrorCode.VALIDATION, "Please specify either number of bytes or key spec.")
    call.authorize(key, "kms:GenerateDataKey")
    usable(key)
    _dry_run(call)
    plaintext = os.urandom(count if isinstance(count, int) else _DATA_KEY_BYTES[str(spec)])
    return {"CiphertextBlob": encrypt(key, plaintext, call.context()), "KeyId": key.arn, **_release(call, plaintext)}


def generate_random(call: Call, store: KeyStore) -> Answer:
    """GenerateRandom; it involves no key."""
    del store
    call.recipient = open_recipient(call.members.get("Recipient"), roots=call.roots, now=call.now)
    if call.text("CustomKeyStoreId") is not None:
        raise KmsError(ErrorCode.UNSUPPORTED, "custom key stores are not modelled")
    call.authorize(None, "kms:GenerateRandom")
    count = call.members.get("NumberOfBytes")
    if not isinstance(count, int):
        raise KmsError(ErrorCode.VALIDATION, "NumberOfBytes must not be null")
    return _release(call, os.urandom(count))
