"""Recordings as tensors: a mono WAV of 16 bits becomes samples from -1 to 1, cut into the model's windows."""

from collections.abc import Mapping
from pathlib import Path
import struct
from typing import Any
import wave

import numpy as np
from numpy.typing import NDArray

from cloister.command.output import UsageError

FRAMES_MAX = 1 << 28


def read(path: Path, entry: Mapping[str, Any]) -> NDArray[np.float32]:
    """The samples for an input [n, window] (the last window filled with zeros) or [n]. Raises: UsageError, OSError.

    Not checked: the sample rate, which the protocol's metadata does not name.
    """
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2) or file.getnframes() > FRAMES_MAX:
                raise UsageError(f"{path} is not mono with 16 bits a sample; convert it, for example: sox {path} -c 1 -b 16 out.wav")
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError, ValueError, ArithmeticError, struct.error):  # all that the library lets out
        raise UsageError(f"{path} is no WAV file") from None
    samples: NDArray[np.float32] = np.frombuffer(raw[: len(raw) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)
    shape = list(entry.get("shape", []))
    if entry.get("datatype") != "FP32" or len(shape) not in (1, 2) or (len(shape) == 2 and (shape[0] != -1 or shape[1] <= 0)):
        raise UsageError(f"the input {entry.get('name')} takes no recording: it is {entry.get('datatype')} {shape}, not FP32 [-1, window]")
    if len(shape) == 1:
        return samples
    count = max(1, -(-len(samples) // shape[1]))
    filled: NDArray[np.float32] = np.zeros((count, shape[1]), np.float32)
    filled.reshape(-1)[: len(samples)] = samples
    return filled
