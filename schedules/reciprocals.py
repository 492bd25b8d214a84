"""Multiplying by a reciprocal that is computed once, instead of dividing every element: a rewrite.

``y[i, j] = x[i, j] / s[i]`` becomes ``y.inverse[i] = 1 / s[i]; y[i, j] = x[i, j] * y.inverse[i]``:
a division takes as long as a dozen products. A result is at most 1.5 units in the last place off,
where a quotient is 0.5 off; divisors below 2**-128, whose reciprocal is infinite, are no longer
told from 0.
Separate from ``rewrites.py`` because it first has to find the divisor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from schedules.dag import ComputeDAG, Stage
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read, axes_in, rebuild, walk
from schedules.steps import Reciprocal


def shared_divisor(stage: Stage, axis: str) -> Expr | None:
    """The first divisor in the body that changes from element to element, but not along ``axis``.

    ``None`` also for a stage that reduces: its divisor may be one of a whole sum.
    """
    if stage.combiner is not None or "float" not in stage.dtype:
        return None
    always = frozenset(_unguarded(stage.body))
    for node in walk(stage.body):
        if isinstance(node, Call) and node.op == "div" and node.dtype == stage.dtype:
            divisor = node.args[1]
            axes = axes_in(divisor)
            reads = {n for n in walk(divisor) if isinstance(n, Read)}
            if axes and axis not in axes and reads <= always:
                return divisor
    return None


def reciprocal(dag: ComputeDAG, step: Reciprocal) -> ComputeDAG:
    """Compute the reciprocals of a divisor before the stage; raises :class:`ScheduleError`."""
    stage = dag.by_name.get(step.stage)
    divisor = None if stage is None else shared_divisor(stage, step.axis)
    name = f"{step.stage}.inverse"
    if stage is None or divisor is None or name in dag.by_name:
        raise ScheduleError(f"reciprocal of {step.stage!r}: no divisor is shared by {step.axis!r}")
    axes = tuple(a for a in stage.axes if a.name in axes_in(divisor))
    inverse = Stage(
        name, axes, Call("div", (Const(1.0, stage.dtype), divisor), stage.dtype), stage.dtype
    )
    read = Read(name, tuple(Axis(a.name) for a in axes), stage.dtype)

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Call) and node.op == "div" and node.args[1] == divisor:
            return Call("mul", (node.args[0], read), node.dtype)
        return None

    multiplied = replace(stage, body=rebuild(stage.body, change))
    stages = tuple(t for s in dag.stages for t in ((inverse, multiplied) if s is stage else (s,)))
    return replace(dag, stages=stages)


def _unguarded(expr: Expr) -> Iterator[Read]:
    """Reads that happen whatever the conditions say: the others may be outside their tensor."""
    if isinstance(expr, Read):
        yield expr
    if isinstance(expr, Call):
        for arg in expr.args[:1] if expr.op == "select" else expr.args:
            yield from _unguarded(arg)
