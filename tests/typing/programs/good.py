"""What an application writes against the SDK; every line must type-check under mypy --strict."""

import asyncio

import numpy as np
from numpy.typing import NDArray

from attestation import reference_values
import cloister
from cloister import sync


async def main() -> None:
    values = reference_values.parse(b"{}")
    identity = cloister.load_identity("credential", "caller.pem")
    async with await cloister.connect("tcp:parent.example:8443", values, identity=identity) as client:
        answer = await client.infer("m", {"x": np.zeros((1, 30), np.float32)}, version="1", outputs=["y"], timeout=5.0)
        output: NDArray[np.generic] = answer.outputs["y"]
        print(output.shape, answer.model, answer.version, answer.attestation.config.sequence)
        half = cloister.Raw(datatype="BF16", array=np.zeros(2, np.uint16))
        await asyncio.gather(client.infer("m", {"x": half}), client.infer("m", {"x": half}, repeatable=True))
        ready: bool = await client.ready("m")
        print(ready, (await client.metadata("m"))["inputs"])


def reported() -> str:
    try:
        with sync.connect("unix:/run/parent", reference_values.parse(b"{}")) as client:
            return client.submit("m", {"x": np.zeros(1)}).result().model
    except cloister.EvidenceRefusedError as error:
        return ", ".join(mismatch.check.reason for mismatch in error.mismatches)
    except cloister.RequestRefusedError as error:
        return f"{error.code.name} {error.field}"
    except cloister.SessionLostError as error:
        return "sent" if error.sent else "not sent"
    except cloister.CloisterError as error:
        return error.code.name


asyncio.run(main())
