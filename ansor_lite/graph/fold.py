"""Constant folding of Relax expressions in numpy: TVM's own pass compiles a kernel per fold."""

# imports TVM
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from ansor_lite.graph.expressions import constant, stored

Array = NDArray[Any]
Fold = Callable[[Any, list[Any]], Array]

# A fold may store this much more than it reads.
MAX_GROWTH = 1 << 24


def _shape(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def _axes(call: Any) -> tuple[int, ...] | None:
    axes = call.attrs.axes
    return None if axes is None else _shape(axes)


def _axis(call: Any) -> Any:
    axis = call.attrs.axis
    if axis is None:
        return None
    return int(axis) if isinstance(axis, int) else _shape(axis)


# Operator -> (call, values of its arguments) -> value. Shapes arrive as tuples.
FOLDS: dict[str, Fold] = {
    "relax.permute_dims": lambda call, a: np.transpose(a[0], _axes(call)),
    "relax.reshape": lambda call, a: np.reshape(a[0], a[1]),
    "relax.broadcast_to": lambda call, a: np.broadcast_to(a[0], a[1]),
    "relax.expand_dims": lambda call, a: np.expand_dims(a[0], _axis(call)),
    "relax.squeeze": lambda call, a: np.squeeze(a[0], _axis(call)),
    "relax.astype": lambda call, a: a[0].astype(str(call.ty.dtype)),
    "relax.shape_to_tensor": lambda call, a: np.array(a[0], dtype=np.int64),
    "relax.take": lambda call, a: np.take(a[0], a[1], axis=_axis(call), mode="clip"),
    "relax.gather_elements": lambda call, a: np.take_along_axis(a[0], a[1], axis=_axis(call)),
    "relax.where": lambda call, a: np.asarray(np.where(a[0], a[1], a[2])),
    "relax.add": lambda call, a: np.add(a[0], a[1]),
    "relax.subtract": lambda call, a: np.subtract(a[0], a[1]),
    "relax.multiply": lambda call, a: np.multiply(a[0], a[1]),
    "relax.minimum": lambda call, a: np.minimum(a[0], a[1]),
    "relax.maximum": lambda call, a: np.maximum(a[0], a[1]),
    "relax.less": lambda call, a: np.less(a[0], a[1]),
    "relax.negative": lambda call, a: np.negative(a[0]),
}


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        if call.op.name == "relax.shape_of":
            return _static_shape(call)
        fold = FOLDS.get(call.op.name)
        if fold is None:
            return call
        values = [self._value(a) for a in call.args]
        if any(v is None for v in values) or not _worth_folding(call, values):
            return call
        return stored(np.asarray(fold(call, values)).astype(str(call.ty.dtype), copy=False))

    def _value(self, argument: Any) -> Any:
        bound = self.lookup_binding(argument) if isinstance(argument, relax.Var) else argument
        if (value := constant(bound)) is not None:
            return value
        if isinstance(bound, relax.ShapeExpr) and _is_static(bound.values):
            return _shape(bound.values)
        return None


def _is_static(values: Any) -> bool:
    return all(isinstance(v, tvm.tirx.IntImm) for v in values)


def _static_shape(call: Any) -> Any:
    shape = call.args[0].ty.shape
    return shape if isinstance(shape, relax.ShapeExpr) and _is_static(shape.values) else call


def _worth_folding(call: Any, values: list[Any]) -> bool:
    shape = call.ty.shape
    if not isinstance(shape, relax.ShapeExpr) or not _is_static(shape.values):
        return False
    return prod(_shape(shape.values)) <= MAX_GROWTH + sum(np.size(v) for v in values)


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with the calls of :data:`FOLDS` on constants replaced by their values."""
    return rewrite_main(module, _Folder(module))


def rewrite_main(module: tvm.IRModule, mutator: Any) -> tvm.IRModule:
    """The module with ``main`` rewritten by a Relax mutator built on the same module."""
    gv = module.get_global_var("main")
    mutator.builder_.update_func(gv, mutator.visit_expr(module["main"]))
    return relax.transform.CanonicalizeBindings()(mutator.builder_.get())
