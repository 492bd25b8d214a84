"""A schedule followed symbolically: every loop extent, region and footprint as an array over N.

Read ``plan.py`` first (the loops without numbers). ``follow`` never touches TVM: ten thousand
candidates cost tens of milliseconds. ``lower`` builds one candidate from the same numbers, and a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from schedules.dag import REDUCE, SPATIAL, IterAxis
from schedules.errors import ScheduleError
from schedules.expr import Affine, Expr
from schedules.footprint import (
    Ints,
    bounded_count,
    cache_lines,
    count_operations,
    distinct,
    dtype_bytes,
    footprint,
    table,
)
from schedules.plan import Access, Plan, StagePlan, read_alike
from schedules.program_nest import AccessNest, LoopNest, ProgramNest, StageNest
from schedules.regions import Region, check_stored
from schedules.sketch import Choices, Sketch
from schedules.steps import Pack, Step, Tile

__all__ = [
    "AccessNest",
    "Follower",
    "LoopNest",
    "ProgramNest",
    "StageNest",
    "all_effective_steps",
    "effective_steps",
    "follow",
]


def follow(sketch: Sketch, choices: Choices) -> ProgramNest:
    """The nests of all candidates ``choices [N, K]`` of ``sketch``.

    Raises :class:`ScheduleError` when a step is illegal, or when a tile of a reduce axis does not
    divide it for some candidate.
    """
    return Follower(sketch, choices).program()


class Follower:
    """Follows one plan for a batch; stages are visited consumers first.

    ``stages``: those to visit, if not all (see ``reach.needed``); nothing else may be asked for.

    ``sizes[stage][axis]``: tile sizes per level, ``[N]`` each. ``spans[stage][axis]``: how many
    values of the axis lie inside the first ``d`` chain loops, ``[N, D + 1]``.
    ``influence[stage][axis]``: change of the axis when chain loop ``d`` advances, ``[N, D]``.
    """

    def __init__(
        self, sketch: Sketch, choices: Choices, stages: Collection[str] | None = None
    ) -> None:
        self.plan: Plan = sketch.plan
        self.sketch = sketch
        self.choices = choices
        self.n = len(choices)
        self.sizes: dict[str, dict[str, list[Ints]]] = {}
        self.spans: dict[str, dict[str, Ints]] = {}
        self.influence: dict[str, dict[str, Ints]] = {}
        self.extents: dict[str, list[Ints]] = {}
        self.regions: dict[str, tuple[Region, ...]] = {}
        self._reads: dict[tuple[object, ...], AccessNest] = {}
        for stage_plan in reversed(self.plan.stages):
            if stages is None or stage_plan.name in stages:
                self._visit(stage_plan)

    # -- sizes, spans, regions ------------------------------------------------------------------

    def _visit(self, plan: StagePlan) -> None:
        if plan.attached is not None:
            self.regions[plan.name] = self._regions(plan)
        self.sizes[plan.name] = {a.name: self._tile_sizes(plan, a) for a in plan.stage.axes}
        self.extents[plan.name] = self._loop_extents(plan)
        self.spans[plan.name] = {a.name: self._span(plan, a) for a in plan.stage.axes}
        self.influence[plan.name] = {a.name: self._influence(plan, a) for a in plan.stage.axes}

    def _outer_spans(self, plan: StagePlan, axis: IterAxis) -> Ints:
        """Spans of ``axis`` at the depths outside the stage's own loops, ``[N, depth + 1]``."""
        if axis.kind == REDUCE or plan.attached is None:
            return table(self.n, plan.depth + 1, axis.extent)
        dimension = [a.name for a in plan.stage.spatial].index(axis.name)
        return self.regions[plan.name][dimension].extent

    def _tile_sizes(self, plan: StagePlan, axis: IterAxis) -> list[Ints]:
        whole = self._outer_spans(plan, axis)[:, -1]
        sizes: list[Ints] = []
        size = np.ones(self.n, dtype=np.int64)
        repeated = plan.repeated_levels(axis.name)
        for level, factor in reversed(tuple(enumerate(plan.factors.get(axis.name, ()), 1))):
            wanted = self.sketch.numbers(factor, self.choices) * size
            if axis.kind == REDUCE and np.any(whole % wanted):
                raise ScheduleError(
                    f"tile of {plan.name!r}: {axis.name!r} of {axis.extent} is not divisible"
                )
            clipped = np.minimum(wanted, whole)
            # A shifted tile inside a reduction would add its overlap twice.
            size = clipped - clipped % size if level in repeated else clipped
            sizes.append(size)
        if 0 in repeated and np.any(whole % size):
            raise ScheduleError(
                f"tile of {plan.name!r}: {axis.name!r} is cut inside a reduction and not divisible"
            )
        sizes = [whole, *reversed(sizes)]
        if plan.stage.combiner is not None:
            self._check_threads(plan, axis, sizes)
        return sizes

    def _check_threads(self, plan: StagePlan, axis: IterAxis, sizes: list[Ints]) -> None:
        """Threads that share elements of an accumulation would disturb each other."""
        for level in plan.shared_levels(axis.name):
            inner = sizes[level + 1] if level + 1 < len(sizes) else 1
            if np.any(sizes[level] % inner):
                raise ScheduleError(
                    f"tile of {plan.name!r}: threads would accumulate the same {axis.name!r}"
                )

    def _loop_extents(self, plan: StagePlan) -> list[Ints]:
        extents = []
        for loop in plan.loops:
            sizes = self.sizes[plan.name][loop.axis]
            inner = sizes[loop.level + 1] if loop.level + 1 < len(sizes) else 1
            extents.append(-(-sizes[loop.level] // inner))
        return extents

    def _span(self, plan: StagePlan, axis: IterAxis) -> Ints:
        sizes = self.sizes[plan.name][axis.name]
        result = table(self.n, len(plan.chain) + 1, 1)
        result[:, : plan.depth + 1] = self._outer_spans(plan, axis)
        level = 0
        for d, loop in enumerate(plan.loops, plan.depth + 1):
            level += loop.axis == axis.name
            if level < len(sizes):
                result[:, d] = sizes[level]
        return result

    def _influence(self, plan: StagePlan, axis: IterAxis) -> Ints:
        result = table(self.n, len(plan.chain), 0)
        if plan.attached is not None and axis.kind == SPATIAL:
            dimension = [a.name for a in plan.stage.spatial].index(axis.name)
            for (stage, name), coefficient in self.regions[plan.name][dimension].terms:
                result[:, : plan.depth] += (
                    coefficient * self.influence[stage][name][:, : plan.depth]
                )
        sizes = self.sizes[plan.name][axis.name]
        for d, loop in enumerate(plan.loops):
            if loop.axis == axis.name:
                step = sizes[loop.level + 1] if loop.level + 1 < len(sizes) else 1
                result[:, plan.depth + d] = step
        return result

    def _regions(self, plan: StagePlan) -> tuple[Region, ...]:
        consumers = [self.plan.by_name[c] for c in self.plan.dag.consumers[plan.name]]
        inside = [c for c in consumers if c.is_inside(plan.chain[: plan.depth])]
        reads = [(c, a) for c in inside for a in c.accesses if a.tensor == plan.name]
        regions = tuple(
            self._region(plan, dimension, extent, reads)
            for dimension, extent in enumerate(plan.stage.shape)
        )
        check_stored(self, plan, regions)
        return regions

    def _region(
        self,
        plan: StagePlan,
        dimension: int,
        extent: int,
        reads: list[tuple[StagePlan, Access]],
    ) -> Region:
        whole = table(self.n, plan.depth + 1, extent)
        if plan.along and plan.attached is not None:
            place = (plan.attached[0], plan.along[dimension])
            span = self.spans[place[0]][place[1]][:, : plan.depth + 1]
            return Region(((place, 1),), 0, np.minimum(span, whole), False)
        linear: dict[tuple[tuple[tuple[str, str], int], ...], None] = {}
        low: list[int] = []
        high: list[Ints] = []
        for consumer, access in reads:
            index = access.indices[dimension]
            if index is None or any(c < 0 for _, c in index.terms):
                return Region((), 0, whole, False)
            start = self._start(consumer, index, plan)
            if start is None:
                return Region((), 0, whole, False)
            terms, constant = start
            linear[terms] = None
            reach = np.full_like(whole, constant)
            for axis, coefficient in index.terms:
                span = self.spans[consumer.name][axis][:, : plan.depth + 1]
                reach = reach + coefficient * (span - 1)
            low.append(constant)
            high.append(reach)
        if len(linear) != 1:
            return Region((), 0, whole, False)
        needed = np.maximum.reduce(high) - min(low) + 1
        clamped = any(access.guarded for _, access in reads)
        return Region(next(iter(linear)), min(low), np.minimum(needed, whole), clamped)

    def _start(
        self, consumer: StagePlan, index: Affine, plan: StagePlan
    ) -> tuple[tuple[tuple[tuple[str, str], int], ...], int] | None:
        """The start of an index over axes of ``consumer`` as seen where ``plan`` is computed.

        ``None`` when it is the clamped start of a region further inside.
        """
        total: dict[tuple[str, str], int] = {}
        constant = index.constant
        pending = [(consumer.name, axis, c) for axis, c in index.terms]
        assert plan.attached is not None
        while pending:
            stage, axis, coefficient = pending.pop()
            owner = self.plan.by_name[stage]
            if stage == plan.attached[0]:
                total[stage, axis] = total.get((stage, axis), 0) + coefficient
            elif owner.stage.axis(axis).kind == SPATIAL and owner.attached is not None:
                dimension = [a.name for a in owner.stage.spatial].index(axis)
                region = self.regions[stage][dimension]
                if region.clamped and owner.depth > plan.depth:
                    return None
                if region.clamped:
                    total[stage, axis] = total.get((stage, axis), 0) + coefficient
                    continue
                constant += coefficient * region.constant
                pending += [(s, a, c * coefficient) for (s, a), c in region.terms]
        return tuple(sorted((k, c) for k, c in total.items() if c)), constant

    # -- the public form ------------------------------------------------------------------------

    def program(self) -> ProgramNest:
        return ProgramNest(self.n, tuple(nest for p in self.plan.stages for nest in self.nests(p)))

    def nests(self, plan: StagePlan) -> tuple[StageNest, ...]:
        """The copies that a stage packs in every run, then the stage."""
        packs = (pack for pack in plan.packs if self.is_runtime_pack(pack))
        return (*(self._pack_nest(plan, pack) for pack in packs), self._stage_nest(plan))

    def is_runtime_pack(self, pack: Pack) -> bool:
        """Whether the copy is part of every run (a constant tensor is packed at compile time)."""
        source = self.plan.dag.input_by_name.get(pack.tensor)
        return pack.at is not None or source is None or not source.constant

    def chain_extents(self, plan: StagePlan) -> list[Ints]:
        """Extents of all chain loops of a stage, ``[N]`` each, outermost first."""
        if plan.attached is None:
            return list(self.extents[plan.name])
        target = self.plan.by_name[plan.attached[0]]
        outer = self.chain_extents(target)[: plan.depth]
        return [*outer, *self.extents[plan.name]]

    def pack_depth(self, plan: StagePlan, pack: Pack) -> int:
        """Number of chain loops of ``plan`` outside the copy."""
        if pack.at is None:
            return 0
        return [(loop.stage, loop.name) for loop in plan.chain].index(pack.at) + 1

    def pack_loops(self, plan: StagePlan, pack: Pack) -> list[int]:
        """The chain loops (positions) that index the packed copy, outermost first."""
        accesses = [a for a in plan.accesses if a.tensor == pack.tensor]
        if not read_alike(accesses) or (len(accesses) > 1 and self.is_runtime_pack(pack)):
            raise ScheduleError(
                f"pack for {plan.name!r}: {pack.tensor!r} has no single affine read"
            )
        moved = self._moves(plan, accesses[0])
        first = self.pack_depth(plan, pack)
        return [d for d in range(first, len(plan.chain)) if moved[d]]

    def _moves(self, plan: StagePlan, access: Access) -> list[bool]:
        moves = np.zeros(len(plan.chain), dtype=bool)
        for index in access.indices:
            for axis, _ in index.terms if index is not None else ():
                moves |= np.any(self.influence[plan.name][axis] != 0, axis=0)
        return [bool(m) for m in moves]

    def _loop_nests(self, plan: StagePlan) -> tuple[LoopNest, ...]:
        return tuple(
            LoopNest(
                loop.stage,
                loop.axis,
                loop.level,
                loop.kind,
                self.plan.by_name[loop.stage].annotations.get(loop.name, "serial"),
                extent,
            )
            for loop, extent in zip(plan.chain, self.chain_extents(plan), strict=True)
        )

    def _stage_nest(self, plan: StagePlan) -> StageNest:
        stage = plan.stage
        loops = self._loop_nests(plan)
        accesses = [self._write_access(plan)]
        accesses += [self._read_access(plan, access) for access in plan.accesses]
        element = dtype_bytes(stage.dtype)
        if stage.name in self.plan.dag.outputs:
            allocated = np.zeros(self.n, dtype=np.int64)
        else:
            allocated = np.full(self.n, element, dtype=np.int64)
            for extent in self.stored_shape(stage.name):
                allocated = allocated * extent
        return StageNest(
            stage.name,
            loops,
            tuple(accesses),
            count_operations(stage),
            "float" in stage.dtype,
            allocated,
            plan.stored,
        )

    def stored_shape(self, tensor: str) -> list[Ints]:
        """Extents of the buffer that holds ``tensor``, ``[N]`` per dimension."""
        plan = self.plan.by_name.get(tensor)
        if plan is not None and plan.attached is not None:
            return [r.extent[:, plan.stored] for r in self.regions[tensor]]
        shape = self.plan.dag.shape_of(tensor)
        return [np.full(self.n, s, dtype=np.int64) for s in shape]

    def _write_access(self, plan: StagePlan) -> AccessNest:
        indices = tuple(Affine(((a.name, 1),), 0) for a in plan.stage.spatial)
        mode = "write" if plan.stage.combiner is None else "update"
        return self._access(plan, plan.name, indices, (), mode)

    def _read_access(self, plan: StagePlan, access: Access) -> AccessNest:
        for pack in plan.packs:
            if pack.tensor == access.tensor:
                return self._packed_access(plan, pack, "read")
        exprs = access.read.indices
        if None in access.indices:
            return self._access(plan, access.tensor, access.indices, exprs, "read")
        # Reads that differ by constants alone touch as much.
        terms = tuple(index.terms for index in access.indices if index is not None)
        key = (plan.name, access.tensor, terms)
        if key not in self._reads:
            self._reads[key] = self._access(plan, access.tensor, access.indices, exprs, "read")
        return self._reads[key]

    def _access(
        self,
        plan: StagePlan,
        tensor: str,
        indices: tuple[Affine | None, ...],
        exprs: tuple[Expr, ...],
        mode: str,
    ) -> AccessNest:
        spans, influence = self.spans[plan.name], self.influence[plan.name]
        shape = self.stored_shape(tensor)
        depths = len(plan.chain) + 1
        element = dtype_bytes(self.plan.dag.dtype_of(tensor))
        counts: list[Ints] = []
        stride = table(self.n, depths - 1, 0)
        weight = np.ones(self.n, dtype=np.int64)
        unit = False
        for d in range(len(indices) - 1, -1, -1):
            index, size, first = indices[d], shape[d], self._followed(tensor, d)
            if index is None:
                count = bounded_count(exprs[d], spans, self.plan.dag.shape_of(tensor)[d])
            else:
                count = distinct([(c, spans[a]) for a, c in index.terms], self.n, depths)
                for a, c in index.terms:
                    stride[:, first:] += c * influence[a][:, first:] * weight[:, None]
                unit |= d == len(indices) - 1 and any(abs(c) == 1 for _, c in index.terms)
            if lagging := self._lagging(tensor, d):
                count = count.copy(order="K")
                count[:, :lagging] = size[:, None]
            if first:
                count = count.copy(order="K")
                count[:, :first] = count[:, [first]]
            counts.append(count)
            weight = weight * size
        touched, lines = footprint(counts, shape[::-1], element, unit, self.n, depths)
        return AccessNest(tensor, mode, element, weight * element, touched, lines, stride)

    def _followed(self, tensor: str, dimension: int) -> int:
        """Number of outer loops that a compact buffer moves with: they use it again in place."""
        owner = self.plan.by_name.get(tensor)
        if owner is None or owner.attached is None:
            return 0
        region = self.regions[tensor][dimension]
        return owner.stored if region.terms and not region.clamped else 0

    def _lagging(self, tensor: str, dimension: int) -> int:
        """Number of outer loops that a buffer moves with unless a guard keeps it in its tensor."""
        owner = self.plan.by_name.get(tensor)
        if owner is None or owner.attached is None:
            return 0
        return owner.depth if self.regions[tensor][dimension].clamped else 0

    def _packed_access(self, plan: StagePlan, pack: Pack, mode: str) -> AccessNest:
        chain = self.chain_extents(plan)
        loops = self.pack_loops(plan, pack)
        element = dtype_bytes(self.plan.dag.dtype_of(pack.tensor))
        depths = len(chain) + 1
        touched = table(self.n, depths, 1)
        stride = table(self.n, depths - 1, 0)
        running: Ints = np.ones(self.n, dtype=np.int64)
        for d in range(depths - 2, -1, -1):
            if d in loops:
                stride[:, d] = running
                running = running * chain[d]
            touched[:, d] = running
        lines = cache_lines(touched * element)
        name = f"{pack.tensor}.pack"
        return AccessNest(name, mode, element, running * element, touched, lines, stride)

    def _pack_nest(self, plan: StagePlan, pack: Pack) -> StageNest:
        depth = self.pack_depth(plan, pack)
        positions = [*range(depth), *self.pack_loops(plan, pack)]
        access = next(a for a in plan.accesses if a.tensor == pack.tensor)
        loops = self._loop_nests(plan)
        copied = tuple(self._pack_loop(loops[d], d, depth, positions) for d in positions)
        columns = [*positions, len(plan.chain)]
        source = self._access(plan, access.tensor, access.indices, access.read.indices, "read")
        target = self._packed_access(plan, pack, "write")
        pair = tuple(
            AccessNest(
                a.tensor,
                a.mode,
                a.element_bytes,
                a.tensor_bytes,
                a.touched[:, columns],
                a.lines[:, columns],
                a.stride[:, positions],
            )
            for a in (target, source)
        )
        is_float = "float" in self.plan.dag.dtype_of(pack.tensor)
        return StageNest(
            f"{pack.tensor}.pack", copied, pair, {}, is_float, pair[0].tensor_bytes, depth
        )

    def _pack_loop(self, loop: LoopNest, d: int, depth: int, positions: list[int]) -> LoopNest:
        if d < depth:
            return loop
        kind = pack_annotation(positions.index(d) - depth, len(positions) - depth, depth, loop)
        return LoopNest(loop.stage, loop.axis, loop.level, SPATIAL, kind, loop.extent)


def pack_annotation(position: int, count: int, depth: int, loop: LoopNest | None) -> str:
    """How loop ``position`` of ``count`` of a packing copy runs; only a root copy is parallel."""
    if position == count - 1 and loop is not None and loop.annotation == "vectorize":
        return "vectorize"
    if depth == 0 and position < min(2, count - 1):
        return "parallel"
    return "serial"


def effective_steps(sketch: Sketch, row: NDArray[np.int32]) -> tuple[Step, ...]:
    """:func:`all_effective_steps` of one row ``[K]``."""
    return all_effective_steps(sketch, row[None, :])[0]


def all_effective_steps(sketch: Sketch, rows: Choices) -> list[tuple[Step, ...]]:
    """Closed steps of candidates ``rows [N, K]`` with factors clipped to what they do.

    Two rows with equal effective steps are the same program; this is what a log stores.
    """
    follower = Follower(sketch, rows)
    factors = {
        (step.stage, step.axis): _effective_factors(follower.sizes[step.stage][step.axis])
        for step in sketch.steps
        if isinstance(step, Tile)
    }
    return [
        tuple(
            replace(s, factors=tuple(factors[s.stage, s.axis][n])) if isinstance(s, Tile) else s
            for s in sketch.steps
        )
        for n in range(len(rows))
    ]


def _effective_factors(sizes: list[Ints]) -> list[list[int]]:
    """Per candidate, how many inner tiles each tile but the outermost holds."""
    inner = [*sizes[2:], np.ones_like(sizes[0])]
    columns = [-(-a // b) for a, b in zip(sizes[1:], inner, strict=True)]
    rows: list[list[int]] = np.stack(columns, axis=1).tolist()
    return rows
