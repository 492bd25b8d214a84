"""Mean and variance in one pass: the values of two passes, whatever the rows hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ansor_lite import workloads as w
from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Expr, Read, rebuild
from schedules.moments import squares_around_mean
from schedules.rewrites import apply_rewrites
from schedules.steps import Inline, ShiftedMoments

F = "float32"
EPSILON = float(np.finfo(np.float32).eps)
COLUMNS, POINTS = 96, 16
DAG = w.layer_norm(1, COLUMNS, epsilon=0.0).dag
ONE_PASS = ShiftedMoments("squares", POINTS)
Row = NDArray[np.float32]


def _variance(dag: ComputeDAG, row: Row) -> float:
    """Of ``row``, as the program computes it."""
    only = replace(dag, outputs=("squares",))
    arrays = {"x": row[None], "gamma": np.ones(COLUMNS, F), "beta": np.zeros(COLUMNS, F)}
    return float(evaluate(only, arrays)["squares"][0]) / COLUMNS


@pytest.mark.parametrize(
    ("dag", "stage"),
    [
        (w.layer_norm(5, 96).dag, "squares"),
        (w.group_norm(2, 5, 7, 24, 4).dag, "square_columns"),
        (w.group_norm(2, 5, 7, 8, 8).dag, "square_columns"),
    ],
)
def test_values_of_two_passes(dag: ComputeDAG, stage: str) -> None:
    """Also where the mean is that of more than one sum is over."""
    rewritten = apply_rewrites(dag, (ShiftedMoments(stage, 5),))
    rng = np.random.default_rng(0)
    arrays = {t.name: rng.normal(3, 1, t.shape).astype(F) for t in dag.inputs}
    (name,) = dag.outputs
    before, after = evaluate(dag, arrays)[name], evaluate(rewritten, arrays)[name]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_one_pass_over_the_data() -> None:
    """Beside the guess only one sum is left that reads all of it."""
    rewritten = apply_rewrites(DAG, (ONE_PASS,))
    sums = [s for s in rewritten.stages if any(a.extent == COLUMNS for a in s.reduce)]
    assert [s.name for s in sums] == ["squares.moments"]


@given(
    first=st.floats(-1e4, 1e4, width=32),
    offset=st.floats(-1e4, 1e4, width=32),
    spread=st.floats(0.0009765625, 1e3, width=32),
    seed=st.integers(0, 99),
)
def test_no_guess_costs_more_than_the_bound(
    first: float, offset: float, spread: float, seed: int
) -> None:
    """Worst are first elements far from all others; two passes feel the rounded mean as well."""
    rng = np.random.default_rng(seed)
    row = rng.normal(offset, spread, COLUMNS).astype(F)
    row[:POINTS] = rng.normal(first, spread, POINTS).astype(F)
    exact = float(np.var(row.astype(np.float64)))
    rounded_mean = (4 * EPSILON * float(np.abs(row).max())) ** 2
    bound = 8 * EPSILON * (1 + COLUMNS / POINTS) * exact + rounded_mean
    assert abs(_variance(apply_rewrites(DAG, (ONE_PASS,)), row) - exact) <= bound


@pytest.mark.parametrize("value", [0.1, 1e-30, 12345.678])
def test_equal_elements_have_no_variance(value: float) -> None:
    variance = _variance(apply_rewrites(DAG, (ONE_PASS,)), np.full(COLUMNS, value, F))
    assert 0 <= variance <= (EPSILON * value) ** 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, COLUMNS - 1])
def test_rows_with_no_numbers(value: float, place: int) -> None:
    """Two passes give NaN everywhere as well."""
    row = np.ones((1, COLUMNS), F)
    row[0, place] = value
    arrays = {"x": row, "gamma": np.ones(COLUMNS, F), "beta": np.zeros(COLUMNS, F)}
    for dag in (DAG, apply_rewrites(DAG, (ONE_PASS,))):
        assert np.isnan(evaluate(dag, arrays)["normed"]).all()


def test_what_is_added_first_may_be_an_expression() -> None:
    """A residual that is added in the row: both sums read the same two tensors."""
    dag = _with_body(("total", "squares"), _plus_one)
    assert squares_around_mean(dag, dag.stage("squares")) is not None


def _plus_one(node: Expr) -> Expr | None:
    if isinstance(node, Read) and node.tensor == "x":
        return Call("add", (node, Const(1.0, F)), F)
    return None


def _with_body(names: tuple[str, ...], change: Callable[[Expr], Expr | None]) -> ComputeDAG:
    stages = (
        replace(s, body=rebuild(s.body, change)) if s.name in names else s for s in DAG.stages
    )
    return replace(DAG, stages=tuple(stages))


def _along_columns(node: Expr) -> Expr | None:
    """The mean of a row, but of another one for every element."""
    return replace(node, indices=(Axis("j"),)) if node == Read("mean", (Axis("i"),), F) else None


@pytest.mark.parametrize(
    ("dag", "step"),
    [
        (DAG, ShiftedMoments("nothing", POINTS)),
        (DAG, ShiftedMoments("total", POINTS)),
        (DAG, ShiftedMoments("squares", COLUMNS + 1)),
        (DAG, ShiftedMoments("squares", 0)),
        (_with_body(("total",), _plus_one), ONE_PASS),
        (_with_body(("squares",), _along_columns), ONE_PASS),
        (w.rms_norm(3, COLUMNS).dag, ONE_PASS),
        (apply_rewrites(DAG, (ONE_PASS,)), ONE_PASS),
    ],
)
def test_refuses_other_sums(dag: ComputeDAG, step: ShiftedMoments) -> None:
    with pytest.raises(ScheduleError, match="no squares around a mean"):
        apply_rewrites(dag, (step,))


def test_what_follows_is_ordinary() -> None:
    """The sums that are left are elementwise, and can be inlined."""
    rewritten = apply_rewrites(DAG, (ONE_PASS, Inline("squares.shift")))
    assert {s.name for s in rewritten.stages} >= {"squares.first", "squares.moments", "mean"}
