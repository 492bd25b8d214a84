"""Simplifications of an ONNX graph in numpy, before TVM imports it.

``REWRITES`` is the ordered table; each row changes the graph in place. TVM can do some of this, but
compiles a kernel for every fold: seconds to minutes for a network with batch norms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ansor_lite.frontend.onnx_affine import (
    absorb_constants,
    drop_neutral_constants,
    inverses_to_products,
    normalization_to_affine,
)
from ansor_lite.frontend.onnx_attention import (
    attention,
    contrib_rotary_embedding,
    rotary_embedding,
)
from ansor_lite.frontend.onnx_branches import join_branches
from ansor_lite.frontend.onnx_contrib_attention import (
    contrib_attention,
    group_query_attention,
    multi_head_attention,
)
from ansor_lite.frontend.onnx_demand import slices_to_operands
from ansor_lite.frontend.onnx_emit import Table, expand
from ansor_lite.frontend.onnx_graph import Array, OnnxGraph, attribute, has_subgraph
from ansor_lite.frontend.onnx_group_norms import group_norms_to_operators
from ansor_lite.frontend.onnx_layers import CONTRIB, LAYERS
from ansor_lite.frontend.onnx_masks import masks_apart, masks_to_lowest
from ansor_lite.frontend.onnx_norms import norms_to_operators
from ansor_lite.frontend.onnx_projections import gemms_to_products, join_projections
from ansor_lite.frontend.onnx_scales import scales_into_weights
from ansor_lite.frontend.onnx_selections import SELECTIONS
from ansor_lite.frontend.onnx_shapes import static_shapes

# Folding a larger result would store more than it computes.
MAX_FOLDED_ELEMENTS = 1 << 24
RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}
    | {"Bernoulli", "Dropout"}
)


def simplify(model: onnx.ModelProto) -> OnnxGraph:
    """The graph after every rewrite; same inputs, outputs and values."""
    graph = OnnxGraph.of(model)
    for rewrite in REWRITES:
        rewrite(graph)
    return graph


def constants_to_initializers(graph: OnnxGraph) -> None:
    """``Constant`` nodes holding a tensor or numbers become initializers."""
    gone = []
    for node in graph.nodes:
        if node.op_type == "Constant" and (value := _constant_value(node)) is not None:
            graph.arrays[node.output[0]] = value
            gone.append(node)
    graph.remove(gone)


def _constant_value(node: onnx.NodeProto) -> Array | None:
    a = node.attribute[0]
    match a.name:
        case "value":
            return np.asarray(numpy_helper.to_array(a.t))
        case "value_float":
            return np.array(a.f, dtype=np.float32)
        case "value_floats":
            return np.array(a.floats, dtype=np.float32)
        case "value_int":
            return np.array(a.i, dtype=np.int64)
        case "value_ints":
            return np.array(a.ints, dtype=np.int64)
    return None


def remove_no_ops(graph: OnnxGraph) -> None:
    """``Identity`` and inference-time ``Dropout`` disappear if only their first output is used."""
    uses = graph.uses()
    renamed: dict[str, str] = {}
    gone = []
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        if node.op_type not in ("Identity", "Dropout") or any(uses[o] for o in node.output[1:]):
            continue
        if node.output[0] in graph.outputs or _is_training_dropout(graph, node):
            continue
        renamed[node.output[0]] = node.input[0]
        gone.append(node)
    graph.remove(gone)


def _is_training_dropout(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = graph.constant(node.input[2])
    return training is None or bool(training)


def fold_constants(graph: OnnxGraph) -> None:
    """Nodes that depend on constants alone are evaluated by the ``onnx`` reference evaluator."""
    shapes = _shapes_if_asked(graph)
    gone = []
    for node in graph.nodes:
        folded = _shape_of(node, shapes) if node.op_type in ("Shape", "Size") else None
        if folded is None and all(graph.is_constant(i) for i in node.input if i):
            folded = _evaluate(graph, node)
        if folded is not None:
            graph.arrays |= dict(zip(node.output, folded, strict=False))
            gone.append(node)
    graph.remove(gone)


def _evaluate(graph: OnnxGraph, node: onnx.NodeProto) -> list[Array] | None:
    if node.op_type in RANDOM_OPERATORS or has_subgraph(node) or node.domain not in ("", "ai.onnx"):
        return None
    if _folds_to_many(graph, node):
        return None
    feeds = {name: graph.value(name) for name in node.input if name}
    unknown = onnx.TypeProto()
    body = helper.make_graph(
        [node],
        "fold",
        [helper.make_value_info(name, unknown) for name in feeds],
        [helper.make_value_info(name, unknown) for name in node.output if name],
    )
    model = helper.make_model(body, opset_imports=graph.model.opset_import)
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, feeds)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, KeyError):
        return None  # the importer may still know the operator
    arrays = [np.asarray(v) for v in found]
    return arrays if all(isinstance(v, (np.ndarray, np.generic)) for v in found) else None


def _folds_to_many(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type == "ConstantOfShape" or node.op_type == "Expand":
        return int(np.prod(graph.value(node.input[-1]), dtype=np.float64)) > MAX_FOLDED_ELEMENTS
    if node.op_type == "Tile":
        repeats = np.prod(graph.value(node.input[1]), dtype=np.float64)
        return int(repeats) * graph.value(node.input[0]).size > MAX_FOLDED_ELEMENTS
    return False


def _shapes_if_asked(graph: OnnxGraph) -> dict[str, tuple[int, ...]]:
    asked = any(node.op_type in ("Shape", "Size") for node in graph.nodes)
    return static_shapes(graph) if asked else {}


def _shape_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> list[Array] | None:
    shape = shapes.get(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(int(np.prod(shape)), dtype=np.int64)]
    start = attribute(node, "start", 0)
    end = attribute(node, "end", None)
    return [np.array(shape[start:end], dtype=np.int64)]


def sums_to_adds(graph: OnnxGraph) -> None:
    """``Sum`` of n values becomes a chain of ``Add``: the importer would stack its operands."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type != "Sum" or len(node.input) < 2:
            nodes.append(node)
            continue
        total = node.input[0]
        for i, name in enumerate(node.input[1:], start=2):
            out = node.output[0] if i == len(node.input) else graph.fresh_name(node.output[0])
            nodes.append(helper.make_node("Add", [total, name], [out], name=f"{node.name}.{i}"))
            total = out
    graph.nodes = nodes


LOWERED: Table = LAYERS | {
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary_embedding,
    (CONTRIB, "RotaryEmbedding"): contrib_rotary_embedding,
    (CONTRIB, "Attention"): contrib_attention,
    (CONTRIB, "MultiHeadAttention"): multi_head_attention,
    (CONTRIB, "GroupQueryAttention"): group_query_attention,
}


def layers_to_primitives(graph: OnnxGraph) -> None:
    """Layers that the importer lacks become operators that it knows."""
    expand(graph, LOWERED)


def selections_to_slices(graph: OnnxGraph) -> None:
    """Gathers by constant indices become slices, repetitions or views where they are such."""
    expand(graph, SELECTIONS)


REWRITES: tuple[Callable[[OnnxGraph], None], ...] = (
    constants_to_initializers,
    remove_no_ops,
    fold_constants,
    layers_to_primitives,
    selections_to_slices,
    remove_no_ops,
    fold_constants,
    masks_apart,
    masks_to_lowest,
    gemms_to_products,
    sums_to_adds,
    normalization_to_affine,
    inverses_to_products,
    drop_neutral_constants,
    absorb_constants,
    slices_to_operands,
    scales_into_weights,
    join_projections,
    join_branches,
    group_norms_to_operators,
    norms_to_operators,
)
