from __future__ import annotations

import numpy as np
import pytest

from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.sketch import Choices, Knob, Sketch
from search_space.evolution import (
    CPU_MUTATIONS,
    cross,
    next_generation,
    rank_weights,
    single_changes,
    to_neighbour,
    to_random_choice,
    to_sibling,
)
from search_space.sampling import SearchSpace, sample

DAG = ComputeDAG(
    (Tensor("x", (64,), "float32"),),
    (Stage("y", (IterAxis("i", 64),), Read("x", (Axis("i"),), "float32"), "float32"),),
    ("y",),
)


def numbers(name: str, n: int, group: str = "") -> Knob:
    return Knob(name, tuple((i,) for i in range(n)), group)


@pytest.fixture
def space() -> SearchSpace:
    fixed = numbers("fixed", 1)
    a = Sketch(
        DAG, (), (numbers("p", 30, "s"), numbers("q", 40, "s"), fixed, numbers("r", 9, "t")), "a"
    )
    b = Sketch(DAG, (), (numbers("r", 5, "t"), numbers("q", 40, "s"), numbers("z", 8)), "b")
    return SearchSpace((a, b))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def legal(space: SearchSpace, s: int, rows: Choices) -> bool:
    return bool(((rows >= 0) & (rows < space.sketches[s].sizes)).all())


@pytest.mark.parametrize("change", [to_neighbour, to_random_choice])
def test_mutation_changes_one_knob_and_touches_each(change, space, rng) -> None:  # type: ignore[no-untyped-def]
    parents = space.sketches[0].random(2000, rng)
    [(s, children)] = change(space, 0, parents, parents, [0, 1], rng)
    differs = children != parents
    assert s == 0 and legal(space, 0, children)
    assert (differs.sum(axis=1) == 1).all()
    assert differs.any(axis=0).tolist() == [True, True, False, True]


def test_neighbours_stay_near(space: SearchSpace, rng: np.random.Generator) -> None:
    parents = np.full((500, 4), [15, 20, 0, 4], dtype=np.int32)
    [(_, children)] = to_neighbour(space, 0, parents, parents, [0], rng)
    assert np.abs(children - parents).max() <= 6


def test_crossover_moves_groups_together(space: SearchSpace, rng: np.random.Generator) -> None:
    parents = np.zeros((400, 4), dtype=np.int32)
    mates = np.ones((400, 4), dtype=np.int32)
    [(_, children)] = cross(space, 0, parents, mates, [0], rng)
    assert (children[:, 0] == children[:, 1]).all()
    assert {tuple(row) for row in children[:, [0, 3]].tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_siblings_get_the_choices_both_have(space: SearchSpace, rng: np.random.Generator) -> None:
    parents = np.tile(np.array([3, 33, 0, 2], dtype=np.int32), (100, 1))
    parents[50:, 3] = 8  # the sibling has no such choice
    [(target, rows)] = to_sibling(space, 0, parents, parents, [0, 1], rng)
    assert target == 1 and legal(space, 1, rows)
    assert (rows[:, 1] == 33).all()
    assert (rows[:50, 0] == 2).all()
    assert len(set(rows[50:, 0].tolist())) > 1
    assert len(set(rows[:, 2].tolist())) == 8


def test_a_lone_sketch_mutates_instead_of_moving(rng: np.random.Generator) -> None:
    space = SearchSpace((Sketch(DAG, (), (numbers("p", 3),)),))
    parents = np.zeros((5, 1), dtype=np.int32)
    [(s, rows)] = to_sibling(space, 0, parents, parents, [0], rng)
    assert s == 0 and (rows != parents).all()


def test_rank_weights_ignore_the_scale() -> None:
    scores = np.array([0.1, 5.0, 2.0])
    assert rank_weights(scores) == pytest.approx(rank_weights(scores * 1e9 - 3))
    assert rank_weights(scores).argmax() == 1
    assert rank_weights(scores).sum() == pytest.approx(1.0)


def test_single_changes_are_all_neighbours_of_one_row(space: SearchSpace) -> None:
    row = np.array([0, 20, 0, 8], dtype=np.int32)
    rows = single_changes(space, 0, row)
    assert ((rows != row).sum(axis=1) == 1).all()
    assert legal(space, 0, rows)
    assert {int(k) for k in np.nonzero(rows != row)[1]} == {0, 1, 3}
    assert len({tuple(r) for r in rows.tolist()}) == len(rows)


def test_evolution_finds_what_the_scorer_rewards(
    space: SearchSpace, rng: np.random.Generator
) -> None:
    wanted = np.array([17, 31, 0, 5])

    def scores(population: tuple[Choices, ...]) -> list[np.ndarray]:
        return [
            -np.abs(population[0] - wanted).sum(axis=1) * 1.0,
            np.full(len(population[1]), -60.0),
        ]

    population = sample(space, 60, rng)
    start = scores(population)[0].max()
    for _ in range(8):
        population = next_generation(space, population, scores(population), 60, rng)
    assert start < -3
    assert scores(population)[0].max() >= -1


def test_same_seed_same_children(space: SearchSpace) -> None:
    def run() -> list[list[list[int]]]:
        rng = np.random.default_rng(3)
        population = sample(space, 64, rng)
        scores = [rows.sum(axis=1).astype(np.float64) for rows in population]
        return [
            r.tolist() for r in next_generation(space, population, scores, 64, rng, CPU_MUTATIONS)
        ]

    assert run() == run()
