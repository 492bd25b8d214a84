"""Products by pairs give what the plain products give, with a third fewer multiplications."""

from __future__ import annotations

from typing import Any

import numpy as np
import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Call, walk
from schedules.pairs import paired
from schedules.rewrites import apply_rewrites
from schedules.steps import PairProducts

STEPS = (PairProducts("matmul"),)
OPTIONS: tuple[dict[str, Any], ...] = (
    {"kernel": 1},
    {"kernel": 1, "stride": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
)


def _dag(m: int, n: int, k: int) -> ComputeDAG:
    return workloads.matmul(m, n, k, bias=True).dag


def _results(
    dag: ComputeDAG, arrays: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By plain products and by pairs."""
    (output,) = dag.outputs
    return evaluate(dag, arrays)[output], programs.rewritten(dag, STEPS, arrays)[output]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(6, 70))
def test_values_are_those_of_the_plain_product(m: int, n: int, k: int) -> None:
    dag = _dag(m, n, k)
    before, after = _results(dag, programs.random_inputs(dag))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(-80, 80), st.integers(-80, 80))
def test_sizes_of_rows_and_matrix_do_not_matter(row: int, matrix: int) -> None:
    dag = workloads.matmul(4, 5, 12).dag
    arrays = programs.random_inputs(dag)
    scale = float(2.0 ** max(-120, min(120, row + matrix)))
    plain = _results(dag, arrays)[0] * np.float32(scale)
    arrays["a"] = arrays["a"] * np.float32(2.0**row)
    arrays["b"] = arrays["b"] * np.float32(scale / 2.0**row)
    np.testing.assert_allclose(_results(dag, arrays)[1], plain, rtol=1e-4, atol=1e-5 * scale)


def test_rows_and_matrices_of_zeros_give_nothing_to_speak_of() -> None:
    dag = workloads.matmul(4, 5, 13).dag
    arrays = programs.random_inputs(dag)
    arrays["a"][1] = 0
    assert np.abs(_results(dag, arrays)[1][1]).max() < 1e-30
    arrays["b"][:] = 0
    assert np.abs(_results(dag, arrays)[1]).max() < 1e-30


@pytest.mark.parametrize("options", OPTIONS)
def test_convolutions_have_pairs_of_channels(options: dict[str, Any]) -> None:
    dag = workloads.conv2d(1, 7, 6, 17, 5, **options, residual=True).dag
    arrays = programs.random_inputs(dag)
    (output,) = dag.outputs
    after = programs.rewritten(dag, (PairProducts("conv"),), arrays)[output]
    np.testing.assert_allclose(after, evaluate(dag, arrays)[output], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [30, 31, 32])
def test_two_multiplications_of_three(k: int) -> None:
    pairs = apply_rewrites(_dag(8, 16, k), STEPS).stage("matmul.pairs")
    assert sum(isinstance(e, Call) and e.op == "mul" for e in walk(pairs.body)) == 2
    assert pairs.reduce[0].extent == -(-k // 3) + 1  # one for what is subtracted


def test_refuses_because_the_sum_is_too_short() -> None:
    dag = _dag(8, 16, 5)
    assert paired(dag, dag.stage("matmul")) is None
    with pytest.raises(ScheduleError, match="no product with a constant"):
        apply_rewrites(dag, STEPS)
