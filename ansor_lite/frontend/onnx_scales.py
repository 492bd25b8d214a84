"""Products with constants move back through views and products into constant weights.

The scale of attention is a product of its own, on queries, keys or scores; layer scale is one per
feature. Where a projection with constant weights lies before, its weights take the factor. Read
``onnx_affine.py`` first: there a product directly behind a linear operator goes into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from ansor_lite.frontend.onnx_affine import affine_operands, per_channel
from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute
from ansor_lite.frontend.onnx_links import Links
from ansor_lite.frontend.onnx_shapes import static_shapes

# A factor is made as large as a value only to be cut anew; larger ones stay products.
MAX_FACTOR_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class _Edit:
    """``node`` reads ``value`` in the place of its operand at ``index``."""

    node: onnx.NodeProto
    index: int
    value: Array


def scales_into_weights(graph: OnnxGraph) -> None:
    """``Mul`` by a constant goes into the weights of the linear operators before it."""
    products = [node for node in graph.nodes if node.op_type == "Mul"]
    if not any(affine_operands(graph, node) for node in products):
        return
    shapes = static_shapes(graph)
    for node in products:
        operands = affine_operands(graph, node)
        shape = shapes.get(node.output[0])
        if operands is None or shape is None or shapes.get(operands[0]) != shape:
            continue
        source, value = operands
        links = Links.of(graph, shapes)
        edits = _push(links, source, value.reshape((1,) * (len(shape) - value.ndim) + value.shape))
        if edits is not None:
            _apply(links, node, source, edits)


def _apply(links: Links, node: onnx.NodeProto, source: str, edits: list[_Edit]) -> None:
    graph = links.graph
    for edit in edits:
        before = graph.value(edit.node.input[edit.index])
        value = np.ascontiguousarray(edit.value, before.dtype)
        edit.node.input[edit.index] = graph.add_constant(value, edit.node.output[0])
    producer = links.producers[source]
    producer.output[list(producer.output).index(source)] = node.output[0]
    graph.remove([node])


def _push(links: Links, name: str, factor: Array) -> list[_Edit] | None:
    """What multiplies the value called ``name`` by ``factor``, which has its rank; or ``None``."""
    node = links.producers.get(name)
    if node is None or not links.is_read_once(name):
        return None
    rule = RULES.get(node.op_type)
    return None if rule is None else rule(links, node, name, _compressed(factor))


def _compressed(factor: Array) -> Array:
    """Extent 1 along the dimensions that make no difference."""
    for axis, extent in enumerate(factor.shape):
        first = factor.take([0], axis)
        if extent > 1 and np.array_equal(np.broadcast_to(first, factor.shape), factor):
            factor = first
    return factor


def _through_transpose(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    order = attribute(node, "perm", list(reversed(range(factor.ndim))))
    return _push(links, node.input[0], factor.transpose(np.argsort(order)))


def _through_view(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    before, after = links.shapes.get(node.input[0]), links.shapes.get(name)
    if before is None or after is None:
        return None
    if factor.size == 1:
        return _push(links, node.input[0], factor.reshape((1,) * len(before)))
    if np.prod(after) > MAX_FACTOR_ELEMENTS:
        return None
    return _push(links, node.input[0], np.broadcast_to(factor, after).reshape(before))


def _through_split(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    axis = int(attribute(node, "axis", 0)) % factor.ndim
    parts = [links.shapes.get(part) for part in node.output]
    if any(part is None for part in parts):
        return None
    index = list(node.output).index(name)
    extents = [part[axis] for part in parts if part is not None]
    return _push_part(links, node.input[0], factor, axis, sum(extents[:index]), extents[index])


def _through_slice(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    mine = links.cut(node)
    source = node.input[0]
    if mine is None or source in links.graph.outputs:
        return None
    for other in links.consumers[source]:
        theirs = links.cut(other)
        if other is node:
            continue
        if theirs is None or theirs.axis != mine.axis:
            return None
        if theirs.start < mine.stop and mine.start < theirs.stop:
            return None
    extent = links.shapes[source][mine.axis]
    whole = _widened(factor, mine.axis, extent, mine.start, mine.stop - mine.start)
    producer = links.producers.get(source)
    rule = RULES.get(producer.op_type) if producer is not None else None
    if producer is None or rule is None:
        return None
    return rule(links, producer, source, whole)


def _widened(factor: Array, axis: int, extent: int, start: int, count: int) -> Array:
    """``factor`` for ``count`` entries along ``axis`` from ``start`` on; 1 for the others."""
    shape = list(factor.shape)
    shape[axis] = extent
    whole = np.ones(shape, factor.dtype)
    whole[(slice(None),) * axis + (slice(start, start + count),)] = factor
    return whole


def _push_part(
    links: Links, name: str, factor: Array, axis: int, start: int, count: int
) -> list[_Edit] | None:
    shape = links.shapes.get(name)
    if shape is None:
        return None
    return _push(links, name, _widened(factor, axis, shape[axis], start, count))


def _through_sum(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    """``(x + c) f`` is ``x f + c f``."""
    operands = affine_operands(links.graph, node)
    if operands is None or links.shapes.get(operands[0]) != links.shapes.get(name):
        return None
    source, value = operands
    if np.broadcast_shapes(value.shape, factor.shape) != (1,) * (factor.ndim - 1) + (
        links.shapes[name][-1],
    ):
        return None
    edits = _push(links, source, factor)
    if edits is None:
        return None
    index = 1 if node.input[0] == source else 0
    return [*edits, _Edit(node, index, (value * factor).reshape(-1))]


def _into_product(
    links: Links, node: onnx.NodeProto, name: str, factor: Array
) -> list[_Edit] | None:
    """Constant weights take factors of columns; a product of two values passes a number on."""
    weight = links.graph.constant(node.input[1])
    if weight is not None:
        columns = weight.shape[-1]
        change = per_channel(factor, factor.ndim, factor.ndim - 1, columns)
        return None if change is None or weight.ndim < 2 else [_Edit(node, 1, weight * change)]
    if factor.size > 1:
        return None
    for operand in node.input:
        shape = links.shapes.get(operand)
        if shape is None:
            continue
        edits = _push(links, operand, factor.reshape((1,) * len(shape)))
        if edits is not None:
            return edits
    return None


def _into_gemm(links: Links, node: onnx.NodeProto, name: str, factor: Array) -> list[_Edit] | None:
    weight = links.graph.constant(node.input[1])
    if weight is None:
        return None
    transposed = bool(attribute(node, "transB", 0))
    change = per_channel(factor, 2, 1, weight.shape[0 if transposed else 1])
    bias = links.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if change is None or (bias is None and len(node.input) > 2 and node.input[2]):
        return None
    edits = [_Edit(node, 1, weight * (change[:, None] if transposed else change))]
    return edits if bias is None else [*edits, _Edit(node, 2, bias * change)]


_Rule = Callable[[Links, onnx.NodeProto, str, Array], "list[_Edit] | None"]

# Operator -> how a factor of its result becomes one of its operands, or goes into its weights.
RULES: dict[str, _Rule] = {
    "Transpose": _through_transpose,
    "Reshape": _through_view,
    "Flatten": _through_view,
    "Squeeze": _through_view,
    "Unsqueeze": _through_view,
    "Split": _through_split,
    "Slice": _through_slice,
    "Add": _through_sum,
    "MatMul": _into_product,
    "Gemm": _into_gemm,
}
