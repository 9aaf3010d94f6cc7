"""The caller of a request: root user, IAM user, federated user, role session or AWS service, with all its names in policies."""

from dataclasses import dataclass
from enum import StrEnum
import re


class CallerKind(StrEnum):
    """What kind of principal calls."""

    ROOT = "Account"
    USER = "User"
    FEDERATED = "FederatedUser"
    ROLE = "AssumedRole"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller. `name` is the user's or role's name with its path (`ops/Admin`), empty for root; a role has a session name.

    A federated user is a session of sts:GetFederationToken, by the name given there.
    """

    kind: CallerKind
    account: str
    name: str = ""
    session: str = ""
    partition: str = "aws"

    @property
    def arn(self) -> str:
        """The ARN that STS GetCallerIdentity gives: of the session, for a role."""
        if self.kind is CallerKind.ROLE:
            return f"arn:{self.partition}:sts::{self.account}:assumed-role/{self.name.rpartition('/')[2]}/{self.session}"
        return self.source_arn

    @property
    def source_arn(self) -> str:
        """What aws:PrincipalArn says: the ARN of the role, not of its session."""
        match self.kind:
            case CallerKind.ROOT:
                return f"arn:{self.partition}:iam::{self.account}:root"
            case CallerKind.USER:
                return f"arn:{self.partition}:iam::{self.account}:user/{self.name}"
            case CallerKind.FEDERATED:
                return f"arn:{self.partition}:sts::{self.account}:federated-user/{self.name}"
            case CallerKind.ROLE:
                return f"arn:{self.partition}:iam::{self.account}:role/{self.name}"
            case CallerKind.SERVICE:
                return self.name

    @property
    def arns(self) -> tuple[str, ...]:
        """Every ARN by which a Principal element or a grant may name this caller itself (its account not among them)."""
        return (self.source_arn, self.arn) if self.kind is CallerKind.ROLE else (self.source_arn,)

    @property
    def context(self) -> dict[str, tuple[str, ...]]:
        """The condition keys that follow from the caller."""
        service = "true" if self.kind is CallerKind.SERVICE else "false"
        keys: dict[str, tuple[str, ...]] = {"aws:principalisawsservice": (service,), "aws:viaawsservice": ("false",)}
        if self.kind is not CallerKind.SERVICE:
            keys["aws:principalarn"] = (self.source_arn,)
            keys["aws:principalaccount"] = keys["kms:calleraccount"] = (self.account,)
            keys["aws:principaltype"] = (self.kind.value,)
        return keys


_ARN = re.compile(
    r"arn:(?P<partition>aws|aws-cn|aws-us-gov):(?:iam::(?P<iam>[0-9]{12}):(?P<what>root|user/(?P<user>[\x21-\x7e]+)|role/(?P<role>[\x21-\x7e]+))"
    r"|sts::(?P<sts>[0-9]{12}):(?:assumed-role/(?P<assumed>[^/]+)/(?P<session>[^/]+)|federated-user/(?P<federated>[^/]+)))"
)


def principal_from_arn(arn: str, *, session: str = "session") -> Principal:
    """The caller that an ARN names; a role's ARN becomes a session of it. Raises: ValueError."""
    match = _ARN.fullmatch(arn)
    if match is None:
        raise ValueError("not the ARN of a root user, user, federated user, role or role session")
    account, partition = match["iam"] or match["sts"], match["partition"]
    if match["assumed"]:
        return Principal(kind=CallerKind.ROLE, account=account, name=match["assumed"], session=match["session"], partition=partition)
    if match["federated"]:
        return Principal(kind=CallerKind.FEDERATED, account=account, name=match["federated"], partition=partition)
    if match["role"]:
        return Principal(kind=CallerKind.ROLE, account=account, name=match["role"], session=session, partition=partition)
    if match["user"]:
        return Principal(kind=CallerKind.USER, account=account, name=match["user"], partition=partition)
    return Principal(kind=CallerKind.ROOT, account=account, partition=partition)
