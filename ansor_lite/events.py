"""What tuning reports while it works: plain values, given to the ``on_event`` callback.

The library prints nothing; ``report/`` turns these into a table or lines. Seconds are of the clock
that tuning was given; latencies are of one run of the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as tuning sees it; the counts and the best are what an existing log brought along."""

    name: str
    key: str
    weight: int
    flop: float
    trials: int = 0
    failures: int = 0
    best: float | None = None


@dataclass(frozen=True, slots=True)
class TuningStarted:
    """``trials`` and ``failures``: those an existing log brought along."""

    tasks: tuple[TaskInfo, ...]
    trials: int
    failures: int


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The first round of a task begins."""

    task: str
    index: int


@dataclass(frozen=True, slots=True)
class TrialMeasured:
    """One candidate was run, or failed: ``seconds`` is ``None`` and ``error`` says why."""

    task: str
    index: int
    seconds: float | None
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class NewBest:
    """A faster program, checked against the unscheduled one."""

    task: str
    index: int
    seconds: float
    gflops: float


@dataclass(frozen=True, slots=True)
class BatchMeasured:
    """A round has ended. Counts are of the task; ``latency`` is the sum over all tasks so far."""

    task: str
    index: int
    round: int
    trials: int
    failures: int
    best: float | None
    gflops: float
    latency_before: float | None
    latency: float | None
    spent: float
    left: float | None


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """No more rounds for this task; ``reason``: stalled, exhausted or failing."""

    task: str
    index: int
    reason: str
    best: float | None


@dataclass(frozen=True, slots=True)
class TuningWarning:
    """Something the user should know that does not stop tuning."""

    message: str


@dataclass(frozen=True, slots=True)
class TuningFinished:
    """``reason``: trials, seconds, converged, stopped, finished. ``search_share``: of ``spent``."""

    reason: str
    trials: int
    failures: int
    spent: float
    search_share: float
    latency_before: float | None
    latency: float | None


Event: TypeAlias = (
    TuningStarted
    | TaskStarted
    | TrialMeasured
    | NewBest
    | BatchMeasured
    | TaskFinished
    | TuningWarning
    | TuningFinished
)
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default ``on_event``."""
