"""Features of one sketch, scored again and again: statements that few knobs reach are looked up.

Read ``extract.py`` first. In a program of many statements most depend on no knob, or on one or two
with a few dozen combinations; those are described once. Separate from the extraction, which
remembers nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cost_model.extract import (
    Described,
    describe,
    describe_into,
    empty_table,
    related,
    serial_depths,
)
from schedules.hardware import Hardware
from schedules.nest import Follower
from schedules.program_nest import ProgramNest, StageNest
from schedules.reach import knobs_of, needed
from schedules.sketch import Choices, Sketch

F32: TypeAlias = NDArray[np.float32]
# Number of a statement in its program -> its nest.
Nests: TypeAlias = dict[int, StageNest]

# More combinations than this are described as they come.
MOST_COMBINATIONS = 256


@dataclass(frozen=True, slots=True)
class _Table:
    """Statements (by number), each for every combination of ``knobs`` (positions)."""

    knobs: tuple[int, ...]
    statements: dict[int, Described]


class SketchFeatures:
    """Callable: rows ``[N, K]`` of ``sketch`` to their features ``[N, S, F]``."""

    def __init__(self, sketch: Sketch, hardware: Hardware) -> None:
        self._sketch = sketch
        self._hardware = hardware
        one = Follower(sketch, np.zeros((1, len(sketch.knobs)), dtype=np.int32))
        nests = {plan.name: one.nests(plan) for plan in sketch.plan.stages}
        program = ProgramNest(1, tuple(nest for many in nests.values() for nest in many))
        self._serial = serial_depths(program)
        ends = np.cumsum([len(many) for many in nests.values()]).tolist()
        self._first = {n: end - len(nests[n]) for n, end in zip(nests, ends, strict=True)}
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, knobs in knobs_of(sketch.plan).items():
            alike.setdefault(tuple(sorted(sketch.position[k] for k in knobs)), []).append(name)
        self._open = _Stages(sketch, [n for k in alike if self._is_open(k) for n in alike[k]])
        self._tables = [self._table(k, alike[k]) for k in alike if not self._is_open(k)]

    def __call__(self, rows: Choices) -> F32:
        return self.of(self.follow(rows), rows)

    def follow(self, rows: Choices) -> Nests:
        """The statements that have to be described for ``rows``, by number."""
        return self._numbered(self._open, rows)

    def of(self, nests: Nests, rows: Choices) -> F32:
        """Features of ``rows``, given what :meth:`follow` says of them."""
        blocks, cycles = empty_table(len(self._serial), len(rows))
        for s, nest in nests.items():
            cycles[s] = describe_into(nest, self._hardware, self._serial[s], blocks[s])
        for table in self._tables:
            place = self._places(table.knobs, rows)
            for s, described in table.statements.items():
                described.block.take(place, axis=1, out=blocks[s], mode="clip")
                described.cycles.take(place, axis=1, out=cycles[s], mode="clip")
        return related(blocks, cycles)

    def _is_open(self, knobs: tuple[int, ...]) -> bool:
        return bool(self._sketch.sizes[list(knobs)].prod() > MOST_COMBINATIONS)

    def _table(self, knobs: tuple[int, ...], names: list[str]) -> _Table:
        sizes = self._sketch.sizes[list(knobs)].tolist()
        rows = np.zeros((math.prod(sizes), len(self._sketch.knobs)), dtype=np.int32)
        if knobs:
            rows[:, knobs] = np.indices(sizes, dtype=np.int32).reshape(len(sizes), -1).T
        nests = self._numbered(_Stages(self._sketch, names), rows)
        return _Table(
            knobs,
            {s: describe(n, len(rows), self._hardware, self._serial[s]) for s, n in nests.items()},
        )

    def _numbered(self, stages: _Stages, rows: Choices) -> Nests:
        if not stages.names:
            return {}
        follower = Follower(self._sketch, rows, stages.followed)
        by_name = self._sketch.plan.by_name
        return {
            self._first[name] + i: nest
            for name in stages.names
            for i, nest in enumerate(follower.nests(by_name[name]))
        }

    def _places(self, knobs: tuple[int, ...], rows: Choices) -> NDArray[np.int64]:
        """Which combination of ``knobs`` every row has, ``[N]``."""
        place = np.zeros(len(rows), dtype=np.int64)
        for k in knobs:
            place = place * self._sketch.sizes[k] + rows[:, k]
        return place


class _Stages:
    """Stages whose nests are asked for together, and all that must be followed for them."""

    def __init__(self, sketch: Sketch, names: list[str]) -> None:
        self.names = names
        self.followed = needed(sketch.plan, frozenset(names))
