"""Products by quarters are tried where the additions are few beside what is saved."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.nest import effective_steps
from schedules.steps import QuarterProducts
from search_space.sketch_generation import generate_sketches


def _matmul(m: int, n: int, k: int) -> ComputeDAG:
    return workloads.matmul(m, n, k, bias=True, activation="gelu", residual=True).dag


def _quartered(dag: ComputeDAG, exact: bool = False) -> list[str]:
    sketches = generate_sketches(dag, HARDWARE, exact=exact)
    return [s.name for s in sketches if any(isinstance(x, QuarterProducts) for x in s.steps)]


def test_a_branch_beside_the_plain_product() -> None:
    dag = _matmul(64, 320, 384)
    assert "quarters/tail" in _quartered(dag)
    assert len(_quartered(dag)) < len(generate_sketches(dag, HARDWARE))


@pytest.mark.parametrize("sizes", [(32, 320, 384), (64, 128, 384), (64, 320, 96), (64, 320, 385)])
def test_refuses_because_it_cannot_pay_or_the_sum_is_odd(sizes: tuple[int, int, int]) -> None:
    assert not _quartered(_matmul(*sizes))


def test_refuses_because_results_are_to_be_exact() -> None:
    assert not _quartered(_matmul(64, 320, 384), exact=True)


def test_quarters_by_pairs_beside_both() -> None:
    names = [s.name for s in generate_sketches(_matmul(128, 320, 384), HARDWARE)]
    assert {"quarters/tail", "pairs/rows/rows-fused", "quarters/pairs/tail/rows-fused"} <= {*names}
    assert len(names) == len(set(names))


@pytest.mark.parametrize("sizes", [(64, 320, 384), (67, 321, 384), (129, 320, 384)])
def test_programs_are_right(sizes: tuple[int, int, int]) -> None:
    dag = _matmul(*sizes)
    case, rng = Case(dag, HARDWARE), np.random.default_rng(0)
    for sketch in generate_sketches(dag, HARDWARE):
        if "quarters" in sketch.name.split("/"):
            (row,) = sketch.random(1, rng)
            assert case.error(effective_steps(sketch, row)) < 1e-5


def test_what_halves_share_comes_from_the_first_one_in_every_program() -> None:
    """Their values differ by rounding, so any other order would show."""
    dag = _matmul(67, 321, 384)
    case, rng = Case(dag, HARDWARE), np.random.default_rng(1)
    found = []
    for sketch in generate_sketches(dag, HARDWARE):
        if sketch.name in ("quarters/tail", "quarters/rows"):
            (row,) = sketch.random(1, rng)
            (outputs,) = case.run(effective_steps(sketch, row)).values()
            found.append(outputs)
    np.testing.assert_array_equal(*found)
