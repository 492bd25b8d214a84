"""What the cost model learns from and when: measured programs in, a scorer for the search out.

Separate from ``loop.py`` because the moments of fitting are a pure function of the trials so far,
which is what lets a resumed run continue as the interrupted one would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ansor_lite.search import Candidate, Floats, Scorer
from cost_model.base import CostModel
from cost_model.dataset import Dataset
from cost_model.sketch_features import SketchFeatures
from schedules.dag import ComputeDAG
from schedules.hardware import Hardware
from schedules.sketch import Choices, Sketch, closed

# Fit again once the trials have grown by this share and this number.
GROWTH = 0.25
LEAST_GROWTH = 32

# Lessons of equal group share task and sketch.
Group: TypeAlias = tuple[str, int, object]
F32: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A measured candidate: ``seconds`` is ``None`` after a ``failure``. ``rows`` is ``[1, K]``."""

    task: str
    group: Group
    sketch: Sketch
    rows: Choices
    seconds: float | None
    failure: str = ""


def lesson(
    dag: ComputeDAG,
    sketches: Sequence[Sketch],
    candidate: Candidate,
    seconds: float | None,
    failure: str = "",
) -> Lesson:
    """A lesson; steps that no sketch closes to are a sketch of their own, without knobs."""
    known, task = candidate.sketch >= 0, dag.key
    sketch = sketches[candidate.sketch] if known else closed(dag, candidate.steps)
    group = (task, candidate.sketch, None if known else candidate.steps)
    return Lesson(task, group, sketch, candidate.choices[None, :], seconds, failure)


def next_fit(fitted: int) -> int:
    """Number of trials at which to fit again, given that of the last fit."""
    return fitted + max(LEAST_GROWTH, round(GROWTH * fitted))


class Learner:
    """A cost model, its dataset, and the trials not yet in it; ``None``: search at random."""

    def __init__(self, model: CostModel | None, hardware: Hardware) -> None:
        self.model = model
        self.dataset = Dataset()
        self._hardware = hardware
        self._extractors: dict[int, tuple[Sketch, SketchFeatures]] = {}
        self._waiting: list[Lesson] = []
        self._fitted = 0

    def observe(self, lessons: Sequence[Lesson]) -> None:
        """Note a finished round, and fit when enough has come together."""
        if self._note(lessons):
            self._fit()

    def restore(self, rounds: Sequence[Sequence[Lesson]]) -> None:
        """Reach the state that observing ``rounds`` one by one would have, with a single fit."""
        if any([self._note(lessons) for lessons in rounds]):
            self._fit()

    def scorer(self) -> Scorer | None:
        """Scores for the search; an untrained model scores too."""
        return None if self.model is None else self._scores

    def _scores(self, sketch: Sketch, rows: Choices) -> Floats:
        assert self.model is not None
        return self.model.predict(self._features(sketch, rows))

    def _features(self, sketch: Sketch, rows: Choices) -> F32:
        """Features ``[N, S, F]``; what a sketch with knobs needs again and again is kept."""
        if not sketch.knobs:
            return SketchFeatures(sketch, self._hardware)(rows)
        known = self._extractors.get(id(sketch))
        if known is None:
            known = self._extractors[id(sketch)] = sketch, SketchFeatures(sketch, self._hardware)
        return known[1](rows)

    def _note(self, lessons: Sequence[Lesson]) -> bool:
        self._waiting += lessons
        seen = len(self.dataset) + len(self._waiting)
        if self.model is None or seen < next_fit(self._fitted):
            return False
        self._fitted = seen
        self._extend()
        return True

    def _fit(self) -> None:
        if self.model is not None:
            self.model.fit(self.dataset)

    def _extend(self) -> None:
        """Move what waits into the dataset, one block per sketch of a task."""
        groups: dict[Group, list[Lesson]] = {}
        for entry in self._waiting:
            groups.setdefault(entry.group, []).append(entry)
        for entries in groups.values():
            rows = np.concatenate([e.rows for e in entries])
            seconds = [np.nan if e.seconds is None else e.seconds for e in entries]
            failures = [e.failure or "failed" if e.seconds is None else "" for e in entries]
            seen = self._features(entries[0].sketch, rows)
            self.dataset = self.dataset.extended(entries[0].task, seen, seconds, failures)
        self._waiting = []
