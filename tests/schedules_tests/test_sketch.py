"""Knobs, rows and what closing a sketch means."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.nest import follow
from schedules.sketch import Knob, Sketch
from schedules.steps import Annotate, Ref, Tile

F = "float32"


def _sketch() -> Sketch:
    """``y[i, j] = x[i, j]`` with a knob of two columns that tiles both axes."""
    axes = (IterAxis("i", 12), IterAxis("j", 20))
    stage = Stage("y", axes, Read("x", (Axis("i"), Axis("j")), F), F)
    dag = ComputeDAG((Tensor("x", (12, 20), F),), (stage,), ("y",))
    steps = (
        Tile("y", "i", (Ref("tile", 0),)),
        Tile("y", "j", (Ref("blocks"), Ref("tile", 1))),
        Annotate("y", ("i.0",), "parallel"),
    )
    knobs = (Knob("tile", ((1, 4), (3, 8), (5, 16))), Knob("blocks", ((1,), (2,))))
    return Sketch(dag, steps, knobs, "both")


def test_closing_replaces_every_knob() -> None:
    steps = _sketch().close(np.array([1, 1], dtype=np.int32))
    assert steps[:2] == (Tile("y", "i", (3,)), Tile("y", "j", (2, 8)))
    assert steps[2] == _sketch().steps[2]


def test_numbers_are_columns_of_the_chosen_rows() -> None:
    rows = np.array([[0, 0], [2, 1]], dtype=np.int32)
    sketch = _sketch()
    assert sketch.numbers(Ref("tile", 1), rows).tolist() == [4, 16]
    assert sketch.numbers(7, rows).tolist() == [7, 7]


def test_random_rows_reach_every_choice_and_no_other() -> None:
    sketch = _sketch()
    rows = sketch.random(200, np.random.default_rng(0))
    assert rows.dtype == np.int32
    assert {tuple(r) for r in rows.tolist()} == {(i, j) for i in range(3) for j in range(2)}
    again = sketch.random(200, np.random.default_rng(0))
    assert np.array_equal(rows, again)


@pytest.mark.parametrize(
    ("row", "extents"),
    (([0, 0], [12, 5, 1, 1, 4]), ([1, 1], [4, 2, 3, 2, 8]), ([2, 1], [3, 1, 5, 2, 16])),
)
def test_extents_follow_the_choices(row: list[int], extents: list[int]) -> None:
    """Outer loops come first, level by level; ragged tiles round up and are clipped."""
    nest = follow(_sketch(), np.array([row], dtype=np.int32))
    assert nest.stages[0].extents[0].tolist() == extents
