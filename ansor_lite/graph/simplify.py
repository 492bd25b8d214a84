"""Rewrites of Relax expressions that let more operators share a kernel, or cost less.

Reshapes that only add or drop unit dimensions move behind elementwise operators, where they become
views: the exporters of transformers put them between a matrix product and its epilogue. Powers with
small constant exponents become products and roots.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

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
RESHAPE = "relax.reshape"

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


def simplify(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with powers expanded and reshapes behind elementwise operators."""
    return rewrite_main(module, _Simplify(module))


@relax.expr_functor.mutator
class _Simplify(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        return self._simplified(self.visit_expr_post_order(call))

    def _simplified(self, call: Any) -> Any:
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        name = call.op.name
        if name == RESHAPE and (shape := _extents(call)) is not None:
            return self._in_shape(call.args[0], shape)
        if name == "relax.power" and (power := _constant_power(call)) is not None:
            return self._simplified(self.builder_.normalize(power(call.args[0], self._emit)))
        if name in UNARY:
            return self._after_unary(call)
        return self._after_binary(call) if name in BINARY else call

    def _emit(self, value: Any) -> Any:
        """A variable bound to the simplified value; variables and constants stay what they are."""
        value = self._simplified(self.builder_.normalize(value))
        return self.builder_.emit(value) if isinstance(value, relax.Call) else value

    def _reshape_of(self, value: Any) -> Any:
        """The reshape that computes ``value``, if one does."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if not isinstance(bound, relax.Call) or not isinstance(bound.op, tvm.ir.Op):
            return None
        return bound if bound.op.name == RESHAPE else None

    def _in_shape(self, value: Any, shape: tuple[int, ...]) -> Any:
        """``value`` with another shape, by one reshape of what it was before reshapes, or none."""
        reshape = self._reshape_of(value)
        source = value if reshape is None else reshape.args[0]
        return source if _extents(source) == shape else relax.op.reshape(source, shape)

    def _after_unary(self, call: Any) -> Any:
        reshape = self._reshape_of(call.args[0])
        if reshape is None or not _only_units(reshape):
            return call
        moved = relax.Call(call.op, [reshape.args[0], *call.args[1:]], call.attrs, call.ty_args)
        return relax.op.reshape(self.builder_.emit(moved), call.ty.shape)

    def _after_binary(self, call: Any) -> Any:
        for side in (0, 1):
            reshape = self._reshape_of(call.args[side])
            if reshape is None or not _only_units(reshape) or not _keeps_shape(call, side):
                continue
            inner, other = reshape.args[0], call.args[1 - side]
            if _extents(other):
                shape = _aligned(_extents(other), _extents(reshape), _extents(inner))
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
    if len(_extents(exponent) or ()) > len(_extents(call.args[0]) or ()):
        return None
    if "float" not in str(call.ty.dtype):
        return None
    return POWERS.get(float(exponent.value.numpy().reshape(())))


def _extents(value: Any) -> tuple[int, ...] | None:
    """Static shape of a tensor, or ``None``."""
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    if not all(isinstance(e, tvm.tirx.IntImm) for e in shape.values):
        return None
    return tuple(int(e) for e in shape.values)


def _only_units(reshape: Any) -> bool:
    before, after = _extents(reshape.args[0]), _extents(reshape)
    if before is None or after is None:
        return False
    return [e for e in before if e != 1] == [e for e in after if e != 1]


def _keeps_shape(call: Any, side: int) -> bool:
    """The other operand is broadcast to the shape of this one, not the other way round."""
    shape, other = _extents(call.args[side]), _extents(call.args[1 - side])
    return shape is not None and other is not None and shape == _extents(call)


def _aligned(
    other: tuple[int, ...] | None, shape: tuple[int, ...] | None, inner: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The shape in which ``other``, broadcast against ``shape``, is broadcast against ``inner``.

    ``shape`` and ``inner`` differ in unit dimensions only.
    """
    assert other is not None and shape is not None and inner is not None
    padded = (1,) * (len(shape) - len(other)) + other
    wide = iter(o for o, e in zip(padded, shape, strict=True) if e != 1)
    return tuple(next(wide) if e != 1 else 1 for e in inner)
