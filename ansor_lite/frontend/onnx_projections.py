"""Products with constant weights: flattened ones take their operands as they are, small ones join.

``addmm`` works on matrices, so exporters flatten tokens in front of it and unflatten behind it;
what follows could not be computed in the product's epilogue. Queries, keys and values of a small
layer are one product of three times the width; what reads them reads slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute
from ansor_lite.frontend.onnx_shapes import Shape, static_shapes

# Multiplications of a product that still gains from being joined: what is saved is the start of a
# parallel region. Measured on two cores: 197x192x192 gains 4 %, 128x768x768 loses 1 %.
MAX_MULTIPLICATIONS = 1 << 24
# What may lie between a projection and the product of attention that reads its slice in place.
VIEWS = frozenset({"Reshape", "Transpose", "Unsqueeze", "Expand"})


def gemms_to_products(graph: OnnxGraph) -> None:
    """``Gemm`` with constants, its rows parted behind it, becomes ``MatMul`` and ``Add``."""
    if not any(node.op_type == "Gemm" for node in graph.nodes):
        return
    shapes, producers, consumers = static_shapes(graph), graph.producers(), graph.consumers()
    gone: list[onnx.NodeProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes.append(node)
        readers = consumers.get(node.output[0], [])
        if not _is_plain(graph, node) or node.output[0] in graph.outputs or len(readers) != 1:
            continue
        matrix, result = shapes.get(node.output[0]), shapes.get(readers[0].output[0], ())
        if readers[0].op_type != "Reshape" or len(result) < 3 or matrix is None:
            continue
        if result[-1] == matrix[-1]:
            source = _parted(graph, producers, shapes, node, result[:-1])
            nodes[-1:] = [*source, *_product(graph, node, readers[0].output[0])]
            gone += readers
    graph.nodes = nodes
    graph.remove(gone)


def _is_plain(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    """A ``Gemm`` of a value with constant weights and bias, nothing scaled."""
    if node.op_type != "Gemm" or attribute(node, "transA", 0):
        return False
    scaled = attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1
    weights = [name for name in node.input[1:] if name]
    return not scaled and all(graph.is_constant(name) for name in weights)


def _parted(
    graph: OnnxGraph,
    producers: dict[str, onnx.NodeProto],
    shapes: dict[str, Shape],
    node: onnx.NodeProto,
    rows: Shape,
) -> list[onnx.NodeProto]:
    """``node`` reads its rows parted; the reshaping that takes, nothing where they were before."""
    weight = graph.value(node.input[1])
    shape = (*rows, weight.shape[1 if attribute(node, "transB", 0) else 0])
    before = producers.get(node.input[0])
    source = before.input[0] if before and before.op_type == "Reshape" else node.input[0]
    if shapes.get(source) == shape:
        node.input[0] = source
        return []
    parted = graph.fresh_name(source)
    target = graph.add_constant(np.array(shape, np.int64), source)
    node.input[0] = parted
    return [helper.make_node("Reshape", [source, target], [parted], name=parted)]


def _product(graph: OnnxGraph, node: onnx.NodeProto, result: str) -> list[onnx.NodeProto]:
    weight = graph.value(node.input[1])
    source, name = node.input[:2]
    if attribute(node, "transB", 0):
        name = graph.add_constant(np.ascontiguousarray(weight.T), name)
    if len(node.input) < 3 or not node.input[2]:
        return [helper.make_node("MatMul", [source, name], [result], name=node.name)]
    bias = graph.add_constant(graph.value(node.input[2]).reshape(-1), node.input[2])
    return [
        helper.make_node("MatMul", [source, name], [node.output[0]], name=node.name),
        helper.make_node("Add", [node.output[0], bias], [result], name=f"{node.name}.bias"),
    ]


# ------------------------------------------------------------------ joined


@dataclass(frozen=True, slots=True)
class _Projection:
    """``source @ weight + bias``: ``nodes`` compute it, the last one its ``result``."""

    nodes: tuple[onnx.NodeProto, ...]
    weight: Array
    bias: Array | None

    @property
    def result(self) -> str:
        return str(self.nodes[-1].output[0])


def join_projections(graph: OnnxGraph) -> None:
    """Small projections of one value to queries, keys or values become one and its slices."""
    candidates: dict[str, list[_Projection]] = {}
    consumers = graph.consumers()
    for node in graph.nodes:
        found = _projection(graph, consumers, node)
        if found is not None:
            candidates.setdefault(node.input[0], []).append(found)
    several = {name: found for name, found in candidates.items() if len(found) > 1}
    if not several:
        return
    shapes = static_shapes(graph)
    for source, projections in several.items():
        rows = prod(shapes.get(source, (0,))[:-1])
        largest = max(projection.weight.size for projection in projections)
        if rows and rows * largest <= MAX_MULTIPLICATIONS:
            _join(graph, source, projections, len(shapes[source]))


def _projection(
    graph: OnnxGraph, consumers: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto
) -> _Projection | None:
    if node.op_type != "MatMul" or graph.is_constant(node.input[0]):
        return None
    weight = graph.constant(node.input[1])
    readers = consumers.get(node.output[0], [])
    if weight is None or weight.ndim != 2 or not readers or node.output[0] in graph.outputs:
        return None
    if len(readers) == 1 and readers[0].op_type == "Add":
        sum_ = readers[0]
        other = next((name for name in sum_.input if name != node.output[0]), "")
        bias = graph.constant(other)
        if bias is None or bias.shape != weight.shape[1:] or sum_.output[0] in graph.outputs:
            return None
        if not _is_split(consumers, sum_.output[0]):
            return None
        return _Projection((node, sum_), weight, bias)
    split = _is_split(consumers, node.output[0])
    return _Projection((node,), weight, None) if split else None


def _is_split(consumers: dict[str, list[onnx.NodeProto]], name: str) -> bool:
    """Whether views of the value are all that lies in front of a product."""
    readers = consumers.get(name, [])
    if len(readers) != 1:
        return False
    reader = readers[0]
    return reader.op_type == "MatMul" or (
        reader.op_type in VIEWS and _is_split(consumers, reader.output[0])
    )


def _join(graph: OnnxGraph, source: str, projections: list[_Projection], rank: int) -> None:
    hint = projections[0].result
    weights = np.concatenate([p.weight for p in projections], axis=1)
    whole = graph.fresh_name(hint)
    nodes = [helper.make_node("MatMul", [source, graph.add_constant(weights, hint)], [whole])]
    if any(p.bias is not None for p in projections):
        zeros = [np.zeros(p.weight.shape[1], weights.dtype) for p in projections]
        parts = [z if p.bias is None else p.bias for p, z in zip(projections, zeros, strict=True)]
        bias = graph.add_constant(np.concatenate(parts), hint)
        product, whole = whole, graph.fresh_name(hint)
        nodes.append(helper.make_node("Add", [product, bias], [whole]))
    start = 0
    for projection in projections:
        stop = start + projection.weight.shape[1]
        bounds = [np.array([value], np.int64) for value in (start, stop, rank - 1)]
        names = [graph.add_constant(value, projection.result) for value in bounds]
        nodes.append(helper.make_node("Slice", [whole, *names], [projection.result]))
        start = stop
    at = min(graph.nodes.index(p.nodes[0]) for p in projections)
    graph.nodes[at:at] = nodes
    graph.remove([node for projection in projections for node in projection.nodes])
