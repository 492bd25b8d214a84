"""Rewrites of Relax expressions that let more operators share a kernel, or cost less.

Reshapes move behind elementwise operators, where they become views: exporters of transformers put
them between a matrix product and its epilogue, ``convolutions.py`` behind its convolutions. Chains
of reshapes and transpositions become one. Powers with small constant exponents become products and
roots.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ansor_lite.graph.expressions import (
    MOVEMENTS,
    RESHAPE,
    TRANSPOSE,
    constant,
    movement_of,
    numbers,
    operator,
    shape_of,
    static_shape,
)
from ansor_lite.graph.fold import rewrite_main

UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("abs", "ceil", "cos", "erf", "exp", "floor", "log", "negative", "round", "rsqrt"),
        *("sigmoid", "sin", "sqrt", "square", "tanh", "astype"),
        *("nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.leakyrelu"),
    )
)
BINARY = frozenset(
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
)

# A slice that leaves at least one in so many elements moves behind elementwise operators.
SLICED = 2

Emit = Callable[[Any], Any]

# Exponent -> the power as products and roots of ``x``; ``emit`` names an intermediate value.
POWERS: dict[float, Callable[[Any, Emit], Any]] = {
    1.0: lambda x, emit: x,
    2.0: lambda x, emit: relax.op.multiply(x, x),
    3.0: lambda x, emit: relax.op.multiply(emit(relax.op.multiply(x, x)), x),
    0.5: lambda x, emit: relax.op.sqrt(x),
    0.75: lambda x, emit: _three_quarters(emit(relax.op.sqrt(x)), emit),
    -0.5: lambda x, emit: relax.op.rsqrt(x),
}


def _three_quarters(root: Any, emit: Emit) -> Any:
    return relax.op.multiply(root, emit(relax.op.sqrt(root)))


def simplify(module: tvm.IRModule, *, layouts_chosen: bool = False) -> tvm.IRModule:
    """``main`` with powers expanded and reshapes behind elementwise operators.

    With ``layouts_chosen``, chains of reshapes and transpositions are one; before, they would hide
    transpositions from the choice of layouts.
    """
    return rewrite_main(module, _Simplify(module, layouts_chosen))


@relax.expr_functor.mutator
class _Simplify(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: tvm.IRModule, layouts_chosen: bool) -> None:
        super().__init__(module)
        self.layouts_chosen = layouts_chosen
        self.depths: dict[Any, int] = {}

    def visit_call_(self, call: Any) -> Any:
        return self._simplified(self.visit_expr_post_order(call))

    def _simplified(self, call: Any) -> Any:
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        name = call.op.name
        if self.layouts_chosen and name in MOVEMENTS:
            call = self._moved_once(call)
            name = call.op.name if isinstance(call, relax.Call) else ""
        if name == RESHAPE and (shape := static_shape(call)) is not None:
            return self._in_shape(call.args[0], shape)
        if name == "relax.power" and (power := _constant_power(call)) is not None:
            return self._simplified(self.builder_.normalize(power(call.args[0], self._emit)))
        if name not in UNARY and name not in BINARY:
            return call
        uncut = self._before_slice(call)
        if uncut is not call:
            return uncut
        if name in UNARY:
            return self._after_unary(call)
        return self._after_binary(self._in_full_rank(call))

    def _emit(self, value: Any) -> Any:
        """A variable bound to the simplified value; variables and constants stay what they are."""
        value = self._simplified(self.builder_.normalize(value))
        return self.builder_.emit(value) if isinstance(value, relax.Call) else value

    def _moved_once(self, call: Any) -> Any:
        """One transposition at most between the source of a chain of movements and its result."""
        found = movement_of(self.lookup_binding, call)
        if found is None:
            return call
        source, movement, transpositions = found
        if movement.is_view:
            return relax.op.reshape(source, movement.shape)
        if transpositions < 2 or call.op.name != TRANSPOSE:
            return call
        axes = movement.axes(shape_of(source))
        if axes is not None:
            return relax.op.permute_dims(source, axes)
        movement = movement.joined()
        split = self._emit(self._in_shape(source, movement.atoms))
        turned = self._emit(relax.op.permute_dims(split, movement.order))
        return relax.op.reshape(turned, movement.shape)

    def _reshape_of(self, value: Any) -> Any:
        """The reshape that computes ``value``, if one does."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        return bound if operator(bound) == RESHAPE else None

    def _in_shape(self, value: Any, shape: tuple[int, ...]) -> Any:
        """``value`` with another shape, by one reshape of what it was before reshapes, or none."""
        reshape = self._reshape_of(value)
        source = value if reshape is None else reshape.args[0]
        return source if static_shape(source) == shape else relax.op.reshape(source, shape)

    def _before_slice(self, call: Any) -> Any:
        """Computed on the whole of what an operand is almost all of, then cut."""
        for side, operand in enumerate(call.args):
            cut: Any = self._slice_of(operand)
            if cut is None or static_shape(call) != static_shape(operand):
                continue
            others = [self._uncut(o, cut) for i, o in enumerate(call.args) if i != side]
            if any(o is None for o in others):
                continue
            operands = [*others[:side], cut.args[0], *others[side:]]
            whole = self._emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
            return relax.Call(cut.op, [whole, *cut.args[1:]], cut.attrs, cut.ty_args)
        return call

    def _slice_of(self, value: Any) -> Any:
        """The slice that computes ``value`` and leaves little out of its source."""
        bound: Any = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if operator(bound) != "relax.strided_slice" or len(bound.args) != 4:
            return None
        whole, part = static_shape(bound.args[0]), static_shape(value)
        if whole is None or part is None or prod(part) * SLICED < prod(whole):
            return None
        return bound

    def _uncut(self, operand: Any, cut: Any) -> Any:
        """A constant operand of a slice as one of its source, zero where that is left out."""
        value = constant(operand)
        if value is None:
            return None
        shape, rank = shape_of(cut.args[0]), len(shape_of(cut.args[0]))
        if value.ndim > rank:
            return None
        starts = dict(zip(numbers(cut.args[1]), numbers(cut.args[2]), strict=True))
        widths = []
        for extent, axis in zip(value.shape, range(rank - value.ndim, rank), strict=True):
            start = 0 if extent == 1 else starts.get(axis, 0)
            widths.append((start, 0 if extent == 1 else shape[axis] - extent - start))
        return relax.const(np.pad(value, widths), str(value.dtype))

    def _after_unary(self, call: Any) -> Any:
        reshape = self._reshape_of(call.args[0])
        if reshape is None or static_shape(reshape) is None:
            return call
        moved = relax.Call(call.op, [reshape.args[0], *call.args[1:]], call.attrs, call.ty_args)
        return relax.op.reshape(self.builder_.emit(moved), call.ty.shape)

    def _depth(self, value: Any) -> int:
        """Length of the longest chain of operators, but for movements, that ``value`` ends.

        What was computed last is what an elementwise operator fuses with; its operands of another
        shape are the ones to reshape, and never the other way round.
        """
        if not isinstance(value, relax.Var):
            return -1
        if value not in self.depths:
            call = self.lookup_binding(value)
            args = [] if call is None else relax.analysis.free_vars(call)
            below = max((self._depth(a) for a in args), default=0)
            self.depths[value] = below + (call is not None and operator(call) not in MOVEMENTS)
        return self.depths[value]

    def _in_full_rank(self, call: Any) -> Any:
        """Constants of one value per channel, channels first, in all dimensions of the other.

        The choice of layouts moves the channels of operands of equal rank only.
        """
        operands = []
        for own, other in (call.args, reversed(call.args)):
            shape, rank = static_shape(own) or (), len(static_shape(other) or ())
            constant = isinstance(own, tvm.ir.GenericConst)
            if constant and 1 < len(shape) < rank and shape[0] > 1 and prod(shape[1:]) == 1:
                full = (1,) * (rank - len(shape)) + shape
                own = relax.const(own.value.numpy().reshape(full), str(own.ty.dtype))
            operands.append(own)
        if all(a is b for a, b in zip(operands, call.args, strict=True)):
            return call
        return self.builder_.normalize(relax.Call(call.op, operands, call.attrs, call.ty_args))

    def _after_binary(self, call: Any) -> Any:
        for side in (0, 1):
            reshape = self._reshape_of(call.args[side])
            if reshape is None or not _keeps_shape(call, side):
                continue
            inner, other = reshape.args[0], call.args[1 - side]
            shape = _aligned(shape_of(other), shape_of(reshape), shape_of(inner))
            if shape is None:
                continue
            back = self._reshape_of(other)
            undone = back is not None and static_shape(back.args[0]) == shape
            if not undone and self._depth(other) >= self._depth(inner):
                continue
            if shape != ():
                other = self._emit(self._in_shape(other, shape))
            # Not simplified again: a reshape of the other operand would move back and forth.
            operands = [inner, other] if side == 0 else [other, inner]
            moved = self.builder_.emit(relax.Call(call.op, operands, call.attrs, call.ty_args))
            return relax.op.reshape(moved, call.ty.shape)
        return call


def _constant_power(call: Any) -> Callable[[Any, Emit], Any] | None:
    exponent = call.args[1]
    if not isinstance(exponent, tvm.ir.GenericConst) or exponent.value.numpy().size != 1:
        return None
    if len(static_shape(exponent) or ()) > len(static_shape(call.args[0]) or ()):
        return None
    if "float" not in str(call.ty.dtype):
        return None
    return POWERS.get(float(exponent.value.numpy().reshape(())))


def merged(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """For every extent of ``after`` but 1, the extents of ``before`` that make it up in order.

    ``None`` where an element of ``before`` would be divided. Units of both are left out.
    """
    parts = iter([e for e in before if e != 1])
    groups = []
    for extent in (e for e in after if e != 1):
        group: tuple[int, ...] = ()
        while prod(group) < extent and (part := next(parts, 0)):
            group += (part,)
        if prod(group) != extent:
            return None
        groups.append(group)
    return None if next(parts, 0) else groups


def _keeps_shape(call: Any, side: int) -> bool:
    """The other operand is broadcast to the shape of this one, not the other way round."""
    shape, other = static_shape(call.args[side]), static_shape(call.args[1 - side])
    return shape is not None and other is not None and shape == static_shape(call)


def _aligned(
    other: tuple[int, ...], shape: tuple[int, ...], inner: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The shape in which ``other``, broadcast against ``shape``, is broadcast against ``inner``.

    ``None`` where there is none: ``shape`` divides elements of ``inner`` that differ in ``other``.
    """
    if prod(other) == 1:
        return (1,) * min(len(other), len(inner))
    groups = merged(inner, shape)
    if groups is None:
        return None
    padded = (1,) * (len(shape) - len(other)) + other
    wide = [o for o, e in zip(padded, shape, strict=True) if e != 1]
    left = iter([e if o != 1 else 1 for o, g in zip(wide, groups, strict=True) for e in g])
    return tuple(next(left) if e != 1 else 1 for e in inner)
