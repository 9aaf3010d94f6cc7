"""Every attack of the registry, each with its twin: refused by one check, successful without it."""

from pathlib import Path

import pytest

from simulator.hostile.attacks import ATTACKS, Attack, attempt
from simulator.hostile.twins import Edit, Outcome, TwinError, copy_tree

REGISTRY = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


@REGISTRY
def test_attack_is_refused(attack: Attack) -> None:
    """The attack does not get what it wants, and what refuses it is what the registry says."""
    assert attempt(attack, twin=False) == Outcome(succeeded=False, refused_by=attack.refused_by)


@REGISTRY
def test_twin_succeeds(attack: Attack) -> None:
    """Without that one check the same attack gets what it wants: so it is this check that refuses it."""
    assert attempt(attack, twin=True).succeeded


def test_edit_must_apply(tmp_path: Path) -> None:
    """A twin whose check has moved is an error, not a passing test."""
    with pytest.raises(TwinError):
        copy_tree(tmp_path / "tree", (Edit(file="wire/keys.py", old="no such line", new=""),))
