"""The hostile network's machine finds each check of the product that is taken away, and names the claim that then does not hold."""

from collections.abc import Callable
import hashlib
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
import pytest

from cloister import session as caller_side
from cloister.session import CallerSession, Ended
from enclave import session as enclave_side
from enclave.session import Closing, EnclaveSession
from tests.session import model
from tests.session.machine import search, small_records
from tests.session.model import BrokenError, Claim
from tests.session.network import Attack
from tests.session.play import a_run
from wire import handshake, message, record
from wire.errors import Code
from wire.handshake import DirectionKey, SessionKeys
from wire.message import MessageReader
from wire.record import RecordError, RecordOpener

__all__ = ["small_records"]

Patch = pytest.MonkeyPatch


def answers_dropped(patch: Patch) -> None:
    """The caller loses every answer."""
    patch.setattr(CallerSession, "_answered", lambda self, answer: None)


def cancels_unheard(patch: Patch) -> None:
    """The enclave does not tell of a cancel."""
    patch.setattr(EnclaveSession, "_cancel", lambda self, number, under_way: None)


def given_up_stays(patch: Patch) -> None:
    """A message that is given up under way stays under way."""

    def control(self: Any, read: Any, room: memoryview) -> message.Control:
        return message.Control(kind=read.kind, message=read.message, content=bytes(room[: read.length]))

    patch.setattr(MessageReader, "_control", control)


def _sequence(*steps: int) -> Callable[[Patch], None]:
    genuine = RecordOpener.open_into

    def opened(self: Any, frame: Any, buffer: Any) -> record.Record:
        began = self._sequence
        for step in steps:
            self._sequence = max(0, began + step)
            try:
                return genuine(self, frame, buffer)
            except RecordError:
                continue
        raise RecordError("a record does not open")

    return lambda patch: patch.setattr(RecordOpener, "open_into", opened)


class _Untagged:
    """AES-GCM's cipher; the tag is there, and nobody looks at it."""

    secret, tag = True, False

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _cipher(self, nonce: bytes, data: bytes) -> bytes:
        mode = modes.CTR(nonce + b"\0\0\0\2")
        return Cipher(algorithms.AES(self._key), mode).encryptor().update(data) if self.secret else data

    def _of(self, *parts: Any) -> bytes:
        return hashlib.sha256(self._key + b"".join(bytes(part) for part in parts)).digest()[:16]

    def encrypt_into(self, nonce: bytes, data: Any, header: Any, buffer: memoryview) -> None:
        sealed = self._cipher(nonce, bytes(data))
        buffer[:] = sealed + self._of(nonce, header, sealed)

    def decrypt_into(self, nonce: bytes, data: Any, header: Any, buffer: memoryview) -> None:
        sealed = bytes(data[:-16])
        if self.tag and bytes(data[-16:]) != self._of(nonce, header, sealed):
            raise InvalidTag
        buffer[:] = self._cipher(nonce, sealed)


class _Clear(_Untagged):
    """A tag that is looked at, over what everybody can read."""

    secret, tag = False, True


def one_key(patch: Patch) -> None:
    """Both directions have the same key."""
    genuine = handshake.session_keys
    patch.setattr(handshake, "session_keys", lambda secret, th2: SessionKeys(c2s=genuine(secret, th2).c2s, s2c=genuine(secret, th2).c2s))


def anybodys_key(patch: Patch) -> None:
    """All sessions have the same keys."""
    c2s, s2c = (DirectionKey(key=direction * 32, iv=bytes(12)) for direction in (b"u", b"d"))
    patch.setattr(handshake, "session_keys", lambda secret, th2: SessionKeys(c2s=c2s, s2c=s2c))


def _talkative(module: Any, session: Any) -> Callable[[Patch], None]:
    def over(self: Any) -> Exception:
        self.drop()
        error: Exception = module.SessionViolation("the session is over: a record does not open")
        return error

    return lambda patch: patch.setattr(session, "_over", over)


def _keeps_keys(module: Any, session: Any) -> Callable[[Patch], None]:
    def over(self: Any) -> Exception:
        error: Exception = module.SessionViolation("the session is over")
        return error

    return lambda patch: patch.setattr(session, "_over", over)


def _takes_for_an_end(module: Any, session: Any, end: object) -> Callable[[Patch], None]:
    genuine = session.record

    def taken(self: Any, frame: Any) -> Any:
        try:
            return genuine(self, frame)
        except module.SessionViolation:
            return end

    return lambda patch: patch.setattr(session, "record", taken)


def unlimited(patch: Patch) -> None:
    """Readers keep messages of any size."""
    genuine = MessageReader.__init__
    patch.setattr(MessageReader, "__init__", lambda self, opener, **options: genuine(self, opener, **(options | {"limit": 1 << 40})))


def kept(patch: Patch) -> None:
    """A reader does not let go of what it delivered."""
    genuine = MessageReader._finish

    def finish(self: Any, number: int) -> Any:
        self._all = [*getattr(self, "_all", []), self._buffer]
        return genuine(self, number)

    patch.setattr(MessageReader, "_finish", finish)


def short_errors(patch: Patch) -> None:
    """An error does not take on the size of a success."""
    patch.setattr(model, "encode", lambda **fields: message.encode(**(fields | {"least": 0})))


@pytest.mark.parametrize(
    ("plan", "claim", "weaken"),
    [
        pytest.param(None, Claim.DELIVERED, answers_dropped, id="answers-dropped"),
        pytest.param(None, Claim.DELIVERED, cancels_unheard, id="cancels-unheard"),
        pytest.param(None, Claim.DELIVERED, given_up_stays, id="given-up-stays"),
        pytest.param(("up", Attack.DROP), Claim.CHANGED, _sequence(0, 1, 2, 3), id="order-ahead-up"),
        pytest.param(("down", Attack.REORDER), Claim.CHANGED, _sequence(0, 1, 2, 3), id="order-ahead-down"),
        pytest.param(("up", Attack.DUPLICATE), Claim.CHANGED, _sequence(0, -1, -2), id="order-back-up"),
        pytest.param(("down", Attack.REPLAY), Claim.CHANGED, _sequence(0, *range(-1, -40, -1)), id="order-back-down"),
        pytest.param(("up", Attack.FLIP), Claim.CHANGED, lambda patch: patch.setattr(record, "AESGCM", _Untagged), id="tag-up"),
        pytest.param(("down", Attack.FLIP), Claim.CHANGED, lambda patch: patch.setattr(record, "AESGCM", _Untagged), id="tag-down"),
        pytest.param(("down", Attack.REFLECT), Claim.CHANGED, one_key, id="key-of-a-direction"),
        pytest.param(("up", Attack.SPLICE), Claim.CHANGED, anybodys_key, id="key-of-a-session-up"),
        pytest.param(("down", Attack.SPLICE), Claim.CHANGED, anybodys_key, id="key-of-a-session-down"),
        pytest.param(("up", Attack.FLIP), Claim.SILENT, _talkative(enclave_side, EnclaveSession), id="detail-up"),
        pytest.param(("down", Attack.FLIP), Claim.SILENT, _talkative(caller_side, CallerSession), id="detail-down"),
        pytest.param(("up", Attack.DROP), Claim.SILENT, _keeps_keys(enclave_side, EnclaveSession), id="keys-up"),
        pytest.param(("down", Attack.DROP), Claim.SILENT, _keeps_keys(caller_side, CallerSession), id="keys-down"),
        pytest.param(("up", Attack.TRUNCATE), Claim.END, _takes_for_an_end(enclave_side, EnclaveSession, Closing()), id="end-up"),
        pytest.param(
            ("down", Attack.TRUNCATE), Claim.END, _takes_for_an_end(caller_side, CallerSession, Ended(code=Code.OK)), id="end-down"
        ),
        pytest.param(None, Claim.BOUNDED, unlimited, id="limit"),
        pytest.param(None, Claim.BOUNDED, kept, id="kept"),
        pytest.param(None, Claim.SIZES, short_errors, id="errors-padded"),
        pytest.param(None, Claim.SIZES, lambda patch: patch.setattr(message, "padme", lambda length: length), id="padding"),
        pytest.param(None, Claim.SIZES, lambda patch: patch.setattr(record, "AESGCM", _Clear), id="encryption"),
    ],
)
def test_missing_check(small_records: Patch, plan: tuple[str, Attack] | None, claim: Claim, weaken: Callable[[Patch], None]) -> None:
    """Without the check the machine's run fails, and on the claim that the check is for."""
    weaken(small_records)
    with pytest.raises(BrokenError) as broken:
        search(a_run(*([] if plan is None else [plan])), 20)
    assert claim is broken.value.claim
