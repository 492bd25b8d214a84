"""What the rounds of a comparison mean: the best peer, ratios, controls, shares of peak.

Read ``Comparison``. Separate from ``networks.py``, which starts processes, so that all of it can be
tested on made-up numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ansor_lite.errors import AnsorLiteError
from benchmarks.paired import Ratio, geometric_mean_ratio, is_void, paired_ratio
from benchmarks.runtimes import FMA_PEAK
from benchmarks.turns import Participant, Series, TurnFailure, take_turns

OURS = "ansor-lite"
CONTROL = " control"
# Largest deviation allowed, relative to the largest absolute output.
EXACT_TOLERANCE = 1e-4
TOLERANCE = 1e-3
# Outputs that differ by less than this share of the largest one would agree with anything.
TELLING_SPREAD = 1e-2
# Seconds of one turn of the peak's measurement: a run takes a fifth of a millisecond.
PEAK_TURN = 0.02

P = TypeVar("P", bound=Participant)


def control_of(peer: str) -> str:
    """The label of a peer's second process."""
    return peer + CONTROL


def peer_of(label: str) -> str:
    """The peer that a label belongs to, control or not."""
    return label.removesuffix(CONTROL)


def tolerance(exact: bool) -> float:
    """Algorithms that change the rounding may deviate more."""
    return EXACT_TOLERANCE if exact else TOLERANCE


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One attempt at a network. ``gflop``: of one inference; ``peak_gflop``: of one run of
    ``FMA_PEAK``."""

    series: Series
    gflop: float
    peak_gflop: float

    @property
    def peers(self) -> list[str]:
        return [peer_of(label) for label in self.series.rounds if label.endswith(CONTROL)]

    @property
    def best_peer(self) -> str | None:
        """The peer of the lowest median latency over the whole run."""
        return min(self.peers, key=self.series.median, default=None)

    @property
    def void(self) -> bool:
        """Whether the control of the best peer was out of range, so that nothing is known."""
        return self.best_peer is None or is_void(self.control(self.best_peer))

    def control(self, peer: str) -> Ratio:
        return paired_ratio(self.series.rounds[control_of(peer)], self.series.rounds[peer])

    def speed_up(self, peer: str) -> Ratio:
        return paired_ratio(self.series.rounds[peer], self.series.rounds[OURS])

    @property
    def peak_gflops(self) -> float:
        """Multiply-adds per second as two operations each, in billions: the median round."""
        return self.peak_gflop / float(np.median(self.series.rounds[FMA_PEAK]))

    def share_of_peak(self, label: str) -> float:
        """The median round's share of the peak that was measured in the same round.

        Operations are those of the direct algorithm, so that a better one may exceed 1.
        """
        peak = self.peak_gflop / np.asarray(self.series.rounds[FMA_PEAK])
        return float(np.median(self.gflop / np.asarray(self.series.rounds[label]) / peak))

    def to_json(self) -> dict[str, Any]:
        return {
            "best_peer": self.best_peer,
            "void": self.void,
            "speed_up": {p: dataclasses.asdict(self.speed_up(p)) for p in self.peers},
            "controls": {p: dataclasses.asdict(self.control(p)) for p in self.peers},
            "peak_gflops": self.peak_gflops,
            "share_of_peak": {n: self.share_of_peak(n) for n in (OURS, *self.peers)},
            **self.series.to_json(),
        }


def time_in_turns(
    participants: MutableMapping[str, P],
    refused: MutableMapping[str, str],
    rounds: int,
    turn: float,
    peers: Collection[str],
) -> Series:
    """Turns of everybody; one of ``peers`` that fails leaves ``participants`` for ``refused``.

    Raises :class:`TurnFailure` when anybody else fails.
    """
    while True:
        turns = {name: PEAK_TURN if name == FMA_PEAK else turn for name in participants}
        try:
            return take_turns(participants, rounds, turns)
        except TurnFailure as error:
            peer = peer_of(error.name)
            if peer not in peers:
                raise
            refused[peer] = str(error)
            for label in (peer, control_of(peer)):
                participants.pop(label, None)


def compare(
    found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], allowed: float
) -> dict[str, Any]:
    """Largest deviation over all outputs, relative to each output's largest absolute value.

    Raises :class:`AnsorLiteError` when an output is missing or has another shape.
    """
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            there = {n: list(v.shape) for n, v in found.items()}
            raise AnsorLiteError(f"no output {name!r} of shape {list(value.shape)}: {there}")
    deviation = [_relative(found[n].astype(np.float64), v) for n, v in expected.items()]
    worst = max(deviation) if all(map(math.isfinite, deviation)) else math.inf
    spread = min(_spread(v) for v in expected.values())
    return {
        "agrees": spread >= TELLING_SPREAD and worst <= allowed,
        "relative_deviation": worst if math.isfinite(worst) else None,
        "tolerance": allowed,
        "smallest_relative_spread": spread if math.isfinite(spread) else None,
    }


def _relative(found: NDArray[np.float64], expected: NDArray[Any]) -> float:
    largest = float(np.abs(expected).max())
    return float(np.abs(found - expected).max()) / largest if largest else math.inf


def _spread(expected: NDArray[Any]) -> float:
    """How much the values of an output differ; 0 when they are not finite."""
    if not np.isfinite(expected).all():
        return 0.0
    largest = float(np.abs(expected).max())
    return float(np.ptp(expected)) / largest if largest else 0.0


def summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all networks: the mean of those that count, and the names of those that do not."""
    right = [e for e in entries if "failure" not in e and e["accuracy"]["agrees"]]
    counted = [e for e in right if not e["void"]]
    pairs = [
        (e["round_medians_seconds"][e["best_peer"]], e["round_medians_seconds"][OURS])
        for e in counted
    ]
    total = geometric_mean_ratio(pairs) if pairs else None
    return {
        "geometric_mean": dataclasses.asdict(total) if total else None,
        "counted": len(counted),
        "surely_slower": [e["name"] for e in counted if e["speed_up"][e["best_peer"]]["high"] < 1],
        "void": [e["name"] for e in right if e["void"]],
        "wrong": [e["name"] for e in entries if "failure" not in e and e not in right],
        "failed": {e["name"]: e["failure"] for e in entries if "failure" in e},
    }
