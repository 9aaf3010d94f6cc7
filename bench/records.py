"""The record layer beside bare AES-256-GCM: `python -P -m bench.records`. Ratios count, times do not: cores are shared.

For each message size, interleaved rounds of: sealing and opening a message through `wire.record` and `wire.message`, and
encrypting and decrypting the same bytes in one piece with `AESGCM`. Prints medians and the ratio of each.
"""

from collections.abc import Callable, Iterator
from statistics import median
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wire.frame import FrameBuffer, FrameType
from wire.handshake import DirectionKey
from wire.message import MessageReader, encode
from wire.record import RecordOpener, RecordSealer

KEY = DirectionKey(key=bytes(32), iv=bytes(12))
SIZES = (256, 4096, 64 << 10, 600 << 10, 1 << 20, 4 << 20, 64 << 20)
ROUNDS = 15


def _times(work: Callable[[], object]) -> float:
    """CPU seconds of one batch: wall time says more about the machine's other work."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


class _Session:
    """Both ends of one direction, used from round to round as a session is."""

    def __init__(self, tensors: bytes, batch: int) -> None:
        self.tensors = tensors
        self.batch = batch
        self.sealer = RecordSealer(KEY)
        self.reader = MessageReader(RecordOpener(KEY), limit=1 << 30)
        self.other = RecordSealer(KEY)
        self.frames: list[bytearray] = []

    def prepare(self) -> None:
        """Frames to be opened."""
        self.frames = []
        self.sealer, self.reader = RecordSealer(KEY), MessageReader(RecordOpener(KEY), limit=1 << 30)
        for number in range(1, self.batch + 1):
            self.frames.extend(self._frames(self.sealer, number))

    def _frames(self, sealer: RecordSealer, number: int) -> Iterator[bytearray]:
        return sealer.message(number, encode(path="/v2/models/a/infer", json=b'{"inputs":[]}', tensors=[self.tensors]))

    def seal(self) -> None:
        """Messages to frames, each dropped as if it were written."""
        for number in range(1, self.batch + 1):
            for _ in self._frames(self.other, number):
                pass

    def open(self) -> None:
        """Frames to messages."""
        for frame in self.frames:
            self.reader.read(frame)


def _framing(tensors: bytes, batch: int) -> Callable[[], object]:
    """What reading frames out of a stream costs beside their opening, the copy from the socket included."""
    frames = list(RecordSealer(KEY).message(1, encode(tensors=[tensors])))
    buffer = FrameBuffer()

    def work() -> None:
        for frame in frames * batch:
            left = memoryview(frame)
            while left:
                room = buffer.space(FrameType.RECORD, exact=False)
                count = min(len(room), len(left))
                room[:count] = left[:count]
                buffer.filled(count)
                left = left[count:]
            if buffer.next(FrameType.RECORD) is None:
                raise RuntimeError("a frame is missing")

    return work


def _bare(tensors: bytes, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    aead = AESGCM(KEY.key)
    room = bytearray(len(tensors) + 16)
    plain = bytearray(len(tensors))
    aead.encrypt_into(bytes(12), tensors, b"", room)

    def encrypt() -> None:
        for _ in range(batch):
            aead.encrypt_into(bytes(12), tensors, b"", room)

    def decrypt() -> None:
        for _ in range(batch):
            aead.decrypt_into(bytes(12), room, b"", plain)

    return encrypt, decrypt


def main() -> None:
    """Print one line per size."""
    print("bytes        seal/bare   open/bare   framing/bare   (us: seal, open, bare encrypt)")
    for size in SIZES:
        batch = max(1, min(200, (8 << 20) // size))
        tensors = bytes(range(256)) * (size // 256)
        session = _Session(tensors, batch)
        encrypt, decrypt = _bare(tensors, batch)
        works = (session.seal, session.open, _framing(tensors, batch), encrypt, decrypt)
        rounds = []
        for _ in range(ROUNDS):
            session.prepare()
            rounds.append([_times(work) / batch for work in works])
        seal, opened, framing, bare, back = (median(column) for column in zip(*rounds, strict=True))
        ratios = f"{seal / bare:>9.2f}   {opened / back:>9.2f}   {framing / bare:>12.2f}"
        print(f"{size:>10}   {ratios}   {seal * 1e6:>8.1f} {opened * 1e6:>8.1f} {bare * 1e6:>8.1f}")


if __name__ == "__main__":
    main()
