from __future__ import annotations

import numpy as np
import pytest

from ansor_lite.search import Candidate, SearchSettings, TaskSearch
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.sketch import Choices, Knob, Sketch
from schedules.steps import Ref, Tile

DAG = ComputeDAG(
    (Tensor("x", (64,), "float32"),),
    (Stage("y", (IterAxis("i", 64),), Read("x", (Axis("i"),), "float32"), "float32"),),
    ("y",),
)
WANTED = np.array([11, 3, 14])


def sketch(name: str, n: int, axes: str = "abc") -> Sketch:
    steps = tuple(Tile("y", axis, (Ref(axis), len(name))) for axis in axes)
    return Sketch(DAG, steps, tuple(Knob(a, tuple((i,) for i in range(n)), a) for a in axes), name)


def distance(s: Sketch, rows: Choices) -> np.ndarray:
    return np.abs(rows - WANTED[: rows.shape[1]]).sum(axis=1) + (0.0 if s.name == "one" else 5.0)


def score(s: Sketch, rows: Choices) -> np.ndarray:
    return -distance(s, rows)


def seconds(search: TaskSearch, batch: list[Candidate]) -> list[float | None]:
    spaces = search.space.sketches
    return [1 + float(distance(spaces[c.sketch], c.choices[None])[0]) for c in batch]


def tune(search: TaskSearch, rounds: int, seed: int = 0, n: int = 16) -> list[Candidate]:
    tried = []
    for r in range(rounds):
        batch = search.propose(n, np.random.default_rng([seed, r]))
        search.observe(batch, seconds(search, batch))
        tried += batch
    return tried


@pytest.fixture
def large() -> TaskSearch:
    return TaskSearch(
        [sketch("one", 40), sketch("four", 40)], settings=SearchSettings(population=256)
    )


def test_a_good_scorer_finds_the_optimum_at_once(large: TaskSearch) -> None:
    large.scorer = score
    tune(large, 3)
    assert large.best is not None and large.best[0] <= 2


def test_without_a_scorer_the_finish_descends_from_the_best(large: TaskSearch) -> None:
    tried = tune(large, 12)
    assert {"random", "neighbour"} <= {c.origin for c in tried}
    start = min(seconds(large, tried[:48]), key=lambda t: t or 0)
    assert large.best is not None and start is not None and large.best[0] < start / 2


def test_nothing_is_measured_twice(large: TaskSearch) -> None:
    large.scorer = score
    tried = tune(large, 10)
    assert len({c.steps for c in tried}) == len(tried) == 160


def test_equal_programs_count_once() -> None:
    def only_first(s: Sketch, rows: np.ndarray) -> list[tuple[Tile, ...]]:
        return [(Tile("y", "i", (int(row[0]),)),) for row in rows]

    search = TaskSearch([sketch("one", 12)], program_key=only_first)
    assert len(tune(search, 3)) == 12


def test_small_spaces_are_tried_completely_then_exhausted() -> None:
    search = TaskSearch([sketch("one", 3), sketch("four", 2, "ab")])
    tried = tune(search, 4, n=10)
    assert len({c.steps for c in tried}) == 27 + 4
    assert search.exhausted


def test_the_default_is_the_first_trial_and_known_as_a_row() -> None:
    one = sketch("one", 40)
    default = one.close(np.array([1, 2, 3], dtype=np.int32))
    first = TaskSearch([sketch("four", 40), one], default).propose(4, np.random.default_rng(0))[0]
    assert (first.origin, first.sketch, first.row) == ("default", 1, (1, 2, 3))


def test_a_default_outside_the_sketches_is_tried_as_it_is() -> None:
    default = (Tile("y", "i", (3,)),)
    search = TaskSearch([], default)
    first = search.propose(4, np.random.default_rng(0))
    assert [c.steps for c in first] == [default]
    search.observe(first, [1.0])
    assert search.propose(4, np.random.default_rng(0)) == []
    assert search.exhausted


def test_suggestions_of_similar_tasks_are_tried_first(large: TaskSearch) -> None:
    other = TaskSearch([sketch("one", 12)])
    name, values = other.knobs_of(other.candidate(sketch("one", 12).close(np.array([9, 8, 7]))))
    large.suggest(name, values)
    first = large.propose(8, np.random.default_rng(0))[0]
    assert (first.origin, first.sketch, first.row) == ("transfer", 0, (9, 8, 7))


def test_a_search_restored_from_its_steps_proposes_the_same() -> None:
    def fresh() -> TaskSearch:
        search = TaskSearch([sketch("one", 40), sketch("four", 40)])
        search.scorer = score
        return search

    first, second = fresh(), fresh()
    tried = tune(first, 5)
    again = [second.candidate(c.steps) for c in tried]
    second.observe(again, seconds(second, again))
    rng = np.random.default_rng
    assert [c.steps for c in first.propose(16, rng(9))] == [
        c.steps for c in second.propose(16, rng(9))
    ]


def test_failures_are_remembered_but_never_best(large: TaskSearch) -> None:
    batch = large.propose(5, np.random.default_rng(0))
    large.observe(batch, [None] * 5)
    assert large.best is None and large.observed == 5
    again = large.propose(64, np.random.default_rng(0))
    assert not {c.steps for c in batch} & {c.steps for c in again}


def test_many_sketches_are_scored_a_few_at_a_time() -> None:
    calls: list[str] = []

    def counting(s: Sketch, rows: Choices) -> np.ndarray:
        calls.append(s.name)
        return score(s, rows)

    search = TaskSearch([sketch("x" * (i + 1), 40) for i in range(20)])
    search.scorer = counting
    tune(search, 1)
    assert len(set(calls)) == 20
    calls.clear()
    search.propose(16, np.random.default_rng(5))
    assert len(set(calls)) == search.settings.max_active


def test_every_sketch_has_a_trial_before_the_scorer_chooses(large: TaskSearch) -> None:
    large.scorer = lambda s, rows: score(s, rows) - 100.0 * (s.name == "four")
    first = large.propose(8, np.random.default_rng(0))
    assert {c.sketch for c in first[:2]} == {0, 1}


def test_a_sketch_that_is_not_far_behind_is_tried_again_and_others_are_not() -> None:
    def fours(seconds_of_four: float) -> int:
        search = TaskSearch([sketch("one", 40), sketch("four", 40)])
        search.scorer = lambda s, rows: score(s, rows) - 100.0 * (s.name == "four")
        tried = []
        for r in range(2):
            tried = search.propose(4, np.random.default_rng(r))
            search.observe(tried, [(1.0, seconds_of_four)[c.sketch] for c in tried])
        return sum(c.sketch == 1 and c.origin == "model" for c in tried)

    assert fours(1.2) == 1
    assert fours(3.0) == 0


def test_the_place_left_to_chance_goes_to_sketches_that_may_yet_win() -> None:
    """Of twenty sketches the last is the only one not far behind the leading three."""
    near = {0: 1.0, 1: 1.1, 2: 1.2, 19: 1.3}
    search = TaskSearch([sketch("x" * (i + 1), 40) for i in range(20)])
    search.scorer = score
    batch = search.propose(20, np.random.default_rng(0))
    search.observe(batch, [near.get(c.sketch, 9.0) for c in batch])
    again = search.propose(8, np.random.default_rng(1))
    assert {c.sketch for c in again if c.origin == "model"} == set(near)
