"""A hostile network between both machines, beside a plain model of the session that knows no cryptography.

The model: what was written is a stream of frames per direction; as long as the bytes delivered are a prefix of the bytes
written, every whole frame causes exactly the event that the model says; the first frame with another byte in it ends the
session with one undetailed error, and nothing after it has any effect.
"""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
import pytest

from cloister import session as caller_side
from cloister.session import CallerSession, Ended
from enclave.session import Cancelled, Closing, EnclaveSession, SessionViolation, State
from tests.session.world import Session, accepted, an_enclave, send
from wire import message, record
from wire.errors import Code, MalformedFrameError
from wire.frame import FrameBuffer, FrameType
from wire.message import Message, encode

RECORD = 2048  # content of one record in here: messages of several records stay small
OVER = "the session is over"

Expected = tuple[str, int, bytes] | None
"""What a frame causes where it arrives: nothing, or (what, id, tensors)."""


@dataclass(repr=False)
class Direction:
    """One direction's wire: frames written with what they cause, those not yet delivered, and the bytes delivered."""

    machine: EnclaveSession | CallerSession
    written: list[tuple[bytes, str, int, bytes]] = field(default_factory=list)
    queue: list[bytes] = field(default_factory=list)
    buffer: FrameBuffer = field(default_factory=FrameBuffer)
    delivered: bytearray = field(default_factory=bytearray)
    taken: int = 0
    failed: bool = False

    def write(self, frame: bytes | bytearray, what: str, number: int = 0, tensors: bytes = b"") -> None:
        """A genuine frame, and what it is."""
        self.written.append((bytes(frame), what, number, tensors))
        self.queue.append(bytes(frame))

    def honest(self, size: int) -> bool:
        """Whether the first `size` bytes delivered are those written."""
        stream = b"".join(frame for frame, _, _, _ in self.written)
        return bytes(self.delivered[:size]) == stream[:size]

    def consumed(self) -> int:
        """Bytes of the genuine frames that were taken."""
        return sum(len(frame) for frame, _, _, _ in self.written[: self.taken])


class HostileNetwork(RuleBasedStateMachine):
    """Caller and enclave send, answer, cancel and close; the network does what it likes to the frames in flight."""

    @initialize()
    def begin(self) -> None:
        """An honest handshake, a sibling session to steal from, small records."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(message, "RECORD_CONTENT_MAX", RECORD)
        self.patch.setattr(record, "RECORD_CONTENT_MAX", RECORD)
        enclave = an_enclave()
        self.session: Session = accepted(enclave)
        self.sibling: Session = accepted(enclave)
        self.up = Direction(self.session.enclave)
        self.down = Direction(self.session.caller)
        self.sending: int | None = None  # the request under way
        self.rest: list[tuple[bytes, str]] = []
        # the reference model's own state
        self.open_at_enclave: dict[int, bool] = {}  # id -> told of a cancel
        self.dropped_by_caller: set[int] = set()
        self.awaited: set[int] = set()
        self.closing = False

    def teardown(self) -> None:
        """Large records again."""
        if hasattr(self, "patch"):
            self.patch.undo()

    @property
    def caller_lives(self) -> bool:
        """Whether the caller may still send."""
        return self.session.caller.state is caller_side.State.OPEN and not self.closing

    @property
    def enclave_lives(self) -> bool:
        """Whether the enclave may still send."""
        return self.session.enclave.state is State.OPEN

    # what the parties do

    @precondition(lambda self: self.caller_lives)
    @rule(size=st.sampled_from([0, 100, RECORD - 64, RECORD, 3 * RECORD, 5 * RECORD + 9]), byte=st.integers(0, 255))
    def request(self, size: int, byte: int) -> None:
        """A whole request."""
        tensors = bytes([byte]) * size
        number, frames = self.session.caller.request(encode(path="/v2", tensors=[tensors]))
        self.awaited.add(number)
        whole = list(frames)
        for frame in whole[:-1]:
            self.up.write(frame, "part", number)
        self.up.write(whole[-1], "message", number, tensors)

    @precondition(lambda self: self.caller_lives)
    @rule(count=st.integers(0, 2))
    def give_up(self, count: int) -> None:
        """A request of which only some frames are sent, then its cancel."""
        number, frames = self.session.caller.request(encode(tensors=[bytes(4 * RECORD)]))
        for _ in range(count):
            self.up.write(next(frames), "part", number)
        cancel = self.session.caller.cancel(number)
        assert (cancel is None) == (count == 0)
        if cancel is not None:
            self.up.write(cancel, "give up", number)
        assert list(frames) == []

    @precondition(lambda self: self.caller_lives and self.awaited)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A cancel of a whole request."""
        number = data.draw(st.sampled_from(sorted(self.awaited)))
        cancel = self.session.caller.cancel(number)
        assert cancel is not None
        self.awaited.discard(number)
        self.dropped_by_caller.add(number)
        self.up.write(cancel, "cancel", number)

    @precondition(lambda self: self.caller_lives)
    @rule(chance=st.integers(0, 5))
    def close(self, chance: int) -> None:
        """The caller's close, now and then."""
        assume(chance == 0)
        frame = self.session.caller.close()
        assert frame is not None
        self.closing = True
        self.up.write(frame, "closing")

    @precondition(lambda self: self.enclave_lives and self.open_at_enclave)
    @rule(data=st.data(), size=st.sampled_from([0, 500, 2 * RECORD, 4 * RECORD + 1]))
    def answer(self, data: st.DataObject, size: int) -> None:
        """An answer to any open message."""
        number = data.draw(st.sampled_from(sorted(self.open_at_enclave)))
        del self.open_at_enclave[number]
        tensors = bytes([number % 256]) * size
        whole = list(self.session.enclave.answer(number, encode(tensors=[tensors])))
        for frame in whole[:-1]:
            self.down.write(frame, "part", number)
        self.down.write(whole[-1], "message", number, tensors)

    @precondition(lambda self: self.enclave_lives)
    @rule(chance=st.integers(0, 9), code=st.sampled_from([Code.OK, Code.SESSION_EXPIRED]))
    def end(self, chance: int, code: Code) -> None:
        """The enclave's close, now and then."""
        assume(chance == 0)
        frame = self.session.enclave.close(code)
        assert frame is not None
        self.down.write(frame, "end", code)

    # what the network does

    @rule(which=st.booleans(), count=st.integers(1, 4), cut=st.integers(1, 5000))
    def deliver(self, which: bool, count: int, cut: int) -> None:
        """Deliver some frames of one direction, in slices of any size."""
        direction = self.up if which else self.down
        data = b"".join(direction.queue[:count])
        del direction.queue[:count]
        self._pour(direction, data, cut)

    def _flight(self, data: st.DataObject) -> tuple[Direction, int]:
        direction = data.draw(st.sampled_from([self.up, self.down]))
        assume(direction.queue)
        return direction, data.draw(st.integers(0, len(direction.queue) - 1))

    @rule(data=st.data(), at=st.integers(0, 10_000), bit=st.integers(0, 7))
    def flip(self, data: st.DataObject, at: int, bit: int) -> None:
        """One bit."""
        direction, place = self._flight(data)
        frame = bytearray(direction.queue[place])
        frame[at % len(frame)] ^= 1 << bit
        direction.queue[place] = bytes(frame)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """One frame is lost."""
        direction, place = self._flight(data)
        del direction.queue[place]

    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """One frame comes twice."""
        direction, place = self._flight(data)
        direction.queue.insert(place, direction.queue[place])

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        """One frame comes later."""
        direction, place = self._flight(data)
        direction.queue.append(direction.queue.pop(place))

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A frame that was written before comes again."""
        direction, place = self._flight(data)
        direction.queue[place] = data.draw(st.sampled_from(direction.written))[0]

    @rule(data=st.data())
    def reflect(self, data: st.DataObject) -> None:
        """A frame of the other direction."""
        direction, place = self._flight(data)
        other = self.down if direction is self.up else self.up
        assume(other.written)
        direction.queue[place] = data.draw(st.sampled_from(other.written))[0]

    @rule(data=st.data(), size=st.integers(0, 10_000))
    def truncate(self, data: st.DataObject, size: int) -> None:
        """A frame loses its end."""
        direction, place = self._flight(data)
        frame = direction.queue[place]
        direction.queue[place] = frame[: size % len(frame)]

    @rule(data=st.data())
    def splice(self, data: st.DataObject) -> None:
        """A genuine frame of a sibling session of the same caller and enclave."""
        direction, place = self._flight(data)
        number, frames = send(self.sibling, encode(path="/v2"))
        self.sibling.enclave.record(frames[0])
        answer = bytes(next(self.sibling.enclave.answer(number, encode())))
        direction.queue[place] = frames[0] if direction is self.up else answer

    # what may come of it

    def _pour(self, direction: Direction, data: bytes, cut: int) -> None:
        while data and not direction.failed and self._listens(direction):
            room = direction.buffer.space(FrameType.RECORD, exact=False)
            count = min(len(room), len(data), cut)
            room[:count] = data[:count]
            direction.buffer.filled(count)
            direction.delivered += data[:count]
            data = data[count:]
            self._take(direction)

    def _listens(self, direction: Direction) -> bool:
        return direction.machine.state.name == "OPEN"

    def _take(self, direction: Direction) -> None:
        while self._listens(direction):
            try:
                frame = direction.buffer.next(FrameType.RECORD)
                if frame is None:
                    return
                event = direction.machine.record(frame)
            except (MalformedFrameError, SessionViolation, caller_side.SessionViolation) as error:
                self._check_failure(direction, error)
                return
            self._check(direction, event)
            direction.taken += 1

    def _check_failure(self, direction: Direction, error: Exception) -> None:
        """Only a changed stream fails, and it says nothing."""
        legal = direction is self.up and any(what == "closing" for _, what, _, _ in direction.written[: direction.taken])
        assert legal or not direction.honest(len(direction.delivered))
        if not isinstance(error, MalformedFrameError):
            assert str(error) == OVER
            assert direction.machine.state.name == "OVER"
        direction.machine.drop()
        direction.failed = True

    def _check(self, direction: Direction, event: object) -> None:
        """A frame that was taken is the next one written, and did what the model says."""
        assert direction.taken < len(direction.written)
        _, what, number, tensors = direction.written[direction.taken]
        assert direction.honest(direction.consumed() + len(direction.written[direction.taken][0]))
        match what:
            case "part" | "give up":
                assert event is None
            case "message" if direction is self.up:
                assert isinstance(event, Message)
                assert (event.id, bytes(event.tensors)) == (number, tensors)
                self.open_at_enclave[number] = False
            case "message":
                self._check_answer(number, tensors, event)
            case "cancel":
                told = self.open_at_enclave.get(number, True)
                assert event == (None if told else Cancelled(id=number))
                if number in self.open_at_enclave:
                    self.open_at_enclave[number] = True
            case "closing":
                assert event == Closing()
            case "end":
                assert event == Ended(code=Code(number))

    def _check_answer(self, number: int, tensors: bytes, event: object) -> None:
        if number in self.dropped_by_caller:
            assert event is None
            return
        assert isinstance(event, Message)
        assert (event.id, bytes(event.tensors)) == (number, tensors)
        self.awaited.discard(number)

    @invariant()
    def model_and_machines_agree(self) -> None:
        """What is open at the enclave is what the model says."""
        if hasattr(self, "session") and self.enclave_lives:
            assert self.session.enclave.open_ids == set(self.open_at_enclave)


TestHostileNetwork = HostileNetwork.TestCase
TestHostileNetwork.settings = settings(max_examples=25, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck))
