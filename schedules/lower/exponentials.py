"""exp in float32, written once loops have become vectors: AVX-512 has instructions for most of it.

``e**x = 2**m * 2**(j/32) * e**r``, where ``n = m + j/32`` is near ``x / ln 2``: ``vscalefps`` gives
``2**floor(n)`` with subnormal and infinite results, ``vpermi2ps`` looks ``2**(j/32)`` up, and a
polynomial of degree 2 is left. Six products instead of eleven, and at most 2 units in the last
place off; ``math.py`` has the polynomial for other vectors and other machines.

``e**(x - m)`` with a greatest element ``m`` is written with two operands and four products. The
polynomial is a square and a constant there, ``c * ((r + a)**2 + k)``, and ``a`` is taken off ``m``,
once a row, which rounds ``m``: by one factor for the whole row, as if ``m`` were off by at most
one unit in its last place. Normalising removes that factor (``common_factors.py``). What is left is
at most 3.5 units and ``|x - m| * 2**-23`` of the result, as much again as ``x - m`` is rounded by.

Separate from ``emit_expr.py``, which knows neither the width of the vectors nor the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import tvm
from tvm import tirx

from schedules.lower.math import exp, let, with_variable
from schedules.lower.statements import Rule, Statement, replaced

Tir: TypeAlias = Any

LANES = 16
FEATURES = ["avx512f", "avx512dq"]

_TABLE = 32
# Adding it leaves the nearest multiple of 1 / 32, and its fraction in the lowest bits.
_ROUND = 1.5 * 2**23 / _TABLE
_LN2_HIGH = 0.693359375  # times such a multiple below 2**10 it is exact
_LN2_LOW = -2.12194440e-4
# ``e**r = 1 + r * (_LINEAR + _SQUARE * r)`` for |r| <= ln(2) / 64; error 0.45 units
_LINEAR = 1.0000147
_SQUARE = 0.5
_BOUND = 1.0
# ``e**r = _FACTOR * ((r + _SHIFT)**2 + _REST)``, the same polynomial
_SHIFT = 1.00002208
_REST = 0.99997056
_FACTOR = 0.49999632
_TWO = 2.0
_SMALLER_MAGNITUDE, _CURRENT_ROUNDING, _ALL_LANES = 2, 4, -1


def written_exponentials() -> tvm.transform.Pass:
    """A pass that writes every exp in float32 out. For functions that know their target."""

    def change(function: Any, module: Any, context: Any) -> Any:
        body = replaced(function.body, _rule(function.attrs["target"]))
        if body.same_as(function.body):
            return function
        return tirx.PrimFunc(function.params, body, function.ret_type, function.attrs)

    return tirx.transform.prim_func_pass(change, opt_level=0, name="ansor_lite.Exponentials")


def _rule(target: Any) -> Rule:
    fast = bool(tvm.target.codegen.target_has_features(FEATURES, target))

    def written(node: Tir) -> Tir | None:
        if not _is_exp(node):
            return None
        x, *most = (_rebuilt(operand, written) for operand in node.args)
        wide = fast and x.ty.dtype.lanes == LANES
        if most:
            return _exp_below(x, *most) if wide else exp(x - most[0])
        return _exp(x) if wide else exp(x)

    def rule(statement: Statement) -> Statement | None:
        if not isinstance(statement, tirx.BufferStore):
            return None
        value = _rebuilt(statement.value, written)
        if value.same_as(statement.value):
            return None
        return tirx.BufferStore(statement.buffer, value, statement.indices)

    return rule


def _is_exp(node: Tir) -> bool:
    if not isinstance(node, tvm.ir.Call) or getattr(node.op, "name", "") != "tirx.exp":
        return False
    return str(node.ty.dtype).split("x")[0] == "float32"


def _rebuilt(expr: Tir, change: Callable[[Tir], Tir | None]) -> Tir:
    """``expr`` with its outermost parts replaced by what ``change`` makes of them."""
    found = change(expr)
    if found is not None:
        return found
    old = _operands(expr)
    new = [_rebuilt(operand, change) for operand in old]
    if all(a.same_as(b) for a, b in zip(old, new, strict=True)):
        return expr
    match expr:
        case tvm.ir.Call():
            return tvm.ir.Call(expr.op, new, expr.attrs, expr.ty_args)
        case tirx.Let():
            return let(expr.var, *new)
        case tirx.Cast():
            return tirx.Cast(expr.ty.dtype, *new)
        case tirx.Broadcast():
            return tirx.Broadcast(*new, expr.lanes)
        case _:
            return type(expr)(*new)


def _operands(expr: Tir) -> list[Tir]:
    """Where exp may be; places in tensors and vectors put together are none."""
    match expr:
        case tvm.ir.Call():
            return list(expr.args)
        case tirx.Let():
            return [expr.value, expr.body]
        case tirx.Cast() | tirx.Broadcast():
            return [expr.value]
        case tirx.Not():
            return [expr.a]
        case tirx.Select():
            return [expr.condition, expr.true_value, expr.false_value]
        case _:
            return [expr.a, expr.b] if hasattr(expr, "a") and hasattr(expr, "b") else []


def _exp(x: Tir) -> Tir:
    """``e**x`` of sixteen lanes.

    What is too large has an ``r`` without meaning, infinite or none; ``n`` alone decides then,
    also about NaN, as long as ``r`` stays bounded.
    """

    def reduced(x: Tir, t: Tir, n: Tir) -> Tir:
        r = (x - n * _all(_LN2_HIGH)) - n * _all(_LN2_LOW)
        return with_variable(_bounded(r), lambda r: powers(t, n, r))

    def powers(t: Tir, n: Tir, r: Tir) -> Tir:
        q = (r * _all(_SQUARE) + _all(_LINEAR)) * r
        return with_variable(_looked_up(t), lambda power: _scaled(power * q + power, n))

    def rounded(x: Tir) -> Tir:
        t = x * _all(math.log2(math.e)) + _all(_ROUND)
        return with_variable(
            t, lambda t: with_variable(t - _all(_ROUND), lambda n: reduced(x, t, n))
        )

    return with_variable(x, rounded)


def _exp_below(x: Tir, m: Tir) -> Tir:
    """``e**(x - m)`` of sixteen lanes, times a number near 1 that depends on ``m`` alone."""

    def reduced(x: Tir, t: Tir, n: Tir) -> Tir:
        w = _bounded(x - n * _all(math.log(2)), _TWO)
        return with_variable(w, lambda w: powers(t, n, w))

    def powers(t: Tir, n: Tir, w: Tir) -> Tir:
        return _scaled(_looked_up(t, _FACTOR) * (w * w + _all(_REST)), n)

    def rounded(x: Tir) -> Tir:
        t = x * _all(math.log2(math.e)) + _all(_ROUND - _SHIFT * math.log2(math.e))
        return with_variable(
            t, lambda t: with_variable(t - _all(_ROUND), lambda n: reduced(x, t, n))
        )

    return with_variable(x - (m - _all(_SHIFT)), rounded)


def _bounded(r: Tir, bound: float = _BOUND) -> Tir:
    """The smaller magnitude of ``r`` and a bound, which is taken for NaN too."""
    operands = (r, _all(bound), _integer(_SMALLER_MAGNITUDE), _all(0.0))
    return _intrinsic("mask.range.ps.512", *operands, _mask(), _integer(_CURRENT_ROUNDING))


def _looked_up(t: Tir, factor: float = 1.0) -> Tir:
    """``factor * 2**(j/32)`` where ``j`` is in the lowest bits of ``t``."""
    powers = [factor * 2 ** (j / _TABLE) for j in range(_TABLE)]
    low, high = _vector(powers[:LANES]), _vector(powers[LANES:])
    return _intrinsic("vpermi2var.ps.512", low, tirx.reinterpret(f"int32x{LANES}", t), high)


def _scaled(y: Tir, n: Tir) -> Tir:
    """``y * 2**floor(n)``."""
    return _intrinsic("mask.scalef.ps.512", y, n, y, _mask(), _integer(_CURRENT_ROUNDING))


def _intrinsic(name: str, *operands: Tir) -> Tir:
    return tirx.call_llvm_pure_intrin(f"float32x{LANES}", f"llvm.x86.avx512.{name}", *operands)


def _vector(values: list[float]) -> Tir:
    numbers = [tirx.const(v, "float32") for v in values]
    return tirx.Shuffle(numbers, [_integer(i) for i in range(len(values))])


def _all(value: float) -> Tir:
    return tirx.const(value, f"float32x{LANES}")


def _integer(value: int) -> Tir:
    return tirx.const(value, "int32")


def _mask() -> Tir:
    return tirx.const(_ALL_LANES, "int16")
