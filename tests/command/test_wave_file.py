"""Recordings for `cloister infer`: cut into the model's windows, and refused where they are something else."""

from pathlib import Path
from typing import Any
import wave

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cloister.command import tensor_files, wave_file
from cloister.command.output import UsageError

WINDOWS = {"name": "audio", "datatype": "FP32", "shape": [-1, 4]}


def recording(path: Path, samples: list[int], *, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16_000)
        file.writeframes(np.array(samples, f"<i{width}").tobytes())
    return path


def test_samples_are_cut_into_windows(tmp_path: Path) -> None:
    """Values lie from -1 to 1, the last window is filled with zeros, and silence of no length is one window."""
    path = recording(tmp_path / "a.wav", [-32768, 16384, 0, 1, 2])
    found = wave_file.read(path, WINDOWS)
    assert found.dtype == np.float32
    assert found.tolist() == [[-1, 0.5, 0, 1 / 32768], [2 / 32768, 0, 0, 0]]
    assert wave_file.read(recording(tmp_path / "b.wav", []), WINDOWS).tolist() == [[0, 0, 0, 0]]
    assert wave_file.read(path, {**WINDOWS, "shape": [-1]}).shape == (5,)


def test_a_recording_goes_to_the_only_input(tmp_path: Path) -> None:
    """A .wav is a file like the others: for the model's only input, or the one that is named."""
    path = recording(tmp_path / "a.wav", [1, 2, 3, 4])
    assert list(tensor_files.read(path, [WINDOWS], name=None, cast=False)) == ["audio"]
    assert list(tensor_files.read(path, [WINDOWS, {**WINDOWS, "name": "b"}], name="b", cast=False)) == ["b"]
    with pytest.raises(UsageError):
        tensor_files.read(path, [WINDOWS, {**WINDOWS, "name": "b"}], name=None, cast=False)


@pytest.mark.parametrize("entry", [{"datatype": "INT16"}, {"shape": [-1, -1]}, {"shape": [2, 4]}, {"shape": []}, {"shape": [-1, 4, 1]}])
def test_an_input_that_takes_no_recording(tmp_path: Path, entry: dict[str, Any]) -> None:
    """Only FP32 of [n] or [n, window] is a recording."""
    with pytest.raises(UsageError):
        wave_file.read(recording(tmp_path / "a.wav", [1]), {**WINDOWS, **entry})


def test_stereo_and_other_widths_are_refused(tmp_path: Path) -> None:
    """What would be misread as samples of this form is refused."""
    with pytest.raises(UsageError):
        wave_file.read(recording(tmp_path / "a.wav", [1, 2], channels=2), WINDOWS)
    with pytest.raises(UsageError):
        wave_file.read(recording(tmp_path / "b.wav", [1, 2], width=4), WINDOWS)


@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_recording_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes: windows, or UsageError."""
    path = tmp_path_factory.getbasetemp() / "any.wav"
    for content in (data, b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + data):
        path.write_bytes(content)
        try:
            assert wave_file.read(path, WINDOWS).shape[1] == 4
        except UsageError:
            continue
