"""A plain model of an open session that knows no cryptography: what may be seen of a frame, and what it causes where it arrives.

Written from docs/protocol.md, not from the code: sizes and padding are computed anew here. Records carry 2 KiB instead of
1 MiB, so that messages of several records stay small.
"""

from dataclasses import dataclass, field
from enum import Enum
import math

from cloister.session import Ended
from enclave.session import Cancelled, Closing
from wire.errors import Code
from wire.message import Message, Refused, encode
from wire.record import Octets

RECORD = 2048  # content of one record
LIMIT = 6 * RECORD  # largest message either side keeps
OVERHEAD = 5 + 5 + 16  # frame header, trailer, tag
LARGEST = RECORD + OVERHEAD
CONTROL = 1024 + OVERHEAD
CANARY = b"a canary in the content"


class Claim(Enum):
    """What a run of the machine may find broken."""

    DELIVERED = "what arrives as written causes what the model says, once, byte for byte"
    CHANGED = "Property 3: a changed stream ends the session, and nothing of the affected message is seen"
    SILENT = "Property 3: one undetailed error, and not another word"
    END = "Property 4: an orderly end is seen where the close record arrived, and nowhere else"
    BOUNDED = "Property 5: what a session holds is bounded"
    SIZES = "Property 6: the network sees sizes, padded, and nothing of the content"


class BrokenError(AssertionError):
    """A claim that does not hold."""

    def __init__(self, claim: Claim, detail: object) -> None:
        super().__init__(f"{claim.value}: {detail!r}")
        self.claim = claim


def holds(claim: Claim, truth: bool, detail: object = None) -> None:
    """Raise BrokenError unless `truth`."""
    if not truth:
        raise BrokenError(claim, detail)


def _bucket(length: int) -> int:
    """The larger of 1024 and Padmé(length), as the protocol's text has it."""
    exponent = math.floor(math.log2(length)) if length > 1 else 1
    unit = 1 << exponent - math.floor(math.log2(exponent)) - 1
    return max(1024, math.ceil(length / unit) * unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What one message says; `as_long_as` is the content whose size an error takes on."""

    status: int = 0
    path: str = ""
    json: bytes = b""
    tensors: bytes = b""
    deadline_ms: int = 0
    as_long_as: "Content | None" = field(default=None, compare=False)

    @property
    def _plain(self) -> int:
        before = 24 + len(self.path) + len(self.json)
        return math.ceil(before / 64) * 64 + len(self.tensors)

    @property
    def size(self) -> int:
        """Bytes on the wire, padding included, records' own bytes not."""
        return max(_bucket(self._plain), 0 if self.as_long_as is None else self.as_long_as.size)

    @property
    def frames(self) -> list[int]:
        """The lengths of its frames."""
        whole, rest = divmod(self.size, RECORD)
        return [LARGEST] * whole + ([rest + OVERHEAD] if rest else [])

    def pieces(self) -> list[Octets]:
        """As the product encodes it."""
        least = 0 if self.as_long_as is None else self.as_long_as._plain
        return encode(status=self.status, path=self.path, json=self.json, tensors=[self.tensors], deadline_ms=self.deadline_ms, least=least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message that was delivered."""

    id: int
    content: Content


Event = Arrived | Refused | Cancelled | Closing | Ended | None


def seen(event: object) -> object:
    """What a session machine gave, as the model says it; views of its buffers are let go."""
    if not isinstance(event, Message):
        return event
    content = Content(
        status=event.status,
        path=event.path,
        json=bytes(event.json).rstrip(b" "),
        tensors=bytes(event.tensors),
        deadline_ms=event.deadline_ms,
    )
    return Arrived(id=event.id, content=content)


class What(Enum):
    """What a frame is, told by whoever sealed it."""

    PART = "part"
    MESSAGE = "message"
    CANCEL = "cancel"
    GIVEN_UP = "given up"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One frame as it was sealed; `number` is a message's id, or a close's code."""

    frame: bytes = field(repr=False)
    what: What
    number: int = 0
    content: Content = Content()

    @property
    def arrival(self) -> Arrived | Refused:
        """What its message is at a receiver with the limit."""
        if self.content.size > LIMIT:
            return Refused(id=self.number, too_large=True)
        return Arrived(id=self.number, content=self.content)


@dataclass(kw_only=True)
class Reference:
    """Both ends' state."""

    open: dict[int, bool] = field(default_factory=dict)  # at the enclave: id to whether a cancel was told
    closed: bool = False  # the enclave took the caller's close
    awaited: set[int] = field(default_factory=set)  # at the caller, the request under way included
    cancelled: set[int] = field(default_factory=set)  # whole ones, ever
    forgotten: set[int] = field(default_factory=set)  # of these, those whose answer is still to come

    def cancel(self, number: int, *, whole: bool) -> None:
        """The caller wants no answer any more; only a whole message's still comes."""
        self.awaited.discard(number)
        if whole:
            self.cancelled.add(number)
            self.forgotten.add(number)

    def at_enclave(self, frame: Written) -> Event:
        """What the next frame of the caller causes."""
        match frame.what:
            case What.MESSAGE:
                self.open[frame.number] = False
                return frame.arrival
            case What.CANCEL if self.open.get(frame.number) is False:
                self.open[frame.number] = True
                return Cancelled(id=frame.number)
            case What.CLOSE:
                self.closed = True
                return Closing()
        return None

    def at_caller(self, frame: Written) -> Event:
        """What the next frame of the enclave causes."""
        match frame.what:
            case What.MESSAGE if frame.number in self.awaited:
                self.awaited.discard(frame.number)
                return frame.arrival
            case What.MESSAGE:
                self.forgotten.discard(frame.number)
            case What.CLOSE:
                return Ended(code=Code(frame.number))
        return None
