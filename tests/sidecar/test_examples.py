"""The SDK's examples, run on a simulated appliance."""

import asyncio
from collections.abc import Iterator
import importlib.util
from pathlib import Path
import shutil
import tempfile
from types import ModuleType

import pytest

from attestation import reference_values
from cloister.identity import write_key
from tests.sidecar import appliance_models

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(serving: appliance_models.Serving) -> Iterator[tuple[str, ...]]:
    """What a person would type behind the example's name."""
    folder = Path(tempfile.mkdtemp())
    identity = serving.world.owner.identity(models=serving.names)
    (folder / "values.json").write_bytes(reference_values.render(serving.world.owner.reference_values([serving.measured])))
    (folder / "credential").write_bytes(identity.credential)
    write_key(folder / "key.pem", identity.key)
    yield serving.world.endpoint, *(str(folder / name) for name in ("values.json", "credential", "key.pem")), "sum"
    shutil.rmtree(folder)


def test_the_sync_example_runs(serving: appliance_models.Serving, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """examples/sdk_sync.py prints the model's answer and who gave it."""
    example("sdk_sync").main(*words, roots=serving.world.roots)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["sum [2.]", "difference [0.]"]
    assert said[2].startswith("answered by i-")


def test_the_async_example_runs(serving: appliance_models.Serving, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """examples/sdk_async.py sends eight requests at once and gets eight equal answers."""
    asyncio.run(example("sdk_async").main(*words, roots=serving.world.roots))
    assert capsys.readouterr().out.splitlines() == ["sum [2.]", "difference [0.]", "8 answers, all equal: True"]
