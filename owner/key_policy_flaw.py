"""What a policy or key is faulted for beside the attacks: it cannot be judged, or is not the key that was judged."""

from dataclasses import dataclass

_MODELLED = "the principals, operators and keys of docs/kms-simulator.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """One fault: where it is, what it is, and what to do instead."""

    where: str
    text: str
    fix: str


def unjudged(where: str, what: str, fix: str = _MODELLED) -> Flaw:
    """Something that the model cannot say the effect of; it is never taken for harmless."""
    return Flaw(where=where, text=f"cannot be judged: {what}", fix=fix)


def entangled(key: str) -> Flaw:
    """More patterns than can be told apart."""
    return unjudged("the policy", f"the patterns for {key} are too many to tell apart", "whole values instead of patterns")
