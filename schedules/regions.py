"""Regions: what is computed of a stage inside another one, and what of it is stored.

``nest.py`` finds them; read it first. ``StoreAt`` lets readers run after the loops between storage
and computation: what they read must have been computed by then, which follows from the regions.
Separate because this decides whether a schedule is legal, not what it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from schedules.dag import SPATIAL
from schedules.errors import ScheduleError
from schedules.footprint import Ints
from schedules.plan import Access, Loop, StagePlan

if TYPE_CHECKING:
    from schedules.nest import Follower

Terms: TypeAlias = dict[Loop, int]


@dataclass(frozen=True)
class Region:
    """Where one dimension of a computed-at stage starts and how much of it is needed.

    The start is ``constant + sum(coefficient * start of (stage, axis))``; ``extent [N, p + 1]`` is
    the extent needed at every depth up to the attach point. A ``clamped`` start is kept inside the
    tensor because a guarded read may ask for more.
    """

    terms: tuple[tuple[tuple[str, str], int], ...]
    constant: int
    extent: Ints
    clamped: bool


def check_stored(
    follower: Follower,
    plan: StagePlan,
    regions: Sequence[Region],
) -> None:
    """Refuse storage that is filled with gaps, or less of it than those read who run afterwards.

    ``regions`` are those of ``plan``, one per dimension. Raises :class:`ScheduleError`.
    """
    if plan.stored == plan.depth:
        return
    readers = [follower.plan.by_name[name] for name in follower.plan.dag.consumers[plan.name]]
    after = [r for r in readers if not r.is_inside(plan.chain[: plan.depth])]
    outside = [(r, a) for r in after for a in r.accesses if a.tensor == plan.name]
    what = f"store_at of {plan.name!r}"
    for dimension, region in enumerate(regions):
        if region.clamped or _start(follower, plan, region) is None:
            raise ScheduleError(f"{what}: a condition moves what is computed of it")
        if _has_gaps(follower, plan, region):
            raise ScheduleError(f"{what}: the iterations leave gaps between them")
        if np.all(region.extent[:, -1] == plan.stage.shape[dimension]):
            continue
        for reader, access in outside:
            if not _is_inside(follower, plan, region, reader, access, dimension):
                raise ScheduleError(f"{what}: {reader.name!r} reads more than is computed")


def _has_gaps(follower: Follower, plan: StagePlan, region: Region) -> bool:
    """Some loop inside the storage moves the region by more than it covers further inside."""
    for d in range(plan.stored, plan.depth):
        step = np.zeros(follower.n, dtype=np.int64)
        for (stage, axis), coefficient in region.terms:
            step = step + coefficient * follower.influence[stage][axis][:, d]
        if np.any(step > region.extent[:, d + 1]):
            return True
    return False


def _is_inside(
    follower: Follower,
    plan: StagePlan,
    region: Region,
    reader: StagePlan,
    access: Access,
    dimension: int,
) -> bool:
    """What ``reader`` wants of a dimension moves with the storage and lies in it."""
    index = access.indices[dimension]
    if index is None or access.guarded or any(c < 0 for _, c in index.terms):
        return False
    terms = [(reader.name, axis, c) for axis, c in index.terms]
    theirs = _expanded(follower, plan, terms, index.constant)
    ours = _start(follower, plan, region)
    if theirs is None or ours is None or theirs[0] != ours[0]:
        return False
    end = np.full(follower.n, theirs[1] + 1, dtype=np.int64)
    for axis, coefficient in index.terms:
        end = end + coefficient * (follower.spans[reader.name][axis][:, plan.stored] - 1)
    stored = region.extent[:, plan.stored]
    return theirs[1] >= ours[1] and bool(np.all(end <= ours[1] + stored))


def _start(follower: Follower, plan: StagePlan, region: Region) -> tuple[Terms, int] | None:
    terms = [(stage, axis, c) for (stage, axis), c in region.terms]
    return _expanded(follower, plan, terms, region.constant)


def _expanded(
    follower: Follower, plan: StagePlan, terms: Iterable[tuple[str, str, int]], constant: int
) -> tuple[Terms, int] | None:
    """A sum of starts as one of loops around the storage.

    ``None`` when some start is kept inside a tensor.
    """
    around = plan.chain[: plan.stored]
    total: Terms = {}
    pending = list(terms)
    while pending:
        stage, axis, coefficient = pending.pop()
        owner = follower.plan.by_name[stage]
        for loop in owner.loops:
            if loop.axis == axis and loop in around:
                total[loop] = total.get(loop, 0) + coefficient
        if owner.stage.axis(axis).kind == SPATIAL and owner.attached is not None:
            dimension = [a.name for a in owner.stage.spatial].index(axis)
            region = follower.regions[stage][dimension]
            if region.clamped:
                return None
            constant += coefficient * region.constant
            pending += [(s, a, c * coefficient) for (s, a), c in region.terms]
    return {loop: c for loop, c in total.items() if c}, constant
