from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ansor_lite import workloads
from ansor_lite.alternatives import uses_of
from ansor_lite.events import (
    BatchMeasured,
    Event,
    NewBest,
    TaskFinished,
    TaskStarted,
    TuningStarted,
    TuningWarning,
)
from ansor_lite.learner import Learner, next_fit
from ansor_lite.loop import (
    LoggedTrial,
    Surroundings,
    TuningLoop,
    distinct,
    stream,
    winner,
)
from ansor_lite.measure import FakeRunner, Measurement, Measurer, Status
from ansor_lite.measure.protocol import Candidate as Program
from ansor_lite.measure.protocol import Checker
from ansor_lite.options import TuningOptions
from ansor_lite.search import TaskSearch
from ansor_lite.task_scheduler import total_latency
from ansor_lite.task_state import TaskState
from ansor_lite.tasks import Task
from cost_model.base import CostModel
from cost_model.xgb import XGBModel, XGBSettings
from schedules.hardware import Hardware
from schedules.nest import all_effective_steps
from schedules.steps import Step, Tile
from search_space.sketch_generation import default_steps, generate_sketches

HARDWARE = Hardware(threads=2)
TASKS = (workloads.matmul(48, 64, 32), workloads.matmul(64, 96, 128), workloads.softmax(64, 128))


class Killed(Exception):
    """Stands for ``kill -9`` in the middle of a run."""


@dataclass
class MemoryLog:
    lines: list[tuple[str, tuple[Step, ...], Measurement]] = field(default_factory=list)
    kill_after: int | None = None

    def read(self) -> list[LoggedTrial]:
        return [LoggedTrial(*line) for line in self.lines]

    def append(self, program: Program, result: Measurement, round: int) -> None:
        self.lines.append((program.task.key, program.steps, result))
        if self.kill_after is not None and len(self.lines) >= self.kill_after:
            raise Killed


def cost(program: Program) -> float | Measurement:
    """Some function with an optimum that no rule knows; every 11th program crashes."""
    tiles = [s for s in program.steps if isinstance(s, Tile)]
    factors = [f for tile in tiles for f in tile.factors if isinstance(f, int)]
    if sum(factors) % 11 == 3:
        return Measurement(Status.CRASH, message="boom")
    return 1e-4 * program.task.flop / 1e6 * (1 + sum(abs(f - 6) for f in factors) / 50)


def state(task: Task, index: int, options: TuningOptions) -> TaskState:
    default = default_steps(task.dag, HARDWARE)
    sketches = generate_sketches(task.dag, HARDWARE)
    search = TaskSearch(sketches, default, program_key=all_effective_steps)
    return TaskState(task, index, search, search.candidate(default).steps)


def tuned(
    options: TuningOptions,
    log: MemoryLog | None = None,
    tasks: tuple[Task, ...] = TASKS,
    runner: FakeRunner | None = None,
    model: CostModel | None = None,
    stop: Callable[[], bool] = lambda: False,
    events: list[Event] | None = None,
    checker: Checker | None = None,
) -> tuple[TuningLoop, str]:
    runner = runner or FakeRunner(cost)
    around = Surroundings(
        Measurer(runner, runner, checker or runner),
        log if log is not None else MemoryLog(),
        Learner(model, HARDWARE),
        (events if events is not None else []).append,
        runner.clock,
        stop,
    )
    states = [state(t, i, options) for i, t in enumerate(tasks)]
    loop = TuningLoop(states, total_latency(uses_of(tasks)), options, around, runner.clock())
    return loop, loop.run()


SMALL = TuningOptions(trials=60, batch=8)


def test_a_budget_in_trials_counts_programs_that_ran() -> None:
    loop, reason = tuned(SMALL)
    assert reason == "trials"
    assert loop.ran == 60
    assert sum(s.failures for s in loop.states) > 0
    assert all(s.best is not None and s.before is not None for s in loop.states)


def test_every_task_starts_with_its_schedule_by_rule_and_gets_better() -> None:
    loop, _ = tuned(TuningOptions(trials=150, batch=8), tasks=TASKS[:2])
    for s in loop.states:
        assert s.trials[0].candidate.steps == s.default
        won = winner(s)
        assert won is not None and s.before is not None and won[1] < s.before


def test_equal_seeds_give_equal_trials_and_others_do_not() -> None:
    def trials(seed: int) -> MemoryLog:
        log = MemoryLog()
        tuned(SMALL.replace(seed=seed), log)
        return log

    assert trials(1) == trials(1)
    assert trials(1) != trials(2)


@pytest.mark.parametrize("learned", [False, True], ids=["random", "learned"])
def test_an_interrupted_run_ends_with_the_trials_of_the_uninterrupted_one(learned: bool) -> None:
    def model() -> CostModel | None:
        return XGBModel(settings=XGBSettings(small_trees=8)) if learned else None

    options = TuningOptions(trials=80 if learned else 60, batch=8, population=64, generations=1)
    whole = MemoryLog()
    tuned(options, whole, model=model())
    for kill_after in range(1, len(whole.lines), 29 if learned else 4):
        log = MemoryLog(kill_after=kill_after)
        with pytest.raises(Killed):
            tuned(options, log, model=model())
        log.kill_after = None
        tuned(options, log, model=model())
        assert log.lines == whole.lines, f"killed after {kill_after}"


def test_a_larger_budget_continues_where_the_smaller_ended() -> None:
    log, whole = MemoryLog(), MemoryLog()
    tuned(SMALL.replace(trials=60), whole)
    first, _ = tuned(SMALL.replace(trials=30, task_patience=8), log, tasks=TASKS[:1])
    events: list[Event] = []
    second, _ = tuned(SMALL.replace(trials=50), log, tasks=TASKS[:1], events=events)
    assert isinstance(events[0], TuningStarted) and events[0].trials == first.states[0].measured
    steps = [t.candidate.steps for t in second.states[0].trials]
    assert len(set(steps)) == len(steps)


def test_a_log_of_other_options_is_used_and_never_measured_again() -> None:
    log = MemoryLog()
    tuned(SMALL.replace(trials=21, seed=5, batch=4), log, tasks=TASKS[:1])
    before = len(log.lines)
    loop, _ = tuned(SMALL, log, tasks=TASKS[:1])
    steps = [t.candidate.steps for t in loop.states[0].trials]
    assert loop.ran == 60 and before < len(log.lines)
    assert len(set(steps)) == len(steps)


def test_a_budget_in_seconds_is_that_of_the_clock() -> None:
    runner = FakeRunner(cost)
    loop, reason = tuned(TuningOptions(seconds=5.0, batch=8), runner=runner)
    assert reason == "seconds"
    assert 5.0 <= runner.clock() < 6.5
    assert loop.searching == 0.0  # the fake clock stands still while the search works


def test_without_a_budget_tuning_ends_when_little_is_expected() -> None:
    loop, reason = tuned(TuningOptions(batch=8), tasks=TASKS[:2])
    assert reason in ("converged", "finished")
    assert loop.spent < 15 * 60


def test_small_tasks_are_exhausted() -> None:
    events: list[Event] = []
    _, reason = tuned(TuningOptions(trials=9999), tasks=TASKS[2:], events=events)
    finished = [e for e in events if isinstance(e, TaskFinished)]
    assert reason == "finished" and finished[0].reason in ("exhausted", "stalled")


def test_a_task_whose_candidates_all_fail_is_dropped_with_the_first_error() -> None:
    def broken(program: Program) -> float | Measurement:
        if program.task.key == TASKS[0].key:
            return Measurement(Status.BUILD_ERROR, message="no such register")
        return cost(program)

    events: list[Event] = []
    loop, reason = tuned(
        TuningOptions(trials=80, batch=8), runner=FakeRunner(broken), events=events
    )
    [warning] = [e for e in events if isinstance(e, TuningWarning)]
    assert "no such register" in warning.message
    assert 32 <= loop.states[0].failures < 48 and loop.states[0].best is None
    assert reason == "trials"
    assert loop.uses.latency([s.seconds for s in loop.states]) is None


def test_a_wrong_result_never_wins() -> None:
    task = TASKS[1]
    good, _ = tuned(SMALL, tasks=(task,))
    cheater = winner(good.states[0])
    assert cheater is not None
    log = MemoryLog()
    runner = FakeRunner(cost, wrong={cheater[0]: "differs by 3.0"})
    loop, _ = tuned(SMALL, log, tasks=(task,), runner=runner)
    won = winner(loop.states[0])
    assert won is not None and won[0] != cheater[0]
    assert [r.status for _, steps, r in log.lines if steps == cheater[0]] == ["ok", "wrong_result"]


def test_every_new_best_is_checked_before_the_next_trial() -> None:
    log, runner = MemoryLog(), FakeRunner(cost)
    checked: list[tuple[int, tuple[Step, ...]]] = []

    class Noting:
        def check(self, candidate: Program) -> Measurement:
            checked.append((len(log.lines), candidate.steps))
            return Measurement(Status.OK)

    loop, _ = tuned(SMALL, log, TASKS[:1], runner, checker=Noting())
    bests, least = [], float("inf")
    for i, (_, steps, result) in enumerate(log.lines[: len(loop.states[0].trials)]):
        if result.ok and (result.time or 0.0) < least:
            least = result.time or 0.0
            bests.append((i + 1, steps))
    assert checked[: len(bests)] == bests


def test_a_best_from_a_log_is_checked_before_it_wins() -> None:
    log = MemoryLog()
    first, _ = tuned(SMALL.replace(trials=20), log, TASKS[:1], stop=lambda: len(log.lines) >= 20)
    [cheater] = [t.candidate.steps for t in [first.states[0].best] if t is not None]
    runner = FakeRunner(cost, wrong={cheater: "differs by 3.0"})
    loop, _ = tuned(SMALL.replace(trials=20), log, TASKS[:1], runner)
    won = winner(loop.states[0])
    assert won is not None and won[0] != cheater


def test_winners_are_timed_again_and_the_later_timing_counts() -> None:
    seen: dict[object, int] = {}

    def lucky_once(program: Program) -> float | Measurement:
        seen[program.steps] = seen.get(program.steps, 0) + 1
        base = cost(program)
        return base * 1.01 if isinstance(base, float) and seen[program.steps] > 1 else base

    loop, _ = tuned(SMALL, tasks=TASKS[1:2], runner=FakeRunner(lucky_once))
    [s] = loop.states
    won = winner(s)
    assert won is not None and s.best is not None
    assert won[1] == pytest.approx(s.confirmed[won[0]]) and won[1] > (s.seconds or 0)


def test_stop_ends_a_run_within_a_round() -> None:
    log = MemoryLog()
    loop, reason = tuned(SMALL, log, stop=lambda: len(log.lines) >= 5)
    assert reason == "stopped" and len(log.lines) == 5
    assert not loop.states[0].confirmed


def test_events_tell_the_story() -> None:
    events: list[Event] = []
    tuned(SMALL, events=events)
    assert [e.index for e in events if isinstance(e, TaskStarted)] == [0, 1, 2]
    bests = [e.seconds for e in events if isinstance(e, NewBest) and e.index == 0]
    assert bests == sorted(bests, reverse=True) and bests
    rounds = [e for e in events if isinstance(e, BatchMeasured)]
    assert rounds[0].latency is None and rounds[-1].latency is not None
    assert rounds[-1].latency_before is not None
    assert rounds[-1].latency < rounds[-1].latency_before


def test_round_robin_gives_every_task_its_turn() -> None:
    loop, _ = tuned(TuningOptions(trials=72, batch=8, strategy="round-robin"), tasks=TASKS[:2])
    assert abs(loop.states[0].round - loop.states[1].round) <= 1


def test_streams_depend_on_seed_name_and_round() -> None:
    draws = {
        int(stream(*key).integers(1 << 40))
        for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    }
    assert len(draws) == 4
    assert int(stream(0, "a", 0).integers(1 << 40)) in draws


def test_a_small_budget_knows_every_task_and_refines_the_heaviest() -> None:
    loop, _ = tuned(TuningOptions(trials=13, batch=8))
    assert all(s.before is not None for s in loop.states)
    heaviest = max(loop.states, key=lambda s: s.before or 0.0)
    assert [len(s.trials) > 2 for s in loop.states] == [s is heaviest for s in loop.states]


def test_equal_tasks_are_tuned_once() -> None:
    [merged] = distinct([TASKS[0], Task("again", TASKS[0].dag, 3)])
    assert (merged.name, merged.weight) == (TASKS[0].name, TASKS[0].weight + 3)


def test_fits_become_rarer_as_trials_grow() -> None:
    moments = [0]
    while moments[-1] < 2000:
        moments.append(next_fit(moments[-1]))
    assert moments[1:4] == [32, 64, 96]
    assert len(moments) < 20
