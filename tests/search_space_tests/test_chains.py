"""Chains of accumulations are computed block by block, where nothing else needs what is between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_tasks import HARDWARE, SMALL, chain

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.steps import ComputeAt
from search_space.sketch_generation import generate_sketches

PAIR = (workloads.matmul(16, 32, 24, activation="relu"), workloads.matmul(16, 24, 32))


def _places(dag: ComputeDAG) -> dict[str, tuple[str, str]]:
    """Where every stage of the only sketch is computed."""
    (sketch,) = generate_sketches(dag, HARDWARE, exact=True)
    assert "chain" in sketch.name.split("/")
    return {s.stage: (s.target, s.loop) for s in sketch.steps if isinstance(s, ComputeAt)}


def test_places_of_products_around_an_accumulation_that_keeps_columns_apart() -> None:
    """``s1`` by panels of ``s6``, which is whole where ``s9`` adds over its columns."""
    places = _places(SMALL["chain_inverted_residual"]())
    assert places["s6"] == ("s9", "i1.0")
    assert places["s1"] == ("s6", "i3.0")


def test_blocks_of_rows_and_columns_where_the_last_accumulation_keeps_columns_apart() -> None:
    dag = SMALL["chain_panels"]()
    last = dag.stages[-1]
    assert (last.name, f"{last.spatial[-1].name}.0") in _places(dag).values()


def _names(dag: ComputeDAG) -> list[str]:
    return [s.name for s in generate_sketches(dag, HARDWARE)]


def test_refuses_because_another_stage_reads_what_is_between() -> None:
    dag = chain(*PAIR)
    between = dag.stages[len(PAIR[0].dag.stages) - 1].name
    assert all("chain" in name for name in _names(dag))
    assert not any(
        "chain" in name for name in _names(replace(dag, outputs=(*dag.outputs, between)))
    )


@pytest.mark.parametrize("name", ["conv2d", "attention", "softmax"])
def test_refuses_because_there_is_one_accumulation_or_work_between(name: str) -> None:
    assert not any("chain" in name for name in _names(SMALL[name]()))
