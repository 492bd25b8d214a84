"""The static half of a followed schedule: which loops exist, in which order, who sits inside whom.

``build_plan`` reads the steps once; nothing in a plan depends on the numbers of a candidate, so one
plan serves a whole population. ``nest.py`` adds the numbers, ``lower`` the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from schedules.dag import REDUCE, SPATIAL, ComputeDAG, Stage
from schedules.errors import ScheduleError
from schedules.expr import Affine, Axis, Call, Expr, Read, affine, walk
from schedules.masks import masks
from schedules.rewrites import apply_rewrites
from schedules.steps import (
    ANNOTATIONS,
    REWRITES,
    SCOPES,
    Annotate,
    ComputeAt,
    Limit,
    Number,
    Pack,
    Reorder,
    Scope,
    Step,
    StoreAt,
    Tile,
)


@dataclass(frozen=True, slots=True)
class Loop:
    """Loop ``level`` of ``axis`` of ``stage``; level 0 is the outermost."""

    stage: str
    axis: str
    level: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.axis}.{self.level}"


@dataclass(frozen=True, slots=True)
class Access:
    """One distinct read of a stage body: per dimension an affine index, or ``None``.

    ``guarded``: the read stands behind a condition on its axes: its index may leave the tensor (in
    a plan: it does).
    """

    read: Read
    indices: tuple[Affine | None, ...]
    guarded: bool

    @property
    def tensor(self) -> str:
        return self.read.tensor


@dataclass(frozen=True)
class StagePlan:
    """One stage with its own loops in order, its place, annotations and storage."""

    stage: Stage
    factors: dict[str, tuple[Number, ...]]
    loops: tuple[Loop, ...]
    annotations: dict[str, str]
    attached: tuple[str, int] | None  # (target stage, own loops of the target outside)
    chain: tuple[Loop, ...]  # all loops around the body, outermost first
    stored: int  # number of chain loops outside the storage; no more than ``depth``
    along: tuple[str, ...]  # axes of the target that a stage goes along with, if no reader does
    scope: str
    packs: tuple[Pack, ...]
    limits: tuple[Limit, ...]
    accesses: tuple[Access, ...]

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def depth(self) -> int:
        """Number of chain loops that belong to other stages."""
        return len(self.chain) - len(self.loops)

    def is_inside(self, loops: tuple[Loop, ...]) -> bool:
        """Whether all of ``loops`` are around the stage."""
        return self.chain[: len(loops)] == loops

    @property
    def parallel(self) -> int:
        """Number of leading own loops that are fused and parallel."""
        return sum(1 for loop in self.loops if self.annotations.get(loop.name) == "parallel")

    def shared_levels(self, axis: str) -> frozenset[int]:
        """Levels of an axis whose loops are parallel."""
        return frozenset(x.level for x in self.loops[: self.parallel] if x.axis == axis)

    def repeated_levels(self, axis: str) -> frozenset[int]:
        """Levels of a spatial axis whose loops run inside a reduce loop of the stage."""
        kinds = [loop.kind for loop in self.loops]
        first = kinds.index(REDUCE) if REDUCE in kinds else len(kinds)
        inside = (loop for loop in self.loops[first:] if loop.kind == SPATIAL)
        return frozenset(loop.level for loop in inside if loop.axis == axis)


@dataclass(frozen=True)
class Plan:
    """The stages of ``dag`` (after rewrites) in execution order."""

    dag: ComputeDAG
    stages: tuple[StagePlan, ...]

    @cached_property
    def by_name(self) -> dict[str, StagePlan]:
        return {s.name: s for s in self.stages}

    @cached_property
    def inside(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """Attach point -> stages computed there, in execution order."""
        found: dict[tuple[str, int], list[str]] = {}
        for plan in self.stages:
            if plan.attached is not None:
                found.setdefault(plan.attached, []).append(plan.name)
        return {point: tuple(names) for point, names in found.items()}


@dataclass
class _Draft:
    factors: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    order: tuple[str, ...] | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    at: tuple[str, str] | None = None
    store: tuple[str, str] | None = None
    along: tuple[str, ...] = ()
    scope: str = "global"
    packs: list[Pack] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)


def build_plan(dag: ComputeDAG, steps: tuple[Step, ...]) -> Plan:
    """Follow ``steps`` structurally; raises :class:`ScheduleError` for an illegal one."""
    _check_order(steps)
    dag = apply_rewrites(dag, steps)
    drafts = {s.name: _Draft() for s in dag.stages}
    for step in steps:
        if not isinstance(step, REWRITES):
            if step.stage not in drafts:
                raise ScheduleError(f"{type(step).__name__}: there is no stage {step.stage!r}")
            _check_values(step)
            _note(drafts[step.stage], step)
    plans: dict[str, StagePlan] = {}
    for stage in reversed(dag.stages):
        plans[stage.name] = _stage_plan(dag, stage, drafts, plans)
    for plan in plans.values():
        _check_pack_places(plan, plans)
    _check_limits(dag, plans)
    return Plan(dag, tuple(plans[s.name] for s in dag.stages))


def _check_order(steps: tuple[Step, ...]) -> None:
    seen_loop_step = False
    for step in steps:
        if isinstance(step, REWRITES) and seen_loop_step:
            raise ScheduleError(f"{type(step).__name__} of {step.stage!r} follows a loop step")
        seen_loop_step |= not isinstance(step, REWRITES)


def _check_values(step: Step) -> None:
    """What a step read from a log may hold that no reader understands."""
    match step:
        case Tile():
            if any(isinstance(f, int) and f < 1 for f in step.factors):
                raise ScheduleError(f"tile of {step.stage!r}: {step.factors} are no tile sizes")
        case Annotate():
            if step.kind not in ANNOTATIONS:
                raise ScheduleError(f"annotate of {step.stage!r}: unknown kind {step.kind!r}")
        case Scope():
            if step.scope not in SCOPES:
                raise ScheduleError(f"scope of {step.stage!r}: unknown scope {step.scope!r}")


def _note(draft: _Draft, step: Step) -> None:
    match step:
        case Tile():
            draft.factors[step.axis] = step.factors
        case Reorder():
            draft.order = step.loops
        case ComputeAt():
            draft.at = (step.target, step.loop)
        case StoreAt():
            draft.store, draft.along = (step.target, step.loop), step.axes
        case Annotate():
            draft.annotations |= dict.fromkeys(step.loops, step.kind)
        case Scope():
            draft.scope = step.scope
        case Pack():
            draft.packs.append(step)
        case Limit():
            draft.limits.append(step)


def _stage_plan(
    dag: ComputeDAG, stage: Stage, drafts: dict[str, _Draft], plans: dict[str, StagePlan]
) -> StagePlan:
    draft = drafts[stage.name]
    loops = _own_loops(stage, draft)
    attached, outer, stored = _attachment(dag, stage, draft, plans)
    plan = StagePlan(
        stage,
        draft.factors,
        loops,
        draft.annotations,
        attached,
        (*outer, *loops),
        stored,
        draft.along,
        draft.scope,
        tuple(draft.packs),
        tuple(draft.limits),
        _accesses(dag, stage),
    )
    _check_annotations(plan)
    _check_packs(dag, plan)
    return plan


def _own_loops(stage: Stage, draft: _Draft) -> tuple[Loop, ...]:
    for axis in draft.factors:
        if axis not in {a.name for a in stage.axes}:
            raise ScheduleError(f"tile of {stage.name!r}: there is no axis {axis!r}")
    loops = {
        loop.name: loop
        for a in stage.axes
        for loop in (
            Loop(stage.name, a.name, level, a.kind)
            for level in range(len(draft.factors.get(a.name, ())) + 1)
        )
    }
    if draft.order is None:
        return tuple(sorted(loops.values(), key=lambda x: x.level))
    if sorted(draft.order) != sorted(loops):
        raise ScheduleError(
            f"reorder of {stage.name!r}: {list(draft.order)} are not its loops {list(loops)}"
        )
    ordered = tuple(loops[name] for name in draft.order)
    for name in (a.name for a in stage.axes):
        levels = [x.level for x in ordered if x.axis == name]
        if levels != sorted(levels):
            raise ScheduleError(f"reorder of {stage.name!r}: levels of {name!r} out of order")
    return ordered


def _attachment(
    dag: ComputeDAG, stage: Stage, draft: _Draft, plans: dict[str, StagePlan]
) -> tuple[tuple[str, int] | None, tuple[Loop, ...], int]:
    """Where a stage is computed, the loops around it, and how many are around its tensor."""
    if draft.at is None:
        if draft.store is not None:
            raise ScheduleError(f"store_at of {stage.name!r}: it is not computed at a loop")
        return None, (), 0
    what = f"compute_at of {stage.name!r}"
    if stage.name in dag.outputs:
        raise ScheduleError(f"{what}: it is an output")
    target, outside = _place(what, draft.at, plans)
    prefix = target.chain[: target.depth + outside]
    stored = _stored(stage, draft.store, prefix, plans)
    for consumer in (plans[name] for name in dag.consumers[stage.name]):
        if consumer.is_inside(prefix):
            continue
        if draft.store is None or not consumer.is_inside(prefix[:stored]):
            loop = draft.at[1] if draft.store is None else draft.store[1]
            raise ScheduleError(f"{what}: consumer {consumer.name!r} is outside {loop!r}")
        if not _runs_after(dag, plans, consumer, prefix):
            raise ScheduleError(f"{what}: consumer {consumer.name!r} runs before {draft.at[1]!r}")
    _check_along(stage, draft, target, [plans[c].chain for c in dag.consumers[stage.name]], prefix)
    return (target.name, outside), prefix, stored


def _check_along(
    stage: Stage,
    draft: _Draft,
    target: StagePlan,
    readers: list[tuple[Loop, ...]],
    prefix: tuple[Loop, ...],
) -> None:
    """Without a reader inside the loops, axes of the target say what is computed there."""
    if not draft.along:
        return
    what = f"store_at of {stage.name!r}"
    if any(chain[: len(prefix)] == prefix for chain in readers):
        raise ScheduleError(f"{what}: a reader says what is computed, so no axes may")
    if not set(draft.along) <= {a.name for a in target.stage.axes}:
        raise ScheduleError(f"{what}: {list(draft.along)} are no axes of {target.name!r}")
    if len(draft.along) != len(stage.spatial):
        raise ScheduleError(f"{what}: {list(draft.along)} is not an axis for every dimension")


def _place(what: str, at: tuple[str, str], plans: dict[str, StagePlan]) -> tuple[StagePlan, int]:
    """The stage that has the loop, and how many of its own loops end with it."""
    target = plans.get(at[0])
    if target is None:
        raise ScheduleError(f"{what}: {at[0]!r} is no later stage")
    names = [loop.name for loop in target.loops]
    if at[1] not in names:
        raise ScheduleError(f"{what}: {at[0]!r} has no loop {at[1]!r}")
    outside = names.index(at[1]) + 1
    if outside < target.parallel:
        raise ScheduleError(f"{what}: loop {at[1]!r} is fused with the next one")
    if any(target.annotations.get(n) in ("vectorize", "unroll") for n in names[:outside]):
        raise ScheduleError(f"{what}: loop {at[1]!r} is inside a vectorized or unrolled loop")
    return target, outside


def _stored(
    stage: Stage,
    store: tuple[str, str] | None,
    prefix: tuple[Loop, ...],
    plans: dict[str, StagePlan],
) -> int:
    """How many of the loops around a stage are around its tensor."""
    if store is None:
        return len(prefix)
    what = f"store_at of {stage.name!r}"
    around: tuple[Loop, ...] = ()
    if store[1]:
        target, outside = _place(what, store, plans)
        around = target.chain[: target.depth + outside]
    if prefix[: len(around)] != around or not (around or prefix[0].stage == store[0]):
        raise ScheduleError(f"{what}: it is not computed inside {store[1]!r} of {store[0]!r}")
    parallel = plans[prefix[0].stage].parallel
    if len(around) < parallel and stage.combiner is not None:
        raise ScheduleError(f"{what}: threads would accumulate in the same place")
    return len(around)


def _runs_after(
    dag: ComputeDAG, plans: dict[str, StagePlan], reader: StagePlan, prefix: tuple[Loop, ...]
) -> bool:
    """Whether ``reader`` runs after the loops ``prefix``, of which it has the first ones only.

    At one place, stages run in the order of the DAG, and the loops of the stage around them last.
    """
    shared = 0
    while reader.chain[shared : shared + 1] == prefix[shared : shared + 1]:
        shared += 1
    around = prefix[shared - 1].stage if shared else ""
    first = prefix[shared].stage
    then = reader.chain[shared].stage if shared < len(reader.chain) else reader.name
    order = [s.name for s in dag.stages]
    return first != around and order.index(then) > order.index(first)


def _check_annotations(plan: StagePlan) -> None:
    by_name = {loop.name: loop for loop in plan.loops}
    for name, kind in plan.annotations.items():
        if name not in by_name:
            raise ScheduleError(f"{kind} of {plan.name!r}: there is no loop {name!r}")
        if by_name[name].kind != SPATIAL and kind in ("parallel", "vectorize"):
            raise ScheduleError(f"{kind} of {plan.name!r}: {name!r} is a reduction")
        if by_name[name].kind == SPATIAL and kind == "prefetch" and plan.attached is None:
            raise ScheduleError(f"{kind} of {plan.name!r}: {name!r} is no reduction")
    leading = [plan.annotations.get(loop.name) for loop in plan.loops[: plan.parallel]]
    if any(kind != "parallel" for kind in leading):
        raise ScheduleError(f"parallel of {plan.name!r}: the loops are not the outermost ones")
    if plan.parallel and plan.attached is not None:
        raise ScheduleError(f"parallel of {plan.name!r}: it is computed inside another stage")
    vector = [name for name, kind in plan.annotations.items() if kind == "vectorize"]
    if vector and (len(vector) > 1 or plan.loops[-1].name != vector[0]):
        raise ScheduleError(f"vectorize of {plan.name!r}: {vector} is not the innermost loop")


def _check_packs(dag: ComputeDAG, plan: StagePlan) -> None:
    for pack in plan.packs:
        what = f"pack for {plan.name!r}"
        if plan.name not in dag.consumers.get(pack.tensor, ()):
            raise ScheduleError(f"{what}: it does not read {pack.tensor!r}")
        source = dag.input_by_name.get(pack.tensor)
        if pack.at is None and source is None:
            raise ScheduleError(f"{what}: {pack.tensor!r} is computed, so it needs a place")
        others = (dag.stage(n) for n in dag.consumers[pack.tensor] if n != plan.name)
        shared = any(not reads_one_place(other, pack.tensor) for other in others)
        if pack.at is None and source is not None and source.constant and shared:
            raise ScheduleError(f"{what}: other stages read {pack.tensor!r} as it was")


def _check_pack_places(plan: StagePlan, plans: dict[str, StagePlan]) -> None:
    """A copy stands around its reader and after its source."""
    places = [(loop.stage, loop.name) for loop in plan.chain]
    for pack in plan.packs:
        if pack.at is None:
            continue
        what = f"pack for {plan.name!r}"
        if pack.at not in places:
            raise ScheduleError(f"{what}: {pack.at} is not around it")
        target = plans[pack.at[0]]
        outside = [loop.name for loop in target.loops].index(pack.at[1]) + 1
        if outside < target.parallel:
            raise ScheduleError(f"{what}: loop {pack.at[1]!r} is fused with the next one")
        kinds = [target.annotations.get(loop.name) for loop in target.loops[:outside]]
        if "vectorize" in kinds:
            raise ScheduleError(f"{what}: loop {pack.at[1]!r} is inside a vectorized loop")
        source = plans.get(pack.tensor)
        around = plan.chain[: places.index(pack.at) + 1]
        if source is not None and source.chain[: source.depth] != around[: source.depth]:
            raise ScheduleError(f"{what}: {pack.tensor!r} is computed further inside")


def _check_limits(dag: ComputeDAG, plans: dict[str, StagePlan]) -> None:
    """A loop ends early only where a mask allows it, and where the loop is a plain one."""
    limits = [limit for plan in plans.values() for limit in plan.limits]
    allowed = masks(dag) if limits else {}
    for limit in limits:
        what = f"limit of {limit.stage!r}"
        mask = allowed.get(limit.stage)
        if mask is None or (limit.axis, limit.row) != (mask.axis, mask.row):
            raise ScheduleError(f"{what}: no mask ends {limit.axis!r} by {limit.row!r}")
        if limit.beyond < mask.beyond:
            raise ScheduleError(f"{what}: {limit.beyond} is less than the mask's {mask.beyond}")
        plan = plans[limit.stage]
        if plan.attached is None:
            raise ScheduleError(f"{what}: it is not computed inside another stage")
        if plan.annotations.get(f"{limit.axis}.0") in ("vectorize", "unroll"):
            raise ScheduleError(f"{what}: the loop of {limit.axis!r} is no plain one")


def _accesses(dag: ComputeDAG, stage: Stage) -> tuple[Access, ...]:
    """The reads of a stage; those that stay in their tensor anyhow need no guard."""
    extents = {a.name: a.extent for a in stage.axes}
    return tuple(
        replace(a, guarded=a.guarded and not _stays_inside(a, dag.shape_of(a.tensor), extents))
        for a in stage_accesses(stage)
    )


def _stays_inside(access: Access, shape: tuple[int, ...], extents: dict[str, int]) -> bool:
    for index, size in zip(access.indices, shape, strict=True):
        if index is None:
            return False
        moves = [c * (extents[name] - 1) for name, c in index.terms]
        low = index.constant + sum(m for m in moves if m < 0)
        high = index.constant + sum(m for m in moves if m > 0)
        if low < 0 or high >= size:
            return False
    return True


def stage_accesses(stage: Stage) -> tuple[Access, ...]:
    """The distinct reads of a stage; a read that also stands unguarded counts as unguarded."""
    guarded: dict[Read, bool] = {}
    _collect(stage.body, frozenset(), guarded)
    return tuple(
        Access(read, tuple(affine(i) for i in read.indices), behind)
        for read, behind in guarded.items()
    )


def read_alike(accesses: Sequence[Access]) -> bool:
    """The reads are affine, and differ by constants alone; there is at least one."""
    terms = {tuple(None if i is None else i.terms for i in a.indices) for a in accesses}
    return len(terms) == 1 and None not in next(iter(terms))


def reads_one_place(stage: Stage, tensor: str) -> bool:
    """No axis moves what ``stage`` reads of ``tensor``."""
    accesses = [a for a in stage_accesses(stage) if a.tensor == tensor]
    return all(i is not None and not i.terms for a in accesses for i in a.indices)


def _collect(expr: Expr, tested: frozenset[str], found: dict[Read, bool]) -> None:
    """``tested``: the axes that conditions around ``expr`` mention.

    A condition on other axes than those of a read cannot keep the read inside its tensor.
    """
    if isinstance(expr, Read):
        found[expr] = found.get(expr, True) and bool(_axes(expr) & tested)
        for index in expr.indices:
            _collect(index, tested, found)
    elif isinstance(expr, Call) and expr.op == "select":
        condition, *sides = expr.args
        _collect(condition, tested, found)
        for side in sides:
            _collect(side, tested | _axes(condition), found)
    elif isinstance(expr, Call):
        for arg in expr.args:
            _collect(arg, tested, found)


def _axes(expr: Expr) -> frozenset[str]:
    return frozenset(node.name for node in walk(expr) if isinstance(node, Axis))
