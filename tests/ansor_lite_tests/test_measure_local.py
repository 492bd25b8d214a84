"""Worker processes: what a bad candidate does to itself, and what it must not do to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_tasks import crashing, endless, scaled, tiled

from ansor_lite.errors import InputError, MeasurementError
from ansor_lite.measure.local import Limits, LocalWorkers
from ansor_lite.measure.protocol import Candidate, Status
from ansor_lite.target import Target, native
from schedules.steps import Tile

GOOD = [tiled(scaled(), size) for size in (4, 8, 16)]


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalWorkers]:
    with LocalWorkers(native(threads=1), workers=1, limits=Limits(build=20.0, run=1.0)) as pool:
        yield pool


def test_a_crash_is_a_result_with_the_signals_name(workers: LocalWorkers) -> None:
    [result] = workers.measurer().measure([Candidate(crashing(), ())])
    assert result.status is Status.CRASH and result.message == "SIGSEGV"
    assert workers.measurer().measure(GOOD[:1])[0].ok


def test_a_hang_is_a_timeout_and_what_it_took_along_is_built_again(workers: LocalWorkers) -> None:
    results = workers.measurer().measure([Candidate(endless(), ()), *GOOD])
    assert results[0].status is Status.TIMEOUT and "1 s" in results[0].message
    assert [r.status for r in results[1:]] == [Status.OK] * 3


def test_an_illegal_step_is_a_build_error_that_says_why(workers: LocalWorkers) -> None:
    bad = Candidate(scaled(), (Tile("nowhere", "i", (4,)),))
    results = workers.measurer().measure([bad, GOOD[0]])
    assert results[0].status is Status.BUILD_ERROR and "nowhere" in results[0].message
    assert results[1].ok


def test_a_worker_killed_while_building_costs_no_other_candidate(workers: LocalWorkers) -> None:
    os.kill(workers.pids[0], signal.SIGKILL)
    results = workers.measurer().measure(GOOD)
    assert [r.status for r in results].count(Status.OK) >= 2
    assert all(r.status in (Status.OK, Status.CRASH) for r in results)
    assert all(r.ok for r in workers.measurer().measure(GOOD))


def test_hopeless_programs_stop_early(workers: LocalWorkers) -> None:
    large = tiled(scaled(1 << 24), 16)
    [result] = workers.measurer().measure([large], best_seconds=1e-6)
    assert result.status is Status.SLOW and len(result.seconds) == 1


def test_a_crash_in_a_check_is_its_verdict(workers: LocalWorkers) -> None:
    assert workers.check(Candidate(crashing(), ())).status is Status.CRASH
    assert workers.check(GOOD[0]).ok


def test_the_program_timed_last_is_checked_by_the_worker_that_has_it() -> None:
    with LocalWorkers(native(threads=1), workers=2) as pool:
        for good in GOOD:
            [result] = pool.measurer().measure([good])
            assert result.ok and pool.check(good).ok
        off = Candidate(GOOD[0].task, GOOD[0].steps[:1])
        assert pool.check(off).ok  # never timed: built for the check


def test_a_tolerance_decides_what_is_wrong() -> None:
    with LocalWorkers(native(threads=1), workers=1, limits=Limits(tolerance=-1.0)) as pool:
        pool.measurer().measure(GOOD[:1])
        assert pool.check(GOOD[0]).status is Status.WRONG_RESULT


def test_closing_ends_all_processes() -> None:
    pool = LocalWorkers(native(threads=1), workers=2)
    pids = pool.pids
    pool.close()
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


def test_workers_die_with_a_killed_parent() -> None:
    program = (
        "import time\n"
        "from ansor_lite.measure.local import LocalWorkers\n"
        "from ansor_lite.target import native\n"
        "pool = LocalWorkers(native(threads=1), workers=1)\n"
        "print(pool.pids[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


def test_a_worker_that_cannot_start_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ansor_lite.measure.process.PROGRAM", "raise SystemExit('no TVM here')")
    pool = LocalWorkers(native(threads=1), workers=1)
    with pytest.raises(MeasurementError, match=r"does not start: exit code 1 \(no TVM here\)"):
        pool.measurer().measure(GOOD)
    pool.close()


def test_refuses_a_target_this_machine_cannot_run() -> None:
    with pytest.raises(InputError, match="avx9000"):
        LocalWorkers(Target(mcpu="alien", features=("avx9000",)))


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
