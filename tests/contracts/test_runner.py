"""What every builder and runner keeps to: the local workers and the fake alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ansor_lite_tests"))

from toy_tasks import scaled, tiled

from ansor_lite.measure import FakeRunner, Measurer, Status
from ansor_lite.measure.local import LocalWorkers
from ansor_lite.target import native

TASK = scaled()


@pytest.fixture(scope="module", params=["local", "fake"])
def measurer(request: pytest.FixtureRequest) -> Iterator[Measurer]:
    if request.param == "fake":
        yield FakeRunner(lambda candidate: 1e-3).measurer()
    else:
        with LocalWorkers(native(threads=1), workers=1) as workers:
            yield workers.measurer()


def test_one_result_per_candidate_in_order(measurer: Measurer) -> None:
    candidates = [tiled(TASK, size) for size in (4, 8, 16)]
    results = measurer.measure(candidates)
    assert [r.status for r in results] == [Status.OK] * 3
    assert all(r.time is not None and len(r.seconds) >= 3 for r in results)
    assert all(r.build_seconds > 0 and r.run_seconds > 0 for r in results)


def test_programs_run_one_by_one_in_any_order(measurer: Measurer) -> None:
    candidates = [tiled(TASK, size) for size in (4, 8)]
    built = measurer.builder.build(candidates)
    pairs = list(zip(candidates, built, strict=True))
    for candidate, program in reversed(pairs):
        [result] = measurer.runner.run([candidate], [program], None)
        assert result.ok


def test_nothing_to_measure_gives_nothing(measurer: Measurer) -> None:
    assert measurer.measure([]) == []


def test_a_right_program_passes_its_check(measurer: Measurer) -> None:
    assert measurer.check(tiled(TASK, 8)).ok


def test_timing_again_joins_the_repeats_of_all_rounds(measurer: Measurer) -> None:
    [first, second] = measurer.remeasure([tiled(TASK, 4), tiled(TASK, 8)], rounds=2)
    assert first.ok and len(first.seconds) >= 6 and second.ok


def test_a_program_runs_as_often_as_wanted(measurer: Measurer) -> None:
    candidate = tiled(TASK, 8)
    built = measurer.builder.build([candidate])
    assert all(measurer.runner.run([candidate], built, None)[0].ok for _ in range(2))
