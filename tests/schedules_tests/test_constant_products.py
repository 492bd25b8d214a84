"""What all rewrites refuse that give the constant of a product another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ansor_lite import workloads
from schedules.dag import ComputeDAG, Stage
from schedules.errors import ScheduleError
from schedules.minimal_filtering import sliding
from schedules.pairs import paired
from schedules.quarters import quarters
from schedules.rewrites import apply_rewrites
from schedules.steps import MinimalFiltering, PairProducts, QuarterProducts, Step

Recognition = Callable[[ComputeDAG, Stage], Any]

MATMUL = workloads.matmul(8, 16, 30, bias=True).dag
FORMS = [
    (paired, MATMUL, PairProducts("matmul")),
    (quarters, MATMUL, QuarterProducts("matmul")),
    (sliding, workloads.conv2d(1, 8, 8, 6, 4, 3).dag, MinimalFiltering("conv", ("h", "w"), 4)),
]


def _variable(dag: ComputeDAG) -> ComputeDAG:
    return replace(dag, inputs=tuple(replace(t, constant=False) for t in dag.inputs))


def _read_twice(dag: ComputeDAG) -> ComputeDAG:
    product = next(s for s in dag.stages if s.combiner is not None)
    return replace(dag, stages=(*dag.stages, replace(product, name="again")))


@pytest.mark.parametrize(("recognise", "dag", "step"), FORMS)
@pytest.mark.parametrize("change", [_variable, _read_twice])
def test_refuses_because_the_constant_is_none_or_not_theirs_alone(
    recognise: Recognition, dag: ComputeDAG, step: Step, change: Callable[[ComputeDAG], ComputeDAG]
) -> None:
    name = next(s.name for s in dag.stages if s.combiner is not None)
    assert recognise(dag, dag.stage(name)) is not None
    changed = change(dag)
    assert recognise(changed, changed.stage(name)) is None
    with pytest.raises(ScheduleError, match=r"product|constant filter"):
        apply_rewrites(changed, (step,))
