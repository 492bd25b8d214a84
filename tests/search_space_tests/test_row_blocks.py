"""Row blocks: nothing of the size of all pairs of rows and summands is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_tasks import HARDWARE, SMALL

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.nest import follow
from schedules.steps import ComputeAt, CopyRead, Permute
from search_space.sketch_generation import generate_sketches


def _names(dag: ComputeDAG) -> list[str]:
    return [s.name for s in generate_sketches(dag, HARDWARE)]


def test_everything_is_computed_inside_a_block_of_rows() -> None:
    (sketch,) = generate_sketches(SMALL["attention_rows"](), HARDWARE)
    places = {s.stage: (s.target, s.loop) for s in sketch.steps if isinstance(s, ComputeAt)}
    inside = ("scores.operand", "scaled", "peak", "powers", "total")
    assert {places[name] for name in inside} == {("attended", "i.0")}
    assert CopyRead("scores", ("b", "h", "d", "i")) in sketch.steps


def test_rows_are_innermost_where_they_fill_a_vector() -> None:
    (sketch,) = generate_sketches(SMALL["attention_rows"](), HARDWARE)
    permuted = {s.stage: s.axes[-1] for s in sketch.steps if isinstance(s, Permute)}
    assert permuted == {"powers": "i", "scaled": "i", "scores": "i"}
    for few in generate_sketches(SMALL["attention"](), HARDWARE):
        assert not any(isinstance(s, Permute) for s in few.steps)
        assert "row-blocks" not in few.name


@pytest.mark.parametrize("tokens", [256, 1024])
def test_what_is_kept_grows_with_the_rows_of_a_block(tokens: int) -> None:
    (sketch,) = generate_sketches(workloads.attention(2, tokens, tokens, 32).dag, HARDWARE)
    rows = sketch.random(50, np.random.default_rng(0))
    nest = follow(sketch, rows)
    kept = sum(stage.allocated_bytes for stage in nest.stages)
    assert np.all(kept < 4 * tokens * 2 * (256 + 32 + 2) * 2)


def test_refuses_because_all_pairs_are_wanted() -> None:
    dag = SMALL["attention_rows"]()
    assert all("row-blocks" in name for name in _names(dag))
    assert not any("row-blocks" in n for n in _names(replace(dag, outputs=("attended", "powers"))))


@pytest.mark.parametrize("name", ["chain_matmuls", "softmax", "matmul", "layer_norm"])
def test_refuses_because_no_reduction_stands_between_accumulations(name: str) -> None:
    assert not any("row-blocks" in n for n in _names(SMALL[name]()))
