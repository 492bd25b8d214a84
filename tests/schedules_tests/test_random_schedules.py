"""Schedules drawn blindly: both readers agree, and the result is right."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import disagreements
from built import Case
from random_schedules import random_steps
from small_tasks import HARDWARE, SMALL

from schedules.codec import steps_from_json, steps_to_json
from schedules.sketch import closed

PROGRAMS = (
    *("conv2d_strided", "conv2d_dilated", "depthwise_strided", "conv1d", "transposed"),
    *("matmul", "batch_matmul_transposed", "attention", "softmax", "layer_norm", "max_pool"),
    *("average_pool", "five_index_einsum", "banded_matmul", "convolution_with_pooling"),
)
EMPTY = np.zeros((1, 0), dtype=np.int32)


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_readers_agree(name: str) -> None:
    """Touched elements are a bound here: a region may have gaps where a stride skips elements."""
    dag = SMALL[name]()
    for seed in range(6):
        steps = random_steps(dag, np.random.default_rng([seed, len(name)]))
        found = disagreements(closed(dag, steps), EMPTY, HARDWARE, bound=True)
        assert not found, f"seed {seed}: {found[0]}"
        assert steps_from_json(steps_to_json(steps)) == steps


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_result_is_right(name: str) -> None:
    case = Case(SMALL[name](), HARDWARE)
    for seed in range(2):
        steps = random_steps(case.dag, np.random.default_rng([seed, len(name)]))
        assert case.error(steps) < 1e-5, steps
