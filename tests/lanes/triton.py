"""Clients that nobody here wrote, unmodified, against a whole simulated appliance; run by `make lane-triton`.

ORACLES says where their environments are; curl is the machine's.
"""

import json
import os
from pathlib import Path
import subprocess

import pytest

from cloister.sidecar import inference_pb2
from cloister.sidecar.appliance import Target
from cloister.sidecar.config import Listener
from cloister.sidecar.serve import Settings
from tests.sidecar.conftest import TOKEN, Running, Sidecar
from wire.endpoint import Unix

pytest_plugins = ["tests.sidecar.conftest"]

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
PYTHON = Path(os.environ["ORACLES"]).resolve() / "triton" / "bin" / "python"


def run(*words: str) -> str:
    """What it printed; a failure shows it."""
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_tritons_clients_see_a_server_of_their_protocol(sidecar: Sidecar) -> None:
    """tritonclient http, http.aio, grpc and grpc.aio: health, metadata, all datatypes, compression, streams, refusals."""
    said = run(str(PYTHON), "-P", str(HERE / "triton_clients.py"), sidecar.http, sidecar.grpc, TOKEN)
    print(said)
    assert said.rstrip().endswith("0 failed")


def test_names_and_numbers_are_tritons() -> None:
    """Our .proto has no message, field or method that differs from theirs."""
    print(run(str(PYTHON), "-P", str(HERE / "triton_numbers.py"), inference_pb2.DESCRIPTOR.serialized_pb.hex()))


@pytest.mark.parametrize("name", ["triton_http.py", "triton_grpc.py", "plain_http.py"])
def test_examples_run(sidecar: Sidecar, name: str) -> None:
    """Each example that goes through the sidecar prints the model's answer."""
    address = sidecar.grpc if "grpc" in name else sidecar.http
    said = run(str(PYTHON), "-P", str(EXAMPLES / name), address, TOKEN, "sum")
    assert said.split() in (["sum", "[2.]", "difference", "[0.]"], ["sum", "[2.0]", "difference", "[0.0]"])


def test_curl_asks(sidecar: Sidecar, target: Target, tmp_path: Path) -> None:
    """curl asks over loopback with a token, and over a Unix socket without."""
    body = json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [1], "data": [1]} for n in "ab"]})
    asked = ("curl", "--silent", "--show-error", "--fail", "--compressed", "--data-binary", body)
    said = run(*asked, "--header", f"Authorization: Bearer {TOKEN}", f"{sidecar.http}/v2/models/sum/infer")
    assert json.loads(said)["outputs"][0]["data"] == [2]
    path = str(tmp_path / "door")
    running = Running(Settings(target=target, http=Listener(at=Unix(path))))
    running.start()
    try:
        said = run(*asked, "--header", "Expect: 100-continue", "--unix-socket", path, "http://localhost/v2/models/sum/infer")
        assert json.loads(said)["outputs"][0]["data"] == [2]
    finally:
        running.stop()
