"""Texts of refused fields: a person finds the field and what it should be."""

from collections.abc import Callable

import pytest

from wire.errors import WireError
from wire.fields import Fields


class _OddFieldError(WireError):
    pass


def _fields(value: object, path: str = "models[0]") -> Fields:
    return Fields(value, path, _OddFieldError)


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: _fields([]), "models[0] is not a map"),
    (lambda: _fields([], ""), "the value is not a map"),
    (lambda: _fields({}).take("id"), "models[0].id is not there"),
    (lambda: _fields({}, "").take("id"), "id is not there"),
    (lambda: _fields({"a": True}).integer("a", 1, 2), "models[0].a is not an integer from 1 to 2"),
    (lambda: _fields({"a": 3}).boolean("a"), "models[0].a is not a boolean"),
    (lambda: _fields({"a": b""}).octets("a", 32, 32), "models[0].a is not 32 bytes"),
    (lambda: _fields({"a": b""}).octets("a", 1, 32), "models[0].a is not 1 to 32 bytes"),
    (lambda: _fields({"a": "x"}).text("a", "y+"), "models[0].a is not a text of the form y+"),
    (lambda: _fields({"a": []}).items("a", 1, 2), "models[0].a is not an array of 1 to 2 items"),
    (lambda: _fields({"a": 1}).mapping("a", 2), "models[0].a is not a map of at most 2 texts"),
    (lambda: _fields({"a": {1: "x"}}).mapping("a", 2), "models[0].a is not a map of at most 2 texts"),
    (lambda: _fields({"a": 1}).inner("a"), "models[0].a is not a map"),
    (lambda: _fields({"a": 1}, "").inner("a"), "a is not a map"),
    (lambda: _fields({"a": 1}).done(), "models[0].a is unknown"),
    (lambda: _fields({"a": 1}, "").done(), "a is unknown"),
]


@pytest.mark.parametrize(("read", "text"), CASES)
def test_refusal_names_the_field_and_what_it_should_be(read: Callable[[], object], text: str) -> None:
    """Path, field and expectation, with the format's own error."""
    with pytest.raises(_OddFieldError) as caught:
        read()
    assert str(caught.value) == text


def test_fields_are_taken_once() -> None:
    """A field that was read is not unknown, and not there a second time."""
    fields = _fields({"a": 1})
    assert fields.integer("a", 1, 1) == 1
    fields.done()
    with pytest.raises(_OddFieldError):
        fields.take("a")
