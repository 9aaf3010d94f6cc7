"""The values of a manifest (`wire.manifest` reads and writes them): frozen, tuples inside, times in Unix seconds."""

from dataclasses import dataclass, field

CREDENTIAL_LIFETIME_DEFAULT = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a model's or pipeline's signature: datatype as the v2 protocol names it, -1 for a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One sealed message of a model. Lengths in bytes; `length` is the plaintext's, `artifact_length` the sealed one's."""

    name: str
    length: int
    artifact_length: int
    artifact_sha256: bytes
    header_sha256: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a model may be before ONNX Runtime sees it."""

    max_bytes: int = 2 << 30
    max_nodes: int = 100_000
    max_elements: int = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What one request may cost: bytes of memory beyond the loaded model, seconds, message sizes, worker processes."""

    memory_bytes: int = 1 << 30
    seconds: int = 60
    request_bytes: int = 64 << 20
    answer_bytes: int = 64 << 20
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One version of one model. `answer_padding`: the size in bytes to which answers and errors are padded (protocol.md: which not)."""

    id: str
    version: str
    parts: tuple[Part, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    intake: Intake = field(default_factory=Intake)
    runtime: Runtime = field(default_factory=Runtime)
    reject_non_finite: bool = False
    isolation: str = "process"
    answer_padding: int | None = None
    card: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model of a pipeline: (model input, pipeline tensor) and (model output, pipeline tensor) pairs."""

    model: str
    version: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Models chained inside the enclave under an id and version of their own; intermediate tensors never leave it."""

    id: str
    version: str
    steps: tuple[Step, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    answer_padding: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kms:
    """The owner's key by full ARN, and who may answer for it: host name and CA certificates (PEM)."""

    key_arn: str
    host: str
    ca_bundle: bytes

    @property
    def region(self) -> str:
        """The region that the key's ARN names."""
        return self.key_arn.split(":")[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Per credential subject and hour; per boot (the enclave has no memory)."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuers:
    """Callers need a credential by one of these raw Ed25519 keys, valid for at most `max_lifetime` seconds."""

    keys: tuple[bytes, ...]
    max_lifetime: int = CREDENTIAL_LIFETIME_DEFAULT


@dataclass(frozen=True, slots=True)
class Anyone:
    """Whoever attests the enclave may call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the enclave's front: sessions and handshakes at once, seconds, bytes of answers not yet sent."""

    sessions: int = 256
    handshakes: int = 64
    session_seconds: int = 3600
    idle_seconds: int = 300
    open_messages: int = 32
    unsent_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Settings of the audit log: seconds between signed checkpoints."""

    checkpoint_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The payload, parsed and judged except for time (`not_after`) and the platform's clock source, which boot judges."""

    deployment: str
    sequence: int
    not_after: int
    epoch: int
    models: tuple[Model, ...]
    kms: Kms
    callers: Issuers | Anyone
    pipelines: tuple[Pipeline, ...] = ()
    quota: Quota | None = None
    limits: Limits = field(default_factory=Limits)
    clocksources: tuple[str, ...] = ("kvm-clock", "tsc")
    audit: Audit | None = None
