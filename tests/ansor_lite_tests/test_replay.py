"""A log back to schedules: exact matches, other thread counts with a warning, strictness."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_tasks import scaled, tiled

from ansor_lite.errors import LogError, MissingRecords
from ansor_lite.measure.protocol import Measurement, Status
from ansor_lite.records import Record, Records, record_of
from ansor_lite.replay import replay
from ansor_lite.target import Target, parse
from schedules.steps import MinimalFiltering

ZEN = parse("znver4", 2)
FIRST, SECOND, THIRD = (scaled(n, f"scaled_{n}") for n in (16, 32, 64))


def record(n: int, target: Target = ZEN) -> Record:
    return record_of(tiled(scaled(n), 4), Measurement(Status.OK, (1e-3,)), target)


def test_tasks_get_the_steps_of_their_records() -> None:
    found = replay(Records((record(16),)), [FIRST, SECOND], ZEN)
    assert found.steps_for(FIRST) == record(16).steps
    assert found.steps_for(SECOND) is None
    assert found.missing == (SECOND,) and found.warnings == ()


def test_other_thread_counts_serve_with_a_warning() -> None:
    records = Records((record(16), record(32, replace(ZEN, threads=8))), "a.jsonl")
    found = replay(records, [FIRST, SECOND], ZEN)
    assert found.missing == () and found.steps_for(SECOND) == record(32).steps
    assert found.warnings == ("a.jsonl: 1 task(s) were tuned for 8 thread(s) only, not for 2",)


def test_strict_names_every_task_without_an_exact_record() -> None:
    records = Records((record(16), record(32, replace(ZEN, threads=8))), "a.jsonl")
    with pytest.raises(MissingRecords, match="scaled_32, scaled_64") as caught:
        replay(records, [FIRST, SECOND, THIRD], ZEN, strict=True)
    assert caught.value.tasks == ("scaled_32", "scaled_64")
    assert not replay(records, [FIRST], ZEN, strict=True).missing


def test_refuses_a_log_for_another_target() -> None:
    with pytest.raises(LogError, match="haswell"):
        replay(Records((record(16, parse("haswell", 2)),)), [FIRST], ZEN)


def test_the_digest_names_the_chosen_schedules_only() -> None:
    one = replay(Records((record(16),)), [FIRST], ZEN)
    slower = replace(record(16), seconds=(2e-3,))
    assert one.digest == replay(Records((slower,)), [FIRST, SECOND], ZEN).digest
    assert one.digest != replay(Records((record(32),)), [SECOND], ZEN).digest


def test_exact_records_leave_out_what_changes_rounding() -> None:
    """The faster program filters with fewer multiplications, so its sums round otherwise."""
    plain = record(16)
    filtered = (MinimalFiltering("y", ("i",), 2), *plain.steps)
    faster = replace(plain, steps=filtered, seconds=(1e-6,))
    records = Records((plain, faster))
    assert replay(records, [FIRST], ZEN).steps_for(FIRST) == filtered
    assert replay(records.exact(), [FIRST], ZEN).steps_for(FIRST) == plain.steps
