"""What a key policy is judged about: the enclave it means to admit, read out of the policy itself or stated beside it.

`lint` and `simulate` take a policy alone. The right measurements, owner and epoch are then those that the policy names:
at most two of each (a roll-out); a third is no roll-out, and counts as a wrong one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import re

from owner.key_policy_flaw import Flaw, entangled
from owner.patterns import DIGITS, HEX, Form, Pattern, Run, Shape, TooManyError, kinds, literal
from owner.policy_condition import patterns
from owner.policy_document import Policy
from wire.manifest_codec import ID

PCR_PREFIX = "kms:recipientattestation:pcr"
IMAGE = "kms:recipientattestation:imagesha384"
CONTEXT_PREFIX = "kms:encryptioncontext:"
OWNER, EPOCH, MODEL = (f"{CONTEXT_PREFIX}cloister-{name}" for name in ("owner", "epoch", "model"))
LOCKS = (0, 1, 2, 16)
MOST = 2
PCR_DIGITS = 96
EPOCH_DIGITS = 19  # the manifest's epoch is below 2^63
ZERO = "0" * PCR_DIGITS
_HEX = re.compile(r"[0-9a-f]{96}")
_VALUE: Shape = (Run(characters=HEX),) * PCR_DIGITS
_NUMBERS: tuple[Shape, ...] = (literal("0"), (Run(characters=DIGITS - {"0"}), Run(characters=DIGITS, repeated=True)))
_ID_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_IDS: Shape = (Run(characters=_ID_START), Run(characters=_ID_START | frozenset("._-"), repeated=True))

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
    """The right enclaves (hex value per PCR), the right encryption contexts, and per key the wrong values worth trying.

    `models`: further model ids, one for each way in which the policy tells models apart. `flaws`: what could not be told apart.
    """

    enclaves: tuple[Mapping[int, str], ...]
    contexts: tuple[Mapping[str, str], ...]
    models: tuple[str, ...]
    wrong_pcrs: Mapping[int, tuple[str | None, ...]]
    other_owners: tuple[str, ...]
    old_epochs: tuple[str, ...]
    flaws: tuple[Flaw, ...] = ()

    @property
    def targets(self) -> tuple[Mapping[str, str], ...]:
        """The contexts that an attacker would have decrypted: of every kind of model."""
        others = [{**context, "cloister-model": model} for model in self.models for context in self.contexts]
        return (*self.contexts, *others)


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


class _Values:
    """The kinds of values that a policy tells apart, key by key; what cannot be told apart becomes a flaw."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.flaws: list[Flaw] = []

    def of(self, keys: tuple[str, ...], shapes: tuple[Shape, ...], exact: Iterable[str]) -> list[str]:
        """A value for each set of patterns that a value of these keys can fit; `exact` values stand alone."""
        conditions = [one for statement in self._policy.statements for one in statement.conditions if one.key.lower() in keys]
        apart = [Pattern(form=Form.EXACT, text=value) for value in exact]
        try:
            return list(kinds(shapes, [*apart, *(pattern for condition in conditions for pattern in patterns(condition))]).values())
        except TooManyError:
            self.flaws.append(entangled(keys[0]))
            return []

    def wrong_pcrs(self, index: int, right: tuple[str, ...]) -> tuple[str | None, ...]:
        """A value unlike any, zero, one of every kind that the policy knows; absent where a document may lack it."""
        keys = (f"{PCR_PREFIX}{index}", *((IMAGE,) if index == 0 else ()))
        tried = dict.fromkeys([WRONG, ZERO, *self.of(keys, (_VALUE,), (*right, ZERO, WRONG))])
        distinct = tuple(value for value in tried if value not in right)
        return (*distinct, None) if index >= LOCKS[-1] else distinct

    def old_epochs(self, current: tuple[str, ...]) -> tuple[str, ...]:
        """The epoch before the current ones, and the smallest of each kind that the policy knows, where it is older."""
        lowest = min(map(int, current))
        known = [int(value) for value in self.of((EPOCH,), _NUMBERS, current) if len(value) <= EPOCH_DIGITS]
        return tuple(dict.fromkeys(str(epoch) for epoch in (lowest - 1, *known) if 0 <= epoch < lowest))

    def other_owners(self, owner: str) -> tuple[str, ...]:
        """Owner hashes of every kind but the right one."""
        return tuple(dict.fromkeys(value for value in [WRONG, *self.of((OWNER,), (_VALUE,), (owner, WRONG))] if value != owner))

    def models(self, model: str) -> tuple[str, ...]:
        """Model ids of every kind but the right one; none where the policy does not look at it."""
        found = [value for value in self.of((MODEL,), (_IDS,), (model,)) if value != model and re.fullmatch(ID, value)]
        return tuple(found) if named(self._policy, MODEL) else ()


def _current_epochs(policy: Policy) -> tuple[str, ...]:
    """The highest epochs that the policy names, highest first."""
    numbers = {int(value) for value in named(policy, EPOCH) if re.fullmatch(rf"[0-9]{{1,{EPOCH_DIGITS}}}", value)}
    return tuple(map(str, sorted(numbers, reverse=True)[:MOST])) or ("1",)


def _model(policy: Policy) -> str:
    """A model id that the policy means, where it names one."""
    return next((text for text in (filled(value, "x", 1) for value in named(policy, MODEL)) if re.fullmatch(ID, text)), "model")


def subject(policy: Policy, expected: Expected | None = None) -> Subject:
    """Read the subject out of a policy; what `expected` states is right, whatever the policy names."""
    indices = sorted({*LOCKS, *(index for index in range(32) if _named_pcr(policy, index))})
    right: dict[int, tuple[str, ...]] = {}
    for index in indices:
        stated = tuple(dict.fromkeys(m[index] for m in expected.measurements if index in m)) if expected else ()
        right[index] = stated or _right_pcr(_named_pcr(policy, index))[:MOST] or (_DEFAULT_PCR[index],)
    sets = max(len(values) for values in right.values())
    enclaves = tuple({index: values[min(number, len(values) - 1)] for index, values in right.items()} for number in range(sets))
    owners = named(policy, OWNER)
    owner = expected.owner if expected else next((filled(value, _LIKE, PCR_DIGITS).lower() for value in owners), "0a" * 48)
    current = expected.epochs if expected else _current_epochs(policy)
    base = {"cloister-format": "1", "cloister-owner": owner, "cloister-model": _model(policy)}
    values = _Values(policy)
    return Subject(
        enclaves=tuple(expected.measurements) if expected else enclaves,
        contexts=tuple({**base, "cloister-epoch": epoch} for epoch in current),
        models=values.models(base["cloister-model"]),
        wrong_pcrs={index: values.wrong_pcrs(index, right[index]) for index in indices},
        other_owners=values.other_owners(owner),
        old_epochs=values.old_epochs(current),
        flaws=tuple(values.flaws),
    )
