"""The models that the sidecar's tests and lanes serve, and a world that serves them."""

from dataclasses import dataclass
import shutil
from typing import Any

from attestation.eif import Measurements
from simulator import hypervisor
from simulator.owner import ModelSpec
from simulator.world import World
from tests.model import graphs
from wire import ports
from wire.manifest import Pipeline, Runtime, Step, Tensor
from wire.tensor import ITEM_BYTES


def specs() -> list[ModelSpec]:
    """One identity per datatype, a model of two inputs, one that takes its time, one that may not, one that bombs, one that says much."""
    small: dict[str, Any] = {"runtime": Runtime(memory_bytes=256 << 20, seconds=20, request_bytes=64 << 20, answer_bytes=64 << 20)}
    made = [ModelSpec(id=f"same-{name.lower()}", version="1", onnx=graphs.identity(name)[0], settings=small) for name in ITEM_BYTES]
    return [
        *made,
        ModelSpec(id="sum", version="1", onnx=graphs.double_sum()[0]),
        ModelSpec(id="sum", version="2", onnx=graphs.double_sum()[0]),
        ModelSpec(id="spin", version="1", onnx=graphs.spin()[0], settings=small),
        ModelSpec(id="bomb", version="1", onnx=graphs.bomb()[0], settings=small),
        ModelSpec(id="hurried", version="1", onnx=graphs.spin()[0], settings={"runtime": Runtime(seconds=1)}),
        ModelSpec(id="long", version="1", onnx=graphs.zeros()[0], settings={"runtime": Runtime(answer_bytes=1 << 20)}),
        ModelSpec(id="strict", version="1", onnx=graphs.identity()[0], settings={"reject_non_finite": True}),
    ]


def pipelines() -> tuple[Pipeline, ...]:
    """(a, b) -> ((a + b) + b): the same model twice."""
    free = (-1,)
    return (
        Pipeline(
            id="twice",
            version="1",
            steps=(
                Step(model="sum", version="1", inputs=(("a", "a"), ("b", "b")), outputs=(("sum", "inner"),)),
                Step(model="sum", version="1", inputs=(("a", "inner"), ("b", "b")), outputs=(("sum", "total"),)),
            ),
            inputs=(Tensor(name="a", datatype="FP32", shape=free), Tensor(name="b", datatype="FP32", shape=free)),
            outputs=(Tensor(name="total", datatype="FP32", shape=free),),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A world that serves the models, and what its enclave measures to."""

    world: World
    archive: bytes
    measured: Measurements

    @property
    def names(self) -> tuple[str, ...]:
        """Every model and pipeline."""
        return (*dict.fromkeys(model.id for model in self.world.owner.models), "twice")

    def replace_enclave(self) -> None:
        """End the enclave and start the same image again behind the same parent."""
        self.world.stop_enclave()
        image = self.world.run / "image"
        for path in (image, *image.rglob("*")):  # unpacked read-only
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(image)
        for left in (self.world.run / hypervisor.NSM_SOCKET, self.world.run / f"enclave_{ports.SESSION}"):
            left.unlink(missing_ok=True)
        self.world.start_enclave(self.archive)
        self.world.wait_serving()


def serving() -> Serving:
    """A world that serves them; its caller closes it."""
    world = World.create()
    archive = world.archive()  # once: the tree may be edited while tests run
    measured = hypervisor.measure(archive)
    try:
        world.start_kms()
        world.owner.create_key([measured])
        world.owner.seal(specs())
        world.owner.publish(world.owner.manifest(pipelines=pipelines()))
        world.new_run()
        world.start_parent()
        world.start_enclave(archive)
        world.wait_serving()
    except BaseException:
        world.close()
        raise
    return Serving(world=world, archive=archive, measured=measured)
