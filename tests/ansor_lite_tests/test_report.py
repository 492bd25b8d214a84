"""What the command line shows: progress folded from events, the table, the lines."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ansor_lite.events import (
    BatchMeasured,
    Event,
    NewBest,
    TaskFinished,
    TaskInfo,
    TaskStarted,
    TrialMeasured,
    TuningFinished,
    TuningStarted,
    TuningWarning,
)
from ansor_lite.report.lines import LineReport
from ansor_lite.report.live import LiveReport, tuning_table
from ansor_lite.report.progress import Progress, advance
from ansor_lite.report.text import (
    BEYOND_PEAK,
    bytes_text,
    duration_text,
    rate_text,
    seconds_text,
    share_text,
)

BATCH = BatchMeasured("first", 0, 1, 1, 1, 0.002, 50.0, 0.010, 0.008, 12.0, 78.0)
EVENTS: list[Event] = [
    TuningStarted((TaskInfo("first", "a", 2, 1e8), TaskInfo("second", "b", 1, 1e6)), 5, 1),
    TaskStarted("first", 0),
    TrialMeasured("first", 0, 0.002, "ok", ""),
    NewBest("first", 0, 0.002, 50.0),
    TrialMeasured("first", 0, None, "crash", "worker died of SIGSEGV"),
    TrialMeasured("first", 0, None, "timeout", "10 s"),
    BATCH,
    TaskFinished("first", 0, "stalled", 0.002),
    TuningWarning("something else was tuned"),
    TuningFinished("trials", 6, 3, 20.0, 0.1, 0.010, 0.005),
]


def after(*events: Event) -> Progress:
    progress = Progress()
    for event in events:
        progress = advance(progress, event)
    return progress


def test_trials_and_failures_count_from_what_the_log_had() -> None:
    progress = after(*EVENTS[:6])
    assert (progress.trials, progress.failures, progress.resumed) == (6, 3, 5)


def test_the_first_failure_keeps_its_text() -> None:
    assert after(*EVENTS).first_failure == "crash: worker died of SIGSEGV"


def test_a_row_knows_its_speed() -> None:
    row = after(*EVENTS).rows[0]
    assert row.gflops == pytest.approx(50.0)
    assert row.total_seconds == pytest.approx(0.004)
    assert row.state == "stalled"


def test_the_end_has_the_final_latency_and_no_time_left() -> None:
    progress = after(*EVENTS)
    assert progress.speedup == pytest.approx(2.0)
    assert (progress.reason, progress.left, progress.spent) == ("trials", 0.0, 20.0)


def test_a_warning_before_the_start_is_kept() -> None:
    assert after(TuningWarning("early"), EVENTS[0]).warnings == ("early",)


def table_text(progress: Progress, peak: float | None = 100.0, rows: int = 10) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(tuning_table(progress, peak, rows))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_table_shows_what_matters() -> None:
    text = table_text(after(*EVENTS[:8]))
    assert "2.00 ms" in text and "50%" in text and "stalled" in text
    assert "first failure: crash: worker died of SIGSEGV" in text
    assert "estimated latency: 10.0 ms before, 8.00 ms now (1.25x)" in text
    assert "0:12 spent, 1:18 left" in text


def test_the_slowest_task_stands_first() -> None:
    progress = after(*EVENTS[:8], NewBest("second", 1, 1.0, 0.001))
    text = table_text(progress)
    assert text.index("second") < text.index("first ")


def test_a_long_table_says_what_it_hides() -> None:
    tasks = tuple(TaskInfo(f"task{i}", str(i), 1, 1e6) for i in range(40))
    text = table_text(after(TuningStarted(tasks, 0, 0)), rows=5)
    assert "... and 35 more tasks" in text
    assert text.count("task") == 5 + 2


def test_more_than_the_peak_is_explained() -> None:
    progress = after(*EVENTS[:8])
    assert BEYOND_PEAK in table_text(progress, peak=40.0) and "125%*" in table_text(progress, 40.0)
    assert BEYOND_PEAK not in table_text(progress, peak=100.0)
    lines: list[str] = []
    with LineReport(lines.append, 40.0) as report:
        for event in EVENTS:
            report(event)
    assert any("125% of peak by the operations of the direct algorithm" in line for line in lines)


def test_without_a_peak_there_is_no_share() -> None:
    assert "%" not in table_text(after(*EVENTS[:8]), peak=None)


def test_lines_tell_the_same_story() -> None:
    lines: list[str] = []
    with LineReport(lines.append, 100.0) as report:
        for event in EVENTS:
            report(event)
    assert lines[0] == "tuning 2 tasks; the log has 5 trials"
    assert lines[1] == "first failure: crash: worker died of SIGSEGV"
    assert lines[2].startswith(
        "[0:12] first: 2.00 ms, 50 GFLOP/s (50% of peak), 1 trial, 1 failure"
    )
    assert "warning: something else was tuned" in lines
    assert lines.count("first failure: crash: worker died of SIGSEGV") == 2
    assert lines[-2].startswith("estimated latency: 10.0 ms before, 5.00 ms now (2.00x)")


def test_lines_of_a_clean_run_mention_no_failure() -> None:
    lines: list[str] = []
    report = LineReport(lines.append, None)
    for event in (replace(EVENTS[0], failures=0), replace(BATCH, failures=0)):  # type: ignore[type-var]
        report(event)
    assert "failure" not in " ".join(lines)


def test_the_live_report_draws_on_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, height=30, force_terminal=True)
    with LiveReport(console, 100.0) as report:
        for event in EVENTS:
            report(event)
    assert "estimated latency" in file.getvalue()


def test_numbers_read_well() -> None:
    assert [seconds_text(s) for s in (None, 1.5e-6, 0.0123, 2.0)] == [
        "-", "1.50 us", "12.3 ms", "2.00 s",
    ]  # fmt: skip
    assert [duration_text(s) for s in (0, 65, -3)] == ["0:00", "1:05", "0:00"]
    assert [bytes_text(n) for n in (500, 1_200_000, 4_000_000_000)] == [
        "0.50 kB", "1.20 MB", "4.00 GB",
    ]  # fmt: skip
    assert [rate_text(g) for g in (0.0, 3.14159, 412.4)] == ["-", "3.1", "412"]
    assert [share_text(1.0, p) for p in (None, 2.0)] == ["-", "50%"]
