"""Products and sums with constants: batch norms become them, linear operators absorb them.

A batch norm is ``x * scale + shift`` per channel. Consecutive constants merge, and a linear
operator with constant weights takes what follows it into its weights and bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute
from ansor_lite.frontend.onnx_shapes import static_shapes

# One value per channel at most: larger constants are data, and merging them would copy them.
MAX_CONSTANT_ELEMENTS = 1 << 16


def normalization_to_affine(graph: OnnxGraph) -> None:
    """Inference-time ``BatchNormalization`` becomes ``Mul`` and ``Add`` of constants.

    Left alone: training mode, statistics that are not constant, per-element statistics of opset 8
    and older, inputs of unknown rank.
    """
    if not any(node.op_type == "BatchNormalization" for node in graph.nodes):
        return
    shapes, uses = static_shapes(graph), graph.uses()
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        replaced = None
        if node.op_type == "BatchNormalization" and not any(uses[o] for o in node.output[1:] if o):
            replaced = _affine_nodes(graph, node, shapes.get(node.input[0]))
        nodes += replaced if replaced is not None else [node]
    graph.nodes = nodes


def _affine_nodes(
    graph: OnnxGraph, node: onnx.NodeProto, shape: tuple[int, ...] | None
) -> list[onnx.NodeProto] | None:
    constant = all(graph.is_constant(name) for name in node.input[1:5])
    training = attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1)
    if shape is None or not constant or training:
        return None
    gamma, beta, mean, variance = (graph.value(n).astype(np.float64) for n in node.input[1:5])
    epsilon = float(attribute(node, "epsilon", 1e-5))
    scale = gamma / np.sqrt(variance + epsilon)
    dtype = graph.value(node.input[1]).dtype
    channels = (-1,) + (1,) * (len(shape) - 2)
    names = [
        graph.add_constant(value.astype(dtype).reshape(channels), node.name or node.output[0])
        for value in (scale, beta - mean * scale)
    ]
    middle = graph.fresh_name(node.output[0])
    return [
        helper.make_node("Mul", [node.input[0], names[0]], [middle], name=f"{node.name}.scale"),
        helper.make_node("Add", [middle, names[1]], [node.output[0]], name=f"{node.name}.shift"),
    ]


def inverses_to_products(graph: OnnxGraph) -> None:
    """``x / c`` becomes ``x * (1 / c)`` and ``x - c`` becomes ``x + (-c)``, ``c`` floating."""
    for node in graph.nodes:
        if node.op_type not in ("Div", "Sub") or graph.is_constant(node.input[0]):
            continue
        value = graph.constant(node.input[1])
        if value is None or value.dtype.kind != "f" or value.size > MAX_CONSTANT_ELEMENTS:
            continue
        if node.op_type == "Div" and not np.all(np.isfinite(1 / value)):
            continue
        inverse = 1 / value if node.op_type == "Div" else -value
        node.input[1] = graph.add_constant(np.asarray(inverse, value.dtype), node.input[1])
        node.op_type = "Mul" if node.op_type == "Div" else "Add"


def drop_neutral_constants(graph: OnnxGraph) -> None:
    """``x + 0`` and ``x * 1`` are ``x`` where the constant does not enlarge ``x``.

    An exported attention mask that masks nothing is such a sum.
    """
    shapes: dict[str, tuple[int, ...]] | None = None
    renamed: dict[str, str] = {}
    gone = []
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        operands = _affine_operands(graph, node)
        if operands is None or node.output[0] in graph.outputs:
            continue
        source, value = operands
        if not np.all(value == (1 if node.op_type == "Mul" else 0)):
            continue
        shapes = static_shapes(graph) if shapes is None else shapes
        shape = shapes.get(node.output[0])
        if shape is not None and shapes.get(source) == shape:
            renamed[node.output[0]] = source
            gone.append(node)
    graph.remove(gone)


@dataclass
class _Links:
    """Who computes and how often each value is read, kept current while nodes are absorbed."""

    graph: OnnxGraph
    producers: dict[str, onnx.NodeProto]
    uses: Counter[str]
    gone: list[onnx.NodeProto] = field(default_factory=list)


def absorb_constants(graph: OnnxGraph) -> None:
    """Products and sums with constants go into the linear operator or constant before them."""
    changed = True
    while changed:
        links = _Links(graph, graph.producers(), graph.uses())
        changed = any([_absorb(links, node) for node in graph.nodes])
        graph.remove(links.gone)


def _absorb(links: _Links, node: onnx.NodeProto) -> bool:
    operands = affine_operands(links.graph, node)
    if operands is None:
        return False
    source, value = operands
    before = links.producers.get(source)
    if before is None or links.uses[source] != 1:
        return False
    if node.op_type == "Mul" and before.op_type == "Add":
        return _multiply_first(links.graph, before, node, value)
    absorb = ABSORBERS.get(before.op_type)
    if absorb is None or not absorb(links.graph, before, node, value):
        return False
    before.output[0] = node.output[0]
    links.producers[node.output[0]] = before
    links.gone.append(node)
    return True


def _multiply_first(
    graph: OnnxGraph, before: onnx.NodeProto, node: onnx.NodeProto, value: Array
) -> bool:
    """``(x + a) * m`` becomes ``x * m + a * m``, so that the product can move on."""
    inner = affine_operands(graph, before)
    if inner is None or _too_large(inner[1], value):
        return False
    before.op_type, node.op_type = "Mul", "Add"
    _set_operands(graph, before, inner[0], value)
    _set_operands(graph, node, before.output[0], inner[1] * value)
    return True


def _too_large(a: Array, b: Array) -> bool:
    return int(np.prod(np.broadcast_shapes(a.shape, b.shape))) > MAX_CONSTANT_ELEMENTS


def affine_operands(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[str, Array] | None:
    """``(x, c)`` when ``node`` is ``x * c`` or ``x + c`` with a small floating constant ``c``."""
    operands = _affine_operands(graph, node)
    if operands is None or operands[1].size > MAX_CONSTANT_ELEMENTS:
        return None
    return operands


def _affine_operands(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[str, Array] | None:
    if node.op_type not in ("Mul", "Add"):
        return None
    for source, name in (node.input, reversed(node.input)):
        value = graph.constant(name)
        if value is not None and value.dtype.kind == "f" and not graph.is_constant(source):
            return source, value
    return None


def per_channel(value: Array, rank: int, axis: int, channels: int) -> Array | None:
    """``value`` as ``[channels]`` if, in ``rank`` dimensions, it varies along ``axis`` only."""
    if value.ndim > rank:
        return None
    full = (1,) * (rank - value.ndim) + value.shape
    if any(extent != 1 for d, extent in enumerate(full) if d != axis):
        return None
    if full[axis] not in (1, channels):
        return None
    return np.broadcast_to(value.reshape(-1), (channels,))


def _into_convolution(
    graph: OnnxGraph, before: onnx.NodeProto, node: onnx.NodeProto, value: Array
) -> bool:
    weight = graph.constant(before.input[1])
    if weight is None:
        return False
    groups = int(attribute(before, "group", 1))
    transposed = before.op_type == "ConvTranspose"
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    change = per_channel(value, weight.ndim, 1, channels)
    if change is None:
        return False
    bias = _optional(graph, before, 2, np.zeros(channels, weight.dtype))
    if bias is None:
        return False
    if node.op_type == "Add":
        _set_input(graph, before, 2, bias + change)
        return True
    ones = (1,) * (weight.ndim - 2)
    if transposed:
        grouped = weight.reshape((groups, -1, *weight.shape[1:]))
        scaled = grouped * change.reshape((groups, 1, -1, *ones))
    else:
        scaled = weight * change.reshape((-1, 1, *ones))
    _set_input(graph, before, 1, scaled.reshape(weight.shape))
    if len(before.input) > 2:
        _set_input(graph, before, 2, bias * change)
    return True


def _into_gemm(
    graph: OnnxGraph, before: onnx.NodeProto, node: onnx.NodeProto, value: Array
) -> bool:
    weight = graph.constant(before.input[1])
    if weight is None or attribute(before, "beta", 1.0) != 1.0:
        return False
    axis = 0 if attribute(before, "transB", 0) else 1
    change = per_channel(value, 2, 1, weight.shape[axis])
    bias = _optional(graph, before, 2, np.zeros(weight.shape[axis], weight.dtype))
    if change is None or bias is None:
        return False
    if node.op_type == "Add":
        _set_input(graph, before, 2, bias + change)
        return True
    _set_input(graph, before, 1, weight * (change[:, None] if axis == 0 else change))
    if len(before.input) > 2:
        _set_input(graph, before, 2, bias * change)
    return True


def _into_same(
    graph: OnnxGraph, before: onnx.NodeProto, node: onnx.NodeProto, value: Array
) -> bool:
    inner = affine_operands(graph, before)
    if inner is None or node.op_type != before.op_type or _too_large(inner[1], value):
        return False
    merged = inner[1] * value if node.op_type == "Mul" else inner[1] + value
    _set_operands(graph, before, inner[0], merged)
    return True


def _optional(graph: OnnxGraph, node: onnx.NodeProto, index: int, default: Array) -> Array | None:
    """The constant input at ``index``, ``default`` when it is left out, ``None`` when it varies."""
    if len(node.input) <= index or not node.input[index]:
        return default
    return graph.constant(node.input[index])


def _set_input(graph: OnnxGraph, node: onnx.NodeProto, index: int, value: Array) -> None:
    name = graph.add_constant(np.ascontiguousarray(value), node.output[0])
    while len(node.input) <= index:
        node.input.append("")
    node.input[index] = name


def _set_operands(graph: OnnxGraph, node: onnx.NodeProto, source: str, value: Array) -> None:
    node.input[0] = source
    node.input[1] = graph.add_constant(np.asarray(value), node.output[0])


_Absorber = Callable[[OnnxGraph, onnx.NodeProto, onnx.NodeProto, Array], bool]

# Operator -> how it takes a following product or sum with a constant into itself.
ABSORBERS: dict[str, _Absorber] = {
    "Conv": _into_convolution,
    "ConvTranspose": _into_convolution,
    "Gemm": _into_gemm,
    "Mul": _into_same,
    "Add": _into_same,
}
