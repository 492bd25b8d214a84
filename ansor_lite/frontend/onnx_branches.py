"""Parallel convolutions of one input become one, whose result the branches read in slices.

An inception module reduces its input to a few channels for each branch: narrow convolutions that
read the same data. Joined along their output channels they read it once and fill whole vectors.
The slices cost nothing: kernels read them where they lie (``graph/concat.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute

# Wider results fill the vectors of a register tile by themselves.
MAX_CHANNELS = 256
# What a branch does with its slice; anything but a convolution would copy it.
READERS = frozenset({"Conv"})


@dataclass(frozen=True, slots=True)
class _Branch:
    """A convolution without padding, with a bias, and the ``Relu`` behind it."""

    convolution: onnx.NodeProto
    relu: onnx.NodeProto
    weight: Array
    bias: Array


def join_branches(graph: OnnxGraph) -> None:
    """Pointwise ``Conv`` and ``Relu`` of one input, each read by convolutions alone, become one."""
    found: dict[tuple[str, tuple[int, ...]], list[_Branch]] = {}
    uses, consumers = graph.uses(), graph.consumers()
    for node in graph.nodes:
        branch = _branch(graph, node, consumers)
        if branch is None or uses[branch.relu.output[0]] != len(
            consumers.get(branch.relu.output[0], ())
        ):
            continue
        strides = tuple(attribute(node, "strides", (1, 1)))
        found.setdefault((node.input[0], strides), []).append(branch)
    for branches in found.values():
        if len(branches) > 1:
            _join(graph, branches)


def _branch(
    graph: OnnxGraph, node: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]
) -> _Branch | None:
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1 or len(node.input) < 3:
        return None
    weight, bias = graph.constant(node.input[1]), graph.constant(node.input[2])
    if weight is None or bias is None or weight.shape[0] > MAX_CHANNELS:
        return None
    pointwise = all(extent == 1 for extent in weight.shape[2:])
    if not pointwise or weight.ndim != 4 or any(attribute(node, "pads", ())):
        return None
    readers = consumers.get(node.output[0], [])
    if len(readers) != 1 or readers[0].op_type != "Relu" or node.output[0] in graph.outputs:
        return None
    relu = readers[0]
    behind = consumers.get(relu.output[0], [])
    if not behind or any(reader.op_type not in READERS for reader in behind):
        return None
    return _Branch(node, relu, weight, bias)


def _join(graph: OnnxGraph, branches: list[_Branch]) -> None:
    first = branches[0].convolution
    whole = graph.fresh_name(first.output[0])
    weight = graph.add_constant(np.concatenate([b.weight for b in branches]), first.output[0])
    bias = graph.add_constant(np.concatenate([b.bias for b in branches]), first.output[0])
    joined = onnx.NodeProto()
    joined.CopyFrom(first)
    joined.input[:] = [first.input[0], weight, bias]
    joined.output[:] = [f"{whole}.sum"]
    nodes = [
        joined,
        helper.make_node("Relu", [f"{whole}.sum"], [whole], name=branches[0].relu.name),
    ]
    start = 0
    for branch in branches:
        stop = start + branch.weight.shape[0]
        bounds = [np.array([value], np.int64) for value in (start, stop, 1)]
        names = [graph.add_constant(value, branch.relu.output[0]) for value in bounds]
        nodes.append(
            helper.make_node("Slice", [whole, *names], branch.relu.output, name=branch.relu.name)
        )
        start = stop
    at = graph.nodes.index(first)
    graph.nodes[at:at] = nodes
    graph.remove([node for b in branches for node in (b.convolution, b.relu)])
