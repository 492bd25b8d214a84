"""Products by pairs are tried where rows and columns pay for what they add."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.nest import effective_steps
from schedules.steps import Inline, Pack, PairProducts
from search_space.sketch_generation import generate_sketches


def _matmul(m: int, n: int, k: int) -> ComputeDAG:
    return workloads.matmul(m, n, k, bias=True, activation="gelu").dag


def _by_pairs(dag: ComputeDAG, exact: bool = False) -> list[str]:
    sketches = generate_sketches(dag, HARDWARE, exact=exact)
    return [s.name for s in sketches if any(isinstance(x, PairProducts) for x in s.steps)]


def test_a_branch_beside_the_plain_product() -> None:
    dag = _matmul(64, 80, 96)
    assert _by_pairs(dag) == ["pairs/rows/rows-fused", "pairs/columns/rows-fused"]
    assert len(_by_pairs(dag)) < len(generate_sketches(dag, HARDWARE))


@pytest.mark.parametrize("sizes", [(24, 80, 96), (64, 32, 96), (64, 80, 32)])
def test_refuses_because_it_cannot_pay(sizes: tuple[int, int, int]) -> None:
    assert not _by_pairs(_matmul(*sizes))


def test_products_of_one_task_are_computed_alike() -> None:
    dag = workloads.gated_matmul(64, 80, 96).dag
    products = [
        sum(isinstance(x, PairProducts) for x in sketch.steps)
        for sketch in generate_sketches(dag, HARDWARE)
    ]
    assert set(products) == {0, 2}


def test_refuses_because_results_are_to_be_exact() -> None:
    assert not _by_pairs(_matmul(64, 80, 96), exact=True)


STRIDED = workloads.conv2d(1, 14, 14, 64, 80, 3, stride=2, padding=1, residual=True).dag


@pytest.mark.parametrize("dag", [_matmul(64, 80, 96), _matmul(67, 73, 101), STRIDED])
def test_programs_are_right(dag: ComputeDAG) -> None:
    case, rng = Case(dag, HARDWARE), np.random.default_rng(0)
    sketches = [s for s in generate_sketches(dag, HARDWARE) if "pairs" in s.name.split("/")]
    assert sketches
    for sketch in sketches:
        assert any(isinstance(s, Pack) for s in sketch.steps)
        for row in sketch.random(2, rng):
            assert case.error(effective_steps(sketch, row)) < 1e-5


def test_padding_is_read_through() -> None:
    (sketch, *_) = (s for s in generate_sketches(STRIDED, HARDWARE) if "pairs" in s.name)
    assert any(isinstance(x, Inline) and x.stage == "padded" for x in sketch.steps)
