"""A builder, runner and checker that compute nothing: results come from a function.

For tests of everything that measures, and for dry runs. Deterministic: equal seeds and equal
candidates in equal order give equal results, and time passes only on its own clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ansor_lite.measure.protocol import Built, Candidate, Measurement, Measurer, Status
from schedules.codec import steps_to_json


@dataclass
class FakeClock:
    """Seconds since an arbitrary start; calling it reads it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


Cost = Callable[[Candidate], "float | Measurement"]


@dataclass
class FakeRunner:
    """``cost`` gives the seconds of a candidate, or the failure it should be.

    ``noise``: relative spread of the repeats, a function of ``seed`` and candidate alone, so that
    the order of measuring does not matter. ``wrong``: what ``check`` finds; ``cost`` per trial
    passes on ``clock``.
    """

    cost: Cost
    noise: float = 0.0
    seed: int = 0
    repeats: int = 3
    slow_factor: float | None = None
    build_seconds: float = 0.05
    clock: FakeClock = field(default_factory=FakeClock)
    wrong: Mapping[tuple[object, ...], str] = field(default_factory=dict)

    def measurer(self) -> Measurer:
        return Measurer(self, self, self)

    def build(self, candidates: Sequence[Candidate]) -> list[Built | Measurement]:
        self.clock.advance(self.build_seconds * len(candidates))
        return [Built(i, self.build_seconds) for i in range(len(candidates))]

    def run(
        self,
        candidates: Sequence[Candidate],
        built: Sequence[Built | Measurement],
        best_seconds: float | None,
    ) -> list[Measurement]:
        results = [self._run(candidate, best_seconds) for candidate in candidates]
        self.clock.advance(sum(r.run_seconds for r in results))
        return results

    def check(self, candidate: Candidate) -> Measurement:
        if candidate.steps in self.wrong:
            return Measurement(Status.WRONG_RESULT, message=self.wrong[candidate.steps])
        return Measurement(Status.OK)

    def _run(self, candidate: Candidate, best_seconds: float | None) -> Measurement:
        cost = self.cost(candidate)
        if isinstance(cost, Measurement):
            return cost
        spread = np.abs(self._rng(candidate).standard_normal(self.repeats))
        seconds = tuple(float(cost * (1.0 + self.noise * s)) for s in spread)
        slow = (
            self.slow_factor is not None
            and best_seconds is not None
            and seconds[0] > self.slow_factor * best_seconds
        )
        kept = seconds[:1] if slow else seconds
        status = Status.SLOW if slow else Status.OK
        return Measurement(status, kept, "", self.build_seconds, sum(kept))

    def _rng(self, candidate: Candidate) -> np.random.Generator:
        text = json.dumps([candidate.task.key, steps_to_json(candidate.steps)])
        return np.random.default_rng([self.seed, *text.encode()])
