from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansor_lite.alternatives import Alternative, Uses
from ansor_lite.task_scheduler import (
    GradientSettings,
    TaskHistory,
    early_stopping,
    expected_gains,
    expected_share,
    forecast,
    gradient,
    improvement,
    latency_requirements,
    mean_speedup,
    round_robin,
    similarity_group,
    stalled,
    total_latency,
    warm_up_order,
)

GREEDY = GradientSettings(epsilon=0.0)
TWO_NETWORKS = Uses(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]))


def uses(weights: list[float], *alternatives: Alternative) -> Uses:
    return Uses(np.array([weights], dtype=np.float64), alternatives)


def history(*best: float | None, flop: float = 1e9, **rest: object) -> TaskHistory:
    return TaskHistory(best, flop, **rest)  # type: ignore[arg-type]


def pick(histories: list[TaskHistory], weights: list[float]) -> int | None:
    return gradient(histories, total_latency(uses(weights)), np.random.default_rng(0), GREEDY)


def test_tasks_without_a_round_come_first() -> None:
    assert pick([history(1.0), history(), history()], [100, 1, 1]) == 1


def test_the_task_used_more_often_wins() -> None:
    histories = [history(1.0, 0.9, 0.8), history(1.0, 0.9, 0.8)]
    assert pick(histories, [1, 5]) == 1


def test_the_improving_task_wins() -> None:
    histories = [history(1.0, 1.0, 1.0, 1.0), history(2.0, 1.7, 1.3, 1.0)]
    assert pick(histories, [1, 1]) == 1


def test_failing_tasks_are_retried_and_done_ones_never() -> None:
    assert pick([history(1.0, 0.5), history(None, None)], [1, 1]) == 1
    assert pick([history(1.0, 0.5), history(None, done=True)], [1, 1]) == 0
    assert pick([history(1.0, done=True)], [1]) is None


def test_epsilon_gives_every_live_task_a_chance() -> None:
    histories = [history(1.0, 0.5), history(1e-6, 1e-6), history(1.0, done=True)]
    rng = np.random.default_rng(0)
    objective = total_latency(uses([1, 1, 1]))
    always = GradientSettings(epsilon=1.0)
    assert {gradient(histories, objective, rng, always) for _ in range(50)} == {0, 1}


def test_a_slow_task_expects_the_rate_of_its_group() -> None:
    slow, fast = history(*[1.0] * 5, group="g"), history(*[0.01] * 5, group="g")
    alone, grouped = history(*[1.0] * 5), [slow, fast]
    assert expected_gains(grouped, GREEDY)[0] == pytest.approx(1.0 - 2 * 0.01)
    assert expected_gains([alone, fast], GREEDY)[0] < 0.01


def test_a_task_leaves_a_group_it_cannot_follow() -> None:
    slow, fast = history(*[1.0] * 6, group="g"), history(*[0.01] * 6, group="g")
    assert expected_gains([slow, fast], GREEDY)[0] < 0.01


def test_similarity_needs_equal_structure_and_near_work() -> None:
    assert similarity_group("a", 1e9) == similarity_group("a", 1.05e9)
    assert similarity_group("a", 1e9) != similarity_group("b", 1e9)
    assert similarity_group("a", 1e9) != similarity_group("a", 3e9)


def test_round_robin_takes_turns() -> None:
    assert round_robin([history(1.0), history(), history()]) == 1
    assert round_robin([history(1.0), history(1.0)]) == 0
    assert round_robin([history(1.0, done=True), history(1.0, 1.0)]) == 1
    assert round_robin([]) is None


@pytest.mark.parametrize(
    "objective",
    [
        total_latency(TWO_NETWORKS),
        latency_requirements(TWO_NETWORKS, np.array([1.0, 99.0])),
        mean_speedup(TWO_NETWORKS, np.array([5.0, 7.0])),
    ],
    ids=lambda o: o.name,
)
def test_slopes_are_derivatives(objective) -> None:  # type: ignore[no-untyped-def]
    g, step = np.array([0.7, 0.4, 1.1]), 1e-6
    numeric = [
        (objective.value(g + step * e) - objective.value(g - step * e)) / (2 * step)
        for e in np.eye(3)
    ]
    assert objective.slope(g) == pytest.approx(numeric, rel=1e-5)


def test_a_met_requirement_has_nothing_to_gain() -> None:
    objective = latency_requirements(uses([1]), np.array([2.0]))
    assert objective.value(np.array([1.5])) == 2.0
    assert objective.slope(np.array([1.5])).tolist() == [0.0]


def test_stopped_tasks_have_nothing_to_gain() -> None:
    objective = early_stopping(uses([1, 4]), np.array([False, True]))
    assert objective.slope(np.ones(2)).tolist() == [1.0, 0.0]


def test_improvement_looks_back_over_its_window() -> None:
    assert improvement(history(4.0, 3.0, 2.0, 1.9), 1) == pytest.approx(0.1)
    assert improvement(history(4.0, 3.0, 2.0, 1.9), 2) == pytest.approx(1.1)
    assert improvement(history(None, 3.0, 2.0), 9) == pytest.approx(1.0)
    assert improvement(history(None), 3) == 0.0


def test_stalled_means_no_gain_for_so_many_rounds() -> None:
    assert stalled(history(2.0, 1.0, 1.0, 1.0), 2)
    assert not stalled(history(2.0, 1.0, 1.0, 1.0), 3)
    assert not stalled(history(1.0, 1.0), 2)
    assert not stalled(history(None, None, None, None), 2)


def test_a_converged_task_yields_to_one_that_nothing_is_known_of() -> None:
    heavy, light = history(*[9.0] * 5), history(1.0)
    assert pick([heavy, light], [1, 1]) == 1
    assert pick([history(9.0), light], [1, 1]) == 0


def test_settled_tasks_take_turns_by_their_time() -> None:
    assert pick([history(*[1.0] * 30), history(*[1.0] * 20)], [1, 1]) == 1
    assert pick([history(*[9.0] * 30), history(*[1.0] * 20)], [1, 1]) == 0


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_a_round_without_gain_lowers_the_forecast_and_one_with_gain_counts(
    seconds: list[float],
) -> None:
    best = [min(seconds[: i + 1]) for i in range(len(seconds))]
    now = forecast(history(*best))
    assert 0 < forecast(history(*best, best[-1])) == pytest.approx(now * GREEDY.decay)
    assert forecast(history(*best, best[-1] / 2)) >= GREEDY.decay * best[-1] / 2 * (1 - 1e-9)


def test_expected_share_falls_to_zero_as_tasks_settle() -> None:
    objective = total_latency(uses([1, 1]))
    young = [history(1.0), history(1.0)]
    settled = [history(*[1.0] * 6), history(1.0, 0.5, *[0.5] * 4)]
    moving = [history(*[1.0] * 6), history(1.0, 0.9, 0.8, 0.7, 0.6, 0.5)]
    assert expected_share(young, objective) == pytest.approx(1.0)
    assert 0.02 < expected_share(moving, objective) < 0.1
    assert expected_share(settled, objective) < 0.01
    assert expected_share([history(None, None)], total_latency(uses([1]))) == 0.0
    assert expected_share([history(1.0, done=True)], total_latency(uses([1]))) == 0.0


def test_warm_up_starts_with_the_most_work() -> None:
    assert warm_up_order([1.0, 5.0, 2.0], [1, 1, 9]) == [2, 1, 0]
