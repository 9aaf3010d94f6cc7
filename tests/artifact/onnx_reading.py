"""What the ONNX library reads in a model: nodes, elements, operators and data elsewhere, found by reflection over its messages.

Nothing here knows which fields hold nodes or tensors: whatever stands anywhere in the model counts, by its type.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo

from wire.onnx_profile import DOMAINS

ENDLESS = 1 << 40
_SMALL = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}

Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """A tensor whose data lies elsewhere; `initialiser`: one of the main graph's. `size`: the bytes that its shape comes to."""

    initialiser: bool
    location: str
    offset: int
    length: int | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The library's view. `nodes` and `elements`: the most of what is listed and of what a function or the graph unfolds to.

    `graphs` and `functions`: how many are in one another, at most. `foreign`: domains of operators that are no function's.
    """

    nodes: int
    elements: int
    graphs: int
    functions: int
    foreign: frozenset[str]
    external: tuple[External, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What a graph or function comes to where each call stands for its function."""

    nodes: int
    elements: int
    functions: int


Found = tuple[Message, tuple[type[Message], ...]]


def _messages(within: Message, around: tuple[type[Message], ...] = ()) -> Iterator[Found]:
    """Every message in this one, itself first, each with the types of those around it."""
    yield within, around
    for descriptor, value in within.ListFields():
        if descriptor.message_type is not None:
            for inner in value if descriptor.is_repeated else (value,):
                yield from _messages(inner, (*around, type(within)))


def _count(dims: Sequence[int]) -> int:
    count = 1
    for size in dims:
        count *= max(size, 1)
    return count


def _elements(found: Sequence[Found]) -> int:
    return sum(_count(message.dims) for message, _ in found if isinstance(message, TensorProto | SparseTensorProto))


def _nodes(found: Sequence[Found]) -> list[NodeProto]:
    return [message for message, _ in found if isinstance(message, NodeProto)]


def _name(domain: str, operator: str, overload: str) -> Name:
    return domain if domain != "ai.onnx" else "", operator, overload


def _called(node: NodeProto) -> Name:
    return _name(node.domain, node.op_type, node.overload)


class _Unfolding:
    """What functions unfold to; one in itself is endless, and so are two of one name."""

    def __init__(self, functions: Sequence[FunctionProto]) -> None:
        self.functions = {_name(function.domain, function.name, function.overload): list(_messages(function)) for function in functions}
        self._known: dict[Name, _Size] = {}
        self._unique = len(self.functions) == len(functions)

    def size(self, found: Sequence[Found], inside: tuple[Name, ...] = ()) -> _Size:
        nodes, elements, functions = len(_nodes(found)), _elements(found), 0 if self._unique else ENDLESS
        for name in map(_called, _nodes(found)):
            if name in self.functions:
                inner = self._function(name, inside)
                nodes, elements, functions = nodes + inner.nodes, elements + inner.elements, max(functions, inner.functions + 1)
        return _Size(nodes=nodes, elements=elements, functions=functions)

    def _function(self, name: Name, inside: tuple[Name, ...]) -> _Size:
        if name in inside:
            return _Size(nodes=ENDLESS, elements=ENDLESS, functions=ENDLESS)
        if name not in self._known:
            self._known[name] = self.size(self.functions[name], (*inside, name))
        return self._known[name]


def _external(tensor: TensorProto, initialiser: bool) -> External:
    where = ExternalDataInfo(tensor)
    bits = _SMALL.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size = 0 if 0 in tensor.dims else -(-_count(tensor.dims) * bits // 8)
    return External(initialiser=initialiser, location=where.location, offset=where.offset or 0, length=where.length, size=size)


def read(model: ModelProto) -> Reading:
    """What the library makes of a model. Raises whatever the library does at data elsewhere that makes no sense."""
    found = list(_messages(model))
    unfolding = _Unfolding(model.functions)
    sizes = [unfolding.size(part) for part in (*unfolding.functions.values(), list(_messages(model.graph)))]
    return Reading(
        nodes=max(len(_nodes(found)), *(size.nodes for size in sizes)),
        elements=max(_elements(found), *(size.elements for size in sizes)),
        graphs=max((around.count(GraphProto) for message, around in found if isinstance(message, GraphProto)), default=0),
        functions=max(size.functions for size in sizes),
        foreign=frozenset(node.domain for node in _nodes(found) if node.domain not in DOMAINS and _called(node) not in unfolding.functions),
        external=tuple(
            _external(message, around == (ModelProto, GraphProto))
            for message, around in found
            if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL
        ),
    )
