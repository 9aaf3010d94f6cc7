"""Room for requests: bounded, in turn, and given back whatever becomes of who waits."""

import asyncio

import pytest

from cloister.sidecar import room
from cloister.sidecar.refusal import RefusedError
from cloister.sidecar.room import FREE_BYTES, Body, Room
from wire.errors import Code

SIZE = 10 * FREE_BYTES


def test_room_is_given_in_turn() -> None:
    """Who came first is served first: a small request behind a large one does not starve it."""
    served = []

    async def work() -> None:
        one = Room(SIZE)
        assert one.claim(SIZE - 2 * FREE_BYTES)

        async def wait(name: str, size: int) -> None:
            await one.take(size)
            served.append(name)

        tasks = []
        for name, size in (("large", SIZE), ("small", FREE_BYTES + 1)):
            tasks.append(asyncio.create_task(wait(name, size)))
            await asyncio.sleep(0)
        assert not one.claim(FREE_BYTES + 1)
        assert one.claim(FREE_BYTES)
        one.give(SIZE - 2 * FREE_BYTES)
        await tasks[0]
        assert served == ["large"]
        one.give(SIZE)
        await tasks[1]

    asyncio.run(work())
    assert served == ["large", "small"]


@pytest.mark.parametrize("granted", [False, True], ids=["waiting", "granted in the same moment"])
def test_who_stops_waiting_keeps_no_room(granted: bool) -> None:
    """A wait that is cancelled, even in the moment of its turn, leaves the room to the next."""

    async def work() -> None:
        one = Room(SIZE)
        assert one.claim(SIZE)
        first, second = (asyncio.create_task(one.take(SIZE)) for _ in range(2))
        await asyncio.sleep(0)
        if granted:
            one.give(SIZE)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        if not granted:
            one.give(SIZE)
        async with asyncio.timeout(10):
            await second
        one.give(SIZE)
        assert one.claim(SIZE)

    asyncio.run(work())


def test_who_stops_waiting_holds_up_nobody() -> None:
    """Behind a wait that ended the next has its turn, if there is room for it."""

    async def work() -> None:
        one = Room(SIZE)
        assert one.claim(SIZE - 2 * FREE_BYTES)
        first = asyncio.create_task(one.take(SIZE))
        await asyncio.sleep(0)
        second = asyncio.create_task(one.take(2 * FREE_BYTES))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(10):
            await second

    asyncio.run(work())


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room in time the door is busy, and the place in the queue is given up."""
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.01)

    async def work() -> None:
        one = Room(SIZE)
        assert one.claim(SIZE)
        with pytest.raises(RefusedError, check=lambda error: error.code is Code.BUSY):
            await one.take(SIZE)
        one.give(SIZE)
        assert one.claim(SIZE)

    asyncio.run(work())


def test_a_body_keeps_what_it_has() -> None:
    """A body that was smaller than it might have been gives the rest back at once, and the last when it is dropped."""
    one = Room(SIZE)
    body = Body(one)
    assert body.claim(SIZE)
    assert not one.claim(2 * FREE_BYTES)
    body.keep(2 * FREE_BYTES)
    assert one.claim(SIZE - 2 * FREE_BYTES)
    assert not one.claim(2 * FREE_BYTES)
    body.drop()
    body.drop()
    assert one.claim(2 * FREE_BYTES)
    assert not one.claim(2 * FREE_BYTES)
