"""What each principal can do with the key, and what changes between two policies: in words, by asking the engine.

Both put the same questions, one for every principal, action and kind of evidence, so that a difference is one of effect,
not of text: a policy written in another style that decides alike differs in nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from owner.key_policy_attack import Step
from owner.key_policy_cast import Caller, Cast
from owner.key_policy_matrix import KEY_ID, matrix, request
from owner.key_policy_subject import Subject, subject
from owner.policy import decide
from owner.policy_document import Policy

DECRYPT = "kms:Decrypt"
ACTIONS = (
    *("kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:CreateGrant"),
    *(
        "kms:PutKeyPolicy",
        "kms:GetKeyPolicy",
        "kms:ReplicateKey",
        "kms:DescribeKey",
        "kms:ListGrants",
        "kms:RevokeGrant",
        "kms:RetireGrant",
    ),
    *("kms:EnableKey", "kms:DisableKey", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion", "kms:TagResource", "kms:UpdateKeyDescription"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One kind of Decrypt: how to say it, the PCRs (None: no document) and the encryption context."""

    words: str
    pcrs: Mapping[int, str] | None
    context: Mapping[str, str]


def _set(enclave: Mapping[int, str]) -> str:
    return ", ".join(f"PCR{index} {value[:8]}.." for index, value in sorted(enclave.items()))


def _evidence(about: Subject) -> list[Evidence]:
    kinds = []
    for context in about.contexts:
        where = f"epoch {context['cloister-epoch']}, owner {context['cloister-owner'][:8]}.."
        kinds += [Evidence(words=f"from the enclave with {_set(one)} ({where})", pcrs=one, context=context) for one in about.enclaves]
        kinds.append(Evidence(words=f"without attestation ({where})", pcrs=None, context=context))
        for index, values in about.wrong_pcrs.items():
            wrong = next(value for value in values if value is not None)
            kinds.append(
                Evidence(
                    words=f"from an enclave with any other PCR{index} ({where})", pcrs={**about.enclaves[0], index: wrong}, context=context
                )
            )
    return kinds


def _asks(policy: Policy, caller: Caller, action: str, arn: str, evidence: Evidence) -> bool:
    step = Step(caller=caller, action=action, pcrs=evidence.pcrs, context=evidence.context, keys={})
    return decide(policy, request(step, arn, False)).allowed


def _everyone(players: Cast) -> tuple[Caller, ...]:
    return (*players.callers, players.root, players.iam_admin)


def _can(policy: Policy, caller: Caller, arn: str, kinds: list[Evidence]) -> list[str]:
    plain = Evidence(words="", pcrs=None, context=kinds[0].context)
    can = [action for action in ACTIONS if _asks(policy, caller, action, arn, plain)]
    return can + [f"{DECRYPT} {kind.words}" for kind in kinds if _asks(policy, caller, DECRYPT, arn, kind)]


def explain(policy: Policy) -> tuple[str, ...]:
    """One paragraph per principal: what it can do, and under which measurements."""
    judged = matrix(policy)
    arn = f"arn:aws:kms:eu-central-1:{judged.cast.account}:{KEY_ID}"
    kinds = _evidence(judged.subject)
    paragraphs = []
    for caller in _everyone(judged.cast):
        can = _can(policy, caller, arn, kinds)
        role = " (the administrator)" if caller.name == judged.administrator else ""
        says = "can do nothing with this key" if not can else "can " + "; ".join(can)
        paragraphs.append(f"{caller.name}{role} {says}.")
    return tuple(paragraphs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What one principal may newly do, or no longer."""

    principal: str
    allowed: tuple[str, ...]
    forbidden: tuple[str, ...]


def diff(old: Policy, new: Policy) -> tuple[Difference, ...]:
    """What NEW allows or forbids that OLD did not, for everyone and every evidence that either of them names."""
    before, after = matrix(old), matrix(new)
    arn = f"arn:aws:kms:eu-central-1:{after.cast.account}:{KEY_ID}"
    kinds = list({kind.words: kind for about in (subject(old), subject(new)) for kind in _evidence(about)}.values())
    players = {caller.name: caller for cast in (before.cast, after.cast) for caller in _everyone(cast)}
    differences = []
    for caller in players.values():
        could, can = _can(old, caller, arn, kinds), _can(new, caller, arn, kinds)
        gained, lost = tuple(item for item in can if item not in could), tuple(item for item in could if item not in can)
        if gained or lost:
            differences.append(Difference(principal=caller.name, allowed=gained, forbidden=lost))
    return tuple(differences)
