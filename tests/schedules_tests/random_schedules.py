"""Random legal schedules, of a kind no rule would write: what holds for them holds for all.

``random_steps`` draws rewrites and loop steps blindly and drops what is refused.
"""

from __future__ import annotations

import numpy as np

from schedules.dag import REDUCE, ComputeDAG, Stage
from schedules.errors import ScheduleError
from schedules.nest import follow
from schedules.rewrites import apply_rewrites
from schedules.sketch import closed
from schedules.steps import (
    REWRITES,
    Annotate,
    CacheWrite,
    ComputeAt,
    Inline,
    Pack,
    Reorder,
    Scope,
    SplitReduction,
    Step,
    StoreAt,
    Tile,
)

Rng = np.random.Generator


def random_steps(dag: ComputeDAG, rng: Rng) -> tuple[Step, ...]:
    """Closed steps over ``dag`` that can be followed."""
    steps: list[Step] = []
    for _ in range(rng.integers(4)):
        step = _rewrite(dag, rng)
        try:
            dag_after = apply_rewrites(dag, (step,))
        except ScheduleError:
            continue
        steps.append(step)
        dag = dag_after
    rewrites = tuple(steps)
    loops: dict[str, list[str]] = {}
    for stage in dag.stages:
        steps += _tiles(stage, loops, rng)
    for number, stage in enumerate(dag.stages):
        steps += _places(dag, stage, dag.stages[number + 1 :], loops, rng)
        steps += _annotations(stage, loops[stage.name], rng)
    return _legal(dag, rewrites, steps[len(rewrites) :], rng)


def _pick(values: list[str], rng: Rng) -> str:
    return values[int(rng.integers(len(values)))]


def _rewrite(dag: ComputeDAG, rng: Rng) -> Step:
    stage = dag.stages[int(rng.integers(len(dag.stages)))]
    if stage.reduce and rng.random() < 0.5:
        parts, interleaved = int(rng.integers(1, 6)), bool(rng.integers(2))
        return SplitReduction(stage.name, stage.reduce[-1].name, parts, interleaved)
    return Inline(stage.name) if rng.random() < 0.5 else CacheWrite(stage.name)


def _tiles(stage: Stage, loops: dict[str, list[str]], rng: Rng) -> list[Step]:
    steps: list[Step] = []
    waiting = []
    for axis in stage.axes:
        count = int(rng.integers(3))
        factors = tuple(int(f) for f in rng.integers(1, 6, count))
        if axis.kind == REDUCE and count:
            whole = [d for d in range(1, axis.extent + 1) if axis.extent % d == 0]
            factors = (int(rng.choice(whole)),)
        if factors:
            steps.append(Tile(stage.name, axis.name, factors))
        waiting.append([f"{axis.name}.{level}" for level in range(len(factors) + 1)])
    order = []
    while waiting := [levels for levels in waiting if levels]:
        order.append(waiting[int(rng.integers(len(waiting)))].pop(0))
    loops[stage.name] = order
    return [*steps, Reorder(stage.name, tuple(order))]


def _places(
    dag: ComputeDAG,
    stage: Stage,
    later: tuple[Stage, ...],
    loops: dict[str, list[str]],
    rng: Rng,
) -> list[Step]:
    steps: list[Step] = []
    targets = list(dag.consumers[stage.name]) or [s.name for s in later]
    if targets and rng.random() < 0.6:
        target = _pick(targets, rng)
        steps.append(ComputeAt(stage.name, target, _pick(loops[target], rng)))
    if steps and later and rng.random() < 0.4:
        around = _pick([s.name for s in later], rng)
        steps.append(StoreAt(stage.name, around, _pick(loops[around], rng)))
    tensors = [read.tensor for read in stage.reads()]
    if tensors and rng.random() < 0.25:
        tensor = _pick(tensors, rng)
        inside = rng.random() < 0.5 or tensor in dag.by_name
        place = (stage.name, _pick(loops[stage.name], rng)) if inside else None
        # Copies are told apart by the tensor: one of each.
        if len(dag.consumers[tensor]) == 1:
            steps.append(Pack(stage.name, tensor, place))
    return steps


def _annotations(stage: Stage, order: list[str], rng: Rng) -> list[Step]:
    spatial = {a.name for a in stage.spatial}
    steps: list[Step] = []
    kind = _pick(["serial", "unroll", "vectorize"], rng)
    if kind != "vectorize" or order[-1].rsplit(".", 1)[0] in spatial:
        steps.append(Annotate(stage.name, (order[-1],), kind))
    leading = 0
    while leading < len(order) - 1 and order[leading].rsplit(".", 1)[0] in spatial:
        leading += 1
    if leading and rng.random() < 0.4:
        fused = int(rng.integers(1, min(leading, 3) + 1))
        steps.append(Annotate(stage.name, tuple(order[:fused]), "parallel"))
    if rng.random() < 0.2:
        steps.append(Scope(stage.name, "local"))
    return steps


def _legal(
    dag: ComputeDAG, rewrites: tuple[Step, ...], steps: list[Step], rng: Rng
) -> tuple[Step, ...]:
    """``steps`` without those that are refused, found by dropping one after another."""
    assert not any(isinstance(step, REWRITES) for step in steps)
    kept: list[Step] = []
    orders = [s for s in steps if isinstance(s, (Tile, Reorder))]
    for stage in dag.stages:
        mine = [s for s in orders if s.stage == stage.name]
        kept += mine if _follows(dag, [*kept, *mine]) else []
    for number, step in enumerate(steps):
        # A place may be legal for what is kept elsewhere only.
        for more in ([step], steps[number : number + 2]):
            if not isinstance(step, (Tile, Reorder)) and _follows(dag, [*kept, *more]):
                kept += [s for s in more if s not in kept]
                break
    return (*rewrites, *kept)


def _follows(dag: ComputeDAG, steps: list[Step]) -> bool:
    try:
        follow(closed(dag, tuple(steps)), np.zeros((1, 0), dtype=np.int32))
    except ScheduleError:
        return False
    return True
