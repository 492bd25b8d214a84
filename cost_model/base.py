"""What a cost model is: something that is fitted to a dataset and scores programs.

Read ``dataset.py`` next. Every implementation passes ``tests/contracts/test_cost_model.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.dataset import Dataset

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class CostModelError(ValueError):
    """A model cannot be read or used: another feature table, another format."""


class CostModel(Protocol):
    """Scores programs; a higher score means a faster program of the same task.

    Scores of different tasks are not comparable. A model that was never fitted still scores.
    """

    @property
    def trained(self) -> bool:
        """Whether scores come from measurements."""
        ...

    def fit(self, dataset: Dataset) -> None:
        """Learn from all of ``dataset``, forgetting earlier fits; an empty one changes nothing."""
        ...

    def predict(self, features: F32) -> F64:
        """Scores ``[N]`` of programs ``[N, S, F]`` (see ``extract.features``)."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to one file, also when it is untrained; replaces ``path`` at once."""
        ...

    def load(self, path: Path) -> None:
        """Become the model in ``path``; raises :class:`CostModelError` when it is none."""
        ...
