"""The search of one task: ``propose`` candidates, ``observe`` what they measured, repeat.

Read ``search_space/sampling.py`` and ``evolution.py`` first. The scorer is a callable, so any
property can be searched for; measuring, logging and the choice among tasks are in ``tune.py``. All
randomness is the ``rng`` given to ``propose``, and only ``observe`` changes the state: a search
restored from a log proposes what the interrupted one would have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schedules.sketch import Choices, Sketch
from schedules.steps import Step
from search_space.evolution import CPU_MUTATIONS, Mutation, next_generation, single_changes
from search_space.sampling import (
    Population,
    SearchSpace,
    close_row,
    every_row,
    find_row,
    join,
    knob_values,
    nearest_row,
    sample,
    unique,
)

Floats: TypeAlias = NDArray[np.float64]
Steps: TypeAlias = tuple[Step, ...]
# (sketch, rows [N, K]) -> scores [N], higher is better
Scorer: TypeAlias = Callable[[Sketch, Choices], Floats]
# (sketch, rows [N, K]) -> the steps with what cannot matter normalised; equal for equal programs
ProgramKey: TypeAlias = Callable[[Sketch, Choices], list[Steps]]
# Number of knobs two picks of one batch must differ in.
MIN_DISTANCE = 2
# Rows whose programs are derived together: once for many costs little more than for one.
CHUNK = 64


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Numbers of the search; shares are of a batch, ``measured_share`` of the population.

    A sketch whose best is within ``contending`` times the best of all gets ``fair_trials``.
    ``max_active`` sketches evolve in a round, ``drawn`` of them by chance.
    """

    population: int = 1024
    generations: int = 3
    random_share: float = 0.05
    finish_share: float = 0.25
    finish_after: int = 48
    finish_around: int = 3
    measured_share: float = 0.2
    max_active: int = 4
    drawn: int = 1
    contending: float = 1.5
    fair_trials: int = 4
    small_space: int = 1024
    mutations: tuple[Mutation, ...] = CPU_MUTATIONS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program worth measuring. ``sketch`` is -1 for steps that no sketch closes to.

    ``program``: equal for equal programs (see :data:`ProgramKey`).
    """

    steps: Steps
    sketch: int
    row: tuple[int, ...]
    origin: str  # default | transfer | random | model | neighbour | log
    program: Steps

    @property
    def choices(self) -> NDArray[np.int32]:
        """``[K]``"""
        return np.array(self.row, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Pool:
    """Rows of all sketches in one list, best first."""

    sketches: NDArray[np.int64]
    rows: list[NDArray[np.int32]]

    def best_of(self, sketches: Sequence[int]) -> _Pool:
        """The best row of each of ``sketches``, best first."""
        owners, first = np.unique(self.sketches, return_index=True)
        kept = np.sort(first[np.isin(owners, sketches)])
        return _Pool(self.sketches[kept], [self.rows[i] for i in kept.tolist()])


def close(sketch: Sketch, rows: Choices) -> list[Steps]:
    """The default :data:`ProgramKey`: programs are equal when their closed steps are."""
    return [sketch.close(row) for row in rows]


class TaskSearch:
    """What is known of one task, and what to try next.

    ``default``: closed steps that the first batch starts with.
    """

    def __init__(
        self,
        sketches: Sequence[Sketch],
        default: Steps = (),
        settings: SearchSettings | None = None,
        program_key: ProgramKey = close,
    ) -> None:
        self.space = SearchSpace(tuple(sketches))
        self.settings = settings or SearchSettings()
        self.scorer: Scorer | None = None
        self._default = default
        self._program_key = program_key
        self._seen: list[set[bytes]] = [set() for _ in sketches]
        self._programs: set[Steps] = set()
        self._measured: list[tuple[float, Candidate]] = []
        self._suggested: list[Candidate] = []

    @property
    def best(self) -> tuple[float, Candidate] | None:
        """The fastest so far: ``(seconds, candidate)``."""
        return min(self._measured, key=lambda m: m[0]) if self._measured else None

    @property
    def observed(self) -> int:
        """Programs measured so far, failures included."""
        return len(self._programs)

    @property
    def exhausted(self) -> bool:
        """Every program of a small space has been measured; a large one is never exhausted."""
        if self.space.size > self.settings.small_space or self.observed < 1:
            return False
        return self._all_programs <= self._programs

    @cached_property
    def _all_programs(self) -> set[Steps]:
        return {
            program
            for sketch in self.space.sketches
            for program in self._program_key(sketch, every_row(sketch))
        }

    def top(self, n: int) -> list[Candidate]:
        """The ``n`` fastest measured candidates."""
        return [c for _, c in sorted(self._measured, key=lambda m: m[0])[:n]]

    def candidate(self, steps: Steps, origin: str = "log") -> Candidate:
        """The candidate of this task that closes to ``steps``, or to the same program."""
        return self.candidates([steps], origin)[0]

    def candidates(self, many: Sequence[Steps], origin: str = "log") -> list[Candidate]:
        """:meth:`candidate` of each, with the programs of all derived together."""
        places = [self._place(steps) for steps in many]
        known = [i for i, place in enumerate(places) if place is not None]
        found = [place for place in places if place is not None]
        programs = self._programs_of(
            np.array([s for s, _ in found], dtype=np.int64), [row for _, row in found]
        )
        result = [Candidate(steps, -1, (), origin, steps) for steps in many]
        for i, (s, row), program in zip(known, found, programs, strict=True):
            result[i] = self._of_program(s, row, origin, program)
        return result

    def _place(self, steps: Steps) -> tuple[int, NDArray[np.int32]] | None:
        """Sketch and row that close to ``steps``, or to the same program."""
        for s, sketch in enumerate(self.space.sketches):
            row = find_row(sketch, steps)
            if row is not None:
                return s, row
        for s, sketch in enumerate(self.space.sketches):
            row = close_row(sketch, steps)
            if row is not None and self._program_key(sketch, row[None, :]) == [steps]:
                return s, row
        return None

    def suggest(self, sketch_name: str, values: dict[str, tuple[int, ...]]) -> None:
        """Try what worked in a similar task: ``values`` per knob name, to the nearest choices."""
        for s, sketch in enumerate(self.space.sketches):
            if sketch.name == sketch_name:
                self._suggested.append(self._made(s, nearest_row(sketch, values), "transfer"))
                return

    def knobs_of(self, candidate: Candidate) -> tuple[str, dict[str, tuple[int, ...]]]:
        """Sketch name and knob values of a candidate, for ``suggest`` of another search."""
        if candidate.sketch < 0:
            return "", {}
        sketch = self.space.sketches[candidate.sketch]
        return sketch.name, knob_values(sketch, candidate.choices)

    def observe(self, candidates: Sequence[Candidate], seconds: Sequence[float | None]) -> None:
        """Learn what ``candidates`` took; ``None`` for a failure. Suggestions are used up."""
        self._suggested = []
        for candidate, took in zip(candidates, seconds, strict=True):
            self._programs.add(candidate.program)
            if candidate.sketch >= 0:
                self._seen[candidate.sketch].add(candidate.choices.tobytes())
            if took is not None:
                self._measured.append((took, candidate))

    def propose(self, n: int, rng: np.random.Generator) -> list[Candidate]:
        """At most ``n`` distinct candidates never observed; fewer when the space runs out."""
        batch = _Batch(self, n)
        for candidate in [*self._first(), *self._suggested]:
            batch.add(candidate)
        if not self.space.sketches:
            return batch.candidates
        finish = self._finish_count(n)
        random = max(1, round(n * self.settings.random_share)) if self.scorer else n - finish
        pool = self._pool(rng)
        if self.scorer:
            batch.take(pool.best_of(self._contenders()), n, "model", 1)
        batch.take(pool, n - random - finish, "model", MIN_DISTANCE)
        if finish:
            batch.take(self._around_best(), n - random, "neighbour", 1)
        drawn = unique(sample(self.space, 4 * n, rng), self._seen)
        batch.take(self._shuffled(drawn, rng), n, "random", 1)
        batch.take(pool, n, "model", 1)
        return batch.candidates

    def _first(self) -> list[Candidate]:
        fresh = self._default and not self._programs
        return [self.candidate(self._default, "default")] if fresh else []

    def _contenders(self) -> list[int]:
        """Sketches that may yet win: first all of them, then those not far behind the best.

        A model that knows little of a sketch must not be what rules it out.
        """
        best: dict[int, float] = {}
        for took, candidate in self._measured:
            best[candidate.sketch] = min(took, best.get(candidate.sketch, took))
        if not best:
            return list(range(len(self.space.sketches)))
        limit = self.settings.contending * min(best.values())
        counts = Counter(c.sketch for _, c in self._measured)
        known = [s for s in sorted(best) if s >= 0 and best[s] <= limit]
        return [s for s in known if counts[s] < self.settings.fair_trials]

    def _finish_count(self, n: int) -> int:
        settings = self.settings
        enough = len(self._measured) >= settings.finish_after
        return round(n * settings.finish_share) if enough else 0

    def _made(self, s: int, row: NDArray[np.int32], origin: str) -> Candidate:
        [program] = self._program_key(self.space.sketches[s], row[None, :])
        return self._of_program(s, row, origin, program)

    def _of_program(self, s: int, row: NDArray[np.int32], origin: str, program: Steps) -> Candidate:
        return Candidate(self.space.sketches[s].close(row), s, tuple(row.tolist()), origin, program)

    def _programs_of(
        self, sketches: NDArray[np.int64], rows: Sequence[NDArray[np.int32]]
    ) -> list[Steps]:
        """The programs of ``rows``, each of the sketch beside it."""
        programs: list[Steps] = [()] * len(rows)
        for s in np.unique(sketches).tolist():
            places = np.flatnonzero(sketches == s).tolist()
            found = self._program_key(self.space.sketches[s], np.stack([rows[i] for i in places]))
            for place, program in zip(places, found, strict=True):
                programs[place] = program
        return programs

    def _active(self, rng: np.random.Generator) -> list[int]:
        """Sketches worth evolving this round: those of the best measured, the rest by chance, from
        the contenders first.

        Following and scoring has a price per sketch, not only per row.
        """
        total, limit = len(self.space.sketches), self.settings.max_active
        if total <= limit or not self._programs:
            return list(range(total))
        ranked = dict.fromkeys(c.sketch for c in self.top(len(self._measured)) if c.sketch >= 0)
        good = list(ranked)[: limit - self.settings.drawn]
        waiting = [s for s in self._contenders() if s not in good]
        missing = limit - len(good)
        fair = len(waiting) >= missing
        others = waiting if fair else [s for s in range(total) if s not in good]
        drawn = rng.choice(others, size=missing, replace=False).tolist()
        return sorted(good + drawn)

    def _pool(self, rng: np.random.Generator) -> _Pool:
        """Unseen rows worth a look, best first: all of a small space, else what evolution meets."""
        if self.space.size <= self.settings.small_space:
            rows = unique(tuple(every_row(s) for s in self.space.sketches), self._seen)
            return self._ranked(rows, rng)
        if self.scorer is None:
            drawn = sample(self.space, self.settings.population, rng)
            return self._shuffled(unique(drawn, self._seen), rng)
        return self._evolved(self.scorer, rng)

    def _evolved(self, scorer: Scorer, rng: np.random.Generator) -> _Pool:
        settings = self.settings
        active = self._active(rng)
        known = self._known(round(settings.population * settings.measured_share), active)
        fill = settings.population - sum(len(rows) for rows in known)
        population = unique(join(known, sample(self.space, fill, rng, active)))
        met, met_scores = [population], [self._scores(scorer, population)]
        for _ in range(settings.generations):
            children = next_generation(
                self.space, met[-1], met_scores[-1], settings.population, rng, settings.mutations
            )
            met.append(unique(children))
            met_scores.append(self._scores(scorer, met[-1]))
        scores = [np.concatenate(parts) for parts in zip(*met_scores, strict=True)]
        return self._sorted(join(*met), scores)

    def _known(self, n: int, active: Sequence[int]) -> Population:
        best: list[list[NDArray[np.int32]]] = [[] for _ in self.space.sketches]
        for candidate in self.top(n):
            if candidate.sketch in active:
                best[candidate.sketch].append(candidate.choices)
        widths = [len(s.knobs) for s in self.space.sketches]
        return tuple(
            np.array(rows, dtype=np.int32).reshape(len(rows), k)
            for rows, k in zip(best, widths, strict=True)
        )

    def _around_best(self) -> _Pool:
        """Unseen single-knob changes of the best measured: a coordinate-descent step."""
        rows: list[list[Choices]] = [
            [np.zeros((0, len(s.knobs)), dtype=np.int32)] for s in self.space.sketches
        ]
        for candidate in self.top(self.settings.finish_around):
            if candidate.sketch >= 0:
                changed = single_changes(self.space, candidate.sketch, candidate.choices)
                rows[candidate.sketch].append(changed)
        population = unique(tuple(np.concatenate(r) for r in rows), self._seen)
        return self._ranked(population, None)

    def _scores(self, scorer: Scorer, population: Population) -> list[Floats]:
        nothing = np.zeros(0)
        return [
            scorer(sketch, rows) if len(rows) else nothing
            for sketch, rows in zip(self.space.sketches, population, strict=True)
        ]

    def _ranked(self, population: Population, rng: np.random.Generator | None) -> _Pool:
        if self.scorer is not None:
            return self._sorted(population, self._scores(self.scorer, population))
        if rng is not None:
            return self._shuffled(population, rng)
        return self._sorted(population, [np.zeros(len(rows)) for rows in population])

    def _shuffled(self, population: Population, rng: np.random.Generator) -> _Pool:
        return self._sorted(population, [rng.random(len(rows)) for rows in population])

    def _sorted(self, population: Population, scores: Sequence[Floats]) -> _Pool:
        order = np.argsort(-np.concatenate(scores), kind="stable")
        counts = [len(rows) for rows in population]
        owner = np.repeat(np.arange(len(counts)), counts)
        start = np.cumsum(counts) - counts
        sketches = owner[order]
        rows = [population[s][i - start[s]] for s, i in zip(sketches, order, strict=True)]
        return _Pool(sketches, rows)


class _Batch:
    """The candidates picked so far, distinct as programs."""

    def __init__(self, search: TaskSearch, limit: int) -> None:
        self.candidates: list[Candidate] = []
        self._search = search
        self._limit = limit
        self._keys = set(search._programs)

    def add(self, candidate: Candidate) -> None:
        if len(self.candidates) < self._limit and candidate.program not in self._keys:
            self._keys.add(candidate.program)
            self.candidates.append(candidate)

    def take(self, pool: _Pool, until: int, origin: str, distance: int) -> None:
        """Fill up to ``until`` from the best of ``pool`` that differ from the batch so far."""
        for start in range(0, len(pool.rows), CHUNK):
            if len(self.candidates) >= until:
                return
            part = slice(start, start + CHUNK)
            self._take(pool.sketches[part], pool.rows[part], until, origin, distance)

    def _take(
        self,
        sketches: NDArray[np.int64],
        rows: Sequence[NDArray[np.int32]],
        until: int,
        origin: str,
        distance: int,
    ) -> None:
        programs = self._search._programs_of(sketches, rows)
        for s, row, program in zip(sketches.tolist(), rows, programs, strict=True):
            if len(self.candidates) >= until:
                return
            if row.tobytes() in self._search._seen[s] or self._close_by(s, row, distance):
                continue
            self.add(self._search._of_program(s, row, origin, program))

    def _close_by(self, s: int, row: NDArray[np.int32], distance: int) -> bool:
        return distance > 1 and any(
            c.sketch == s and np.count_nonzero(c.choices != row) < distance for c in self.candidates
        )
