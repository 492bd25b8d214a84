"""Mean and variance in one pass over the data: a rewrite of sums of squares around a mean.

``q[i] = sum_j (x[i, j] - m[i])**2`` waits for ``m``, which comes from ``t[i] = sum_j x[i, j]``: two
passes. Around a guess ``k[i]`` that a few elements give, with ``d = x - k``, one pass adds up ``d``
and ``d * d``; then ``t = sum d + n * k`` and ``q = sum d**2 + e * (n * e - 2 * sum d)`` where
``e = m - k``: the shifted data algorithm of Chan, Golub and LeVeque (The American Statistician 37,
1983). Read ``shifted_moments`` for what rounding does. Separate because of its algebra; the stages
it leaves are ordinary ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from schedules.dag import ComputeDAG, IterAxis, Stage, without_unread
from schedules.errors import ScheduleError
from schedules.expr import (
    INDEX_DTYPE,
    Axis,
    Call,
    Const,
    Expr,
    Read,
    axes_in,
    rebuild,
    substitute_axes,
)
from schedules.steps import ShiftedMoments


@dataclass(frozen=True, slots=True)
class Squares:
    """``squares`` adds up ``(value - mean)**2``, and ``total`` the same ``value`` as often.

    ``value`` and ``mean`` are written with the axes of ``squares``; ``names`` gives those of
    ``total`` for them.
    """

    squares: Stage
    total: Stage
    value: Expr
    mean: Expr
    names: Mapping[str, str]

    @property
    def count(self) -> int:
        """Elements that one result is made of."""
        return prod(a.extent for a in self.squares.reduce)


def squares_around_mean(dag: ComputeDAG, stage: Stage) -> Squares | None:
    """The two sums, if ``stage`` is one of squares around what follows from the sum."""
    match stage.body:
        case Call("mul", (Call("sub", (value, mean)) as first, second)) if first == second:
            pass
        case _:
            return None
    reduced = {a.name for a in stage.reduce}
    if stage.combiner != "sum" or "float" not in stage.dtype or axes_in(mean) & reduced:
        return None
    before = dag.stages[: dag.stages.index(stage)]
    for total in before:
        names = _axes_of(stage, total)
        if names is None or total.combiner != "sum" or total.dtype != stage.dtype:
            continue
        if substitute_axes(value, {a: Axis(b) for a, b in names.items()}) == total.body:
            return Squares(stage, total, value, mean, names)
    return None


def shifted_moments(dag: ComputeDAG, step: ShiftedMoments) -> ComputeDAG:
    """Both sums by way of ``<stage>.first``, ``.shift`` and ``.moments``.

    Raises :class:`ScheduleError` where ``stage`` is no such sum, or has no ``points`` beside each
    other.

    Of ``n`` elements the first ``p`` along the last axis make the guess. The mean of any ``p`` of
    them lies near any ``m``: ``n * (k - m)**2 <= n / p * q`` (Cauchy and Schwarz). The terms that
    cancel are therefore at most ``(1 + n / p) * q`` before rounding, whatever the data; where the
    first elements are like the others, about ``q``. Squares overflow as much earlier, and ``q`` is
    not a number then; it is no less than 0.
    """
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else squares_around_mean(dag, stage)
    if stage is None or found is None or not 1 <= step.points <= stage.reduce[-1].extent:
        raise ScheduleError(f"shifted_moments of {step.stage!r}: no squares around a mean")
    guess = (_first(found, step.points), _shift(found, step.points))
    shared = partial(_shared, found)
    stages: list[Stage] = []
    for each in dag.stages:
        if each == found.total:
            stages += [*guess, _moments(found), _total(found)]
        else:
            new = _squares(found) if each == stage else each
            stages.append(replace(new, body=rebuild(new.body, shared)))
    return without_unread(replace(dag, stages=tuple(stages)))


def _axes_of(stage: Stage, total: Stage) -> dict[str, str] | None:
    """Axis of ``stage`` -> axis of ``total``, where they have the same ones in the same order."""
    if [(a.extent, a.kind) for a in stage.axes] != [(a.extent, a.kind) for a in total.axes]:
        return None
    return {a.name: b.name for a, b in zip(stage.axes, total.axes, strict=True)}


def _first(found: Squares, points: int) -> Stage:
    """The sum of ``points`` elements along the last axis, at the start of the others."""
    stage = found.squares
    start = {a.name: Const(0, INDEX_DTYPE) for a in stage.reduce[:-1]}
    value = substitute_axes(found.value, start)
    axes = (*stage.spatial, replace(stage.reduce[-1], extent=points))
    return Stage(f"{stage.name}.first", axes, value, stage.dtype, "sum")


def _shift(found: Squares, points: int) -> Stage:
    stage = found.squares
    places = tuple(Axis(a.name) for a in stage.spatial)
    share = Const(1.0 / points, stage.dtype)
    body = Call("mul", (Read(f"{stage.name}.first", places, stage.dtype), share), stage.dtype)
    return Stage(f"{stage.name}.shift", stage.spatial, body, stage.dtype)


def _moments(found: Squares) -> Stage:
    """``[..., power, last axis]``: the sums of distances from the guess and of their squares."""
    stage = found.squares
    power = IterAxis(f"{stage.name}.power", 2)
    guess = _guess(found, [Axis(a.name) for a in stage.spatial])
    distance = Call("sub", (found.value, guess), stage.dtype)
    plain = Call("eq", (Axis(power.name), Const(0, INDEX_DTYPE)), "bool")
    factor = Call("select", (plain, Const(1.0, stage.dtype), distance), stage.dtype)
    body = Call("mul", (distance, factor), stage.dtype)
    axes = (*stage.spatial[:-1], power, *stage.spatial[-1:])
    return Stage(f"{stage.name}.moments", (*axes, *stage.reduce), body, stage.dtype, "sum")


def _moment(found: Squares, power: int, places: Sequence[Expr]) -> Read:
    indices = [*places[:-1], Const(power, INDEX_DTYPE), *places[-1:]]
    return Read(f"{found.squares.name}.moments", tuple(indices), found.squares.dtype)


def _guess(found: Squares, places: Sequence[Expr]) -> Read:
    return Read(f"{found.squares.name}.shift", tuple(places), found.squares.dtype)


def _total(found: Squares) -> Stage:
    total, dtype = found.total, found.total.dtype
    places = [Axis(a.name) for a in total.spatial]
    guesses = Call("mul", (_guess(found, places), Const(float(found.count), dtype)), dtype)
    body = Call("add", (_moment(found, 0, places), guesses), dtype)
    return Stage(total.name, total.spatial, body, dtype)


def _shared(found: Squares, node: Expr) -> Expr | None:
    """A quotient of one of the sums and a number, without dividing; that by the count is a mean."""
    match node:
        case Call("div", (Read(tensor, places, dtype), Const(float(divisor)))) if divisor:
            inverse = Const(1.0 / divisor, dtype)
        case _:
            return None
    if tensor == found.squares.name:
        return Call("mul", (node.args[0], inverse), dtype)
    if tensor != found.total.name or divisor != found.count:
        return None
    distance = Call("mul", (_moment(found, 0, places), inverse), dtype)
    return Call("add", (distance, _guess(found, places)), dtype)


def _squares(found: Squares) -> Stage:
    stage, dtype = found.squares, found.squares.dtype
    count = Const(float(found.count), dtype)
    places = [Axis(a.name) for a in stage.spatial]
    far = Call("sub", (found.mean, _guess(found, places)), dtype)
    twice = Call("mul", (_moment(found, 0, places), Const(2.0, dtype)), dtype)
    less = Call("sub", (Call("mul", (far, count), dtype), twice), dtype)
    around = Call("add", (_moment(found, 1, places), Call("mul", (far, less), dtype)), dtype)
    # Below 0 by rounding only: the magnitude is no further off, and no root fails.
    return Stage(stage.name, stage.spatial, Call("abs", (around,), dtype), dtype)
