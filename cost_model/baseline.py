"""Models that need no training: chance, and an estimate in cycles.

``AnalyticModel`` is what a search starts from, and what a learned model has to beat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_model.dataset import Dataset
from cost_model.features import COLUMN
from cost_model.storage import read_model, write_model

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class RandomModel:
    """Every program is as good as any other; the baseline of Ansor's ablation (section 7.1)."""

    trained = False

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def fit(self, dataset: Dataset) -> None:
        """Learns nothing."""

    def predict(self, features: F32) -> F64:
        """``[N]`` independent draws."""
        return self.rng.random(len(features))

    def save(self, path: Path) -> None:
        write_model(path, "random", b"")

    def load(self, path: Path) -> None:
        read_model(path, "random")


class AnalyticModel:
    """Fewer estimated cycles are better: the score is ``-log2(cycles)`` (see ``cycles.py``)."""

    trained = False

    def fit(self, dataset: Dataset) -> None:
        """Learns nothing."""

    def predict(self, features: F32) -> F64:
        """``[N]``; every statement carries the sum over its program."""
        return -features[:, 0, COLUMN["program_cycles"]].astype(np.float64)

    def save(self, path: Path) -> None:
        write_model(path, "analytic", b"")

    def load(self, path: Path) -> None:
        read_model(path, "analytic")
