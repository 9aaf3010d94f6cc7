"""The demo's model and patients: gradient boosting on scikit-learn's breast-cancer measurements, exported to ONNX.

569 real tumours (Wolberg, Street and Mangasarian, 1995), 30 measurements each, shipped with scikit-learn; a fifth is held
out and scored through the sealed path.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MODEL, VERSION, INPUT = "breast-cancer", "1", "measurements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """A trained model as ONNX, and the held-out patients: measurements (n, 30) FP32, true labels (n,), label names."""

    onnx: bytes
    measurements: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]


def train(seed: int = 7) -> Patients:
    """Train and export; the same seed gives the same model."""
    from skl2onnx import convert_sklearn  # noqa: PLC0415 - seconds that only the demo pays
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415
    from sklearn.ensemble import GradientBoostingClassifier  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    data = load_breast_cancer()
    split = train_test_split(data.data.astype(np.float32), data.target, test_size=0.2, random_state=seed, stratify=data.target)
    fitted = GradientBoostingClassifier(random_state=seed).fit(split[0], split[2])
    exported = convert_sklearn(
        fitted, initial_types=[(INPUT, FloatTensorType([None, 30]))], options={id(fitted): {"zipmap": False}}, target_opset=17
    )
    return Patients(
        onnx=exported.SerializeToString(),
        measurements=np.ascontiguousarray(split[1], dtype=np.float32),
        labels=split[3].astype(np.int64),
        names=tuple(str(name) for name in data.target_names),
    )
