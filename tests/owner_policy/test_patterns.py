"""Texts that tell patterns apart, against every text of a small world and the engine's own comparison."""

from itertools import product
import string

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from owner import patterns
from owner.patterns import DIGITS, Form, Pattern, Run, Shape, TooManyError, kinds, literal, some
from owner.policy_condition import Truth, evaluate
from owner.policy_document import Condition

_OPERATOR = {Form.EXACT: "StringEquals", Form.ANY_CASE: "StringEqualsIgnoreCase", Form.GLOB: "StringLike", Form.ARN: "ArnLike"}
_SHAPES: tuple[Shape, ...] = (
    literal("a:b:c:d:") + (Run(characters=frozenset("12")),) * 2 + literal(":") + (Run(characters=frozenset("xyz")),) * 2,
    literal("a:b:c:e:1:x"),
)
_WORLD = [f"a:b:c:d:{''.join(account)}:{''.join(name)}" for account in product("12", repeat=2) for name in product("xyz", repeat=2)]
_TEXTS = st.lists(st.sampled_from([*"ab:12xyzX*?", "a:b:c:d:", "*:", "1?:x*", ":*"]), max_size=6).map("".join)
_PATTERNS = st.lists(st.builds(Pattern, form=st.sampled_from(Form), text=_TEXTS | st.sampled_from(_WORLD)), max_size=4)


def fits(pattern: Pattern, text: str) -> bool:
    """As the engine compares."""
    condition = Condition(operator=_OPERATOR[pattern.form], key="aws:PrincipalArn", values=(pattern.text,))
    return evaluate(condition, {"aws:principalarn": (text,)}, variables=False) is Truth.TRUE


@settings(max_examples=200)
@given(_PATTERNS)
def test_every_set_of_patterns_that_a_text_can_fit_has_a_text(drawn: list[Pattern]) -> None:
    """The sets found are exactly those of all texts there are, and each one's text fits just its set."""
    found = kinds(_SHAPES, drawn)
    assert all({one for one in drawn if fits(one, text)} == told for told, text in found.items())
    assert set(found) == {frozenset(one for one in drawn if fits(one, text)) for text in [*_WORLD, "a:b:c:e:1:x"]}


def test_the_first_text_is_the_smallest_number() -> None:
    """Of each kind of epochs the text is the smallest: an older one is overlooked in none."""
    numbers = (literal("0"), (Run(characters=DIGITS - {"0"}), Run(characters=DIGITS, repeated=True)))
    found = kinds(numbers, [Pattern(form=Form.EXACT, text="17"), Pattern(form=Form.GLOB, text="1?")])
    assert set(found.values()) == {"0", "17", "10"}


def test_what_nothing_tells_apart_is_one() -> None:
    """Without patterns there is one kind; a pattern that no text fits adds none."""
    shape = literal("role/") + some(frozenset(string.ascii_letters))
    assert kinds((shape,), ()) == {frozenset(): "role/a"}
    assert kinds((shape,), [Pattern(form=Form.GLOB, text="role/1*")]) == {frozenset(): "role/a"}


@pytest.mark.parametrize(("limit", "value"), [("WALK_MAX", 500), ("KINDS_MAX", 30)])
def test_what_is_too_entangled_is_said(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """Beyond either limit there is an error, not a partial answer."""
    words = [Pattern(form=Form.GLOB, text=f"*{letter}{letter.upper()}*") for letter in "abcdefgh"]
    monkeypatch.setattr(patterns, limit, value)
    with pytest.raises(TooManyError):
        kinds((some(frozenset(string.ascii_letters)),), words)
