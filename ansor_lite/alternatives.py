"""Tasks that compute what several others compute one after the other: which of both sides runs.

A chain of kernels may also be one task (``graph/chains.py`` finds them). Both sides are tuned, and
the faster one is used: the same rule decides here for the scheduler, the estimated latency and the
compiler. Pure functions of seconds; ``None`` is what has not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ansor_lite.tasks import Task

# Between two kernels of a network: threads start again, and fetch what others left in their caches.
# No timing of one kernel by itself has that. (mobilenet_v2 as chains: 0.2 ms less than their parts,
# for 12 hand-overs, where the sums of the timings differ by 0.03 ms.)
HANDOVER_SECONDS = 1e-5

Floats: TypeAlias = NDArray[np.float64]
Seconds: TypeAlias = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Positions in a list of tasks: ``whole`` computes what ``parts`` do, in their order."""

    whole: int
    parts: tuple[int, ...]


def alternatives_of(tasks: Iterable[Task]) -> tuple[Alternative, ...]:
    """What each chain among ``tasks`` stands against; nothing without all of its parts there."""
    tasks = tuple(tasks)
    position = {task.key: i for i, task in enumerate(tasks)}
    return tuple(
        Alternative(i, tuple(position[key] for key in task.parts))
        for i, task in enumerate(tasks)
        if task.parts and position.keys() >= set(task.parts)
    )


def is_faster(whole: float | None, parts: Seconds) -> bool:
    """Whether one kernel beats the separate ones; what has not run beats nothing."""
    known = [p for p in parts if p is not None]
    if whole is None or len(known) < len(parts):
        return False
    return whole < sum(known) + HANDOVER_SECONDS * (len(known) - 1)


@dataclass(frozen=True, slots=True)
class Uses:
    """How often networks use their tasks: ``weights [networks, T]``.

    What an alternative stands for is counted on both sides of it; one of them runs.
    """

    weights: Floats
    alternatives: tuple[Alternative, ...] = ()

    def chosen(self, seconds: Seconds) -> Floats:
        """Uses of the sides that run, given the seconds of every task, ``[networks, T]``."""
        return self._without(
            lambda a: (a.whole,) if not is_faster(seconds[a.whole], _at(seconds, a)) else a.parts
        )

    def contended(self, seconds: Seconds, least: Seconds) -> Floats:
        """Uses of the sides that run or may do so yet; ``least``: what tasks may still reach."""

        def losing(a: Alternative) -> tuple[int, ...]:
            if not is_faster(seconds[a.whole], _at(seconds, a)):
                hopeful = seconds[a.whole] is None or is_faster(least[a.whole], _at(seconds, a))
                return () if hopeful else (a.whole,)
            return () if not is_faster(seconds[a.whole], _at(least, a)) else a.parts

        return self._without(losing)

    def latency(self, seconds: Seconds) -> float | None:
        """Seconds of all networks; ``None`` while a task that runs has none."""
        total = self.chosen(seconds).sum(axis=0)
        if any(took is None for took, uses in zip(seconds, total, strict=True) if uses):
            return None
        return float(total @ known(seconds))

    def reordered(self, order: Sequence[int]) -> Uses:
        """For the tasks listed as ``order`` says."""
        place = {old: new for new, old in enumerate(order)}
        moved = [
            Alternative(place[a.whole], tuple(place[p] for p in a.parts)) for a in self.alternatives
        ]
        return replace(self, weights=self.weights[:, list(order)], alternatives=tuple(moved))

    def _without(self, losing: Callable[[Alternative], tuple[int, ...]]) -> Floats:
        uses = self.weights.astype(np.float64)
        for alternative in self.alternatives:
            for task in losing(alternative):
                uses[:, task] -= self.weights[:, alternative.whole]
        return uses


def _at(seconds: Seconds, alternative: Alternative) -> list[float | None]:
    return [seconds[p] for p in alternative.parts]


def known(seconds: Seconds) -> Floats:
    """The seconds as an array, ``[T]``; a task that never ran counts as nothing."""
    return np.array([s or 0.0 for s in seconds])


def uses_of(tasks: Sequence[Task]) -> Uses:
    """Of one network."""
    weights = np.array([[float(t.weight) for t in tasks]])
    return Uses(weights, alternatives_of(tasks))


def faster_chains(chains: Iterable[Task], seconds: Mapping[str, float]) -> frozenset[str]:
    """Keys of the chains that beat their parts, by the seconds of tasks by key."""
    return frozenset(
        c.key for c in chains if is_faster(seconds.get(c.key), [seconds.get(p) for p in c.parts])
    )
