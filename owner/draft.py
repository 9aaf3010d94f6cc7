"""A manifest while it is being made: JSON that a person can read and edit, judged in full when it is signed.

The same fields as the signed payload; digests and keys in hex, the CA bundle as PEM text. A draft differs from a manifest
in that it may still have no models, and that `sign` decides `not_after`.
"""

from dataclasses import dataclass, replace
import json
from typing import Any

from owner.errors import OwnerError
from wire import cbor
from wire.keys import WeakKeyError, load_public
from wire.manifest import Anyone, Kms, MalformedManifestError, Manifest, Model, parse
from wire.manifest_render import render

NOT_AFTER_UNSET = 1
JSON_MAX = 8 << 20

Json = dict[str, Any]


class DraftError(OwnerError):
    """A draft or model description is not one, or does not fit what it is added to; the text names the field."""


def _bytes_as_text(value: cbor.Value, name: str = "") -> Any:
    match value:
        case bytes() if name == "ca_bundle":
            return value.decode("ascii", "replace")
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _bytes_as_text(item, str(key)) for key, item in value.items()}
        case list():
            return [_bytes_as_text(item, name) for item in value]
        case _:
            return value


_OCTETS = frozenset({"artifact_sha256", "header_sha256", "commitment", "issuers"})


def _text_as_bytes(value: Any, name: str = "") -> cbor.Value:
    match value:
        case str() if name == "ca_bundle":
            return value.encode("utf-8")
        case str() if name in _OCTETS:
            try:
                return bytes.fromhex(value)
            except ValueError:
                raise DraftError(f"{name} is not hex") from None
        case dict():
            return {str(key): _text_as_bytes(item, str(key)) for key, item in value.items()}
        case list():
            return [_text_as_bytes(item, name) for item in value]
        case None | bool() | int() | str():
            return value
    raise DraftError(f"{name} is a number with a fraction")


def load(text: bytes) -> Json:
    """One JSON object, without repeated names. Raises: DraftError."""
    try:
        value = json.loads(text[: JSON_MAX + 1].decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise DraftError("not a JSON object of at most 8 MiB") from None
    if not isinstance(value, dict):
        raise DraftError("not a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def dump(value: Json) -> str:
    """The text that `load` reads back."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def from_manifest(manifest: Manifest) -> Json:
    """The draft of a manifest."""
    value: Json = _bytes_as_text(render(manifest))
    return value


def to_manifest(draft: Json) -> Manifest:
    """Judge a draft in full. Raises: DraftError, naming the first field that is not a manifest's."""
    try:
        return parse(_text_as_bytes(draft))
    except MalformedManifestError as error:
        raise DraftError(f"{error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A sealed model as it goes from `model seal` to `manifest add`: what the manifest says of it, and for whom it was sealed."""

    model: Model
    owner_key: bytes
    key_arn: str
    epoch: int


def _frame(**fields: Any) -> Manifest:
    """The smallest manifest around a model: whether `wire.manifest` takes it is what judges a description."""
    values: Json = {
        "deployment": "none",
        "sequence": 1,
        "not_after": NOT_AFTER_UNSET,
        "models": (),
        "kms": Kms(key_arn="", host="localhost", ca_bundle=b"none"),
        "callers": Anyone(),
    }
    return Manifest(**{**values, **fields})


def describe(description: Description) -> Json:
    """The JSON of a description."""
    kms = Kms(key_arn=description.key_arn, host="localhost", ca_bundle=b"none")
    framed = from_manifest(_frame(models=(description.model,), epoch=description.epoch, kms=kms))
    return {
        "model": framed["models"][0],
        "owner_key": description.owner_key.hex(),
        "key_arn": description.key_arn,
        "epoch": description.epoch,
    }


def read_description(value: Json) -> Description:
    """Judge a description in full. Raises: DraftError."""
    if value.keys() != {"model", "owner_key", "key_arn", "epoch"}:
        raise DraftError("a model description has model, owner_key, key_arn and epoch, and nothing else")
    frame = from_manifest(_frame(epoch=1))
    frame["models"], frame["epoch"], frame["kms"]["key_arn"] = [value["model"]], value["epoch"], value["key_arn"]
    judged = to_manifest(frame)
    try:
        owner_key = bytes.fromhex(value["owner_key"])
        load_public(owner_key)
    except (TypeError, ValueError, WeakKeyError):
        raise DraftError("owner_key is no Ed25519 public key in hex") from None
    return Description(model=judged.models[0], owner_key=owner_key, key_arn=judged.kms.key_arn, epoch=judged.epoch)


def add(draft: Json, description: Description) -> tuple[Json, bool]:
    """The draft with the model, in place of one of the same id and version; whether there was one.

    Raises: DraftError where the model was sealed for another KMS key or epoch than the draft's: it would not unwrap.
    """
    kms = draft.get("kms")
    if not isinstance(kms, dict) or kms.get("key_arn") != description.key_arn:
        raise DraftError("the model was sealed under another KMS key than the manifest's; seal it again, or change kms.key_arn")
    if draft.get("epoch") != description.epoch:
        raise DraftError(f"the model was sealed for epoch {description.epoch}, the manifest is of another; seal it again")
    models = draft.get("models")
    if not isinstance(models, list):
        raise DraftError("models is not an array")
    name = (description.model.id, description.model.version)
    kept = [model for model in models if not isinstance(model, dict) or (model.get("id"), model.get("version")) != name]
    return {**draft, "models": [*kept, describe(description)["model"]]}, len(kept) != len(models)


def successor(manifest: Manifest) -> Json:
    """The draft that follows a signed manifest: all of it, the sequence one higher."""
    return from_manifest(replace(manifest, sequence=manifest.sequence + 1, not_after=NOT_AFTER_UNSET))


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, object, object]]:
    """(field, old, new) wherever two drafts differ, models by id and version; None for what is not there."""
    if isinstance(old, list) and isinstance(new, list) and path.rsplit(".", 1)[-1] in ("models", "pipelines", "parts"):
        old, new = _named(old), _named(new)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [(path, old, new)]
    found: list[tuple[str, object, object]] = []
    for name in dict.fromkeys((*old, *new)):
        found += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    return found


def _named(items: list[Any]) -> Json:
    return {f"{item.get('id', '')} {item.get('version', '')}".strip() or str(item.get("name", at)): item for at, item in enumerate(items)}
