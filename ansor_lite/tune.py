"""Tuning as users call it: a model, a task or several in, records in a log and a result out.

Read ``loop.py`` for what a run does. Here its parts are put together: target, sketches, cost model,
workers and log. Nothing is printed; ``on_event`` hears of everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ansor_lite import records
from ansor_lite import target as targets
from ansor_lite.alternatives import Floats, Uses, uses_of
from ansor_lite.errors import InputError
from ansor_lite.events import OnEvent, TuningFinished, TuningWarning, ignore
from ansor_lite.learner import Learner
from ansor_lite.loop import (
    LoggedTrial,
    Surroundings,
    TrialLog,
    TuningLoop,
    distinct,
    winner,
)
from ansor_lite.measure.local import Limits, LocalWorkers
from ansor_lite.measure.protocol import Candidate, Measurement, Measurer
from ansor_lite.options import TuningOptions
from ansor_lite.search import SearchSettings, TaskSearch
from ansor_lite.target import Target
from ansor_lite.task_scheduler import (
    Objective,
    early_stopping,
    latency_requirements,
    mean_speedup,
    total_latency,
    warm_up_order,
)
from ansor_lite.task_state import TaskState
from ansor_lite.tasks import Task
from cost_model.base import CostModel
from cost_model.xgb import XGBModel
from schedules.errors import ScheduleError
from schedules.hardware import Hardware
from schedules.nest import all_effective_steps
from schedules.sketch import Sketch
from schedules.steps import Step
from search_space.sketch_generation import default_steps, generate_sketches

if TYPE_CHECKING:
    from ansor_lite.frontend.importer import Model
    from ansor_lite.runtime import CompiledModule

# What compiling the network may take at the end: a share of the time limit, seconds per task, and
# seconds per byte of constants, which are packed.
COMPILE_SHARE, COMPILE_SECONDS, PACK_SECONDS = 0.05, 0.15, 10e-9
# Seconds per task for timing the winners again.
CONFIRM_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class TaskResult:
    """``seconds`` of the best program, ``before`` of the schedule by rule; ``None``: none ran.

    ``slow``: programs stopped early. ``reason``: why the task ended before the budget did.
    """

    task: Task
    steps: tuple[Step, ...] | None = field(repr=False)  # a screen full
    seconds: float | None
    before: float | None
    trials: int
    slow: int
    failures: int
    reason: str


@dataclass(frozen=True, slots=True)
class TuningResult:
    """What a run came to. Latencies are the weighted sums over all tasks, ``None`` while unknown.

    ``reason``: trials, seconds, converged, finished or stopped. ``search_share``: the part of
    ``seconds`` that was neither building nor timing. ``module``: the compiled network, of
    ``tune_model``.
    """

    tasks: tuple[TaskResult, ...]
    reason: str
    seconds: float
    search_share: float
    before: float | None
    after: float | None
    module: CompiledModule | None = None

    @property
    def trials(self) -> int:
        """Programs that ran to the end."""
        return sum(t.trials for t in self.tasks)

    @property
    def failures(self) -> int:
        return sum(t.failures for t in self.tasks)

    @property
    def steps(self) -> dict[str, tuple[Step, ...]]:
        """Task key -> the winning steps."""
        return {t.task.key: t.steps for t in self.tasks if t.steps is not None}


def tune_model(
    model: Model,
    target: str | Mapping[str, Any] | Target = "native",
    options: TuningOptions | None = None,
    log: str | Path | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    on_event: OnEvent = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> TuningResult:
    """Tune a network for ``target`` and compile it with the best programs of ``log``.

    ``model``: an ONNX file, an ``onnx.ModelProto`` or a Relax ``IRModule``; ``shapes`` fixes its
    symbolic inputs. ``log=None`` is ``<model stem>.tune.jsonl``. A limit in seconds covers import
    and compilation. ``stop`` is asked before every trial; once true, what there is gets compiled.

    Raises :class:`InputError` for a model, log or target that cannot be used, among them more
    threads than CPUs that this process may use, and ``LogWriteError`` when a result cannot be
    written (the trials before it are intact).
    """
    started = time.monotonic()
    from ansor_lite.compiler import compile_replayed
    from ansor_lite.frontend.importer import import_network
    from ansor_lite.graph.plan import plan_network
    from ansor_lite.replay import replay

    options = options or TuningOptions()
    chosen = _target_here(target, options)
    with _workers(chosen, options) as workers:  # they start while the model is imported
        graph = plan_network(import_network(model, shapes))
        tasks = (*(graph.tasks if options.tune_simple else graph.tunable), *graph.chain_tasks)
        path = Path(log) if log is not None else Path(f"{graph.network.name}.tune.jsonl")
        reserve = compile_reserve(options, graph.tasks)
        result = _tune_here(tasks, workers, options, path, on_event, stop, started, reserve)
    written = records.read(path)
    usable = written.exact() if options.exact else written
    found = replay(usable, (*graph.tasks, *graph.chain_tasks), chosen)
    module = compile_replayed(graph, found, chosen)
    return replace(result, module=module, seconds=time.monotonic() - started)


def tune_task(
    task: Task,
    target: str | Mapping[str, Any] | Target = "native",
    options: TuningOptions | None = None,
    log: str | Path | None = None,
    *,
    on_event: OnEvent = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> TaskResult:
    """Tune one task, see :func:`tune_model`; ``log=None`` is ``<its name's start>.tune.jsonl``."""
    started = time.monotonic()
    options = options or TuningOptions()
    chosen = _target_here(target, options)
    path = Path(log) if log is not None else Path(f"{task.name.split()[0]}.tune.jsonl")
    with _workers(chosen, options) as workers:
        result = _tune_here([task], workers, options, path, on_event, stop, started, 0.0)
    if not result.tasks:
        raise InputError(f"{task.name}: no rule schedules this program")
    return result.tasks[0]


def _target_here(target: str | Mapping[str, Any] | Target, options: TuningOptions) -> Target:
    """The target, if its programs can be timed on this machine."""
    chosen = targets.parse(target, options.threads)
    targets.require_native(chosen)
    targets.require_cpus(chosen.threads)
    return chosen


def _workers(target: Target, options: TuningOptions) -> LocalWorkers:
    limits = Limits(
        options.build_timeout, options.run_timeout, options.slow_factor, options.tolerance
    )
    return LocalWorkers(target, limits=limits)


def _tune_here(
    tasks: Sequence[Task],
    workers: LocalWorkers,
    options: TuningOptions,
    path: Path,
    on_event: OnEvent,
    stop: Callable[[], bool],
    started: float,
    reserve: float,
) -> TuningResult:
    """``tune_tasks`` with worker processes of this machine and a log file."""
    target = workers.target
    with records.Log.open(path) as log:
        for warning in log.records.warnings:
            on_event(TuningWarning(warning))
        return tune_tasks(
            tasks,
            target,
            options,
            workers.measurer(),
            RecordLog(log, target, time.monotonic, options.exact),
            new_model(options),
            on_event=on_event,
            stop=stop,
            started=started,
            reserve=reserve,
        )


class RecordLog:
    """A log file as the loop sees it: the trials for one target and thread count.

    ``exact``: without those of programs that change rounding.
    """

    def __init__(
        self, log: records.Log, target: Target, clock: Callable[[], float], exact: bool = False
    ) -> None:
        self._log = log
        self._exact = exact
        self._target = target
        self._clock = clock
        self._started = clock()
        self._host = targets.cpu_model()
        self._versions = records.current_versions()

    def read(self) -> list[LoggedTrial]:
        matching = self._log.records.of(self._target)
        matching = matching.exact() if self._exact else matching
        return [LoggedTrial(r.task, r.steps, r.measurement) for r in matching]

    def append(self, program: Candidate, result: Measurement, round: int) -> None:
        record = records.record_of(
            program,
            result,
            self._target,
            host=self._host,
            round=round,
            elapsed=self._clock() - self._started,
            versions=self._versions,
        )
        self._log.append([record])


def tune_tasks(
    tasks: Sequence[Task],
    target: Target,
    options: TuningOptions,
    measurer: Measurer,
    log: TrialLog,
    cost_model: CostModel | None = None,
    *,
    on_event: OnEvent = ignore,
    clock: Callable[[], float] = time.monotonic,
    stop: Callable[[], bool] = lambda: False,
    objective: Objective | None = None,
    started: float | None = None,
    reserve: float = 0.0,
) -> TuningResult:
    """Tune ``tasks`` until a budget of ``options`` is spent or ``stop`` says so.

    Trials already in ``log`` count and are never repeated. ``cost_model=None`` searches at random.
    ``objective`` speaks of the distinct tasks in their first order (default: that of ``options``).
    A limit in seconds counts from ``started`` (of ``clock``) and leaves ``reserve`` of it.
    """
    begun = clock() if started is None else started
    merged = _searchable(distinct(tasks), target, options.exact, on_event)
    goal = objective or objective_of(options.objective, uses_of(merged))
    order = warm_up_order([t.flop for t in merged], [t.weight for t in merged])
    order.sort(key=lambda i: bool(merged[i].parts))  # a chain is of no use before its parts
    states = [task_state(merged[i], n, target, options) for n, i in enumerate(order)]
    around = Surroundings(
        measurer, log, Learner(cost_model, target.hardware()), on_event, clock, stop
    )
    confirm = CONFIRM_SECONDS * len(states) if options.limit_seconds else 0.0
    confirm = min(confirm, 0.1 * (options.limit_seconds or 0.0))
    loop = TuningLoop(states, reordered(goal, order), options, around, begun, reserve, confirm)
    reason = loop.run()
    untried = sum(not state.trials for state in loop.states)
    if untried and reason in ("seconds", "trials"):
        counted = f"{untried} of {len(loop.states)} tasks got no trial"
        on_event(TuningWarning(f"{counted}: the limit ended tuning before their turn"))
    result = _result(loop, reason)
    on_event(
        TuningFinished(
            reason,
            result.trials,
            result.failures,
            result.seconds,
            result.search_share,
            result.before,
            result.after,
        )
    )
    return result


def _searchable(
    tasks: Sequence[Task], target: Target, exact: bool, on_event: OnEvent
) -> list[Task]:
    """The tasks that some rule schedules; a warning names each other one with the reason.

    Chains are left out where no sketch brings their kernels together.
    """
    hardware = target.hardware()
    kept = []
    for task in tasks:
        try:
            default_steps(task.dag, hardware)
        except ScheduleError as error:
            on_event(TuningWarning(f"{task.name} runs unscheduled: {error}"))
        else:
            kept.append(task)
    by_key = {task.key: task for task in kept}
    return [t for t in kept if not t.parts or _brings_together(t, by_key, hardware, exact)]


def _brings_together(
    chain: Task, tasks: Mapping[str, Task], hardware: Hardware, exact: bool
) -> bool:
    """Whether some sketch of a chain is more than the nests of its parts, one after the other."""
    parts = [tasks[key] for key in chain.parts if key in tasks]
    together = sketches_of(chain, hardware, exact)
    apart = sum(_nests(sketches_of(part, hardware, exact)[0]) for part in parts)
    return len(parts) < len(chain.parts) or _nests(together[0]) < apart


def sketches_of(task: Task, hardware: Hardware, exact: bool) -> tuple[Sketch, ...]:
    """The sketches to search; of a chain those with the fewest nests, which tasks apart lack."""
    sketches = generate_sketches(task.dag, hardware, exact=exact)
    if not task.parts:
        return sketches
    fewest = min(_nests(sketch) for sketch in sketches)
    return tuple(sketch for sketch in sketches if _nests(sketch) == fewest)


def _nests(sketch: Sketch) -> int:
    return sum(stage.attached is None for stage in sketch.plan.stages)


def task_state(task: Task, index: int, target: Target, options: TuningOptions) -> TaskState:
    """A task that nothing is known of yet, with its search space."""
    hardware = target.hardware()
    default = default_steps(task.dag, hardware)
    settings = SearchSettings(
        population=options.population,
        generations=options.generations,
        random_share=options.epsilon,
    )
    sketches = sketches_of(task, hardware, options.exact)
    search = TaskSearch(sketches, default, settings, all_effective_steps)
    return TaskState(task, index, search, search.candidate(default).steps)


def objective_of(
    name: str,
    uses: Uses,
    limits: Floats | None = None,
    references: Floats | None = None,
) -> Objective:
    """The objective of an option's name; the others are ``[networks]``.

    ``limits``: the latency each network must reach, in seconds. ``references``: the latency that
    speed-ups refer to; it scales one network's objective only.
    """
    if name == "latency":
        return total_latency(uses)
    if name == "geomean":
        ones = np.ones(len(uses.weights))
        return mean_speedup(uses, ones if references is None else references)
    if name == "early-stop":
        return early_stopping(uses, np.zeros(uses.weights.shape[1], dtype=bool))
    if limits is None:
        raise InputError("objective target-latency needs the latency to reach: give limits")
    return latency_requirements(uses, limits)


def reordered(objective: Objective, order: Sequence[int]) -> Objective:
    """``objective`` for tasks listed as ``order`` says."""
    stopped = None if objective.stopped is None else objective.stopped[list(order)]
    return replace(objective, uses=objective.uses.reordered(order), stopped=stopped)


def _result(loop: TuningLoop, reason: str) -> TuningResult:
    states = loop.states
    winners = [winner(s) for s in states]
    results = []
    for state, won in zip(states, winners, strict=True):
        steps, seconds = won if won is not None else (None, None)
        results.append(
            TaskResult(
                state.task,
                steps,
                seconds,
                state.before,
                state.measured,
                state.slow,
                state.failures,
                state.done,
            )
        )
    spent = loop.spent
    share = loop.searching / spent if spent > 0 else 0.0
    after = uses_of([s.task for s in states]).latency([r.seconds for r in results])
    return TuningResult(tuple(results), reason, spent, share, loop.before, after)


def new_model(options: TuningOptions) -> CostModel | None:
    """The cost model that ``options`` name; ``None`` for random search."""
    if options.cost_model == "random":
        return None
    # One thread: trees this small gain nothing from more, and lose all when a CPU is taken.
    return XGBModel(seed=options.seed, threads=1)


def compile_reserve(options: TuningOptions, tasks: Sequence[Task]) -> float:
    """Seconds of the limit that must be left for compiling a network of these tasks."""
    limit = options.limit_seconds
    if limit is None:
        return 0.0
    packing = PACK_SECONDS * sum(t.weight * t.constant_bytes for t in tasks)
    return min(limit / 2, COMPILE_SHARE * limit + COMPILE_SECONDS * len(tasks) + packing)
