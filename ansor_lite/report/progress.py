"""The state of a tuning run as its events tell it: ``progress = advance(progress, event)``.

Pure, so that the live table and the plain lines show the same numbers and tests need no terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ansor_lite.events import (
    BatchMeasured,
    Event,
    NewBest,
    TaskFinished,
    TaskStarted,
    TrialMeasured,
    TuningFinished,
    TuningStarted,
    TuningWarning,
)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task; ``best`` in seconds of one run of it."""

    name: str
    weight: int
    flop: float
    trials: int = 0
    failures: int = 0
    best: float | None = None
    state: str = ""

    @property
    def gflops(self) -> float:
        return self.flop / self.best / 1e9 if self.best else 0.0

    @property
    def total_seconds(self) -> float:
        """Seconds of all uses in one run of the network, 0 while unknown."""
        return self.weight * self.best if self.best else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """``trials`` ran to the end, ``failures`` did not; both include those of an existing log."""

    rows: tuple[TaskRow, ...] = ()
    trials: int = 0
    failures: int = 0
    resumed: int = 0
    first_failure: str = ""
    latency_before: float | None = None
    latency: float | None = None
    spent: float = 0.0
    left: float | None = None
    warnings: tuple[str, ...] = ()
    reason: str = ""

    @property
    def speedup(self) -> float | None:
        if not self.latency_before or not self.latency:
            return None
        return self.latency_before / self.latency


def advance(progress: Progress, event: Event) -> Progress:
    """``progress`` after ``event``."""
    match event:
        case TuningStarted():
            rows = tuple(TaskRow(t.name, t.weight, t.flop) for t in event.tasks)
            progress = replace(progress, rows=rows, resumed=event.trials)
            return replace(progress, trials=event.trials, failures=event.failures)
        case TaskStarted():
            return _with_row(progress, event.index, state="tuning")
        case TrialMeasured():
            return _with_trial(progress, event)
        case NewBest():
            return _with_row(progress, event.index, best=event.seconds)
        case BatchMeasured():
            counts = {"trials": event.trials, "failures": event.failures}
            progress = _with_row(progress, event.index, best=event.best, **counts)
            progress = replace(progress, spent=event.spent, left=event.left)
            return _with_latency(progress, event)
        case TaskFinished():
            return _with_row(progress, event.index, state=event.reason, best=event.best)
        case TuningWarning():
            return replace(progress, warnings=(*progress.warnings, event.message))
        case TuningFinished():
            progress = replace(progress, trials=event.trials, failures=event.failures)
            ended = replace(progress, reason=event.reason, spent=event.spent, left=0.0)
            return _with_latency(ended, event)


def _with_latency(progress: Progress, event: BatchMeasured | TuningFinished) -> Progress:
    return replace(progress, latency_before=event.latency_before, latency=event.latency)


def _with_trial(progress: Progress, event: TrialMeasured) -> Progress:
    row = progress.rows[event.index]
    if event.seconds is not None:
        progress = replace(progress, trials=progress.trials + 1)
        return _with_row(progress, event.index, trials=row.trials + 1)
    text = progress.first_failure or f"{event.status}: {event.error}"
    progress = replace(progress, failures=progress.failures + 1, first_failure=text)
    return _with_row(progress, event.index, failures=row.failures + 1)


def _with_row(progress: Progress, index: int, **changes: object) -> Progress:
    rows = list(progress.rows)
    rows[index] = replace(rows[index], **changes)  # type: ignore[arg-type]
    return replace(progress, rows=tuple(rows))
