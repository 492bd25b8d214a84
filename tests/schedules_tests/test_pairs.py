"""Products by pairs give what the plain products give, with a third fewer multiplications."""

from __future__ import annotations

from dataclasses import replace

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


def _dag(m: int, n: int, k: int, constant_weights: bool = True) -> ComputeDAG:
    return workloads.matmul(m, n, k, bias=True, constant_weights=constant_weights).dag


def _results(
    dag: ComputeDAG, arrays: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By plain products and by pairs."""
    (output,) = dag.outputs
    return evaluate(dag, arrays)[output], programs.rewritten(dag, STEPS, arrays)[output]


@settings(max_examples=20, deadline=None)
@given(*(st.integers(1, 6) for _ in range(3)))
def test_values_are_those_of_the_plain_product(m: int, n: int, k: int) -> None:
    dag = _dag(m, n, 3 * k)
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
    dag = workloads.matmul(4, 5, 12).dag
    arrays = programs.random_inputs(dag)
    arrays["a"][1] = 0
    assert np.abs(_results(dag, arrays)[1][1]).max() < 1e-30
    arrays["b"][:] = 0
    assert np.abs(_results(dag, arrays)[1]).max() < 1e-30


def test_two_multiplications_of_three() -> None:
    pairs = apply_rewrites(_dag(8, 16, 30), STEPS).stage("matmul.pairs")
    assert sum(isinstance(e, Call) and e.op == "mul" for e in walk(pairs.body)) == 2
    assert pairs.reduce[0].extent == 30 // 3 + 1  # one for what is subtracted


def test_refuses_because_no_groups_divide_the_sum() -> None:
    dag = _dag(8, 16, 32)
    assert paired(dag, dag.stage("matmul")) is None
    with pytest.raises(ScheduleError, match="no product of whole groups"):
        apply_rewrites(dag, STEPS)


def test_refuses_because_the_matrix_is_not_constant() -> None:
    dag = _dag(8, 16, 30, constant_weights=False)
    assert paired(dag, dag.stage("matmul")) is None


def test_refuses_because_another_stage_reads_the_matrix() -> None:
    dag = _dag(8, 16, 30)
    product = dag.stage("matmul")
    twice = replace(dag, stages=(replace(product, name="again"), *dag.stages))
    assert paired(twice, twice.stage("matmul")) is None
