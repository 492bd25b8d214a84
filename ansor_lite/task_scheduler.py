"""Which task gets the next round, and when more are not worth it: pure functions of histories.

The strategy of the steepest gradient, its similarity groups and the four objectives are those of
Ansor's section 6.2, and so is the epsilon-greedy choice of a task, which TVM never had. The
forecast is ours: Ansor expects ``seconds / rounds`` of every task, which spends most trials on
tasks that converged long ago. Separate from ``tune.py``: nothing here measures, waits or remembers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ansor_lite.alternatives import Floats, Seconds, Uses, known

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
    """A cost of the latencies of one or several networks, and its derivative.

    ``cost`` takes the latencies, ``[networks]``, and ``rates`` returns the cost's derivative with
    respect to each of them. ``stopped`` tasks, ``[T]``, have nothing to give.
    """

    name: str
    uses: Uses
    cost: Callable[[Floats], float]
    rates: Callable[[Floats], Floats]
    stopped: NDArray[np.bool_] | None = None

    def value(self, seconds: Seconds) -> float:
        """Of the seconds per task, ``[T]``."""
        return self.cost(self.uses.chosen(seconds) @ known(seconds))

    def slope(self, seconds: Seconds, least: Seconds | None = None) -> Floats:
        """Derivative with respect to the seconds of every task, ``[T]``.

        Given what tasks may ``least`` come to, a side of an alternative that does not run, but may
        yet, counts as if it did.
        """
        chosen = self.uses.chosen(seconds)
        uses = chosen if least is None else self.uses.contended(seconds, least)
        slope = np.asarray(self.rates(chosen @ known(seconds)) @ uses, dtype=np.float64)
        return slope if self.stopped is None else np.where(self.stopped, 0.0, slope)


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


def total_latency(uses: Uses) -> Objective:
    """f1: the sum of the latencies."""
    return Objective("f1", uses, lambda t: float(t.sum()), np.ones_like)


def latency_requirements(uses: Uses, limits: Floats) -> Objective:
    """f2: the sum of ``max(latency, limit)``: no gain below a network's required seconds."""
    return Objective(
        "f2",
        uses,
        lambda t: float(np.maximum(t, limits).sum()),
        lambda t: np.asarray(t > limits, dtype=np.float64),
    )


def mean_speedup(uses: Uses, references: Floats) -> Objective:
    """f3: minus the geometric mean of the speed-ups over each network's reference seconds."""

    def cost(t: Floats) -> float:
        return -float(np.exp(np.mean(np.log(references / t))))

    return Objective("f3", uses, cost, lambda t: -cost(t) / t / len(t))


def early_stopping(uses: Uses, stopped: NDArray[np.bool_]) -> Objective:
    """f4: the sum of the latencies, where ``stopped`` tasks have nothing to give."""
    return replace(total_latency(uses), name="f4", stopped=stopped)


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
    slope = objective.slope(known_seconds(histories), least_seconds(histories, settings))
    if rng.random() < settings.epsilon:
        chosen = [i for i in alive if slope[i] > 0] or alive
        return int(chosen[rng.integers(0, len(chosen))])
    failing = [i for i in alive if histories[i].seconds is None]
    if failing:
        return min(failing, key=lambda i: len(histories[i].best))
    gains = expected_gains(histories, settings) * slope
    return max(alive, key=lambda i: float(gains[i]))


def round_robin(histories: Sequence[TaskHistory]) -> int | None:
    """The first task with the fewest rounds; ``None`` when all are done."""
    alive = [i for i, h in enumerate(histories) if not h.done]
    return min(alive, key=lambda i: len(histories[i].best), default=None)


def known_seconds(histories: Sequence[TaskHistory]) -> list[float | None]:
    """Best seconds per task."""
    return [h.seconds for h in histories]


def least_seconds(
    histories: Sequence[TaskHistory], settings: GradientSettings = SETTINGS
) -> list[float | None]:
    """Seconds per task that all its further rounds should come to; now, where it gets no more."""
    return [
        h.seconds if h.seconds is None else max(0.0, h.seconds - _all_gains(h, settings))
        for h in histories
    ]


def _all_gains(history: TaskHistory, settings: GradientSettings) -> float:
    """Seconds that all further rounds should bring: the sum of a geometric series."""
    return 0.0 if history.done else forecast(history, settings) / (1 - settings.decay)


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
    total = float(objective.slope(seconds) @ known(seconds))
    if total <= 0:
        return 0.0
    slope = objective.slope(seconds, least_seconds(histories, settings))
    return float(slope @ np.array([_all_gains(h, settings) for h in histories])) / total


def warm_up_order(flops: Sequence[float], weights: Sequence[float]) -> list[int]:
    """Tasks by the work they stand for, heaviest first."""
    return sorted(range(len(flops)), key=lambda i: -flops[i] * weights[i])
