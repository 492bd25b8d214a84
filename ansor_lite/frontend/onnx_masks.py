"""Masks as the rest of the compiler sees through them.

A constant causal mask is recognised by its values, a padding mask is small. An exporter that joins
both into one boolean tensor hides the one and enlarges the other: they are taken apart again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import OnnxGraph
from ansor_lite.frontend.onnx_shapes import static_shapes

# e^-10000 is 0 in any format: whatever is this low has no share in a softmax.
MASKED = -1e4
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class _Joined:
    """``scores + where(given and table, zero, fill)`` with a constant ``table``."""

    scores: str
    given: str
    table: str
    zero: str
    fill: str


def masks_apart(graph: OnnxGraph) -> None:
    """``s + where(given and known, 0, low)`` is ``where(known, s + where(given, 0, low), low)``.

    ``known`` is constant. Equal as long as the scores vanish beside ``low``.
    """
    producers = graph.producers()
    shapes: dict[str, tuple[int, ...]] | None = None
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        found = _joined(graph, producers, node)
        if found is not None:
            shapes = static_shapes(graph) if shapes is None else shapes
            whole = shapes.get(node.output[0])
            if whole is None or shapes.get(found.scores) != whole:
                found = None
        nodes += [node] if found is None else _apart(graph, node, found)
    graph.nodes = nodes


def _apart(graph: OnnxGraph, node: onnx.NodeProto, found: _Joined) -> list[onnx.NodeProto]:
    bias, padded = (graph.fresh_name(node.output[0]) for _ in range(2))
    masked = helper.make_node("Where", [found.given, found.zero, found.fill], [bias])
    if graph.value(found.table).all():
        return [masked, helper.make_node("Add", [found.scores, bias], node.output, name=node.name)]
    return [
        masked,
        helper.make_node("Add", [found.scores, bias], [padded], name=node.name),
        helper.make_node("Where", [found.table, padded, found.fill], [node.output[0]]),
    ]


def _joined(
    graph: OnnxGraph, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto
) -> _Joined | None:
    if node.op_type != "Add":
        return None
    for scores, name in (node.input, reversed(node.input)):
        where = producers.get(name)
        if where is None or where.op_type != "Where":
            continue
        both = producers.get(_unexpanded(producers, where.input[0]))
        zero, fill = _scalar(graph, where.input[1]), _scalar(graph, where.input[2])
        if both is None or both.op_type != "And" or zero != 0 or fill is None or fill > MASKED:
            continue
        for given, table in (both.input, reversed(both.input)):
            if graph.is_constant(table) and not graph.is_constant(given):
                small = _unexpanded(producers, given)
                return _Joined(scores, small, table, where.input[1], where.input[2])
    return None


def _unexpanded(producers: dict[str, onnx.NodeProto], name: str) -> str:
    while name in producers and producers[name].op_type == "Expand":
        name = producers[name].input[0]
    return name


def _scalar(graph: OnnxGraph, name: str) -> float | None:
    value = graph.constant(name)
    if value is None or value.size != 1 or value.dtype.kind != "f":
        return None
    return float(value.reshape(()))


def masks_to_lowest(graph: OnnxGraph) -> None:
    """A constant mask of a softmax that fills with -10000 fills with the lowest float32.

    Only where it leaves every row something: then what is filled has no share either way.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        readers = consumers.get(node.output[0], []) if node.op_type == "Where" else []
        if not readers or any(reader.op_type != "Softmax" for reader in readers):
            continue
        table = graph.constant(node.input[0])
        if table is None or table.ndim < 1 or node.output[0] in graph.outputs:
            continue
        for index, kept in ((1, ~table), (2, table)):
            fill = _scalar(graph, node.input[index])
            if fill is None or not LOWEST < fill <= MASKED or not kept.any(axis=-1).all():
                continue
            dtype = graph.value(node.input[index]).dtype
            if dtype == np.float32:
                lowest = np.array(LOWEST, np.float32)
                node.input[index] = graph.add_constant(lowest, node.input[index])
