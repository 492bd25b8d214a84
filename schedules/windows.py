"""A window reduced one axis at a time: first along its columns, which neighbouring windows share.

The largest of 3x3 takes 8 operations; of columns of 3, and then of 3 columns, 4. Sums and products
allow it as well, up to the order of their terms. Separate from ``rewrites.py`` because it first has
to find the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedules.dag import SPATIAL, ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Affine, Axis, Call, Const, Expr, Read, affine, axes_in
from schedules.guards import guarded_term, restored
from schedules.steps import SplitWindow


@dataclass(frozen=True, slots=True)
class Window:
    """``axis`` (spatial, in steps of ``stride``) and ``tap`` (reduce) enter a read as a sum."""

    axis: IterAxis
    tap: IterAxis
    stride: int
    dimension: int
    read: Read
    conditions: tuple[Expr, ...]

    @property
    def columns(self) -> int:
        """Values of the sum, counted from its start."""
        return self.stride * (self.axis.extent - 1) + self.tap.extent

    def saves(self, others: int) -> bool:
        """Fewer operations by columns, of windows of ``others`` by ``tap`` elements."""
        by_column = self.stride * (others - 1) + self.tap.extent - 1
        return by_column < others * self.tap.extent - 1


def window_along(stage: Stage, tap: str) -> Window | None:
    """The window that ``stage`` reduces with ``tap`` as one of several axes, if it is one."""
    if stage.combiner is None or len(stage.reduce) < 2:
        return None
    term = guarded_term(stage.combiner, stage.body)
    if not isinstance(term.body, Read):
        return None
    indices = [affine(index) for index in term.body.indices]
    moving = [d for d, index in enumerate(indices) if index is None or index.coefficient(tap)]
    index = indices[moving[0]] if len(moving) == 1 else None
    if index is None or len(index.terms) != 2 or index.coefficient(tap) != 1:
        return None
    (name, stride) = next((n, c) for n, c in index.terms if n != tap)
    axis = stage.axis(name)
    alone = sum(name in axes_in(i) for i in term.body.indices) == 1
    if axis.kind != SPATIAL or stride < 1 or not alone:
        return None
    window = Window(axis, stage.axis(tap), stride, moving[0], term.body, term.conditions)
    return window if all(_by_column(c, window) is not None for c in term.conditions) else None


def split_window(dag: ComputeDAG, step: SplitWindow) -> ComputeDAG:
    """Reduce ``step.axis`` last, over results for columns; raises :class:`ScheduleError`."""
    stage = dag.by_name.get(step.stage)
    window = window_along(stage, step.axis) if stage is not None else None
    if stage is None or window is None or stage.combiner is None:
        raise ScheduleError(f"split_window of {step.stage!r}: {step.axis!r} moves no window")
    inner = _columns(stage, stage.combiner, window)
    places = [
        _column(window) if a.name == window.axis.name else Axis(a.name) for a in stage.spatial
    ]
    outer = replace(
        stage,
        axes=(*stage.spatial, window.tap),
        body=Read(inner.name, tuple(places), stage.dtype),
    )
    stages = tuple(t for s in dag.stages for t in ((inner, outer) if s is stage else (s,)))
    return replace(dag, stages=stages)


def _columns(stage: Stage, combiner: str, window: Window) -> Stage:
    """``stage`` without the tap, for every column of every window once."""
    column = IterAxis(window.axis.name, window.columns)
    axes = tuple(column if a == window.axis else a for a in stage.axes if a.name != window.tap.name)
    index = affine(window.read.indices[window.dimension])
    assert index is not None
    indices = list(window.read.indices)
    indices[window.dimension] = _sum(Affine(((column.name, 1),), index.constant))
    conditions = tuple(_by_column(c, window) or c for c in window.conditions)
    read = replace(window.read, indices=tuple(indices))
    return Stage(
        f"{stage.name}.columns", axes, restored(combiner, conditions, read), stage.dtype, combiner
    )


def _column(window: Window) -> Expr:
    return _sum(Affine(((window.axis.name, window.stride), (window.tap.name, 1)), 0))


def _by_column(condition: Expr, window: Window) -> Expr | None:
    """A condition as one on the column, or ``None`` where columns do not decide it."""
    pair = {window.axis.name, window.tap.name}
    if not axes_in(condition) & pair:
        return condition
    if not isinstance(condition, Call) or len(condition.args) != 2:
        return None
    sides = [_side_by_column(side, window) for side in condition.args]
    if sides[0] is None or sides[1] is None:
        return None
    return Call(condition.op, (sides[0], sides[1]), condition.dtype)


def _side_by_column(side: Expr, window: Window) -> Expr | None:
    index = affine(side)
    if index is None:
        return None
    factor = index.coefficient(window.tap.name)
    if index.coefficient(window.axis.name) != factor * window.stride:
        return None
    pair = (window.axis.name, window.tap.name)
    rest = tuple((name, c) for name, c in index.terms if name not in pair)
    terms = (*rest, (window.axis.name, factor)) if factor else rest
    return _sum(Affine(terms, index.constant))


def _sum(index: Affine) -> Expr:
    total: Expr | None = None
    for name, coefficient in index.terms:
        factor = Const(coefficient, INDEX_DTYPE)
        term: Expr = Axis(name)
        term = term if coefficient == 1 else Call("mul", (term, factor), INDEX_DTYPE)
        total = term if total is None else Call("add", (total, term), INDEX_DTYPE)
    constant = Const(index.constant, INDEX_DTYPE)
    if total is None or index.constant == 0:
        return constant if total is None else total
    return Call("add", (total, constant), INDEX_DTYPE)
