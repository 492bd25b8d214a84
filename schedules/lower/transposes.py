"""Copies that transpose, done in registers: rows are loaded, shuffled, stored as columns.

``y[j, i] = x[i, j]`` as loops has one side that is not contiguous, and scalars gather it one by
one. A square of ``n`` rows takes ``log2(n)`` steps of ``n`` shuffles instead. Separate from
``program.py`` because the loops are those of a copy there, in the order that ``nest`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import sym, tirx

from schedules.lower.statements import Statement

Tir: TypeAlias = Any

# Rows of a square, largest first. Vectors of eight floats take half the shuffles that sixteen take
# on machines that split the long ones, and are as good on the others.
SQUARES = (8, 4)
# Elements of a side of a block of the largest squares: a cache line both ways.
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Side:
    """A loop along which one tensor is contiguous, and its stride in the other tensor."""

    loop: Statement
    stride: int

    @property
    def extent(self) -> int:
        return int(self.loop.extent)


@dataclass(frozen=True, slots=True)
class Transpose:
    """``target[at + j + i * across.stride] = source[start + i + j * down.stride]``.

    ``i`` counts ``across.loop``, along which the source is contiguous; ``j`` counts ``down.loop``.
    """

    across: Side
    down: Side
    start: Tir
    at: Tir
    store: Statement


def register_transpose(statement: Statement) -> Statement | None:
    """The nest of a transposing copy, by squares; ``None`` for other statements.

    A rule for flat buffers, before loops are vectorised.
    """
    loops, store = _copying_nest(statement)
    found = None if store is None else _transpose(loops, store)
    if found is None:
        return None
    rows = next(n for n in SQUARES if n <= min(found.across.extent, found.down.extent))
    across, down = _cut(found.across, rows), _cut(found.down, rows)
    body = _square(found, rows, across.start, down.start)
    for part in (*across.unrolled, *down.unrolled):
        body = tirx.For(part, 0, BLOCK // rows, tirx.ForKind.UNROLLED, body)
    for loop in reversed(loops):
        cut = next((c for c in (across, down) if c.loop.same_as(loop)), None)
        if cut is None:
            body = tirx.For(loop.loop_var, 0, loop.extent, tirx.ForKind.SERIAL, body)
        else:
            body = tirx.For(cut.block, 0, cut.blocks, tirx.ForKind.SERIAL, body)
    return body


def _copying_nest(statement: Statement) -> tuple[list[Statement], Statement | None]:
    """The loops of a perfect nest around a plain copy, in one thread, and the copy."""
    loops = []
    while isinstance(statement, tirx.For) and statement.kind != tirx.ForKind.PARALLEL:
        if not isinstance(statement.extent, tirx.IntImm) or int(statement.min) != 0:
            return [], None
        loops.append(statement)
        statement = statement.body
    if len(loops) < 2 or not isinstance(statement, tirx.BufferStore):
        return [], None
    value = statement.value
    copies = isinstance(value, tvm.ir.TensorLoad) and len(value.indices) == 1
    return (loops, statement) if copies and not _in_place(statement) else ([], None)


def _in_place(store: Statement) -> bool:
    return bool(store.value.source.same_as(store.buffer))


def _transpose(loops: list[Statement], store: Statement) -> Transpose | None:
    """The copy as a transpose; ``None`` if its tensors are contiguous along the same loop."""
    (source,), (target,) = store.value.indices, store.indices
    across, down = _contiguous(loops, source), _contiguous(loops, target)
    if across is None or down is None or across.same_as(down):
        return None
    variables = [across.loop_var, down.loop_var]
    below = sym.detect_linear_equation(source, variables)
    beside = sym.detect_linear_equation(target, variables)
    if len(below) != 3 or len(beside) != 3:
        return None
    sides = [Side(across, _constant(beside[0])), Side(down, _constant(below[1]))]
    if any(side.stride < 2 for side in sides):
        return None
    return Transpose(sides[0], sides[1], below[2], beside[2], store)


def _contiguous(loops: list[Statement], index: Tir) -> Statement | None:
    """The longest loop whose iterations are neighbours, if a square fits."""
    found = None
    for loop in loops:
        parts = sym.detect_linear_equation(index, [loop.loop_var])
        longer = int(loop.extent) >= (SQUARES[-1] if found is None else int(found.extent) + 1)
        if longer and len(parts) == 2 and _constant(parts[0]) == 1:
            found = loop
    return found


def _constant(value: Tir) -> int:
    """The number that ``value`` is; 0 if it is none."""
    return int(value) if isinstance(value, tirx.IntImm) else 0


@dataclass(frozen=True, slots=True)
class _Cut:
    """A loop cut into blocks, each of them of squares in unrolled loops."""

    loop: Statement
    block: Tir
    blocks: int
    unrolled: tuple[Tir, ...]
    start: Tir


def _cut(side: Side, rows: int) -> _Cut:
    size = BLOCK if rows == SQUARES[0] and side.extent >= BLOCK else rows
    block = tirx.Var(str(side.loop.loop_var.name), "int32")
    start = block * size
    if side.extent % size:  # the last block is shifted back: a copy may do its work twice
        start = tirx.min(start, side.extent - size)
    if size == rows:
        return _Cut(side.loop, block, -(-side.extent // size), (), start)
    part = tirx.Var(f"{block.name}_part", "int32")
    return _Cut(side.loop, block, -(-side.extent // size), (part,), start + part * rows)


def _square(copy: Transpose, rows: int, across: Tir, down: Tir) -> Statement:
    """``rows * rows`` elements, from ``across`` and ``down`` on."""
    statements = []

    def named(value: Tir) -> Tir:
        name = tirx.Var("v", value.ty.dtype)
        statements.append(tirx.Bind(name, value))
        return name

    vectors = []
    for j in range(rows):
        place = copy.start + across + (down + j) * copy.down.stride
        load = tirx.BufferLoad(copy.store.value.source, [tirx.Ramp(place, 1, rows)])
        vectors.append(named(load))
    step = 1
    while step < rows:
        low, high = _exchange(rows, step)
        for j in (j for j in range(rows) if not j & step):
            pair = [vectors[j], vectors[j + step]]
            vectors[j] = named(tirx.Shuffle(pair, low))
            vectors[j + step] = named(tirx.Shuffle(pair, high))
        step *= 2
    for i, vector in enumerate(vectors):
        place = copy.at + down + (across + i) * copy.across.stride
        store = tirx.BufferStore(copy.store.buffer, vector, [tirx.Ramp(place, 1, rows)])
        statements.append(store)
    return tirx.SeqStmt(statements)


def _exchange(rows: int, step: int) -> tuple[list[Tir], list[Tir]]:
    """Lanes of two rows, ``step`` apart, after they have swapped the squares of that side."""
    low = [i if not i & step else rows + i - step for i in range(rows)]
    high = [i + step if not i & step else rows + i for i in range(rows)]
    return [tirx.const(i, "int32") for i in low], [tirx.const(i, "int32") for i in high]
