"""exp, erf, tanh and sigmoid in float32 as plain arithmetic, which vectorises.

TVM calls libm once per lane for these. Separate from ``emit_expr`` because this is numerics, with
its own accuracy tests, and nothing else. Every function is branch-free, at most 2 units in the last
place off over the whole range, subnormal arguments and results included, and keeps NaN and
infinities. The polynomials are minimax fits (Lawson's iteration on Chebyshev nodes) in the units in
which errors count; argument reduction is that of Cody and Waite. Sums of a product are meant to be
fused: what does not fuse them is a little less exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tvm import tirx

Tir: TypeAlias = Any

# Adding 1.5 * 2**23 rounds a small float to an integer and leaves it in the low bits, here with the
# exponent bias of a float added: shifted to its place, it is a power of two.
_ROUND = 1.5 * 2**23 + 127
# The same with the bias of two floats.
_ROUND_TWICE = _ROUND + 127
_MANTISSA_BITS = 23
# Bits of the powers 2**n and 2**-n together.
_BOTH_POWERS = 2 * 127 << _MANTISSA_BITS
_SIGN_BIT = -(2**31)

_LN2_HIGH = 0.693359375  # times an integer below 2**15 it is exact
_LN2_LOW = -2.12194440e-4

# Beyond these, e**x is no float any more.
_EXP_LOW = -104.5
_EXP_HIGH = 89.5

# (e**r - 1 - r) / r**2 for |r| <= ln(2) / 2; error of e**r 0.035 units
_EXP = (0.4999999, 0.16666519, 0.04166909, 0.00836888, 0.00137804)
# (e**2r - 1 - 2r) / r**2 for |r| <= ln(2) / 4; relative error of e**2r - 1 1.3e-8
_EXPM1 = (1.9999999, 1.3333235, 0.66667521, 0.26772951, 0.088848106)
# From here on tanh rounds to 1.
_TANH_ONE = 9.25
# 1 - 4 * (1 - erfc(t)**(1/4)) / t for 0 <= t <= 3.95; relative error of erf 1.6e-8, below 0.3 less
_ERF = (
    -0.12837916,
    -0.47746518,
    0.061854075,
    0.074480401,
    -0.0048379634,
    -0.0078157148,
    8.3918176e-4,
    5.3934319e-4,
    -1.4829903e-4,
    1.1378544e-5,
)
# From here on erf rounds to 1.
_ERF_ONE = 3.95


def exp(x: Tir) -> Tir:
    """``e**x`` of a number or of a vector; see ``exponentials.py``."""

    def product(q: Tir, s: Tir, rest: Tir) -> Tir:
        return (q * s + s) * _float(rest)

    inside = with_variable(x, lambda x: _between(x, _EXP_LOW, _EXP_HIGH))
    return with_variable(inside, lambda x: _exp(x, product))


def exp_of_difference(x: Tir, m: Tir) -> Tir:
    """``e**(x - m)``, still to be written out, where a factor that depends on ``m`` alone may err.

    An exp of two operands: ``exponentials.py`` has to know them apart once they are vectors.
    """
    return tirx.call_intrin(x.ty.dtype, "tirx.exp", x, m)


def sigmoid(x: Tir) -> Tir:
    """``1 / (1 + e**-x)``, with numerator and denominator by the power that keeps them floats."""

    def ratio(q: Tir, s: Tir, rest: Tir) -> Tir:
        inverse = _float(_i(_BOTH_POWERS) - rest)
        return with_variable(inverse, lambda inverse: inverse / ((q * s + inverse) + s))

    negative = with_variable(x, lambda x: _between(_f(0.0) - x, _EXP_LOW, -_EXP_LOW))
    return with_variable(negative, lambda x: _exp(x, ratio))


def tanh(x: Tir) -> Tir:
    """``-e / (e + 2)`` of ``e = e**-2t - 1``, which is exact near zero, for ``t = |x|``."""

    def ratio(s: Tir, q: Tir) -> Tir:
        return ((_f(1.0) - s) - s * q) / (s * q + (s + _f(1.0)))

    def body(t: Tir) -> Tir:
        def reduced(z: Tir) -> Tir:
            r = (_f(0.0) - t) - (z - _f(_ROUND)) * _f(math.log(2) / 2)
            q = with_variable(r, lambda r: r * r * _horner(_EXPM1, r) + (r + r))
            return with_variable(
                _float(_exponent(_bits(z))), lambda s: with_variable(q, lambda q: ratio(s, q))
            )

        return with_variable(t * _f(-2 * math.log2(math.e)) + _f(_ROUND), reduced)

    return _odd(x, _TANH_ONE, body)


def erf(x: Tir) -> Tir:
    """``1 - (1 - a / 4)**4`` of ``a = t - d(t)``, a polynomial, for ``t = |x|``.

    Written as ``b - b**2 / 4`` of ``b = a - a**2 / 8``, where small ``t`` are rounded last.
    """

    def body(t: Tir) -> Tir:
        def squared(d: Tir) -> Tir:
            b = with_variable(t - d, lambda a: t - (a * _f(1 / 8) * a + d))
            return with_variable(b, lambda b: b - b * _f(1 / 4) * b)

        return with_variable(t * _horner(_ERF, t), squared)

    return _odd(x, _ERF_ONE, body)


POLYNOMIALS: dict[str, Callable[[Tir], Tir]] = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
}


def _exp(x: Tir, result: Callable[[Tir, Tir, Tir], Tir]) -> Tir:
    """``result(q, s, rest)`` where ``e**x = (1 + q) * s * float of rest``: two powers of two.

    One alone would be no float where ``e**x`` is subnormal, and where it is just below infinity.
    """

    def powers(z: Tir, q: Tir) -> Tir:
        half = tirx.shift_right(_bits(z), _i(1))
        return with_variable(
            half, lambda half: result(q, _float(_exponent(_bits(z) - half)), _exponent(half))
        )

    def reduced(z: Tir) -> Tir:
        r = with_variable(
            z - _f(_ROUND_TWICE), lambda n: (x - n * _f(_LN2_HIGH)) - n * _f(_LN2_LOW)
        )
        q = with_variable(r, lambda r: r * r * _horner(_EXP, r) + r)
        return with_variable(q, lambda q: powers(z, q))

    return with_variable(x * _f(math.log2(math.e)) + _f(_ROUND_TWICE), reduced)


def _exponent(biased: Tir) -> Tir:
    """Bits of the power of two whose exponent, with its bias, is in the low bits of ``biased``."""
    return tirx.shift_left(biased, _i(_MANTISSA_BITS))


def _horner(coefficients: tuple[float, ...], x: Tir) -> Tir:
    result = _f(coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + _f(c)
    return result


def _between(x: Tir, low: float, high: float) -> Tir:
    """``x`` kept in a range, or NaN: where a comparison fails, the second operand is taken."""
    return tirx.min(_f(high), tirx.max(_f(low), x))


def _odd(x: Tir, limit: float, body: Callable[[Tir], Tir]) -> Tir:
    """``body(min(|x|, limit))`` with the sign of ``x``; NaN stays."""

    def signed(x: Tir) -> Tir:
        magnitude = tirx.min(_f(limit), _float(tirx.bitwise_and(_bits(x), _i(~_SIGN_BIT))))
        return with_variable(with_variable(magnitude, body), lambda y: _with_sign_of(x, y))

    return with_variable(x, signed)


def _with_sign_of(x: Tir, y: Tir) -> Tir:
    magnitude = tirx.bitwise_and(_bits(y), _i(~_SIGN_BIT))
    return _float(tirx.bitwise_or(magnitude, tirx.bitwise_and(_bits(x), _i(_SIGN_BIT))))


def with_variable(value: Tir, body: Callable[[Tir], Tir]) -> Tir:
    """``body`` of a variable bound to ``value``: trees would repeat it at every use."""
    name = tirx.Var("v", value.ty.dtype)
    return let(name, value, body(name))


def let(name: Tir, value: Tir, body: Tir) -> Tir:
    """``body`` with ``name`` bound to ``value``.

    The bindings that ``value`` begins with go outside: TVM simplifies values twice, and may then
    find another value of the same variable, which it refuses.
    """
    if isinstance(value, tirx.Let):
        return tirx.Let(value.var, value.value, let(name, value.body, body))
    return tirx.Let(name, value, body)


def _f(value: float) -> Tir:
    return tirx.const(value, "float32")


def _i(value: int) -> Tir:
    return tirx.const(value, "int32")


def _bits(x: Tir) -> Tir:
    return tirx.reinterpret(f"int32x{x.ty.dtype.lanes}", x)


def _float(bits: Tir) -> Tir:
    return tirx.reinterpret(f"float32x{bits.ty.dtype.lanes}", bits)
