"""Buffers for message readers that can be seen to be let go."""

import weakref

from tests.session.model import LIMIT, Claim, holds


class _Held(bytearray):
    """Memory that can be seen to be let go."""

    __slots__ = ("__weakref__",)


class Buffers:
    """What both readers asked for and have not let go."""

    def __init__(self) -> None:
        self._live: list[tuple[weakref.ref[_Held], int]] = []

    def allocate(self, size: int) -> memoryview:
        """Room for a message and one record's trailer."""
        holds(Claim.BOUNDED, size <= LIMIT + 5, size)
        held = _Held(size)
        self._live.append((weakref.ref(held), size))
        return memoryview(held)

    @property
    def held(self) -> int:
        """Bytes."""
        self._live = [(ref, size) for ref, size in self._live if ref() is not None]
        return sum(size for _, size in self._live)
