"""Conditions under which a term of a reduction counts: the rest adds nothing and may be skipped.

``acc += select(0 <= h - 1, x[h - 1], 0) * w`` is ``if 0 <= h - 1: acc += x[h - 1] * w``: zero
padding in front of a sum, or the lowest number in front of a maximum, need no copy of the tensor.
``lower/versions.py`` decides such conditions outside the loops where they can be decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from schedules.dag import Stage
from schedules.expr import Call, Const, Expr, Read, walk

# Largest finite values: a reduction to a maximum starts at the negative one.
LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "float16": 65504.0,
}


@dataclass(frozen=True, slots=True)
class Guarded:
    """A body that counts only where all ``conditions`` hold; elsewhere it is the neutral value."""

    conditions: tuple[Expr, ...]
    body: Expr


def guarded_term(combiner: str | None, body: Expr) -> Guarded:
    """The conditions that can be taken out of ``body`` in front of a reduction by ``combiner``.

    Products pass them on: with one factor zero they are zero (for finite numbers).
    """
    if isinstance(body, Call) and body.op == "select" and _is_neutral(combiner, body.args[2]):
        inner = guarded_term(combiner, body.args[1])
        return Guarded((*_conjuncts(body.args[0]), *inner.conditions), inner.body)
    if isinstance(body, Call) and body.op == "mul" and combiner == "sum":
        left, right = (guarded_term(combiner, a) for a in body.args)
        product = Call("mul", (left.body, right.body), body.dtype)
        return Guarded((*left.conditions, *right.conditions), product)
    return Guarded((), body)


def restored(combiner: str, conditions: tuple[Expr, ...], body: Expr) -> Expr:
    """``body`` behind conditions again, with the neutral value elsewhere."""
    dtype = body.dtype if isinstance(body, Call | Read | Const) else ""
    largest = LARGEST.get(dtype, inf)
    neutral = {"sum": 0.0, "prod": 1.0, "max": -largest, "min": largest}[combiner]
    for condition in reversed(conditions):
        body = Call("select", (condition, body, Const(neutral, dtype)), dtype)
    return body


def skips_padding(stage: Stage) -> bool:
    """Every condition of the body can be taken out, so that no read stands behind one."""
    if stage.combiner is None:
        return False
    term = guarded_term(stage.combiner, stage.body)
    free = not any(isinstance(n, Call) and n.op == "select" for n in walk(term.body))
    by_axes = not any(isinstance(n, Read) for c in term.conditions for n in walk(c))
    return bool(term.conditions) and free and by_axes


def _conjuncts(condition: Expr) -> tuple[Expr, ...]:
    if isinstance(condition, Call) and condition.op == "and":
        return tuple(c for a in condition.args for c in _conjuncts(a))
    return (condition,)


def _is_neutral(combiner: str | None, value: Expr) -> bool:
    if not isinstance(value, Const) or isinstance(value.value, bool):
        return False
    match combiner:
        case "sum":
            return value.value == 0
        case "prod":
            return value.value == 1
        case "max":
            return value.value <= -LARGEST.get(value.dtype, inf)
        case "min":
            return value.value >= LARGEST.get(value.dtype, inf)
        case _:
            return False
