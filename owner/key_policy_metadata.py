"""What KMS says of a key beside its policy: DescribeKey and ListGrants, as the AWS CLI prints them."""

from collections.abc import Mapping
from dataclasses import dataclass
import json
import re

from owner.errors import OwnerError
from owner.key_policy_flaw import Flaw
from owner.policy import Grant

METADATA_MAX = 4 << 20
ORIGIN = "AWS_KMS"
_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):kms:[a-z0-9-]{1,40}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")


class MalformedMetadataError(OwnerError):
    """The file holds neither DescribeKey's nor ListGrants' JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """None is: not known, and so not checked."""

    arn: str | None = None
    multi_region: bool | None = None
    replicas: tuple[str, ...] | None = None
    origin: str | None = None
    grants: tuple[Grant, ...] | None = None

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What is not known, in words."""
        described = () if self.multi_region is not None else ("multi-Region replicas and origin (DescribeKey)",)
        return described + (() if self.grants is not None else ("existing grants (ListGrants)",))

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """Key material that others have, or hold: no policy guards it."""
        if self.origin in (None, ORIGIN):
            return ()
        return (
            Flaw(
                where="the key",
                text=f"the key's material is of origin {self.origin}: whoever imported or holds it decrypts without KMS and this policy",
                fix=f"a key with material that KMS made and never gives out (origin {ORIGIN})",
            ),
        )


def _texts(value: object) -> dict[str, str] | None:
    return {str(name): str(item) for name, item in value.items()} if isinstance(value, Mapping) else None


def _grant(value: object) -> Grant:
    if (
        not isinstance(value, Mapping)
        or not isinstance(value.get("GranteePrincipal"), str)
        or not isinstance(value.get("Operations"), list)
    ):
        raise MalformedMetadataError("a grant has GranteePrincipal and Operations")
    constraints = value.get("Constraints") or {}
    if not isinstance(constraints, Mapping):
        raise MalformedMetadataError("Constraints is an object")
    return Grant(
        id=str(value.get("GrantId", "?")),
        grantee=value["GranteePrincipal"],
        operations=frozenset(map(str, value["Operations"])),
        context_equals=_texts(constraints.get("EncryptionContextEquals")),
        context_subset=_texts(constraints.get("EncryptionContextSubset")),
    )


def _described(value: Mapping[str, object]) -> dict[str, object]:
    configuration = value.get("MultiRegionConfiguration")
    replicas = configuration.get("ReplicaKeys") if isinstance(configuration, Mapping) else None
    arns = [str(item.get("Arn")) for item in replicas if isinstance(item, Mapping)] if isinstance(replicas, list) else []
    is_replica = isinstance(configuration, Mapping) and configuration.get("MultiRegionKeyType") == "REPLICA"
    arn, multi_region, origin = (value.get(name) for name in ("Arn", "MultiRegion", "Origin"))
    if not isinstance(arn, str) or not isinstance(multi_region, bool) or not isinstance(origin, str):
        raise MalformedMetadataError("KeyMetadata has Arn, MultiRegion and Origin")
    if _ARN.fullmatch(arn) is None:
        raise MalformedMetadataError("KeyMetadata's Arn is no KMS key's: arn:aws:kms:REGION:ACCOUNT:key/ID")
    return {
        "arn": arn,
        "multi_region": multi_region,
        "replicas": tuple(arns) or (("primary",) if is_replica else ()),
        "origin": origin,
    }


def parse(text: str) -> Metadata:
    """One JSON object with `KeyMetadata`, `Grants` or both. Raises: MalformedMetadataError, and nothing else."""
    try:
        value = json.loads(text) if len(text) <= METADATA_MAX else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping) or not ("KeyMetadata" in value or "Grants" in value):
        raise MalformedMetadataError("expected the JSON of DescribeKey, of ListGrants, or both members in one object")
    described, grants = value.get("KeyMetadata"), value.get("Grants")
    if described is not None and not isinstance(described, Mapping):
        raise MalformedMetadataError("KeyMetadata is an object")
    if grants is not None and (not isinstance(grants, list) or value.get("Truncated") is True):
        raise MalformedMetadataError("Grants is a complete list, not one page of several")
    fields = _described(described) if described is not None else {}
    arn, multi, replicas, origin = (fields.get(name) for name in ("arn", "multi_region", "replicas", "origin"))
    return Metadata(
        arn=arn if isinstance(arn, str) else None,
        multi_region=multi if isinstance(multi, bool) else None,
        replicas=replicas if isinstance(replicas, tuple) else None,
        origin=origin if isinstance(origin, str) else None,
        grants=None if grants is None else tuple(map(_grant, grants)),
    )
