"""What measuring is: candidates in, one result each out, failures included.

Separate from ``local.py`` so that search, log and tests know results without processes or TVM. A
new kind of machine is a new ``Builder`` and ``Runner``; nothing above this file changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ansor_lite.tasks import Task
from schedules.steps import Step

# How far outputs may be off, relative to the largest absolute value, where a program only reorders
# sums; ``TuningOptions.tolerance`` says what is allowed in tuning.
TOLERANCE = 1e-4


class Status(str, Enum):
    """How a trial ended. The values are part of the log format and never change."""

    OK = "ok"
    SLOW = "slow"  # stopped early, as a rule after one repeat; ``seconds`` says how slow
    BUILD_ERROR = "build_error"
    RUN_ERROR = "run_error"
    TIMEOUT = "timeout"
    CRASH = "crash"
    WRONG_RESULT = "wrong_result"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program to measure: closed steps for a task; ``sketch`` names where they come from."""

    task: Task
    steps: tuple[Step, ...]
    sketch: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came of one trial; ``seconds`` are the repeats in order, empty after a failure.

    ``build_seconds`` and ``run_seconds`` are wall clock that the trial itself cost.
    """

    status: Status
    seconds: tuple[float, ...] = ()
    message: str = ""
    build_seconds: float = 0.0
    run_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Ran to the end: a trial in the sense of the reports."""
        return self.status is Status.OK

    @property
    def time(self) -> float | None:
        """Seconds of one run, or ``None`` when there is none (see ``typical``)."""
        return typical(self.seconds) if self.seconds else None


def typical(seconds: Sequence[float]) -> float:
    """Mean of the faster half: disturbances only ever add time, one lucky repeat should not win."""
    faster = sorted(seconds)[: (len(seconds) + 1) // 2]
    return sum(faster) / len(faster)


@dataclass(frozen=True, slots=True)
class Built:
    """What a builder made of a candidate: a program that its runner knows by ``handle``."""

    handle: int
    seconds: float


class Builder(Protocol):
    """Turns candidates into programs; a failure is a ``Measurement``, never an exception."""

    def build(self, candidates: Sequence[Candidate]) -> list[Built | Measurement]: ...


class Runner(Protocol):
    """Times programs one at a time, as often as wanted until others are built.

    ``best_seconds``: of the task so far; a program that is much slower stops early.
    """

    def run(
        self,
        candidates: Sequence[Candidate],
        built: Sequence[Built | Measurement],
        best_seconds: float | None,
    ) -> list[Measurement]: ...


class Checker(Protocol):
    """Compares a candidate's outputs with those of its unscheduled task."""

    def check(self, candidate: Candidate) -> Measurement: ...


@dataclass(frozen=True)
class Measurer:
    """A builder, a runner and a checker joined; building never overlaps timing."""

    builder: Builder
    runner: Runner
    checker: Checker

    def measure(
        self, candidates: Sequence[Candidate], best_seconds: float | None = None
    ) -> list[Measurement]:
        """One result per candidate, in order. All candidates belong to one task."""
        return self.runner.run(candidates, self.builder.build(candidates), best_seconds)

    def remeasure(self, candidates: Sequence[Candidate], rounds: int = 3) -> list[Measurement]:
        """Time candidates of one task again, alternately, so that drift hits all of them alike.

        Each is built once. Its result has the repeats of all its rounds, or its first failure.
        """
        built = self.builder.build(candidates)
        turns = [self.runner.run(candidates, built, None) for _ in range(rounds)]
        return [_joined(results) for results in zip(*turns, strict=True)]

    def check(self, candidate: Candidate) -> Measurement:
        """``OK``, or how it failed: ``WRONG_RESULT`` with the deviation in the message."""
        return self.checker.check(candidate)


def _joined(results: Sequence[Measurement]) -> Measurement:
    failed = next((r for r in results if not r.ok), None)
    if failed is not None:
        return failed
    return Measurement(
        Status.OK,
        tuple(s for r in results for s in r.seconds),
        "",
        results[0].build_seconds,
        sum(r.run_seconds for r in results),
    )
