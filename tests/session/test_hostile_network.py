"""A hostile network between both machines, beside a plain model of the session that knows no cryptography.

The model: what was written is a stream of frames per direction; as long as the bytes delivered are a prefix of the bytes
written, every whole frame causes exactly the event that the model says; the first frame with another byte in it ends the
session with one undetailed error, and nothing after it has any effect. What a run met is counted, and what it must have met
is asserted; `test_missing_checks.py` shows that the same machine finds what is missing.
"""

import pytest

from tests.session.machine import search, small_records
from tests.session.network import Attack
from tests.session.play import a_run

__all__ = ["small_records"]

BOTH = ("up", "down")

# What the honest network's run must have met, with room: the examples are the same in every run until the machine changes.
LEAST = {
    "everything answered": 60,
    "up: message": 250,
    "up: several records": 80,
    "up: too large": 15,
    "up: part of no effect": 350,
    "up: cancel": 30,
    "up: cancel of no effect": 8,
    "up: given up of no effect": 15,
    "up: close": 60,
    "up: close inside a message": 4,
    "down: message": 200,
    "down: message of no effect": 40,
    "down: several records": 200,
    "down: too large": 4,
    "down: part of no effect": 300,
    "down: close": 100,
    "down: close inside a message": 2,
}


@pytest.mark.usefixtures("small_records")
def test_honest_network() -> None:
    """Properties 4 to 6 hold, and every answer comes, once, byte for byte, in every course that a session takes."""
    run = a_run()
    search(run, 15)
    assert {} == {what: run.met[what] for what, least in LEAST.items() if run.met[what] < least}
    assert not [what for what in run.met if "refused" in what]


@pytest.mark.usefixtures("small_records")
@pytest.mark.parametrize("attack", [attack for attack in Attack if attack is not Attack.CUT])
@pytest.mark.parametrize("direction", BOTH)
def test_changed_stream(direction: str, attack: Attack) -> None:
    """Property 3: done to a frame in flight it is refused, once what follows shows it; nothing else is seen of it."""
    run = a_run((direction, attack))
    search(run, 2)
    assert run.met[f"{direction}: {attack} refused"] >= 12


@pytest.mark.usefixtures("small_records")
@pytest.mark.parametrize("direction", BOTH)
def test_cut_stream(direction: str) -> None:
    """Property 4: a stream that is cut anywhere is no error by itself, and no orderly end."""
    run = a_run((direction, Attack.CUT))
    search(run, 3)
    assert run.met[f"{direction}: cut"] >= 20
    assert not [what for what in run.met if "refused" in what]


@pytest.mark.usefixtures("small_records")
def test_every_attack_at_once() -> None:
    """Properties 3 to 6 where the network does several things to both directions."""
    run = a_run(*((direction, attack) for attack in Attack for direction in BOTH))
    search(run, 10)
    assert sum(count for what, count in run.met.items() if " and " in what) >= 10
