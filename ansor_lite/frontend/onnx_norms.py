"""Layer norms and RMS norms that exporters wrote out become single operators again.

Written out, a norm reads its data once for each mean. Runs last: older standard opsets do not know
the operators that come out, and shapes could not be inferred any more; the importer takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute
from ansor_lite.frontend.onnx_links import Links
from ansor_lite.frontend.onnx_shapes import static_types

# The opsets whose definition of the operators holds for what is put here.
NORMS_SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}


@dataclass(frozen=True, slots=True)
class Norm:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon)``; without the mean if not ``centred``."""

    source: str
    epsilon: float
    centred: bool


def norms_to_operators(graph: OnnxGraph) -> None:
    """``LayerNormalization`` and ``RMSNormalization`` over the last axis, from their parts."""
    if not any(node.op_type == "ReduceMean" for node in graph.nodes):
        return
    types = static_types(graph)
    links = Links.of(graph, {name: found.shape for name, found in types.items()})
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        found = norm_of(links, node)
        known = types.get(found.source) if found is not None else None
        if found is None or known is None or known.dtype != np.float32:
            nodes.append(node)
        else:
            nodes.append(_operator(graph, found, node.output[0], known.shape[-1]))
    graph.nodes = nodes
    _take_scales(graph)


def _operator(graph: OnnxGraph, norm: Norm, result: str, features: int) -> onnx.NodeProto:
    ones = graph.add_constant(np.ones(features, np.float32), result)
    op = "LayerNormalization" if norm.centred else "RMSNormalization"
    return helper.make_node(
        op, [norm.source, ones], [result], name=result, axis=-1, epsilon=norm.epsilon
    )


def norm_of(links: Links, node: onnx.NodeProto, trailing: int = 1) -> Norm | None:
    """The norm over ``trailing`` axes whose last step, before scale and bias, is ``node``."""
    match node.op_type:
        case "Div":
            return _over_root(links, node.input[0], node.input[1], False, trailing)
        case "Mul":
            pairs = (node.input[0], node.input[1]), (node.input[1], node.input[0])
            found = (_over_root(links, data, factor, True, trailing) for data, factor in pairs)
            return next((norm for norm in found if norm is not None), None)
    return None


def _over_root(links: Links, data: str, factor: str, inverse: bool, trailing: int) -> Norm | None:
    """``data / factor``, or ``data * factor`` if ``inverse``, with the root of its mean square."""
    root = _inverted(links, factor) if inverse else links.made_by(factor, "Sqrt")
    total = links.made_by(root.input[0], "Add") if root is not None else None
    if total is None:
        return None
    for mean, name in (total.input, reversed(total.input)):
        epsilon = links.number(name)
        squares = _mean(links, mean, trailing)
        base = _square(links, squares) if squares is not None else None
        if epsilon is None or base is None:
            continue
        source, other = (_centred(links, name, trailing) for name in (data, base))
        if source is not None and source == other:
            return Norm(source, epsilon, True)
        return Norm(data, epsilon, False) if base == data else None
    return None


def _inverted(links: Links, factor: str) -> onnx.NodeProto | None:
    """The node that takes the root of which ``factor`` is the inverse."""
    node = links.made_by(factor, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return node if links.number(node.input[1]) == -0.5 else None
    if node.op_type == "Div" and links.number(node.input[0]) != 1:
        return None
    return links.made_by(node.input[-1], "Sqrt")


def _centred(links: Links, name: str, trailing: int) -> str | None:
    """``x`` where ``name`` is ``x`` less its mean."""
    node = links.made_by(name, "Sub")
    mean = _mean(links, node.input[1], trailing) if node is not None else None
    return mean if node is not None and mean == node.input[0] else None


def _mean(links: Links, name: str, trailing: int) -> str | None:
    """What ``name`` is the mean of, along its last ``trailing`` axes."""
    node = links.made_by(name, "ReduceMean")
    if node is None or not attribute(node, "keepdims", 1):
        return None
    given = links.graph.constant(node.input[1]) if len(node.input) > 1 else None
    axes = attribute(node, "axes", None) if given is None else given.reshape(-1).tolist()
    rank = len(links.shapes.get(node.input[0], ()))
    if not axes or not rank or any(not -rank <= axis < rank for axis in axes):
        return None
    last = sorted(int(axis) % rank for axis in axes) == list(range(rank - trailing, rank))
    return str(node.input[0]) if last else None


def _square(links: Links, name: str) -> str | None:
    """What ``name`` is the square of."""
    node = links.made_by(name, "Pow", "Mul")
    if node is None:
        return None
    squared = links.number(node.input[1]) == 2 if node.op_type == "Pow" else False
    if node.op_type == "Mul":
        squared = node.input[0] == node.input[1]
    return str(node.input[0]) if squared else None


def _take_scales(graph: OnnxGraph) -> None:
    """The product and the sum with one number per feature behind a norm become its operands."""
    consumers = graph.consumers()
    gone: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type not in NORMS_SINCE or attribute(node, "axis", -1) != -1:
            continue
        for op in ("Mul", "Add"):
            readers = consumers.get(node.output[0], [])
            if len(readers) != 1 or readers[0].op_type != op or node.output[0] in graph.outputs:
                continue
            if _take(graph, node, readers[0]):
                gone.append(readers[0])
    graph.remove(gone)


def _take(graph: OnnxGraph, norm: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    other = next((name for name in reader.input if name != norm.output[0]), "")
    value, scale = graph.constant(other), graph.constant(norm.input[1])
    if value is None or scale is None or value.dtype != np.float32:
        return False
    if value.size not in (1, scale.size) or value.shape[-1:] not in ((), (1,), scale.shape):
        return False
    flat = np.broadcast_to(value.reshape(-1), scale.shape)
    if reader.op_type == "Add" and (norm.op_type == "RMSNormalization" or len(norm.input) > 2):
        return False
    if reader.op_type == "Mul" and len(norm.input) > 2:
        return False
    _set(graph, norm, flat if reader.op_type == "Add" else scale * flat, reader.op_type == "Add")
    norm.output[0] = reader.output[0]
    return True


def _set(graph: OnnxGraph, norm: onnx.NodeProto, value: Array, bias: bool) -> None:
    name = graph.add_constant(np.ascontiguousarray(value), norm.output[0])
    if bias:
        norm.input.append(name)
    else:
        norm.input[1] = name
