"""The options of a tuning run: one frozen object, checked when it is made.

Everything that steers a search stands here, with its default, and nowhere else. Environment and
arguments are read in ``cli.py`` only.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ansor_lite.errors import InputError
from ansor_lite.measure.protocol import TOLERANCE

# With neither trials nor seconds given, a run ends by itself; this is the longest it may take.
DEFAULT_SECONDS = 15 * 60.0
# ... and this is the relative gain per round of the scheduler's forecast below which it ends.
DEFAULT_MIN_GAIN = 0.01

STRATEGIES = ("gradient", "round-robin")
OBJECTIVES = ("latency", "geomean", "early-stop")
COST_MODELS = ("xgboost", "random")
# How far outputs of algorithms that change rounding may be off, relative to the largest.
ROUNDING_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """How long to search, with what, and from which seed.

    ``trials`` counts distinct programs over all tasks, ``seconds`` is wall clock from the call to
    its return. With both ``None`` tuning ends when less than ``min_gain`` is expected, at most
    after ``DEFAULT_SECONDS``. ``threads=None`` means all CPUs that this process may use.

    ``batch`` programs of one task are measured per round. ``epsilon`` is the share of a batch that
    is random, ``population`` and ``generations`` size the evolution of a round. A program that is
    ``slow_factor`` times slower than its task's best stops after one repeat. ``tune_simple`` also
    spends trials on tasks that have a good schedule by rule. ``exact`` forbids algorithms that
    change rounding.

    Raises :class:`InputError` naming the field and the value.
    """

    trials: int | None = None
    seconds: float | None = None
    threads: int | None = None
    seed: int = 0
    batch: int = 8
    epsilon: float = 0.1
    population: int = 1024
    generations: int = 1
    cost_model: str = "xgboost"
    strategy: str = "gradient"
    objective: str = "latency"
    min_gain: float = DEFAULT_MIN_GAIN
    task_patience: int = 256
    slow_factor: float = 2.5
    build_timeout: float = 20.0
    run_timeout: float = 10.0
    tune_simple: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        for name in (
            "trials",
            "threads",
            "batch",
            "population",
            "generations",
            "task_patience",
        ):
            _check_count(name, getattr(self, name))
        for name in ("seconds", "build_timeout", "run_timeout"):
            _check_positive(name, getattr(self, name))
        if _not_int(self.seed) or self.seed < 0:
            raise InputError(f"seed must be an integer >= 0, not {self.seed!r}")
        if not 0.0 <= self.epsilon <= 1.0:
            raise InputError(f"epsilon must lie in 0..1, not {self.epsilon!r}")
        if not 0.0 <= self.min_gain < 1.0:
            raise InputError(f"min_gain must lie in 0..1, not {self.min_gain!r}")
        if not self.slow_factor > 1.0:
            raise InputError(f"slow_factor must be above 1, not {self.slow_factor!r}")
        _check_choice("cost_model", self.cost_model, COST_MODELS)
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("objective", self.objective, OBJECTIVES)

    @property
    def is_open_ended(self) -> bool:
        """Neither trials nor seconds are given: end by the forecast."""
        return self.trials is None and self.seconds is None

    @property
    def limit_seconds(self) -> float | None:
        """Seconds after which the run ends; ``None`` when only trials limit it."""
        return DEFAULT_SECONDS if self.is_open_ended else self.seconds

    @property
    def tolerance(self) -> float:
        """How far outputs may be off, relative to the largest, before a program is wrong."""
        return TOLERANCE if self.exact else ROUNDING_TOLERANCE

    def replace(self, **changes: Any) -> TuningOptions:
        """The same options with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def _not_int(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int)


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (_not_int(value) or value < 1):
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_positive(name: str, value: float | None) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a positive number, not {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
