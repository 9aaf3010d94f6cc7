"""Facts about a model that a person wants to see before sealing it."""

from dataclasses import dataclass
from math import prod

from owner.onnx_file import ModelFile
from wire.onnx_profile import ITEM_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Nodes of the main graph, elements of its initialisers, and the bytes that these take."""

    nodes: int
    parameters: int
    weights: int


def facts(model: ModelFile) -> Facts:
    """Count; no tensor is read."""
    graph = model.proto.graph
    sizes = [(prod(tensor.dims), ITEM_BITS.get(tensor.data_type, 0)) for tensor in graph.initializer]
    return Facts(
        nodes=len(graph.node), parameters=sum(count for count, _ in sizes), weights=sum(count * bits // 8 for count, bits in sizes)
    )
