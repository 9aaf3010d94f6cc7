"""One direction of a session's stream in the hands of a hostile network, and what its receiver makes of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cloister import session as caller_side
from cloister.session import CallerSession, Ended
from enclave.session import Closing, EnclaveSession, SessionViolation
from tests.session.model import CANARY, CONTROL, LARGEST, LIMIT, RECORD, Arrived, Claim, Content, Event, What, Written, holds, seen
from wire.errors import Code, MalformedFrameError
from wire.frame import FrameBuffer, FrameType
from wire.message import Refused

OVER = "the session is over"
BODIES = {int(FrameType.RECORD): (5 + 16, RECORD + 5 + 16)}


class Attack(StrEnum):
    """What the network does to the frames in flight; all but `CUT` are refused, once anything follows that shows them."""

    FLIP = "flip"
    DROP = "drop"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    REPLAY = "replay"
    REFLECT = "reflect"
    SPLICE = "splice"
    TRUNCATE = "truncate"
    CUT = "cut"


@dataclass(kw_only=True)
class Direction:
    """Frames written, those in flight, the bytes delivered, and what their receiver has said to them."""

    name: str
    machine: EnclaveSession | CallerSession
    expect: Callable[[Written], Event]
    met: Counter[str]
    history: list[bytes]  # every record sealed in this direction: the place in it is the record's sequence number
    written: list[Written] = field(default_factory=list)
    stream: bytearray = field(default_factory=bytearray)
    queue: list[bytes] = field(default_factory=list)
    buffer: FrameBuffer = field(default_factory=lambda: FrameBuffer(BODIES))
    delivered: bytearray = field(default_factory=bytearray)
    taken: list[Written] = field(default_factory=list)
    arrived: list[Arrived | Refused] = field(default_factory=list)
    attacks: set[Attack] = field(default_factory=set)
    failed: bool = False
    ended: bool = False

    # the sender

    def write(self, frame: bytes, what: What, number: int = 0, content: Content | None = None) -> None:
        """A genuine frame enters the stream."""
        holds(Claim.SIZES, content is not None or len(frame) == CONTROL, len(frame))
        holds(Claim.SIZES, CANARY not in frame, what)
        self.written.append(Written(frame=frame, what=what, number=number, content=content or Content()))
        self.stream += frame
        self.history.append(frame)
        if Attack.CUT not in self.attacks:
            self.queue.append(frame)

    # the network

    @property
    def changed(self) -> bool:
        """Whether the bytes delivered are other than those written."""
        return not self.stream.startswith(self.delivered)

    def carry(self, count: int, keep: int = 0, cuts: Sequence[int] = ()) -> None:
        """Deliver some frames but for the last `keep` bytes, in slices that end at `cuts`."""
        data = b"".join(self.queue[:count])
        size = max(0, len(data) - keep)
        self.queue[:count] = [data[size:]] if size < len(data) else []
        at = 0
        for cut in (*sorted(cuts), size):
            end = min(cut, size)
            self.pour(data[at:end])
            at = end

    def attack(self, attack: Attack, at: int, number: int, pool: Sequence[bytes]) -> bool:
        """Do it to a frame in flight; `pool`: genuine records from elsewhere. False where there is nothing to do it to."""
        queue = self.queue
        if not queue or (attack is Attack.REORDER and len(queue) < 2) or (attack is Attack.REFLECT and not pool):
            return False
        place = at % len(queue)
        frame = bytearray(queue[place])
        start = bytes(frame[: number % len(frame)])
        match attack:
            case Attack.FLIP:
                frame[number // 8 % len(frame)] ^= 1 << number % 8
                queue[place] = bytes(frame)
            case Attack.DROP:
                del queue[place]
            case Attack.DUPLICATE:
                queue.insert(place, queue[place])
            case Attack.REORDER:
                queue.insert((place + 1 + number % (len(queue) - 1)) % len(queue), queue.pop(place))
            case Attack.REPLAY:
                queue.insert(place, self.history[number % len(self.history)])
            case Attack.REFLECT | Attack.SPLICE:
                sequence = len(self.history) - len(queue) + place
                queue[place] = pool[sequence if number % 2 and sequence < len(pool) else number % len(pool)]
            case Attack.TRUNCATE:
                queue[place : place + 1] = [start] if start else []
            case Attack.CUT:
                queue[place:] = [start] if start else []
        self.attacks.add(attack)
        return True

    # the receiver

    @property
    def listens(self) -> bool:
        """Whether it still takes what comes."""
        return not self.failed and self.machine.state.name == "OPEN"

    def pour(self, data: bytes) -> None:
        """Bytes arrive."""
        while data and self.listens:
            room = self.buffer.space(FrameType.RECORD, exact=False)
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.buffer.filled(count)
            self.delivered += data[:count]
            data = data[count:]
            self._take()

    def _take(self) -> None:
        while self.listens:
            try:
                frame = self.buffer.next(FrameType.RECORD)
                if frame is None:
                    return
                event = seen(self.machine.record(frame))
            except (MalformedFrameError, SessionViolation, caller_side.SessionViolation) as error:
                self._refused(error)
                return
            self._accepted(event)

    def _refused(self, error: Exception) -> None:
        """Only a changed stream fails, and it says nothing: neither here nor to the peer."""
        self.failed = True
        holds(Claim.DELIVERED, self.changed, error)
        if not isinstance(error, MalformedFrameError):
            holds(Claim.SILENT, error.args == (OVER,) and error.__cause__ is None, error)
            holds(Claim.SILENT, self.machine.state.name == "OVER", self.machine.state)
        self.machine.drop()
        word = self.machine.close(Code.OK) if isinstance(self.machine, EnclaveSession) else self.machine.close()
        holds(Claim.SILENT, word is None, word)
        self.met[f"{self.name}: {' and '.join(sorted(self.attacks))} refused"] += 1

    def _accepted(self, event: object) -> None:
        """A frame that was taken is the next one written, and did what the model says."""
        end = len(b"".join(frame.frame for frame in self.written[: len(self.taken) + 1]))
        genuine = len(self.taken) < len(self.written) and self.stream[:end] == self.delivered[:end]
        last = isinstance(event, Closing | Ended)
        holds(Claim.END, not last or (genuine and self.written[len(self.taken)].what is What.CLOSE), event)
        holds(Claim.CHANGED, genuine, event)
        frame = self.written[len(self.taken)]
        self.taken.append(frame)
        expected = self.expect(frame)
        holds(Claim.DELIVERED, event == expected, (frame, event, expected))
        self.ended |= last
        if isinstance(event, Arrived | Refused):
            self.arrived.append(event)
        self._note(frame, expected)

    def _note(self, frame: Written, event: Event) -> None:
        self.met[f"{self.name}: {frame.what.value}" + (" of no effect" if event is None else "")] += 1
        if isinstance(event, Refused):
            self.met[f"{self.name}: too large"] += 1
        elif frame.what is What.MESSAGE and len(frame.content.frames) > 1:
            self.met[f"{self.name}: several records"] += 1

    @property
    def partial(self) -> Content | None:
        """The message of which the receiver took only the first records."""
        begun = [frame for frame in self.taken if frame.what is not What.CANCEL]
        return begun[-1].content if begun and begun[-1].what is What.PART else None

    @property
    def kept(self) -> int:
        """The bytes for which its receiver has reason to hold memory: the partial message and one record's trailer."""
        partial = self.partial
        return 0 if partial is None or partial.size > LIMIT else partial.size + 5

    # the end

    def settle(self) -> None:
        """All bytes came that ever will: whatever was written and arrived so was taken, and a change was refused."""
        if self.changed:
            self.pour(bytes(2 * LARGEST))  # whatever follows: a change that still hides in a frame's length shows
            holds(Claim.CHANGED, not self.listens, self.attacks)
        whole, at = [], 0
        for frame in self.written:
            if self.delivered[at : at + len(frame.frame)] != frame.frame:
                break
            whole.append(frame)
            at += len(frame.frame)
        holds(Claim.DELIVERED, self.taken == whole, (len(self.taken), len(whole)))
        holds(Claim.END, self.ended == any(frame.what is What.CLOSE for frame in whole))
        if Attack.CUT in self.attacks and not self.ended:
            self.met[f"{self.name}: {Attack.CUT}"] += 1
