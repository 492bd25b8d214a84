from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import ansor_lite
from ansor_lite import records, tune, workloads
from ansor_lite.alternatives import Uses
from ansor_lite.errors import InputError, LogWriteError
from ansor_lite.events import Event, TuningFinished, TuningWarning
from ansor_lite.measure import FakeRunner, Status
from ansor_lite.measure.protocol import Candidate as Program
from ansor_lite.options import TuningOptions
from ansor_lite.records import Log
from ansor_lite.replay import replay
from ansor_lite.target import Target
from ansor_lite.tasks import Task
from ansor_lite.tune import (
    RecordLog,
    TuningResult,
    compile_reserve,
    new_model,
    objective_of,
    reordered,
    tune_tasks,
)
from schedules.compose import Part, compose
from schedules.steps import ROUNDING, Step
from search_space.presets import RuleTable
from search_space.rows import rule_fuse_rows
from search_space.sketch_generation import generate_sketches

TARGET = Target(threads=2)
TASKS = [workloads.matmul(48, 64, 32), workloads.matmul(64, 96, 128)]
LAST = workloads.matmul(48, 32, 64)
OPTIONS = TuningOptions(trials=40, batch=8, population=64, generations=1)
RUN = """
import sys
from pathlib import Path
from test_tune import tuned
tuned(Path(sys.argv[1]))
"""


def cost(program: object) -> float:
    return 1e-5 * (1 + sum(repr(program).encode()) % 97)


def chain() -> Task:
    """The product of ``TASKS[0]``, multiplied once more: the second part is ``LAST``."""
    parts = (Part(TASKS[0].dag, ("a", "b"), "y"), Part(LAST.dag, ("y", "c"), "z"))
    return Task("chain", compose(parts).dag, 1, (TASKS[0].key, LAST.key))


def tuned(
    path: Path,
    options: TuningOptions = OPTIONS,
    target: Target = TARGET,
    events: list[Event] | None = None,
    tasks: Sequence[Task] = TASKS,
    cost: Callable[[Program], float] = cost,
) -> TuningResult:
    runner = FakeRunner(cost, noise=0.01)
    with Log.open(path) as log:
        return tune_tasks(
            tasks,
            target,
            options,
            runner.measurer(),
            RecordLog(log, target, runner.clock),
            new_model(options),
            on_event=(events if events is not None else []).append,
            clock=runner.clock,
        )


def test_logs_of_two_processes_are_equal_byte_for_byte(tmp_path: Path) -> None:
    logs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    here = str(Path(__file__).parent)
    for log, hash_seed in zip(logs, ("1", "2"), strict=True):
        subprocess.run(
            [sys.executable, "-c", RUN, str(log)],
            check=True,
            env={
                "PYTHONPATH": f"{here}:{Path(ansor_lite.__file__).parents[1]}",
                "PYTHONHASHSEED": hash_seed,
            },
        )
    assert logs[0].read_bytes() == logs[1].read_bytes()
    assert len(logs[0].read_bytes().splitlines()) > 40


def test_the_result_names_what_the_log_replays(tmp_path: Path) -> None:
    result = tuned(tmp_path / "log.jsonl")
    found = replay(records.read(tmp_path / "log.jsonl"), TASKS, TARGET, strict=True)
    assert {key: r.steps for key, r in found.found.items()} == result.steps
    assert [t.seconds for t in result.tasks] == [found.found[t.task.key].time for t in result.tasks]


def test_the_result_sums_up(tmp_path: Path) -> None:
    events: list[Event] = []
    result = tuned(tmp_path / "log.jsonl", events=events)
    last = events[-1]
    assert result.trials == 40 and result.reason == "trials"
    assert result.before is not None and result.after is not None and result.after < result.before
    assert isinstance(last, TuningFinished) and last.latency == result.after
    assert result.tasks[0].task.name == TASKS[1].name  # the heaviest leads


@pytest.mark.parametrize(("seconds", "better"), [(1e-3, True), (5e-3, False)])
def test_a_chain_counts_instead_of_its_parts_where_it_is_faster(
    tmp_path: Path, seconds: float, better: bool
) -> None:
    whole = chain()

    def cost(program: Program) -> float:
        return seconds if program.task.key == whole.key else 1e-3

    tasks = [whole, TASKS[0], LAST]
    result = tuned(tmp_path / "log.jsonl", tasks=tasks, cost=cost)
    assert [t.task.name for t in result.tasks][-1] == "chain"  # tuned after its parts
    assert result.before == pytest.approx(2e-3, rel=0.1)
    assert result.after == pytest.approx(1e-3 if better else 2e-3, rel=0.1)


def test_a_chain_that_no_sketch_brings_together_is_not_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chain()
    apart = generate_sketches(whole.dag, TARGET.hardware(), RuleTable((), (rule_fuse_rows,)))
    real = generate_sketches

    def without_chains(dag, hardware, exact):  # type: ignore[no-untyped-def]
        return apart if dag.key == whole.key else real(dag, hardware, exact=exact)

    monkeypatch.setattr(tune, "generate_sketches", without_chains)
    result = tuned(tmp_path / "log.jsonl", tasks=[whole, TASKS[0], LAST])
    assert [t.task.key for t in result.tasks] == [TASKS[0].key, LAST.key]


def test_tasks_that_no_trial_was_left_for_are_told_of(tmp_path: Path) -> None:
    events: list[Event] = []
    tuned(tmp_path / "log.jsonl", OPTIONS.replace(trials=1), events=events)
    warnings = [e.message for e in events if isinstance(e, TuningWarning)]
    assert any(w.startswith("1 of 2 tasks got no trial") for w in warnings)
    events.clear()
    tuned(tmp_path / "log.jsonl", events=events)
    assert not any(isinstance(e, TuningWarning) for e in events)


def test_records_say_round_and_time_of_the_tuning_clock(tmp_path: Path) -> None:
    tuned(tmp_path / "log.jsonl")
    mine = [r for r in records.read(tmp_path / "log.jsonl") if r.task == TASKS[0].key]
    assert mine[0].round == 0 and max(r.round for r in mine) >= 2
    assert [r.elapsed for r in mine] == sorted(r.elapsed for r in mine)
    assert mine[0].target == TARGET and mine[0].host


def test_records_of_other_threads_do_not_count(tmp_path: Path) -> None:
    tuned(tmp_path / "log.jsonl", target=Target(threads=1))
    events: list[Event] = []
    result = tuned(tmp_path / "log.jsonl", events=events)
    assert result.trials == 40
    assert getattr(events[0], "trials", None) == 0


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = tuned(tmp_path / "log.jsonl")
    before = (tmp_path / "log.jsonl").read_bytes()
    again = tuned(tmp_path / "log.jsonl")
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert again.steps == first.steps and again.after == first.after


def test_a_log_that_cannot_be_written_stops_tuning(tmp_path: Path) -> None:
    class FullDisk(RecordLog):
        def append(self, program, result, round):  # type: ignore[no-untyped-def]
            if self._log.path.stat().st_size > 5000:
                raise LogWriteError("cannot append to the log: No space left on device")
            super().append(program, result, round)

    runner = FakeRunner(cost)
    with Log.open(tmp_path / "log.jsonl") as log, pytest.raises(LogWriteError, match="No space"):
        measurer = runner.measurer()
        tune_tasks(TASKS, TARGET, OPTIONS, measurer, FullDisk(log, TARGET, runner.clock))
    assert all(r.status is Status.OK for r in records.read(tmp_path / "log.jsonl"))


def test_a_task_no_rule_schedules_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schedules.errors import ScheduleError

    real = tune.default_steps

    def refusing(dag, hardware):  # type: ignore[no-untyped-def]
        if dag.key == TASKS[0].key:
            raise ScheduleError("stage 'y' reads itself")
        return real(dag, hardware)

    monkeypatch.setattr(tune, "default_steps", refusing)
    events: list[Event] = []
    result = tuned(tmp_path / "log.jsonl", events=events)
    assert [t.task.key for t in result.tasks] == [TASKS[1].key]
    assert isinstance(events[0], TuningWarning) and "reads itself" in events[0].message


def test_objectives_have_names() -> None:
    uses = Uses(np.array([[1.0, 2.0]]))
    assert [objective_of(n, uses).name for n in ("latency", "geomean", "early-stop")] == [
        "f1",
        "f3",
        "f4",
    ]
    assert objective_of("target-latency", uses, limits=np.array([1.0])).name == "f2"
    with pytest.raises(InputError, match="latency to reach"):
        objective_of("target-latency", uses)


def test_a_reordered_objective_has_the_same_value_and_moved_slopes() -> None:
    objective = objective_of("latency", Uses(np.array([[1.0, 2.0, 4.0]])))
    moved = reordered(objective, [2, 0, 1])
    assert moved.slope(np.zeros(3)).tolist() == [4.0, 1.0, 2.0]
    assert moved.value(np.array([30.0, 10.0, 20.0])) == objective.value(
        np.array([10.0, 20.0, 30.0])
    )


def test_compiling_has_its_share_of_the_time() -> None:
    small = workloads.matmul(m=8, n=8, k=8)
    assert compile_reserve(TuningOptions(trials=5), [small] * 9) == 0.0
    assert 0 < compile_reserve(TuningOptions(seconds=100), [small] * 20) < 20
    assert compile_reserve(TuningOptions(seconds=2), [small] * 100) == 1.0
    large = workloads.matmul(m=1, n=8192, k=8192)
    options = TuningOptions(seconds=100)
    assert compile_reserve(options, [large] * 4) > 2 + compile_reserve(options, [small] * 4)


def test_exact_tuning_neither_tries_nor_takes_what_changes_rounding(tmp_path: Path) -> None:
    task = workloads.conv2d(1, 16, 16, 32, 32, 3, padding=1)
    log = tmp_path / "a.jsonl"

    def winner(exact: bool) -> tuple[Step, ...]:
        """With programs faster, the more they filter."""
        runner = FakeRunner(lambda p: 1e-6 if changes_rounding(p.steps) else 1e-3, noise=0.01)
        options = OPTIONS.replace(trials=60, exact=exact)
        with Log.open(log) as opened:
            trials = RecordLog(opened, TARGET, runner.clock, exact)
            measurer = runner.measurer()
            result = tune_tasks([task], TARGET, options, measurer, trials, clock=runner.clock)
            return result.tasks[0].steps or ()

    assert changes_rounding(winner(exact=False))
    assert not changes_rounding(winner(exact=True))


def changes_rounding(steps: tuple[Step, ...]) -> bool:
    return any(isinstance(step, ROUNDING) for step in steps)
