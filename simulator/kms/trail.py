"""The log of the simulated service, one CloudTrail event a line; never a plaintext, a ciphertext, a key or a document.

Source: KMS Developer Guide, "Logging AWS KMS API calls with AWS CloudTrail" and "Monitoring attested requests". The
member `simulator`, which CloudTrail has not, says which statement decided.
"""

import base64
from collections.abc import Callable
import json
from pathlib import Path
import uuid

from simulator.kms.call import Call
from simulator.kms.errors import KmsError
from simulator.kms.shapes import Value

TRAIL = "trail.jsonl"
_READ_ONLY = frozenset(
    ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateRandom", "GetKeyPolicy", "ListGrants", "ListKeyPolicies", "ReEncrypt")
)
_SHOWN = ("keyId", "encryptionContext", "encryptionAlgorithm", "keySpec", "numberOfBytes", "granteePrincipal", "operations", "policyName")
_PCRS = (1, 2, 3, 4, 8)

Sink = Callable[[str], None]


def to_file(path: Path) -> Sink:
    """A sink that appends to a file."""

    def append(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return append


def _parameters(call: Call) -> dict[str, Value]:
    lower = {name[0].lower() + name[1:]: value for name, value in call.members.items()}
    return {name: lower[name] for name in _SHOWN if name in lower}


def _identity(call: Call) -> dict[str, Value]:
    caller = call.principal
    return {
        "type": caller.kind.value if caller.kind.value != "Account" else "Root",
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": call.access.access_key_id,
    }


def _recipient(call: Call) -> dict[str, Value]:
    """CloudTrail shows PCR0 to 4 and 8 in base64, not PCR16."""
    if call.recipient is None:
        return {}
    claims = call.recipient.claims
    shown: dict[str, Value] = {
        "attestationDocumentModuleId": claims.module_id,
        "attestationDocumentEnclaveImageDigest": base64.b64encode(claims.pcrs[0]).decode(),
    }
    for index in _PCRS:
        if index in claims.pcrs:
            shown[f"attestationDocumentEnclavePCR{index}"] = base64.b64encode(claims.pcrs[index]).decode()
    return {"recipient": shown}


def _decided(call: Call) -> list[Value]:
    return [
        {
            "outcome": decision.outcome.value,
            "by": f"{decision.deciding.source}, {decision.deciding.statement}" if decision.deciding else None,
            "detail": decision.deciding.detail if decision.deciding else None,
        }
        for decision in call.decisions
    ]


def event(call: Call, error: KmsError | None, request_id: str) -> str:
    """One event as one line of JSON."""
    record: dict[str, Value] = {
        "eventVersion": "1.11",
        "userIdentity": _identity(call),
        "eventTime": call.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "kms.amazonaws.com",
        "eventName": call.operation,
        "awsRegion": call.region,
        "sourceIPAddress": "127.0.0.1",
        "requestParameters": _parameters(call),
        "responseElements": None,
        "requestID": request_id,
        "eventID": str(uuid.uuid4()),
        "readOnly": call.operation in _READ_ONLY,
        "resources": [{"accountId": call.key.account, "type": "AWS::KMS::Key", "ARN": call.key.arn}] if call.key else [],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": call.key.account if call.key else call.principal.account,
        "simulator": {"decisions": _decided(call)},
    }
    if additional := _recipient(call):
        record["additionalEventData"] = additional
    if error is not None:
        record["errorCode"] = (
            error.code.value.removesuffix("Exception") if error.code.value == "AccessDeniedException" else error.code.value
        )
        record["errorMessage"] = error.message
    return json.dumps(record)
