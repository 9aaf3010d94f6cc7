"""The memory that all sessions of an enclave may hold together."""

from hypothesis import given
from hypothesis import strategies as st

from enclave.limits import Memory

LIMIT = 1 << 20


@given(st.lists(st.integers(0, LIMIT), max_size=40))
def test_never_more_than_the_limit(sizes: list[int]) -> None:
    """What was taken and not given back never exceeds the limit, small pieces aside; given back, it can be taken again."""
    memory = Memory(LIMIT)
    held: list[int] = []
    for size in sizes:
        fits = size <= Memory.FREE or sum(held) + size <= LIMIT
        assert fits is memory.take(size)
        if fits and size > Memory.FREE:
            held.append(size)
        elif held:
            memory.give(held.pop())
    for size in held:
        memory.give(size)
    assert memory.take(LIMIT)
    assert not memory.take(Memory.FREE + 1)
    assert memory.take(Memory.FREE)
