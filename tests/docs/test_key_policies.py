"""docs/key-policies.md is what the matrix says today."""

from tests.owner_policy.matrix_page import PAGE, page


def test_the_page_is_current() -> None:
    """The committed page equals the one that the committed policies give."""
    assert PAGE.read_text(encoding="utf-8") == page()
