"""Judge an opened ONNX graph before ONNX Runtime sees it: sizes, nodes, elements, operators, where data lies (T14).

A walk over the bytes with limits from the manifest, no ONNX library. What it refuses: other formats than ONNX, operators
that would want a library, external data anywhere but in the weights part, dimensions beyond the limit, and functions
that unfold to more nodes than allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from enclave.errors import ModelError
from enclave.protobuf import MalformedProtobufError, Message, message
from wire.errors import BootFailure
from wire.manifest_values import Intake
from wire.onnx_profile import DEPTH_MAX, DOMAINS, ITEM_BITS, WEIGHTS_FILE

_EXTERNAL = 1  # TensorProto.DataLocation
_RANK_MAX = 64  # numpy's; what has more is made to be multiplied
_ORT_FORMAT = b"ORTM"  # a flatbuffer that ONNX Runtime would load by these bytes, unwalked

FunctionName = tuple[str, str, str]


def _require(condition: bool) -> None:
    if not condition:
        raise MalformedProtobufError


@dataclass(slots=True)
class _Body:
    """Nodes of a graph or function, subgraphs included: how many, and how often each operator outside them is called."""

    nodes: int = 0
    calls: dict[FunctionName, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Walk:
    intake: Intake
    weights: int  # bytes of the weights part, 0 where there is none
    elements: int = 0
    nodes: int = 0

    def nodes_of(self, nodes: Sequence[memoryview], depth: int, into: _Body) -> None:
        self.nodes += len(nodes)
        into.nodes += len(nodes)
        _require(depth <= DEPTH_MAX and self.nodes <= self.intake.max_nodes)
        for raw in nodes:
            node = message(raw)
            name = (node.text(7), node.text(4), node.text(8))
            into.calls[name] = into.calls.get(name, 0) + 1
            for attribute in node.many(5):
                self.attribute(message(attribute), depth, into)

    def attribute(self, attribute: Message, depth: int, into: _Body) -> None:
        for tensor in (attribute.one(5), *attribute.many(10)):
            if tensor is not None:
                self.tensor(message(tensor), external=False)
        for sparse in (attribute.one(22), *attribute.many(23)):
            if sparse is not None:
                self.sparse(message(sparse))
        for graph in (attribute.one(6), *attribute.many(11)):
            if graph is not None:
                self.graph(message(graph), depth + 1, into)

    def graph(self, graph: Message, depth: int, into: _Body) -> None:
        for tensor in graph.many(5):
            self.tensor(message(tensor), external=depth == 0)
        for sparse in graph.many(15):
            self.sparse(message(sparse))
        self.nodes_of(graph.many(1), depth, into)

    def sparse(self, sparse: Message) -> None:
        self.count(sparse.numbers(3))
        for part in (sparse.one(1), sparse.one(2)):
            if part is not None:
                self.tensor(message(part), external=False)

    def count(self, dims: Sequence[int]) -> int:
        """The elements of a shape; zero-sized dimensions count as one, lest they hide what multiplies beside them."""
        _require(len(dims) <= _RANK_MAX and min(dims, default=0) >= 0)
        elements = prod(max(size, 1) for size in dims)
        self.elements += elements
        _require(self.elements <= self.intake.max_elements)
        return 0 if 0 in dims else elements

    def tensor(self, tensor: Message, *, external: bool) -> None:
        elements = self.count(tensor.numbers(1))
        if tensor.number(14) != _EXTERNAL:
            _require(not tensor.many(13))
            return
        datatype = tensor.number(2)
        _require(external and datatype in ITEM_BITS)
        where = {entry.text(1): entry.text(2) for entry in map(message, tensor.many(13))}
        _require(len(where) == len(tensor.many(13)) and where.keys() <= {"location", "offset", "length", "checksum"})
        _require(where.get("location") == WEIGHTS_FILE)
        offset, length = _decimal(where.get("offset", "0")), _decimal(where.get("length", ""))
        _require(length == -(-elements * ITEM_BITS[datatype] // 8) and offset + length <= self.weights)


def _decimal(text: str) -> int:
    _require(text.isascii() and text.isdigit() and len(text) <= 16)
    return int(text)


def _unfolded(functions: dict[FunctionName, _Body], main: _Body, limit: int) -> None:
    """Refuse unknown operators, functions too deep in one another (in themselves, then), and more than `limit` nodes in all."""
    known: dict[FunctionName, int] = {}

    def cost(body: _Body, depth: int) -> int:
        _require(depth <= DEPTH_MAX)
        total = body.nodes
        for name, times in body.calls.items():
            if name in functions:
                total += times * cost_of(name, depth + 1)
            else:
                _require(name[0] in DOMAINS)
            _require(total <= limit)
        return total

    def cost_of(name: FunctionName, depth: int) -> int:
        if name not in known:
            known[name] = cost(functions[name], depth)
        return known[name]

    for name in functions:
        cost_of(name, 0)
    cost(main, 0)


def _judge(graph: memoryview, intake: Intake, weights: int) -> None:
    _require(len(graph) + weights <= intake.max_bytes and bytes(graph[4:8]) != _ORT_FORMAT)
    model = message(graph)
    main = model.one(7)
    _require(main is not None and bool(model.many(8)) and not model.many(20))  # a graph, operator sets, nothing to train
    walk = _Walk(intake=intake, weights=weights)
    functions: dict[FunctionName, _Body] = {}
    for raw in model.many(25):
        function = message(raw)
        name = (function.text(10), function.text(1), function.text(13))
        _require(name not in functions)
        functions[name] = _Body()
        walk.nodes_of(function.many(7), 1, functions[name])
        for attribute in function.many(11):
            walk.attribute(message(attribute), 1, functions[name])
    body = _Body()
    walk.graph(message(main or graph[:0]), 0, body)
    _unfolded(functions, body, intake.max_nodes)


def judge(graph: bytes | bytearray | memoryview, *, intake: Intake, weights: int = 0) -> None:
    """Judge the graph part, beside a weights part of `weights` bytes. Raises: ModelError(MODEL_REFUSED), and nothing else."""
    try:
        with memoryview(graph) as view:
            _judge(view, intake, weights)
    except MalformedProtobufError:
        raise ModelError(BootFailure.MODEL_REFUSED) from None
