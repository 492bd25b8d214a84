"""Measured programs as a cost model learns from them: blocks of equal shape, flattened on demand.

Programs of different sketches have different numbers of statements, so the flat form is one row per
statement plus where each program starts. Separate from the models because labels are defined here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.features import FEATURES

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Programs of one task and one sketch.

    ``features [n, S, F]``; ``seconds [n]``, nan where the program failed; ``failures [n]`` says
    why, empty where it ran.
    """

    task: str
    features: F32
    seconds: F64
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flat:
    """P programs as R rows: ``rows [R, F]``, ``starts [P]`` of the first row of each program,
    ``labels [P]`` and ``tasks [P]`` (an index per task key)."""

    rows: F32
    starts: Ints
    labels: F64
    tasks: Ints

    @property
    def lengths(self) -> Ints:
        """Rows per program, ``[P]``."""
        return np.diff(self.starts, append=len(self.rows))

    def programs(self, chosen: Ints) -> Flat:
        """The programs ``chosen`` (indices, ascending)."""
        lengths = self.lengths
        keep = np.zeros(len(self.starts), dtype=bool)
        keep[chosen] = True
        starts = np.concatenate([[0], np.cumsum(lengths[chosen])[:-1]]).astype(np.int64)
        rows = self.rows[np.repeat(keep, lengths)]
        return Flat(rows, starts, self.labels[chosen], self.tasks[chosen])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Immutable; ``extended`` gives a larger one."""

    blocks: tuple[Block, ...] = ()

    def __len__(self) -> int:
        """Number of programs."""
        return sum(len(b.seconds) for b in self.blocks)

    def extended(
        self,
        task: str,
        features: F32,
        seconds: Sequence[float] | F64,
        failures: Sequence[str] = (),
    ) -> Dataset:
        """With programs of ``task``: ``features [n, S, F]``; a failed one has ``nan`` seconds.

        Raises ``ValueError`` when the shapes do not fit or a program neither ran nor failed.
        """
        times = np.asarray(seconds, dtype=np.float64)
        reasons = tuple(failures) or ("",) * len(times)
        if features.ndim != 3 or features.shape[2] != len(FEATURES):
            raise ValueError(f"features are {features.shape}, not [n, S, {len(FEATURES)}]")
        if not len(features) == len(times) == len(reasons):
            raise ValueError(
                f"{len(features)} programs, {len(times)} seconds, {len(reasons)} reasons"
            )
        ran = np.array([not reason for reason in reasons], dtype=bool)
        if not (times[ran] > 0).all() or not np.isnan(times[~ran]).all():
            raise ValueError("seconds must be positive where a program ran, nan where it failed")
        return Dataset((*self.blocks, Block(task, features, times, reasons)))

    def best(self) -> dict[str, float]:
        """Fewest seconds per task, of the tasks that have a result."""
        found: dict[str, float] = {}
        for block in self.blocks:
            times = block.seconds[~np.isnan(block.seconds)]
            if len(times):
                found[block.task] = min(float(times.min()), found.get(block.task, np.inf))
        return found

    def flat(self) -> Flat:
        """All programs. The label is throughput over the best of the task, 0 for a failure."""
        width = len(FEATURES)
        best = self.best()
        names = list(dict.fromkeys(b.task for b in self.blocks))
        rows: list[F32] = [np.empty((0, width), dtype=np.float32)]
        lengths, labels, tasks = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
        for block in self.blocks:
            n, statements = block.features.shape[:2]
            rows.append(block.features.reshape(-1, width))
            lengths.append(np.full(n, statements))
            labels.append(np.nan_to_num(best.get(block.task, 0.0) / block.seconds, nan=0.0))
            tasks.append(np.full(n, names.index(block.task)))
        ends = np.cumsum(np.concatenate(lengths))
        starts = ends - np.concatenate(lengths)
        return Flat(np.concatenate(rows), starts, np.concatenate(labels), np.concatenate(tasks))
