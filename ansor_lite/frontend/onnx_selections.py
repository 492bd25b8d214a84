"""Gathers by constant indices that are slices, repetitions or views in disguise, and the like.

A kernel that reads its indices from memory hides where its data comes from; the operators that take
its place are read through. Exporters gather to take a tensor of several apart, to repeat heads,
and to turn a padding mask into one over tokens.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from ansor_lite.frontend.onnx_emit import Emitter, Expansion
from ansor_lite.frontend.onnx_graph import Array
from ansor_lite.frontend.onnx_shapes import Shape


def _gather(emit: Emitter) -> bool:
    data, indices = emit.input(0), emit.graph.constant(emit.input(1))
    if indices is None or emit.graph.is_constant(data) or not indices.size:
        return False
    shape = emit.shape(data)
    axis = int(emit.attribute("axis", 0)) % len(shape)
    flat = np.where(indices < 0, indices + shape[axis], indices).reshape(-1)
    if np.any(flat < 0) or np.any(flat >= shape[axis]):
        return False
    found = _slice(emit, data, axis, flat) or _repetition(emit, data, shape, axis, flat)
    if not found:
        return False
    emit.finish(emit.reshape(found, [*shape[:axis], *indices.shape, *shape[axis + 1 :]]))
    return True


def _slice(emit: Emitter, data: str, axis: int, indices: Array) -> str:
    """Indices at equal distances, upwards; empty when they are not."""
    steps = np.diff(indices)
    step = int(steps[0]) if steps.size else 1
    if step < 1 or np.any(steps != step):
        return ""
    if step == 1 and indices.size == emit.shape(data)[axis]:
        return data
    return emit.slice(data, axis, int(indices[0]), int(indices[-1]) + 1, step)


def _repetition(emit: Emitter, data: str, shape: Shape, axis: int, indices: Array) -> str:
    """Everything several times: each element in a row, or all of it over and over."""
    extent = shape[axis]
    times, rest = divmod(indices.size, extent)
    if rest or times < 2:
        return ""
    places = np.arange(extent)
    for pattern, inner in ((np.repeat(places, times), (extent, 1)), (np.tile(places, times), None)):
        if np.array_equal(indices, pattern):
            before, behind = shape[:axis], shape[axis + 1 :]
            apart = emit.reshape(data, [*before, *(inner or (1, extent)), *behind])
            wide = (extent, times) if inner else (times, extent)
            return emit("Expand", apart, emit.constant([*before, *wide, *behind]))
    return ""


def _gather_points(emit: Emitter) -> bool:
    """``GatherND`` whose indices count along dimensions of its result."""
    data, indices = emit.input(0), emit.graph.constant(emit.input(1))
    if indices is None or emit.graph.is_constant(data) or emit.attribute("batch_dims", 0):
        return False
    shape = emit.shape(data)
    if indices.shape[-1] != len(shape):
        return False
    places = [_counted(indices[..., axis], extent) for axis, extent in enumerate(shape)]
    along = [place for place in places if place is not None and place >= 0]
    if None in places or len(set(along)) < len(along):
        return False
    result = indices.shape[:-1]
    kept = [axis for axis, place in enumerate(places) if place is not None and place >= 0]
    order = sorted(kept, key=lambda axis: places[axis] or 0)
    dropped = [axis for axis in range(len(shape)) if axis not in kept]
    turned = emit.transpose(data, [*order, *dropped])
    spread = [extent if d in along else 1 for d, extent in enumerate(result)]
    found = emit.reshape(turned, spread)
    emit.finish(found if tuple(spread) == result else emit("Expand", found, emit.constant(result)))
    return True


def _counted(indices: Array, extent: int) -> int | None:
    """The dimension along which ``indices`` are 0, 1, ... ``extent`` - 1; -1 if all are 0."""
    if extent == 1 and not indices.any():
        return -1
    for axis, size in enumerate(indices.shape):
        shape = [1] * indices.ndim
        shape[axis] = -1
        numbers = np.arange(size).reshape(shape)
        if size == extent and np.array_equal(indices, np.broadcast_to(numbers, indices.shape)):
            return axis
    return None


def _cast(emit: Emitter) -> bool:
    """``Cast`` to the type that the value has."""
    target = helper.tensor_dtype_to_np_dtype(int(emit.attribute("to")))
    if emit.dtype(emit.input(0)) != target:
        return False
    emit.finish(emit.input(0))
    return True


def _dimensions(emit: Emitter) -> bool:
    """``Squeeze`` and ``Unsqueeze``: the importer takes lists, and miscounts from the end."""
    given = emit.graph.constant(emit.input(1)) if emit.input(1) else emit.attribute("axes", None)
    if given is None or (np.ndim(given) == 1 and min(given, default=0) >= 0):
        return False
    flat = np.reshape(given, -1)
    rank = len(emit.shape(emit.input(0)))
    rank += len(flat) if emit.node.op_type == "Unsqueeze" else 0
    axes = [int(axis) % rank for axis in flat]
    if emit.input(1):
        emit.finish(emit(emit.node.op_type, emit.input(0), emit.constant(axes)))
    else:
        emit.finish(emit(emit.node.op_type, emit.input(0), axes=axes))
    return True


SELECTIONS: dict[tuple[str, str], Expansion] = {
    ("", "Gather"): _gather,
    ("", "GatherND"): _gather_points,
    ("", "Cast"): _cast,
    ("", "Squeeze"): _dimensions,
    ("", "Unsqueeze"): _dimensions,
}
