"""One enclave follows another: where new sessions go, what is let in meanwhile, what a reload may change."""

import asyncio
from dataclasses import replace
from pathlib import Path
import socket

import pytest

from parent.appliance import Appliance
from parent.config import Config, parse
from parent.errors import ConfigError
from parent.listen import Admission, Gate, Refusal
from parent.succession import Succession
from tests.parent.streams import receive, run, send
from tests.parent.test_config import MINIMAL
from wire.endpoint import Unix, Vsock
from wire.errors import BootFailure, Stage

NEXT = '[next]\nsession = "vsock:17:7000"\ncid = 17\n'


def listening(path: Path) -> socket.socket:
    """An enclave's session port."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(16)
    made.setblocking(False)
    return made


async def accepted(listener: socket.socket) -> socket.socket:
    """The next connection that says something: one that was only a look is passed over."""
    while True:
        stream, _ = await asyncio.get_running_loop().sock_accept(listener)
        stream.setblocking(False)
        if await receive(stream, 1):
            return stream


def test_new_sessions_go_over_once_the_next_serves(tmp_path: Path) -> None:
    """Until the next enclave listens sessions go to the old one; afterwards to the next; the old ones stay."""

    async def scene() -> None:
        switched = asyncio.Event()
        succession = Succession(Unix(str(tmp_path / "old")), seconds=5, switched=lambda _: switched.set())
        with listening(tmp_path / "old") as old:
            first = await succession.reach()
            await send(first, b"1")
            there = await accepted(old)
            succession.follow(Unix(str(tmp_path / "new")))
            second = await succession.reach()
            await send(second, b"2")
            (await accepted(old)).close()
            with listening(tmp_path / "new") as new:
                await switched.wait()
                third = await succession.reach()
                await send(third, b"3")
                (await accepted(new)).close()
            await send(first, b"still here")
            assert await receive(there, 10) == b"still here"
            assert succession.current == Unix(str(tmp_path / "new"))
            for stream in (first, second, third, there):
                stream.close()

    run(scene())


def test_an_abandoned_successor_is_not_followed(tmp_path: Path) -> None:
    """After `abandon` the next enclave may listen: sessions stay where they are."""

    async def scene() -> None:
        succession = Succession(Unix(str(tmp_path / "old")), seconds=5, switched=lambda _: pytest.fail("switched"))
        succession.follow(Unix(str(tmp_path / "new")))
        await asyncio.sleep(0)
        succession.abandon()
        with listening(tmp_path / "new"):
            await asyncio.sleep(0.02)
        assert (succession.current, succession.next) == (Unix(str(tmp_path / "old")), None)

    run(scene())


def test_two_cids_are_let_in_while_two_enclaves_run() -> None:
    """The listeners towards the enclave take its CID, the next one's beside it, and no other."""
    gate = Gate(admission=Admission(connections=9, cid=16, also=17), clock=lambda: 0.0)
    found = [gate.enter((cid, 1), socket.AF_VSOCK) for cid in (16, 17, 18, 3)]
    assert found == ["", "", Refusal.CID, Refusal.CID]
    alone = Gate(admission=Admission(connections=9, cid=16), clock=lambda: 0.0)
    assert alone.enter((17, 1), socket.AF_VSOCK) is Refusal.CID


async def cids(appliance: Appliance) -> set[tuple[int | None, int | None]]:
    """What the listeners towards the enclave take."""
    rules = {listener.gate.admission for name, listener in appliance.listeners.items() if not name.startswith(("sessions", "metrics"))}
    return {(rule.cid, rule.also) for rule in rules}


def config(more: str = "") -> Config:
    """A parent's configuration."""
    return parse(MINIMAL + more)


def test_a_reload_follows_abandons_and_ends() -> None:
    """`next` appears, goes, appears again and takes over: admission, status and readiness follow."""

    async def scene() -> None:
        appliance = Appliance(config())
        appliance.status.stage = Stage.SERVING
        appliance.reload(config(NEXT))
        assert appliance.succession.next == Vsock(17, 7000)
        assert await cids(appliance) == {(16, 17)}
        appliance.status.stage, appliance.status.failure = Stage.COLD, BootFailure.KMS_REFUSED
        appliance.reload(config())
        assert appliance.succession.next is None
        assert await cids(appliance) == {(16, None)}
        assert appliance.status.serving
        appliance.reload(config(NEXT))
        appliance.status.stage = Stage.LOADED
        appliance._switched(Vsock(17, 7000))
        assert await cids(appliance) == {(17, 16)}
        assert appliance.status.serving
        appliance.succession.abandon()
        with pytest.raises(ConfigError):
            appliance.reload(config())
        taken = MINIMAL.replace("vsock:16:7000", "vsock:17:7000").replace("cid = 16", "cid = 17")
        appliance.reload(parse(taken))

    run(scene())


def test_a_parent_restarted_with_a_next_enclave_lets_it_in(tmp_path: Path) -> None:
    """Both CIDs are let in from the first connection on, and the next is followed, as after the reload that brought it."""

    async def scene() -> None:
        text = MINIMAL
        for name in ("tcp:0.0.0.0:7443", "vsock:3:7001", "vsock:3:7002", "vsock:3:7003"):
            text = text.replace(name, f"unix:{tmp_path}/{name[-4:]}")
        text = text.replace("vsock:16:7000", f"unix:{tmp_path}/old")
        appliance, stop = Appliance(parse(text + f'[next]\nsession = "unix:{tmp_path}/new"\ncid = 17\n')), asyncio.Event()
        assert await cids(appliance) == {(16, 17)}
        task = asyncio.get_running_loop().create_task(appliance.run(stop))
        while appliance.succession.next is None:
            await asyncio.sleep(0)
        assert appliance.succession.next == Unix(f"{tmp_path}/new")
        with listening(tmp_path / "new"):
            while appliance.succession.next is not None:
                await asyncio.sleep(0.01)
        assert await cids(appliance) == {(17, 16)}
        stop.set()
        await task

    run(scene())


def test_a_reload_changes_nothing_else() -> None:
    """Any other change needs a restart, and is refused as a whole."""

    async def scene() -> None:
        appliance = Appliance(config())
        for text in (MINIMAL.replace("/srv/feed", "/srv/other") + NEXT, MINIMAL + NEXT + "[limits]\nsessions = 7\n"):
            with pytest.raises(ConfigError):
                appliance.reload(parse(text))
        assert appliance.succession.next is None
        assert appliance.config == replace(config(), next=None)

    run(scene())


@pytest.mark.parametrize(
    "text",
    [
        NEXT.replace("cid = 17\n", ""),
        NEXT.replace("cid = 17", "cid = 16").replace(":17:", ":16:"),
        NEXT.replace("cid = 17", "cid = 16").replace(":17:7000", ":16:7009"),
        NEXT.replace("cid = 17", "cid = 18"),
        NEXT.replace("vsock:17:7000", "vsock:16:7000"),
        NEXT + "more = 1\n",
        NEXT.replace("vsock:17:7000", "tcp:10.0.0.1:7000"),
        NEXT + '[launch]\neif = "a.eif"\ncpus = 2\nmemory_mib = 1024\n',
    ],
)
def test_a_next_enclave_is_another_one(text: str) -> None:
    """A next enclave has a CID and an endpoint of its own that fit each other, and is not the launcher's."""
    with pytest.raises(ConfigError):
        config(text)
    assert config(NEXT).next is not None


def test_the_next_on_unix_sockets_is_another_path() -> None:
    """Without CIDs the endpoint alone must differ."""
    text = MINIMAL.replace("cid = 16", "").replace("vsock:16:7000", "unix:/a").replace("vsock:3:", "unix:/run/")
    assert parse(text + '[next]\nsession = "unix:/b"\n').next is not None
    for more in ('[next]\nsession = "unix:/a"\n', '[next]\nsession = "unix:/b"\ncid = 17\n'):
        with pytest.raises(ConfigError):
            parse(text + more)
