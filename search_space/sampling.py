"""The search space of a task, and how rows of it are drawn, listed and told apart.

A population is one ``int32`` matrix of knob choices per sketch (``schedules/sketch.py``), aligned
with ``SearchSpace.sketches``. Everything here works on whole matrices; ``evolution.py`` changes
them. Separate from it because drawing needs no scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schedules.sketch import Choices, Knob, Sketch
from schedules.steps import Number, Ref, Step, Tile

Population: TypeAlias = tuple[Choices, ...]

NEAREST = 6
# The nearest choices of a longer list cost more to find than they bring; adjacent ones remain.
MAX_COMPARED = 1024


@dataclass(frozen=True)
class SearchSpace:
    """The sketches of one task with the tables that drawing and mutation share."""

    sketches: tuple[Sketch, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of rows of each sketch."""
        return tuple(math.prod(len(k.choices) for k in s.knobs) for s in self.sketches)

    @cached_property
    def size(self) -> int:
        return sum(self.sizes)

    @cached_property
    def free(self) -> tuple[NDArray[np.int64], ...]:
        """Per sketch, the knobs that have more than one choice."""
        return tuple(np.flatnonzero(s.sizes > 1) for s in self.sketches)

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], ...]:
        """Per sketch, the number of each knob's group, ``[K]``; unnamed ones are single."""
        return tuple(_group_numbers(s.knobs) for s in self.sketches)

    @cached_property
    def offsets(self) -> tuple[NDArray[np.int64], ...]:
        """Per sketch, where each knob's choices start in ``neighbours``, ``[K]``."""
        return tuple(np.cumsum(s.sizes) - s.sizes for s in self.sketches)

    @cached_property
    def neighbours(self) -> tuple[NDArray[np.int32], ...]:
        """Per sketch ``[sum of choices, M]``: the choices near each choice of each knob."""
        known: dict[tuple[tuple[int, ...], ...], NDArray[np.int32]] = {}
        for sketch in self.sketches:
            for knob in sketch.knobs:
                if knob.choices not in known:
                    known[knob.choices] = near_choices(knob)
        empty = np.zeros((0, 2 + NEAREST), dtype=np.int32)
        return tuple(
            np.concatenate([empty, *(known[k.choices] for k in s.knobs)]) for s in self.sketches
        )

    @cached_property
    def _transfers(self) -> dict[tuple[int, int], tuple[tuple[int, int, NDArray[np.int32]], ...]]:
        return {}

    def transfers(self, source: int, target: int) -> tuple[tuple[int, int, NDArray[np.int32]], ...]:
        """``(knob of source, knob of target, choice -> choice or -1)`` of shared knobs."""
        found = self._transfers.get((source, target))
        if found is None:
            found = shared_knobs(self.sketches[source], self.sketches[target])
            self._transfers[source, target] = found
        return found


def _group_numbers(knobs: Sequence[Knob]) -> NDArray[np.int64]:
    names = [("group", k.group) if k.group else ("knob", k.name) for k in knobs]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def near_choices(knob: Knob) -> NDArray[np.int32]:
    """``[n, 2 + NEAREST]``: the two adjacent choices, then the nearest in log space (L1).

    Adjacency alone keeps every choice reachable; lists of factor tuples have more dimensions than
    one order can show, hence the distance.
    """
    n = len(knob.choices)
    index = np.arange(n)
    adjacent = np.stack([np.abs(index - 1), (n - 1) - np.abs(n - 2 - index)], axis=1)
    adjacent = adjacent.clip(0, n - 1)
    if n <= 2 + NEAREST or n > MAX_COMPARED:
        return np.tile(adjacent, (1, (2 + NEAREST) // 2)).astype(np.int32)
    distance = np.zeros((n, n), dtype=np.float32)
    for column in np.asarray(knob.choices, dtype=np.float32).T:
        logs = np.log2(np.abs(column) + 1)
        distance += np.abs(logs[:, None] - logs[None, :])
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1, kind="stable")[:, :NEAREST]
    return np.concatenate([adjacent, near], axis=1).astype(np.int32)


def shared_knobs(source: Sketch, target: Sketch) -> tuple[tuple[int, int, NDArray[np.int32]], ...]:
    """Knobs of equal name, with the map from choices of one to those of the other (or -1)."""
    shared = []
    for t, knob in enumerate(target.knobs):
        s = source.position.get(knob.name)
        if s is None:
            continue
        index = {choice: i for i, choice in enumerate(knob.choices)}
        table = [index.get(choice, -1) for choice in source.knobs[s].choices]
        shared.append((s, t, np.array(table, dtype=np.int32)))
    return tuple(shared)


def empty_population(space: SearchSpace) -> Population:
    return tuple(np.zeros((0, len(s.knobs)), dtype=np.int32) for s in space.sketches)


def sample(
    space: SearchSpace, n: int, rng: np.random.Generator, active: Sequence[int] | None = None
) -> Population:
    """``n`` random rows spread evenly over the ``active`` sketches (all, by default)."""
    chosen = range(len(space.sketches)) if active is None else active
    picks = rng.integers(0, len(chosen), size=n)
    counts = np.bincount(np.asarray(chosen, dtype=np.int64)[picks], minlength=len(space.sketches))
    return tuple(
        sketch.random(int(count), rng) for sketch, count in zip(space.sketches, counts, strict=True)
    )


def every_row(sketch: Sketch) -> Choices:
    """All rows of a sketch in mixed-radix order, ``[product of choices, K]``."""
    shape = tuple(int(n) for n in sketch.sizes)
    if not shape:
        return np.zeros((1, 0), dtype=np.int32)
    rows: Choices = np.indices(shape, dtype=np.int32).reshape(len(shape), -1).T.copy()
    return rows


def join(*populations: Population) -> Population:
    """The rows of several populations, sketch by sketch."""
    return tuple(np.concatenate(rows) for rows in zip(*populations, strict=True))


def row_keys(rows: Choices) -> list[bytes]:
    """One hashable key per row."""
    width = rows.shape[1] * rows.itemsize
    data = np.ascontiguousarray(rows).tobytes()
    return [data[i * width : (i + 1) * width] for i in range(len(rows))]


def unique(population: Population, seen: Sequence[set[bytes]] | None = None) -> Population:
    """Distinct rows in their first order, without those in ``seen`` (per sketch)."""
    return tuple(
        _unique_rows(rows, seen[s] if seen is not None else set())
        for s, rows in enumerate(population)
    )


def _unique_rows(rows: Choices, seen: set[bytes]) -> Choices:
    if len(rows) == 0:
        return rows
    first = {key: i for i, key in reversed(list(enumerate(row_keys(rows)))) if key not in seen}
    return rows[sorted(first.values())]


def nearest_row(sketch: Sketch, values: dict[str, tuple[int, ...]]) -> NDArray[np.int32]:
    """The row of ``sketch`` whose choices are nearest in log space to ``values`` per knob name.

    Carries a schedule to a task of the same structure and other extents; knobs that ``values``
    lacks, or has with another width, take their middle choice.
    """
    row = np.zeros(len(sketch.knobs), dtype=np.int32)
    for k, (knob, table) in enumerate(zip(sketch.knobs, sketch.tables, strict=True)):
        wanted = values.get(knob.name)
        if wanted is None or len(wanted) != table.shape[1]:
            row[k] = len(table) // 2
            continue
        logs = np.log2(np.abs(table) + 1.0) - np.log2(np.abs(np.array(wanted)) + 1.0)
        row[k] = int(np.abs(logs).sum(axis=1).argmin())
    return row


def knob_values(sketch: Sketch, row: NDArray[np.int32]) -> dict[str, tuple[int, ...]]:
    """Knob name -> chosen numbers."""
    return {knob.name: knob.choices[int(row[k])] for k, knob in enumerate(sketch.knobs)}


def find_row(sketch: Sketch, steps: Sequence[Step]) -> NDArray[np.int32] | None:
    """The row that closes ``sketch`` to ``steps``, or None: the inverse of ``Sketch.close``.

    Knobs that no step refers to take their first choice.
    """
    pairs = _numbers(sketch, steps)
    if pairs is None or any(isinstance(n, int) and n != value for n, value in pairs):
        return None
    row = np.zeros(len(sketch.knobs), dtype=np.int32)
    for k, (knob, table) in enumerate(zip(sketch.knobs, sketch.tables, strict=True)):
        fits = np.ones(len(table), dtype=bool)
        for number, value in pairs:
            if isinstance(number, Ref) and number.knob == knob.name:
                fits &= table[:, number.column] == value
        if not fits.any():
            return None
        row[k] = int(fits.argmax())
    return row


def close_row(sketch: Sketch, steps: Sequence[Step]) -> NDArray[np.int32] | None:
    """The row whose numbers are nearest in log space to ``steps`` of this structure, or None.

    For steps whose factors were clipped to the extents, so that no row closes to them exactly.
    """
    pairs = _numbers(sketch, steps)
    if pairs is None:
        return None
    row = np.zeros(len(sketch.knobs), dtype=np.int32)
    for k, (knob, table) in enumerate(zip(sketch.knobs, sketch.tables, strict=True)):
        distance = np.zeros(len(table))
        for number, value in pairs:
            if isinstance(number, Ref) and number.knob == knob.name:
                distance += np.abs(np.log2((table[:, number.column] + 1) / (value + 1)))
        row[k] = int(distance.argmin())
    return row


def _numbers(sketch: Sketch, steps: Sequence[Step]) -> list[tuple[Number, int]] | None:
    """Every number of the sketch beside its value in ``steps``; None if the steps differ."""
    if len(steps) != len(sketch.steps):
        return None
    pairs: list[tuple[Number, int]] = []
    for ours, theirs in zip(sketch.steps, steps, strict=True):
        if not isinstance(ours, Tile) or not isinstance(theirs, Tile):
            if ours != theirs:
                return None
            continue
        places = (ours.stage, ours.axis, len(ours.factors))
        if places != (theirs.stage, theirs.axis, len(theirs.factors)):
            return None
        values = [f for f in theirs.factors if isinstance(f, int)]
        if len(values) != len(ours.factors):
            return None
        pairs += zip(ours.factors, values, strict=True)
    return pairs
