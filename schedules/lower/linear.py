"""Axis values as integer combinations of loop offsets, so that local indices cancel exactly.

An index into a tensor computed at a loop is ``index - start of the region``; both are sums over
the same outer loops. Subtracting them as dictionaries leaves only inner loops, with no need for
a simplifier to find that out. No TVM here: values may be TIR expressions or NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from schedules.dag import SPATIAL
from schedules.expr import Affine
from schedules.nest import Follower
from schedules.plan import Loop, StagePlan
from schedules.skewed_rows import rows_once

Value = Any  # a TIR expression or an integer array


@dataclass(frozen=True, slots=True)
class Clamp:
    """The start of a region that is kept inside its tensor."""

    stage: str
    dimension: int


Atom: TypeAlias = Loop | Clamp


@dataclass(frozen=True, slots=True)
class Linear:
    """``constant + sum(coefficient * atom)``."""

    terms: tuple[tuple[Atom, int], ...]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        merged = dict(self.terms)
        for atom, coefficient in other.terms:
            merged[atom] = merged.get(atom, 0) + factor * coefficient
        kept = tuple((atom, c) for atom, c in merged.items() if c)
        return Linear(kept, self.constant + factor * other.constant)


ZERO = Linear((), 0)


class Positions:
    """Axis values of the single candidate that ``follower`` follows."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.plan = follower.plan

    def axis(self, stage: StagePlan, axis: str, outside: int | None = None) -> Linear:
        """Value of an axis; with ``outside``, its start inside the first ``outside`` own loops."""
        loops = stage.loops if outside is None else stage.loops[:outside]
        own = tuple((x, 1) for x in loops if x.axis == axis and self.extent(x) > 1)
        return self._start(stage, axis).plus(Linear(own, 0))

    def _start(self, stage: StagePlan, axis: str) -> Linear:
        if stage.attached is None or stage.stage.axis(axis).kind != SPATIAL:
            return ZERO
        dimension = [a.name for a in stage.stage.spatial].index(axis)
        return self.region_start(stage, dimension)

    def region_start(self, stage: StagePlan, dimension: int) -> Linear:
        """Where what is computed of a computed-at stage starts in ``dimension``."""
        region = self.follower.regions[stage.name][dimension]
        if region.clamped:
            return Linear(((Clamp(stage.name, dimension), 1),), 0)
        return self.wanted_start(stage, dimension)

    def stored_start(self, stage: StagePlan, dimension: int) -> Linear:
        """Where the buffer of a computed-at stage starts in ``dimension``."""
        start = self.region_start(stage, dimension)
        inside = stage.chain[stage.stored : stage.depth]
        return Linear(tuple(t for t in start.terms if t[0] not in inside), start.constant)

    def wanted_start(self, stage: StagePlan, dimension: int) -> Linear:
        """The start before clamping."""
        assert stage.attached is not None
        target, outside = stage.attached
        region = self.follower.regions[stage.name][dimension]
        total = Linear((), region.constant)
        for (name, axis), coefficient in region.terms:
            owner = self.plan.by_name[name]
            value = self.axis(owner, axis, outside if name == target else 0)
            total = total.plus(value, coefficient)
        return total

    def index(self, stage: StagePlan, index: Affine) -> Linear:
        """An affine index of a read of ``stage``."""
        total = Linear((), index.constant)
        for axis, coefficient in index.terms:
            total = total.plus(self.axis(stage, axis), coefficient)
        return total

    def extent(self, loop: Loop) -> int:
        """Number of iterations of a loop."""
        position = self.plan.by_name[loop.stage].loops.index(loop)
        return int(self.follower.extents[loop.stage][position][0])

    def offset(self, loop: Loop, iteration: int) -> int:
        """What iteration ``iteration`` of a loop adds to its axis."""
        return int(self._offset(loop, iteration, min))

    def sizes(self, loop: Loop) -> tuple[int, int]:
        """Size of the tile the loop walks over and of the tile of one iteration."""
        sizes = self.follower.sizes[loop.stage][loop.axis]
        inner = int(sizes[loop.level + 1][0]) if loop.level + 1 < len(sizes) else 1
        return int(sizes[loop.level][0]), inner

    def is_ragged(self, loop: Loop) -> bool:
        """Whether the last iteration is shifted back over the one before."""
        outer, inner = self.sizes(loop)
        return outer % inner != 0 and not rows_once(self.plan.by_name[loop.stage], loop)

    def evaluate(
        self,
        linear: Linear,
        loop_value: Callable[[Loop], Value],
        minimum: Callable[[Value, Value], Value],
        maximum: Callable[[Value, Value], Value],
    ) -> Value:
        """``linear`` with loops replaced by values."""
        total: Value = linear.constant
        for atom, coefficient in linear.terms:
            if isinstance(atom, Clamp):
                value = self._clamped(atom, loop_value, minimum, maximum)
            else:
                value = self._offset(atom, loop_value(atom), minimum)
            value = value if coefficient == 1 else value * coefficient
            total = value if isinstance(total, int) and total == 0 else total + value
        return total

    def _offset(self, loop: Loop, value: Value, minimum: Callable[[Value, Value], Value]) -> Value:
        outer, inner = self.sizes(loop)
        scaled = value if inner == 1 else value * inner
        return minimum(scaled, outer - inner) if self.is_ragged(loop) else scaled

    def _clamped(
        self,
        clamp: Clamp,
        loop_value: Callable[[Loop], Value],
        minimum: Callable[[Value, Value], Value],
        maximum: Callable[[Value, Value], Value],
    ) -> Value:
        stage = self.plan.by_name[clamp.stage]
        region = self.follower.regions[clamp.stage][clamp.dimension]
        last = stage.stage.shape[clamp.dimension] - int(region.extent[0, -1])
        if last == 0:
            return 0
        wanted = self.evaluate(
            self.wanted_start(stage, clamp.dimension), loop_value, minimum, maximum
        )
        return maximum(minimum(wanted, last), 0)
