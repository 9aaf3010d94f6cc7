"""UNWRAPPED and LOADED: data keys from KMS, then every model's parts opened into memory and given to ONNX Runtime.

All headers are fetched and checked before KMS is asked, and every key commitment before the first frame of any part: a
swapped model or key is found before gigabytes flow.
"""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from enclave import artifact, feed, intake
from enclave.clock import TrustedClock
from enclave.dial import dialler
from enclave.errors import BootError, WorkersGoneError
from enclave.kms import KmsClient
from enclave.machine import Machine, persist
from enclave.model import ModelHost
from wire.artifact import Header, WrongKeyError, unlock
from wire.errors import BootFailure, Stage
from wire.feed import AwsCredentials
from wire.manifest import Model, Part, SignedManifest, encryption_context


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unwrapped:
    """One part with its checked header and its data key."""

    part: Part
    header: Header
    data_key: bytes = field(repr=False)


def _fetch(machine: Machine, part: Part) -> artifact.Fetch:
    dial = dialler(machine.endpoints.feed)
    return lambda offset, length: feed.ranges(dial, part.artifact_sha256, offset, length)


def _header(machine: Machine, part: Part, key_arn: str, context: dict[str, str]) -> Header:
    try:
        return artifact.read_header(_fetch(machine, part), part, key_arn=key_arn, context=context)
    except feed.FeedUnavailable:
        raise BootError(BootFailure.ARTIFACT_UNAVAILABLE) from None


def _data_key(client: KmsClient, header: Header, context: dict[str, str]) -> bytes:
    """From KMS, and at once held against the part's commitment: a KMS answer authenticates nothing."""
    data_key = client.decrypt(header.data_keys[0].ciphertext, context)
    try:
        unlock(header, data_key)
    except WrongKeyError:
        raise BootError(BootFailure.ARTIFACT_COMMITMENT) from None
    return data_key


def _client(machine: Machine, clock: TrustedClock, signed: SignedManifest) -> KmsClient:
    kms = signed.manifest.kms

    def credentials() -> AwsCredentials:
        return feed.credentials(dialler(machine.endpoints.credentials))

    return KmsClient(
        key_arn=kms.key_arn,
        host=kms.host,
        ca_pem=kms.ca_bundle,
        region=kms.region,
        nsm=machine.nsm,
        dial=dialler(machine.endpoints.kms),
        credentials=credentials,
        now=lambda: datetime.fromtimestamp(clock.now(), UTC),
    )


def unwrap(machine: Machine, clock: TrustedClock, signed: SignedManifest) -> dict[tuple[str, str], tuple[_Unwrapped, ...]]:
    """Every part's checked header and data key, by model id and version. Raises: BootError."""
    manifest = signed.manifest
    key_arn = manifest.kms.key_arn
    contexts = {model.id: encryption_context(signed.owner_key, model.id, manifest.epoch) for model in manifest.models}
    parts = [(model, part, contexts[model.id]) for model in manifest.models for part in model.parts]
    headers = [persist(machine, partial(_header, machine, part, key_arn, context)) for _, part, context in parts]
    opened: dict[tuple[str, str], tuple[_Unwrapped, ...]] = {}
    with contextlib.closing(_client(machine, clock, signed)) as client:
        for (model, part, context), header in zip(parts, headers, strict=True):
            data_key = persist(machine, partial(_data_key, client, header, context))
            name = (model.id, model.version)
            opened[name] = (*opened.get(name, ()), _Unwrapped(part=part, header=header, data_key=data_key))
    return opened


def _open(machine: Machine, unwrapped: _Unwrapped, sink: artifact.Sink) -> None:
    """One part into `sink`; a feed that broke starts over, a damaged artifact does not."""

    def attempt() -> None:
        try:
            artifact.open_part(_fetch(machine, unwrapped.part), unwrapped.part, unwrapped.data_key, sink, header=unwrapped.header)
        except feed.FeedUnavailable:
            raise BootError(BootFailure.ARTIFACT_UNAVAILABLE) from None

    persist(machine, attempt)


def _load(machine: Machine, model: Model, parts: tuple[_Unwrapped, ...], host: ModelHost) -> None:
    total = sum(unwrapped.part.length for unwrapped in parts)
    if total > model.intake.max_bytes:
        raise BootError(BootFailure.MODEL_REFUSED)
    graph = bytearray(parts[0].part.length)
    _open(machine, parts[0], artifact.MemorySink(graph))
    intake.judge(graph, intake=model.intake, weights=total - len(graph))
    weights: int | None = None
    try:
        for unwrapped in parts[1:]:
            weights = host.create_weights()
            _open(machine, unwrapped, artifact.FileSink(weights))
        host.load(model, memoryview(graph), weights)
    except OSError:
        raise BootError(BootFailure.MODEL_LOAD) from None
    except WorkersGoneError:
        raise BootError(BootFailure.INTERNAL) from None


def load(machine: Machine, clock: TrustedClock, signed: SignedManifest, host: ModelHost) -> Iterator[Stage]:
    """Load every model; yields each stage as it is reached. Raises: BootError."""
    unwrapped = unwrap(machine, clock, signed)
    yield Stage.UNWRAPPED
    for model in signed.manifest.models:
        _load(machine, model, unwrapped[model.id, model.version], host)
    yield Stage.LOADED
