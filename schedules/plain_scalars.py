"""Scalar algebra that shows what a program is: tests as tests, factors behind their sums.

Importers write a condition as a comparison of a cast, and scale what a sum reads where they could
scale the sum. Read ``expr.py`` first. Separate from ``merge_copies.py``, which moves data only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from schedules.dag import ComputeDAG, Stage, without_unread
from schedules.expr import Axis, Call, Const, Expr, Read, rebuild
from schedules.merge_copies import at


def with_plain_scalars(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` with conditions in place of stages of them, and without scaled factors of sums.

    ``sum (c x) y`` becomes ``c (sum x y)``: one product per result, rounded once instead of often.
    """
    for stage in dag.stages:
        if stage.dtype == "bool" and stage.combiner is None and stage.name not in dag.outputs:
            dag = _inlined(dag, stage.name)
    dag = replace(dag, stages=tuple(_tested(stage) for stage in dag.stages))
    for stage in dag.stages:
        dag = _scaled_behind(dag, dag.stage(stage.name))
    return dag


def _inlined(dag: ComputeDAG, name: str) -> ComputeDAG:
    source = dag.stage(name)
    axes = [axis.name for axis in source.spatial]

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor != name:
            return None
        return at(source.body, dict(zip(axes, node.indices, strict=True)))

    kept = (stage for stage in dag.stages if stage is not source)
    return replace(dag, stages=tuple(replace(s, body=rebuild(s.body, change)) for s in kept))


def _tested(stage: Stage) -> Stage:
    """``0 < integer(condition)`` is the condition."""

    def change(node: Expr) -> Expr | None:
        match node:
            case Call("lt", (Const(0), Call("cast", (condition,))), _) | Call(
                "ne", (Call("cast", (condition,)), Const(0)), _
            ):
                return condition if getattr(condition, "dtype", "") == "bool" else None
            case _:
                return None

    return replace(stage, body=rebuild(stage.body, change))


def _scaled_behind(dag: ComputeDAG, stage: Stage) -> ComputeDAG:
    match stage:
        case Stage(body=Call("mul", (Read() as left, Read() as right)), combiner="sum"):
            pairs = [_factor(dag, left), _factor(dag, right)]
        case _:
            return dag
    factors = [np.float32(factor.value) for factor, _ in pairs if factor is not None]
    if not factors or stage.dtype != "float32":
        return dag
    plain = Call("mul", tuple(read for _, read in pairs), stage.dtype)
    inner = replace(stage, name=f"{stage.name}.plain", body=plain)
    body = Read(inner.name, tuple(Axis(a.name) for a in stage.spatial), stage.dtype)
    scale = Const(float(np.prod(factors)), stage.dtype)
    outer = Stage(stage.name, stage.spatial, Call("mul", (body, scale), stage.dtype), stage.dtype)
    stages: list[Stage] = []
    for each in dag.stages:
        stages += (inner, outer) if each is stage else (each,)
    return without_unread(replace(dag, stages=tuple(stages)))


def _factor(dag: ComputeDAG, read: Read) -> tuple[Const | None, Read]:
    """The number that scales what is read, if only this reads it scaled, and what it scales."""
    source = dag.by_name.get(read.tensor)
    if source is None or source.combiner is not None or source.name in dag.outputs:
        return None, read
    match source.body:
        case Call("mul", (Read() as value, Const() as factor), _) | Call(
            "mul", (Const() as factor, Read() as value), _
        ):
            axes = (axis.name for axis in source.spatial)
            inner = at(value, dict(zip(axes, read.indices, strict=True)))
            assert isinstance(inner, Read)
            return (factor, inner) if len(dag.consumers[source.name]) == 1 else (None, read)
        case _:
            return None, read
