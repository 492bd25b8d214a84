"""A sketch: a list of steps with open knobs. A candidate is a row of integers.

``choices`` is an ``int32`` matrix of shape ``[N, K]``: row ``n`` picks choice ``choices[n, k]`` of
knob ``k``. ``close`` turns one row into plain steps, which is what a log stores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schedules.dag import ComputeDAG
from schedules.plan import Plan, build_plan
from schedules.steps import Number, Ref, Step, Tile

Choices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Knob:
    """A named, finite list of choices; every choice is a row of as many integers.

    ``group`` names the stage whose loops the knob shapes: crossover moves a group together.
    """

    name: str
    choices: tuple[tuple[int, ...], ...]
    group: str = ""


@dataclass(frozen=True)
class Sketch:
    """``steps`` over ``dag`` with the knobs they refer to; ``name`` says how it was derived."""

    dag: ComputeDAG
    steps: tuple[Step, ...] = ()
    knobs: tuple[Knob, ...] = ()
    name: str = ""

    @cached_property
    def plan(self) -> Plan:
        """The loops without numbers; raises :class:`ScheduleError` when a step is illegal."""
        return build_plan(self.dag, self.steps)

    @cached_property
    def tables(self) -> tuple[NDArray[np.int64], ...]:
        """Per knob, its choices as an array ``[n_choices, width]``."""
        return tuple(np.asarray(k.choices, dtype=np.int64) for k in self.knobs)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of choices per knob, ``[K]``."""
        return np.array([len(k.choices) for k in self.knobs], dtype=np.int64)

    @cached_property
    def position(self) -> dict[str, int]:
        return {k.name: i for i, k in enumerate(self.knobs)}

    def numbers(self, number: Number, choices: Choices) -> NDArray[np.int64]:
        """The values of ``number`` for every candidate, ``[N]``."""
        if isinstance(number, int):
            return np.full(len(choices), number, dtype=np.int64)
        k = self.position[number.knob]
        column: NDArray[np.int64] = self.tables[k][choices[:, k], number.column]
        return column

    def random(self, n: int, rng: np.random.Generator) -> Choices:
        """``n`` uniform rows."""
        return rng.integers(0, self.sizes, size=(n, len(self.knobs))).astype(np.int32)

    def close(self, row: NDArray[np.int32]) -> tuple[Step, ...]:
        """The steps of one candidate (``row``: ``[K]``) with every knob replaced by its number."""
        return tuple(self._close_step(step, row) for step in self.steps)

    def _close_step(self, step: Step, row: NDArray[np.int32]) -> Step:
        if not isinstance(step, Tile):
            return step
        return replace(step, factors=tuple(self._close_number(f, row) for f in step.factors))

    def _close_number(self, number: Number, row: NDArray[np.int32]) -> int:
        if isinstance(number, Ref):
            k = self.position[number.knob]
            return int(self.tables[k][row[k], number.column])
        return number


def closed(dag: ComputeDAG, steps: tuple[Step, ...], name: str = "") -> Sketch:
    """A sketch without knobs: one candidate, as read from a log."""
    return Sketch(dag, steps, (), name)
