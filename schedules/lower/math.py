"""exp, erf, tanh and sigmoid in float32 as plain arithmetic, which vectorises.

TVM calls libm once per lane for these. Separate from ``emit_expr`` because this is numerics, with
its own accuracy tests, and nothing else. Every function is branch-free, keeps NaN and infinities,
and flushes results below the smallest normal number to zero. The polynomials are minimax fits
(Lawson's iteration on Chebyshev nodes); argument reduction is that of Cody and Waite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tvm import tirx

Tir: TypeAlias = Any

# Adding 1.5 * 2**23 rounds a small float to an integer and leaves it in the low bits.
_ROUND = 12582912.0
# The same with the exponent bias of a float added to that integer.
_ROUND_BIASED = _ROUND + 127.0
_LN2_HIGH = 0.693359375  # times an integer below 2**15 it is exact
_LN2_LOW = -2.12194440e-4
_SIGN_BIT = -(2**31)

# Smallest and largest argument whose exponential is a normal number.
_EXP_LOW = -87.33654
_EXP_HIGH = 88.72283

# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2; relative error of exp 3.1e-9
_EXP = (0.49999994, 0.16666521, 0.041668389, 0.0083687454, 0.0013814539)
# (tanh(x) / x - 1) / x**2 in x**2 for |x| <= 0.625; error 4.1e-9
_TANH_LIMIT = 0.625
_TANH = (-0.33333284, 0.13331491, -0.053743497, 0.020650586, -0.005717045)
# erf(x) / x - 1 in x**2 for |x| <= 1; error 1.2e-9
_ERF = (
    0.12837916,
    -0.37612626,
    0.11283585,
    -0.026853811,
    0.0051883277,
    -8.0101925e-4,
    7.8538578e-5,
)
# log(erfc(x)) for 1 <= x <= 4; error of erfc 1.0e-9
_LOG_ERFC = (
    -3.5371876e-4,
    -1.12704,
    -0.63822567,
    -0.10303737,
    0.02180532,
    -2.9396079e-3,
    1.8557407e-4,
)


def exp(x: Tir) -> Tir:
    """``e**x``; at most 1 ulp off while the result is normal."""

    def body(x: Tir) -> Tir:
        scaled = _with(
            x * _f(math.log2(math.e)) + _f(_ROUND),
            lambda z: _bits(_exp_reduced(x, z - _f(_ROUND))) + tirx.shift_left(_bits(z), _i(23)),
        )
        small = tirx.Select(x >= _f(_EXP_LOW), _float(scaled), _f(0.0))
        return tirx.Select(x <= _f(_EXP_HIGH), small, x + _f(math.inf))

    return _with(x, body)


def sigmoid(x: Tir) -> Tir:
    """``1 / (1 + e**-x)``."""
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Tir) -> Tir:
    """Odd polynomial near zero, ``1 - 2 / (e**2x + 1)`` elsewhere."""

    def body(x: Tir, t: Tir) -> Tir:
        near = _with(t * t, lambda u: t + t * (u * _horner(_TANH, u)))
        far = _f(1.0) - _f(2.0) / (_exp_inside(t + t) + _f(1.0))
        return _with_sign_of(x, tirx.Select(t < _f(_TANH_LIMIT), near, far))

    return _with(x, lambda x: _with(_magnitude_below(x, 9.25), lambda t: body(x, t)))


def erf(x: Tir) -> Tir:
    """Odd polynomial below one, ``1 - e**log(erfc)`` above; 1 from 4 on (rounds to it)."""

    def body(x: Tir, t: Tir) -> Tir:
        near = _with(t * t, lambda u: t + t * _horner(_ERF, u))
        far = _f(1.0) - _exp_inside(_horner(_LOG_ERFC, t))
        return _with_sign_of(x, tirx.Select(t < _f(1.0), near, far))

    return _with(x, lambda x: _with(_magnitude_below(x, 4.0), lambda t: body(x, t)))


POLYNOMIALS: dict[str, Callable[[Tir], Tir]] = {
    "exp": exp,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
}


def _exp_inside(x: Tir) -> Tir:
    """``e**x`` for ``|x| < 80`` (or NaN), which needs no limits."""

    def body(x: Tir) -> Tir:
        return _with(
            x * _f(math.log2(math.e)) + _f(_ROUND_BIASED),
            lambda z: (
                _exp_reduced(x, z - _f(_ROUND_BIASED)) * _float(tirx.shift_left(_bits(z), _i(23)))
            ),
        )

    return _with(x, body)


def _exp_reduced(x: Tir, n: Tir) -> Tir:
    """``e**(x - n ln 2)`` where ``n`` is ``x / ln 2`` rounded."""
    reduced = _with(n, lambda n: (x - n * _f(_LN2_HIGH)) - n * _f(_LN2_LOW))
    return _with(reduced, lambda r: r * r * _horner(_EXP, r) + r + _f(1.0))


def _horner(coefficients: tuple[float, ...], x: Tir) -> Tir:
    result = _f(coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + _f(c)
    return result


def _magnitude_below(x: Tir, limit: float) -> Tir:
    """``min(|x|, limit)`` that keeps NaN."""
    return _with(
        _float(tirx.bitwise_and(_bits(x), _i(~_SIGN_BIT))),
        lambda t: tirx.Select(t > _f(limit), _f(limit), t),
    )


def _with_sign_of(x: Tir, positive: Tir) -> Tir:
    return _float(tirx.bitwise_or(_bits(positive), tirx.bitwise_and(_bits(x), _i(_SIGN_BIT))))


def _with(value: Tir, body: Callable[[Tir], Tir]) -> Tir:
    """``body`` of a variable bound to ``value``: trees would repeat it at every use."""
    name = tirx.Var("v", value.ty.dtype)
    return tirx.Let(name, value, body(name))


def _f(value: float) -> Tir:
    return tirx.const(value, "float32")


def _i(value: int) -> Tir:
    return tirx.const(value, "int32")


def _bits(x: Tir) -> Tir:
    return tirx.reinterpret("int32", x)


def _float(bits: Tir) -> Tir:
    return tirx.reinterpret("float32", bits)
