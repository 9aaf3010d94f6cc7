"""Artifacts for the tests, made by the product's writer from fixed keys."""

from collections.abc import Iterator
import hashlib

from wire import artifact
from wire.manifest import Part, encryption_context

DATA_KEY = bytes(range(32))
MESSAGE_ID = bytes(range(100, 132))
ARN = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000"
CONTEXT = encryption_context(bytes(range(32)), "m", 1)
EDK = artifact.EncryptedDataKey(provider=artifact.PROVIDER, info=ARN, ciphertext=b"blob" * 40)


def header(**changes: object) -> artifact.Header:
    """A header; `changes` are arguments of `build_header`."""
    arguments: dict[str, object] = {"data_key": DATA_KEY, "message_id": MESSAGE_ID, "context": CONTEXT, "data_keys": (EDK,)}
    return artifact.build_header(**arguments | changes)  # type: ignore[arg-type]


def seal(plaintext: bytes, *, data_key: bytes = DATA_KEY, **changes: object) -> bytes:
    """A whole artifact."""
    head = header(data_key=data_key, **changes)
    unlocked = artifact.unlock(head, data_key)
    frames = artifact.layout_of(head, len(plaintext)).frames()
    return head.raw + b"".join(unlocked.seal(frame, plaintext[frame.start : frame.start + frame.length]) for frame in frames)


def layout(data: bytes, length: int | None = None) -> artifact.Layout:
    """The layout of an artifact, or of one that is `length` bytes long."""
    head = artifact.parse_header(data)
    return artifact.Layout(header_length=len(head.raw), frame_length=head.frame_length, artifact_length=length or len(data))


def unseal(data: bytes, data_key: bytes = DATA_KEY) -> bytes:
    """Read a whole artifact with `wire.artifact` alone."""
    unlocked = artifact.unlock(artifact.parse_header(data), data_key)
    plan = layout(data)
    out = bytearray(plan.length)
    for frame in plan.frames():
        unlocked.open_into(frame, data[frame.offset : frame.offset + frame.size], memoryview(out)[frame.start : frame.start + frame.length])
    return bytes(out)


def part(data: bytes) -> Part:
    """What a manifest pins of an artifact."""
    head = artifact.parse_header(data)
    return Part(
        name="graph",
        length=layout(data).length,
        artifact_length=len(data),
        artifact_sha256=hashlib.sha256(data).digest(),
        header_sha256=hashlib.sha256(head.raw).digest(),
        commitment=head.commitment,
    )


def slices(data: bytes, size: int) -> Iterator[bytes]:
    """The bytes as a stream might deliver them."""
    return (data[at : at + size] for at in range(0, len(data), size))
