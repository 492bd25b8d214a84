"""Reductions over a few neighbours, done in vectors: load the lanes, halve, halve again.

``s[i] = sum_l lanes[i, l]`` is a loop of scalar additions where each waits for the one before:
four cycles a lane. LLVM must keep that order; ours is free, as splitting a reduction has made it so
already. Separate from ``program.py`` because loops stay loops there, and are what ``nest`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import sym, tirx

from schedules.lower.statements import Statement

Tir: TypeAlias = Any

# Lanes of one load, at most; LLVM cuts what is wider than a register.
LANES = 16
# Vectors that are added before lanes are; beyond, the unrolled code only grows.
MOST_VECTORS = 16

COMBINE: dict[type, Callable[[Tir, Tir], Tir]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Mul: lambda a, b: a * b,
    tirx.Max: tirx.max,
    tirx.Min: tirx.min,
}


def horizontal_reduction(statement: Statement) -> Statement | None:
    """One store instead of a loop ``acc = acc + x[base + l]``; ``None`` for other statements.

    Where rows of results lie inside the loop, the loop goes inside them: ``x`` is contiguous along
    the lanes, not along the rows. A rule for flat buffers, before loops are vectorised.
    """
    if not isinstance(statement, tirx.For):
        return None
    body = statement.body
    if isinstance(body, tirx.BufferStore):
        return _reduced(statement, body)
    if not isinstance(body, tirx.For) or not isinstance(body.body, tirx.BufferStore):
        return None
    inner = _reduced(statement, body.body)
    if inner is None or body.kind == tirx.ForKind.PARALLEL:
        return None
    return tirx.For(body.loop_var, body.min, body.extent, tirx.ForKind.SERIAL, inner)


def _reduced(loop: Statement, store: Statement) -> Statement | None:
    """``store``, executed once for all lanes that ``loop`` counts."""
    value, lanes = store.value, _vector_lanes(loop.extent)
    if lanes == 0 or type(value) not in COMBINE:
        return None
    start = _first_element(loop, value.b)
    if start is None or not _accumulates(loop, store):
        return None
    combine = COMBINE[type(value)]
    vectors = [
        tirx.BufferLoad(value.b.source, [tirx.Ramp(start + n, 1, lanes)])
        for n in range(0, int(loop.extent), lanes)
    ]
    total = _halved(_balanced(vectors, combine), lanes, combine)
    return tirx.BufferStore(store.buffer, combine(value.a, total), store.indices)


def _vector_lanes(extent: Tir) -> int:
    """Lanes of the vectors that cover ``extent`` elements; 0 when none do."""
    if not isinstance(extent, tirx.IntImm) or int(extent) < 4:
        return 0
    count = int(extent)
    if count % LANES == 0 and count <= LANES * MOST_VECTORS:
        return LANES
    return count if count < LANES and log2(count).is_integer() else 0


def _first_element(loop: Statement, value: Tir) -> Tir | None:
    """Where the loop's contiguous read starts, if ``value`` is one."""
    if not isinstance(value, tvm.ir.TensorLoad) or len(value.indices) != 1:
        return None
    parts = sym.detect_linear_equation(value.indices[0], [loop.loop_var])
    if len(parts) != 2 or not tvm_ffi.structural_equal(parts[0], tirx.const(1, "int32")):
        return None
    return parts[1]


def _accumulates(loop: Statement, store: Statement) -> bool:
    """Whether every iteration updates the same element, and none reads it otherwise."""
    old = store.value.a
    if not isinstance(old, tvm.ir.TensorLoad) or not old.source.same_as(store.buffer):
        return False
    if store.value.b.source.same_as(store.buffer):
        return False
    index = store.indices[0]
    parts = sym.detect_linear_equation(index, [loop.loop_var])
    still = len(parts) == 2 and tvm_ffi.structural_equal(parts[0], tirx.const(0, "int32"))
    return still and tvm_ffi.structural_equal(old.indices[0], index)


def _balanced(values: list[Tir], combine: Callable[[Tir, Tir], Tir]) -> Tir:
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        odd = values[-1:] if len(values) % 2 else []
        values = [*(combine(a, b) for a, b in pairs), *odd]
    return values[0]


def _halved(vector: Tir, lanes: int, combine: Callable[[Tir, Tir], Tir]) -> Tir:
    """All lanes of ``vector`` combined, as a scalar."""
    if lanes == 1:
        return vector
    name = tirx.Var("v", vector.ty.dtype)
    half = lanes // 2
    low, high = (
        tirx.Shuffle([name], [tirx.const(i, "int32") for i in range(first, first + half)])
        for first in (0, half)
    )
    return tirx.Let(name, vector, _halved(combine(low, high), half, combine))
