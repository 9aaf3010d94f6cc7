"""Judge an opened ONNX graph before ONNX Runtime sees it: sizes, nodes, elements, operators, where data lies (T14).

A walk over the bytes with limits from the manifest, no ONNX library. What it refuses: other formats than ONNX, operators
that would want a library, external data anywhere but in the weights part, dimensions beyond the limit, and functions
that unfold to more nodes or elements than allowed.
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


def _named(domain: str, operator: str, overload: str) -> FunctionName:
    """What a call and its function are matched by: the standard domain has two names, and readers take them for one."""
    return ("" if domain == "ai.onnx" else domain), operator, overload


@dataclass(slots=True)
class _Body:
    """A graph or function, subgraphs included: its nodes, its tensors' elements, and how often each operator is called."""

    nodes: int = 0
    elements: int = 0
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
            name = _named(node.text(7), node.text(4), node.text(8))
            into.calls[name] = into.calls.get(name, 0) + 1
            for attribute in node.many(5):
                self.attribute(message(attribute), depth, into)

    def attribute(self, attribute: Message, depth: int, into: _Body) -> None:
        for tensor in (attribute.one(5), *attribute.many(10)):
            if tensor is not None:
                self.tensor(message(tensor), into, external=False)
        for sparse in (attribute.one(22), *attribute.many(23)):
            if sparse is not None:
                self.sparse(message(sparse), into)
        for graph in (attribute.one(6), *attribute.many(11)):
            if graph is not None:
                self.graph(message(graph), depth + 1, into)

    def graph(self, graph: Message, depth: int, into: _Body) -> None:
        for tensor in graph.many(5):
            self.tensor(message(tensor), into, external=depth == 0)
        for sparse in graph.many(15):
            self.sparse(message(sparse), into)
        self.nodes_of(graph.many(1), depth, into)

    def sparse(self, sparse: Message, into: _Body) -> None:
        self.count(sparse.numbers(3), into)
        for part in (sparse.one(1), sparse.one(2)):
            if part is not None:
                self.tensor(message(part), into, external=False)

    def count(self, dims: Sequence[int], into: _Body) -> int:
        """The elements of a shape; zero-sized dimensions count as one, lest they hide what multiplies beside them."""
        _require(len(dims) <= _RANK_MAX and min(dims, default=0) >= 0)
        elements = prod(max(size, 1) for size in dims)
        self.elements += elements
        into.elements += elements
        _require(self.elements <= self.intake.max_elements)
        return 0 if 0 in dims else elements

    def tensor(self, tensor: Message, into: _Body, *, external: bool) -> None:
        elements = self.count(tensor.numbers(1), into)
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


@dataclass(frozen=True, slots=True)
class _Unfolded:
    """What a body comes to where each call stands for its function: `height` is how many functions are in one another."""

    nodes: int
    elements: int
    height: int


def _unfold(functions: dict[FunctionName, _Body], main: _Body, intake: Intake) -> None:
    """Refuse unknown operators, functions too deep in one another (in themselves, then), more nodes or elements than allowed."""
    known: dict[FunctionName, _Unfolded] = {}

    def unfolded(body: _Body, depth: int) -> _Unfolded:
        _require(depth <= DEPTH_MAX)
        nodes, elements, height = body.nodes, body.elements, 0
        for name, times in body.calls.items():
            if name in functions:
                inner = called(name, depth + 1)
                nodes, elements = nodes + times * inner.nodes, elements + times * inner.elements
                height = max(height, inner.height + 1)
            else:
                _require(name[0] in DOMAINS)
            _require(nodes <= intake.max_nodes and elements <= intake.max_elements and height <= DEPTH_MAX)
        return _Unfolded(nodes, elements, height)

    def called(name: FunctionName, depth: int) -> _Unfolded:
        if name not in known:
            known[name] = unfolded(functions[name], depth)
        return known[name]

    for name in functions:
        called(name, 0)
    unfolded(main, 0)


def _judge(graph: memoryview, intake: Intake, weights: int) -> None:
    _require(len(graph) + weights <= intake.max_bytes and bytes(graph[4:8]) != _ORT_FORMAT)
    model = message(graph)
    main = model.one(7)
    _require(main is not None and bool(model.many(8)) and not model.many(20))  # a graph, operator sets, nothing to train
    walk = _Walk(intake=intake, weights=weights)
    functions: dict[FunctionName, _Body] = {}
    for raw in model.many(25):
        function = message(raw)
        name = _named(function.text(10), function.text(1), function.text(13))
        _require(name not in functions)
        functions[name] = _Body()
        walk.nodes_of(function.many(7), 1, functions[name])
        for attribute in function.many(11):
            walk.attribute(message(attribute), 1, functions[name])
    body = _Body()
    walk.graph(message(main or graph[:0]), 0, body)
    _unfold(functions, body, intake)


def judge(graph: bytes | bytearray | memoryview, *, intake: Intake, weights: int = 0) -> None:
    """Judge the graph part, beside a weights part of `weights` bytes. Raises: ModelError(MODEL_REFUSED), and nothing else."""
    try:
        with memoryview(graph) as view:
            _judge(view, intake, weights)
    except MalformedProtobufError:
        raise ModelError(BootFailure.MODEL_REFUSED) from None
