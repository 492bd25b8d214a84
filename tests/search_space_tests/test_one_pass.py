"""Sketches with one pass for mean and variance: where they are tried, and that they are right."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads as w
from schedules.dag import ComputeDAG
from schedules.nest import effective_steps
from schedules.sketch import Sketch
from schedules.steps import ShiftedMoments
from search_space.sketch_generation import default_steps, generate_sketches


def _one_pass(dag: ComputeDAG, exact: bool = False) -> list[Sketch]:
    sketches = generate_sketches(dag, HARDWARE, exact=exact)
    return [s for s in sketches if any(isinstance(step, ShiftedMoments) for step in s.steps)]


@pytest.mark.parametrize(
    "dag",
    [
        w.layer_norm(37, 100).dag,
        w.layer_norm(64, 4096).dag,
        w.group_norm(1, 9, 7, 40, 4).dag,
        w.group_norm(2, 8, 8, 32, 32).dag,
    ],
)
def test_programs_agree_with_two_passes(dag: ComputeDAG) -> None:
    case, rng = Case(dag, HARDWARE), np.random.default_rng(0)
    found = _one_pass(dag)
    assert found
    for sketch in found:
        assert case.error(effective_steps(sketch, sketch.random(1, rng)[0])) < 1e-5


def test_none_where_rounding_is_to_stay() -> None:
    dag = w.layer_norm(64, 256).dag
    assert not _one_pass(dag, exact=True)
    assert not any(isinstance(step, ShiftedMoments) for step in default_steps(dag, HARDWARE))


@pytest.mark.parametrize(("columns", "points"), [(768, 16), (4096, 64), (100, 16)])
def test_more_points_make_the_guess_of_long_rows(columns: int, points: int) -> None:
    (step,) = {s.steps[0] for s in _one_pass(w.layer_norm(8, columns).dag)}
    assert step == ShiftedMoments("squares", points)


def test_short_sums_are_left() -> None:
    """A guess would be as much work as the sum."""
    assert not _one_pass(w.layer_norm(64, 24).dag)


def test_both_sums_share_a_loop() -> None:
    """No thread adds up one of them alone, whether rows or columns are summed."""
    dags = (w.layer_norm(64, 768).dag, w.group_norm(1, 64, 64, 64, 4).dag)
    for sketch in (s for dag in dags for s in _one_pass(dag)):
        (adding,) = (
            stage
            for stage in sketch.plan.stages
            if any(x.axis.endswith("power") for x in stage.loops) and len(stage.accesses) > 1
        )
        kinds = {adding.annotations.get(x.name) for x in adding.loops if x.axis.endswith("power")}
        assert kinds == {"unroll"}, sketch.name
