"""Rounds of participants that take a made-up time, and what every result file must have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import (
    comparing,
)
from benchmarks.comparing import Comparison
from benchmarks.runtimes import FMA_PEAK, RuntimeFailure


class Fake:
    """Takes ``latency`` seconds a run, and fails in turn number ``fails``."""

    def __init__(self, latency: float, fails: int | None = None) -> None:
        self.latency, self.fails, self.turns = latency, fails, 0
        self.runs = 0

    def seconds(self, runs: int, warmups: int) -> list[float]:
        self.turns += 1
        self.runs += runs + warmups
        if self.turns == self.fails:
            raise RuntimeFailure("it fell over")
        return [self.latency] * runs


def field(**latencies: float) -> dict[str, Fake]:
    """Ours, the peers with a control of each, and a peak of one GFLOP in a millisecond."""
    fakes = {comparing.OURS: Fake(latencies.pop("ours"))}
    for peer, latency in latencies.items():
        fakes[peer], fakes[comparing.control_of(peer)] = Fake(latency), Fake(latency)
    return fakes | {FMA_PEAK: Fake(0.001)}


def comparison(fakes: dict[str, Fake], refused: dict[str, str] | None = None) -> Comparison:
    peers = {comparing.peer_of(name) for name in fakes} - {comparing.OURS, FMA_PEAK}
    refused = {} if refused is None else refused
    series = comparing.time_in_turns(fakes, refused, 4, 0.2, peers)
    return Comparison(series, gflop=8.0, peak_gflop=1.0)


def entry(name: str, **latencies: float) -> dict[str, Any]:
    """A row of the result file."""
    accuracy = {"agrees": True, "relative_deviation": 1e-6}
    return {"name": name, "accuracy": accuracy} | comparison(field(**latencies)).to_json()


def result_of(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert {"benchmark", "date", "commit", "machine", "versions", "settings"} <= set(document)
    assert str(path.parent) not in path.read_text()
    found: dict[str, Any] = document["result"]
    return found
