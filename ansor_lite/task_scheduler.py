"""Which task gets the next round, and when more are not worth it: pure functions of histories.

The strategy of the steepest gradient, its similarity groups and the four objectives are those of
Ansor's section 6.2, and so is the epsilon-greedy choice of a task, which TVM never had. The
forecast is ours: Ansor expects ``seconds / rounds`` of every task, which spends most trials on
tasks that converged long ago. Separate from ``tune.py``: nothing here measures, waits or remembers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

GOLDEN_RATIO = 1.618
# After this many rounds a task slower than its group expects leaves it.
GROUP_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What the scheduler sees of a task.

    ``best``: seconds of the best program after each round, ``None`` while none has run. ``group``:
    tasks of equal group can expect similar FLOP/s (:func:`similarity_group`). ``done``: no more
    rounds.
    """

    best: tuple[float | None, ...]
    flop: float
    group: str = ""
    done: bool = False

    @property
    def seconds(self) -> float | None:
        return self.best[-1] if self.best else None


@dataclass(frozen=True, slots=True)
class Objective:
    """A cost of the tasks' seconds, over one or several networks, and its derivative.

    ``value`` and ``slope`` take the seconds per task, ``[T]``; ``slope`` returns ``[T]``.
    """

    name: str
    value: Callable[[Floats], float]
    slope: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class GradientSettings:
    """How the gain of the next round is forecast.

    A round brings ``decay`` of what the one before it brought, and the first counts as having
    brought ``young`` times the seconds. (Over eighty tasks of four networks, 16 trials a round, the
    second round brought 30 %, the third 2 %, the fourth 0.3 %.) ``floor``: share that is always
    expected, over the number of rounds, so that settled tasks take turns. ``beta``: how many times
    the seconds at the rate of its group a task is sure to reach (Ansor's). ``epsilon``: probability
    of a random task.
    """

    young: float = 3.0
    decay: float = 0.25
    floor: float = 0.002
    beta: float = 2.0
    epsilon: float = 0.05


SETTINGS = GradientSettings()


def total_latency(weights: Floats) -> Objective:
    """f1: the sum of the latencies. ``weights``: uses of each task, ``[networks, T]``."""
    uses = np.atleast_2d(weights).sum(axis=0)
    return Objective("f1", lambda g: float(uses @ g), lambda g: uses)


def latency_requirements(weights: Floats, limits: Floats) -> Objective:
    """f2: the sum of ``max(latency, limit)``: no gain below a network's required seconds."""
    uses = np.atleast_2d(weights)

    def slope(g: Floats) -> Floats:
        return np.asarray((uses @ g > limits) @ uses, dtype=np.float64)

    return Objective("f2", lambda g: float(np.maximum(uses @ g, limits).sum()), slope)


def mean_speedup(weights: Floats, references: Floats) -> Objective:
    """f3: minus the geometric mean of the speed-ups over each network's reference seconds."""
    uses = np.atleast_2d(weights)

    def value(g: Floats) -> float:
        return -float(np.exp(np.mean(np.log(references / (uses @ g)))))

    def slope(g: Floats) -> Floats:
        return np.asarray(-value(g) * ((1 / (uses @ g)) @ uses) / len(uses), dtype=np.float64)

    return Objective("f3", value, slope)


def early_stopping(weights: Floats, stopped: NDArray[np.bool_]) -> Objective:
    """f4: the sum of the latencies, where ``stopped`` tasks have nothing to give."""
    uses = np.atleast_2d(weights).sum(axis=0)
    return Objective("f4", lambda g: float(uses @ g), lambda g: np.where(stopped, 0.0, uses))


def similarity_group(structure: str, flop: float) -> str:
    """Tasks of one ``structure`` whose FLOP lie within a golden ratio of each other."""
    return f"{structure}/{round(math.log(flop + 1, GOLDEN_RATIO))}"


def improvement(history: TaskHistory, rounds: int) -> float:
    """Seconds that the last ``rounds`` rounds took off the best."""
    now = history.seconds
    earlier = next((b for b in history.best[-1 - rounds :] if b is not None), None)
    return 0.0 if now is None or earlier is None else max(0.0, earlier - now)


def expected_gains(
    histories: Sequence[TaskHistory], settings: GradientSettings = SETTINGS
) -> Floats:
    """Seconds each task may lose in its next round, ``[T]`` (minus the paper's gradient of g)."""
    rates: dict[str, float] = {}
    for h in histories:
        if h.seconds:
            rates[h.group] = max(rates.get(h.group, 0.0), h.flop / h.seconds)
    return np.array([_expected_gain(h, rates.get(h.group, 0.0), settings) for h in histories])


def _expected_gain(history: TaskHistory, group_rate: float, settings: GradientSettings) -> float:
    now, rounds = history.seconds, len(history.best)
    if now is None:
        return 0.0
    gain = max(forecast(history, settings), settings.floor * now / rounds)
    if history.group and group_rate > 0 and history.flop > 0 and rounds <= GROUP_ROUNDS:
        gain = max(gain, now - settings.beta * history.flop / group_rate)
    return gain


def forecast(history: TaskHistory, settings: GradientSettings = SETTINGS) -> float:
    """Seconds that the next round should bring, by what the rounds so far have brought."""
    now = history.seconds
    if now is None:
        return 0.0
    gain = settings.young * now
    for before, after in pairwise(b for b in history.best if b is not None):
        gain = max(settings.decay * gain, before - after)
    return settings.decay * gain


def gradient(
    histories: Sequence[TaskHistory],
    objective: Objective,
    rng: np.random.Generator,
    settings: GradientSettings = SETTINGS,
) -> int | None:
    """The task whose next round should lower the objective most; ``None`` when all are done.

    Tasks without a round come first, then those without any program that ran, in order.
    """
    alive = [i for i, h in enumerate(histories) if not h.done]
    if not alive:
        return None
    waiting = [i for i in alive if not histories[i].best]
    if waiting:
        return waiting[0]
    if rng.random() < settings.epsilon:
        return int(alive[rng.integers(0, len(alive))])
    failing = [i for i in alive if histories[i].seconds is None]
    if failing:
        return min(failing, key=lambda i: len(histories[i].best))
    gains = expected_gains(histories, settings) * objective.slope(known_seconds(histories))
    return max(alive, key=lambda i: float(gains[i]))


def round_robin(histories: Sequence[TaskHistory]) -> int | None:
    """The first task with the fewest rounds; ``None`` when all are done."""
    alive = [i for i, h in enumerate(histories) if not h.done]
    return min(alive, key=lambda i: len(histories[i].best), default=None)


def known_seconds(histories: Sequence[TaskHistory]) -> Floats:
    """Best seconds per task, ``[T]``; a task that never ran counts as nothing."""
    return np.array([h.seconds or 0.0 for h in histories])


def stalled(history: TaskHistory, rounds: int) -> bool:
    """Per-task early stop: ``rounds`` rounds brought less than 0.1 %."""
    now = history.seconds
    if now is None or len(history.best) <= rounds or history.best[-1 - rounds] is None:
        return False
    return improvement(history, rounds) < 1e-3 * now


def expected_share(
    histories: Sequence[TaskHistory],
    objective: Objective,
    settings: GradientSettings = SETTINGS,
) -> float:
    """Share of the objective that all further rounds of all tasks should bring."""
    seconds = known_seconds(histories)
    slope = objective.slope(seconds)
    total = float(slope @ seconds)
    if total <= 0:
        return 0.0
    gains = [0.0 if h.done else forecast(h, settings) for h in histories]
    return float(slope @ np.array(gains)) / (1 - settings.decay) / total


def warm_up_order(flops: Sequence[float], weights: Sequence[float]) -> list[int]:
    """Tasks by the work they stand for, heaviest first."""
    return sorted(range(len(flops)), key=lambda i: -flops[i] * weights[i])
