"""The state machine of the hostile network: what is said, carried and changed when, drawn by hypothesis."""

from collections.abc import Iterator
import sys

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
import pytest

from tests.session.model import RECORD
from tests.session.play import ALL, SIZES, Play, Run
from wire import message, record
from wire.errors import Code

STEPS = 40
# One rule draws them all: of rules of their own most would be switched off for whole examples, in which little then happens.
DOINGS = st.sampled_from(
    ["ask", "ask", "ask", "ask on", "answer", "answer", "answer", "answer on", "up", "up", "up", "down", "down", "cancel", "close", "end"]
)
COUNTS = st.sampled_from([ALL, 1, ALL, 2, 0, ALL])
KEEPS = (0, 0, 0, 1, 20, 700)
CODES = (Code.SESSION_EXPIRED, Code.OK, Code.SHUTTING_DOWN)
BYTES = st.binary(min_size=1, max_size=4)
NUMBERS = st.integers(0, 20_000)


class HostileNetwork(RuleBasedStateMachine):
    """Caller and enclave send, answer, cancel and close; the network does by plan what it likes to the frames in flight."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.play = Play(run)
        self.last = (0, 0)

    @initialize(attacks=st.integers(1, 3), calm=st.integers(0, 20), patience=st.integers(1, 6), at=NUMBERS, number=NUMBERS)
    def weather(self, attacks: int, calm: int, patience: int, at: int, number: int) -> None:
        """How often the network interferes, after how many frames, at the latest how; how much is said before anybody closes."""
        self.play.attacks, self.play.calm, self.play.patience, self.last = attacks, calm, patience, (at, number)

    @rule(doing=DOINGS, size=st.sampled_from(SIZES), data=BYTES, count=COUNTS, number=NUMBERS)
    def step(self, doing: str, size: int, data: bytes, count: int, number: int) -> None:
        """Something is said, or carried: in slices of any size, the last frame perhaps in part."""
        play = self.play
        match doing:
            case "ask":
                play.ask(size, data, count)
            case "ask on":
                play.ask_on(count)
            case "answer":
                play.answer(number, size, number % 3 == 0, data, count)
            case "answer on":
                play.answer_on(count)
            case "cancel":
                play.cancel(number)
            case "close":
                play.close()
            case "end":
                play.end(CODES[number % len(CODES)])
            case "up" | "down":
                play.interfere(data[0], number)
                direction = play.up if doing == "up" else play.down
                direction.carry(count, KEEPS[number % len(KEEPS)], [12 * byte for byte in data])

    @invariant()
    def ends_agree_with_the_model(self) -> None:
        """What is open, awaited and under way is what the model says."""
        self.play.compare()

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        """Less than a frame, and the messages under way that are within their limits."""
        self.play.weigh()

    def teardown(self) -> None:
        """Nothing more is drawn: the session is brought to its end."""
        if sys.exception() is None:
            self.play.finish(*self.last)


@pytest.fixture
def small_records() -> Iterator[pytest.MonkeyPatch]:
    """Records of 2 KiB on both sides; what a test takes away besides comes back after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message, "RECORD_CONTENT_MAX", RECORD)
        patch.setattr(record, "RECORD_CONTENT_MAX", RECORD)
        yield patch


def search(run: Run, rounds: int) -> None:
    """Ten examples a round, the same in every run of the suite: more of them from one seed would be mutants of each other.

    The first failure is raised as it is found. How fast a machine draws is no result.
    """
    ten = settings(
        max_examples=10,
        stateful_step_count=STEPS,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    for number in range(rounds):
        run_state_machine_as_test(seed(number)(lambda: HostileNetwork(run)), settings=ten)  # type: ignore[arg-type]
