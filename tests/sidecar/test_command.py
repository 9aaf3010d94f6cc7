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

from attestation import reference_values
from attestation.reference_values import Measurement, ReferenceValues

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


def sidecar(path: Path) -> "subprocess.CompletedProcess[str]":
    """The command with a configuration that does not let it serve."""
    code = "import sys; from cloister.command.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "sidecar", "--config", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A token file is its user's alone, as the caller's key is: it opens the door to the same enclave."""
    measured = Measurement(pcr0=bytes([1]) * 48, pcr1=bytes([2]) * 48, pcr2=bytes([3]) * 48)
    values = ReferenceValues(measurements=(measured,), pcr16=bytes([4]) * 48, min_sequence=1)
    (tmp_path / "values.json").write_bytes(reference_values.render(values))
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o640)
    path = tmp_path / "sidecar.toml"
    path.write_text(
        '[appliance]\nendpoint = "unix:nobody"\nreference_values = "values.json"\n'
        '[http]\nlisten = "tcp:127.0.0.1:0"\ntoken_file = "token"\n'
    )
    ran = sidecar(path)
    assert (ran.returncode, f"chmod 600 {tmp_path / 'token'}" in ran.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "words", "status"),
    [(None, "no such file", 3), ("[appliance", "not TOML", 2), ("[appliance]\nendpoint = 'tcp:a:1'\n", "reference_values", 2)],
)
def test_a_wrong_file_is_said(tmp_path: Path, content: str | None, words: str, status: int) -> None:
    """A missing or malformed configuration is one line on standard error and the exit status of its kind."""
    path = tmp_path / "sidecar.toml"
    if content is not None:
        path.write_text(content)
    ran = sidecar(path)
    assert (ran.returncode, words in ran.stderr, ran.stderr.count("\n")) == (status, True, 1)
