"""Row blocks around windows: nothing is used again along the rows, and windows start anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.nest import follow
from schedules.plan import stage_accesses
from schedules.steps import ComputeAt
from search_space.analysis import is_contiguous_along
from search_space.sketch_generation import generate_sketches

WINDOWS = {
    "row": lambda n: workloads.attention(2, n, depth=32, window=127).dag,
    "image": lambda n: workloads.attention(2, (n // 32, 32), depth=32, window=(3, 7)).dag,
    "dilated": lambda n: workloads.attention(2, n, depth=32, window=7, dilation=2).dag,
}


@pytest.mark.parametrize("name", list(WINDOWS))
def test_everything_but_the_transposed_keys_is_computed_inside_a_block(name: str) -> None:
    for sketch in generate_sketches(WINDOWS[name](640), HARDWARE):
        assert sketch.name.endswith("row-blocks")
        at = {s.stage for s in sketch.steps if isinstance(s, ComputeAt)}
        assert {p.name for p in sketch.plan.stages} - at == {"keys", "attended"}


@pytest.mark.parametrize("name", list(WINDOWS))
def test_what_is_kept_beside_the_keys_does_not_grow_with_the_rows(name: str) -> None:
    def kept(rows: int) -> np.ndarray:
        sketch = generate_sketches(WINDOWS[name](rows), HARDWARE)[0]
        nest = follow(sketch, sketch.random(20, np.random.default_rng(0)))
        return np.max(sum(s.allocated_bytes for s in nest.stages if s.stage != "keys"))

    assert kept(4096) <= 2 * kept(1024)


def test_sums_of_few_vectors_stand_beside_each_other() -> None:
    """Rows of neighbours share a register tile although each reads windows of its own."""
    sketch = generate_sketches(WINDOWS["image"](640), HARDWARE)[0]
    knob = next(k for k in sketch.knobs if k.name == "attended.register")
    assert max(row[0] for row in knob.choices) > 1


def test_neighbours_that_share_keys_share_a_register_tile() -> None:
    """Scores of a group beside each other, for all its rows of keys; blocks of whole groups."""
    sketch = generate_sketches(WINDOWS["image"](640), HARDWARE)[0]
    tiles = {k.name: k.choices for k in sketch.knobs}
    assert (2, 3, 1) in tiles["scaled.register"]
    assert {tile[1] for tile in tiles["attended.register"]} == {1, 2}
    assert min(tile[0] * tile[-1] for tile in tiles["attended.register"]) < HARDWARE.lanes(4)


def _scores(dag: ComputeDAG) -> dict[str, bool]:
    """Tensor -> whether its reads are contiguous along the last axis of the window."""
    accesses = stage_accesses(dag.stage("scores"))
    return {a.tensor: is_contiguous_along(a, "ox") for a in accesses}


def test_what_does_not_move_with_an_axis_may_stand_beside_it_in_an_index() -> None:
    dag = WINDOWS["row"](640)
    assert _scores(dag) == {"q": True, "keys": True}
    (values,) = (a for a in stage_accesses(dag.stage("attended")) if a.tensor == "v")
    assert not is_contiguous_along(values, "ox") and not is_contiguous_along(values, "x")
    assert is_contiguous_along(values, "d")
