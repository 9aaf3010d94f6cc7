"""The SDK without an event loop. usage: sdk_sync.py ENDPOINT REFERENCE_VALUES CREDENTIAL KEY MODEL"""

from pathlib import Path
import sys

import numpy as np

from attestation import AWS_ROOTS, Root, reference_values
from cloister import load_identity, sync


def main(endpoint: str, values: str, credential: str, key: str, model: str, *, roots: tuple[Root, ...] = AWS_ROOTS) -> None:
    """Attest, ask what the model takes, send one row of ones, print what it gives and who gave it."""
    accepted = reference_values.parse(Path(values).read_bytes())
    with sync.connect(endpoint, accepted, identity=load_identity(credential, key), roots=roots) as client:
        metadata = client.metadata(model)
        inputs = {t["name"]: np.ones([1 if size < 0 else size for size in t["shape"]], np.float32) for t in metadata["inputs"]}
        answer = client.infer(model, inputs)
        for name, array in answer.outputs.items():
            print(name, array)
        print("answered by", answer.attestation.claims.module_id, "manifest", answer.attestation.config.sequence)


if __name__ == "__main__":
    main(*sys.argv[1:6])
