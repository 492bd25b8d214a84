from __future__ import annotations

import numpy as np
import pytest

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.sketch import Knob, Sketch
from schedules.steps import Inline, Ref, Tile
from search_space.sampling import (
    SearchSpace,
    close_row,
    every_row,
    find_row,
    join,
    knob_values,
    near_choices,
    nearest_row,
    row_keys,
    sample,
    unique,
)

DAG = ComputeDAG(
    (Tensor("x", (64, 64), "float32"),),
    (
        Stage(
            "y",
            (IterAxis("i", 64), IterAxis("j", 64)),
            Read("x", (Axis("i"), Axis("j")), "float32"),
            "float32",
        ),
    ),
    ("y",),
)
TILES = tuple((a, b) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8, 16))


def sketch(name: str, tiles: tuple[tuple[int, ...], ...] = TILES) -> Sketch:
    return Sketch(
        DAG,
        (
            Tile("y", "i", (Ref("i", 0), Ref("i", 1))),
            Tile("y", "j", (Ref("j"), 4)),
            *([Inline("z")] if name == "b" else []),
        ),
        (Knob("i", tiles, "y"), Knob("j", ((1,), (2,), (4,)), "y"), Knob("u", ((0,), (16,)), "")),
        name,
    )


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace((sketch("a"), sketch("b", TILES[:7])))


def test_sizes_multiply_the_choices(space: SearchSpace) -> None:
    assert space.sizes == (20 * 3 * 2, 7 * 3 * 2)


def test_every_row_lists_each_row_once(space: SearchSpace) -> None:
    rows = every_row(space.sketches[1])
    assert len(set(row_keys(rows))) == len(rows) == 42
    assert (rows < space.sketches[1].sizes).all()


def test_samples_are_legal_and_only_of_active_sketches(space: SearchSpace) -> None:
    population = sample(space, 500, np.random.default_rng(0), active=[1])
    assert [len(rows) for rows in population] == [0, 500]
    assert (population[1] < space.sketches[1].sizes).all()
    assert set(population[1][:, 0].tolist()) == set(range(7))


def test_unique_keeps_first_order_and_leaves_out_the_seen(space: SearchSpace) -> None:
    rows = np.array([[3, 0, 0], [1, 1, 1], [3, 0, 0], [0, 0, 0]], dtype=np.int32)
    population = (rows, rows[:0])
    assert unique(population)[0].tolist() == [[3, 0, 0], [1, 1, 1], [0, 0, 0]]
    seen = [{rows[1].tobytes()}, set[bytes]()]
    assert unique(population, seen)[0].tolist() == [[3, 0, 0], [0, 0, 0]]
    assert len(join(population, population)[0]) == 8


def test_near_choices_are_other_choices_at_small_distance() -> None:
    knob = Knob("i", TILES)
    near = near_choices(knob)
    logs = np.log2(np.array(TILES))
    distance = np.abs(logs[:, None] - logs[near]).sum(axis=2)
    assert (near != np.arange(len(TILES))[:, None]).all()
    assert distance[:, 2:].max() <= 3
    assert (distance == 1).sum(axis=1).min() >= 2


@pytest.mark.parametrize("count", [1, 2, 3, 2000])
def test_near_choices_of_short_and_long_lists_stay_inside(count: int) -> None:
    near = near_choices(Knob("k", tuple((i,) for i in range(count))))
    assert near.min() >= 0 and near.max() == count - 1
    assert count == 1 or (near != np.arange(count)[:, None]).all()


def test_find_row_inverts_close(space: SearchSpace) -> None:
    for s in space.sketches:
        for row in every_row(s)[::7]:
            found = find_row(s, s.close(row))
            assert found is not None
            assert s.close(found) == s.close(row)


def test_find_row_refuses_steps_of_another_sketch(space: SearchSpace) -> None:
    a, b = space.sketches
    assert find_row(b, a.close(every_row(a)[0])) is None
    foreign = (Tile("y", "i", (3, 1)), Tile("y", "j", (1, 4)))
    assert find_row(a, foreign) is None


def test_close_row_finds_the_row_that_clipped_steps_came_from(space: SearchSpace) -> None:
    a, b = space.sketches
    clipped = (Tile("y", "i", (7, 3)), Tile("y", "j", (2, 3)))
    row = close_row(a, clipped)
    assert row is not None
    assert knob_values(a, row) == {"i": (8, 4), "j": (2,), "u": (0,)}
    assert close_row(b, clipped) is None


def test_nearest_row_carries_values_to_the_closest_choices(space: SearchSpace) -> None:
    row = nearest_row(space.sketches[1], {"i": (1, 14), "j": (3, 3)})
    assert knob_values(space.sketches[1], row)["i"] == (1, 16)
    assert row[1] == 1
