"""`cloister sidecar` and `simulator up --sidecar` as processes."""

from collections.abc import Iterator
import http.client
import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A world with a sidecar, and what it said."""
    folder = tmp_path_factory.mktemp("world")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "simulator", "up", "--sidecar"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CLOISTER_WORLD": str(folder / "w")},
    )
    said: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.strip().partition("=")
        if name.isupper() and value and " " not in value:  # a command to try may begin with a variable, too
            said[name] = value
        if name == "MODELS":
            break
    yield process, said
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


def test_one_command_gives_a_door_to_a_whole_appliance(standing: tuple[subprocess.Popen[str], dict[str, str]]) -> None:
    """What `up --sidecar` prints is enough to ask the model, and SIGTERM ends everything in order."""
    process, said = standing
    assert set(said) == {"SIDECAR_HTTP", "SIDECAR_GRPC", "TOKEN", "MODELS"}
    host, _, port = said["SIDECAR_HTTP"].removeprefix("http://").partition(":")
    door = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"Authorization": f"Bearer {said['TOKEN']}"}
    door.request("GET", f"/v2/models/{said['MODELS']}", headers=headers)
    metadata = json.loads(door.getresponse().read())
    tensor = metadata["inputs"][0]
    root = {"inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": [1, 30], "data": [1.0] * 30}]}
    door.request("POST", f"/v2/models/{said['MODELS']}/infer", json.dumps(root).encode(), headers)
    answer = door.getresponse()
    assert (answer.status, json.loads(answer.read())["model_name"]) == (200, said["MODELS"])
    door.request("GET", "/attestation", headers={**headers, "Accept": "text/html"})
    assert b"SIMULATED" in door.getresponse().read()
    door.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("content", "words", "status"),
    [(None, "no such file", 3), ("[appliance", "not TOML", 2), ("[appliance]\nendpoint = 'tcp:a:1'\n", "reference_values", 2)],
)
def test_a_wrong_file_is_said(tmp_path: Path, content: str | None, words: str, status: int) -> None:
    """A missing or malformed configuration is one line on standard error and the exit status of its kind."""
    path = tmp_path / "sidecar.toml"
    if content is not None:
        path.write_text(content)
    code = "import sys; from cloister.command.main import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code, "sidecar", "--config", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )
    assert (ran.returncode, words in ran.stderr, ran.stderr.count("\n")) == (status, True, 1)
