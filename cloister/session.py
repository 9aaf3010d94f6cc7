"""The caller's side of one sealed session, as a value machine: frames in, frames and events out, no I/O, no clock.

START -(challenge)-> CHALLENGED -(evidence)-> OFFERED -(attestation result)-> OPENING -(accept)-> OPEN -> OVER.
Nothing is sealed before an `AttestationResult` made from this session's own evidence and nonce is handed in: the session
key is taken from inside that object, and this module alone imports `wire.seal` on the caller's side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
import hashlib
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.appraise import AttestationResult
from wire import handshake, seal
from wire import record as records
from wire.errors import Code, WireError
from wire.evidence import CALLERS_ANYONE, NONCE_BYTES
from wire.frame import FrameType, decode, encode
from wire.message import Control, Message, MessageReader, Refused

_ACCEPT_FIELDS = (records.ACCEPT_SECONDS, records.ACCEPT_REQUEST_BYTES, records.ACCEPT_OPEN_MESSAGES)


class SessionViolation(WireError):
    """The peer broke the protocol, or bytes between were changed: the session is over."""


class SessionRefused(Exception):
    """The enclave closed the session with `code` instead of accepting it, or ended it."""

    def __init__(self, code: Code | None) -> None:
        super().__init__("session refused" if code is None else code.name.lower().replace("_", "-"))
        self.code = code


class State(Enum):
    """Where the session stands."""

    START = auto()
    CHALLENGED = auto()
    OFFERED = auto()
    OPENING = auto()
    OPEN = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdentity:
    """A credential and the private key that it names."""

    credential: bytes
    key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the enclave granted: seconds from the challenge on, largest request in bytes, open messages at once."""

    seconds: int
    request_bytes: int
    open_messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The enclave's last record: nothing more comes."""

    code: Code | None


Event = Message | Refused | Ended


class CallerSession:
    """One session; the caller of its methods does all I/O and keeps all time."""

    def __init__(self, *, answer_bytes: int, allocate: Callable[[int], memoryview] | None = None) -> None:
        self.state = State.START
        self._answer_bytes = answer_bytes
        self._allocate = allocate
        self._nonce = b""
        self._challenge = b""
        self._evidence = b""
        self._seconds_max = 0
        self._sealer: records.RecordSealer | None = None
        self._reader: MessageReader | None = None
        self._last = 0
        self._begun = 0
        self._stray = 0
        self._closing = False
        self._unsent: set[int] = set()
        self._open: set[int] = set()
        self._forgotten: set[int] = set()

    def _expect(self, *states: State) -> None:
        if self.state not in states:
            raise RuntimeError(f"the session is {self.state.name}")

    def _over(self) -> SessionViolation:
        self.drop()
        return SessionViolation("the session is over")

    def drop(self) -> None:
        """Forget every key; the session is over."""
        self.state = State.OVER
        self._sealer = self._reader = None

    @property
    def nonce(self) -> bytes:
        """This session's nonce, to appraise its evidence with."""
        return self._nonce

    def challenge(self) -> bytes:
        """The challenge frame, with a fresh nonce."""
        self._expect(State.START)
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._challenge = handshake.encode_challenge(self._nonce)
        self.state = State.CHALLENGED
        return self._challenge

    def evidence(self, frame: records.Octets) -> bytes:
        """Take the evidence frame; its body, to be verified and appraised. Nothing of it is believed here.

        Raises: SessionViolation for another frame.
        """
        self._expect(State.CHALLENGED)
        self._evidence = bytes(frame)
        try:
            body = decode(self._evidence, FrameType.EVIDENCE)
        except WireError:
            raise self._over() from None
        self.state = State.OFFERED
        return body

    def open(self, result: AttestationResult, identity: CallerIdentity | None) -> bytes:
        """The sealed opening to the attested key. An enclave that takes anyone is not shown who calls.

        Raises: ValueError for a result of other evidence or another nonce, or a credential over its limit; SealError where
        the attested key is none. The session is over then.
        """
        self._expect(State.OFFERED)
        try:
            return self._seal(result, None if result.config.callers == CALLERS_ANYONE else identity)
        except BaseException:
            self.drop()
            raise

    def _seal(self, result: AttestationResult, identity: CallerIdentity | None) -> bytes:
        body = decode(self._evidence, FrameType.EVIDENCE)
        if result.nonce != self._nonce or result.evidence_digest != hashlib.sha256(body).digest():
            raise ValueError("this attestation result was not made from this session's evidence and nonce")
        th1 = handshake.transcript1(self._challenge, self._evidence)
        secret = secrets.token_bytes(handshake.SECRET_BYTES)
        credential, signature = b"", bytes(handshake.SIGNATURE_BYTES)
        if identity is not None:
            credential = identity.credential
            signature = identity.key.sign(handshake.to_be_signed(th1, secret, credential))
        opening = handshake.Opening(secret=secret, signature=signature, credential=credential)
        frame = encode(FrameType.OPEN, seal.seal(result.pk, handshake.encode_opening(opening), handshake.hpke_info(th1)))
        keys = handshake.session_keys(secret, handshake.transcript2(th1, frame))
        opener, limit = records.RecordOpener(keys.s2c), self._answer_bytes
        self._sealer = records.RecordSealer(keys.c2s)
        self._reader = (
            MessageReader(opener, limit=limit) if self._allocate is None else MessageReader(opener, limit=limit, allocate=self._allocate)
        )
        self._seconds_max = result.config.session_seconds
        self.state = State.OPENING
        return frame

    def _read(self, frame: records.Octets) -> Message | Refused | Control | None:
        if self._reader is None:
            raise self._over()
        return self._reader.read(frame)

    def accept(self, frame: records.Octets) -> Accepted:
        """Take the enclave's record 0. Raises: SessionRefused for a close, SessionViolation."""
        self._expect(State.OPENING)
        try:
            control = self._read(frame)
            if not isinstance(control, Control) or control.message != 0:
                raise records.RecordError("the enclave's first record is neither accept nor close")
            if control.kind is records.Kind.CLOSE:
                code = _code(control)
                self.drop()
                raise SessionRefused(code)
            fields = records.parse_control(control.content)
            if control.kind is not records.Kind.ACCEPT or fields.keys() != set(_ACCEPT_FIELDS) or min(fields.values()) < 1:
                raise records.RecordError("not an accept of this version")
            if fields[records.ACCEPT_SECONDS] > self._seconds_max:
                raise records.RecordError("a session longer than the attested config allows")
        except WireError:
            raise self._over() from None
        self.state = State.OPEN
        seconds, request_bytes, open_messages = (fields[key] for key in _ACCEPT_FIELDS)
        return Accepted(seconds=seconds, request_bytes=request_bytes, open_messages=open_messages)

    @property
    def open_messages(self) -> int:
        """Messages whose answer is still to come, cancelled ones included."""
        return len(self._open) + len(self._forgotten)

    def request(self, pieces: Sequence[records.Octets]) -> tuple[int, Iterator[bytearray]]:
        """A message's id and frames, sealed as they are taken; take all of them before the next request's.

        They end early once the message is cancelled or the session over. Every frame taken must be written.
        """
        self._expect(State.OPEN)
        if self._sealer is None or self._closing or self._last >= records.ID_MAX:
            raise RuntimeError("the session takes no more messages")
        self._last += 1
        self._open.add(self._last)
        self._unsent.add(self._last)
        return self._last, self._frames(self._sealer, self._last, pieces)

    def _frames(self, sealer: records.RecordSealer, message: int, pieces: Sequence[records.Octets]) -> Iterator[bytearray]:
        frames = sealer.message(message, pieces)
        while self._sealer is sealer and message in self._open:
            if message < self._begun:
                raise RuntimeError("messages are sent in the order of their ids")
            self._begun = message
            frame = next(frames, None)
            if frame is None:
                return
            if sealer.partial is None:
                self._unsent.discard(message)
            yield frame

    def cancel(self, message: int) -> bytes | None:
        """The cancel record for an open message, whose answer is dropped when it comes; None where there is nothing to say.

        A message whose frames were not all taken ends here: it has no answer.
        """
        if self.state is not State.OPEN or self._sealer is None or self._closing or message not in self._open:
            return None
        self._open.discard(message)
        if message in self._unsent:
            self._unsent.discard(message)
            if self._sealer.partial != message:
                return None
        else:
            self._forgotten.add(message)
        return _control(self._sealer, records.Kind.CANCEL, message, {})

    def close(self) -> bytes | None:
        """The close record, once: no more requests, the one under way ends undelivered; answers to whole ones still come."""
        if self.state is not State.OPEN or self._sealer is None or self._closing:
            return None
        self._closing = True
        self._open -= self._unsent
        self._unsent.clear()
        return _control(self._sealer, records.Kind.CLOSE, 0, {records.CLOSE_CODE: Code.OK})

    def record(self, frame: records.Octets) -> Event | None:
        """Take one record: an answer, the session's end, or nothing yet. Raises: SessionViolation."""
        self._expect(State.OPEN)
        try:
            event = self._read(frame)
            match event:
                case None:
                    return None
                case Control():
                    return self._ended(event)
                case Message() | Refused():
                    return self._answered(event)
        except WireError:
            raise self._over() from None

    def _ended(self, control: Control) -> Ended:
        if control.kind is not records.Kind.CLOSE or control.message != 0:
            raise records.RecordError("a record of this kind is not the enclave's")
        code = _code(control)
        self.drop()
        return Ended(code=code)

    def _answered(self, answer: Message | Refused) -> Message | Refused | None:
        if answer.id in self._unsent:
            raise records.RecordError("an answer to a message that was not sent")
        if answer.id in self._open:
            self._open.discard(answer.id)
            return answer
        if answer.id in self._forgotten:
            self._forgotten.discard(answer.id)
            return None
        self._stray += 1
        if self._stray > records.STRAY_MAX:
            raise records.RecordError("too many answers to messages that are not open")
        return None


def _control(sealer: records.RecordSealer, kind: records.Kind, message: int, fields: dict[int, int]) -> bytes | None:
    """A control record's frame; None where the session's records are used up."""
    try:
        return bytes(sealer.control(kind, message, fields))
    except records.RecordError:
        return None


def _code(close: Control) -> Code | None:
    """The code of a close record, None for one that this version does not know. Raises: RecordError."""
    fields = records.parse_control(close.content)
    if fields.keys() != {records.CLOSE_CODE}:
        raise records.RecordError("a close record has exactly a code")
    try:
        return Code(fields[records.CLOSE_CODE])
    except ValueError:
        return None
