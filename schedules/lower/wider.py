"""Short vectors of exponentials, one behind the other in memory, as fewer long ones.

A window of 7 x 8 keys is seven vectors of eight lanes for all that adds them up; its exponentials
are four vectors of sixteen, for which there is a faster way (``exponentials.py``). Separate from
``program.py`` because loops stay loops there, and are what ``nest`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import sym, tirx

from schedules.lower.exponentials import LANES
from schedules.lower.statements import Statement

Tir: TypeAlias = Any

# Vectors that are computed beside each other, at most; beyond, the code only grows.
MOST_UNROLLED = 8


def wider_exponentials(statement: Statement) -> Statement | None:
    """``for i: for l (vector): y[i * lanes + l] = exp(x[i * lanes + l])`` in longer vectors.

    The last one is shifted back where they do not fill it; ``None`` for other statements. A rule
    for flat buffers, before loops are vectorised.
    """
    rows = _Rows.of(statement)
    if rows is None or rows.elements < LANES:
        return None
    vectors = -(-rows.elements // LANES)
    vector, lane = tirx.Var("vector", "int32"), tirx.Var("lane", "int32")
    start = vector * LANES
    if rows.elements % LANES:
        start = tirx.min(start, rows.elements - LANES)
    at, value = rows.index(rows.store.indices[0], start + lane), rows.value(start + lane)
    if at is None or value is None:
        return None
    store = tirx.BufferStore(rows.store.buffer, value, [at])
    inner = tirx.For(lane, 0, LANES, tirx.ForKind.VECTORIZED, store)
    kind = tirx.ForKind.UNROLLED if vectors <= MOST_UNROLLED else tirx.ForKind.SERIAL
    loop = tirx.For(vector, 0, vectors, kind, inner)
    # What is computed twice may not take the place of its operand: see ``program.py``.
    overlaps = rows.elements % LANES
    return tirx.AttrStmt(tirx.const(0), "extern_scope", 1, loop) if overlaps else loop


@dataclass(frozen=True, slots=True)
class _Rows:
    """A store of exponentials in a loop over vectors, in a loop over rows of one vector each."""

    row: Tir
    lane: Tir
    lanes: int
    elements: int
    store: Statement

    @staticmethod
    def of(statement: Statement) -> _Rows | None:
        inner = statement.body if isinstance(statement, tirx.For) else None
        if not isinstance(inner, tirx.For) or inner.kind != tirx.ForKind.VECTORIZED:
            return None
        store = inner.body
        extents = [loop.extent for loop in (statement, inner)]
        if not isinstance(store, tirx.BufferStore) or len(store.indices) != 1:
            return None
        if statement.kind == tirx.ForKind.PARALLEL or not _is_exp(store.value):
            return None
        if not all(isinstance(e, tirx.IntImm) for e in extents) or int(extents[1]) >= LANES:
            return None
        rows, lanes = map(int, extents)
        return _Rows(statement.loop_var, inner.loop_var, lanes, rows * lanes, store)

    def value(self, place: Tir) -> Tir | None:
        """The exponential at ``place`` of all rows, counted through."""
        call = self.store.value
        moved = [self._moved(operand, place) for operand in call.args]
        if any(operand is None for operand in moved):
            return None
        return tirx.call_intrin(call.ty.dtype, call.op, *moved)

    def _moved(self, expr: Tir, place: Tir) -> Tir | None:
        match expr:
            case tirx.Sub() | tirx.Mul():
                left, right = self._moved(expr.a, place), self._moved(expr.b, place)
                return None if left is None or right is None else type(expr)(left, right)
            case tirx.FloatImm():
                return expr
            case tvm.ir.TensorLoad() if len(expr.indices) == 1:
                index = expr.indices[0]
                if expr.source.same_as(self.store.buffer):
                    return None
                fixed = sym.detect_linear_equation(index, [self.row, self.lane])
                if len(fixed) == 3 and _is(fixed[0], 0) and _is(fixed[1], 0):
                    return expr
                at = self.index(index, place)
                return None if at is None else tirx.BufferLoad(expr.source, [at])
            case _:
                return None

    def index(self, index: Tir, place: Tir) -> Tir | None:
        """``index`` at ``place``, if it counts all rows through; else ``None``."""
        parts = sym.detect_linear_equation(index, [self.row, self.lane])
        if len(parts) != 3 or not _is(parts[0], self.lanes) or not _is(parts[1], 1):
            return None
        return parts[2] + place


def _is(value: Tir, number: int) -> bool:
    return isinstance(value, tirx.IntImm) and int(value) == number


def _is_exp(value: Tir) -> bool:
    return isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == "tirx.exp"
