"""From decoded CBOR to a manifest's values: every field typed, bounded and known, cross references resolved."""

from collections.abc import Callable
from typing import TypeVar

from wire import cbor
from wire.errors import WireError
from wire.fields import Fields
from wire.keys import WeakKeyError, load_public
from wire.manifest_values import (
    Anyone,
    Audit,
    Intake,
    Issuers,
    Kms,
    Limits,
    Manifest,
    Model,
    Part,
    Pipeline,
    Quota,
    Runtime,
    Step,
    Tensor,
)

VERSION = 1
CREDENTIAL_LIFETIME_MAX = 30 * 86_400
NUMBER_MAX = 2**53 - 1
MODELS_MAX = 256
TENSORS_MAX = 256
RANK_MAX = 16
MESSAGE_MAX = 1 << 30

ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
TENSOR_NAME = r"[^\x00-\x1f\x7f]{1,128}"
# Datatypes of the Open Inference Protocol v2 that ONNX Runtime has.
DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES")
# The full ARN of a single-Region key: no alias, no mrk- (a replica has a policy of its own).
KEY_ARN = r"arn:aws(-us-gov)?:kms:[a-z]{2}(-[a-z]+)+-[0-9]{1,2}:[0-9]{12}:key/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
HOST = r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"


class MalformedManifestError(WireError):
    """A signed manifest whose content this version does not accept; the text names the field."""


T = TypeVar("T")


def _each(fields: Fields, name: str, least: int, most: int, read: Callable[[object, str], T]) -> tuple[T, ...]:
    return tuple(read(item, f"{fields.path}.{name}[{at}]".lstrip(".")) for at, item in enumerate(fields.items(name, least, most)))


def _fields(value: object, path: str) -> Fields:
    return Fields(value, path, MalformedManifestError)


def _unique(names: tuple[object, ...], path: str) -> None:
    if len(set(names)) != len(names):
        raise MalformedManifestError(f"{path} names something twice")


def _tensor(value: object, path: str) -> Tensor:
    fields = _fields(value, path)
    name, datatype = fields.text("name", TENSOR_NAME), fields.text("datatype", "|".join(DATATYPES))
    shape = fields.items("shape", 0, RANK_MAX)
    sizes = tuple(size for size in shape if isinstance(size, int) and not isinstance(size, bool) and -1 <= size <= NUMBER_MAX)
    if len(sizes) != len(shape):
        raise fields.fail("shape", "an array of sizes, -1 where free")
    fields.done()
    return Tensor(name=name, datatype=datatype, shape=sizes)


def _tensors(fields: Fields, name: str) -> tuple[Tensor, ...]:
    tensors = _each(fields, name, 1, TENSORS_MAX, _tensor)
    _unique(tuple(tensor.name for tensor in tensors), f"{fields.path}.{name}")
    return tensors


def _part(value: object, path: str) -> Part:
    fields = _fields(value, path)
    part = Part(
        name=fields.text("name", "graph|weights"),
        length=fields.integer("length", 1, 1 << 40),
        artifact_length=fields.integer("artifact_length", 1, 1 << 40),
        artifact_sha256=fields.octets("artifact_sha256", 32, 32),
        header_sha256=fields.octets("header_sha256", 32, 32),
        commitment=fields.octets("commitment", 32, 32),
    )
    fields.done()
    return part


def _intake(fields: Fields) -> Intake:
    intake = Intake(
        max_bytes=fields.integer("max_bytes", 1, 1 << 40),
        max_nodes=fields.integer("max_nodes", 1, 1 << 24),
        max_elements=fields.integer("max_elements", 1, 1 << 40),
    )
    fields.done()
    return intake


def _runtime(fields: Fields) -> Runtime:
    runtime = Runtime(
        memory_bytes=fields.integer("memory_bytes", 1 << 20, 1 << 40),
        seconds=fields.integer("seconds", 1, 3600),
        request_bytes=fields.integer("request_bytes", 1, MESSAGE_MAX),
        answer_bytes=fields.integer("answer_bytes", 1, MESSAGE_MAX),
        workers=fields.integer("workers", 1, 64),
    )
    fields.done()
    return runtime


def _answer_padding(fields: Fields) -> int | None:
    value = fields.take("answer_padding")
    if value is None:
        return None
    if not isinstance(value, int) or not 1024 <= value <= MESSAGE_MAX:  # a boolean is 0 or 1
        raise fields.fail("answer_padding", f"null or an integer from 1024 to {MESSAGE_MAX}")
    return value


def _model(value: object, path: str) -> Model:
    fields = _fields(value, path)
    model = Model(
        id=fields.text("id", ID),
        version=fields.text("version", ID),
        parts=_each(fields, "parts", 1, 2, _part),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        intake=_intake(fields.inner("intake")),
        runtime=_runtime(fields.inner("runtime")),
        reject_non_finite=fields.boolean("reject_non_finite"),
        isolation=fields.text("isolation", "process|inline"),
        answer_padding=_answer_padding(fields),
        card=tuple(sorted(fields.mapping("card", 64).items())),
    )
    fields.done()
    if tuple(part.name for part in model.parts) not in (("graph",), ("graph", "weights")):
        raise fields.fail("parts", "graph, then weights if there are any")
    return model


def _pairs(value: object, path: str) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(item, str) for item in value):
        raise MalformedManifestError(f"{path} is not a pair of tensor names")
    return value[0], value[1]


def _step(value: object, path: str) -> Step:
    fields = _fields(value, path)
    step = Step(
        model=fields.text("model", ID),
        version=fields.text("version", ID),
        inputs=_each(fields, "inputs", 1, TENSORS_MAX, _pairs),
        outputs=_each(fields, "outputs", 1, TENSORS_MAX, _pairs),
    )
    fields.done()
    return step


def _pipeline(value: object, path: str) -> Pipeline:
    fields = _fields(value, path)
    pipeline = Pipeline(
        id=fields.text("id", ID),
        version=fields.text("version", ID),
        steps=_each(fields, "steps", 1, 16, _step),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        answer_padding=_answer_padding(fields),
    )
    fields.done()
    return pipeline


def _fits(given: Tensor, wanted: Tensor) -> bool:
    return (
        given.datatype == wanted.datatype
        and len(given.shape) == len(wanted.shape)
        and all(-1 in (a, b) or a == b for a, b in zip(given.shape, wanted.shape, strict=True))
    )


def _connect(pipeline: Pipeline, models: dict[tuple[str, str], Model], path: str) -> None:
    """Every step's inputs come from the pipeline's or an earlier step, with datatype and shape that fit; so do its outputs."""
    known = {tensor.name: tensor for tensor in pipeline.inputs}
    for at, step in enumerate(pipeline.steps):
        model = models.get((step.model, step.version))
        where = f"{path}.steps[{at}]"
        if model is None:
            raise MalformedManifestError(f"{where} names a model that the manifest has not")
        inputs, outputs = dict(step.inputs), dict(step.outputs)
        if len(inputs) != len(step.inputs) or inputs.keys() != {tensor.name for tensor in model.inputs}:
            raise MalformedManifestError(f"{where}.inputs does not name each input of the model once")
        for tensor in model.inputs:
            source = known.get(inputs[tensor.name])
            if source is None or not _fits(source, tensor):
                raise MalformedManifestError(f"{where}.inputs takes a tensor that is not there or does not fit")
        names = {tensor.name: tensor for tensor in model.outputs}
        if len(outputs) != len(step.outputs) or not outputs.keys() <= names.keys():
            raise MalformedManifestError(f"{where}.outputs names no output of the model, or one twice")
        for name, given in outputs.items():
            if given in known:
                raise MalformedManifestError(f"{where}.outputs gives a tensor that is there already")
            known[given] = names[name]
    for tensor in pipeline.outputs:
        source = known.get(tensor.name)
        if source is None or not _fits(source, tensor):
            raise MalformedManifestError(f"{path}.outputs names a tensor that no step gives or that does not fit")


def _callers(value: object) -> Issuers | Anyone:
    if value == "anyone":
        return Anyone()
    fields = _fields(value, "callers")
    keys = fields.items("issuers", 1, 8)
    lifetime = fields.integer("max_lifetime", 60, CREDENTIAL_LIFETIME_MAX)
    fields.done()
    loaded: list[bytes] = []
    for key in keys:
        try:
            if not isinstance(key, bytes):
                raise WeakKeyError("not a byte string")
            load_public(key)
        except WeakKeyError as error:
            raise MalformedManifestError(f"callers.issuers holds a bad key: {error}") from None
        loaded.append(key)
    _unique(tuple(loaded), "callers.issuers")
    return Issuers(keys=tuple(loaded), max_lifetime=lifetime)


def _kms(fields: Fields) -> Kms:
    kms = Kms(
        key_arn=fields.text("key_arn", KEY_ARN),
        host=fields.text("host", HOST),
        ca_bundle=fields.octets("ca_bundle", 1, 256 * 1024),
    )
    fields.done()
    return kms


def _quota(value: object) -> Quota | None:
    if value is None:
        return None
    fields = _fields(value, "quota")
    quota = Quota(requests=fields.integer("requests", 1, NUMBER_MAX), bytes=fields.integer("bytes", 1, NUMBER_MAX))
    fields.done()
    return quota


def _limits(fields: Fields) -> Limits:
    limits = Limits(
        sessions=fields.integer("sessions", 1, 65_536),
        handshakes=fields.integer("handshakes", 1, 4096),
        session_seconds=fields.integer("session_seconds", 60, 86_400),
        idle_seconds=fields.integer("idle_seconds", 10, 86_400),
        open_messages=fields.integer("open_messages", 1, 1024),
        unsent_bytes=fields.integer("unsent_bytes", 1 << 20, 1 << 36),
    )
    fields.done()
    return limits


def _audit(value: object) -> Audit | None:
    if value is None:
        return None
    fields = _fields(value, "audit")
    audit = Audit(checkpoint_seconds=fields.integer("checkpoint_seconds", 1, 86_400))
    fields.done()
    return audit


def _platform(fields: Fields) -> tuple[str, ...]:
    sources = fields.items("clocksources", 1, 8)
    names = tuple(name for name in sources if isinstance(name, str) and name.isascii() and name.replace("-", "").replace("_", "").isalnum())
    if len(names) != len(sources):
        raise fields.fail("clocksources", "an array of clock source names")
    fields.done()
    return names


def parse(value: cbor.Value) -> Manifest:
    """Judge every field of a decoded payload. Raises: MalformedManifestError. Not checked: time."""
    fields = _fields(value, "")
    fields.integer("version", VERSION, VERSION)
    manifest = Manifest(
        deployment=fields.text("deployment", ID),
        sequence=fields.integer("sequence", 1, NUMBER_MAX),
        not_after=fields.integer("not_after", 1, NUMBER_MAX),
        epoch=fields.integer("epoch", 1, NUMBER_MAX),
        models=_each(fields, "models", 1, MODELS_MAX, _model),
        pipelines=_each(fields, "pipelines", 0, MODELS_MAX, _pipeline),
        kms=_kms(fields.inner("kms")),
        callers=_callers(fields.take("callers")),
        quota=_quota(fields.take("quota")),
        limits=_limits(fields.inner("limits")),
        clocksources=_platform(fields.inner("platform")),
        audit=_audit(fields.take("audit")),
    )
    fields.done()
    names = [(model.id, model.version) for model in manifest.models]
    names += [(pipeline.id, pipeline.version) for pipeline in manifest.pipelines]
    _unique(tuple(names), "models and pipelines")
    models = {(model.id, model.version): model for model in manifest.models}
    for at, pipeline in enumerate(manifest.pipelines):
        _connect(pipeline, models, f"pipelines[{at}]")
    return manifest
