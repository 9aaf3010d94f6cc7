"""An unmodified Triton gRPC client: only its URL and its metadata point at the sidecar. usage: triton_grpc.py HOST:PORT TOKEN MODEL"""

import sys

import numpy as np
import tritonclient.grpc as triton


def main(address: str, token: str, model: str) -> None:
    """Ask what the model takes, send one row of ones, print what it gives."""
    headers = {"authorization": f"Bearer {token}"}
    with triton.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata(model, headers=headers)
        inputs = []
        for tensor in metadata.inputs:
            shape = [1 if size < 0 else size for size in tensor.shape]
            one = triton.InferInput(tensor.name, shape, tensor.datatype)
            one.set_data_from_numpy(np.ones(shape, np.float32))
            inputs.append(one)
        answer = client.infer(model, inputs, headers=headers)
        for tensor in metadata.outputs:
            print(tensor.name, answer.as_numpy(tensor.name))


if __name__ == "__main__":
    main(*sys.argv[1:4])
