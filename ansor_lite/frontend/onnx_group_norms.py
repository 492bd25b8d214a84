"""Group norms that exporters wrote out become single operators again.

PyTorch writes one as a norm over ``[n, groups, ...]`` between two reshapes, then a scale and a
shift per channel. Read ``onnx_norms.py`` first; separate because of the reshapes. Runs before it,
which takes norms over the last axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute
from ansor_lite.frontend.onnx_links import Links
from ansor_lite.frontend.onnx_norms import norm_of
from ansor_lite.frontend.onnx_shapes import Shape, static_types

# Axes behind that of the groups: all in one, or channels of a group and up to three of an image.
MOST_TRAILING = 4


@dataclass(frozen=True, slots=True)
class _Rows:
    """``result`` is ``source: [n, groups, ...]`` to mean 0 and variance 1, scaled by group."""

    source: str
    result: str
    epsilon: float
    scale: Array
    shift: Array


@dataclass(frozen=True, slots=True)
class _Grouped:
    """``result`` is ``source: [n, channels, ...]`` normed by groups, in place of ``gone``."""

    source: str
    result: str
    scale: Array
    shift: Array
    gone: tuple[onnx.NodeProto, ...]


def group_norms_to_operators(graph: OnnxGraph) -> None:
    """``GroupNormalization`` with a scale per channel, from its parts."""
    if not any(node.op_type in ("ReduceMean", "InstanceNormalization") for node in graph.nodes):
        return
    types = static_types(graph)
    links = Links.of(graph, {name: found.shape for name, found in types.items()})
    gone: list[onnx.NodeProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        rows = _rows(links, node)
        found = _grouped(links, rows) if rows is not None else None
        if rows is None or found is None or types[found.source].dtype != np.float32:
            nodes.append(node)
        else:
            nodes.append(_operator(graph, rows, found))
            gone += found.gone
    graph.nodes = nodes
    graph.remove(gone)


def _operator(graph: OnnxGraph, rows: _Rows, found: _Grouped) -> onnx.NodeProto:
    """The importer takes it in every opset."""
    affine = [graph.add_constant(v, found.result) for v in (found.scale, found.shift)]
    return helper.make_node(
        "GroupNormalization",
        [found.source, *affine],
        [found.result],
        name=found.result,
        epsilon=rows.epsilon,
        num_groups=len(rows.scale),
    )


def _rows(links: Links, node: onnx.NodeProto) -> _Rows | None:
    """What ``node`` completes, before scales and shifts by channel."""
    if node.op_type == "InstanceNormalization":
        scale, shift = (links.graph.constant(name) for name in node.input[1:3])
        if scale is None or shift is None:
            return None
        epsilon = float(attribute(node, "epsilon", 1e-5))
        return _Rows(node.input[0], node.output[0], epsilon, scale, shift)
    for trailing in range(1, MOST_TRAILING + 1):
        norm = norm_of(links, node, trailing)
        shape = links.shapes.get(norm.source, ()) if norm is not None else ()
        if norm is not None and norm.centred and len(shape) == 2 + trailing:
            ones, zeros = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
            return _Rows(norm.source, node.output[0], norm.epsilon, ones, zeros)
    return None


def _grouped(links: Links, rows: _Rows) -> _Grouped | None:
    """The norm with the reshapes around it and what follows by channel."""
    split, back = links.made_by(rows.source, "Reshape"), _reader(links, rows.result, "Reshape")
    if split is None or back is None:
        return None
    source, groups = split.input[0], len(rows.scale)
    shape = links.shapes.get(source, ())
    if len(shape) < 3 or shape != links.shapes.get(back.output[0]) or shape[1] % groups:
        return None
    if links.shapes[rows.source][:2] != (shape[0], groups) or 0 in shape:
        return None
    members = shape[1] // groups
    scale, shift = (np.repeat(v, members) for v in (rows.scale, rows.shift))
    gone, result = [back], str(back.output[0])
    for op in ("Mul", "Add"):
        reader = _reader(links, result, op)
        value = None if reader is None else _by_channel(links, reader, result, shape)
        if reader is None or value is None:
            continue
        scale, shift = (scale * value, shift * value) if op == "Mul" else (scale, shift + value)
        gone, result = [*gone, reader], str(reader.output[0])
    return _Grouped(source, result, scale, shift, tuple(gone))


def _reader(links: Links, name: str, op: str) -> onnx.NodeProto | None:
    """The only one that reads ``name``, if it is such."""
    if not links.is_read_once(name):
        return None
    (node,) = links.consumers[name]
    return node if node.op_type == op else None


def _by_channel(links: Links, node: onnx.NodeProto, name: str, shape: Shape) -> Array | None:
    """The other operand, if it is a constant that differs by channel only."""
    other = next((i for i in node.input if i != name), "")
    value = links.graph.constant(other) if other else None
    if value is None or value.dtype != np.float32 or value.ndim > len(shape):
        return None
    wide = (1,) * (len(shape) - value.ndim) + value.shape
    if wide[1] not in (1, shape[1]) or prod(wide) != wide[1]:
        return None
    return np.broadcast_to(value.reshape(-1), shape[1:2])
