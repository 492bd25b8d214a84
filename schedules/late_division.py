"""Dividing once for every result instead of before every product: a rewrite of sums of shares.

``y[i, d] = sum_j (a[i, j] / s[i]) * v[j, d]`` is ``(sum_j a[i, j] * v[j, d]) / s[i]``: a division
per result, not per summand, and no summand waits for ``s`` (Rabe and Staats, arXiv 2112.05682,
section 2). Separate from ``rewrites.py`` because of its algebra; the stages it leaves are ordinary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from schedules.dag import ComputeDAG, Stage, without_unread
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read, rebuild, walk
from schedules.steps import DivideLate

Finish: TypeAlias = Callable[[Expr], Expr]


@dataclass(frozen=True)
class Shares:
    """A sum of ``shares * others`` where a share is ``dividend / divisor``.

    ``divisor`` is the same for all summands; ``finish`` makes a share of a quotient.
    """

    dividend: Expr
    divisor: Expr
    others: tuple[Expr, ...]
    finish: Finish


@dataclass(frozen=True)
class _Quotient:
    dividend: Expr
    divisor: Expr
    finish: Finish


def shares(dag: ComputeDAG, stage: Stage) -> Shares | None:
    """The shares that ``stage`` adds up, if it does."""
    if stage.combiner != "sum":
        return None
    factors = _factors(stage.body)
    for n, factor in enumerate(factors):
        found = _quotient(dag, stage, factor)
        if found is not None and len(factors) > 1:
            others = (*factors[:n], *factors[n + 1 :])
            return Shares(found.dividend, found.divisor, others, found.finish)
    return None


def divide_late(dag: ComputeDAG, step: DivideLate) -> ComputeDAG:
    """Sum undivided, then divide; what nothing reads any more is gone."""
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else shares(dag, stage)
    if stage is None or found is None:
        raise ScheduleError(f"divide_late of {step.stage!r}: it is no sum of shares")
    body = found.dividend
    for other in found.others:
        body = Call("mul", (body, other), stage.dtype)
    undivided = replace(stage, name=f"{stage.name}.undivided", body=body)
    spatial = tuple(Axis(a.name) for a in stage.spatial)
    quotient = Call("div", (Read(undivided.name, spatial, stage.dtype), found.divisor), stage.dtype)
    divided = Stage(stage.name, stage.spatial, found.finish(quotient), stage.dtype)
    stages: list[Stage] = []
    for each in dag.stages:
        stages.extend((undivided, divided) if each.name == stage.name else (each,))
    return without_unread(replace(dag, stages=tuple(stages)))


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Call) and expr.op == "mul":
        return [f for arg in expr.args for f in _factors(arg)]
    return [expr]


def _quotient(dag: ComputeDAG, stage: Stage, expr: Expr) -> _Quotient | None:
    match expr:
        case Call("div", (Const(), _), _):
            return None  # a reciprocal: nothing is divided but it
        case Call("div", (dividend, divisor), _) if _is_invariant(stage, divisor):
            return _Quotient(dividend, divisor, lambda quotient: quotient)
        case Call("select", (condition, Const(0.0) as zero, kept), dtype):
            tested = _tested_for_nan(dag, condition)
            if tested is None:
                return None
            return _without_nan(dag, stage, tested, kept, zero, dtype)
        case Read():
            body = _body_at(dag, expr)
            return None if body is None else _quotient(dag, stage, body)
        case _:
            return None


def _tested_for_nan(dag: ComputeDAG, condition: Expr) -> Expr | None:
    """``x`` where ``condition`` is a way to ask whether ``x`` is NaN."""
    match condition:
        case Call("isnan", (tested,)):
            return tested
        case Call("cast", (inner,)) | Call("lt", (Const(0), inner)) | Call("ne", (inner, Const(0))):
            return _tested_for_nan(dag, inner)
        case Read():
            body = _body_at(dag, condition)
            return None if body is None else _tested_for_nan(dag, body)
        case _:
            return None


def _without_nan(
    dag: ComputeDAG, stage: Stage, tested: Expr, kept: Expr, zero: Expr, dtype: str
) -> _Quotient | None:
    """``0 if isnan(a / s) else a / s``: the shares of a normalised exponential are all NaN or none.

    Where ``a = exp(x - max x)`` and ``s`` is their sum, an ``a`` that is NaN makes ``s`` NaN, and
    without one ``s`` is at least 1.
    """
    inner = _quotient(dag, stage, kept)
    same = _quotient(dag, stage, tested)
    if inner is None or same is None or not _is_normalised(dag, inner):
        return None
    if (same.dividend, same.divisor) != (inner.dividend, inner.divisor):
        return None

    def finish(quotient: Expr) -> Expr:
        return Call("select", (Call("isnan", (inner.divisor,), "bool"), zero, quotient), dtype)

    return _Quotient(inner.dividend, inner.divisor, finish)


def _is_normalised(dag: ComputeDAG, quotient: _Quotient) -> bool:
    """The divisor adds up the dividends, which are ``exp(x - max x)``."""
    match quotient.dividend, quotient.divisor:
        case Read(exponential), Read(total):
            added, raised = dag.by_name.get(total), dag.by_name.get(exponential)
        case _:
            return False
    if added is None or raised is None or added.combiner != "sum":
        return False
    match added.body, raised.body:
        case Read(summand), Call("exp", (Call("sub", (Read(x), Read(most))),)):
            greatest = dag.by_name.get(most)
        case _:
            return False
    if summand != exponential or greatest is None or greatest.combiner != "max":
        return False
    return isinstance(greatest.body, Read) and greatest.body.tensor == x


def _body_at(dag: ComputeDAG, read: Read) -> Expr | None:
    """What an elementwise stage computes for the element read."""
    source = dag.by_name.get(read.tensor)
    if source is None or source.combiner is not None:
        return None
    values = dict(zip((a.name for a in source.axes), read.indices, strict=True))
    return rebuild(source.body, lambda e: values.get(e.name) if isinstance(e, Axis) else None)


def _is_invariant(stage: Stage, expr: Expr) -> bool:
    reduced = {a.name for a in stage.reduce}
    return not any(isinstance(node, Axis) and node.name in reduced for node in walk(expr))
