"""Small ONNX models for the tests, most of them with something wrong."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str | None] | None, datatype: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, datatype, shape)


def tensor(name: str, shape: tuple[int, ...] = (4, 4)) -> TensorProto:
    """An initialiser with its data inside."""
    return numpy_helper.from_array(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), name)


def outside(name: str, shape: tuple[int, ...] = (4, 4), **where: str) -> TensorProto:
    """An initialiser whose data lies elsewhere."""
    made = TensorProto(name=name, data_type=FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, text in where.items():
        made.external_data.add(key=key, value=text)
    return made


def model(
    nodes: Sequence[NodeProto] = (helper.make_node("MatMul", ["x", "w"], ["y"]),),
    *,
    initializers: Sequence[TensorProto] | None = None,
    inputs: Sequence[onnx.ValueInfoProto] = (value("x", ["n", 4]),),
    outputs: Sequence[onnx.ValueInfoProto] = (value("y", [None, 4]),),
    **fields: Any,
) -> ModelProto:
    """`y = x w`, but for what is changed."""
    weights = [tensor("w")] if initializers is None else initializers
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, **fields)


def branch(inner: NodeProto, *, initializers: Sequence[TensorProto] = ()) -> NodeProto:
    """An If node with `inner` in both branches."""
    graph = helper.make_graph([inner], "b", [], [value("z", [None, 4])], list(initializers))
    other = helper.make_graph([], "e", [], [value("z", [None, 4])])
    return helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=other)


def nested(depth: int) -> NodeProto:
    """If nodes inside one another."""
    node = helper.make_node("Identity", ["x"], ["z"])
    for _ in range(depth):
        node = branch(node)
    return node


def function(
    name: str, calls: Sequence[tuple[str, str]], *, domain: str = "own", constants: Sequence[TensorProto] = ()
) -> onnx.FunctionProto:
    """A function whose nodes call these (domain, operator)s, beside its constants."""
    nodes = [helper.make_node(operator, ["x"], [f"y{at}"], domain=of) for at, (of, operator) in enumerate(calls)]
    nodes += [helper.make_node("Constant", [], [f"c{at}"], value=constant) for at, constant in enumerate(constants)]
    return helper.make_function(domain, name, ["x"], ["y0"], nodes, [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)])


def laughs(levels: int, fan: int, *, domain: str = "own", called: str = "own", backwards: bool = False) -> ModelProto:
    """Functions of `domain` each calling the next `fan` times, as one of `called`: few bytes, `fan ** levels` nodes."""
    functions = [function(f"f{n}", [(called, f"f{n + 1}")] * fan, domain=domain) for n in range(levels)]
    functions.append(function(f"f{levels}", [("", "Identity")], domain=domain))
    made = model([helper.make_node("f0", ["x"], ["y"], domain=called)], functions=functions[:: -1 if backwards else 1])
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def changed(change: Callable[[ModelProto], object]) -> ModelProto:
    """The plain model after `change`."""
    made = model()
    change(made)
    return made
