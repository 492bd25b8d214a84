"""Rows that nobody reads are not computed: slices move back through what works row by row.

A classifier reads one token of the last layer; the products, norms and queries of the others were
for nothing. A slice of a result becomes slices of the operands until one is needed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import OnnxGraph, attribute, has_subgraph
from ansor_lite.frontend.onnx_links import Cut, Links
from ansor_lite.frontend.onnx_shapes import Shape, static_shapes

# What keeps more than this share of a value stays where it is: little is saved.
MAX_SHARE = 0.5


def slices_to_operands(graph: OnnxGraph) -> None:
    """A value of which the same slice is all that is read is computed as that slice."""
    sliced = any(node.op_type == "Slice" for node in graph.nodes)
    if not sliced or any(has_subgraph(node) for node in graph.nodes):
        return
    shapes = static_shapes(graph)
    while True:
        links = Links.of(graph, shapes)
        if not any(_move(links, *found) for found in _wanted(links)):
            return


def _wanted(links: Links) -> Iterator[tuple[str, Cut]]:
    """Values of which the same small slice is all that is read."""
    for name, readers in links.consumers.items():
        if name not in links.producers or name in links.graph.outputs:
            continue
        cut = links.cut(readers[0])
        if cut is None or name not in readers[0].input[:1]:
            continue
        kept = (cut.stop - cut.start) / max(1, links.shapes[name][cut.axis])
        if 0 < kept <= MAX_SHARE and all(links.cut(reader) == cut for reader in readers):
            yield name, cut


def _move(links: Links, name: str, cut: Cut) -> bool:
    node = links.producers[name]
    rule = RULES.get(node.op_type)
    shapes = [links.shape(operand) for operand in node.input]
    if rule is None or len(node.output) > 1 or any(shape is None for shape in shapes):
        return False
    known = [shape for shape in shapes if shape is not None]
    axes = rule(node, known, links.shapes[name], cut.axis)
    if axes is None:
        return False
    slices: list[onnx.NodeProto] = []
    for index, axis in enumerate(axes):
        if axis is not None:
            part = replace(cut, axis=axis)
            node.input[index] = _sliced(links, node.input[index], part, slices)
    shape = cut.of(links.shapes[name])
    if node.op_type in VIEWS:
        del node.attribute[:]
        node.op_type = "Reshape"
        target = links.graph.add_constant(np.array(shape, np.int64), name)
        node.input[:] = [node.input[0], target]
    _replace_readers(links, node, name, shape)
    at = next(i for i, other in enumerate(links.graph.nodes) if other is node)
    links.graph.nodes[at:at] = slices
    return True


def _sliced(links: Links, name: str, cut: Cut, slices: list[onnx.NodeProto]) -> str:
    """The name of that slice of a value: an old one, a constant, or of a new node."""
    graph, value = links.graph, links.graph.constant(name)
    if value is not None:
        where = (slice(None),) * cut.axis + (slice(cut.start, cut.stop),)
        return graph.add_constant(value[where], name)
    for reader in [*links.consumers.get(name, []), *slices]:
        if reader.input[0] == name and reader.op_type == "Slice" and links.cut(reader) == cut:
            _move_before(graph, reader, links.producers.get(name))
            return str(reader.output[0])
    bounds = [
        graph.add_constant(np.array([n], np.int64), name) for n in (cut.start, cut.stop, cut.axis)
    ]
    out = graph.fresh_name(name)
    slices.append(helper.make_node("Slice", [name, *bounds], [out], name=out))
    links.shapes[out] = cut.of(links.shapes[name])
    return out


def _move_before(graph: OnnxGraph, reader: onnx.NodeProto, producer: onnx.NodeProto | None) -> None:
    """``reader`` directly behind what it reads, in front of everything that may read it."""
    graph.remove([reader])
    at = next((i + 1 for i, node in enumerate(graph.nodes) if node is producer), 0)
    graph.nodes.insert(at, reader)


def _replace_readers(links: Links, node: onnx.NodeProto, name: str, shape: Shape) -> None:
    """The slices of ``name`` are gone; who read them reads the node, which computes them."""
    readers = links.consumers[name]
    results = [str(reader.output[0]) for reader in readers]
    kept = next((r for r in results if r in links.graph.outputs), results[0])
    node.output[0] = kept
    links.shapes[kept] = shape
    spare = [r for r in results if r != kept and r in links.graph.outputs]
    links.graph.remove(readers)
    for other in links.graph.nodes:
        for i, operand in enumerate(other.input):
            if operand in results:
                other.input[i] = kept
    links.graph.nodes += [helper.make_node("Identity", [kept], [r]) for r in spare]


# ------------------------------------------------------------------ operators

Axes = list[int | None]


def _of_each(node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int) -> Axes | None:
    """Elementwise operators, with broadcasting."""
    axes: Axes = []
    for shape in inputs:
        own = axis - (len(result) - len(shape))
        axes.append(own if own >= 0 and shape[own] == result[axis] else None)
    return axes if any(a is not None for a in axes) else None


def _of_rows(node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int) -> Axes | None:
    """Norms and softmax: what lies before their axis is not mixed."""
    default = 1 if node.op_type == "Softmax" else -1  # the older softmax mixes all from 1 on
    mixed = axis >= int(attribute(node, "axis", default)) % len(result)
    return None if mixed else [axis, *(None for _ in inputs[1:])]


def _of_matmul(node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int) -> Axes | None:
    if axis == len(result) - 1 or min(len(shape) for shape in inputs) < 2:
        return None
    if axis == len(result) - 2:
        return [len(inputs[0]) - 2, None]
    return _of_each(node, inputs, result, axis)


def _of_gemm(node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int) -> Axes | None:
    if axis != 0:
        return None
    bias: Axes = [0 if len(s) == 2 and s[0] == result[0] else None for s in inputs[2:]]
    return [1 if attribute(node, "transA", 0) else 0, None, *bias]


def _of_transpose(
    node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int
) -> Axes | None:
    order = attribute(node, "perm", list(reversed(range(len(result)))))
    return [int(order[axis])]


def _of_view(node: onnx.NodeProto, inputs: list[Shape], result: Shape, axis: int) -> Axes | None:
    """The dimension of the same extent with as much in front of it."""
    shape = inputs[0]
    for own, extent in enumerate(shape):
        if extent == result[axis] and prod(shape[:own]) == prod(result[:axis]):
            return [own, *(None for _ in inputs[1:])]
    return None


_Rule = Callable[[onnx.NodeProto, list[Shape], Shape, int], "Axes | None"]
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Where", "Max", "Min", "Cast", "IsNaN", "Neg", "Abs"),
    *("Relu", "Erf", "Tanh", "Sigmoid", "Exp", "Sqrt", "Reciprocal", "Gelu", "HardSwish", "Clip"),
)
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")

# Operator -> for each operand the axis to slice, ``None`` where it stays whole; or no such thing.
RULES: dict[str, _Rule] = {
    **dict.fromkeys(ELEMENTWISE, _of_each),
    **dict.fromkeys(VIEWS, _of_view),
    "LayerNormalization": _of_rows,
    "Softmax": _of_rows,
    "MatMul": _of_matmul,
    "Gemm": _of_gemm,
    "Transpose": _of_transpose,
}
