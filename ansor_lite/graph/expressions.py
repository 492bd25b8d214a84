"""What the rewrites of Relax expressions ask of them: names, static shapes, chains of movements."""

# imports TVM
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from ansor_lite.graph.movement import Movement, stay

RESHAPE = "relax.reshape"
TRANSPOSE = "relax.permute_dims"
MOVEMENTS = (RESHAPE, TRANSPOSE)

Lookup = Callable[[Any], Any]
"""From a variable to the expression bound to it, or ``None``: a mutator's ``lookup_binding``."""


def operator(value: Any) -> str:
    """Name of the operator that ``value`` calls, or nothing."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return ""
    return str(value.op.name)


def constant(value: Any) -> Any:
    """The numpy array that ``value`` is (not a copy), or ``None``."""
    return np.from_dlpack(value.value) if isinstance(value, tvm.ir.GenericConst) else None


def stored(array: NDArray[Any]) -> Any:
    """``array`` as a constant: one copy, where ``relax.const`` takes two and weights are large."""
    tensor = tvm.runtime.empty(array.shape, array.dtype.name)
    np.copyto(np.from_dlpack(tensor), array)
    return relax.const(tensor)


def numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def static_shape(value: Any) -> tuple[int, ...] | None:
    """Shape of a tensor, ``None`` where it is not known."""
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    if not all(isinstance(e, tvm.tirx.IntImm) for e in shape.values):
        return None
    return numbers(shape.values)


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of a tensor that is known to be static."""
    shape = static_shape(value)
    assert shape is not None
    return shape


def movement_of(lookup: Lookup, value: Any) -> tuple[Any, Movement, int] | None:
    """What a chain of reshapes and transpositions that ends in ``value`` starts from, and does.

    Last comes the number of transpositions. ``None`` without a static shape of some elements.
    """
    call = lookup(value) if isinstance(value, relax.Var) else value
    extents = static_shape(value)
    if extents is None or 0 in extents:
        return None
    kind = operator(call)
    before = movement_of(lookup, call.args[0]) if kind in MOVEMENTS else None
    if before is None:
        return value, stay(extents), 0
    source, movement, transpositions = before
    if kind == TRANSPOSE:
        axes = call.attrs.axes or reversed(range(len(extents)))
        return source, movement.transposed(numbers(axes)), transpositions + 1
    moved = movement.reshaped(extents)
    return (value, stay(extents), 0) if moved is None else (source, moved, transpositions)
