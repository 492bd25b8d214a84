"""A chain against its parts: one side runs, and only that side counts."""

from __future__ import annotations

import numpy as np
import pytest
import toy_tasks

from ansor_lite.alternatives import Alternative, Uses, faster_chains, uses_of
from ansor_lite.task_scheduler import (
    GradientSettings,
    TaskHistory,
    expected_share,
    gradient,
    total_latency,
)
from ansor_lite.tasks import Task

# Two parts, used twice and three times, and a chain of both at two places.
USES = Uses(np.array([[2.0, 3.0, 2.0]]), (Alternative(2, (0, 1)),))
GREEDY = GradientSettings(epsilon=0.0)


def history(*best: float | None, done: bool = False) -> TaskHistory:
    return TaskHistory(best, 1e9, done=done)


@pytest.mark.parametrize(
    ("chain", "uses", "latency"),
    [(5.0, [2, 3, 0], 12.0), (2.0, [0, 1, 2], 7.0), (None, [2, 3, 0], 12.0)],
)
def test_every_place_counts_once(chain: float | None, uses: list[int], latency: float) -> None:
    seconds = [1.5, 3.0, chain]
    assert USES.chosen(seconds).tolist() == [uses]
    assert USES.latency(seconds) == latency


def test_a_chain_needs_a_record_of_every_part() -> None:
    parts = [toy_tasks.scaled(32), toy_tasks.scaled(64)]
    chain = Task("chain", toy_tasks.scaled(128).dag, parts=tuple(p.key for p in parts))
    times = dict(zip(chain.parts, (1.0, 2.0), strict=True))
    assert faster_chains([chain], {**times, chain.key: 2.9}) == {chain.key}
    assert not faster_chains([chain], {**times, chain.key: 3.1})
    assert not faster_chains([chain], times)
    assert not faster_chains([chain], {chain.parts[0]: 9.0, chain.key: 1.0})


def test_a_part_that_a_chain_has_twice_counts_twice() -> None:
    part = toy_tasks.scaled(32)
    part = Task(part.name, part.dag, 2)
    chain = Task("chain", toy_tasks.scaled(64).dag, parts=(part.key, part.key))
    uses = uses_of([part, chain])
    assert uses.latency([1.0, 3.0]) == 2.0 and uses.latency([1.0, 1.5]) == 1.5


def test_reordered_uses_mean_the_same() -> None:
    moved = USES.reordered([2, 0, 1])
    for chain in (2.0, 4.0):
        assert moved.latency([chain, 1.0, 3.0]) == USES.latency([1.0, 3.0, chain])


def test_the_losing_side_gets_rounds_until_it_clearly_loses() -> None:
    """Parts have settled at 3 s together; the chain is slower and improves, or does not."""
    parts = [history(*[1.0] * 6), history(*[2.0] * 6)]
    rng = np.random.default_rng(0)

    def next_one(*chain: float | None) -> int | None:
        return gradient([*parts, history(*chain)], total_latency(USES), rng, GREEDY)

    assert next_one() == 2  # first rounds are for all
    assert next_one(5.0) == 2
    assert next_one(5.0, 4.0, 3.2) == 2
    assert next_one(*[5.0] * 5) != 2


def test_parts_that_clearly_lose_get_no_rounds() -> None:
    histories = [history(*[1.0] * 3), history(*[2.0] * 3, done=True), history(*[0.5] * 20)]
    uses = Uses(np.array([[1.0, 1.0, 1.0]]), USES.alternatives)
    always = GradientSettings(epsilon=1.0)
    for settings in (GREEDY, always):
        chosen = gradient(histories, total_latency(uses), np.random.default_rng(0), settings)
        assert chosen == 2


def test_what_is_expected_counts_the_side_that_runs() -> None:
    settled = [history(*[1.0] * 6), history(*[2.0] * 6)]
    objective = total_latency(USES)
    losing = expected_share([*settled, history(*[9.0] * 6)], objective)
    alone = expected_share(settled, total_latency(Uses(USES.weights[:, :2])))
    assert losing == pytest.approx(alone)
