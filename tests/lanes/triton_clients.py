"""Triton's own clients, unmodified, against a running sidecar: `triton_clients.py HTTP GRPC TOKEN`, in an environment of theirs.

Prints one line per check and ends with status 1 if any failed. Nothing of ours is imported.
"""

import asyncio
from collections.abc import Callable
import queue
import sys
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

DATATYPES: dict[str, Any] = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([1.5, -65504], np.float16),
    "FP32": np.array([1.5, -3e38], np.float32),
    "FP64": np.array([1e308, -0.0], np.float64),
    "BYTES": np.array([b"", "é\0".encode(), b"text"], dtype=np.object_),
    "BF16": np.array([1.0, -2.5], ml_dtypes.bfloat16),
}

failures: list[str] = []


def check(name: str, ok: bool, seen: object = "") -> None:
    """One line."""
    if not ok:
        failures.append(name)
    print(f"{'ok  ' if ok else 'FAIL'} {name}" + ("" if ok else f": {seen!r}"), flush=True)


def refused(name: str, call: Callable[[], object], *words: str) -> None:
    """The call raises Triton's exception, with these words in it."""
    try:
        seen: object = call()
    except InferenceServerException as error:
        text = f"{error.message()} {error.status()}"
        check(name, all(word in text for word in words), text)
    else:
        check(name, False, seen)


def inputs_of(module: Any, values: dict[str, np.ndarray], datatype: str = "FP32", **options: Any) -> list[Any]:
    """Triton's input objects."""
    made = []
    for name, value in values.items():
        one = module.InferInput(name, list(value.shape), datatype)
        one.set_data_from_numpy(value, **options)
        made.append(one)
    return made


A = {"a": np.array([1, 2], np.float32), "b": np.array([10, 20], np.float32)}


def same(left: np.ndarray | None, right: np.ndarray) -> bool:
    """Equal in type of value and in every element."""
    return left is not None and left.shape == right.shape and bool((left == right).all())


# The clients write into the dictionary of headers that they are given: each call gets its own.


def server(door: str, client: Any, headers: dict[str, str]) -> None:
    """Health, metadata, index, and what is refused."""
    check(f"{door} live", client.is_server_live(headers=dict(headers)))
    check(f"{door} ready", client.is_server_ready(headers=dict(headers)))
    check(
        f"{door} model ready",
        client.is_model_ready("sum", headers=dict(headers)) and client.is_model_ready("sum", "2", headers=dict(headers)),
    )
    refused(f"{door} load is refused", lambda: client.load_model("sum", headers=dict(headers)), "not implemented")
    refused(f"{door} unload is refused", lambda: client.unload_model("sum", headers=dict(headers)), "not implemented")
    if door == "http":
        check(f"{door} unknown model is not ready", not client.is_model_ready("nothing", headers=dict(headers)))
        refused(
            f"{door} shared memory is refused", lambda: client.get_system_shared_memory_status(headers=dict(headers)), "not implemented"
        )
        refused(
            f"{door} shared memory is not registered",
            lambda: client.register_system_shared_memory("r", "/r", 64, headers=dict(headers)),
            "not implemented",
        )
        refused(f"{door} statistics are refused", lambda: client.get_inference_statistics(headers=dict(headers)), "not implemented")
        refused(f"{door} trace settings are refused", lambda: client.get_trace_settings(headers=dict(headers)), "not implemented")
        refused(f"{door} model config is refused", lambda: client.get_model_config("sum", headers=dict(headers)), "not implemented")
        metadata = client.get_model_metadata("sum", headers=dict(headers))
        index = client.get_model_repository_index(headers=dict(headers))
        name = client.get_server_metadata(headers=dict(headers))["name"]
    else:
        refused(f"{door} shared memory is refused", lambda: client.get_system_shared_memory_status(headers=dict(headers)), "UNIMPLEMENTED")
        refused(f"{door} statistics are refused", lambda: client.get_inference_statistics(headers=dict(headers)), "UNIMPLEMENTED")
        metadata = client.get_model_metadata("sum", headers=dict(headers), as_json=True)
        index = client.get_model_repository_index(headers=dict(headers), as_json=True)["models"]
        name = client.get_server_metadata(headers=dict(headers)).name
    check(f"{door} server metadata", name == "cloister", name)
    check(f"{door} model metadata", [t["name"] for t in metadata["inputs"]] == ["a", "b"], metadata)
    check(
        f"{door} repository index",
        {"name": "sum", "version": "1", "state": "READY"}.items() <= dict(index[-5]).items() or len(index) > 10,
        index,
    )


def infers(door: str, module: Any, client: Any, headers: dict[str, str], **how: Any) -> None:
    """Every datatype, selection, ids, errors."""
    for datatype, value in DATATYPES.items():
        if datatype == "BF16" and how.get("binary_data") is False:
            continue
        if datatype == "FP16" and how.get("binary_data") is False:
            continue
        result = client.infer(f"same-{datatype.lower()}", inputs_of(module, {"x": value}, datatype, **how), headers=dict(headers))
        check(f"{door} {datatype} {how or ''}", same(result.as_numpy("y"), value), result.as_numpy("y"))
    wanted = [module.InferRequestedOutput("difference")]
    result = client.infer("sum", inputs_of(module, A), model_version="1", outputs=wanted, request_id="my-id", headers=dict(headers))
    check(f"{door} output selection", same(result.as_numpy("difference"), A["a"] - A["b"]) and result.as_numpy("sum") is None)
    response = result.get_response()
    check(f"{door} request id", (response["id"] if isinstance(response, dict) else response.id) == "my-id")
    check(
        f"{door} pipeline", same(client.infer("twice", inputs_of(module, A), headers=dict(headers)).as_numpy("total"), A["a"] + 2 * A["b"])
    )
    large = np.arange(4 << 20, dtype=np.float32)
    check(f"{door} 16 MiB", same(client.infer("same-fp32", inputs_of(module, {"x": large}), headers=dict(headers)).as_numpy("y"), large))
    one = {"a": A["a"]}
    refused(
        f"{door} missing input", lambda: client.infer("sum", inputs_of(module, one), headers=dict(headers)), "required input", "inputs[b]"
    )
    refused(f"{door} unknown model", lambda: client.infer("nothing", inputs_of(module, one), headers=dict(headers)), "model")
    refused(
        f"{door} unknown version", lambda: client.infer("sum", inputs_of(module, A), model_version="9", headers=dict(headers)), "version"
    )
    wrong = inputs_of(module, {"x": np.zeros((1, 2), np.float32)})
    refused(f"{door} wrong rank", lambda: client.infer("same-fp32", wrong, headers=dict(headers)), "dimensions", "inputs[0].shape")
    top = [module.InferRequestedOutput("sum", class_count=2)]
    refused(
        f"{door} classification", lambda: client.infer("sum", inputs_of(module, A), outputs=top, headers=dict(headers)), "classification"
    )
    refused(
        f"{door} sequences",
        lambda: client.infer("sum", inputs_of(module, A), sequence_id=7, sequence_start=True, headers=dict(headers)),
        "sequence",
    )
    refused(f"{door} no token", lambda: client.infer("sum", inputs_of(module, A)), "token")


def http(address: str, headers: dict[str, str]) -> None:
    """tritonclient.http."""
    with http_client.InferenceServerClient(address, concurrency=8) as client:
        server("http", client, headers)
        infers("http", http_client, client, headers)
        infers("http", http_client, client, headers, binary_data=False)
        plain = [http_client.InferRequestedOutput("sum", binary_data=False), http_client.InferRequestedOutput("difference")]
        mixed = inputs_of(http_client, {"a": A["a"]}) + inputs_of(http_client, {"b": A["b"]}, binary_data=False)
        result = client.infer("sum", mixed, outputs=plain, headers=dict(headers))
        check(
            "http mixed binary and JSON",
            same(result.as_numpy("sum"), A["a"] + A["b"]) and same(result.as_numpy("difference"), A["a"] - A["b"]),
        )
        value = {"x": np.arange(100_000, dtype=np.float32)}
        for algorithm in ("gzip", "deflate"):
            result = client.infer(
                "same-fp32",
                inputs_of(http_client, value),
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
                headers=dict(headers),
            )
            check(f"http {algorithm}", same(result.as_numpy("y"), value["x"]))
        pending = [
            client.async_infer("same-int64", inputs_of(http_client, {"x": np.array([n])}, "INT64"), headers=dict(headers))
            for n in range(32)
        ]
        check("http async_infer", [int(one.get_result().as_numpy("y")[0]) for one in pending] == list(range(32)))
    with http_client.InferenceServerClient(address) as client:
        refused("http another Host", lambda: client.get_server_metadata(headers={**headers, "Host": "evil.example"}), "Host")


def grpc(address: str, headers: dict[str, str]) -> None:
    """tritonclient.grpc."""
    with grpc_client.InferenceServerClient(address) as client:
        server("grpc", client, headers)
        infers("grpc", grpc_client, client, headers)
        done: queue.Queue[Any] = queue.Queue()
        for n in range(32):
            inputs = inputs_of(grpc_client, {"x": np.array([n])}, "INT64")
            client.async_infer(
                "same-int64", inputs, lambda result, error: done.put(error or int(result.as_numpy("y")[0])), headers=dict(headers)
            )
        check("grpc async_infer", sorted(done.get(timeout=30) for _ in range(32)) == list(range(32)))
        client.start_stream(lambda result, error: done.put(error or result.as_numpy("sum").tolist()), headers=dict(headers))
        client.async_stream_infer("sum", inputs_of(grpc_client, A))
        check("grpc stream", done.get(timeout=30) == [11, 22])
        client.async_stream_infer("sum", inputs_of(grpc_client, {"a": A["a"]}))
        error = done.get(timeout=30)
        check("grpc stream error", isinstance(error, InferenceServerException) and "required input" in str(error), error)
        client.async_stream_infer("sum", inputs_of(grpc_client, A))
        check("grpc stream goes on", done.get(timeout=30) == [11, 22])
        client.stop_stream()
        raw = client.infer("same-fp32", inputs_of(grpc_client, {"x": A["a"]}), headers=dict(headers), compression_algorithm="gzip")
        check("grpc gzip", same(raw.as_numpy("y"), A["a"]))


async def aio(http_address: str, grpc_address: str, headers: dict[str, str]) -> None:
    """The asyncio clients."""
    for door, module, address in (("http.aio", http_aio, http_address), ("grpc.aio", grpc_aio, grpc_address)):
        async with module.InferenceServerClient(address) as client:
            check(f"{door} ready", await client.is_server_ready(headers=dict(headers)))
            found = await asyncio.gather(
                *(client.infer("same-int64", inputs_of(module, {"x": np.array([n])}, "INT64"), headers=dict(headers)) for n in range(32))
            )
            check(f"{door} at once", [int(one.as_numpy("y")[0]) for one in found] == list(range(32)))
            try:
                await client.infer("sum", inputs_of(module, {"a": A["a"]}), headers=dict(headers))
            except InferenceServerException as error:
                check(f"{door} error", "required input" in error.message(), error.message())
            else:
                check(f"{door} error", False)


def main(argv: list[str]) -> int:
    """Everything."""
    http_address, grpc_address, token = argv[1:4]
    http_address = http_address.removeprefix("http://")
    headers = {"authorization": f"Bearer {token}"}
    http(http_address, {"Authorization": f"Bearer {token}"})
    grpc(grpc_address, headers)
    asyncio.run(aio(http_address, grpc_address, headers))
    print(f"{len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
