"""Outputs counted by tiles: every element is written, by one tile alone."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import HARDWARE

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Read
from schedules.lower.linear import Positions
from schedules.lower.versions import versioned_body
from schedules.nest import Follower
from schedules.output_tiles import tile_and_rest
from schedules.rewrites import apply_rewrites
from schedules.sketch import closed
from schedules.steps import Annotate, Reorder, SplitAxis, Step, Tile

F = "float32"


def _half(extent: int) -> int:
    return -(-extent // 2)


def _tiled(extent: int) -> ComputeDAG:
    """``y[i] = x[tile of i, place of i]``: what the tiles share differs between them."""
    half = _half(extent)
    places = tile_and_rest(Axis("i"), extent, half)
    body = Call("mul", (Read("x", places, F), Read("b", (Axis("i"),), F)), F)
    inputs = (Tensor("x", (2, half), F), Tensor("b", (extent,), F))
    return ComputeDAG(inputs, (Stage("y", (IterAxis("i", extent),), body, F),), ("y",))


def _steps(extent: int, tile: int) -> tuple[Step, ...]:
    return (
        SplitAxis("y", "i", _half(extent)),
        Tile("y", "i.rest", (tile,)),
        Reorder("y", ("i.rest.0", "i.tile.0", "i.rest.1")),
        Annotate("y", ("i.rest.0",), "parallel"),
        Annotate("y", ("i.tile.0",), "unroll"),
        Annotate("y", ("i.rest.1",), "vectorize"),
    )


@given(st.integers(2, 40))
def test_every_element_has_a_tile_that_reads_nothing_by_division(extent: int) -> None:
    dag = apply_rewrites(_tiled(extent), (SplitAxis("y", "i", _half(extent)),))
    (x,) = (read for read in dag.stage("y").reads() if read.tensor == "x")
    assert x.indices == (Axis("i.tile"), Axis("i.rest"))
    assert dag.stage("y").shape == (2, _half(extent))


@settings(max_examples=12, deadline=None)
@given(st.integers(3, 40), st.integers(1, 16))
def test_what_two_tiles_share_is_written_by_the_first_one(extent: int, tile: int) -> None:
    case = Case(_tiled(extent), HARDWARE)
    (found,) = case.run(_steps(extent, min(tile, _half(extent)))).values()
    np.testing.assert_array_equal(found, case.expected["y"])


@pytest.mark.parametrize(("extent", "versions"), [(64, []), (65, [0, 1])])
def test_only_the_first_vector_asks_what_it_may_write(extent: int, versions: list[int]) -> None:
    sketch = closed(_tiled(extent), _steps(extent, 16))
    follower = Follower(sketch, np.zeros((1, 0), dtype=np.int32))
    plan = follower.plan.by_name["y"]
    body = versioned_body(plan, Positions(follower), (extent,))
    assert [len(v.tests) for group in body.groups for v in group.versions] == versions
    assert all(v.high == 0 for group in body.groups for v in group.versions if v.tests)


def test_refuses_because_an_axis_is_a_part_already() -> None:
    """Places in memory follow from one split of each dimension."""
    steps = (SplitAxis("y", "i", 6), SplitAxis("y", "i.rest", 3))
    with pytest.raises(ScheduleError, match=r"'i\.rest' is a part already"):
        apply_rewrites(_tiled(11), steps)
