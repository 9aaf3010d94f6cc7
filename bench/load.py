"""`make bench-load`: how fast a sealed model of 1 GiB goes from the parent's disk into ONNX Runtime, and what memory it takes.

The product's own parts: the parent's feed in a process of its own behind a Unix socket, the enclave's reader into a file
backed by memory, ONNX Runtime on that file as external data. Beside it, in the same rounds, what it replaces:
`InferenceSession(bytes)`. Memory is the private memory of the process plus the file's, sampled while it runs.
Real vsock is not measured here.
"""

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from enclave import artifact as reader
from enclave import feed
from enclave.dial import dialler
from enclave.intake import judge as judge_graph
from owner.onnx_file import judge
from owner.seal import Sealing, seal_split
from owner.weights import split
from parent.feed import DirectorySource, FeedService
from wire.endpoint import Unix
from wire.manifest import Intake, Part, encryption_context

ARN = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000"
OWNER = bytes(32)
WIDTH = 4096
LAYER_BYTES = 4 * WIDTH * WIDTH
INPUT, OUTPUT = "x", "y"


class _Wrap:
    """kms:Encrypt for a benchmark: KMS is not what is measured."""

    def __init__(self) -> None:
        self.data_keys: list[bytes] = []

    def encrypt(self, *, KeyId: str, Plaintext: bytes, EncryptionContext: object) -> dict[str, object]:  # noqa: N803 - boto3's names
        self.data_keys.append(Plaintext)
        return {"KeyId": KeyId, "CiphertextBlob": bytes(184)}


def make_model(layers: int) -> bytes:
    """A chain of matrix products, 64 MiB of random weights each."""
    random = np.random.default_rng(1)
    weights = [numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH), np.float32) / 64, f"w{n}") for n in range(layers)]
    names = [INPUT, *(f"h{n}" for n in range(1, layers)), OUTPUT]
    nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(layers)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in (INPUT, OUTPUT)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return made


def prepare(folder: Path, layers: int) -> None:
    """Write the plain model, the sealed parts under their digests, and what a reader needs to know."""
    plain = make_model(layers)
    (folder / "plain.onnx").write_bytes(plain)
    kms = _Wrap()
    whom = Sealing(kms=kms, key_arn=ARN, context=encryption_context(OWNER, "m", 1))
    started = time.perf_counter()
    parts = seal_split(split(judge(plain, folder)), whom, lambda name: (folder / name).open("wb"))
    seconds = time.perf_counter() - started
    for part in parts:
        (folder / part.name).rename(folder / part.artifact_sha256.hex())
    known = [{name: value.hex() if isinstance(value := getattr(part, name), bytes) else value for name in Part.__slots__} for part in parts]
    told = {"parts": known, "keys": [key.hex() for key in kms.data_keys], "seal_seconds": seconds, "plain_bytes": len(plain)}
    (folder / "known.json").write_text(json.dumps(told))


def known(folder: Path) -> list[tuple[Part, bytes]]:
    """The parts with their data keys."""
    told = json.loads((folder / "known.json").read_text())
    octets = ("artifact_sha256", "header_sha256", "commitment")
    values: list[dict[str, Any]] = [{k: bytes.fromhex(v) if k in octets else v for k, v in part.items()} for part in told["parts"]]
    parts = [Part(**value) for value in values]
    return list(zip(parts, map(bytes.fromhex, told["keys"]), strict=True))


def serve(folder: Path) -> None:
    """The parent's feed on `folder`/feed until killed."""

    async def run() -> None:
        service = FeedService(DirectorySource(folder), seconds=60)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "feed"))
            listener.listen(8)
            listener.setblocking(False)
            print("up", flush=True)
            async with asyncio.TaskGroup() as group:
                while True:
                    stream, _ = await asyncio.get_running_loop().sock_accept(listener)
                    group.create_task(service.handle(stream))

    asyncio.run(run())


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def load_sealed(folder: Path, *, prepack: bool) -> None:
    """The enclave's way, step by step; tells each step's time."""
    import onnxruntime as ort  # noqa: PLC0415 - so that its memory counts for the processes that use it

    dial = dialler(Unix(str(folder / "feed")))
    (graph_part, graph_key), (weights_part, weights_key) = known(folder)
    context = encryption_context(OWNER, "m", 1)

    def opened(part: Part, key: bytes, sink: reader.Sink) -> None:
        def fetch(offset: int, length: int) -> Iterator[memoryview]:
            return feed.ranges(dial, part.artifact_sha256, offset, length)

        reader.open_part(fetch, part, key, sink, header=reader.read_header(fetch, part, key_arn=ARN, context=context))

    graph = bytearray(graph_part.length)
    with tempfile.TemporaryDirectory(dir=folder) as place, (Path(place) / "weights").open("wb") as file:
        _tell(step="start", file=str(Path(place) / "weights"))
        wall, cpu = time.perf_counter(), time.process_time()
        opened(graph_part, graph_key, reader.MemorySink(graph))
        judge_graph(graph, intake=Intake(), weights=weights_part.length)
        opened(weights_part, weights_key, reader.FileSink(file.fileno()))
        _tell(step="opened", seconds=time.perf_counter() - wall, cpu=time.process_time() - cpu, bytes=weights_part.length)
        options = ort.SessionOptions()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", place)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(bytes(graph), options, providers=["CPUExecutionProvider"])
        (Path(place) / "weights").unlink()
        file.close()
        _serving(session, wall)


def load_bytes(folder: Path) -> None:
    """What it replaces: the whole model as one bytes object."""
    import onnxruntime as ort  # noqa: PLC0415

    _tell(step="start")
    wall = time.perf_counter()
    session = ort.InferenceSession((folder / "plain.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    _serving(session, wall)


def _serving(session: Any, wall: float) -> None:
    answer = session.run(None, {INPUT: np.ones((1, WIDTH), np.float32)})[0]
    _tell(step="serving", seconds=time.perf_counter() - wall, checksum=float(np.abs(answer).sum()))
    sys.stdin.readline()  # until the memory at rest was read


def _memory(pid: int, file: str | None = None) -> int:
    """Bytes of a process that no disk backs: its own pages, and those of the weights' file, mapped or not."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    except OSError:
        return 0
    kinds = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:")}
    try:
        blocks = os.stat(file).st_blocks * 512 if file else 0
    except OSError:
        blocks = 0  # unlinked: what is left of it is what is mapped
    return kinds["Pss_Anon:"] + max(blocks, kinds["Pss_Shmem:"])


def measure(folder: Path, way: str) -> dict[str, Any]:
    """Run one way in a process of its own, sampling its memory."""
    command = [sys.executable, "-P", "-m", "bench.load", "--way", way, "--folder", str(folder)]
    facts: dict[str, Any] = {"way": way}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("no pipes")
        os.set_blocking(child.stdout.fileno(), False)
        peak, base, file = 0, 0, None
        while child.poll() is None and "serving" not in facts:
            peak = max(peak, _memory(child.pid, file))
            for line in iter(child.stdout.readline, ""):
                told = json.loads(line)
                facts[told.pop("step")] = told
                if "start" in facts and not base:
                    base, file = _memory(child.pid), facts["start"].get("file")
            time.sleep(0.002)
        facts["steady"] = _memory(child.pid, file) - base
        facts["peak"] = max(peak - base, facts["steady"])
        child.stdin.write("\n")
        child.stdin.close()
        child.wait(60)
    return facts


@contextmanager
def feeding(folder: Path) -> Iterator[None]:
    """The feed, in a process of its own."""
    command = [sys.executable, "-P", "-m", "bench.load", "--way", "serve", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            if child.stdout is None or not child.stdout.readline():
                raise RuntimeError("the feed did not start")
            yield
        finally:
            child.kill()


def report(folder: Path, layers: int, rounds: int) -> dict[str, Any]:
    """Medians over interleaved rounds, and the lines that say them."""
    size = layers * LAYER_BYTES
    ways = ("sealed", "sealed-prepacked", "bytes")
    with feeding(folder):
        runs = [measure(folder, way) for _ in range(rounds) for way in ways]
    result: dict[str, Any] = {
        "model_bytes": size,
        "rounds": rounds,
        "seal_seconds": json.loads((folder / "known.json").read_text())["seal_seconds"],
    }
    sums = {run["serving"]["checksum"] for run in runs}
    if max(sums) - min(sums) > 1e-3 * max(sums):
        raise RuntimeError("the ways computed different answers")
    for way in ways:
        mine = [run for run in runs if run["way"] == way]
        entry = {name: statistics.median(run[name] / size for run in mine) for name in ("peak", "steady")}
        entry["serving_seconds"] = statistics.median(run["serving"]["seconds"] for run in mine)
        if way != "bytes":
            entry["gigabytes_per_second"] = statistics.median(run["opened"]["bytes"] / run["opened"]["seconds"] / 1e9 for run in mine)
            entry["best_gigabytes_per_second"] = max(run["opened"]["bytes"] / run["opened"]["seconds"] / 1e9 for run in mine)
            entry["cpu_seconds_per_gigabyte"] = statistics.median(run["opened"]["cpu"] * 1e9 / run["opened"]["bytes"] for run in mine)
        result[way] = entry
    return result


def show(result: dict[str, Any]) -> str:
    """The table."""
    lines = [f"model {result['model_bytes'] / 2**30:.2f} GiB, {result['rounds']} rounds, medians; sealed in {result['seal_seconds']:.1f} s"]
    lines.append(f"{'':<18}{'peak':>9}{'steady':>9}{'serving':>10}{'fetch + open + digest':>36}")
    for way in ("sealed", "sealed-prepacked", "bytes"):
        entry = result[way]
        speed = ""
        if "gigabytes_per_second" in entry:
            cpu = entry["cpu_seconds_per_gigabyte"]
            speed = f"{entry['gigabytes_per_second']:.2f} GB/s (best {entry['best_gigabytes_per_second']:.2f}), {cpu:.2f} s CPU/GB"
        lines.append(f"{way:<18}{entry['peak']:>8.2f}x{entry['steady']:>8.2f}x{entry['serving_seconds']:>8.1f} s{speed:>37}")
    return "\n".join([*lines, "over Unix sockets; real vsock is unmeasured"])


def main() -> None:
    """Prepare, measure, show; the processes that it starts come in here too."""
    parser = argparse.ArgumentParser(prog="python -P -m bench.load")
    parser.add_argument("--layers", type=int, default=16, help="of 64 MiB each (default: 16, 1 GiB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--way", choices=("serve", "sealed", "sealed-prepacked", "bytes"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    match args.way:
        case "serve":
            serve(args.folder)
        case "bytes":
            load_bytes(args.folder)
        case "sealed" | "sealed-prepacked":
            load_sealed(args.folder, prepack=args.way == "sealed-prepacked")
        case _:
            with tempfile.TemporaryDirectory(prefix="bench-load-", dir="/dev/shm") as folder:  # memory, as in an enclave
                prepare(Path(folder), args.layers)
                result = report(Path(folder), args.layers, args.rounds)
            print(show(result))
            if args.json:
                args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
