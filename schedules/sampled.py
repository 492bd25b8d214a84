"""A part of what a DAG computes: some rows of its output, for checks that must not take minutes.

``y[i] = f(i)`` becomes ``y[r] = f(r * step + first)``: rows at equal distances, the last among
them. What leads to them is computed for them only, as far as it is read row by row. Separate from
``evaluate.py`` because the result is a DAG like any other, whoever computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, rebuild


@dataclass(frozen=True, slots=True)
class Sample:
    """``dag`` has all inputs, and of its only output ``rows`` along ``dimension``."""

    dag: ComputeDAG
    dimension: int
    rows: range


def sampled(dag: ComputeDAG, share: float) -> Sample | None:
    """About that ``share`` of the rows along the longest axis of the output, one at least.

    ``None`` for several outputs, and for an output without axes.
    """
    if len(dag.outputs) != 1 or not dag.stage(dag.outputs[0]).spatial:
        return None
    output = dag.stage(dag.outputs[0])
    axis = max(output.spatial, key=lambda a: a.extent)
    count = max(1, int(axis.extent * share))
    step = axis.extent // count
    at = range(axis.extent - 1 - (count - 1) * step, axis.extent, step)
    rows = _rows(dag, output.name, axis.name)
    stages = [_cut(s, rows, dag, at) if s.name in rows else s for s in dag.stages]
    dimension = [a.name for a in output.spatial].index(axis.name)
    part = ComputeDAG(dag.inputs, tuple(stages), dag.outputs)
    return Sample(part, dimension, at)


def _rows(dag: ComputeDAG, output: str, axis: str) -> dict[str, str]:
    """The axis that follows ``axis`` of the output, for every stage that is read row by row."""
    rows = {output: axis}
    for stage in reversed(dag.stages):
        readers = dag.consumers[stage.name]
        if stage.name == output or not readers or not set(readers) <= rows.keys():
            continue
        shared = set(range(len(stage.spatial)))
        for reader in readers:
            for read in dag.stage(reader).reads():
                if read.tensor == stage.name:
                    at = {d for d, i in enumerate(read.indices) if i == Axis(rows[reader])}
                    shared &= at
        if shared:
            rows[stage.name] = stage.spatial[min(shared)].name
    return rows


def _cut(stage: Stage, rows: dict[str, str], dag: ComputeDAG, at: range) -> Stage:
    row = rows[stage.name]
    scaled = Call("mul", (Axis(row), Const(at.step, INDEX_DTYPE)), INDEX_DTYPE)
    position = Call("add", (scaled, Const(at.start, INDEX_DTYPE)), INDEX_DTYPE)

    def change(node: Expr) -> Expr | None:
        if node == Axis(row):
            return position
        if isinstance(node, Read) and node.tensor in rows:
            names = [a.name for a in dag.stage(node.tensor).spatial]
            place = names.index(rows[node.tensor])
            indices = (*node.indices[:place], Axis(row), *node.indices[place + 1 :])
            return replace(node, indices=indices)
        return None

    axes = tuple(IterAxis(a.name, len(at), a.kind) if a.name == row else a for a in stage.axes)
    return replace(stage, axes=axes, body=rebuild(stage.body, change))
