"""The tuning loop: choose a task, propose, measure, write down, learn; until a budget is spent.

Read ``task_state.py`` first. One ``TuningLoop`` is one run over a fixed list of tasks. Everything
that decides (task, candidates, moments of fitting) is a pure function of options and trials so far,
which is why a run that was killed continues as if it had not been. Time comes from ``clock`` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ansor_lite.alternatives import uses_of
from ansor_lite.events import (
    BatchMeasured,
    NewBest,
    OnEvent,
    TaskFinished,
    TaskInfo,
    TaskStarted,
    TrialMeasured,
    TuningStarted,
    TuningWarning,
)
from ansor_lite.learner import Learner, Lesson
from ansor_lite.measure.protocol import Built, Measurement, Measurer, Status
from ansor_lite.measure.protocol import Candidate as Program
from ansor_lite.options import TuningOptions
from ansor_lite.search import Candidate, Steps
from ansor_lite.task_scheduler import (
    Objective,
    expected_share,
    gradient,
    round_robin,
)
from ansor_lite.task_state import TaskState, Trial, resembling
from ansor_lite.tasks import Task

# Of a budget in trials, the first rounds of all tasks take no more than this share: even a small
# one goes where the time is spent.
WARM_UP_SHARE = 0.5
MOST_FIRST = 16
# Rounds of a task that try what won in similar tasks meanwhile.
TRANSFER_ROUNDS = 4
# Winners are timed again together with what is this close behind them.
CLOSE_BEHIND = 1.1
MOST_RETIMED = 3
# ... and again when a program that had not been close wins by that.
MOST_RETIMINGS = 3


@dataclass(frozen=True, slots=True)
class LoggedTrial:
    """A line of the log, as far as tuning is concerned."""

    task: str
    steps: Steps
    result: Measurement


class TrialLog(Protocol):
    """Where results are kept. ``append`` returns once the line is on disk."""

    def read(self) -> Iterable[LoggedTrial]: ...

    def append(self, program: Program, result: Measurement, round: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loop works with, besides its tasks: all of it replaceable in a test."""

    measurer: Measurer
    log: TrialLog
    learner: Learner
    on_event: OnEvent
    clock: Callable[[], float]
    stop: Callable[[], bool]


class TuningLoop:
    """One tuning run. Of a limit in seconds, ``reserve`` must be left at the end, and ``confirm``
    more for timing the winners again."""

    def __init__(
        self,
        states: Sequence[TaskState],
        objective: Objective,
        options: TuningOptions,
        around: Surroundings,
        started: float,
        reserve: float = 0.0,
        confirm: float = 0.0,
    ) -> None:
        self.states = list(states)
        self.uses = uses_of([s.task for s in self.states])
        self.objective = objective
        self.options = options
        self.around = around
        self.started = started
        self.searching = 0.0  # seconds spent on everything but measuring
        limit = options.limit_seconds
        self._end_at = None if limit is None else limit - reserve
        self._limit = None if limit is None else limit - reserve - confirm
        self._patience = -(-options.task_patience // options.batch)

    # -- the run ---------------------------------------------------------------------------

    def run(self) -> str:
        """Tune until there is a reason to end, which is returned (see ``TuningFinished``)."""
        begun = self.around.clock()
        self._restore()
        self.searching += self.around.clock() - begun
        self._announce()
        while not (reason := self._end()):
            state = self._choose()
            if state is None:
                reason = "finished"
                break
            self._round(state)
        if reason != "stopped":
            self._confirm_winners()
        return reason

    def _end(self) -> str:
        options = self.options
        if self.around.stop():
            return "stopped"
        if options.trials is not None and self.ran >= options.trials:
            return "trials"
        if self._limit is not None and self.spent >= self._limit:
            return "seconds"
        if options.is_open_ended and not any(s.open for s in self.states):
            settled = expected_share([s.as_history() for s in self.states], self.objective)
            warm = all(s.history or s.done for s in self.states)
            return "converged" if warm and settled < options.min_gain else ""
        return ""

    @property
    def spent(self) -> float:
        return self.around.clock() - self.started

    @property
    def ran(self) -> int:
        """Programs that ran to the end: what a budget in trials counts."""
        return sum(s.measured for s in self.states)

    @property
    def before(self) -> float | None:
        """Seconds of the network by rule alone, which uses no chains."""
        return self.uses.latency([None if s.task.parts else s.before for s in self.states])

    def _choose(self) -> TaskState | None:
        unfinished = next((s for s in self.states if s.open), None)
        if unfinished is not None:
            return unfinished
        histories = [s.as_history() for s in self.states]
        if self.options.strategy == "round-robin":
            chosen = round_robin(histories)
        else:
            rounds = sum(s.round for s in self.states)
            rng = stream(self.options.seed, "task scheduler", rounds)
            chosen = gradient(histories, self.objective, rng)
        return None if chosen is None else self.states[chosen]

    # -- one round -------------------------------------------------------------------------

    def _round(self, state: TaskState) -> None:
        begun = self.around.clock()
        if not state.trials:
            self.around.on_event(TaskStarted(state.task.name, state.index))
        batch = self._propose(state)
        self.searching += self.around.clock() - begun
        if not batch and not state.open:
            self._retire(state, "exhausted")
            return
        complete = self._measure(state, batch)
        self._verify_best(state)  # it may come from a log
        if complete:
            begun = self.around.clock()
            self._close(state)
            self.searching += self.around.clock() - begun

    def _propose(self, state: TaskState) -> list[Candidate]:
        """What this round still has to measure: all of it, or what an interruption left."""
        search = state.search
        search.scorer = self.around.learner.scorer()
        if 0 < state.round < TRANSFER_ROUNDS:
            for other in resembling(state, self.states):
                if other.best is not None:
                    search.suggest(*other.search.knobs_of(other.best.candidate))
        rng = stream(self.options.seed, state.key, state.round)
        batch = search.propose(self._batch(state), rng)
        begun = {t.candidate.steps for t in state.open}
        if not begun <= {c.steps for c in batch}:
            return []  # of a run with other options: what it left is a round of its own
        return [c for c in batch if c.steps not in begun]

    def _batch(self, state: TaskState) -> int:
        if state.history:
            return self.options.batch
        first = 1 + len(state.search.space.sketches)  # the schedule by rule, and one of each
        if self.options.trials is not None:
            share = WARM_UP_SHARE * self.options.trials / len(self.states)
            first = min(first, max(2, round(share)))
        return min(first, MOST_FIRST)

    def _measure(self, state: TaskState, batch: Sequence[Candidate]) -> bool:
        """Measure, check and log one by one; whether the round came to its end."""
        waiting = list(batch)
        while waiting:
            now, waiting = waiting[: self._affordable()], waiting[self._affordable() :]
            programs = [self._program(state, c) for c in now]
            built = self.around.measurer.builder.build(programs)
            for candidate, program, made in zip(now, programs, built, strict=True):
                if self._end():
                    return False
                self._trial(state, candidate, program, made)
        return True

    def _affordable(self) -> int:
        """Programs worth building: no more than the budget lets run."""
        trials = self.options.trials
        return self.options.batch if trials is None else max(1, trials - self.ran)

    def _trial(
        self, state: TaskState, candidate: Candidate, program: Program, built: Built | Measurement
    ) -> None:
        before = state.seconds
        [result] = self.around.measurer.runner.run([program], [built], before)
        self.around.log.append(program, result, state.round)
        trial = Trial(candidate, result)
        state.add(trial)
        self.around.on_event(
            TrialMeasured(
                state.task.name, state.index, trial.seconds, result.status.value, trial.failure
            )
        )
        seconds = trial.seconds
        if state.best is trial and self._check(state, trial) and seconds is not None:
            gflops = state.task.flop / seconds / 1e9
            self.around.on_event(NewBest(state.task.name, state.index, seconds, gflops))

    def _verify_best(self, state: TaskState) -> None:
        """Check the best of a task until it stands."""
        while state.best is not None and not state.is_verified(state.best):
            self._check(state, state.best)

    def _check(self, state: TaskState, trial: Trial) -> bool:
        """Compare with the unscheduled program; a deviation is logged as a result."""
        program = self._program(state, trial.candidate)
        verdict = self.around.measurer.check(program)
        if not verdict.ok:
            self.around.log.append(program, verdict, state.round)
            state.mark_wrong(trial, verdict.message or verdict.status.value)
        else:
            state.verified.add(trial.candidate.steps)
        return verdict.ok

    def _close(self, state: TaskState) -> None:
        self.around.learner.observe(state.close_round())
        if reason := state.finish(self._patience):
            self._retire(state, reason)
        best = state.seconds
        self.around.on_event(
            BatchMeasured(
                task=state.task.name,
                index=state.index,
                round=state.round,
                trials=state.measured,
                failures=state.failures,
                best=best,
                gflops=0.0 if best is None else state.task.flop / best / 1e9,
                latency_before=self.before,
                latency=self.uses.latency([s.seconds for s in self.states]),
                spent=self.spent,
                left=None if self._limit is None else max(0.0, self._limit - self.spent),
            )
        )

    def _retire(self, state: TaskState, reason: str) -> None:
        state.done = reason
        self.around.on_event(TaskFinished(state.task.name, state.index, reason, state.seconds))
        if reason == "failing":
            first = next(t.failure for t in state.trials if t.failure)
            count = len(state.trials)
            message = f"{state.task.name}: all {count} candidates failed, the first with: {first}"
            self.around.on_event(TuningWarning(message))

    def _program(self, state: TaskState, candidate: Candidate) -> Program:
        known = candidate.sketch >= 0
        name = state.search.space.sketches[candidate.sketch].name if known else "default"
        return Program(state.task, candidate.steps, name)

    # -- before the first and after the last round -----------------------------------------

    def _announce(self) -> None:
        tasks = tuple(
            TaskInfo(
                name=s.task.name,
                key=s.key,
                weight=s.task.weight,
                flop=float(s.task.flop),
                trials=s.measured,
                failures=s.failures,
                best=s.seconds,
            )
            for s in self.states
        )
        measured = sum(s.measured for s in self.states)
        failures = sum(s.failures for s in self.states)
        self.around.on_event(TuningStarted(tasks, measured, failures))

    def _restore(self) -> None:
        """Take over what the log knows, as if it had been measured now."""
        by_key = {s.key: s for s in self.states}
        lines = [line for line in self.around.log.read() if line.task in by_key]
        candidates = _candidates(lines, by_key)
        rounds: list[list[Lesson]] = []
        last: TaskState | None = None
        for line in lines:
            state, candidate = by_key[line.task], candidates[line.task, line.steps]
            known = state.known(candidate.steps)
            if known is not None:
                _amend(state, known, line.result)
                continue
            rounds += [s.close_round() for s in self.states if self._is_over(s, state)]
            state.add(Trial(candidate, line.result))
            last = state
        if last is not None:
            self._verify_best(last)  # the interruption may have come before its check
            rounds += [s.close_round() for s in self.states if self._is_over(s, last)]
        self.around.learner.restore(rounds)
        for state in self.states:
            if state.trials and not state.open:
                state.finish(self._patience)

    def _is_over(self, state: TaskState, next_one: TaskState) -> bool:
        """Whether the open round of ``state`` had ended before the next trial: rounds never mix."""
        count = len(state.open)
        return count >= self._batch(state) or (count > 0 and state is not next_one)

    def _confirm_winners(self) -> None:
        """Time the best of every task again, beside what is close behind them: luck must not win,
        nor what was never the best so far and so never checked."""
        for state in self.states:
            for _ in range(MOST_RETIMINGS):
                if self.around.stop() or self._late():
                    return
                doubtful = [t for t in close_behind(state) if not state.is_confirmed(t)]
                self._retime(state, doubtful)
                if self._leads_rightly(state) and not doubtful:
                    break

    def _leads_rightly(self, state: TaskState) -> bool:
        leading = close_behind(state)[:1]
        return all(state.is_verified(t) or self._check(state, t) for t in leading)

    def _retime(self, state: TaskState, trials: Sequence[Trial]) -> None:
        programs = [self._program(state, t.candidate) for t in trials]
        again = self.around.measurer.remeasure(programs) if programs else []
        for trial, program, result in zip(trials, programs, again, strict=True):
            if result.status is not Status.SLOW:  # disturbed: says nothing about a winner
                self.around.log.append(program, result, state.round)
                _amend(state, trial, result)

    def _late(self) -> bool:
        return self._end_at is not None and self.spent >= self._end_at


def _candidates(
    lines: Sequence[LoggedTrial], states: Mapping[str, TaskState]
) -> dict[tuple[str, Steps], Candidate]:
    """Where in their search spaces the programs of the log lie, by task key and steps."""
    by_task: dict[str, dict[Steps, None]] = {}
    for line in lines:
        by_task.setdefault(line.task, {})[line.steps] = None
    return {
        (key, steps): candidate
        for key, programs in by_task.items()
        for steps, candidate in zip(
            programs, states[key].search.candidates(list(programs)), strict=True
        )
    }


def _amend(state: TaskState, trial: Trial, result: Measurement) -> None:
    """A second result of a known program: a check that failed, or another timing."""
    if result.ok and result.time is not None:
        state.confirmed[trial.candidate.steps] = result.time
    elif result.status is not Status.SLOW:
        state.mark_wrong(trial, result.message or result.status.value)


def close_behind(state: TaskState) -> list[Trial]:
    """The best trials of a task that more timing could still reorder, best first."""
    good = [t for t in state.trials if t.ran and t.result.ok]
    ranked = sorted(good, key=state.latest)[:MOST_RETIMED]
    return [t for t in ranked if state.latest(t) <= CLOSE_BEHIND * state.latest(ranked[0])]


def winner(state: TaskState) -> tuple[Steps, float] | None:
    """Steps and seconds of the best program: the last timing of each counts, as in the log."""
    close = close_behind(state)
    return (close[0].candidate.steps, state.latest(close[0])) if close else None


def stream(seed: int, name: str, number: int) -> np.random.Generator:
    """The random stream of one round of a task: the same in every process."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.default_rng(np.random.SeedSequence([seed, digest, number]))


def distinct(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of equal key merged under canonical names, weights added, in first order."""
    found: dict[str, Task] = {}
    for task in tasks:
        known = found.get(task.key)
        weight = task.weight + (known.weight if known else 0)
        found[task.key] = replace(known or task, weight=weight)
    return [task.canonical() for task in found.values()]
