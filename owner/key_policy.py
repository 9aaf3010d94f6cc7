"""Write the key policy that holds: only the measured image, under the owner's key and epoch, has anything decrypted.

Every lock is an explicit Deny to everyone with one condition, because conditions in one statement are ANDed, and because
an Allow with conditions is no gate where root delegation, an identity policy or a grant allows too. There is no root
delegation: the administrator manages and does not use, the sealer encrypts, the parent's role decrypts, nobody else is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import json

from attestation.values import Measurement
from owner.policy_document import KEY_POLICY_MAX, VERSION
from owner.policy_principal import CallerKind, Principal, principal_from_arn
from wire.manifest import extended, owner_hash, owner_measurement

MEASUREMENTS_MAX = 2  # a roll-out: the set that serves and the set that replaces it
PCR_KEY = "kms:RecipientAttestation:PCR"
CONTEXT_KEY = "kms:EncryptionContext:"

# Managing the key without using it: nothing here gives a plaintext, a grant or a copy of the key.
ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
)
# What turns a Decrypt that is denied into one that is allowed: another encryption context, another key, a copy.
ESCAPES = ("kms:CreateGrant", "kms:ReEncryptFrom", "kms:ReplicateKey")

# What AWS gives a key created without a policy (KMS Developer Guide, "Default key policy"): root delegation. The hole itself.
DEFAULT_POLICY = (
    '{{"Version":"2012-10-17","Id":"key-default-1","Statement":[{{"Sid":"Enable IAM User Permissions","Effect":"Allow",'
    '"Principal":{{"AWS":"arn:aws:iam::{account}:root"}},"Action":"kms:*","Resource":"*"}}]}}'
)

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a key policy is made from. `epochs`: the current one, and during a re-seal the one that it replaces.

    `admin` and `sealer` are role ARNs in the owner's account, `parent` the role of the instances, in another account.
    Construction raises ValueError for what no sound policy can be made from.
    """

    measurements: tuple[Measurement, ...]
    owner_key: bytes
    epochs: tuple[int, ...]
    admin: str
    sealer: str
    parent: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.measurements) <= MEASUREMENTS_MAX:
            raise ValueError("a key policy holds one measurement set, or two during a roll-out")
        if not 1 <= len(self.epochs) <= 2 or any(not 1 <= epoch < 1 << 63 for epoch in self.epochs):
            raise ValueError("a key policy holds one epoch, or two during a re-seal, each positive")
        if len(self.owner_key) != 32:
            raise ValueError("the owner key is the 32 bytes of an Ed25519 public key")
        for measurement in self.measurements:
            if any(not any(value) or len(value) != 48 for value in measurement.pcrs.values()):
                raise ValueError("a measurement is 48 bytes and never zero: zeros are a debug enclave's")
        admin, sealer, parent = (_role(arn) for arn in (self.admin, self.sealer, self.parent))
        if len({admin.source_arn, sealer.source_arn, parent.source_arn}) != 3:
            raise ValueError("administrator, sealer and parent are three different roles")
        if parent.account in (admin.account, sealer.account):
            raise ValueError(
                "the key lives in the owner's account, never the parent's: who administers the parent's account would administer the key"
            )


def _role(arn: str) -> Principal:
    principal = principal_from_arn(arn)
    if principal.kind is not CallerKind.ROLE or principal.source_arn != arn:
        raise ValueError("administrator, sealer and parent are ARNs of IAM roles: arn:aws:iam::ACCOUNT:role/NAME")
    return principal


def _allow(sid: str, role: str, actions: Sequence[str], conditions: Json | None = None) -> Json:
    statement: Json = {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": role}, "Action": list(actions), "Resource": "*"}
    return {**statement, "Condition": conditions} if conditions else statement


def _deny(sid: str, actions: Sequence[str], conditions: Json | None = None) -> Json:
    statement: Json = {"Sid": sid, "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": list(actions), "Resource": "*"}
    return {**statement, "Condition": conditions} if conditions else statement


def _unless(key: str, values: Sequence[str]) -> Json:
    """True on an absent key too: no attestation, no match (IAM User Guide, "Condition operators")."""
    distinct = list(dict.fromkeys(values))
    return {"StringNotEqualsIgnoreCase": {key: distinct[0] if len(distinct) == 1 else distinct}}


def _pcrs(inputs: Inputs) -> dict[int, list[str]]:
    """Hex values per PCR; PCR8 only where every measurement set has one."""
    indices = [0, 1, 2] + ([8] if all(8 in m.pcrs for m in inputs.measurements) else [])
    values = {index: [m.pcrs[index].hex() for m in inputs.measurements] for index in indices}
    values[16] = [extended(owner_measurement(inputs.owner_key)).hex()]
    return values


def document(inputs: Inputs) -> Json:
    """The policy as JSON values, ready for a template."""
    owner, epochs = owner_hash(inputs.owner_key), [str(epoch) for epoch in inputs.epochs]
    context: Json = {
        "StringEquals": {f"{CONTEXT_KEY}cloister-owner": owner, f"{CONTEXT_KEY}cloister-epoch": epochs[0] if len(epochs) == 1 else epochs}
    }
    statements = [
        _allow("Administration", inputs.admin, ADMINISTRATION),
        _allow("Seal", inputs.sealer, ("kms:Encrypt",), context),
        _allow("SealerLooks", inputs.sealer, ("kms:DescribeKey",)),
        _allow("Unwrap", inputs.parent, ("kms:Decrypt",)),
        *(_deny(f"UnlessPCR{n}", ("kms:Decrypt",), _unless(f"{PCR_KEY}{n}", values)) for n, values in _pcrs(inputs).items()),
        _deny("UnlessOwner", ("kms:Decrypt",), _unless(f"{CONTEXT_KEY}cloister-owner", [owner])),
        _deny("UnlessEpoch", ("kms:Decrypt",), _unless(f"{CONTEXT_KEY}cloister-epoch", epochs)),
        _deny("NoEscape", ESCAPES),
        _deny("OneAdministrator", ("kms:PutKeyPolicy",), {"ArnNotEquals": {"aws:PrincipalArn": inputs.admin}}),
    ]
    return {"Version": VERSION, "Id": "cloister", "Statement": statements}


def generate(inputs: Inputs) -> str:
    """The key policy as JSON text, the same for the same inputs."""
    text = json.dumps(document(inputs), indent=2) + "\n"
    if len(text.encode()) > KEY_POLICY_MAX:
        raise ValueError("the policy exceeds the 32 KB of AWS KMS")
    return text
