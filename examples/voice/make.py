"""Speech or no speech: trains the two models of the voice example on audio that it makes. usage: make.py FOLDER

Speech is espeak-ng's (Debian: apt-get install espeak-ng), in several voices and speeds; the rest is noise, hum and silence;
both are mixed at several levels. `features.onnx` turns windows of half a second into 80 numbers (mean and peak above it of 40 log-mel
bands), `classifier.onnx` turns those into a probability. They are two models so that a manifest can chain them as a
pipeline: the features never leave the enclave.
"""

from pathlib import Path
import subprocess
import sys
import tempfile
import wave

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

RATE, WINDOW, FRAME, HOP, BANDS = 16_000, 8_000, 400, 160, 40
VOICES = ("en-gb", "en-us", "de", "fr", "es", "it")
TRAINED = (
    "the patient was seen in the clinic this morning",
    "please call back when the results have arrived",
    "seven nine four zero two one eight three",
    "who opened the window in the waiting room",
)
HELD_OUT = ("nobody between us can hear what is said here", "one two three this is the last sentence")
Samples = NDArray[np.float32]


def read(path: Path) -> Samples:
    """A mono 16-bit WAV as samples from -1 to 1, at 16 kHz."""
    with wave.open(str(path), "rb") as file:
        rate, raw = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
    places = np.arange(0, len(samples) - 1, rate / RATE)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def write(path: Path, samples: Samples) -> None:
    """Samples as a mono 16-bit WAV at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def speech(text: str, voice: str, speed: int, pitch: int) -> Samples:
    """espeak-ng's voice."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path), text], check=True, timeout=60)
        return read(path)


def noise(random: np.random.Generator, count: int) -> Samples:
    """White or brown noise, a hum, or near silence."""
    white = random.standard_normal(count)
    kinds = (white, np.cumsum(white) / 50, np.sin(np.arange(count) * 2 * np.pi * random.uniform(50, 400) / RATE), 0.01 * white)
    chosen = kinds[random.integers(len(kinds))] + 0.05 * white
    return (chosen / max(1e-9, float(np.abs(chosen).max())) * random.uniform(0.01, 0.5)).astype(np.float32)


def windows(samples: Samples) -> Samples:
    """Half seconds, the last one filled with zeros."""
    count = -(-len(samples) // WINDOW)
    return np.pad(samples, (0, count * WINDOW - len(samples))).reshape(count, WINDOW)


def examples(random: np.random.Generator, texts: tuple[str, ...]) -> tuple[Samples, NDArray[np.int64]]:
    """Windows and whether they hold speech: louder than a twentieth of its sentence's loudest window."""
    found, truth = [], []
    for text in texts:
        for voice in VOICES:
            spoken = windows(speech(text, voice, int(random.integers(120, 220)), int(random.integers(20, 80))))
            loud = spoken.std(axis=1)
            background = noise(random, spoken.size).reshape(spoken.shape) * random.uniform(0, 0.3)
            found += [spoken * random.uniform(0.3, 1.0) + background, windows(noise(random, spoken.size))]
            truth += [(loud > loud.max() / 20).astype(np.int64), np.zeros(len(spoken), np.int64)]
    return np.concatenate(found).astype(np.float32), np.concatenate(truth)


def mel_bands() -> NDArray[np.float32]:
    """Triangles over the spectrum's bins, evenly spaced in mel."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2) / 2595) - 1)
    bins = np.arange(FRAME // 2 + 1) * RATE / FRAME
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def features_model() -> bytes:
    """audio [n, 8000] -> features [n, 80], all of it as ONNX: the Fourier transform is a convolution."""
    time, bins = np.arange(FRAME), np.arange(FRAME // 2 + 1)
    angle = 2 * np.pi * bins[:, None] * time[None] / FRAME
    kernel = (np.concatenate([np.cos(angle), np.sin(angle)]) * np.hanning(FRAME))[:, None, :].astype(np.float32)
    constants = {
        "kernel": kernel,
        "mel": mel_bands(),
        "floor": np.array(1e-6, np.float32),
        "half": np.array([FRAME // 2 + 1] * 2, np.int64),
        "channel": np.array([1], np.int64),
        "two": np.array(2, np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "channel"], ["wave"]),
        helper.make_node("Conv", ["wave", "kernel"], ["both"], strides=[HOP]),
        helper.make_node("Pow", ["both", "two"], ["squares"]),
        helper.make_node("Split", ["squares", "half"], ["cosine", "sine"], axis=1),
        helper.make_node("Add", ["cosine", "sine"], ["power"]),
        helper.make_node("Transpose", ["power"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["frames", "mel"], ["bands"]),
        helper.make_node("Add", ["bands", "floor"], ["positive"]),
        helper.make_node("Log", ["positive"], ["log"]),
        helper.make_node("ReduceMean", ["log"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["log"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["most", "mean"], ["spread"]),
        helper.make_node("Concat", ["mean", "spread"], ["features"], axis=1),
    ]
    return _model(nodes, ("audio", [None, WINDOW]), ("features", [None, 2 * BANDS]), constants)


def classifier_model(weights: NDArray[np.float64], bias: NDArray[np.float64]) -> bytes:
    """features [n, 80] -> speech [n, 1], a probability."""
    constants = {"weights": weights.astype(np.float32).reshape(-1, 1), "bias": bias.astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["speech"]),
    ]
    return _model(nodes, ("features", [None, 2 * BANDS]), ("speech", [None, 1]), constants)


def _model(
    nodes: list[object], taken: tuple[str, list[int | None]], given: tuple[str, list[int | None]], constants: dict[str, NDArray[np.generic]]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "voice",
        [helper.make_tensor_value_info(taken[0], TensorProto.FLOAT, taken[1])],
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _run(model: bytes, name: str, values: Samples) -> NDArray[np.float32]:
    import os  # noqa: PLC0415

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: values})[0])


def train() -> tuple[bytes, bytes, float]:
    """Both models, and the share of held-out windows that they get right."""
    random = np.random.default_rng(7)
    features = features_model()
    audio, truth = examples(random, TRAINED)
    taken = _run(features, "audio", audio)
    middle, scale = taken.mean(axis=0), taken.std(axis=0) + 1e-6
    fitted = LogisticRegression(max_iter=2000).fit((taken - middle) / scale, truth)
    weights = fitted.coef_[0] / scale
    classifier = classifier_model(weights, fitted.intercept_ - (weights * middle).sum())
    audio, truth = examples(random, HELD_OUT)
    answer = _run(classifier, "features", _run(features, "audio", audio))[:, 0] > 0.5
    return features, classifier, float((answer == truth).mean())


def main(folder: Path) -> None:
    """Write the models and two recordings: a sentence, and noise."""
    features, classifier, right = train()
    (folder / "features.onnx").write_bytes(features)
    (folder / "classifier.onnx").write_bytes(classifier)
    write(folder / "speech.wav", speech(HELD_OUT[0], "en-gb", 160, 50))
    write(folder / "noise.wav", noise(np.random.default_rng(11), 2 * RATE))
    print(f"held-out windows classified right: {right:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
