"""What a key policy is judged about: the enclave it means to admit, read out of the policy itself or stated beside it.

`lint` and `simulate` take a policy alone. The right measurements, owner and epoch are then those that the policy names:
at most two of each (a roll-out); a third is no roll-out, and counts as a wrong one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import re

from owner.policy_document import Policy

PCR_PREFIX = "kms:recipientattestation:pcr"
IMAGE = "kms:recipientattestation:imagesha384"
CONTEXT_PREFIX = "kms:encryptioncontext:"
OWNER, EPOCH, MODEL, FORMAT = (f"{CONTEXT_PREFIX}cloister-{name}" for name in ("owner", "epoch", "model", "format"))
LOCKS = (0, 1, 2, 16)
MOST = 2
PCR_DIGITS = 96
ZERO = "0" * PCR_DIGITS
_HEX = re.compile(r"[0-9a-f]{96}")

# Stand-ins where the policy says nothing. `_UNLIKE` is a wrong value, `_LIKE` fills the wildcards of a right one.
_LIKE, _UNLIKE = "5", "e"
_DEFAULT_PCR = {index: f"{index + 1:02x}" * 48 for index in range(32)}
WRONG = _UNLIKE * PCR_DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the policy ought to admit, where the caller knows it: hex PCR values per set, owner hash, current epochs."""

    measurements: tuple[Mapping[int, str], ...]
    owner: str
    epochs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The right enclaves (hex value per PCR), the right encryption contexts, and per key the wrong values worth trying."""

    enclaves: tuple[Mapping[int, str], ...]
    contexts: tuple[Mapping[str, str], ...]
    wrong_pcrs: Mapping[int, tuple[str | None, ...]]
    other_owners: tuple[str, ...]
    old_epochs: tuple[str, ...]


def named(policy: Policy, key: str) -> tuple[str, ...]:
    """Every value that any condition of the policy compares this key with, in order, without repetition."""
    values = [
        value
        for statement in policy.statements
        for condition in statement.conditions
        if condition.key.lower() == key and not condition.operator.startswith("Null")
        for value in condition.values
    ]
    return tuple(dict.fromkeys(values))


def filled(pattern: str, character: str, length: int) -> str:
    """A text of `length` that fits a pattern of `*` and `?`, where there is one."""
    text = pattern.replace("?", character)
    head, star, tail = text.partition("*")
    tail = tail.replace("*", "")
    return head + character * max(0, length - len(head) - len(tail)) + tail if star else text


def _right_pcr(values: Iterable[str]) -> tuple[str, ...]:
    exact = [value.lower() for value in values if _HEX.fullmatch(value.lower()) and value != ZERO]
    patterns = [filled(value.lower(), _LIKE, PCR_DIGITS) for value in values if "*" in value or "?" in value]
    return tuple(dict.fromkeys(exact or [value for value in patterns if _HEX.fullmatch(value)]))


def _named_pcr(policy: Policy, index: int) -> tuple[str, ...]:
    values = named(policy, f"{PCR_PREFIX}{index}")
    return values + named(policy, IMAGE) if index == 0 else values


def _wrong_pcr(values: Iterable[str], right: Iterable[str], *, absent: bool) -> tuple[str | None, ...]:
    """A value unlike any, each listed value that is not right, one that fits each pattern; zero; absent where a document may lack it."""
    candidates = [WRONG, *(value.lower() for value in values)]
    for pattern in values:
        candidates += [filled(pattern.lower(), character, PCR_DIGITS) for character in (_UNLIKE, "0")]
    distinct = dict.fromkeys(value for value in candidates if _HEX.fullmatch(value) and value not in set(right))
    return (*distinct, None) if absent else tuple(distinct)


def _numbers(values: Iterable[str]) -> list[int]:
    return sorted({int(value) for value in values if re.fullmatch(r"[0-9]{1,18}", value)}, reverse=True)


def _epochs(values: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The current epochs, highest first, and the older ones worth trying."""
    numbers = _numbers(values) or [1]
    current = numbers[:MOST]
    older = [
        *numbers[MOST:],
        current[-1] - 1,
        *(int(filled(value, "0", 1)) for value in values if re.fullmatch(r"[0-9*?]+", value) and "*" in value),
    ]
    return tuple(map(str, current)), tuple(dict.fromkeys(str(number) for number in older if number >= 0 and number not in current))


def _context_names(policy: Policy) -> list[str]:
    names = [condition.key.lower() for statement in policy.statements for condition in statement.conditions]
    return [name for name in dict.fromkeys(names) if name.startswith(CONTEXT_PREFIX)]


def _contexts(policy: Policy, owner: str, epochs: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    base = {"cloister-format": "1", "cloister-owner": owner, "cloister-model": "model"}
    for name in _context_names(policy):
        values = named(policy, name)
        if name not in (OWNER, EPOCH) and values:
            base[name.removeprefix(CONTEXT_PREFIX)] = filled(values[0], _LIKE, 1)
    return tuple({**base, "cloister-epoch": epoch} for epoch in epochs)


def subject(policy: Policy, expected: Expected | None = None) -> Subject:
    """Read the subject out of a policy; what `expected` states is right, whatever the policy names."""
    indices = sorted({*LOCKS, *(index for index in range(32) if _named_pcr(policy, index))})
    right, wrong = {}, {}
    for index in indices:
        values = _named_pcr(policy, index)
        stated = tuple(dict.fromkeys(m[index] for m in expected.measurements if index in m)) if expected else ()
        right[index] = stated or _right_pcr(values)[:MOST] or (_DEFAULT_PCR[index],)
        wrong[index] = _wrong_pcr(values, right[index], absent=index >= 16)
    sets = max(len(values) for values in right.values())
    enclaves = tuple({index: values[min(number, len(values) - 1)] for index, values in right.items()} for number in range(sets))
    owners = named(policy, OWNER)
    owner = expected.owner if expected else next((filled(value, _LIKE, PCR_DIGITS).lower() for value in owners), "0a" * 48)
    current, older = _epochs(named(policy, EPOCH))
    if expected:
        current = expected.epochs
        older = tuple(dict.fromkeys([str(min(map(int, current)) - 1), *(epoch for epoch in older if epoch not in current)]))
    others = dict.fromkeys([WRONG, *(filled(value, _UNLIKE, PCR_DIGITS).lower() for value in owners if "*" in value or "?" in value)])
    return Subject(
        enclaves=tuple(expected.measurements) if expected else enclaves,
        contexts=_contexts(policy, owner, current),
        wrong_pcrs=wrong,
        other_owners=tuple(value for value in others if value != owner),
        old_epochs=older,
    )
