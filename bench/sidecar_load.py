"""A bounded mixed load through a sidecar, with one enclave replaced in the middle: `python -m bench.sidecar_load [SECONDS]`.

Several clients at once, HTTP and gRPC, JSON and binary, sizes and datatypes mixed, bad requests with the codes that they
must get, clients that leave in the middle. Every answer is compared with what was sent. Ends with a table, and with status
1 for one wrong answer, one failure that was not expected, or memory or descriptors that grew.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import http.client
import json
import os
from pathlib import Path
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc
import numpy as np

from attestation import reference_values
from cloister.identity import write_key
from cloister.sidecar import inference_pb2 as pb
from simulator.sidecar import CONFIG
from tests.sidecar import appliance_models

SECONDS = 300
CLIENTS = 6
SIZES = (0, 1, 100, 10_000, 200_000, 1_000_000)
TYPES = {"FP32": "<f4", "INT64": "<i8", "UINT8": "u1", "FP16": "<f2", "BOOL": "?"}
# What a process may grow between the first quarter of the run and its end, beyond noise of the allocator.
GROWTH_KIB, GROWTH_FDS = 64 << 10, 8


@dataclass(kw_only=True)
class Doors:
    """Where the sidecar is."""

    host: str
    port: int
    grpc: str
    token: str


@dataclass(kw_only=True)
class Seen:
    """What the clients saw, shared by them."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, outcome: str, text: str = "") -> None:
        """One request is over."""
        with self.lock:
            self.counts[kind, outcome] += 1
            if text:
                self.failures.append(f"{kind}: {text}")


class Client:
    """One client with connections of its own."""

    def __init__(self, doors: Doors, seen: Seen, seed: int) -> None:
        self._doors = doors
        self._seen = seen
        self._random = random.Random(seed)
        self._generator = np.random.default_rng(seed)
        self._http = http.client.HTTPConnection(doors.host, doors.port, timeout=90)
        self._channel = grpc.insecure_channel(doors.grpc, options=(("grpc.max_receive_message_length", 1 << 28),))
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    def run(self, ended: threading.Event) -> None:
        """Ask until the end."""
        kinds: list[tuple[str, Callable[[], None]]] = [
            ("http binary", self._binary),
            ("http binary", self._binary),
            ("http JSON", self._json),
            ("grpc raw", self._raw),
            ("grpc raw", self._raw),
            ("bad request", self._bad),
            ("client leaves", self._leave),
        ]
        while not ended.is_set():
            kind, ask = self._random.choice(kinds)
            try:
                ask()
            except AssertionError as error:
                self._seen.add(kind, "WRONG", str(error))
            except (OSError, http.client.HTTPException, grpc.RpcError, ValueError, KeyError) as error:
                self._seen.add(kind, "FAILED", f"{type(error).__name__} {error}"[:300])
                self._http.close()
            else:
                self._seen.add(kind, "right")
        self._http.close()
        self._channel.close()

    def _array(self) -> tuple[str, np.ndarray]:
        datatype = self._random.choice(list(TYPES))
        raw = self._generator.integers(0, 2 if datatype == "BOOL" else 100, self._random.choice(SIZES))
        return datatype, raw.astype(TYPES[datatype])

    def _post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        self._http.request("POST", path, body, {"Authorization": f"Bearer {self._doors.token}", **headers})
        answer = self._http.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def _binary(self) -> None:
        datatype, array = self._array()
        data = array.tobytes()
        tensor = {"name": "x", "datatype": datatype, "shape": [len(array)], "parameters": {"binary_data_size": len(data)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        status, headers, body = self._post(
            f"/v2/models/same-{datatype.lower()}/infer", head + data, **{"Inference-Header-Content-Length": str(len(head))}
        )
        assert status == 200, body[:300]
        start = int(headers.get("inference-header-content-length", len(body)))
        assert body[start:] == data, "another tensor"

    def _json(self) -> None:
        values = [self._random.randrange(1000) for _ in range(self._random.choice((1, 10, 1000)))]
        tensors = [{"name": name, "datatype": "FP32", "shape": [len(values)], "data": values} for name in "ab"]
        status, _, body = self._post("/v2/models/twice/infer", json.dumps({"inputs": tensors}).encode())
        assert status == 200, body[:300]
        assert json.loads(body)["outputs"][0]["data"] == [3 * value for value in values], "another sum"

    def _raw(self) -> None:
        datatype, array = self._array()
        request = pb.ModelInferRequest(model_name=f"same-{datatype.lower()}", raw_input_contents=[array.tobytes()])
        request.inputs.add(name="x", datatype=datatype, shape=[len(array)])
        answer = self._infer(request, metadata=(("authorization", f"Bearer {self._doors.token}"),), timeout=90)
        assert answer.raw_output_contents[0] == array.tobytes(), "another tensor"

    def _bad(self) -> None:
        path, body, code = self._random.choice(
            (
                ("/v2/models/sum/infer", b"{", "malformed-json"),
                ("/v2/models/sum/infer", b'{"inputs": []}', "missing-input"),
                ("/v2/models/sum/versions/9/infer", b'{"inputs": []}', "unknown-version"),
                (
                    "/v2/models/bomb/infer",
                    b'{"inputs":[{"name":"n","datatype":"INT64","shape":[1],"data":[1099511627776]}]}',
                    "out-of-memory",
                ),
            )
        )
        _, _, answer = self._post(path, body)
        assert json.loads(answer)["code"] == code, answer[:300]

    def _leave(self) -> None:
        body = b'{"inputs":[{"name":"n","datatype":"INT64","shape":[],"data":[20000]}]}'
        head = (
            f"POST /v2/models/spin/infer HTTP/1.1\r\nHost: {self._doors.host}:{self._doors.port}\r\n"
            f"Authorization: Bearer {self._doors.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        with socket.create_connection((self._doors.host, self._doors.port), timeout=30) as gone:
            gone.sendall((head + body)[: self._random.choice((10, len(head), len(head) + 5, None))])


def _usage(pid: int) -> tuple[int, int]:
    """KiB of memory and number of descriptors; zero where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return memory, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, StopIteration):
        return 0, 0


def _start(serving: appliance_models.Serving, folder: Path) -> tuple[subprocess.Popen[str], Doors]:
    """The sidecar as a process, configured as a person would."""
    identity, token = serving.world.owner.identity(models=serving.names), secrets.token_urlsafe(24)
    (folder / "reference-values.json").write_bytes(reference_values.render(serving.world.owner.reference_values([serving.measured])))
    (folder / "credential").write_bytes(identity.credential)
    write_key(folder / "caller.pem", identity.key)
    (folder / "endpoint").symlink_to(serving.world.endpoint.removeprefix("unix:"))
    (folder / "root").write_text(serving.world.roots[0].sha256.hex(), encoding="ascii")
    (folder / "token").write_text(token, encoding="ascii")
    (folder / "token").chmod(0o600)
    (folder / "sidecar.toml").write_text(CONFIG.format(endpoint='"unix:endpoint"'), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "simulator", "cloister", "sidecar", "--config", str(folder / "sidecar.toml")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CLOISTER_WORLD": str(folder), "PYTHONPATH": os.getcwd()},
    )
    places: dict[str, str] = {}
    while process.stdout is not None and len(places) < 2:
        name, _, place = process.stdout.readline().strip().partition("=")
        if name.startswith("SIDECAR_"):
            places[name] = place
    host, _, port = places["SIDECAR_HTTP"].removeprefix("http://").partition(":")
    return process, Doors(host=host, port=int(port), grpc=places["SIDECAR_GRPC"], token=token)


def _table(seen: Seen, usage: dict[str, list[tuple[int, int]]], seconds: float) -> bool:
    print(f"\n{sum(seen.counts.values())} requests in {seconds:.0f} s, one enclave replaced in the middle\n")
    print(f"{'request':<16} {'right':>8} {'wrong':>6} {'failed':>7}")
    for kind in sorted({kind for kind, _ in seen.counts}):
        right, wrong, failed = (seen.counts[kind, outcome] for outcome in ("right", "WRONG", "FAILED"))
        print(f"{kind:<16} {right:>8} {wrong:>6} {failed:>7}")
    print(f"\n{'process':<16} {'MiB before':>11} {'after':>7} {'descriptors before':>19} {'after':>6}")
    flat = True
    for name, found in usage.items():
        early, late = found[len(found) // 4], found[-1]
        flat &= late[0] - early[0] < GROWTH_KIB and late[1] - early[1] < GROWTH_FDS
        print(f"{name:<16} {early[0] / 1024:>11.1f} {late[0] / 1024:>7.1f} {early[1]:>19} {late[1]:>6}")
    for text in seen.failures[:10]:
        print("!", text)
    return flat and not seen.failures


def main(argv: list[str]) -> int:
    """0 where nothing was wrong."""
    seconds = float(argv[1]) if len(argv) > 1 else SECONDS
    serving, seen, ended = appliance_models.serving(), Seen(), threading.Event()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        process, doors = _start(serving, Path(folder))
        threads = [threading.Thread(target=Client(doors, seen, seed).run, args=(ended,)) for seed in range(CLIENTS)]
        usage: dict[str, list[tuple[int, int]]] = {"sidecar": [], "parent": []}
        try:
            for thread in threads:
                thread.start()
            began, replaced = time.monotonic(), False
            while (left := began + seconds - time.monotonic()) > 0:
                time.sleep(min(1.0, left))
                usage["sidecar"].append(_usage(process.pid))
                usage["parent"].append(_usage(serving.world.parent.popen.pid if serving.world.parent else 0))
                if not replaced and left < seconds / 2:
                    replaced = True
                    serving.replace_enclave()
        finally:
            ended.set()
            for thread in threads:
                thread.join(120)
            usage["sidecar"].append(_usage(process.pid))
            process.send_signal(signal.SIGTERM)
            stopped = process.wait(60)
            if process.stdout is not None:
                process.stdout.close()
            serving.world.close()
    good = _table(seen, usage, seconds)
    return 0 if good and stopped == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
