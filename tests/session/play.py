"""Caller and enclave at work on one session with the network between them, beside the reference model: no draws, no hypothesis."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cloister import session as caller_side
from enclave.session import State
from tests.session import world
from tests.session.held import Buffers
from tests.session.model import CANARY, LARGEST, LIMIT, RECORD, Claim, Content, Reference, What, holds
from tests.session.network import Attack, Direction
from wire.errors import Code

ALL = 1 << 10
SIZES = (0, 100, 700, RECORD - 64, RECORD, 2 * RECORD, 3 * RECORD + 9, 5 * RECORD, LIMIT)
OPEN_AT_ONCE = 6


@dataclass(kw_only=True)
class Run:
    """What all examples of one run share: an enclave, records of a sibling session with another caller, what was met."""

    enclave: world.Enclave
    sibling: dict[str, list[bytes]]
    plan: tuple[tuple[str, Attack], ...] = ()  # what the network may do, and in which direction
    met: Counter[str] = field(default_factory=Counter)


def a_run(*plan: tuple[str, Attack]) -> Run:
    """A network with this plan, or an honest one. Requires the record size of the model to be set."""
    enclave = world.an_enclave(request_bytes=LIMIT)
    other = world.accepted(enclave, world.identity(subject="somebody else"), answer_bytes=LIMIT)
    sibling: dict[str, list[bytes]] = {"up": [], "down": [other.frames["accept"]]}
    for size in SIZES * 2:
        content = Content(tensors=bytes(size))
        number, frames = world.send(other, content.pieces())
        for frame in frames:
            other.enclave.record(frame)
        answer = [bytes(frame) for frame in other.enclave.answer(number, content.pieces())]
        for direction, made in (("up", frames), ("down", answer)):
            holds(Claim.SIZES, [len(frame) for frame in made] == content.frames, "of another caller")
            sibling[direction] += made
    return Run(enclave=enclave, sibling=sibling, plan=plan)


@dataclass(kw_only=True)
class UnderWay:
    """A message of which some frames are sealed."""

    number: int
    content: Content
    frames: Iterator[bytearray]
    sent: int = 0


class Play:
    """One session of two real machines. What does not apply does nothing."""

    def __init__(self, run: Run) -> None:
        self.plan = run.plan
        self.sibling, self.met = run.sibling, run.met
        self.buffers, self.model = Buffers(), Reference()
        session = world.accepted(run.enclave, answer_bytes=LIMIT, allocate=self.buffers.allocate)
        self.caller, self.enclave = session.caller, session.enclave
        self.up = Direction(name="up", machine=self.enclave, expect=self.model.at_enclave, met=self.met, history=[])
        accept = session.frames["accept"]
        self.down = Direction(name="down", machine=self.caller, expect=self.model.at_caller, met=self.met, history=[accept])
        self.asking: UnderWay | None = None
        self.answering: UnderWay | None = None
        self.asked = self.answered = 0
        self.attacks = self.calm = self.patience = 0  # how often the network interferes, after how many frames; asks before a close
        self.early = False  # the enclave closed with something left to say

    @property
    def caller_speaks(self) -> bool:
        """Whether the caller has neither closed nor ended."""
        return self.caller.state is caller_side.State.OPEN and not any(frame.what is What.CLOSE for frame in self.up.written)

    @property
    def enclave_speaks(self) -> bool:
        """Whether the enclave has neither closed nor ended."""
        return self.enclave.state is State.OPEN

    # what the parties do

    def _more(self, direction: Direction, way: UnderWay, count: int) -> UnderWay | None:
        """Seal and write more of a message; None once it is whole."""
        lengths = way.content.frames
        for length in lengths[way.sent : way.sent + count]:
            frame = bytes(next(way.frames, b""))
            holds(Claim.SIZES, len(frame) == length, (len(frame), length))
            way.sent += 1
            direction.write(frame, What.MESSAGE if way.sent == len(lengths) else What.PART, way.number, way.content)
        if way.sent < len(lengths):
            return way
        holds(Claim.SIZES, next(way.frames, None) is None, "a frame more")
        return None

    def ask(self, size: int, data: bytes, count: int) -> None:
        """A request, whole or in part."""
        if not self.caller_speaks or self.asking is not None or len(self.model.awaited) >= OPEN_AT_ONCE:
            return
        self.asked += 1
        path = "/v2/models/m/infer" if size else "/v2/health/ready"
        content = Content(path=path, json=b'{"a":"%s"}' % CANARY, tensors=_pattern(b"q", self.asked, data, size), deadline_ms=size)
        number, frames = self.caller.request(content.pieces())
        self.model.awaited.add(number)
        self.asking = self._more(self.up, UnderWay(number=number, content=content, frames=frames), count)

    def ask_on(self, count: int) -> None:
        """More of the request under way."""
        if self.asking is not None and self.caller_speaks:
            self.asking = self._more(self.up, self.asking, count)

    def answer(self, which: int, size: int, fails: bool, data: bytes, count: int) -> None:
        """An answer to any open message, whole or in part; an error takes on the size of a success."""
        if not self.enclave_speaks or self.answering is not None or not self.model.open:
            return
        number = sorted(self.model.open)[which % len(self.model.open)]
        del self.model.open[number]
        self.answered += 1
        content = Content(json=b'{"b":"%s"}' % CANARY, tensors=_pattern(b"a", number, data, size))
        if fails:
            content = Content(status=Code.MODEL_NOT_READY, json=b'{"error":"no"}', as_long_as=content)
        frames = self.enclave.answer(number, content.pieces())
        self.answering = self._more(self.down, UnderWay(number=number, content=content, frames=frames), count)

    def answer_on(self, count: int) -> None:
        """More of the answer under way."""
        if self.answering is not None and self.enclave_speaks:
            self.answering = self._more(self.down, self.answering, count)

    def cancel(self, which: int) -> None:
        """A cancel of a request that is awaited, or under way."""
        if not self.caller_speaks or not self.model.awaited:
            return
        number = sorted(self.model.awaited)[which % len(self.model.awaited)]
        way = self.asking if self.asking is not None and self.asking.number == number else None
        frame = self.caller.cancel(number)
        self.model.cancel(number, whole=way is None)
        holds(Claim.DELIVERED, (frame is None) == (way is not None and not way.sent), "the cancel")
        if way is not None:
            self.asking = None
        if frame is not None:
            self.up.write(frame, What.CANCEL if way is None else What.GIVEN_UP, number)

    def close(self) -> None:
        """The caller's close; a request under way is not sent any more."""
        if self.caller_speaks and self.asked >= self.patience:
            self._close()

    def _close(self) -> None:
        frame = self.caller.close()
        if self.asking is not None:
            self.met["up: close inside a message"] += self.asking.sent > 0
            self.model.awaited.discard(self.asking.number)
            self.asking = None
        self.up.write(frame or b"", What.CLOSE)

    def end(self, code: Code) -> None:
        """The enclave's close, whatever is open."""
        if self.enclave_speaks and 2 * self.answered >= self.patience:
            self._end(code)

    def _end(self, code: Code) -> None:
        self.met["down: close inside a message"] += self.answering is not None and self.answering.sent > 0
        self.early = not self.model.closed or bool(self.model.open) or self.answering is not None
        self.answering = None
        self.down.write(self.enclave.close(code) or b"", What.CLOSE, code)

    # what the network does

    def carry_all(self) -> None:
        """Whatever is in flight arrives."""
        self.up.carry(ALL)
        self.down.carry(ALL)

    def interfere(self, at: int, number: int) -> None:
        """By plan: with a frame in flight."""
        if not self.plan or not self.attacks or len(self.up.written) + len(self.down.written) < self.calm:
            return
        name, attack = self.plan[(at + number) % len(self.plan)]
        direction, other = (self.up, self.down) if name == "up" else (self.down, self.up)
        pool = self.sibling[name] if attack is Attack.SPLICE else other.history
        if direction.listens and direction.attack(attack, at, number, pool):
            self.attacks -= 1

    # what must be so at any time

    def compare(self) -> None:
        """What is open, awaited and under way is what the model says."""
        if self.enclave_speaks:
            holds(Claim.DELIVERED, self.enclave.open_ids == set(self.model.open), self.enclave.open_ids)
            holds(Claim.DELIVERED, self.enclave.mid_message == (self.up.partial is not None), "mid message")
        if self.caller.state is caller_side.State.OPEN:
            holds(Claim.DELIVERED, self.caller.open_messages == len(self.model.awaited | self.model.forgotten), "awaited")
            if not self.caller_speaks:
                words = [self.caller.close(), *(self.caller.cancel(number) for number in self.model.awaited)]
                holds(Claim.END, words == [None] * len(words), "a word after the close")

    def weigh(self) -> None:
        """Less than a frame, and the messages under way that are within their limits."""
        listening = [direction for direction in (self.up, self.down) if direction.listens]
        for direction in listening:
            holds(Claim.BOUNDED, direction.buffer.pending < LARGEST, direction.buffer.pending)
        holds(Claim.BOUNDED, self.buffers.held == sum(direction.kept for direction in listening), self.buffers.held)

    # the end

    def finish(self, at: int, number: int) -> None:
        """Whoever still can says all that is left to say, the network delivers it, and the books are balanced."""
        self._say_all(at, number)
        self.up.settle()
        self.down.settle()
        if not self.up.attacks and not self.down.attacks:
            self._balance()

    def _say_all(self, at: int, number: int) -> None:
        self.calm = 0
        self.ask_on(ALL)
        self.interfere(at, number)
        self.carry_all()
        self.answer_on(ALL)
        while self.enclave_speaks and self.model.open:
            self.answer(0, RECORD, False, b"the last", ALL)
        self.interfere(at, number)
        if self.caller_speaks:
            self._close()
        self.carry_all()
        if self.enclave_speaks and self.model.closed:
            self._end(Code.OK)
        self.carry_all()

    def _balance(self) -> None:
        """Without interference: every answer that was given has come, in order, once, byte for byte; and both ends are orderly."""
        said = [frame for frame in self.down.written if frame.what is What.MESSAGE]
        come = [frame.arrival for frame in said if frame.number not in self.model.cancelled]
        holds(Claim.DELIVERED, self.down.arrived == come, (self.down.arrived, come))
        holds(Claim.END, self.down.ended)
        if not self.early:
            whole = {frame.number for frame in self.up.written if frame.what is What.MESSAGE}
            holds(Claim.DELIVERED, {event.id for event in self.down.arrived} == whole - self.model.cancelled, whole)
            holds(Claim.END, self.up.ended)
            self.met["everything answered"] += 1


def _pattern(kind: bytes, number: int, data: bytes, size: int) -> bytes:
    """Bytes that no other message has."""
    return ((b"%s%d" % (kind, number) + data) * size)[:size]
