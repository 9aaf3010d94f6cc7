"""What the owner's tools refuse: one class per stage, the reason as a value on it."""

from enum import StrEnum


class OwnerError(Exception):
    """Anything that these tools refuse about files and answers that they did not make."""


class Refusal(StrEnum):
    """Why a file is not a model that an enclave would load."""

    NOT_ONNX = "not-onnx"
    PICKLE = "pickle"
    TRAINING = "training"
    CUSTOM_OPERATOR = "custom-operator"
    OUTSIDE_DATA = "outside-data"
    NOT_A_TENSOR = "not-a-tensor"
    DATATYPE = "datatype"
    UNKNOWN_RANK = "unknown-rank"
    NO_SIGNATURE = "no-signature"
    NAME = "name"


class ModelRefusedError(OwnerError):
    """The model is refused; `refusal` says by which rule, the text what to do about it."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


class SealError(OwnerError):
    """The model could not be sealed: KMS answered for another key, or the plaintext changed while it was read."""


class KeyFileError(OwnerError):
    """A private key file is readable by others, not encrypted, not Ed25519, or its passphrase is wrong."""
