"""The SDK in an event loop, several requests at once. usage: sdk_async.py ENDPOINT REFERENCE_VALUES CREDENTIAL KEY MODEL"""

import asyncio
from pathlib import Path
import sys

import numpy as np

from attestation import AWS_ROOTS, Root, reference_values
from cloister import connect, load_identity


async def main(endpoint: str, values: str, credential: str, key: str, model: str, *, roots: tuple[Root, ...] = AWS_ROOTS) -> None:
    """Attest once, then send eight requests over the one session, each with its own deadline."""
    accepted = reference_values.parse(await asyncio.to_thread(Path(values).read_bytes))
    identity = await asyncio.to_thread(load_identity, credential, key)
    async with await connect(endpoint, accepted, identity=identity, roots=roots) as client:
        metadata = await client.metadata(model)
        inputs = {t["name"]: np.ones([1 if size < 0 else size for size in t["shape"]], np.float32) for t in metadata["inputs"]}
        answers = await asyncio.gather(*(client.infer(model, inputs, timeout=10) for _ in range(8)))
        for name, array in answers[0].outputs.items():
            print(name, array)
        print("8 answers, all equal:", all((a.outputs[name] == array).all() for a in answers for name, array in answers[0].outputs.items()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
