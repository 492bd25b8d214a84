"""Progress as plain lines, for pipes and log files: one per round of a task."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from ansor_lite.events import BatchMeasured, Event, TuningFinished, TuningStarted, TuningWarning
from ansor_lite.report.live import latency_line, summary_lines
from ansor_lite.report.progress import Progress, advance
from ansor_lite.report.text import (
    count_text,
    duration_text,
    rate_text,
    seconds_text,
    share_text,
)


class LineReport:
    """Gives every event that matters as one line to ``write``; see :class:`LiveReport`."""

    def __init__(self, write: Callable[[str], None], peak_gflops: float | None = None) -> None:
        self.progress = Progress()
        self._write = write
        self.peak_gflops = peak_gflops

    def __enter__(self) -> LineReport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        failed_before = self.progress.first_failure
        self.progress = advance(self.progress, event)
        match event:
            case TuningStarted():
                self._write(_start_line(self.progress))
            case BatchMeasured():
                self._write(_batch_line(event, self.progress, self.peak_gflops))
            case TuningWarning():
                self._write(f"warning: {event.message}")
            case TuningFinished():
                for line in summary_lines(self.progress):
                    if not line.startswith("warning: "):
                        self._write(line)
            case _ if self.progress.first_failure != failed_before:
                self._write(f"first failure: {self.progress.first_failure}")


def _start_line(progress: Progress) -> str:
    line = f"tuning {count_text(len(progress.rows), 'task')}"
    if progress.resumed:
        line += f"; the log has {count_text(progress.resumed, 'trial')}"
    return line


def _batch_line(event: BatchMeasured, progress: Progress, peak: float | None) -> str:
    share = f"{share_text(event.gflops, peak)} of peak"
    if peak and event.gflops > peak:
        share += " by the operations of the direct algorithm"
    speed = f"{rate_text(event.gflops)} GFLOP/s" + (f" ({share})" if peak else "")
    parts = [
        f"[{duration_text(event.spent)}] {event.task}: {seconds_text(event.best)}, {speed}",
        count_text(event.trials, "trial"),
    ]
    if event.failures:
        parts.append(count_text(event.failures, "failure"))
    if event.latency is not None:
        parts.append(latency_line(progress))
    if event.left is not None:
        parts.append(f"{duration_text(event.left)} left")
    return ", ".join(parts)
