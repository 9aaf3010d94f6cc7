"""deploy/aws/owner.yaml: who can assume its roles, and that KeyAdmin as it makes it makes the key."""

from collections.abc import Mapping
from datetime import UTC, datetime
import json
from pathlib import Path
import re
from typing import Any

import pytest
import yaml

from owner import key_policy_template
from owner.policy_document import parse_identity
from simulator.kms import SimulatedKms, issue
from simulator.pki import SimulatedPki
from tests.kms.world import ADMIN, INPUTS, OWNER_ACCOUNT, POLICY, REGION, Clock, root_of, signed
from tests.vectors_path import ROOT

TEMPLATE = ROOT / "deploy" / "aws" / "owner.yaml"
USER = f"arn:aws:iam::{OWNER_ACCOUNT}:user/people/alice"
SSO = f"arn:aws:iam::{OWNER_ACCOUNT}:role/aws-reserved/sso.amazonaws.com/eu-central-1/AWSReservedSSO_Keys_0123456789abcdef"
ROLE = f"arn:aws:iam::{OWNER_ACCOUNT}:role/KeyPeople"
NOTHING = object()


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, each as the one-member mapping that it stands for."""


def _short(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix == "Ref" else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", _short)


class Stack:
    """The template deployed for one trusted principal: its functions worked out."""

    def __init__(self, trusted: str) -> None:
        self.template = yaml.load(TEMPLATE.read_text(), Loader)  # noqa: S506 - a SafeLoader
        self.names = {"TrustedArn": trusted, "AWS::Partition": "aws", "AWS::AccountId": OWNER_ACCOUNT, "AWS::NoValue": NOTHING}

    def resolve(self, value: Any) -> Any:
        """A value without functions; members that are AWS::NoValue are gone."""
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1 and (name := next(iter(value))).startswith(("Ref", "Fn::")):
            return self._function(name, value[name])
        members = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in members.items() if item is not NOTHING}

    def _function(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return self.names[argument]
            case "Fn::Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda match: str(self.names[match[1]]), argument)
            case "Fn::If":
                return self.resolve(argument[1] if self.resolve(self.template["Conditions"][argument[0]]) else argument[2])
            case "Fn::Equals":
                first, second = self.resolve(argument)
                return first == second
            case "Fn::Split":
                separator, text = self.resolve(argument)
                return text.split(separator)
            case "Fn::Select":
                index, items = self.resolve(argument)
                return items[index]
            case _:
                raise NotImplementedError(name)

    def role(self, name: str) -> Any:
        """The properties of a role."""
        return self.resolve(self.template["Resources"][name]["Properties"])


def identity(trusted: str) -> list[str]:
    """KeyAdmin's identity policies."""
    return [json.dumps(one["PolicyDocument"]) for one in Stack(trusted).role("KeyAdmin").get("Policies", [])]


@pytest.fixture
def kms(tmp_path: Path) -> SimulatedKms:
    """A simulated KMS."""
    clock = Clock(now=datetime.now(UTC))
    SimulatedPki.open(tmp_path / "pki", instance_id="i-0123456789abcdef0", clock=clock)
    (tmp_path / "kms").mkdir()
    return SimulatedKms(state=tmp_path / "kms", region=REGION, roots=(root_of(tmp_path / "pki"),), clock=clock)


def create(kms: SimulatedKms, state: Path, arn: str, policies: list[str]) -> tuple[int, Any]:
    """CreateKey with the generated policy, by a principal with these identity policies."""
    return signed(kms, issue(state, arn, identity=policies), "CreateKey", {"Policy": POLICY}, datetime.now(UTC))


def test_key_admin_makes_the_key_and_nobody_else_can(kms: SimulatedKms, tmp_path: Path) -> None:
    """KeyAdmin with the template's policies creates the key with the generated policy; without them, or as another, KMS refuses."""
    state = tmp_path / "kms"
    assert create(kms, state, ADMIN, identity(SSO))[0] == 200
    assert create(kms, state, ADMIN, [])[1]["__type"] == "AccessDeniedException"
    everything = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'
    status, answer = create(kms, state, f"arn:aws:iam::{OWNER_ACCOUNT}:role/Deployer", [everything])
    assert (status, answer["__type"]) == (400, "MalformedPolicyDocumentException")


@pytest.mark.parametrize("role", ["KeyAdmin", "Sealer"])
@pytest.mark.parametrize(("trusted", "second"), [(USER, True), (SSO, False), (ROLE, False)])
def test_a_second_factor_is_demanded_where_it_can_be_shown(role: str, trusted: str, second: bool) -> None:
    """A user shows its MFA device to AssumeRole; credentials of a role never carry it, and would be locked out for good."""
    (statement,) = Stack(trusted).role(role)["AssumeRolePolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Allow", {"AWS": trusted})
    assert statement.get("Condition") == ({"Bool": {"aws:MultiFactorAuthPresent": "true"}} if second else None)


@pytest.mark.parametrize(("arn", "accepted"), [(USER, True), (SSO, True), (ROLE, True), (f"arn:aws:iam::{OWNER_ACCOUNT}:root", False)])
def test_who_may_be_trusted(arn: str, accepted: bool) -> None:
    """A user or role for people; not the whole account, in which anyone who writes policies could assume the role."""
    pattern = Stack(arn).template["Parameters"]["TrustedArn"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, arn)) is accepted


def test_key_admin_uses_no_key() -> None:
    """Its identity policy makes keys and deploys one stack; of KMS it has nothing else, in this account or another's."""
    actions = [one for policy in identity(ROLE) for statement in parse_identity(policy).statements for one in statement.actions.values]
    assert [action for action in actions if action.startswith("kms:")] == ["kms:CreateKey"]
    assert all(re.fullmatch(r"(kms|cloudformation):[A-Za-z]+", action) for action in actions)
    assert "AWS::KMS::Key" in key_policy_template.cloudformation(INPUTS)


def test_the_walk_names_the_stack_that_key_admin_may_deploy() -> None:
    """docs/own.md deploys the key's template under the one stack name that KeyAdmin's policy allows."""
    walk = (ROOT / "docs" / "own.md").read_text()
    (deploys,) = [one for one in json.loads(identity(ROLE)[0])["Statement"] if one["Sid"] == "DeployTheKeysTemplate"]
    assert "--stack-name cloister-key " in walk and "--stack-name cloister-owner " in walk
    assert deploys["Resource"] == f"arn:aws:cloudformation:*:{OWNER_ACCOUNT}:stack/cloister-key/*"
