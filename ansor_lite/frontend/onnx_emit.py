"""Writing nodes: an ``Emitter`` puts primitive operators in the place of one node.

``expand`` is the loop around such rewrites: a table from operators to functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper

from ansor_lite.frontend.onnx_graph import OnnxGraph, attribute
from ansor_lite.frontend.onnx_shapes import TensorType, static_types, types_of_results

# Since these opsets the axes are an input; before, an attribute.
AXES_AS_INPUT = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18}
# What an expansion raises where operands contradict the definition of the operator: the node stays
# and is refused by name.
CONTRADICTIONS = (IndexError, TypeError, ValueError)


class UnknownShape(Exception):
    """A shape that the rewrite needs is not known (yet): the node is left as it is."""


@dataclass
class Emitter:
    """Nodes in the place of ``node``; ``types`` of the values of the graph, as far as known."""

    graph: OnnxGraph
    node: onnx.NodeProto
    types: dict[str, TensorType]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The single result of a new node."""
        out = self.graph.fresh_name(self.node.output[0] or self.node.name)
        name = f"{self.node.name or self.node.output[0]}.{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name, **attributes))
        return out

    def input(self, index: int) -> str:
        """The name of the operand at ``index``; empty when it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def wants(self, index: int) -> bool:
        """Whether the result at ``index`` has a name."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def type(self, name: str) -> TensorType:
        """Of a value of the graph or of one emitted here. Raises :class:`UnknownShape`."""
        if self.graph.is_constant(name):
            value = self.graph.value(name)
            return TensorType(value.dtype, value.shape)
        if name not in self.types and self.nodes:
            self.types |= types_of_results(self.graph, self.nodes, self.types)
        if name not in self.types:
            raise UnknownShape(name)
        return self.types[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.type(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.type(name).dtype

    def constant(self, value: Any, dtype: DTypeLike = np.int64) -> str:
        return self.graph.add_constant(np.asarray(value, dtype), self.node.output[0])

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Zero keeps an extent, -1 takes what is left."""
        return self("Reshape", x, self.constant(shape))

    def transpose(self, x: str, order: Sequence[int]) -> str:
        return self("Transpose", x, perm=list(order))

    def slice(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        bounds = [self.constant([value]) for value in (start, stop, axis, step)]
        return self("Slice", x, *bounds)

    def reduce(self, op: str, x: str, axes: Sequence[int]) -> str:
        """A reduction that keeps its dimensions."""
        if self.opset >= AXES_AS_INPUT[op]:
            return self(op, x, self.constant(axes), keepdims=1)
        return self(op, x, axes=list(axes), keepdims=1)

    def cast(self, x: str, dtype: np.dtype[Any]) -> str:
        if self.dtype(x) == dtype:
            return x
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))

    def finish(self, x: str, index: int = 0) -> None:
        """``x`` is the node's result at ``index``."""
        self.nodes.append(helper.make_node("Identity", [x], [self.node.output[index]]))


# Emits the nodes; refuses by returning ``False``, and the node stays.
Expansion = Callable[[Emitter], bool]
Table = Mapping[tuple[str, str], Expansion]


def expand(graph: OnnxGraph, table: Table) -> None:
    """Each node that ``table`` knows, by domain and operator, becomes what its row emits.

    In order: the types of what is emitted are inferred before the nodes that read it are met.
    """
    if not any(_key(node) in table for node in graph.nodes):
        return
    types, opset = static_types(graph), graph.opset
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        new = _expanded(Emitter(graph, node, types, opset), table)
        if not all(name in types for name in node.output if name):
            types |= types_of_results(graph, new, types)
        nodes += new
    graph.nodes = nodes


def _expanded(emit: Emitter, table: Table) -> list[onnx.NodeProto]:
    expansion = table.get(_key(emit.node))
    try:
        replaced = expansion is not None and expansion(emit)
    except (UnknownShape, *CONTRADICTIONS):
        replaced = False
    return emit.nodes if replaced else [emit.node]


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
