"""What index expressions touch: elements, cache lines, operations. Pure array functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from schedules.dag import Stage
from schedules.expr import OPERATIONS, Axis, Call, Expr, picking_axis, walk

Ints = NDArray[np.int64]

LINE_BYTES = 64
LINE_SHIFT = 6


def table(n: int, columns: int, value: int) -> Ints:
    """``[n, columns]`` filled with ``value``, column by column in memory.

    Everything here works on whole columns: a depth of a loop chain, for all candidates.
    """
    filled: Ints = np.full((columns, n), value, dtype=np.int64).T
    return filled


def cache_lines(size: Ints) -> Ints:
    """Lines that ``size`` contiguous bytes fill; a shift, because integer division is slow."""
    return (size + (LINE_BYTES - 1)) >> LINE_SHIFT


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of a dtype such as ``float32``, ``int8`` or ``bool``."""
    digits = "".join(c for c in dtype if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1


def distinct(terms: list[tuple[int, Ints]], n: int, depths: int) -> Ints:
    """How many different values ``sum(c * i)`` takes for ``0 <= i < span``.

    Exact for one or two terms, and for more as long as all but the last two partial sums are
    gapless; the count of two progressions is ``ab - max(0, a - q) * max(0, b - p)`` for coprime
    steps ``p`` and ``q``.
    """
    count = table(n, depths, 1)
    step = 0
    for coefficient, span in sorted(terms, key=lambda t: abs(t[0])):
        coefficient = abs(coefficient)
        if step == 0:
            count, step = span, coefficient
            continue
        divisor = math.gcd(step, coefficient)
        p, q = step // divisor, coefficient // divisor
        count = count * span - np.maximum(0, count - q) * np.maximum(0, span - p)
        step = divisor
    return count


def bounded_count(expr: Expr, spans: dict[str, Ints], size: int) -> Ints:
    """Upper bound of the values of an index that is not affine."""
    names = {node.name for node in walk(expr) if isinstance(node, Axis)}
    product: Ints = np.ones_like(next(iter(spans.values()))) if spans else np.ones((1, 1), np.int64)
    for name in names:
        product = product * spans[name]
    return np.minimum(product, size)


def footprint(
    counts: list[Ints], shape: list[Ints], element: int, unit: bool, n: int, depths: int
) -> tuple[Ints, Ints]:
    """Elements and cache lines of a region; dimensions come innermost first."""
    touched: Ints = counts[0] if counts else table(n, depths, 1)
    for count in counts[1:]:
        touched = touched * count
    if not counts or not unit:
        return touched, touched * cache_lines(np.array(element))
    run, rows = counts[0], table(n, depths, 1)
    contiguous = counts[0] >= shape[0][:, None]
    for d, (count, size) in enumerate(zip(counts[1:], shape[1:], strict=False), 2):
        run = np.where(contiguous, run * count, run)
        rows = np.where(contiguous, rows, rows * count)
        if d < len(counts):
            contiguous = contiguous & (count >= size[:, None])
    return touched, rows * cache_lines(run * element)


def count_operations(stage: Stage) -> dict[str, int]:
    """Operations of one innermost iteration by class; index arithmetic does not count."""
    counts: dict[str, int] = {}
    if stage.combiner == "sum":
        for term in terms_of(stage.body):
            _count(term, counts)
            fused = isinstance(term, Call) and term.op == "mul"
            if fused:
                counts["mul"] -= 1
            counts["mad" if fused else "addsub"] = counts.get("mad" if fused else "addsub", 0) + 1
        return {kind: count for kind, count in counts.items() if count}
    _count(stage.body, counts)
    if stage.combiner is not None:
        kind = "mul" if stage.combiner == "prod" else "compare"
        counts[kind] = counts.get(kind, 0) + 1
    return {kind: count for kind, count in counts.items() if count}


def terms_of(body: Expr) -> list[Expr]:
    """What a sum adds up in one step, one after the other."""
    if isinstance(body, Call) and body.op == "add":
        return [term for arg in body.args for term in terms_of(arg)]
    return [body]


def _count(expr: Expr, counts: dict[str, int]) -> None:
    if not isinstance(expr, Call):
        return
    if picking_axis(expr) is not None:
        _count(_longest_piece(expr), counts)
        return
    kind = OPERATIONS[expr.op][1]
    counts[kind] = counts.get(kind, 0) + 1
    for arg in expr.args:
        _count(arg, counts)


def _longest_piece(expr: Expr) -> Expr:
    """Of an axis whose values have expressions of their own: to choose one costs nothing."""
    if not isinstance(expr, Call) or picking_axis(expr) is None:
        return expr
    pieces = (expr.args[1], _longest_piece(expr.args[2]))
    return max(pieces, key=lambda piece: sum(isinstance(node, Call) for node in walk(piece)))
