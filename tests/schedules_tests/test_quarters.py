"""Products by quarters give what the plain products give, with an eighth fewer multiplications."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansor_lite import workloads
from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Read
from schedules.quarters import quarters
from schedules.rewrites import apply_rewrites
from schedules.steps import PairProducts, QuarterProducts, Step

STEPS = (QuarterProducts("matmul"),)


def _dag(m: int, n: int, k: int) -> ComputeDAG:
    return workloads.matmul(m, n, k, bias=True, activation="relu").dag


def _check(dag: ComputeDAG, steps: tuple[Step, ...]) -> None:
    arrays = programs.random_inputs(dag)
    before, after = evaluate(dag, arrays), programs.rewritten(dag, steps, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_values_are_those_of_the_plain_product(m: int, n: int, k: int) -> None:
    _check(_dag(m, n, 2 * k), STEPS)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(6, 24))
def test_quarters_by_pairs_take_the_constant_that_both_leave(m: int, n: int, k: int) -> None:
    _check(_dag(m, n, 2 * k), (*STEPS, PairProducts("matmul.products")))


def test_seven_of_eight_multiplications() -> None:
    dag = _dag(8, 16, 32)

    def multiplications(stage: Stage) -> int:
        return prod(a.extent for a in stage.axes)

    products = apply_rewrites(dag, STEPS).stage("matmul.products")
    assert 8 * multiplications(products) == 7 * multiplications(dag.stage("matmul"))


@pytest.mark.parametrize("sizes", [(1, 16, 32), (8, 1, 32), (8, 16, 31)])
def test_refuses_because_there_are_no_halves(sizes: tuple[int, int, int]) -> None:
    dag = _dag(*sizes)
    assert quarters(dag, dag.stage("matmul")) is None
    with pytest.raises(ScheduleError, match="no product to halve"):
        apply_rewrites(dag, STEPS)


def test_even_rows_are_halved_rather_than_more_odd_ones() -> None:
    dag = _dag(9, 16, 32)
    product = dag.stage("matmul")
    data = Read("a", tuple(map(Axis, "bik")), "float32")
    body = Call("mul", (data, Read("b", tuple(map(Axis, "kj")), "float32")), "float32")
    batched = replace(product, axes=(IterAxis("b", 4), *product.axes), body=body)
    found = quarters(dag, batched)
    assert found is not None and found.row.name == "b"
