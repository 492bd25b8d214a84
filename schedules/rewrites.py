"""Rewrites: steps that take a compute DAG to a compute DAG.

They come first in every step list. Each is a plain function in ``REWRITE_FUNCTIONS``; all keep the
values of the outputs (``SplitReduction`` up to the order of a sum, ``ShiftedMoments`` up to their
rounding, ``MinimalFiltering``, ``QuarterProducts`` and ``PairProducts`` too and given their
constants by :func:`constant_programs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from schedules.chunks import chunk
from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.expr import (
    INDEX_DTYPE,
    Axis,
    Call,
    Const,
    Expr,
    Read,
    rebuild,
    substitute_axes,
    walk,
)
from schedules.late_division import divide_late
from schedules.minimal_filtering import constant_filter, minimal_filtering
from schedules.moments import shifted_moments
from schedules.output_tiles import split_axis
from schedules.pairs import constant_pairs, pair_products
from schedules.quarters import constant_quarters, quarter_products
from schedules.reciprocals import reciprocal
from schedules.steps import (
    CacheWrite,
    Chunk,
    CopyRead,
    DivideLate,
    Inline,
    MinimalFiltering,
    PairProducts,
    Permute,
    QuarterProducts,
    Reciprocal,
    ShiftedMoments,
    SplitAxis,
    SplitReduction,
    SplitWindow,
    Step,
)
from schedules.windows import split_window

_COMBINE = {"sum": "add", "max": "max", "min": "min", "prod": "mul"}


def apply_rewrites(dag: ComputeDAG, steps: tuple[Step, ...]) -> ComputeDAG:
    """``dag`` after the rewrites among ``steps``; raises :class:`ScheduleError` if illegal."""
    for step in steps:
        rewrite = REWRITE_FUNCTIONS.get(type(step))
        if rewrite is not None:
            dag = rewrite(dag, step)
    return dag


def constant_programs(dag: ComputeDAG, steps: tuple[Step, ...]) -> dict[str, ComputeDAG]:
    """Constant input -> the program whose output takes its place in the rewritten DAG.

    A rewrite may want a constant in another form; what it computes from it runs once, when the
    network is compiled. Raises :class:`ScheduleError` if a rewrite is illegal.
    """
    programs: dict[str, ComputeDAG] = {}
    transforming = [n for n, step in enumerate(steps) if type(step) in CONSTANT_PROGRAMS]
    for step in steps[: max(transforming, default=-1) + 1]:
        make = CONSTANT_PROGRAMS.get(type(step))
        if make is not None:
            program = make(dag, step)
            (source,) = program.inputs
            before = programs.get(source.name)
            programs[source.name] = program if before is None else _then(before, program)
        dag = apply_rewrites(dag, (step,))
    return programs


def _then(first: ComputeDAG, second: ComputeDAG) -> ComputeDAG:
    """``second`` of the output of ``first``."""
    (read,), (output,) = first.outputs, second.outputs
    (source,) = second.inputs
    names = {source.name: read} | {s.name: f"{read}.{s.name}" for s in second.stages}

    def change(node: Expr) -> Expr | None:
        return replace(node, tensor=names[node.tensor]) if isinstance(node, Read) else None

    later = (replace(s, name=names[s.name], body=rebuild(s.body, change)) for s in second.stages)
    return ComputeDAG(first.inputs, (*first.stages, *later), (names[output],))


def _stage(dag: ComputeDAG, name: str) -> Stage:
    if name not in dag.by_name:
        raise ScheduleError(f"there is no stage {name!r}")
    return dag.by_name[name]


def _replace_stage(dag: ComputeDAG, name: str, new: tuple[Stage, ...]) -> ComputeDAG:
    stages: list[Stage] = []
    for stage in dag.stages:
        stages.extend(new if stage.name == name else (stage,))
    return replace(dag, stages=tuple(stages))


def inline(dag: ComputeDAG, step: Inline) -> ComputeDAG:
    """Substitute an elementwise stage into its consumers and drop it."""
    stage = _stage(dag, step.stage)
    if stage.combiner is not None:
        raise ScheduleError(f"inline of {stage.name!r}: it reduces over {stage.reduce[0].name!r}")
    if stage.name in dag.outputs:
        raise ScheduleError(f"inline of {stage.name!r}: it is an output")

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor != stage.name:
            return None
        names = (a.name for a in stage.axes)
        return substitute_axes(stage.body, dict(zip(names, node.indices, strict=True)))

    stages = tuple(
        replace(s, body=rebuild(s.body, change)) for s in dag.stages if s.name != stage.name
    )
    return replace(dag, stages=stages)


def cache_write(dag: ComputeDAG, step: CacheWrite) -> ComputeDAG:
    """Give an accumulating stage a separate copy of its result."""
    stage = _stage(dag, step.stage)
    if f"{stage.name}.acc" in dag.by_name:
        raise ScheduleError(f"cache_write of {stage.name!r}: it has an accumulator already")
    accumulator = replace(stage, name=f"{stage.name}.acc")
    indices = tuple(Axis(a.name) for a in stage.spatial)
    copy = Stage(
        stage.name, stage.spatial, Read(accumulator.name, indices, stage.dtype), stage.dtype
    )
    return _replace_stage(dag, stage.name, (accumulator, copy))


def split_reduction(dag: ComputeDAG, step: SplitReduction) -> ComputeDAG:
    """Partial results over ``parts``, a combination of them, and the remainder if any."""
    stage = _stage(dag, step.stage)
    axis = next((a for a in stage.reduce if a.name == step.axis), None)
    if axis is None or stage.combiner is None:
        raise ScheduleError(f"split_reduction of {stage.name!r}: {step.axis!r} is no reduce axis")
    length = axis.extent // step.lanes if step.lanes > 0 else 0
    if length < 1:
        raise ScheduleError(
            f"split_reduction of {stage.name!r}: {step.lanes} parts of {axis.extent} elements"
        )
    if any(a.name == _lane_name(step) for a in stage.axes):
        raise ScheduleError(f"split_reduction of {stage.name!r}: {axis.name!r} is split already")
    partial = _partial_stage(stage, axis, step, length)
    lane = IterAxis(_lane_name(step), step.lanes, REDUCE)
    spatial = tuple(Axis(a.name) for a in stage.spatial)
    read = Read(partial.name, (*spatial, Axis(lane.name)), stage.dtype)
    covered = length * step.lanes
    if covered == axis.extent:
        total = Stage(stage.name, (*stage.spatial, lane), read, stage.dtype, stage.combiner)
        return _replace_stage(dag, stage.name, (partial, total))
    lanes = Stage(f"{stage.name}.sum", (*stage.spatial, lane), read, stage.dtype, stage.combiner)
    tail = _tail_stage(stage, axis, covered)
    combined = Call(
        _COMBINE[stage.combiner],
        (Read(lanes.name, spatial, stage.dtype), Read(tail.name, spatial, stage.dtype)),
        stage.dtype,
    )
    total = Stage(stage.name, stage.spatial, combined, stage.dtype)
    return _replace_stage(dag, stage.name, (partial, lanes, tail, total))


def _lane_name(step: SplitReduction) -> str:
    return f"{step.axis}.{'lane' if step.interleaved else 'block'}"


def _partial_stage(stage: Stage, axis: IterAxis, step: SplitReduction, length: int) -> Stage:
    lane = IterAxis(_lane_name(step), step.lanes, SPATIAL)
    inner = IterAxis(axis.name, length, REDUCE)
    if step.interleaved:
        value = _plus(_times(Axis(axis.name), step.lanes), Axis(lane.name))
    else:
        value = _plus(_times(Axis(lane.name), length), Axis(axis.name))
    rest = tuple(inner if a.name == axis.name else a for a in stage.reduce)
    body = substitute_axes(stage.body, {axis.name: value})
    axes = (*stage.spatial, lane, *rest)
    suffix = "lanes" if step.interleaved else "blocks"
    return Stage(f"{stage.name}.{suffix}", axes, body, stage.dtype, stage.combiner)


def _tail_stage(stage: Stage, axis: IterAxis, covered: int) -> Stage:
    shifted = _plus(Axis(axis.name), Const(covered, INDEX_DTYPE))
    axes = tuple(
        replace(a, extent=axis.extent - covered) if a.name == axis.name else a for a in stage.axes
    )
    body = substitute_axes(stage.body, {axis.name: shifted})
    return Stage(f"{stage.name}.tail", axes, body, stage.dtype, stage.combiner)


def copy_read(dag: ComputeDAG, step: CopyRead) -> ComputeDAG:
    """A stage of its own for what a stage reads, in the order of its loops."""
    stage = _stage(dag, step.stage)
    what = f"copy_read of {stage.name!r}"
    reads = [r for r in dict.fromkeys(stage.reads()) if _axis_names(r) == set(step.axes)]
    if len(reads) != 1 or len(set(step.axes)) != len(step.axes):
        raise ScheduleError(f"{what}: {len(reads)} reads depend on {list(step.axes)}")
    if f"{stage.name}.operand" in dag.by_name:
        raise ScheduleError(f"{what}: it has a copy already")
    axes = tuple(replace(stage.axis(name), kind=SPATIAL) for name in step.axes)
    (read,) = reads
    copy = Stage(f"{stage.name}.operand", axes, read, read.dtype)
    copied = Read(copy.name, tuple(Axis(name) for name in step.axes), read.dtype)
    body = rebuild(stage.body, lambda node: copied if node == read else None)
    return _replace_stage(dag, stage.name, (copy, replace(stage, body=body)))


def _axis_names(expr: Expr) -> set[str]:
    return {node.name for node in walk(expr) if isinstance(node, Axis)}


def permute(dag: ComputeDAG, step: Permute) -> ComputeDAG:
    """Another order of the dimensions of an intermediate tensor, and of its loops."""
    stage = _stage(dag, step.stage)
    what = f"permute of {stage.name!r}"
    names = [a.name for a in stage.spatial]
    if sorted(step.axes) != sorted(names):
        raise ScheduleError(f"{what}: {list(step.axes)} are not its axes {names}")
    if stage.name in dag.outputs:
        raise ScheduleError(f"{what}: it is an output")
    order = [names.index(name) for name in step.axes]

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor != stage.name:
            return None
        return replace(node, indices=tuple(node.indices[n] for n in order))

    axes = (*(stage.axis(name) for name in step.axes), *stage.reduce)
    stages = tuple(
        replace(s, axes=axes) if s is stage else replace(s, body=rebuild(s.body, change))
        for s in dag.stages
    )
    return replace(dag, stages=stages)


def _plus(a: Expr, b: Expr) -> Expr:
    return Call("add", (a, b), INDEX_DTYPE)


def _times(a: Expr, factor: int) -> Expr:
    return Call("mul", (a, Const(factor, INDEX_DTYPE)), INDEX_DTYPE)


REWRITE_FUNCTIONS: dict[type, Callable[[ComputeDAG, Any], ComputeDAG]] = {
    Inline: inline,
    CacheWrite: cache_write,
    SplitReduction: split_reduction,
    MinimalFiltering: minimal_filtering,
    QuarterProducts: quarter_products,
    PairProducts: pair_products,
    DivideLate: divide_late,
    Chunk: chunk,
    ShiftedMoments: shifted_moments,
    Reciprocal: reciprocal,
    CopyRead: copy_read,
    Permute: permute,
    SplitAxis: split_axis,
    SplitWindow: split_window,
}

# Rewrites that want a constant in another form -> the program that makes it.
CONSTANT_PROGRAMS: dict[type, Callable[[ComputeDAG, Any], ComputeDAG]] = {
    MinimalFiltering: constant_filter,
    QuarterProducts: constant_quarters,
    PairProducts: constant_pairs,
}
