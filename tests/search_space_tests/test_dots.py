"""Few rows and operands that lie along the sum: the lanes of a vector are parts of the sum."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.nest import effective_steps
from schedules.steps import ComputeAt
from search_space.sketch_generation import generate_sketches


def _names(dag: ComputeDAG) -> list[str]:
    return [s.name for s in generate_sketches(dag, HARDWARE)]


def _product(rows: int, depth: int, transposed: bool = True) -> ComputeDAG:
    return workloads.batch_matmul(3, rows, 37, depth, transpose_b=transposed).dag


def test_partial_sums_and_totals_are_computed_in_one_block() -> None:
    sketch = next(s for s in generate_sketches(_product(4, 64), HARDWARE) if s.name == "dots")
    places = {s.stage: (s.target, s.loop) for s in sketch.steps if isinstance(s, ComputeAt)}
    assert places["matmul.lanes"] == places["matmul.acc"] == ("matmul", "j.0")


def test_results_in_lanes_are_tried_as_well() -> None:
    names = _names(_product(4, 64))
    assert names.count("dots") == 1
    assert len(names) > 1


@pytest.mark.parametrize(
    ("rows", "depth", "transposed"),
    [(9, 64, True), (4, 24, True), (4, 16, True), (4, 64, False)],
    ids=["many rows", "no whole vectors", "one vector", "operand along the results"],
)
def test_refuses_because(rows: int, depth: int, transposed: bool) -> None:
    assert "dots" not in _names(_product(rows, depth, transposed))


def test_grouped_queries_of_one_token() -> None:
    """Scores of a group are dots of four rows; the shares of the keys follow as before."""
    dag = workloads.attention(8, 1, 53, 32, kv_heads=2).dag
    sketches = [s for s in generate_sketches(dag, HARDWARE) if "dots" in s.name.split("/")]
    case, rng = Case(dag, HARDWARE), np.random.default_rng(0)
    for sketch in sketches[:2]:
        (row,) = sketch.random(1, rng)
        assert case.error(effective_steps(sketch, row)) < 1e-5


def test_programs_are_right() -> None:
    dag = _product(4, 64)
    case, rng = Case(dag, HARDWARE), np.random.default_rng(0)
    sketch = next(s for s in generate_sketches(dag, HARDWARE) if s.name == "dots")
    for row in sketch.random(4, rng):
        assert case.error(effective_steps(sketch, row)) < 1e-5
