"""From a manifest's values to the CBOR value that is encoded and signed; `wire.manifest_codec` reads it back."""

from wire import cbor
from wire.manifest_codec import VERSION
from wire.manifest_values import Intake, Issuers, Kms, Limits, Manifest, Model, Part, Pipeline, Runtime, Tensor


def _render_tensors(tensors: tuple[Tensor, ...]) -> list[cbor.Value]:
    return [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors]


def _render_model(model: Model) -> cbor.Value:
    return {
        "id": model.id,
        "version": model.version,
        "parts": [{name: getattr(part, name) for name in Part.__slots__} for part in model.parts],
        "inputs": _render_tensors(model.inputs),
        "outputs": _render_tensors(model.outputs),
        "intake": {name: getattr(model.intake, name) for name in Intake.__slots__},
        "runtime": {name: getattr(model.runtime, name) for name in Runtime.__slots__},
        "reject_non_finite": model.reject_non_finite,
        "isolation": model.isolation,
        "answer_padding": model.answer_padding,
        "card": dict(model.card),
    }


def _render_pipeline(pipeline: Pipeline) -> cbor.Value:
    steps: list[cbor.Value] = [
        {
            "model": step.model,
            "version": step.version,
            "inputs": [list(pair) for pair in step.inputs],
            "outputs": [list(pair) for pair in step.outputs],
        }
        for step in pipeline.steps
    ]
    return {
        "id": pipeline.id,
        "version": pipeline.version,
        "steps": steps,
        "inputs": _render_tensors(pipeline.inputs),
        "outputs": _render_tensors(pipeline.outputs),
        "answer_padding": pipeline.answer_padding,
    }


def render(manifest: Manifest) -> cbor.Value:
    """The CBOR value that `parse` reads back to an equal manifest."""
    callers: cbor.Value = "anyone"
    if isinstance(manifest.callers, Issuers):
        callers = {"issuers": list(manifest.callers.keys), "max_lifetime": manifest.callers.max_lifetime}
    return {
        "version": VERSION,
        "deployment": manifest.deployment,
        "sequence": manifest.sequence,
        "not_after": manifest.not_after,
        "epoch": manifest.epoch,
        "models": [_render_model(model) for model in manifest.models],
        "pipelines": [_render_pipeline(pipeline) for pipeline in manifest.pipelines],
        "kms": {name: getattr(manifest.kms, name) for name in Kms.__slots__},
        "callers": callers,
        "quota": None if manifest.quota is None else {"requests": manifest.quota.requests, "bytes": manifest.quota.bytes},
        "limits": {name: getattr(manifest.limits, name) for name in Limits.__slots__},
        "platform": {"clocksources": list(manifest.clocksources)},
        "audit": None if manifest.audit is None else {"checkpoint_seconds": manifest.audit.checkpoint_seconds},
    }
