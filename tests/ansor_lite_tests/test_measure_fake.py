"""The fake measures what it is told to, the same in every process."""

from __future__ import annotations

from toy_tasks import scaled, tiled

from ansor_lite.measure import Candidate, FakeRunner, Measurement, Status
from ansor_lite.measure.protocol import typical

TASK = scaled()


def cost(candidate: Candidate) -> float | Measurement:
    size = candidate.steps[0].factors[0]  # type: ignore[union-attr]
    return Measurement(Status.CRASH, message="SIGILL") if size == 16 else 1e-3 / size


def test_costs_and_failures_come_from_the_function() -> None:
    results = FakeRunner(cost).measurer().measure([tiled(TASK, 4), tiled(TASK, 16)])
    assert results[0].seconds == (2.5e-4,) * 3
    assert results[1] == Measurement(Status.CRASH, message="SIGILL")


def test_noise_depends_on_seed_and_candidate_not_on_order() -> None:
    four, eight = tiled(TASK, 4), tiled(TASK, 8)
    one, two = FakeRunner(cost, 0.1, seed=3).measurer(), FakeRunner(cost, 0.1, seed=3).measurer()
    assert one.measure([four, eight]) == two.measure([eight, four])[::-1]
    assert one.measure([four]) != FakeRunner(cost, 0.1, seed=4).measurer().measure([four])
    assert all(s >= 2.5e-4 for s in one.measure([four])[0].seconds)


def test_slow_programs_stop_after_one_repeat() -> None:
    fake = FakeRunner(cost, slow_factor=2.0).measurer()
    [slow, fast] = fake.measure([tiled(TASK, 4), tiled(TASK, 8)], best_seconds=1.2e-4)
    assert (slow.status, len(slow.seconds)) == (Status.SLOW, 1)
    assert fast.ok and slow.time == 2.5e-4


def test_time_passes_on_the_fakes_own_clock() -> None:
    fake = FakeRunner(cost, build_seconds=1.0)
    fake.measurer().measure([tiled(TASK, 4), tiled(TASK, 8)])
    assert fake.clock() == 2.0 + 3 * (2.5e-4 + 1.25e-4)


def test_wrong_results_are_told_by_the_check() -> None:
    four = tiled(TASK, 4)
    fake = FakeRunner(cost, wrong={four.steps: "off by 1"}).measurer()
    assert fake.check(four) == Measurement(Status.WRONG_RESULT, message="off by 1")
    assert fake.check(tiled(TASK, 8)).ok


def test_one_lucky_and_two_disturbed_repeats_do_not_decide() -> None:
    assert typical([1.0, 5.0, 1.2, 9.0]) == 1.1
    assert typical([2.0]) == 2.0
