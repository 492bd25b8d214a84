"""Layers that the importer lacks, or that it knows in part, as primitive operators.

Norms, activations and embeddings of transformers: standard operators of recent opsets and those
with which onnxruntime's optimizer replaces subgraphs (domain ``com.microsoft``). Attention has a
file of its own: ``onnx_attention.py``.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from ansor_lite.frontend.onnx_emit import Emitter, Expansion

CONTRIB = "com.microsoft"
# The standard operator exists since this opset.
LAYER_NORM_SINCE = 17


def layer_norm(emit: Emitter, x: str, scale: str, bias: str, axis: int, epsilon: float) -> str:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` from ``axis`` on."""
    if emit.opset >= LAYER_NORM_SINCE:
        operands = [x, scale, bias] if bias else [x, scale]
        return emit("LayerNormalization", *operands, axis=axis, epsilon=epsilon)
    axes = _axes(emit, x, axis)
    centred = emit("Sub", x, emit.reduce("ReduceMean", x, axes))
    normal = emit("Mul", centred, _inverse_deviation(emit, centred, axes, epsilon))
    scaled = emit("Mul", normal, scale)
    return emit("Add", scaled, bias) if bias else scaled


def rms_norm(emit: Emitter, x: str, scale: str, axis: int, epsilon: float) -> tuple[str, str]:
    """``scale * x / sqrt(mean(x^2) + epsilon)``, and the factor that is 1 / that root."""
    inverse = _inverse_deviation(emit, x, _axes(emit, x, axis), epsilon)
    return emit("Mul", emit("Mul", x, inverse), scale), inverse


def _axes(emit: Emitter, x: str, axis: int) -> list[int]:
    return [-1] if axis == -1 else list(range(axis % len(emit.shape(x)), len(emit.shape(x))))


def _inverse_deviation(emit: Emitter, centred: str, axes: list[int], epsilon: float) -> str:
    dtype = emit.dtype(emit.node.input[0])
    mean = emit.reduce("ReduceMean", emit("Mul", centred, centred), axes)
    root = emit("Sqrt", emit("Add", mean, emit.constant(epsilon, dtype)))
    return emit("Reciprocal", root)


def _layer_normalization(emit: Emitter) -> bool:
    """The importer knows the first of three results, and no scale of another shape."""
    if not (emit.wants(1) or emit.wants(2)):
        return False
    x, scale, bias = (emit.input(i) for i in range(3))
    axis, epsilon = int(emit.attribute("axis", -1)), float(emit.attribute("epsilon", 1e-5))
    emit.finish(layer_norm(emit, x, scale, bias, axis, epsilon))
    _statistics(emit, x, axis, epsilon)
    return True


def _statistics(emit: Emitter, x: str, axis: int, epsilon: float) -> None:
    """The second and third result of a layer norm: mean and 1 / deviation."""
    if not (emit.wants(1) or emit.wants(2)):
        return
    axes = _axes(emit, x, axis)
    mean = emit.reduce("ReduceMean", x, axes)
    if emit.wants(1):
        emit.finish(mean, 1)
    if emit.wants(2):
        emit.finish(_inverse_deviation(emit, emit("Sub", x, mean), axes, epsilon), 2)


def _rms_normalization(emit: Emitter) -> bool:
    """``RMSNormalization``, and ``SimplifiedLayerNormalization`` with its second result."""
    axis, epsilon = int(emit.attribute("axis", -1)), float(emit.attribute("epsilon", 1e-5))
    normal, inverse = rms_norm(emit, emit.input(0), emit.input(1), axis, epsilon)
    emit.finish(normal)
    if emit.wants(1):
        emit.finish(inverse, 1)
    return True


def _skip_layer_normalization(emit: Emitter) -> bool:
    x = _skipped(emit, bias=emit.input(4))
    epsilon = float(emit.attribute("epsilon", 1e-12))
    emit.finish(layer_norm(emit, x, emit.input(2), emit.input(3), -1, epsilon))
    _statistics(emit, x, -1, epsilon)
    if emit.wants(3):
        emit.finish(x, 3)
    return True


def _skip_simplified_layer_normalization(emit: Emitter) -> bool:
    x = _skipped(emit, bias=emit.input(3))
    epsilon = float(emit.attribute("epsilon", 1e-12))
    normal, inverse = rms_norm(emit, x, emit.input(2), -1, epsilon)
    emit.finish(normal)
    if emit.wants(1):
        return False  # a mean that no simplified norm has
    if emit.wants(2):
        emit.finish(inverse, 2)
    if emit.wants(3):
        emit.finish(x, 3)
    return True


def _skipped(emit: Emitter, bias: str) -> str:
    x = emit("Add", emit.input(0), emit.input(1))
    return emit("Add", x, bias) if bias else x


def _embed_layer_normalization(emit: Emitter) -> bool:
    ids, segments, words, positions, kinds, scale, bias, mask, places = (
        emit.input(i) for i in range(9)
    )
    total = emit("Gather", words, ids)
    if places:
        position = emit("Gather", positions, places)
    else:
        position = emit.slice(positions, 0, 0, emit.shape(ids)[1])
    total = emit("Add", total, position)
    if segments:
        total = emit("Add", total, emit("Gather", kinds, segments))
    epsilon = float(emit.attribute("epsilon", 1e-12))
    emit.finish(layer_norm(emit, total, scale, bias, -1, epsilon))
    if emit.wants(1):
        emit.finish(_mask_lengths(emit, ids, mask), 1)
    if emit.wants(2):
        emit.finish(total, 2)
    return True


def _mask_lengths(emit: Emitter, ids: str, mask: str) -> str:
    """How many tokens of each sequence are no padding, [batch]; zeros without a mask."""
    batch = emit.shape(ids)[0]
    if not mask:
        return emit.constant(np.zeros(batch), np.int32)
    return emit.reshape(emit.reduce("ReduceSum", mask, [1]), [batch])


def _one_hot(emit: Emitter) -> bool:
    """The importer takes whole numbers as values alone."""
    ids, depth, values = (emit.input(i) for i in range(3))
    extent = emit.graph.constant(depth)
    if extent is None:
        return False
    if emit.dtype(ids).kind == "f":
        ids = emit.cast(ids, np.dtype(np.int64))
    classes = int(extent.reshape(()))
    shape, dtype = emit.shape(ids), emit.dtype(ids)
    axis = int(emit.attribute("axis", -1)) % (len(shape) + 1)
    column = emit.reshape(ids, [*shape[:axis], 1, *shape[axis:]])
    numbers = np.arange(classes).reshape([-1] + [1] * (len(shape) - axis))
    hit = emit("Equal", column, emit.constant(numbers, dtype))
    if dtype.kind == "i":
        below = emit.constant(numbers - classes, dtype)
        hit = emit("Or", hit, emit("Equal", column, below))
    off, on = (emit.reshape(emit.slice(values, 0, i, i + 1), [1]) for i in range(2))
    emit.finish(emit("Where", hit, on, off))
    return True


def _gelu(emit: Emitter) -> bool:
    if emit.attribute("approximate", b"none") == b"tanh":
        return _fast_gelu(emit)
    x, dtype = emit.input(0), emit.dtype(emit.input(0))
    if emit.input(1):
        x = emit("Add", x, emit.input(1))
    error = emit("Erf", emit("Mul", x, emit.constant(sqrt(0.5), dtype)))
    emit.finish(_gated(emit, x, error))
    return True


def _fast_gelu(emit: Emitter) -> bool:
    x, dtype = emit.input(0), emit.dtype(emit.input(0))
    if emit.input(1):
        x = emit("Add", x, emit.input(1))
    cube = emit("Mul", emit("Mul", x, x), x)
    inner = emit("Add", x, emit("Mul", cube, emit.constant(0.044715, dtype)))
    curve = emit("Tanh", emit("Mul", inner, emit.constant(sqrt(2 / pi), dtype)))
    emit.finish(_gated(emit, x, curve))
    return True


def _gated(emit: Emitter, x: str, curve: str) -> str:
    dtype = emit.dtype(emit.input(0))
    gate = emit("Add", curve, emit.constant(1, dtype))
    return emit("Mul", emit("Mul", x, gate), emit.constant(0.5, dtype))


def _swish(emit: Emitter) -> bool:
    default = 1.702 if emit.node.op_type == "QuickGelu" else 1.0
    alpha = float(emit.attribute("alpha", default))
    x = emit.input(0)
    inner = x if alpha == 1 else emit("Mul", x, emit.constant(alpha, emit.dtype(x)))
    emit.finish(emit("Mul", x, emit("Sigmoid", inner)))
    return True


def _fused_matmul(emit: Emitter) -> bool:
    a, b = _turned(emit, 0, "A"), _turned(emit, 1, "B")
    product = emit("MatMul", a, b)
    alpha = float(emit.attribute("alpha", 1.0))
    if alpha != 1:
        product = emit("Mul", product, emit.constant(alpha, emit.dtype(emit.input(0))))
    emit.finish(product)
    return True


def _turned(emit: Emitter, index: int, side: str) -> str:
    """An operand with rows before columns; with ``transBatch`` its rows come before the batch."""
    x = emit.input(index)
    rank = len(emit.shape(x))
    batch_last, turned = emit.attribute(f"transBatch{side}", 0), emit.attribute(f"trans{side}", 0)
    if rank < 2 or not (batch_last or turned):
        return x
    order = [*range(1, rank - 1), 0, rank - 1] if batch_last else list(range(rank))
    if turned:
        order[-2:] = order[-1], order[-2]
    return emit.transpose(x, order)


LAYERS: dict[tuple[str, str], Expansion] = {
    ("", "LayerNormalization"): _layer_normalization,
    ("", "RMSNormalization"): _rms_normalization,
    ("", "SimplifiedLayerNormalization"): _rms_normalization,
    ("", "OneHot"): _one_hot,
    ("", "Gelu"): _gelu,
    ("", "Swish"): _swish,
    (CONTRIB, "SimplifiedLayerNormalization"): _rms_normalization,
    (CONTRIB, "SkipLayerNormalization"): _skip_layer_normalization,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): _skip_simplified_layer_normalization,
    (CONTRIB, "EmbedLayerNormalization"): _embed_layer_normalization,
    (CONTRIB, "Gelu"): _gelu,
    (CONTRIB, "BiasGelu"): _gelu,
    (CONTRIB, "FastGelu"): _fast_gelu,
    (CONTRIB, "QuickGelu"): _swish,
    (CONTRIB, "FusedMatMul"): _fused_matmul,
}
