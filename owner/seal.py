"""Seal a model for one owner, epoch and KMS key: parts as Encryption SDK messages, and what the manifest pins of them.

One fresh data key per part, wrapped by kms:Encrypt under the exact encryption context that the enclave computes. Writing
the same bytes twice gives two artifacts with nothing in common.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import hashlib
import os
from typing import BinaryIO, Protocol

from owner.errors import SealError
from owner.onnx_file import ModelFile
from owner.weights import Split, split
from wire import artifact
from wire.manifest import Part, encryption_context

Progress = Callable[[int], None]


class KmsEncrypt(Protocol):
    """What is asked of a boto3 KMS client."""

    def encrypt(self, *, KeyId: str, Plaintext: bytes, EncryptionContext: Mapping[str, str]) -> Mapping[str, object]:  # noqa: N803 - boto3's names
        """kms:Encrypt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """For whom parts are sealed: the KMS key by full ARN and the encryption context, which is `encryption_context(...)`'s."""

    kms: KmsEncrypt
    key_arn: str
    context: Mapping[str, str]


def sealing(kms: KmsEncrypt, *, key_arn: str, owner_key: bytes, model: str, epoch: int) -> Sealing:
    """The sealing of one model: its encryption context names owner, model id and epoch."""
    return Sealing(kms=kms, key_arn=key_arn, context=encryption_context(owner_key, model, epoch))


def _wrap(sealing_: Sealing, data_key: bytes) -> artifact.EncryptedDataKey:
    answer = sealing_.kms.encrypt(KeyId=sealing_.key_arn, Plaintext=data_key, EncryptionContext=sealing_.context)
    blob = answer.get("CiphertextBlob")
    if answer.get("KeyId") != sealing_.key_arn or not isinstance(blob, bytes):
        raise SealError("KMS encrypted under another key than the one asked for; give the full ARN of the key")
    return artifact.EncryptedDataKey(provider=artifact.PROVIDER, info=sealing_.key_arn, ciphertext=blob)


class _Frames:
    """Cuts a stream of buffers into frames' plaintexts without holding more than one."""

    def __init__(self, buffers: Iterable[bytes | memoryview], size: int) -> None:
        self._buffers = iter(buffers)
        self._rest = memoryview(b"")
        self._frame = bytearray(size)

    def take(self, length: int) -> memoryview:
        out = memoryview(self._frame)[:length]
        at = 0
        while at < length:
            if not self._rest:
                more = next(self._buffers, None)
                if more is None:
                    raise SealError("the model ended before its length while it was sealed")
                self._rest = memoryview(more)
                continue
            count = min(length - at, len(self._rest))
            out[at : at + count] = self._rest[:count]
            self._rest = self._rest[count:]
            at += count
        return out

    def end(self) -> None:
        if self._rest or any(len(more) for more in self._buffers):
            raise SealError("the model went on after its length while it was sealed")


def seal_part(
    name: str,
    plaintext: Iterable[bytes | memoryview],
    length: int,
    sealing_: Sealing,
    out: BinaryIO,
    progress: Progress = lambda _: None,
) -> Part:
    """Seal `length` bytes into `out` and return what the manifest pins. `progress` is told the bytes of each frame.

    Raises: SealError; what boto3 raises. `out` is then no artifact.
    """
    data_key = os.urandom(artifact.DATA_KEY_BYTES)
    header = artifact.build_header(
        data_key=data_key,
        message_id=os.urandom(artifact.MESSAGE_ID_BYTES),
        context=sealing_.context,
        data_keys=(_wrap(sealing_, data_key),),
    )
    unlocked = artifact.unlock(header, data_key)
    layout = artifact.layout_of(header, length)
    digest = hashlib.sha256(header.raw)
    out.write(header.raw)
    frames = _Frames(plaintext, header.frame_length)
    for frame in layout.frames():
        sealed = unlocked.seal(frame, frames.take(frame.length))
        digest.update(sealed)
        out.write(sealed)
        progress(frame.length)
    frames.end()
    return Part(
        name=name,
        length=length,
        artifact_length=layout.artifact_length,
        artifact_sha256=digest.digest(),
        header_sha256=hashlib.sha256(header.raw).digest(),
        commitment=header.commitment,
    )


def seal_split(
    parts: Split, sealing_: Sealing, open_out: Callable[[str], BinaryIO], progress: Progress = lambda _: None
) -> tuple[Part, ...]:
    """Seal the graph and, where there are any, the weights, each into what `open_out(part name)` gives. Raises as `seal_part`."""
    with open_out("graph") as out:
        graph = seal_part("graph", (parts.graph,), len(parts.graph), sealing_, out, progress)
    if not parts.length:
        return (graph,)
    with open_out("weights") as out:
        return graph, seal_part("weights", parts.stream(), parts.length, sealing_, out, progress)


def seal_model(
    model: ModelFile, sealing_: Sealing, open_out: Callable[[str], BinaryIO], progress: Progress = lambda _: None
) -> tuple[Part, ...]:
    """Split and seal a judged model; the parts in the manifest's order. Raises as `seal_part`, and ModelRefusedError."""
    return seal_split(split(model), sealing_, open_out, progress)
