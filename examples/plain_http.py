"""No client library of the protocol at all: `requests` and JSON. usage: plain_http.py URL TOKEN MODEL"""

import math
import sys

import requests


def main(url: str, token: str, model: str) -> None:
    """Ask what the model takes, send one row of ones, print what it gives."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        metadata = session.get(f"{url}/v2/models/{model}", timeout=10).json()
        inputs = []
        for tensor in metadata["inputs"]:
            shape = [1 if size < 0 else size for size in tensor["shape"]]
            inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": [1] * math.prod(shape)})
        answer = session.post(f"{url}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=60)
        answer.raise_for_status()
        for tensor in answer.json()["outputs"]:
            print(tensor["name"], tensor["data"])


if __name__ == "__main__":
    main(*sys.argv[1:4])
