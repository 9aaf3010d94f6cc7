"""Answers of one session that wait to be written, oldest first, counted against the memory of all sessions."""

from collections import deque
from collections.abc import Iterator

from enclave.answers import error_answer
from enclave.limits import Memory
from enclave.session import EnclaveSession
from wire.errors import Code
from wire.record import Octets


def _size(pieces: list[Octets]) -> int:
    return sum(memoryview(piece).nbytes for piece in pieces)


class Outbox:
    """`unsent`: bytes of answers of which the last record was not taken yet."""

    def __init__(self, session: EnclaveSession, memory: Memory) -> None:
        self._session = session
        self._memory = memory
        self._waiting: deque[tuple[int, list[Octets]]] = deque()
        self._frames: Iterator[bytearray] | None = None
        self._sending = 0
        self.unsent = 0

    def put(self, message: int, pieces: list[Octets]) -> None:
        """Queue one answer; BUSY in its place where there is no room to keep it."""
        if not self._memory.take(_size(pieces)):
            pieces = error_answer(Code.BUSY)
        self.unsent += _size(pieces)
        self._waiting.append((message, pieces))

    def next(self) -> bytearray | None:
        """The next record's frame, sealed now, so it must be written; None when nothing waits."""
        while True:
            frame = None if self._frames is None else next(self._frames, None)
            if frame is not None:
                return frame
            self._sent()
            if not self._waiting:
                return None
            message, pieces = self._waiting.popleft()
            self._sending = _size(pieces)
            self._frames = self._session.answer(message, pieces)

    def _sent(self) -> None:
        self._frames = None
        self._memory.give(self._sending)
        self.unsent -= self._sending
        self._sending = 0

    @property
    def is_empty(self) -> bool:
        """Whether every answer was taken whole."""
        return self._frames is None and not self._waiting

    def clear(self) -> None:
        """Drop everything: the session is over."""
        self._sent()
        for _, pieces in self._waiting:
            self._memory.give(_size(pieces))
        self._waiting.clear()
        self.unsent = 0
