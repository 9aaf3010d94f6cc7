"""The committed policies and what is expected of each (tests/vectors/policies/README.md)."""

from dataclasses import dataclass
from functools import cache
import json
from typing import Any

from owner.key_policy_attack import Attack
from owner.key_policy_matrix import Matrix, matrix
from owner.key_policy_metadata import Metadata
from owner.key_policy_metadata import parse as parse_metadata
from owner.policy_document import Policy, parse
from tests.vectors_path import ROOT

FOLDER = ROOT / "tests" / "vectors" / "policies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One policy: its text, the key's metadata where known, and the expectations."""

    name: str
    what: str
    text: str
    metadata_text: str | None
    attacks: frozenset[Attack]
    admits: bool
    unjudged: bool

    @property
    def policy(self) -> Policy:
        """The policy, parsed."""
        return parse(self.text)

    @property
    def metadata(self) -> Metadata:
        """What is known of the key."""
        return parse_metadata(self.metadata_text) if self.metadata_text else Metadata()

    def matrix(self) -> Matrix:
        """The matrix of this case."""
        return _matrix(self)


@cache
def _matrix(case: Case) -> Matrix:
    return matrix(case.policy, metadata=case.metadata)


def _case(name: str, value: dict[str, Any]) -> Case:
    return Case(
        name=name,
        what=value["what"],
        text=(FOLDER / f"{name}.json").read_text(),
        metadata_text=json.dumps(value["metadata"]) if "metadata" in value else None,
        attacks=frozenset(map(Attack, value["attacks"])),
        admits=value["admits"],
        unjudged=value.get("unjudged", False),
    )


CASES = tuple(_case(name, value) for name, value in json.loads((FOLDER / "cases.json").read_text()).items())
IDS = tuple(case.name for case in CASES)
