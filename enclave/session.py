"""The enclave's side of one sealed session, as a value machine: frames in, frames and events out, no I/O, no clock.

START -(challenge)-> ATTESTING -(document)-> OFFERED -(open)-> OPEN -(close)-> OVER; any error is final. After the
caller's close the session stays OPEN for answers and takes no record.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from wire import credential as credentials
from wire import evidence, handshake
from wire import record as records
from wire.errors import Code, WireError
from wire.frame import FrameType, decode, encode
from wire.manifest_values import Anyone, Issuers, Limits, Quota
from wire.message import Control, Message, MessageReader, Refused
from wire.seal import SessionKeyPair


class SessionViolation(WireError):
    """The peer broke the protocol, or bytes between were changed: the session is over, nothing more is said."""


class State(Enum):
    """Where the session stands."""

    START = auto()
    ATTESTING = auto()
    OFFERED = auto()
    OPEN = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one deployment offers to every caller alike; `config_raw` is bound by each session's evidence."""

    config_raw: bytes
    deployment: str
    owner_key: bytes
    callers: Issuers | Anyone
    limits: Limits
    request_bytes: int
    quota: Quota | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who opened the session: `account` is the issuer's key and the subject. Callers "anyone": no account, and `models` None is all."""

    account: tuple[bytes, str] | None
    models: frozenset[str] | None
    quota: Quota | None
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The outcome of an opening: the frame to send, and the caller unless it was refused with `code`."""

    frame: bytes = field(repr=False)
    caller: Caller | None = None
    code: Code = Code.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The caller no longer wants the answer to this open message."""

    id: int


@dataclass(frozen=True, slots=True)
class Closing:
    """The caller sends no more messages; open ones are still answered."""


Event = Message | Refused | Cancelled | Closing


class EnclaveSession:
    """One session; the caller of its methods does all I/O and keeps all time."""

    def __init__(self, terms: Terms, *, allocate: Callable[[int], memoryview] | None = None) -> None:
        self.state = State.START
        self._terms = terms
        self._allocate = allocate
        self._pair: SessionKeyPair | None = None
        self._public = b""
        self._challenge = b""
        self._th1 = b""
        self._sealer: records.RecordSealer | None = None
        self._reader: MessageReader | None = None
        self._last = 0
        self._stray = 0
        self._cancelled: set[int] = set()
        self._closing = False
        self.open_ids: set[int] = set()

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError(f"the session is {self.state.name}, not {state.name}")

    def _over(self) -> SessionViolation:
        self.drop()
        return SessionViolation("the session is over")

    def drop(self) -> None:
        """Forget every key; the session is over."""
        self.state = State.OVER
        self._sealer = self._reader = None
        if self._pair is not None:
            self._pair.drop()

    def challenge(self, frame: records.Octets) -> tuple[bytes, bytes]:
        """Take the challenge; (nonce, user_data) for the NSM's document. Raises: SessionViolation."""
        self._expect(State.START)
        self._challenge = bytes(frame)
        try:
            nonce = handshake.parse_challenge(decode(self._challenge, FrameType.CHALLENGE))
        except WireError:
            raise self._over() from None
        self._pair = SessionKeyPair()
        self._public = self._pair.public
        self.state = State.ATTESTING
        return nonce, evidence.user_data(self._terms.config_raw, self._public)

    def offer(self, document: bytes) -> bytes:
        """The evidence frame around this session's document. Raises ValueError for a document that does not fit."""
        self._expect(State.ATTESTING)
        frame = encode(FrameType.EVIDENCE, evidence.encode_evidence_body(self._terms.config_raw, self._public, document))
        self._th1 = handshake.transcript1(self._challenge, frame)
        self.state = State.OFFERED
        return frame

    def open(self, frame: records.Octets, *, now: float, refuse: Code | None = None) -> Opened:
        """Open the sealed opening once; accept, or close with a code (`refuse`, for whoever opens, if given).

        `now`: trusted Unix time. Raises: SessionViolation where nothing opens: there is no key then to say so under.
        """
        self._expect(State.OFFERED)
        pair, self._pair = self._pair, None
        raw = bytes(frame)
        if pair is None:
            raise self._over()
        try:
            opening = handshake.parse_opening(pair.open(decode(raw, FrameType.OPEN), handshake.hpke_info(self._th1)))
        except WireError:
            raise self._over() from None
        keys = handshake.session_keys(opening.secret, handshake.transcript2(self._th1, raw))
        sealer = records.RecordSealer(keys.s2c)
        try:
            if refuse is not None:
                raise credentials.CredentialError(refuse)
            caller = self._admit(opening, now)
        except credentials.CredentialError as error:
            self.state = State.OVER
            return Opened(frame=bytes(sealer.control(records.Kind.CLOSE, 0, {records.CLOSE_CODE: error.code})), code=error.code)
        opener, limit = records.RecordOpener(keys.c2s), self._terms.request_bytes
        self._reader = (
            MessageReader(opener, limit=limit) if self._allocate is None else MessageReader(opener, limit=limit, allocate=self._allocate)
        )
        self._sealer = sealer
        self.state = State.OPEN
        fields = {
            records.ACCEPT_SECONDS: caller.seconds,
            records.ACCEPT_REQUEST_BYTES: limit,
            records.ACCEPT_OPEN_MESSAGES: self._terms.limits.open_messages,
        }
        return Opened(frame=bytes(sealer.control(records.Kind.ACCEPT, 0, fields)), caller=caller)

    def _admit(self, opening: handshake.Opening, now: float) -> Caller:
        terms = self._terms
        if isinstance(terms.callers, Anyone):
            if opening.credential:
                raise credentials.CredentialError(Code.OPEN_MALFORMED)  # who says who he is to everyone's enclave is not served
            return Caller(account=None, models=None, quota=terms.quota, seconds=terms.limits.session_seconds)
        issuer, credential = credentials.accept(
            opening.credential, terms.callers, deployment=terms.deployment, owner_key=terms.owner_key, now=now
        )
        credentials.accept_signature(credential, opening.signature, th1=self._th1, secret=opening.secret, data=opening.credential)
        quota = credential.quota
        if terms.quota is not None:
            quota = Quota(requests=min(quota.requests, terms.quota.requests), bytes=min(quota.bytes, terms.quota.bytes))
        seconds = min(terms.limits.session_seconds, max(1, int(credential.expires + credentials.SKEW_SECONDS - now)))
        return Caller(account=(issuer, credential.subject), models=frozenset(credential.models), quota=quota, seconds=seconds)

    @property
    def mid_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._reader is not None and self._reader.partial is not None

    def record(self, frame: records.Octets) -> Event | None:
        """Take one record. Raises: SessionViolation."""
        self._expect(State.OPEN)
        reader = self._reader
        if reader is None or self._closing:
            raise self._over()
        try:
            before = reader.partial
            event = reader.read(frame)
            begun = reader.partial if event is None else event.id if isinstance(event, Message | Refused) else None
            if before is None and begun is not None:
                self._begin(begun)
            match event:
                case None:
                    return None
                case Control():
                    return self._control(event, before)
                case Message() | Refused():
                    self.open_ids.add(event.id)
                    return event
        except WireError:
            raise self._over() from None

    def _begin(self, message: int) -> None:
        if message <= self._last:
            raise records.RecordError("message ids rise strictly")
        self._last = message

    def _control(self, control: Control, under_way: int | None) -> Event | None:
        fields = records.parse_control(control.content)
        match control.kind:
            case records.Kind.CLOSE if control.message == 0 and fields.keys() == {records.CLOSE_CODE}:
                self._closing = True
                return Closing()
            case records.Kind.CANCEL if not fields:
                return self._cancel(control.message, under_way)
        raise records.RecordError("a control record that is not the caller's")

    def _cancel(self, message: int, under_way: int | None) -> Event | None:
        if message == under_way:
            return None  # it never was delivered, and gets no answer
        if message in self.open_ids and message not in self._cancelled:
            self._cancelled.add(message)
            return Cancelled(id=message)
        self._stray += 1
        if self._stray > records.STRAY_MAX:
            raise records.RecordError("too many cancels of messages that are not open")
        return None

    def answer(self, message: int, pieces: Sequence[records.Octets]) -> Iterator[bytearray]:
        """The frames of one answer, sealed as they are taken; one answer per id, cancelled ones too.

        They end early once the session is over. Taking frames of one answer inside another's raises RuntimeError.
        """
        sealer = self._sealer
        if sealer is None or message not in self.open_ids:
            raise RuntimeError("this message is not open")
        self.open_ids.discard(message)
        self._cancelled.discard(message)
        return self._frames(sealer, message, pieces)

    def _frames(self, sealer: records.RecordSealer, message: int, pieces: Sequence[records.Octets]) -> Iterator[bytearray]:
        frames = sealer.message(message, pieces)
        while self._sealer is sealer and (frame := next(frames, None)) is not None:
            yield frame

    def close(self, code: Code) -> bytes | None:
        """The close record, after which nothing follows, also inside an answer; None without keys or records left."""
        sealer = self._sealer
        self.drop()
        try:
            return None if sealer is None else bytes(sealer.control(records.Kind.CLOSE, 0, {records.CLOSE_CODE: code}))
        except records.RecordError:
            return None
