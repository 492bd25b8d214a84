"""Evolution on matrices: selection by rank, mutation of every knob, moves to siblings, crossover.

``next_generation`` is the one entry point; ``CPU_MUTATIONS`` says what happens to a parent and how
often. Read ``sampling.py`` first. A generation of thousands costs a few NumPy calls per sketch.
Crossover is the paper's (Ansor, 5.1), which TVM never had: here a stage's knobs move together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schedules.sketch import Choices
from search_space.sampling import Population, SearchSpace, empty_population

Floats: TypeAlias = NDArray[np.float64]
# (space, sketch, parents [M, K], mates [M, K], active sketches, rng) -> children per sketch
Change: TypeAlias = Callable[
    [SearchSpace, int, Choices, Choices, Sequence[int], np.random.Generator],
    list[tuple[int, Choices]],
]


@dataclass(frozen=True, slots=True)
class Mutation:
    """What may happen to a parent; ``probability`` is relative to the others of its table."""

    name: str
    probability: float
    change: Change


def to_neighbour(
    space: SearchSpace,
    sketch: int,
    parents: Choices,
    mates: Choices,
    active: Sequence[int],
    rng: np.random.Generator,
) -> list[tuple[int, Choices]]:
    """One knob of each row moves to a near choice."""
    free = space.free[sketch]
    if not len(free):
        return [(sketch, parents)]
    children = parents.copy()
    rows = np.arange(len(parents))
    knobs = free[rng.integers(0, len(free), size=len(parents))]
    near = space.neighbours[sketch]
    which = rng.integers(0, near.shape[1], size=len(parents))
    children[rows, knobs] = near[space.offsets[sketch][knobs] + parents[rows, knobs], which]
    return [(sketch, children)]


def to_random_choice(
    space: SearchSpace,
    sketch: int,
    parents: Choices,
    mates: Choices,
    active: Sequence[int],
    rng: np.random.Generator,
) -> list[tuple[int, Choices]]:
    """One knob of each row takes any other of its choices."""
    free = space.free[sketch]
    if not len(free):
        return [(sketch, parents)]
    children = parents.copy()
    rows = np.arange(len(parents))
    knobs = free[rng.integers(0, len(free), size=len(parents))]
    sizes = space.sketches[sketch].sizes[knobs]
    children[rows, knobs] = (parents[rows, knobs] + rng.integers(1, sizes)) % sizes
    return [(sketch, children)]


def cross(
    space: SearchSpace,
    sketch: int,
    parents: Choices,
    mates: Choices,
    active: Sequence[int],
    rng: np.random.Generator,
) -> list[tuple[int, Choices]]:
    """Each group of knobs comes from the parent or from its mate, never from both."""
    groups = space.groups[sketch]
    if not len(groups):
        return [(sketch, parents)]
    from_mate = rng.random((len(parents), int(groups.max()) + 1)) < 0.5
    return [(sketch, np.where(from_mate[:, groups], mates, parents))]


def to_sibling(
    space: SearchSpace,
    sketch: int,
    parents: Choices,
    mates: Choices,
    active: Sequence[int],
    rng: np.random.Generator,
) -> list[tuple[int, Choices]]:
    """Each row moves to another active sketch with the choices both have; others are random."""
    others = np.array([s for s in active if s != sketch], dtype=np.int64)
    if not len(others):
        return to_random_choice(space, sketch, parents, mates, active, rng)
    moves = others[rng.integers(0, len(others), size=len(parents))]
    children = []
    for target in np.unique(moves).tolist():
        chosen = parents[moves == target]
        rows = space.sketches[target].random(len(chosen), rng)
        for source_knob, target_knob, table in space.transfers(sketch, target):
            carried = table[chosen[:, source_knob]]
            rows[:, target_knob] = np.where(carried >= 0, carried, rows[:, target_knob])
        children.append((target, rows))
    return children


CPU_MUTATIONS = (
    Mutation("to_neighbour", 0.45, to_neighbour),
    Mutation("to_random_choice", 0.30, to_random_choice),
    Mutation("cross", 0.20, cross),
    Mutation("to_sibling", 0.05, to_sibling),
)


def rank_weights(scores: Floats, pressure: float = 6.0) -> Floats:
    """Selection probabilities by rank: the best is ``e**pressure`` times as likely as the worst.

    Ranks, not scores: the scale of an untrained or badly fitted model must not decide.
    """
    ranks = np.empty(len(scores), dtype=np.float64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    weights = np.exp(-pressure * ranks / max(1, len(scores) - 1))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def next_generation(
    space: SearchSpace,
    population: Population,
    scores: Sequence[Floats],
    n: int,
    rng: np.random.Generator,
    mutations: Sequence[Mutation] = CPU_MUTATIONS,
) -> Population:
    """``n`` children of ``population``; ``scores`` (per sketch, ``[N]``) are higher for better.

    Children may repeat each other or their parents; see ``sampling.unique``.
    """
    counts = [len(rows) for rows in population]
    if sum(counts) == 0:
        return empty_population(space)
    picks = np.sort(rng.choice(sum(counts), size=n, p=rank_weights(np.concatenate(scores))))
    starts = np.cumsum(counts) - counts
    active = [s for s, count in enumerate(counts) if count]
    probabilities = np.array([m.probability for m in mutations])
    fates = rng.choice(len(mutations), size=n, p=probabilities / probabilities.sum())
    children: list[list[Choices]] = [[rows] for rows in empty_population(space)]
    for s in active:
        mine = (picks >= starts[s]) & (picks < starts[s] + counts[s])
        parents = population[s][picks[mine] - starts[s]]
        mates = parents[rng.permutation(len(parents))]
        for fate, mutation in enumerate(mutations):
            rows = np.flatnonzero(fates[mine] == fate)
            if not len(rows):
                continue
            changed = mutation.change(space, s, parents[rows], mates[rows], active, rng)
            for target, born in changed:
                children[target].append(born)
    return tuple(np.concatenate(rows).astype(np.int32, copy=False) for rows in children)


def single_changes(space: SearchSpace, sketch: int, row: NDArray[np.int32]) -> Choices:
    """All rows that differ from ``row`` by one near choice: a coordinate-descent step."""
    near = space.neighbours[sketch]
    changed = [row[None, :][:0]]
    for k in space.free[sketch].tolist():
        values = np.unique(near[space.offsets[sketch][k] + row[k]])
        values = values[values != row[k]]
        rows = np.repeat(row[None, :], len(values), axis=0)
        rows[:, k] = values
        changed.append(rows)
    return np.concatenate(changed)
