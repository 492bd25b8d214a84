"""A few rows over long operands: all of a chunk in one nest, sums over chunks behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from brute_force import disagreements
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG, Tensor
from schedules.expr import Axis, Call, Read
from schedules.nest import effective_steps
from schedules.sketch import Sketch
from schedules.steps import ComputeAt, StoreAt
from search_space.sketch_generation import default_steps, generate_sketches

TINY = replace(HARDWARE, l2_bytes=4096)
SHAPES: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "grouped heads": ((4, 1, 512, 32), {"kv_heads": 2}),
    "a head each": ((2, 1, 512, 32), {}),
    "some queries": ((2, 3, 512, 32), {}),
    "queries of groups": ((4, 2, 512, 32), {"kv_heads": 2}),
    "an odd number of keys": ((2, 1, 585, 48), {}),
    "tokens outside of heads": ((4, 1, 512, 32), {"kv_heads": 2, "layout": "bshd"}),
}


def _dag(name: str) -> ComputeDAG:
    shape, options = SHAPES[name]
    return workloads.attention(*shape, **options).dag


def _masked(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` with ``mask[b, j]`` added to the scores."""
    mask = Read("mask", (Axis("b"), Axis("j")), "float32")
    scaled = dag.stage("scaled")
    added = replace(scaled, body=Call("add", (scaled.body, mask), "float32"))
    shape = (1, scaled.axis("j").extent)
    return replace(
        dag,
        inputs=(*dag.inputs, Tensor("mask", shape, "float32")),
        stages=tuple(added if s is scaled else s for s in dag.stages),
    )


def _sketches(dag: ComputeDAG) -> list[Sketch]:
    return [s for s in generate_sketches(dag, TINY) if s.name.startswith("stream")]


@pytest.mark.parametrize("name", SHAPES)
def test_the_program_is_as_followed_and_right(name: str) -> None:
    dag = _dag(name)
    sketch = _sketches(dag)[0]
    rows = sketch.random(2, np.random.default_rng(0))
    found = disagreements(sketch, rows, TINY)
    assert not found, found[0]
    case = Case(dag, TINY)
    for steps in (*(effective_steps(sketch, row) for row in rows), default_steps(dag, TINY)):
        assert case.error(steps) < 1e-5


def test_a_mask_is_added_to_the_scores() -> None:
    dag = _masked(_dag("grouped heads"))
    case, sketches = Case(dag, TINY), _sketches(dag)
    assert sketches
    for sketch in sketches:
        (row,) = sketch.random(1, np.random.default_rng(0))
        assert case.error(effective_steps(sketch, row)) < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_there_are_two_nests_and_few_sketches(name: str) -> None:
    sketches = _sketches(_dag(name))
    assert 1 <= len(sketches) <= 4
    assert len(sketches) == len(generate_sketches(_dag(name), TINY))
    for sketch in sketches:
        roots = [s.name for s in sketch.plan.stages if s.attached is None]
        assert roots == ["attended.undivided.part", sketch.dag.outputs[0]]


def test_threads_share_heads_and_chunks_and_keep_what_the_sums_need() -> None:
    sketch = _sketches(_dag("grouped heads"))[0]
    part = sketch.plan.by_name["attended.undivided.part"]
    assert [loop.axis for loop in part.loops[: part.parallel]] == ["hk", "j.chunk"]
    kept = {s.stage: s.loop for s in sketch.steps if isinstance(s, StoreAt)}
    assert kept == {"peak.part": "", "total.part": ""}
    places = {s.stage: s.target for s in sketch.steps if isinstance(s, ComputeAt)}
    assert {places[n] for n in ("scores", "powers.part", "total.part.lanes")} == {part.name}


def test_operands_are_walked_through_in_order() -> None:
    sketch = _sketches(_dag("queries of groups"))[0]
    choices = {knob.name: knob.choices for knob in sketch.knobs}
    assert choices["scores.lanes.register"] == ((2, 2, 1, 1),)
    assert {tile[-1] for tile in choices["attended.undivided.part.register"]} == {2}


REFUSED: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "many rows": ((2, 16, 512, 32), {}),
    "no whole vectors": ((2, 1, 512, 24), {}),
    "a prime number of keys": ((2, 1, 509, 32), {}),
    "too short for all threads": ((1, 1, 192, 32), {}),
    "a mask ends the rows": ((2, 2, 512, 32), {"causal": True}),
}


def test_refuses_because_all_is_in_the_cache() -> None:
    assert not any("stream" in s.name for s in generate_sketches(_dag("a head each"), HARDWARE))


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_because(name: str) -> None:
    shape, options = REFUSED[name]
    dag = workloads.attention(*shape, **options).dag
    sketches = generate_sketches(dag, TINY)
    assert sketches
    assert not any("stream" in s.name for s in sketches)
