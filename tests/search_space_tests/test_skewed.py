"""Rows that run in one loop, one row apart: the same values, every row once, or a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads as w
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.nest import effective_steps
from schedules.sketch import Sketch
from schedules.steps import Annotate, ComputeAt, Reorder, SplitReduction, Tile
from search_space.sketch_generation import generate_sketches

F = "float32"


def _skewed(dag: ComputeDAG) -> list[Sketch]:
    return [s for s in generate_sketches(dag, HARDWARE) if s.name.endswith("rows-skewed")]


@pytest.mark.parametrize("columns", [64, 1024])
@pytest.mark.parametrize("rows", [9, 37])
def test_values_are_those_of_rows_one_after_the_other(rows: int, columns: int) -> None:
    """Where a row between the stages fits registers, and where it stands in the output."""
    case = Case(w.softmax(rows, columns).dag, HARDWARE)
    sketches = _skewed(case.dag)
    assert sketches
    for sketch in sketches:
        for row in sketch.random(2, np.random.default_rng(0)):
            assert case.error(effective_steps(sketch, row)) < 1e-6


def test_a_batch_of_short_groups_of_rows() -> None:
    """Leading axes before the rows, which are blocks of their own."""
    case = Case(_shares((3, 7), 48), HARDWARE)
    for sketch in _skewed(case.dag):
        for row in sketch.random(2, np.random.default_rng(0)):
            assert case.error(effective_steps(sketch, row)) < 1e-6


def _shares(outer: tuple[int, ...], columns: int, late: bool = False) -> ComputeDAG:
    """``exp(x - m) / sum``; ``late``: times ``m``."""
    axes = tuple(IterAxis(f"i{n}", extent) for n, extent in enumerate(outer))
    names = tuple(Axis(a.name) for a in axes)
    j, k = IterAxis("j", columns), IterAxis("j", columns, REDUCE)
    x, m = Read("x", (*names, Axis("j")), F), Read("m", names, F)
    power, total = Read("power", (*names, Axis("j")), F), Read("total", names, F)
    share: Expr = Call("div", (power, total), F)
    stages = (
        Stage("m", (*axes, k), x, F, "max"),
        Stage("power", (*axes, j), Call("exp", (Call("sub", (x, m), F),), F), F),
        Stage("total", (*axes, k), power, F, "sum"),
        Stage("share", (*axes, j), Call("mul", (share, m), F) if late else share, F),
    )
    return ComputeDAG((Tensor("x", (*outer, columns), F),), stages, ("share",))


def test_what_is_needed_two_rows_later_keeps_rows_apart() -> None:
    """There is one row of every tensor, and the next one takes its place."""
    assert _skewed(_shares((16,), 64)) and not _skewed(_shares((16,), 64, late=True))


def test_steps_that_do_not_divide_a_row_keep_rows_apart() -> None:
    assert not _skewed(w.softmax(16, 65).dag)


def test_rows_in_memory_are_not_skewed() -> None:
    assert not _skewed(w.softmax(4096, 4096).dag)


def test_data_may_decide_what_is_computed_but_places_may_not() -> None:
    """A mask that is read leaves a loop as it is."""
    zero = Const(0.0, F)
    by_data = Call("lt", (Read("x", (Axis("i0"), Axis("j")), F), zero), "bool")
    by_place = Call("lt", (Axis("j"), Axis("i0")), "bool")
    for condition, skewed in ((by_data, True), (by_place, False)):
        dag = _shares((16,), 64)
        power = dag.stage("power")
        hidden = replace(power, body=Call("select", (condition, power.body, zero), F))
        stages = tuple(hidden if s is power else s for s in dag.stages)
        case = Case(replace(dag, stages=stages), HARDWARE)
        sketches = _skewed(case.dag)
        assert bool(sketches) == skewed
        for sketch in sketches[:1]:
            assert case.error(effective_steps(sketch, np.zeros(1, np.int32))) < 1e-6


def _doubled(rows: int, width: int = 8, lanes: int = 8) -> None:
    """``b = 2 a; s = sum b; c = b + s`` in skewed rows; raises what refuses."""
    i, j, k = IterAxis("i", rows), IterAxis("j", 32), IterAxis("j", 32, REDUCE)
    a, b = (Read(name, (Axis("i"), Axis("j")), F) for name in "ab")
    stages = (
        Stage("b", (i, j), Call("add", (a, a), F), F),
        Stage("s", (i, k), b, F, "sum"),
        Stage("c", (i, j), Call("add", (b, Read("s", (Axis("i"),), F)), F), F),
    )
    steps = (
        SplitReduction("s", "j", lanes),
        Tile("c", "i", (4,)),
        Tile("c", "j", (8,)),
        Reorder("c", ("i.0", "i.1", "j.0", "j.1")),
        Annotate("c", ("i.1",), "skew"),
        *(ComputeAt(name, "c", "i.1") for name in ("s", "s.lanes", "b")),
        Reorder("s.lanes", ("i.0", "j.0", "j.lane.0")),
        Tile("b", "j", (width,)),
    )
    case = Case(ComputeDAG((Tensor("a", (rows, 32), F),), stages, ("c",)), HARDWARE)
    assert case.error(steps) < 1e-6


@pytest.mark.parametrize("rows", [8, 10, 11])
def test_any_chain_of_stages_along_rows_may_be_skewed(rows: int) -> None:
    _doubled(rows)


@pytest.mark.parametrize(
    ("rows", "width", "lanes", "why"),
    [
        (9, 8, 8, "fewer rows"),
        (8, 4, 8, "other steps"),
        (8, 9, 8, "the end of a row twice"),
        (8, 8, 4, "other steps"),
    ],
)
def test_refuses_because(rows: int, width: int, lanes: int, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        _doubled(rows, width, lanes)
