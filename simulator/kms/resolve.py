"""From the KeyId of a request to a key: key id, key ARN, and a plain refusal of aliases."""

import re

from simulator.kms.call import Call
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.keys import Key, KeyStore
from simulator.kms.shapes import service_model

_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<kind>key|alias)/(?P<name>[A-Za-z0-9/_-]+)")
_ID = re.compile(r"(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def _malformed(operation: str) -> ErrorCode:
    """AWS models InvalidArnException for some operations alone."""
    modelled = {shape.name for shape in service_model().operation_model(operation).error_shapes}
    return ErrorCode.INVALID_ARN if ErrorCode.INVALID_ARN.value in modelled else ErrorCode.VALIDATION


def resolve(call: Call, store: KeyStore, key_id: str | None) -> Key:
    """The key that a KeyId names; an id without an ARN is looked for in the caller's account.

    Raises: KmsError: NotFoundException for a key or any alias that is not there (none ever is: there is no CreateAlias),
    InvalidArnException, ValidationException for what is neither.
    """
    text = key_id or ""
    if text.startswith("alias/"):
        raise KmsError(ErrorCode.NOT_FOUND, f"Alias arn:aws:kms:{call.region}:{call.principal.account}:{text} is not found.")
    if text.startswith("arn:"):
        match = _ARN.fullmatch(text)
        if match is None or match["region"] != call.region:
            raise KmsError(_malformed(call.operation) if match is None else ErrorCode.NOT_FOUND, f"Invalid arn {call.region}")
        if match["kind"] == "alias":
            raise KmsError(ErrorCode.NOT_FOUND, f"Alias {text} is not found.")
        arn = text
    elif _ID.fullmatch(text):
        arn = f"arn:aws:kms:{call.region}:{call.principal.account}:key/{text}"
    else:
        raise KmsError(ErrorCode.NOT_FOUND, f"Invalid keyId {text[:64]}")
    key = store.find(arn)
    if key is None:
        raise KmsError(ErrorCode.NOT_FOUND, f"Key '{arn}' does not exist")
    return key
