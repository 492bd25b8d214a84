"""Rows that are computed where the output stands, and rewritten there: one buffer less.

``powers[i, j] = exp(x[i, j]); y[i, j] = powers[i, j] / total[i]``, row by row: stored into ``y``,
the powers need no lines of the cache of their own, and the lines of ``y`` are on their way from
memory while the powers are computed. Separate because this reads a followed nest only.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from schedules.expr import Axis
from schedules.footprint import dtype_bytes
from schedules.hardware import Hardware
from schedules.lower.linear import Positions
from schedules.plan import Plan, StagePlan


def stored_in_place(
    plan: Plan, positions: Positions, outputs: Mapping[str, tuple[int, ...]], hardware: Hardware
) -> dict[str, str]:
    """Computed-at stage -> the output whose memory holds it, of the same region and indices.

    ``outputs``: their shapes. What fits the vector registers stays there, and what does not fit
    the nearest cache is better off in memory that is used again and again.
    """
    registers = hardware.vector_bytes * hardware.vector_registers
    found: dict[str, str] = {}
    for target in plan.stages:
        if outputs.get(target.name) != target.stage.shape or not _writes_once(target, positions):
            continue
        for access in target.accesses:
            source = plan.by_name.get(access.tensor)
            if source is None or target.name in found.values():
                continue
            if not access.guarded and _is_same_element(access.read.indices, target):
                fits = registers < _bytes(source, positions) <= hardware.l1_bytes
                if fits and _precedes(plan, source, target, positions):
                    found[source.name] = target.name
    return found


def _writes_once(target: StagePlan, positions: Positions) -> bool:
    """Every element is written by one iteration: shifted tiles would rewrite what is rewritten."""
    plain = target.attached is None and target.stage.combiner is None and not target.limits
    return plain and not any(positions.is_ragged(loop) for loop in target.loops)


def _is_same_element(indices: tuple[object, ...], target: StagePlan) -> bool:
    return indices == tuple(Axis(a.name) for a in target.stage.spatial)


def _precedes(plan: Plan, source: StagePlan, target: StagePlan, positions: Positions) -> bool:
    """Whether the region of ``source`` is the block of ``target`` that is written after it.

    All other readers have to be through by then: they are computed at the same loop.
    """
    at = source.attached
    if at is None or at[0] != target.name or source.stage.combiner is not None or source.limits:
        return False
    if source.stored != source.depth or source.stage.dtype != target.stage.dtype:
        return False
    if source.name in plan.dag.outputs or sum(a.tensor == source.name for a in target.accesses) > 1:
        return False
    readers = [plan.by_name[name] for name in plan.dag.consumers[source.name]]
    if any(reader is not target and reader.attached != at for reader in readers):
        return False
    inside = target.loops[at[1] :]
    block = [
        prod(positions.extent(x) for x in inside if x.axis == a.name) for a in target.stage.spatial
    ]
    return block == _region(source, positions)


def _region(source: StagePlan, positions: Positions) -> list[int]:
    return [int(size[0]) for size in positions.follower.stored_shape(source.name)]


def _bytes(source: StagePlan, positions: Positions) -> int:
    return dtype_bytes(source.stage.dtype) * prod(_region(source, positions))
