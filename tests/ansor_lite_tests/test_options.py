"""Tuning options: defaults, limits, refusals."""

from __future__ import annotations

import dataclasses

import pytest

from ansor_lite.errors import InputError
from ansor_lite.options import DEFAULT_SECONDS, TuningOptions

REFUSED = [
    ({"trials": 0}, "trials must be a whole number of at least 1, not 0"),
    ({"trials": 1.5}, "trials must be a whole number"),
    ({"trials": True}, "trials must be a whole number"),
    ({"seconds": 0}, "seconds must be a positive number, not 0"),
    ({"seconds": float("nan")}, "seconds must be a positive number, not nan"),
    ({"seconds": float("inf")}, "seconds must be a positive number, not inf"),
    ({"threads": 0}, "threads must be a whole number of at least 1, not 0"),
    ({"batch": 0}, "batch must be"),
    ({"seed": -1}, "seed must be an integer >= 0, not -1"),
    ({"epsilon": 1.5}, "epsilon must lie in 0..1, not 1.5"),
    ({"min_gain": 1.0}, "min_gain must lie in 0..1"),
    ({"strategy": "greedy"}, "strategy must be one of gradient, round-robin, not 'greedy'"),
    ({"cost_model": "oracle"}, "cost_model must be one of"),
    ({"objective": "fame"}, "objective must be one of"),
    ({"objective": "target-latency"}, "objective must be one of"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refuses_with_the_name_and_the_value(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TuningOptions(**changes)  # type: ignore[arg-type]


def test_without_a_budget_the_run_is_open_ended_and_limited() -> None:
    options = TuningOptions()
    assert options.is_open_ended
    assert options.limit_seconds == DEFAULT_SECONDS


def test_trials_alone_set_no_limit_in_seconds() -> None:
    assert TuningOptions(trials=10).limit_seconds is None
    assert TuningOptions(trials=10, seconds=5.0).limit_seconds == 5.0


def test_zero_is_a_seed() -> None:
    assert TuningOptions(seed=0).seed == 0


def test_replace_checks_again() -> None:
    with pytest.raises(InputError, match="threads"):
        TuningOptions().replace(threads=0)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TuningOptions().seed = 1  # type: ignore[misc]


def test_exact_programs_may_be_off_by_less() -> None:
    assert TuningOptions(exact=True).tolerance < TuningOptions().tolerance <= 1e-3
