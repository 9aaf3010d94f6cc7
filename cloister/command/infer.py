"""`cloister infer`: send the tensors in a file to a model inside an attested enclave."""

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cloister.api import Answer, Client
from cloister.command import caller, tensor_files
from cloister.command.output import Context, UsageError
from cloister.command.tensor_files import Arrays
from cloister.tensors import Raw

BATCH_BYTES = 4 << 20  # of one request, where the rows may be cut and --batch does not say how
IN_FLIGHT = 4
SHOWN_VALUES = 1000


class Progress(Protocol):
    """Told after each batch."""

    def __call__(self) -> None:
        """One more is done."""


@contextmanager
def _progress(batches: int, context: Context) -> Iterator[Progress]:
    """A bar on standard error where a person looks at it and there is more than one batch."""
    if batches < 2 or context.json or not context.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - tens of milliseconds that only a bar is worth
    from rich.progress import Progress as Bar  # noqa: PLC0415

    with Bar(console=Console(file=context.stderr), transient=True) as bar:
        task = bar.add_task("batches", total=batches)
        yield lambda: bar.advance(task)


def _rows(arrays: Arrays, inputs: list[Mapping[str, Any]]) -> int | None:
    """How many rows every input has, where the model lets them be cut; else None."""
    free = {str(entry["name"]) for entry in inputs if entry["shape"] and entry["shape"][0] == -1}
    plain = {name: array.array if isinstance(array, Raw) else array for name, array in arrays.items()}
    counts = {array.shape[0] if array.ndim else None for array in plain.values()}
    return counts.pop() if plain and plain.keys() <= free and len(counts) == 1 else None


def _cut(array: NDArray[Any] | Raw, rows: slice) -> NDArray[Any] | Raw:
    return Raw(datatype=array.datatype, array=array.array[rows]) if isinstance(array, Raw) else array[rows]


def _batches(arrays: Arrays, inputs: list[Mapping[str, Any]], size: int | None) -> list[Arrays]:
    rows = _rows(arrays, inputs)
    if size is not None and rows is None:
        raise UsageError("--batch: the model's inputs do not have rows that may be cut")
    if rows is None or rows < 2:
        return [arrays]
    total = sum((array.array if isinstance(array, Raw) else array).nbytes for array in arrays.values())
    step = size if size is not None else max(1, rows * BATCH_BYTES // max(1, total))
    return [{name: _cut(array, slice(at, at + step)) for name, array in arrays.items()} for at in range(0, rows, step)]


def _joined(answers: list[Answer]) -> dict[str, NDArray[Any]]:
    if len(answers) == 1:
        return answers[0].outputs
    if any(array.ndim == 0 for answer in answers for array in answer.outputs.values()):
        raise UsageError("an output has no rows to put together; give a --batch as large as the file")
    return {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs}


async def _ask(client: Client, args: argparse.Namespace, context: Context) -> tuple[Answer, dict[str, NDArray[Any]]]:
    """All batches, some in flight at once, in the file's order."""
    metadata = await client.metadata(args.model, args.version)
    inputs = metadata.get("inputs", [])
    arrays = await asyncio.to_thread(tensor_files.read, args.file, inputs, name=args.input, cast=args.cast)
    batches = _batches(arrays, inputs, args.batch)
    answers: list[Answer | None] = [None] * len(batches)
    places = iter(range(len(batches)))

    async def work(done: Progress) -> None:
        for at in places:
            answers[at] = await client.infer(
                args.model, batches[at], version=args.version, outputs=args.output, timeout=args.timeout, repeatable=True
            )
            done()

    with _progress(len(batches), context) as done:
        tasks = [asyncio.create_task(work(done)) for _ in range(min(IN_FLIGHT, len(batches)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    whole = [answer for answer in answers if answer is not None]
    return whole[0], _joined(whole)


def _shown(outputs: Mapping[str, NDArray[Any]]) -> str:
    lines = []
    for name, array in outputs.items():
        lines.append(f"{name}  {array.dtype} {list(array.shape)}")
        lines.append(np.array2string(array, threshold=SHOWN_VALUES, separator=", "))
    return "\n".join(lines)


def run(args: argparse.Namespace, context: Context) -> None:
    """Ask, then show or write."""
    if args.batch is not None and args.batch < 1:
        raise UsageError("--batch is a number of rows from 1")
    answer, outputs = asyncio.run(caller.connected(args, context, lambda client: _ask(client, args, context)))
    described = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()]
    value: dict[str, Any] = {"accepted": True, "model_name": answer.model, "model_version": answer.version}
    if args.out is not None:
        tensor_files.write(args.out, outputs)
        lines = [f"{entry['name']}  {entry['dtype']} {entry['shape']}" for entry in described]
        context.show("\n".join([*lines, f"written: {args.out}"]), {**value, "outputs": described, "out": str(args.out)})
        return
    full = [{**entry, "data": tensor_files.plain(outputs[str(entry["name"])])} for entry in described] if context.json else described
    context.show(_shown(outputs), {**value, "outputs": full})


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun."""
    parser = subparsers.add_parser("infer", help="send tensors to a model inside an attested enclave")
    caller.add_arguments(parser)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", metavar="FILE", type=Path, help=".npy, .npz, .csv, .json (a v2 request, or lists by input name) or .wav")
    parser.add_argument("--version", metavar="V", help="of the model (default: the manifest's last)")
    parser.add_argument("--input", metavar="NAME", help="the input that a file without names is for")
    parser.add_argument("--output", metavar="NAME", action="append", help="ask for this output alone; repeatable")
    parser.add_argument("--cast", action="store_true", help="convert arrays to the model's datatypes")
    parser.add_argument("--batch", metavar="N", type=int, help="rows in one request (default: about 4 MiB)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the outputs: .npz, .npy, .json or .csv")
    parser.set_defaults(run=run)
