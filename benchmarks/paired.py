"""Statistics of alternating measurements: ratios of neighbours in time, and how sure they are.

A machine that is slower for a second slows both sides of a pair, so that the ratio stays; means of
separate series do not have this property. No assumption about distributions: medians, bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
# A control whose median ratio leaves this range voids the run.
CONTROL_RANGE = (0.97, 1.03)
PERCENTILES = (5, 50, 95, 99)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios with its bootstrap 95 % interval, and the extremes."""

    median: float
    low: float
    high: float
    minimum: float
    maximum: float


def paired_ratio(peer: Sequence[float], ours: Sequence[float], seed: int = 0) -> Ratio:
    """``peer / ours`` of equal rounds; above 1 means that ours took less time."""
    ratios = _ratios(peer, ours)
    medians = _resampled_medians(ratios, seed)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(
        float(np.median(ratios)),
        float(low),
        float(high),
        float(ratios.min()),
        float(ratios.max()),
    )


def geometric_mean_ratio(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0
) -> Ratio:
    """Geometric mean of the median ratios of several networks; extremes are of the networks."""
    ratios = [_ratios(peer, ours) for peer, ours in pairs]
    medians = np.array([np.median(r) for r in ratios])
    logs = [np.log(_resampled_medians(r, seed + i)) for i, r in enumerate(ratios)]
    low, high = np.percentile(np.exp(np.mean(logs, axis=0)), (2.5, 97.5))
    mean = float(np.exp(np.log(medians).mean()))
    return Ratio(mean, float(low), float(high), float(medians.min()), float(medians.max()))


def interval(ratio: Mapping[str, float], digits: int = 2) -> str:
    """The median of a :class:`Ratio` in a result file, and its interval."""
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def is_void(control: Ratio) -> bool:
    """Whether two equal runtimes looked different, so that nothing else can be trusted."""
    low, high = CONTROL_RANGE
    return not low <= control.median <= high


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Latency percentiles in seconds: ``p5``, ``p50``, ``p95``, ``p99``."""
    values = np.percentile(seconds, PERCENTILES)
    return {f"p{q}": float(v) for q, v in zip(PERCENTILES, values, strict=True)}


def _ratios(peer: Sequence[float], ours: Sequence[float]) -> NDArray[np.float64]:
    if len(ours) != len(peer) or not ours:
        raise ValueError(f"{len(peer)} and {len(ours)} rounds do not pair")
    result: NDArray[np.float64] = np.asarray(peer, np.float64) / np.asarray(ours, np.float64)
    return result


def _resampled_medians(ratios: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    medians: NDArray[np.float64] = np.median(ratios[drawn], axis=1)
    return medians
