"""The voice example: two models trained on espeak-ng's speech, sealed as a pipeline, asked by `cloister infer` with recordings."""

from collections.abc import Iterator
import importlib.util
import json
from pathlib import Path
import shutil
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from attestation import reference_values
from cloister.command.main import main
from cloister.identity import write_key
from simulator import hypervisor
from simulator.owner import ModelSpec
from simulator.world import World
from wire.manifest import Pipeline, Step, Tensor

HERE = Path(__file__).resolve()
MAKE = HERE.parents[2] / "examples" / "voice" / "make.py"


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("voice_make", MAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Models and recordings, made by the example."""
    if shutil.which("espeak-ng") is None:
        pytest.fail("espeak-ng is missing; install it with: sudo apt-get install espeak-ng")
    made = tmp_path_factory.mktemp("voice")
    _module().main(made)
    return made


def _pipeline() -> Pipeline:
    steps = (
        Step(model="features", version="1", inputs=(("audio", "audio"),), outputs=(("features", "features"),)),
        Step(model="classifier", version="1", inputs=(("features", "features"),), outputs=(("speech", "speech"),)),
    )
    audio, speech = (Tensor(name=n, datatype="FP32", shape=s) for n, s in (("audio", (-1, 8000)), ("speech", (-1, 1))))
    return Pipeline(id="voice", version="1", steps=steps, inputs=(audio,), outputs=(speech,))


@pytest.fixture(scope="module")
def world(folder: Path) -> Iterator[World]:
    """An appliance that serves the pipeline; the caller's files lie in `folder`."""
    made = World.create()
    try:
        archive = made.archive()
        measured = hypervisor.measure(archive)
        made.start_kms()
        made.owner.create_key([measured])
        made.owner.seal([ModelSpec(id=n, version="1", onnx=(folder / f"{n}.onnx").read_bytes()) for n in ("features", "classifier")])
        made.owner.publish(made.owner.manifest(pipelines=(_pipeline(),)))
        made.new_run()
        made.start_parent()
        made.start_enclave(archive)
        made.wait_serving()
        identity = made.owner.identity(models=("voice",))
        (folder / "values.json").write_bytes(reference_values.render(made.owner.reference_values([measured])))
        (folder / "credential").write_bytes(identity.credential)
        write_key(folder / "key.pem", identity.key)
        yield made
    finally:
        made.close()


def _infer(world: World, folder: Path, model: str, recording: str) -> int:
    words = ["infer", world.endpoint, model, str(folder / recording), "--out", str(folder / "out.npy")]
    words += [
        "--reference-values",
        str(folder / "values.json"),
        "--credential",
        str(folder / "credential"),
        "--key",
        str(folder / "key.pem"),
    ]
    return main(["--json", *words], root=world.roots)


@pytest.mark.parametrize(("recording", "speech"), [("speech.wav", True), ("noise.wav", False)])
def test_recordings_are_told_apart(world: World, folder: Path, recording: str, speech: bool) -> None:
    """`cloister infer` with a WAV: most windows of the sentence are speech, none of the noise; equal to onnxruntime's own."""
    assert _infer(world, folder, "voice", recording) == 0
    found = np.load(folder / "out.npy")
    assert (found > 0.5).mean() > 0.5 if speech else (found > 0.5).mean() == 0
    made = _module()
    audio = made.windows(made.read(folder / recording))
    features = onnxruntime.InferenceSession(folder / "features.onnx").run(None, {"audio": audio})[0]
    plain = onnxruntime.InferenceSession(folder / "classifier.onnx").run(None, {"features": features})[0]
    assert np.array_equal(found, plain)


def test_the_features_never_leave(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pipeline's answer has no features, and a caller of the pipeline may not ask its models by themselves."""
    assert _infer(world, folder, "voice", "speech.wav") == 0
    assert np.load(folder / "out.npy").shape[1] == 1
    capsys.readouterr()
    assert _infer(world, folder, "features", "speech.wav") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "model-not-authorised"
