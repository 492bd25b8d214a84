"""What tuning remembers of one task: its trials, cut into rounds, and its best program.

Live tuning and restoring from a log feed it in the same way, trial by trial, so that both reach the
same state. ``loop.py`` decides what to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ansor_lite.learner import Lesson, lesson
from ansor_lite.measure.protocol import Measurement, Status
from ansor_lite.search import Candidate, TaskSearch
from ansor_lite.task_scheduler import TaskHistory, similarity_group, stalled
from ansor_lite.tasks import Task
from schedules.steps import Step

# A task whose first trials all fail is dropped after this many.
MOST_FAILURES = 32
RAN = (Status.OK, Status.SLOW)


@dataclass(slots=True)
class Trial:
    """A candidate and what came of it; ``wrong`` is set when its check fails later."""

    candidate: Candidate
    result: Measurement
    wrong: str = ""

    @property
    def ran(self) -> bool:
        return self.result.status in RAN and not self.wrong

    @property
    def seconds(self) -> float | None:
        """Of one run; ``None`` after a failure."""
        return self.result.time if self.ran else None

    @property
    def failure(self) -> str:
        return "" if self.ran else self.wrong or self.result.message or self.result.status.value


@dataclass
class TaskState:
    """``trials`` in the order they were measured, those of the unfinished round last."""

    task: Task
    index: int
    search: TaskSearch
    default: tuple[Step, ...]  # the schedule by rule
    trials: list[Trial] = field(default_factory=list)
    closed: int = 0  # trials in finished rounds
    history: list[float | None] = field(default_factory=list)
    confirmed: dict[tuple[Step, ...], float] = field(default_factory=dict)
    verified: set[tuple[Step, ...]] = field(default_factory=set)  # compute what the task says
    done: str = ""
    best: Trial | None = None  # the fastest that ran to the end
    measured: int = 0  # programs that ran to the end
    slow: int = 0  # ... that were stopped early
    failures: int = 0
    _by_steps: dict[tuple[Step, ...], Trial] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.task.key

    @property
    def round(self) -> int:
        return len(self.history)

    @property
    def open(self) -> list[Trial]:
        """Trials of the round in progress."""
        return self.trials[self.closed :]

    @property
    def seconds(self) -> float | None:
        """Of the best program so far."""
        return None if self.best is None else self.best.seconds

    @property
    def before(self) -> float | None:
        """Seconds of the schedule by rule."""
        trial = self._by_steps.get(self.default)
        return None if trial is None else trial.seconds

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._by_steps[trial.candidate.steps] = trial
        self._count(trial)

    def is_confirmed(self, trial: Trial) -> bool:
        """Whether the trial has been timed again."""
        return trial.candidate.steps in self.confirmed

    def is_verified(self, trial: Trial) -> bool:
        """Whether the result of the trial has been compared with the unscheduled program's."""
        return trial.candidate.steps in self.verified

    def latest(self, trial: Trial) -> float:
        """Seconds of a trial that ran, by its last timing."""
        return self.confirmed.get(trial.candidate.steps, trial.result.time or 0.0)

    def mark_wrong(self, trial: Trial, message: str) -> None:
        """The check of a trial failed: it is a failure from now on."""
        trial.wrong = message
        self.best, self.measured, self.slow, self.failures = None, 0, 0, 0
        for each in self.trials:
            self._count(each)

    def _count(self, trial: Trial) -> None:
        if not trial.ran:
            self.failures += 1
        elif not trial.result.ok:
            self.slow += 1
        else:
            self.measured += 1
            if self.best is None or (trial.seconds or 0.0) < (self.best.seconds or 0.0):
                self.best = trial

    def known(self, steps: tuple[Step, ...]) -> Trial | None:
        return self._by_steps.get(steps)

    def close_round(self) -> list[Lesson]:
        """End the round in progress; returns what the cost model can learn from it."""
        trials = self.open
        self.search.observe([t.candidate for t in trials], [t.seconds for t in trials])
        self.closed = len(self.trials)
        self.history.append(self.seconds)
        sketches = self.search.space.sketches
        return [lesson(self.task.dag, sketches, t.candidate, t.seconds, t.failure) for t in trials]

    def finish(self, patience: int) -> str:
        """Why the task needs no more rounds; empty when it does. ``patience`` in rounds."""
        if self.search.exhausted:
            self.done = "exhausted"
        elif self.failures == len(self.trials) >= MOST_FAILURES:
            self.done = "failing"
        elif stalled(self.as_history(), patience):
            self.done = "stalled"
        return self.done

    def as_history(self) -> TaskHistory:
        """What the scheduler sees."""
        names = ",".join(s.name for s in self.search.space.sketches)
        group = similarity_group(names, self.task.flop) if names else ""
        return TaskHistory(tuple(self.history), float(self.task.flop), group, bool(self.done))


def resembling(state: TaskState, others: Sequence[TaskState], n: int = 2) -> list[TaskState]:
    """Tuned tasks of the same structure, those of the nearest size first."""
    names = [s.name for s in state.search.space.sketches]
    same = [
        o
        for o in others
        if o is not state and o.best and [s.name for s in o.search.space.sketches] == names
    ]
    return sorted(same, key=lambda o: (abs(o.task.flop - state.task.flop), o.key))[:n]
