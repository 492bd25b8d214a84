"""How good a cost model is: does it rank the programs of a task as measurements do?

All functions take ``scores [P]`` (higher is better) and ``labels [P]`` (throughput over the best of
the task) of one task; ``by_task`` averages one over tasks. Definitions as in TenSet (Zheng et
al., NeurIPS 2021, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Metric: TypeAlias = Callable[[F64, F64], float]


def pairwise_accuracy(scores: F64, labels: F64) -> float:
    """Share of pairs with different labels that the scores order alike; a tied score counts half.

    1 when all labels are equal: there is nothing to order.
    """
    truth = np.sign(labels[:, None] - labels)
    guess = np.sign(scores[:, None] - scores)
    pairs = np.count_nonzero(truth)
    agreement = float((truth * guess).sum())
    return (agreement / pairs + 1) / 2 if pairs else 1.0


def recall_at_k(scores: F64, labels: F64, k: int) -> float:
    """Share of the ``k`` best programs that are among the ``k`` best-scored."""
    k = min(k, len(labels))
    chosen = np.argsort(-scores, kind="stable")[:k]
    best = np.argsort(-labels, kind="stable")[:k]
    return len(np.intersect1d(chosen, best)) / k


def peak_at_k(scores: F64, labels: F64, k: int) -> float:
    """Best label among the ``k`` best-scored, over the best label."""
    chosen = np.argsort(-scores, kind="stable")[:k]
    best = float(labels.max())
    return float(labels[chosen].max()) / best if best > 0 else 1.0


def rmse(scores: F64, labels: F64) -> float:
    """Root of the mean squared error; for models whose score is a normalised throughput."""
    return float(np.sqrt(np.mean((scores - labels) ** 2)))


def r2(scores: F64, labels: F64) -> float:
    """Share of the labels' variance that the scores explain; 0 when the labels are equal."""
    spread = float(np.sum((labels - labels.mean()) ** 2))
    return 1 - float(np.sum((scores - labels) ** 2)) / spread if spread > 0 else 0.0


def by_task(metric: Metric, scores: F64, labels: F64, tasks: NDArray[np.int64]) -> float:
    """Mean of ``metric`` over the tasks (``tasks [P]``)."""
    found = [metric(scores[tasks == t], labels[tasks == t]) for t in np.unique(tasks)]
    return float(np.mean(found))
