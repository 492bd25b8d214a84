"""Commands that measure tuning itself: trials, candidates, programs that no list mentions."""

from __future__ import annotations

from pathlib import Path

import pytest
from rounds_and_results import result_of

from ansor_lite.events import TaskStarted, TrialMeasured, TuningFinished
from benchmarks import (
    candidates,
    programs,
    trials,
    unlisted_programs,
)


def test_counting_keeps_trials_slow_ones_and_failures_apart() -> None:
    counting = trials.Counting()
    counting(TaskStarted("task", 0))
    for seconds, status in ((2.0, "ok"), (1.0, "ok"), (9.0, "slow"), (None, "crash")):
        counting(TrialMeasured("task", 0, seconds, status, ""))
    counting(TuningFinished("trials", 2, 1, 10.0, 0.125, None, None))
    assert (counting.trials, counting.slow, counting.failures) == (2, 1, 1)
    assert (counting.best, counting.search_share) == (1.0, 0.125)
    assert counting.seconds > 0


@pytest.mark.parametrize("name", list(programs.DENSE))
def test_unlisted_programs_become_tasks_with_tiled_parallel_vector_sketches(name: str) -> None:
    from ansor_lite.target import native

    task = programs.DENSE[name]()
    shape = unlisted_programs.structure(task, native(2).hardware())
    assert task.flop > 1e7
    assert 0 < shape.sketches == shape.tiled == shape.vectorised == shape.parallel


def test_candidates_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "candidates.json"
    options = ["--tasks", "1", "--observed", "4", "--rounds", "1", "--trees", "3", "--profile"]
    assert candidates.main(["--model", str(model), "--output", str(output), *options]) == 0
    found = result_of(output)
    assert found["candidates"] > 0 and found["candidates_per_second"] > 0
    assert all(0.0 <= each["own_share"] <= 1.0 for each in found["profile"])


@pytest.mark.slow
def test_trials_command(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "trials.json"
    options = ["--tasks", "1", "--trials", "3", "--threads", "1"]
    assert trials.main(["--model", str(model), "--output", str(output), *options]) == 0
    [task] = result_of(output)["tasks"]
    assert task["trials"] + task["slow"] == 3


@pytest.mark.slow
def test_unlisted_programs_command(tmp_path: Path) -> None:
    output = tmp_path / "out" / "unlisted.json"
    options = ["--programs", "einsum", "--trials", "2", "--threads", "1"]
    assert unlisted_programs.main(["--output", str(output), *options]) == 0
    found = result_of(output)
    assert found["all_right"]
