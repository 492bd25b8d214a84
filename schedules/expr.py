"""Scalar expressions of a compute DAG: constants, axes, tensor reads and calls.

Frozen values without behaviour. ``affine`` is the one analysis everything else builds on: it
answers whether an index is a sum of axes with integer coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Const:
    """A literal of a given dtype (``"float32"``, ``"int64"``, ``"bool"``...)."""

    value: int | float | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The current value of an iteration axis of the enclosing stage (an integer)."""

    name: str


@dataclass(frozen=True, slots=True)
class Read:
    """One element of a tensor: ``tensor[indices]``."""

    tensor: str
    indices: tuple[Expr, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on scalars; ``op`` is a key of :data:`OPERATIONS`."""

    op: str
    args: tuple[Expr, ...]
    dtype: str


Expr: TypeAlias = Const | Axis | Read | Call

INDEX_DTYPE = "int64"

# op -> (arity, class). The class is what the cost model counts.
OPERATIONS: dict[str, tuple[int, str]] = {
    "add": (2, "addsub"),
    "sub": (2, "addsub"),
    "mul": (2, "mul"),
    "div": (2, "divmod"),
    "truncdiv": (2, "divmod"),
    "truncmod": (2, "divmod"),
    "floordiv": (2, "divmod"),
    "floormod": (2, "divmod"),
    "min": (2, "compare"),
    "max": (2, "compare"),
    "eq": (2, "compare"),
    "ne": (2, "compare"),
    "lt": (2, "compare"),
    "le": (2, "compare"),
    "gt": (2, "compare"),
    "ge": (2, "compare"),
    "and": (2, "logic"),
    "or": (2, "logic"),
    "not": (1, "logic"),
    "select": (3, "select"),  # (condition, if true, if false); only the taken side is evaluated
    "cast": (1, "other"),
    "abs": (1, "other"),
    "floor": (1, "other"),
    "ceil": (1, "other"),
    "round": (1, "other"),
    "trunc": (1, "other"),
    "exp": (1, "math"),
    "log": (1, "math"),
    "sqrt": (1, "math"),
    "rsqrt": (1, "math"),
    "pow": (2, "math"),
    "erf": (1, "math"),
    "tanh": (1, "math"),
    "sigmoid": (1, "math"),
    "sin": (1, "math"),
    "cos": (1, "math"),
    "tan": (1, "math"),
    "asin": (1, "math"),
    "acos": (1, "math"),
    "atan": (1, "math"),
    "sinh": (1, "math"),
    "cosh": (1, "math"),
    "asinh": (1, "math"),
    "acosh": (1, "math"),
    "atanh": (1, "math"),
    "fmod": (2, "math"),
    "isnan": (1, "compare"),
    "isinf": (1, "compare"),
    "shift_left": (2, "other"),
    "shift_right": (2, "other"),
    "bitwise_and": (2, "other"),
    "bitwise_or": (2, "other"),
    "bitwise_xor": (2, "other"),
    "bitwise_not": (1, "other"),
}


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node of ``expr``, parents before children."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Call):
            stack.extend(reversed(node.args))
        elif isinstance(node, Read):
            stack.extend(reversed(node.indices))


def rebuild(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """``expr`` with every node for which ``change`` answers replaced; children come first."""
    if isinstance(expr, Call):
        args = tuple(rebuild(a, change) for a in expr.args)
        expr = expr if args == expr.args else Call(expr.op, args, expr.dtype)
    elif isinstance(expr, Read):
        indices = tuple(rebuild(i, change) for i in expr.indices)
        expr = expr if indices == expr.indices else Read(expr.tensor, indices, expr.dtype)
    changed = change(expr)
    return expr if changed is None else changed


def substitute_axes(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """``expr`` with axes replaced by expressions."""
    return rebuild(expr, lambda node: values.get(node.name) if isinstance(node, Axis) else None)


def axes_in(expr: Expr) -> set[str]:
    """Axes of the enclosing stage that ``expr`` depends on."""
    return {node.name for node in walk(expr) if isinstance(node, Axis)}


def picking_axis(expr: Expr) -> str | None:
    """The axis of ``select(axis == value, ...)``: each of its values has its own expression."""
    match expr:
        case Call("select", (Call("eq", (Axis(name), _)), _, _)):
            return name
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Affine:
    """``constant + sum(coefficient * axis)``; zero coefficients are left out."""

    terms: tuple[tuple[str, int], ...]
    constant: int

    def coefficient(self, axis: str) -> int:
        return dict(self.terms).get(axis, 0)


def affine(expr: Expr) -> Affine | None:
    """``expr`` as an affine function of axes, or ``None`` when it is none."""
    if isinstance(expr, Const) and not isinstance(expr.value, float):
        return Affine((), int(expr.value))
    if isinstance(expr, Axis):
        return Affine(((expr.name, 1),), 0)
    if not isinstance(expr, Call):
        return None
    if expr.op == "cast":
        return affine(expr.args[0])
    if expr.op not in ("add", "sub", "mul"):
        return None
    left, right = affine(expr.args[0]), affine(expr.args[1])
    if left is None or right is None:
        return None
    if expr.op == "mul":
        if left.terms and right.terms:
            return None
        base, factor = (left, right.constant) if left.terms else (right, left.constant)
        return _scaled_sum(base, factor, Affine((), 0), 0)
    return _scaled_sum(left, 1, right, 1 if expr.op == "add" else -1)


def _scaled_sum(a: Affine, fa: int, b: Affine, fb: int) -> Affine:
    terms: dict[str, int] = {}
    for source, factor in ((a, fa), (b, fb)):
        for name, coefficient in source.terms:
            terms[name] = terms.get(name, 0) + coefficient * factor
    kept = tuple(sorted((n, c) for n, c in terms.items() if c))
    return Affine(kept, a.constant * fa + b.constant * fb)
