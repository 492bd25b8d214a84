"""Sums of sliding products get sketches with fewer multiplications, where that can pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from built import Case

from ansor_lite import workloads
from schedules.hardware import Hardware
from schedules.nest import effective_steps
from schedules.steps import ROUNDING
from search_space.sketch_generation import default_steps, generate_sketches

HARDWARE = Hardware(threads=2)


def _formulations(exact: bool = False, **options: Any) -> set[str]:
    sizes = {"n": 1, "h": 8, "w": 8, "ci": 16, "co": 16, "kernel": 3} | options
    sketches = generate_sketches(workloads.conv2d(**sizes).dag, HARDWARE, exact=exact)
    return {s.name.split("/")[0] for s in sketches if s.name.startswith("filter")}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"padding": 1}, {"filter2", "filter4"}),
        ({"kernel": 5, "padding": 2}, {"filter2"}),
        ({"kernel": 2, "padding": 1}, {"filter3", "filter5"}),
        ({"h": 3, "w": 3}, set()),  # one result: a tile would be mostly waste
        ({"kernel": 1}, set()),
        ({"stride": 2}, set()),
        ({"constant_weights": False}, set()),
        ({"padding": 1, "exact": True}, set()),
    ],
)
def test_formulations(options: dict[str, Any], names: set[str]) -> None:
    assert _formulations(**options) == names


def test_the_schedule_by_rule_rounds_like_the_plain_sum() -> None:
    dag = workloads.conv2d(1, 8, 8, 16, 16, 3, padding=1).dag
    assert not any(isinstance(step, ROUNDING) for step in default_steps(dag, HARDWARE))


@pytest.mark.parametrize("size", [8, 7])
def test_random_candidates_are_right(size: int) -> None:
    """Full tiles, whose output is written in place, and tiles that are not full."""
    dag = workloads.conv2d(1, size, size, 5, 20, 3, padding=1, residual=True).dag
    case = Case(dag, HARDWARE)
    rng = np.random.default_rng(0)
    for sketch in generate_sketches(dag, HARDWARE):
        if sketch.name.startswith("filter"):
            row = sketch.random(1, rng)[0]
            assert case.error(effective_steps(sketch, row)) < 1e-5


def test_three_sliding_axes_filter_the_last_two_once() -> None:
    dag = workloads.conv3d(1, 4, 6, 6, 5, 20, 3, padding=1).dag
    case = Case(dag, HARDWARE)
    rng = np.random.default_rng(0)
    for sketch in generate_sketches(dag, HARDWARE):
        filtered = [step for step in sketch.steps if isinstance(step, ROUNDING)]
        assert len(filtered) <= 1
        if filtered:
            assert case.error(effective_steps(sketch, sketch.random(1, rng)[0])) < 1e-5
