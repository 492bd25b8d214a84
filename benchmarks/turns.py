"""Taking turns: everybody is timed once per round, so that a slow second hits all of them.

Read ``take_turns``. Separate from the commands that compare networks, thread counts and operators
in this way, and from ``paired.py``, which says what the rounds mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.paired import percentiles
from benchmarks.runtimes import RuntimeFailure

# Untimed runs that wake a pool's threads, unless one run is longer than a turn.
WARMUP_RUNS = 2
CALIBRATION_RUNS = 3


class Participant(Protocol):
    """Whoever can be timed."""

    def seconds(self, runs: int, warmups: int) -> list[float]: ...


class TurnFailure(RuntimeFailure):
    """A participant failed during its turn."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Pace:
    """Runs of one turn."""

    runs: int
    warmups: int


@dataclass(frozen=True, slots=True)
class Series:
    """Median seconds per participant and round, and the seconds of all single runs."""

    rounds: dict[str, list[float]]
    runs: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of the median run."""
        return float(np.median(self.runs[name]))

    def to_json(self) -> dict[str, Any]:
        return {
            "latency_seconds": {name: percentiles(seconds) for name, seconds in self.runs.items()},
            "runs": {name: len(seconds) for name, seconds in self.runs.items()},
            "round_medians_seconds": {
                name: [float(f"{s:.6g}") for s in seconds] for name, seconds in self.rounds.items()
            },
        }


def take_turns(
    participants: Mapping[str, Participant], rounds: int, turns: Mapping[str, float]
) -> Series:
    """Time everybody once per round; ``turns``: about how many seconds each turn takes.

    Every other round goes backwards, so that a drift within a round favours nobody. Raises
    :class:`TurnFailure` naming who failed.
    """
    paces = {name: _pace(name, each, turns[name]) for name, each in participants.items()}
    series = Series({name: [] for name in participants}, {name: [] for name in participants})
    for index in range(rounds):
        for name in list(participants)[:: -1 if index % 2 else 1]:
            seconds = _seconds(name, participants[name], paces[name])
            series.rounds[name].append(float(np.median(seconds)))
            series.runs[name].extend(seconds)
    return series


def _pace(name: str, participant: Participant, turn: float) -> Pace:
    """As many runs as fit into a turn. A run longer than that needs nobody to wake its threads."""
    first = _seconds(name, participant, Pace(1, 1))[0]
    if first > turn:
        return Pace(1, 0)
    typical = float(np.median(_seconds(name, participant, Pace(CALIBRATION_RUNS, 1))))
    return Pace(max(1, math.ceil(turn / typical)), WARMUP_RUNS)


def _seconds(name: str, participant: Participant, pace: Pace) -> list[float]:
    try:
        return participant.seconds(pace.runs, pace.warmups)
    except RuntimeFailure as error:
        raise TurnFailure(name, str(error)) from error
