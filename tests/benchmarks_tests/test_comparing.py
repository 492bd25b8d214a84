"""What the rounds mean: the best peer, controls, failures, agreement."""

from __future__ import annotations

import numpy as np
import pytest
from rounds_and_results import Fake, comparison, entry, field

from ansor_lite.errors import AnsorLiteError
from benchmarks import (
    comparing,
)
from benchmarks.runtimes import RuntimeFailure
from benchmarks.turns import take_turns


def test_the_faster_peer_is_the_one_that_counts() -> None:
    found = comparison(field(ours=0.010, slow=0.030, fast=0.012))
    assert (found.best_peer, found.void) == ("fast", False)
    assert found.speed_up("fast").median == pytest.approx(1.2)
    assert found.share_of_peak("ansor-lite") == pytest.approx(0.8)
    assert set(found.to_json()["share_of_peak"]) == {"ansor-lite", "slow", "fast"}


def test_only_the_control_of_the_best_peer_voids_a_run() -> None:
    fakes = field(ours=0.010, slow=0.030, fast=0.012)
    fakes[comparing.control_of("slow")] = Fake(0.033)
    assert not comparison(fakes).void
    fakes[comparing.control_of("fast")] = Fake(0.013)
    assert comparison(fakes).void


def test_a_peer_that_fails_in_its_turn_is_no_peer_and_the_others_go_on() -> None:
    fakes, refused = field(ours=0.010, good=0.030, bad=0.001), dict[str, str]()
    fakes["bad"] = Fake(0.001, fails=4)
    found = comparison(fakes, refused)
    assert refused == {"bad": "it fell over"}
    assert found.peers == ["good"] and len(found.series.rounds["good"]) == 4


def test_without_a_peer_nothing_is_claimed() -> None:
    found = comparison(field(ours=0.010))
    assert found.best_peer is None and found.void and not found.to_json()["speed_up"]


def test_a_failure_of_ours_is_not_the_peers_fault() -> None:
    fakes = field(ours=0.010, peer=0.030)
    fakes[comparing.OURS] = Fake(0.010, fails=2)
    with pytest.raises(RuntimeFailure, match="it fell over"):
        comparison(fakes)


@pytest.mark.parametrize(("latency", "runs"), [(0.05, 4 + 2), (0.3, 1)])
def test_turns_adapt_to_the_length_of_a_run(latency: float, runs: int) -> None:
    fake = Fake(latency)
    take_turns({"one": fake}, 0, {"one": 0.2})
    before = fake.runs
    take_turns({"one": fake}, 10, {"one": 0.2})
    assert fake.runs - before == before + 10 * runs


def test_outputs_must_agree_with_something_that_tells() -> None:
    x = np.linspace(-1.0, 1.0, 5, dtype=np.float32)
    assert comparing.compare({"y": x * 1.0005}, {"y": x}, comparing.tolerance(False))["agrees"]
    assert not comparing.compare({"y": x * 1.0005}, {"y": x}, comparing.tolerance(True))["agrees"]
    constant = np.full(5, 3.0)
    assert not comparing.compare({"y": constant}, {"y": constant}, 1e-3)["agrees"]
    missing = comparing.compare({"y": x * np.nan}, {"y": x}, 1e-3)
    assert not missing["agrees"] and missing["relative_deviation"] is None
    with pytest.raises(AnsorLiteError, match="no output 'y'"):
        comparing.compare({"z": x}, {"y": x}, 1e-3)


def test_the_summary_counts_neither_failures_nor_void_nor_wrong_networks() -> None:
    void = entry("void", ours=1.0, peer=1.0) | {"void": True}
    wrong = entry("wrong", ours=1.0, peer=9.0)
    wrong["accuracy"] = {"agrees": False, "relative_deviation": 0.5}
    failed = {"name": "failed", "failure": "operator Foo is unknown"}
    good = [entry("fast", ours=1.0, peer=2.0), entry("slow", ours=2.0, peer=1.0)]
    found = comparing.summary([*good, void, wrong, failed])
    assert found["counted"] == 2
    assert found["geometric_mean"]["median"] == pytest.approx(1.0)
    assert found["surely_slower"] == ["slow"]
    assert (found["void"], found["wrong"]) == (["void"], ["wrong"])
    assert found["failed"] == {"failed": "operator Foo is unknown"}
