"""A small world for attacks: a model of four numbers, an enclave that serves it, a caller who sends a canary."""

from dataclasses import dataclass
import secrets

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attestation.errors import AppraisalError
from cloister.errors import CloisterError, EvidenceRefusedError
from simulator.owner import ModelSpec
from simulator.world import World

MODEL, VERSION, INPUT, OUTPUT, WIDTH = "shift", "1", "x", "y", 4


def shift_model(by: float) -> bytes:
    """ONNX of y = x + by, FP32 [-1, 4]; any two of them have the same length in bytes."""
    constant = numpy_helper.from_array(np.full(WIDTH, by, np.float32), "by")
    graph = helper.make_graph(
        [helper.make_node("Add", [INPUT, "by"], [OUTPUT])],
        "shift",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, WIDTH])],
        [constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def canary() -> NDArray[np.float32]:
    """An input whose bytes occur nowhere by accident: (1, 4) random normal numbers."""
    return np.frombuffer(secrets.token_bytes(16), np.uint32).reshape(1, WIDTH).astype(np.float64).__truediv__(2**31).astype(np.float32)


def prepared(world: World, by: float = 1.0, kms_module: str = "simulator") -> World:
    """KMS, key, a sealed `shift` model and a published manifest; nothing booted yet."""
    world.start_kms(kms_module)
    world.owner.create_key([world.measured()])
    world.owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=shift_model(by))])
    world.owner.publish(world.owner.manifest())
    return world


def booted(world: World) -> World:
    """The same with parent and enclave serving."""
    world.new_run()
    world.start_parent()
    world.start_enclave()
    world.wait_serving()
    return world


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a caller's error shows in the registry."""

    text: str


def refusal_of(error: CloisterError) -> str:
    """`caller: ` and the reasons of the refused checks, or the error's code."""
    if isinstance(error, EvidenceRefusedError):
        if isinstance(error.reason, AppraisalError):
            return "caller: " + ", ".join(mismatch.check.reason for mismatch in error.reason.mismatches)
        return "caller: " + ", ".join(check.reason for check in error.reason.checks)
    return "caller: " + error.code.name
