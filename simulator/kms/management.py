"""The operations that manage a key: CreateKey, DescribeKey, Get/PutKeyPolicy, CreateGrant, ListGrants."""

from dataclasses import replace
import secrets

from owner.key_policy import DEFAULT_POLICY
from owner.policy import Grant
from owner.policy_document import MalformedPolicyError, PolicyRule, parse
from simulator.kms.call import Call
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.keys import Key, KeyState, KeyStore, StoredGrant, new_key
from simulator.kms.operations import Answer, usable
from simulator.kms.resolve import resolve
from simulator.kms.shapes import Value

GRANTS_MAX = 50_000  # KMS Developer Guide, "Resource quotas": grants per KMS key
_DELETION_DAYS = 30
_SYMMETRIC_OPERATIONS = frozenset(
    (
        *("CreateGrant", "Decrypt", "DescribeKey", "Encrypt", "ReEncryptFrom", "ReEncryptTo", "RetireGrant"),
        *("GenerateDataKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext"),
    )
)


def metadata(key: Key, now: float) -> dict[str, Value]:
    """KeyMetadata as DescribeKey and CreateKey give it."""
    described: dict[str, Value] = {
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state.value,
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": key.multi_region,
    }
    if key.state is KeyState.PENDING_DELETION:
        described["DeletionDate"] = now + _DELETION_DAYS * 86_400
    if key.multi_region:
        primary: dict[str, Value] = {"Arn": key.arn, "Region": key.arn.split(":")[3]}
        described["MultiRegionConfiguration"] = {"MultiRegionKeyType": "PRIMARY", "PrimaryKey": primary, "ReplicaKeys": []}
    return described


def _acceptable(call: Call, text: str, key: Key) -> None:
    """A policy as PutKeyPolicy takes it: well formed, and leaving the caller able to change it again."""
    try:
        policy = parse(text)
    except MalformedPolicyError as error:
        code = ErrorCode.LIMIT_EXCEEDED if error.rule is PolicyRule.SIZE else ErrorCode.MALFORMED_POLICY
        raise KmsError(code, f"The policy is malformed: {error}") from None
    if call.members.get("BypassPolicyLockoutSafetyCheck") is True:
        return
    if not call.judge(policy, key, "kms:PutKeyPolicy", key.arn, {"kms:bypasspolicylockoutsafetycheck": ("false",)}).allowed:
        raise KmsError(ErrorCode.MALFORMED_POLICY, "The new key policy will not allow you to update the key policy in the future.")


def create_key(call: Call, store: KeyStore) -> Answer:
    """CreateKey: symmetric keys of origin AWS_KMS alone."""
    spec = call.text("KeySpec") or call.text("CustomerMasterKeySpec") or "SYMMETRIC_DEFAULT"
    if (spec, call.text("KeyUsage") or "ENCRYPT_DECRYPT", call.text("Origin") or "AWS_KMS") != (
        "SYMMETRIC_DEFAULT",
        "ENCRYPT_DECRYPT",
        "AWS_KMS",
    ):
        raise KmsError(ErrorCode.UNSUPPORTED, "only symmetric encryption keys of origin AWS_KMS are modelled")
    multi_region = call.members.get("MultiRegion") is True
    bypass = "true" if call.members.get("BypassPolicyLockoutSafetyCheck") is True else "false"
    described = {
        "kms:keyspec": (spec,),
        "kms:keyusage": ("ENCRYPT_DECRYPT",),
        "kms:keyorigin": ("AWS_KMS",),
        "kms:multiregion": ("true" if multi_region else "false",),
        "kms:bypasspolicylockoutsafetycheck": (bypass,),
    }
    call.authorize(None, "kms:CreateKey", described)
    account = call.principal.account
    key = new_key(
        account=account,
        region=call.region,
        policy=call.text("Policy") or DEFAULT_POLICY.format(account=account),
        description=call.text("Description") or "",
        now=call.now,
        multi_region=multi_region,
    )
    if call.text("Policy"):
        _acceptable(call, key.policy, key)
    store.put(key)
    call.key = key
    return {"KeyMetadata": metadata(key, call.now.timestamp())}


def describe_key(call: Call, store: KeyStore) -> Answer:
    """DescribeKey."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    call.authorize(key, "kms:DescribeKey")
    return {"KeyMetadata": metadata(key, call.now.timestamp())}


def _policy_name(call: Call) -> None:
    if (call.text("PolicyName") or "default") != "default":
        raise KmsError(ErrorCode.NOT_FOUND, "No such policy exists")


def get_key_policy(call: Call, store: KeyStore) -> Answer:
    """GetKeyPolicy."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    call.authorize(key, "kms:GetKeyPolicy")
    _policy_name(call)
    return {"Policy": key.policy, "PolicyName": "default"}


def put_key_policy(call: Call, store: KeyStore) -> Answer:
    """PutKeyPolicy."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    bypass = "true" if call.members.get("BypassPolicyLockoutSafetyCheck") is True else "false"
    call.authorize(key, "kms:PutKeyPolicy", {"kms:bypasspolicylockoutsafetycheck": (bypass,)})
    _policy_name(call)
    if key.state is KeyState.PENDING_DELETION:
        usable(key)
    text = call.text("Policy") or ""
    _acceptable(call, text, key)
    store.put(replace(key, policy=text))
    return {}


def _constraint(call: Call, name: str) -> dict[str, str] | None:
    constraints = call.members.get("Constraints")
    value = constraints.get(name) if isinstance(constraints, dict) else None
    return {pair: item for pair, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else None


def create_grant(call: Call, store: KeyStore) -> Answer:
    """CreateGrant; a grant is effective at once, its token is never needed."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    wanted = call.members.get("Operations")
    operations = frozenset(str(item) for item in wanted) if isinstance(wanted, list) else frozenset()
    equals, subset = _constraint(call, "EncryptionContextEquals"), _constraint(call, "EncryptionContextSubset")
    grantee, retiring = call.text("GranteePrincipal") or "", call.text("RetiringPrincipal")
    extra: dict[str, tuple[str, ...]] = {
        "kms:grantoperations": tuple(sorted(operations)),
        "kms:granteeprincipal": (grantee,),
        "kms:grantisforawsresource": ("false",),
    }
    if retiring:
        extra["kms:retiringprincipal"] = (retiring,)
    if equals is not None or subset is not None:
        extra["kms:grantconstrainttype"] = ("EncryptionContextEquals" if equals is not None else "EncryptionContextSubset",)
    call.authorize(key, "kms:CreateGrant", extra)
    usable(key)
    if not operations <= _SYMMETRIC_OPERATIONS:
        raise KmsError(ErrorCode.VALIDATION, "Grant operations must be among those of a symmetric key")
    if len(key.grants) >= GRANTS_MAX:
        raise KmsError(ErrorCode.LIMIT_EXCEEDED, "the key has its maximum of grants")
    grant = Grant(id=secrets.token_hex(32), grantee=grantee, operations=operations, context_equals=equals, context_subset=subset)
    stored = StoredGrant(
        grant=grant, created=call.now.timestamp(), issuing_account=call.principal.account, retiring=retiring, name=call.text("Name")
    )
    store.put(replace(key, grants=(*key.grants, stored)))
    return {"GrantToken": secrets.token_urlsafe(64), "GrantId": grant.id}


def _listed(key: Key, stored: StoredGrant) -> dict[str, Value]:
    constraints: dict[str, Value] = {}
    if stored.grant.context_equals is not None:
        constraints["EncryptionContextEquals"] = dict(stored.grant.context_equals)
    if stored.grant.context_subset is not None:
        constraints["EncryptionContextSubset"] = dict(stored.grant.context_subset)
    listed: dict[str, Value] = {
        "KeyId": key.arn,
        "GrantId": stored.grant.id,
        "Name": stored.name or "",
        "CreationDate": stored.created,
        "GranteePrincipal": stored.grant.grantee,
        "IssuingAccount": f"arn:aws:iam::{stored.issuing_account}:root",
        "Operations": list[Value](sorted(stored.grant.operations)),
    }
    if stored.retiring:
        listed["RetiringPrincipal"] = stored.retiring
    return {**listed, "Constraints": constraints} if constraints else listed


def list_grants(call: Call, store: KeyStore) -> Answer:
    """ListGrants, in one page or several."""
    key = call.key = resolve(call, store, call.text("KeyId"))
    call.authorize(key, "kms:ListGrants")
    grant_id, grantee = call.text("GrantId"), call.text("GranteePrincipal")
    chosen = [one for one in key.grants if grant_id in (None, one.grant.id) and grantee in (None, one.grant.grantee)]
    marker, limit = call.text("Marker") or "0", call.members.get("Limit")
    if not marker.isdigit() or len(marker) > 6:
        raise KmsError(ErrorCode.VALIDATION, "Marker is not one that ListGrants gave")
    start, size = int(marker), limit if isinstance(limit, int) else 50
    page: Answer = {"Grants": [_listed(key, one) for one in chosen[start : start + size]], "Truncated": start + size < len(chosen)}
    return {**page, "NextMarker": str(start + size)} if page["Truncated"] else page
