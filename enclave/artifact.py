"""Open a sealed model part: pinned header, then key commitment, then frame after frame straight into its place in memory.

The parent delivers the bytes and may lie about every one of them. Each check comes before what it protects: header
digest before KMS is asked, commitment before the first frame, and nothing is used before the final frame opened.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import hashlib
import hmac

from enclave.errors import BootError
from wire import artifact
from wire.errors import BootFailure
from wire.manifest import Part

Fetch = Callable[[int, int], Iterable[bytes | bytearray | memoryview]]
"""(offset, length) -> buffers that hold exactly these bytes of the sealed part, in order; each valid until the next one is asked for."""


class ArtifactError(BootError):
    """A sealed part is refused."""


def _whole(chunks: Iterable[bytes | bytearray | memoryview], length: int) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > length:
            break
    if len(data) != length:
        raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
    return bytes(data)


def check_header(data: bytes, part: Part, *, key_arn: str, context: Mapping[str, str]) -> artifact.Header:
    """The header that `data` starts with, if it is the pinned one and names exactly this key and encryption context.

    Raises: ArtifactError(ARTIFACT_HEADER).
    """
    try:
        header = artifact.parse_header(data)
        layout = _layout(header, part)
    except artifact.MalformedArtifactError:
        raise ArtifactError(BootFailure.ARTIFACT_HEADER) from None
    if (
        hashlib.sha256(header.raw).digest() != part.header_sha256
        or header.commitment != part.commitment
        or layout.length != part.length
        or dict(header.context) != dict(context)
        or [(key.provider, key.info) for key in header.data_keys] != [(artifact.PROVIDER, key_arn)]
    ):
        raise ArtifactError(BootFailure.ARTIFACT_HEADER)
    return header


def read_header(fetch: Fetch, part: Part, *, key_arn: str, context: Mapping[str, str]) -> artifact.Header:
    """Fetch and check a part's header. `header.data_keys[0].ciphertext` is what KMS is asked to decrypt.

    Raises: ArtifactError; what `fetch` raises.
    """
    length = min(artifact.HEADER_MAX, part.artifact_length)
    return check_header(_whole(fetch(0, length), length), part, key_arn=key_arn, context=context)


def _layout(header: artifact.Header, part: Part) -> artifact.Layout:
    return artifact.Layout(header_length=len(header.raw), frame_length=header.frame_length, artifact_length=part.artifact_length)


def _frames(layout: artifact.Layout, body: Iterable[bytes | bytearray | memoryview]) -> Iterator[tuple[artifact.Frame, memoryview]]:
    """Cut the body into whole frames; each is valid until the next one is asked for."""
    buffer = memoryview(bytearray(layout.frame(1).size + artifact.FINAL_OVERHEAD))
    frames = layout.frames()
    frame: artifact.Frame | None = next(frames)
    held = 0
    for chunk in body:
        rest = memoryview(chunk)
        while rest:
            if frame is None:
                raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
            count = min(frame.size - held, len(rest))
            buffer[held : held + count] = rest[:count]
            rest, held = rest[count:], held + count
            if held == frame.size:
                yield frame, buffer[:held]
                frame, held = next(frames, None), 0
    if frame is not None:
        raise ArtifactError(BootFailure.ARTIFACT_DIGEST)


def open_part(
    fetch: Fetch,
    part: Part,
    data_key: bytes,
    sink: bytearray | memoryview,
    *,
    header: artifact.Header,
) -> None:
    """Open the part behind a header that `check_header` returned into `sink`, of exactly `part.length` bytes.

    The digest of the whole artifact runs beside the opening. Raises: ArtifactError, when `sink` holds bytes that nothing
    vouches for and must be dropped; what `fetch` raises.
    """
    try:
        unlocked = artifact.unlock(header, data_key)
    except artifact.WrongKeyError:
        raise ArtifactError(BootFailure.ARTIFACT_COMMITMENT) from None
    layout = _layout(header, part)
    digest = hashlib.sha256(header.raw)
    with memoryview(sink) as out:
        if len(out) != layout.length:
            raise ValueError("the sink has another length than the part")
        body = fetch(len(header.raw), part.artifact_length - len(header.raw))
        for frame, data in _frames(layout, body):
            digest.update(data)
            try:
                unlocked.open_into(frame, data, out[frame.start : frame.start + frame.length])
            except artifact.DamagedArtifactError:
                raise ArtifactError(BootFailure.ARTIFACT_DAMAGED) from None
    if not hmac.compare_digest(digest.digest(), part.artifact_sha256):
        raise ArtifactError(BootFailure.ARTIFACT_DIGEST)
