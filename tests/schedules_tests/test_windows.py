"""Windows reduced by columns compute the same, whatever lies around the tensor."""

from __future__ import annotations

import numpy as np
import programs
import pytest
from built import Case

from ansor_lite import workloads as w
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.hardware import Hardware
from schedules.nest import effective_steps
from schedules.rewrites import apply_rewrites
from schedules.steps import Inline, SplitWindow
from search_space.sketch_generation import generate_sketches

F = "float32"
HARDWARE = Hardware(threads=2)


@pytest.mark.parametrize("kind", ("max", "avg"))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (4, 3, 0)])
def test_columns_first_is_the_same(kind: str, kernel: int, stride: int, padding: int) -> None:
    dag = w.pool2d(1, 9, 11, 3, kernel, stride, padding, kind=kind).dag
    if padding:
        dag = apply_rewrites(dag, (Inline(dag.stages[0].name),))
    pool = next(s for s in dag.stages if s.combiner is not None)
    arrays = programs.random_inputs(dag)
    for axis in pool.reduce:
        split = apply_rewrites(dag, (SplitWindow(pool.name, axis.name),))
        columns = split.stage(f"{pool.name}.columns")
        assert [a for a in columns.reduce if a == axis] == []
        before, after = evaluate(dag, arrays), evaluate(split, arrays)
        np.testing.assert_allclose(after[dag.outputs[0]], before[dag.outputs[0]], rtol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(16, 1), (15, 2)])
def test_every_form_of_a_window_is_right(size: int, stride: int) -> None:
    """One that skips padding and shares columns in registers, with and without columns."""
    case = Case(w.pool2d(1, size, size, 33, 3, stride, 1).dag, HARDWARE)
    rng = np.random.default_rng(0)
    sketches = generate_sketches(case.dag, HARDWARE)
    assert {"columns" in sketch.name for sketch in sketches} == {True, False}
    for sketch in sketches:
        for row in sketch.random(3, rng):
            assert case.error(effective_steps(sketch, row)) == 0


def test_windows_that_share_little_are_not_split() -> None:
    names = [s.name for s in generate_sketches(w.pool2d(1, 16, 16, 32, 2, 2).dag, HARDWARE)]
    assert not any("columns" in name for name in names)


def _window(index: Expr, *reduce: str) -> ComputeDAG:
    """``y[i] = max of x[i + k, index]``."""
    axes = (IterAxis("i", 4), IterAxis("j", 4), *(IterAxis(a, 3, REDUCE) for a in reduce))
    row = Call("add", (Axis("i"), Axis("k")), "int64")
    stage = Stage("y", axes, Read("x", (row, index), F), F, "max")
    return ComputeDAG((Tensor("x", (6, 20), F),), (stage,), ("y",))


def _times(axis: str, factor: int) -> Expr:
    return Call("mul", (Axis(axis), Const(factor, "int64")), "int64")


@pytest.mark.parametrize(
    ("index", "reduce"),
    [
        (Axis("j"), ("k",)),  # nothing else to reduce first
        (Axis("j"), ("k", "l")),  # ``l`` moves nothing
        (Call("add", (Axis("j"), _times("l", 2)), "int64"), ("k", "l")),  # gaps between the columns
        (Call("mul", (Axis("j"), Axis("l")), "int64"), ("k", "l")),  # no sum
        (Call("add", (Axis("i"), Axis("l")), "int64"), ("k", "l")),  # ``i`` moves rows as well
    ],
)
def test_refuses_because(index: Expr, reduce: tuple[str, ...]) -> None:
    with pytest.raises(ScheduleError, match="moves no window"):
        apply_rewrites(_window(index, *reduce), (SplitWindow("y", reduce[-1]),))
