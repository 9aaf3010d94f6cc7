"""The errors of the simulated service, each with the code that AWS answers."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Codes as botocore's service model and AWS's "Common errors" name them; the enclave and tools act on them."""

    ACCESS_DENIED = "AccessDeniedException"
    DISABLED = "DisabledException"
    DRY_RUN = "DryRunOperationException"
    EXPIRED_TOKEN = "ExpiredTokenException"  # noqa: S105 -- a code
    INCOMPLETE_SIGNATURE = "IncompleteSignatureException"
    INCORRECT_KEY = "IncorrectKeyException"
    INVALID_ARN = "InvalidArnException"
    INVALID_CIPHERTEXT = "InvalidCiphertextException"
    INVALID_KEY_USAGE = "InvalidKeyUsageException"
    INVALID_SIGNATURE = "InvalidSignatureException"
    INVALID_STATE = "KMSInvalidStateException"
    LIMIT_EXCEEDED = "LimitExceededException"
    MALFORMED_POLICY = "MalformedPolicyDocumentException"
    MISSING_TOKEN = "MissingAuthenticationTokenException"  # noqa: S105 -- a code
    NOT_FOUND = "NotFoundException"
    SERIALIZATION = "SerializationException"
    UNKNOWN_OPERATION = "UnknownOperationException"
    UNRECOGNIZED_CLIENT = "UnrecognizedClientException"
    UNSUPPORTED = "UnsupportedOperationException"
    VALIDATION = "ValidationException"


class KmsError(Exception):
    """A refusal: the code, and a message for a person. Every refusal of KMS is an HTTP 400."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code
        self.message = message
