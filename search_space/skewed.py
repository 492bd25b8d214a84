"""Rows whose stages run in one loop, one row apart: another nest for what ``rows.py`` fuses.

Where rows are in the cache, the units of a processor wait for each other: one walk along a row
only compares, the next one only multiplies, the last one only stores. See
``schedules/skewed_rows.py``. Separate from ``rows.py`` because here all stages take equal steps.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from schedules.dag import Stage
from schedules.errors import ScheduleError
from schedules.footprint import dtype_bytes
from schedules.hardware import Hardware
from schedules.nest import Follower
from schedules.sketch import Knob
from schedules.skewed_rows import SKEW, skewed_rows
from schedules.steps import Annotate, ComputeAt, Ref, Reorder, Scope, Step, Tile
from search_space.analysis import dtype_bytes_of
from search_space.draft import Draft
from search_space.tiling import vector_steps

# Blocks of rows for every thread: the first and the last rows of a block run beside nothing.
BLOCKS = (1, 2, 4, 8, 16, 32, 64)
USUAL_BLOCKS = 2
FEWEST_ROWS = 4
# Rows of a producer up to this size need no allocator: asking it takes as long as a short row.
LOCAL_BYTES = 4096


def skewed_rows_nest(
    draft: Draft, stage: Stage, hardware: Hardware, prefix: tuple[str, ...], group: Collection[str]
) -> tuple[Draft, ...]:
    """The nest of ``stage`` and of ``group`` in skewed rows along ``prefix[-1]``, where they can.

    ``[rows.0 parallel] [rows.1 skew]: [step] [vectors unrolled][lanes]`` for every stage.
    """
    members = [draft.current.stage(name) for name in group]
    step = _step(members, stage, hardware) if _in_cache(draft, stage, members, hardware) else 0
    rows = _rows(stage, prefix, hardware)
    if not step or not rows:
        return ()
    lanes = hardware.lanes(dtype_bytes_of(stage))
    row, column = prefix[-1], stage.spatial[-1].name
    knob = Knob(f"{stage.name}.skewed", rows, stage.name)
    blocks = [f"{name}.0" for name in prefix]
    tile = [f"{column}.{level}" for level in range(3)]
    skewed = draft.place(stage.name, *group).knob(knob, USUAL_BLOCKS)
    skewed = skewed.loop(
        Tile(stage.name, row, (Ref(knob.name),)),
        Tile(stage.name, column, (step // lanes, lanes)),
        Reorder(stage.name, (*blocks, f"{row}.1", *tile)),
        Annotate(stage.name, tuple(blocks), "parallel"),
        Annotate(stage.name, (f"{row}.1",), SKEW),
        Annotate(stage.name, (tile[1],), "unroll"),
        Annotate(stage.name, (tile[2],), "vectorize"),
    )
    for member in reversed(draft.current.stages):
        if member.name in group:
            at = ComputeAt(member.name, stage.name, f"{row}.1")
            skewed = skewed.loop(at, *_member_steps(member, step, hardware))
            count = prod(stage.axis(name).extent for name in prefix)
            if prod(member.shape) // count * dtype_bytes_of(member) <= LOCAL_BYTES:
                skewed = skewed.loop(Scope(member.name, "local"))
    return (skewed.called("rows-skewed"),) if _is_possible(skewed, stage, row) else ()


def _in_cache(draft: Draft, stage: Stage, members: list[Stage], hardware: Hardware) -> bool:
    """Elsewhere all units wait for memory, and rows far apart are what it fetches worst."""
    read = {r.tensor for s in (*members, stage) for r in s.reads()}
    inputs = [t for t in draft.dag.inputs if t.name in read]
    total = sum(prod(t.shape) * dtype_bytes(t.dtype) for t in inputs)
    return total + prod(stage.shape) * dtype_bytes(stage.dtype) <= hardware.l3_bytes


def _is_possible(draft: Draft, stage: Stage, row: str) -> bool:
    sketch = draft.sketch()
    try:
        follower = Follower(sketch, draft.default_row()[None, :])
        target = follower.plan.by_name[stage.name]
        position = [loop.name for loop in target.loops].index(f"{row}.1")
        skewed_rows(follower, target, position)
    except ScheduleError:
        return False
    return True


def _step(members: list[Stage], stage: Stage, hardware: Hardware) -> int:
    """Elements of a row that all stages compute at a time; 0 if they differ.

    The lanes of the sums decide.
    """
    lanes = {m.spatial[-1].extent for m in members if m.name.endswith(".lanes")}
    if len(lanes) != 1 or len(stage.spatial) < 2 or stage.combiner is not None:
        return 0
    (step,) = lanes
    whole = step % hardware.lanes(dtype_bytes_of(stage)) == 0
    return step if whole and stage.spatial[-1].extent % step == 0 else 0


def _rows(stage: Stage, prefix: tuple[str, ...], hardware: Hardware) -> tuple[tuple[int, ...], ...]:
    """Rows of a block, the most first: so many that blocks end together on all threads."""
    extent = stage.axis(prefix[-1]).extent
    others = prod(stage.axis(name).extent for name in prefix[:-1])
    counts = (-(-n * hardware.threads // others) for n in BLOCKS)
    sizes = dict.fromkeys(-(-extent // min(n, extent)) for n in counts)
    return tuple((r,) for r in sizes if r >= FEWEST_ROWS and (extent % r or r) >= FEWEST_ROWS)


def _member_steps(member: Stage, step: int, hardware: Hardware) -> list[Step]:
    if member.name.endswith(".lanes"):
        return vector_steps(member, hardware)
    if member.combiner is not None or member.spatial[-1].extent < step:
        return []
    lanes = hardware.lanes(dtype_bytes_of(member))
    column = member.spatial[-1].name
    outer = [f"{a.name}.0" for a in member.spatial]
    return [
        Tile(member.name, column, (step // lanes, lanes)),
        Reorder(member.name, (*outer, f"{column}.1", f"{column}.2")),
        Annotate(member.name, (f"{column}.1",), "unroll"),
        Annotate(member.name, (f"{column}.2",), "vectorize"),
    ]
