"""Which knobs reach a statement: its loops, regions and footprints depend on no others.

Read ``nest.py`` first. In a program of many stages most depend on few knobs, or on none; whoever
follows a sketch again and again need not follow those for every candidate.
"""

from __future__ import annotations

from functools import cache

from schedules.plan import Plan, StagePlan
from schedules.steps import Ref


def knobs_of(plan: Plan) -> dict[str, frozenset[str]]:
    """Per stage the names of the knobs that its nest, with those of its packs, depends on."""

    @cache
    def spans(name: str, depth: int) -> frozenset[str]:
        """Knobs that decide how far a stage reaches inside its first ``depth`` loops."""
        stage = plan.by_name[name]
        own = _own(stage) if depth > stage.depth else frozenset()
        return own | region(name, min(depth, stage.depth))

    @cache
    def region(name: str, depth: int) -> frozenset[str]:
        """Knobs that decide how much of a stage is needed there; all of it when it has no place."""
        stage = plan.by_name.get(name)
        if stage is None or stage.attached is None:
            return frozenset()
        readers = (*plan.dag.consumers[name], *((stage.attached[0],) if stage.along else ()))
        return frozenset().union(*(spans(c, depth) for c in readers))

    @cache
    def chain(name: str) -> frozenset[str]:
        stage = plan.by_name[name]
        around = frozenset() if stage.attached is None else chain(stage.attached[0])
        return _own(stage) | region(name, stage.depth) | around

    def nest(stage: StagePlan) -> frozenset[str]:
        read = _attached_reads(plan, stage)
        return chain(stage.name).union(*(region(p.name, p.depth) for p in read))

    return {stage.name: nest(stage) for stage in plan.stages}


def needed(plan: Plan, names: frozenset[str]) -> frozenset[str]:
    """The stages that must be followed to get the nests of ``names``, with those themselves."""
    found: set[str] = set()
    waiting = [p.name for name in names for p in _attached_reads(plan, plan.by_name[name])]
    waiting += names
    while waiting:
        name = waiting.pop()
        attached = plan.by_name[name].attached
        if name not in found and attached is not None:
            waiting += (attached[0], *plan.dag.consumers[name])
        found.add(name)
    return frozenset(found)


def _own(stage: StagePlan) -> frozenset[str]:
    numbers = (number for factors in stage.factors.values() for number in factors)
    return frozenset(number.knob for number in numbers if isinstance(number, Ref))


def _attached_reads(plan: Plan, stage: StagePlan) -> list[StagePlan]:
    """The stages that ``stage`` reads and that are computed inside another one."""
    read = {access.tensor for access in stage.accesses}
    return [plan.by_name[n] for n in sorted(read) if n in plan.by_name and plan.by_name[n].attached]
