"""One authenticated call on its way through the simulated service, and how `owner.policy` judges it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from attestation.chain import Root
from owner.policy import Decision, Grant, Outcome, Request, decide
from owner.policy_document import Policy, parse, parse_identity
from owner.policy_principal import Principal, principal_from_arn
from simulator.kms.accounts import Access
from simulator.kms.errors import ErrorCode, KmsError
from simulator.kms.keys import Key
from simulator.kms.recipient import Recipient, condition_keys
from simulator.kms.shapes import Value

# For actions without a key (CreateKey, GenerateRandom) the caller's identity policies decide alone: as if a key policy
# delegated to them.
_ACCOUNT_POLICY = (
    '{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{account}"}},"Action":"kms:*","Resource":"*"}}]}}'
)


@dataclass(slots=True, kw_only=True)
class Call:
    """A call: who makes it, what it asks, what was decided. `decision` and the fields after it are for the log."""

    operation: str
    members: dict[str, Value]
    access: Access
    region: str
    now: datetime
    roots: tuple[Root, ...]
    key: Key | None = None
    recipient: Recipient | None = None
    decisions: list[Decision] = field(default_factory=list)

    @property
    def principal(self) -> Principal:
        """The caller."""
        return principal_from_arn(self.access.arn)

    def text(self, name: str) -> str | None:
        """A text member of the request."""
        value = self.members.get(name)
        return value if isinstance(value, str) else None

    def blob(self, name: str) -> bytes:
        """A blob member that the model requires."""
        value = self.members[name]
        if not isinstance(value, bytes):
            raise KmsError(ErrorCode.SERIALIZATION, f"{name} has the wrong type")
        return value

    def context(self, member: str = "EncryptionContext") -> dict[str, str]:
        """The encryption context; empty where there is none."""
        value = self.members.get(member)
        return {name: item for name, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else {}

    def authorize(
        self, key: Key | None, action: str, extra: Mapping[str, tuple[str, ...]] | None = None, *, context: str = "EncryptionContext"
    ) -> None:
        """Let `owner.policy` decide. Raises: KmsError(ACCESS_DENIED), naming the statement that decided."""
        account = self.principal.account
        arn = key.arn if key else f"arn:aws:kms:{self.region}:{account}:*"
        policy = parse(key.policy if key else _ACCOUNT_POLICY.format(account=account))
        decision = self.judge(policy, key, action, arn, extra or {}, context=context)
        self.decisions.append(decision)
        if not decision.allowed:
            raise KmsError(ErrorCode.ACCESS_DENIED, f"{self._denied(action, arn, decision)}")

    def judge(
        self,
        policy: Policy,
        key: Key | None,
        action: str,
        arn: str,
        extra: Mapping[str, tuple[str, ...]],
        *,
        context: str = "EncryptionContext",
    ) -> Decision:
        """The decision under `policy`, which need not be the key's own."""
        keys = {"aws:requestedregion": (self.region,), **key_conditions(key), **condition_keys(self.recipient), **extra}
        if "EncryptionAlgorithm" in self.members or action in CRYPTOGRAPHIC:
            keys["kms:encryptionalgorithm"] = ("SYMMETRIC_DEFAULT",)
        request = Request(
            principal=self.principal,
            action=action,
            resource=arn,
            encryption_context=self.context(context),
            context=keys,
            identity=tuple(map(parse_identity, self.access.identity)),
        )
        grants: tuple[Grant, ...] = tuple(stored.grant for stored in key.grants) if key else ()
        return decide(policy, request, grants=grants)

    def _denied(self, action: str, arn: str, decision: Decision) -> str:
        says = f"User: {self.principal.arn} is not authorized to perform: {action} on resource: {arn}"
        if decision.outcome is Outcome.IMPLICIT_DENY or decision.deciding is None:
            return f"{says} because no resource-based policy allows the {action} action"
        by = f"{decision.deciding.source}, {decision.deciding.statement}"
        if decision.outcome is Outcome.NOT_MODELLED:
            return f"{says}: the simulator does not model {decision.deciding.detail} ({by}) and denies"
        return f"{says} with an explicit deny ({by})"


CRYPTOGRAPHIC = frozenset(("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"))


def key_conditions(key: Key | None) -> dict[str, tuple[str, ...]]:
    """The condition keys that describe a key."""
    if key is None:
        return {}
    return {
        "kms:keyspec": ("SYMMETRIC_DEFAULT",),
        "kms:keyusage": ("ENCRYPT_DECRYPT",),
        "kms:keyorigin": ("AWS_KMS",),
        "kms:multiregion": ("true" if key.multi_region else "false",),
    }
