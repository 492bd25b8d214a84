"""Writes rows that run in one loop, one row apart. Read ``schedules/skewed_rows.py`` first.

Of every tensor inside the rows there is one row. So what is furthest behind goes first in every
step: it reads an element of the row before where the next stage then writes the same one of its
row. Separate from ``program.py`` because the order of statements is another one here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tvm import tirx

from schedules.dag import REDUCE
from schedules.lower.linear import Positions
from schedules.plan import Loop, StagePlan
from schedules.skewed_rows import Member, SkewedRows

Tir: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Writer:
    """What ``program.py`` writes of a stage: all, its initialisation, what is inside a loop.

    ``values``: of loops, for all that is written.
    """

    values: dict[Loop, Any]
    whole: Callable[[StagePlan], Tir]
    initialised: Callable[[StagePlan, int], Tir]
    inside: Callable[[StagePlan, int], Tir]


def skewed(writer: Writer, rows: SkewedRows, row: Loop, positions: Positions) -> list[Tir]:
    """The statements of a block of rows; ``row`` is the loop over them."""
    count = _count(row, writer.values, positions)
    write = _Rows(writer, rows, row)
    last = rows.phases - 1
    before = [s for n in range(last) for s in write.beside(0, n, n)]
    time = tirx.Var(f"{row.axis}_row", "int32")
    steady = tirx.SeqStmt(write.beside(0, last, time + last))
    loop = tirx.For(time, 0, count - last, tirx.ForKind.SERIAL, steady)
    after = [s for n in range(last) for s in write.beside(n + 1, last, count + n)]
    return [*before, loop, *after]


def _count(row: Loop, values: Mapping[Loop, Any], positions: Positions) -> Any:
    """Rows of a block; the last one has those that are left."""
    block = replace(row, level=row.level - 1)
    total, rows = positions.sizes(block)
    return tirx.min(rows, total - values[block] * rows) if total % rows else rows


class _Rows:
    def __init__(self, writer: Writer, rows: SkewedRows, row: Loop) -> None:
        self.writer, self.rows, self.row = writer, rows, row

    def beside(self, first: int, last: int, time: Any) -> list[Tir]:
        """Row ``time - p`` of the phases ``p`` from ``first`` to ``last``."""
        members = [m for p in range(last, first - 1, -1) for m in self.rows.members if m.phase == p]
        walking = [m for m in members if m.walk >= 0]
        step = tirx.Var("step", "int32")
        start = [self._begun(m, time) for m in walking if _accumulates(m)]
        body = [self._walked(m, time, step) for m in walking]
        loop = tirx.For(step, 0, self.rows.steps, tirx.ForKind.SERIAL, _sequence(body))
        return [*start, loop, *(self._short(m, time) for m in members if m.walk < 0)]

    def _begun(self, member: Member, time: Any) -> Tir:
        self.writer.values[self.row] = time - member.phase
        return self.writer.initialised(member.stage, member.walk)

    def _walked(self, member: Member, time: Any, step: Any) -> Tir:
        self.writer.values[self.row] = time - member.phase
        for loop in member.stage.loops[: member.walk]:
            self.writer.values.setdefault(loop, 0)
        self.writer.values[member.stage.loops[member.walk]] = step
        return self.writer.inside(member.stage, member.walk + 1)

    def _short(self, member: Member, time: Any) -> Tir:
        self.writer.values[self.row] = time - member.phase
        return self.writer.whole(member.stage)


def _accumulates(member: Member) -> bool:
    return member.stage.loops[member.walk].kind == REDUCE


def _sequence(statements: list[Tir]) -> Tir:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
