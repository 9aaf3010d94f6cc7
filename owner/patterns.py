"""Texts that tell patterns apart: for every set of patterns that one text can fit together, such a text.

A policy sees of a caller's ARN, of an epoch or of a PCR value nothing but which of its own patterns the value fits. So one
text for each such set is as good as all texts, and none is overlooked: a `Shape`, what values there can be at all, and the
patterns are walked together, character by character, with all characters that no pattern names taken as one.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
import string

WALK_MAX = 40_000  # states; a policy of 200 exact ARNs has some 4,000, a dozen of the form *word* more than this
KINDS_MAX = 256  # texts; each becomes a caller or a value to try

DIGITS = frozenset(string.digits)
HEX = frozenset(string.digits + "abcdef")
NAME = frozenset(string.ascii_letters + string.digits + "+=,.@_-")  # IAM User Guide, "IAM and AWS STS quotas": names
PATH = frozenset(map(chr, range(0x21, 0x7F)))  # the same: paths


class TooManyError(Exception):
    """The patterns are too many, or too entangled, to tell apart within WALK_MAX and KINDS_MAX."""


class Form(StrEnum):
    """How a pattern is compared."""

    EXACT = "exact"
    ANY_CASE = "any case"
    GLOB = "glob"
    ARN = "arn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One pattern. GLOB and ARN know `*` and `?`; ARN's do not cross one of the first five colons."""

    form: Form
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Part of a shape: one character of a set, or any number of them."""

    characters: frozenset[str]
    repeated: bool = False


Shape = tuple[Run, ...]


def literal(text: str) -> Shape:
    """The shape of one text."""
    return tuple(Run(characters=frozenset(character)) for character in text)


def some(characters: frozenset[str]) -> Shape:
    """One or more characters of a set."""
    return (Run(characters=characters), Run(characters=characters, repeated=True))


@dataclass(frozen=True, slots=True)
class _Token:
    """What one place of a pattern takes: these characters, or (None) any but `never`; once, or any number of times."""

    characters: frozenset[str] | None
    never: str = ""
    star: bool = False

    def takes(self, character: str) -> bool:
        return character in self.characters if self.characters is not None else character not in self.never


def _tokens(pattern: Pattern) -> tuple[_Token, ...]:
    tokens, colons = [], 0
    for character in pattern.text:
        never = ":" if pattern.form is Form.ARN and colons < 5 else ""
        if character in "*?" and pattern.form in (Form.GLOB, Form.ARN):
            tokens.append(_Token(None, never, character == "*"))
        elif pattern.form is Form.ANY_CASE:
            tokens.append(_Token(frozenset((character.lower(), character.upper()))))
        else:
            tokens.append(_Token(frozenset(character)))
        colons += character == ":"
    return tuple(tokens)


_Places = frozenset[int]
_Live = tuple[tuple[int, _Places], ...]


def _settled(tokens: Sequence[_Token], places: Iterable[int]) -> _Places:
    """Places with those behind stars; what lies before the last star reached is contained in it."""
    reached = set()
    for place in places:
        at = place
        reached.add(at)
        while at < len(tokens) and tokens[at].star:
            at += 1
            reached.add(at)
    stars = [place for place in reached if place < len(tokens) and tokens[place].star]
    return frozenset(place for place in reached if place >= max(stars, default=0))


class _Walk:
    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._tokens = [_tokens(pattern) for pattern in patterns]
        self._next: dict[tuple[int, _Places, str], _Places] = {}

    def start(self) -> _Live:
        return tuple((index, _settled(tokens, (0,))) for index, tokens in enumerate(self._tokens))

    def step(self, live: _Live, character: str) -> _Live:
        after = ((index, self._moved(index, places, character)) for index, places in live)
        return tuple((index, places) for index, places in after if places)

    def _moved(self, index: int, places: _Places, character: str) -> _Places:
        key = (index, places, character)
        if key not in self._next:
            tokens = self._tokens[index]
            taken = [place for place in places if place < len(tokens) and tokens[place].takes(character)]
            self._next[key] = _settled(tokens, [place if tokens[place].star else place + 1 for place in taken])
        return self._next[key]

    def fitted(self, live: _Live) -> frozenset[int]:
        return frozenset(index for index, places in live if len(self._tokens[index]) in places)

    def named(self, live: _Live) -> set[str]:
        """The characters that some pattern takes by name next."""
        return {
            character
            for index, places in live
            for place in places
            if place < len(self._tokens[index])
            for character in self._tokens[index][place].characters or ()
        }


@cache
def _in_order(characters: frozenset[str]) -> tuple[str, ...]:
    """Lower-case letters first, then digits, then the rest: what reads best in a report, and counts numbers up."""
    return tuple(sorted(characters, key=lambda character: (not character.islower(), not character.isdigit(), character)))


def _characters(run: Run, named: set[str]) -> list[str]:
    """The characters to try, in order: those that patterns name, and the first of all the others."""
    found, others = [], 1
    for character in _in_order(run.characters):
        if character in named:
            found.append(character)
        elif others:
            found.append(character)
            others = 0
    return found


def kinds(shapes: Sequence[Shape], patterns: Sequence[Pattern]) -> Mapping[frozenset[Pattern], str]:
    """For every set of patterns that a text of one of the shapes can fit and no others, the first such text.

    First by length, then in order: of numbers without leading zeros, the smallest. Raises: TooManyError.
    """
    distinct = tuple(dict.fromkeys(patterns))
    walk, found = _Walk(distinct), dict[frozenset[int], str]()
    start = walk.start()
    queue = deque((number, 0, start, "") for number in range(len(shapes)))
    seen = {(number, 0, start) for number in range(len(shapes))}
    while queue:
        number, at, live, text = queue.popleft()
        if at == len(shapes[number]):
            found.setdefault(walk.fitted(live), text)
            continue
        run = shapes[number][at]
        after = [(at if run.repeated else at + 1, walk.step(live, c), text + c) for c in _characters(run, walk.named(live))]
        for place, lives, longer in ([(at + 1, live, text)] if run.repeated else []) + after:
            if (number, place, lives) not in seen:
                seen.add((number, place, lives))
                (queue.appendleft if longer is text else queue.append)((number, place, lives, longer))
        if len(seen) > WALK_MAX or len(found) > KINDS_MAX:
            raise TooManyError
    return {frozenset(distinct[index] for index in fitted): text for fitted, text in found.items()}
