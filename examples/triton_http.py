"""An unmodified Triton HTTP client: only its URL and a header point at the sidecar. usage: triton_http.py HOST:PORT TOKEN MODEL"""

import sys

import numpy as np
import tritonclient.http as triton


def main(address: str, token: str, model: str) -> None:
    """Ask what the model takes, send one row of ones, print what it gives."""
    headers = {"Authorization": f"Bearer {token}"}
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        metadata = client.get_model_metadata(model, headers=dict(headers))
        inputs = []
        for tensor in metadata["inputs"]:
            shape = [1 if size < 0 else size for size in tensor["shape"]]
            one = triton.InferInput(tensor["name"], shape, tensor["datatype"])
            one.set_data_from_numpy(np.ones(shape, np.float32))
            inputs.append(one)
        answer = client.infer(model, inputs, headers=dict(headers))
        for tensor in metadata["outputs"]:
            print(tensor["name"], answer.as_numpy(tensor["name"]))


if __name__ == "__main__":
    main(*sys.argv[1:4])
