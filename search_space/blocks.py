"""Blocks around an accumulation that piecewise stages feed and gather: its neighbours in cache.

Read ``piecewise.py`` first. The stage that gathers has the outer loops; inside them the products of
one block are accumulated, with the register tiles of ``tiling.py``, and gathered while they are in
the cache. In the branch ``block`` the data of the block is spread there too; in ``tail`` it was
spread before, and blocks of columns run in parallel as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.dag import Stage
from schedules.expr import Axis
from schedules.hardware import Hardware
from schedules.plan import read_alike, reads_one_place, stage_accesses
from schedules.sketch import Knob
from schedules.steps import Annotate, ComputeAt, Pack, Ref, Reorder, Step, Tile
from search_space.analysis import (
    dtype_bytes_of,
    is_elementwise,
    is_piecewise,
    piecewise_axes,
    single_consumer,
)
from search_space.draft import Draft
from search_space.factors import multiples, unroll_factors
from search_space.tiling import (
    UNROLL_LIMIT,
    TilePair,
    accumulator_steps,
    best_register,
    knob_name,
    lanes_for,
    register_choices,
    tile_pair,
    vector_steps,
)


@dataclass(frozen=True)
class Block:
    """``stage`` gathers (through ``gather``, if two axes are gathered) the products of ``pair``."""

    stage: Stage
    gather: Stage | None
    pair: TilePair
    prefix: tuple[str, ...]  # axes of ``stage`` outside the pieces, outermost first

    @property
    def row(self) -> str:
        """The axis that is cut into blocks: the last one but for the innermost tiles."""
        return self.prefix[-2] if len(self.prefix) > 1 else self.prefix[-1]

    @property
    def columns(self) -> str:
        return self.stage.spatial[-1].name


def block_branches(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...]:
    """The branches ``tail`` and ``block``; none where ``stage`` gathers no accumulation."""
    block = _block(draft, stage, hardware)
    if block is None:
        return ()
    tail = _gathered(draft, block, hardware, spread_inside=False).called("tail")
    spread = piecewise_producer(draft, block.pair.accumulate)
    if spread is None:
        return (tail,)
    inside = _gathered(draft, block, hardware, spread_inside=True).called("block")
    return (tail, _spread(inside, block, spread, hardware))


def _block(draft: Draft, stage: Stage, hardware: Hardware) -> Block | None:
    gather = piecewise_producer(draft, stage)
    prefix = common_prefix(stage, gather)
    last = gather or stage
    for name in dict.fromkeys(read.tensor for read in last.reads()):
        producer = draft.current.by_name.get(name)
        if producer is None or single_consumer(draft.current, producer) is not last:
            continue
        pair = tile_pair(draft, producer, hardware)
        if pair is not None and prefix and pair.rows:
            return Block(stage, gather, pair, tuple(prefix))
    return None


def _gathered(draft: Draft, block: Block, hardware: Hardware, spread_inside: bool) -> Draft:
    """``stage`` by blocks of rows and columns; what it gathers is computed inside them."""
    stage, row, columns = block.stage, block.row, block.columns
    lanes = lanes_for(stage.spatial[-1].extent, hardware.lanes(dtype_bytes_of(stage)))
    names = [f"{stage.name}.{what}" for what in ("rows", "columns")]
    extents = (stage.axis(row).extent, -(-stage.spatial[-1].extent // lanes))
    for name, extent in zip(names, extents, strict=True):
        draft = draft.knob(Knob(name, multiples(extent), stage.name), 1)
    own = piecewise_axes(stage)
    pieces = [f"{a.name}.0" for a in stage.spatial if a.name in own]
    outer = [f"{a}.0" for a in block.prefix[: block.prefix.index(row) + 1]]
    inner = [f"{row}.1", *(f"{a}.0" for a in block.prefix[block.prefix.index(row) + 1 :])]
    known = {*block.prefix, *own, columns}
    rest = [f"{a.name}.0" for a in stage.spatial if a.name not in known]
    blocks = [*outer, f"{columns}.0"] if spread_inside else [f"{columns}.0", *outer]
    parallel = outer if spread_inside else blocks
    steps: list[Step] = [
        Tile(stage.name, row, (Ref(names[0]),)),
        Tile(stage.name, columns, (Ref(names[1]), lanes)),
        Reorder(stage.name, (*blocks, *inner, *rest, f"{columns}.1", *pieces, f"{columns}.2")),
        Annotate(stage.name, tuple(parallel), "parallel"),
        Annotate(stage.name, tuple(pieces), "unroll"),
        Annotate(stage.name, (f"{columns}.2",), "vectorize"),
    ]
    draft = draft.loop(*steps).place(stage.name)
    if block.gather is not None:
        at = ComputeAt(block.gather.name, stage.name, inner[-1])
        nest = piecewise_nest(block.gather, [], hardware)
        draft = draft.loop(at, *nest).place(block.gather.name)
    return _products(draft, block, blocks[-1], hardware)


def _products(draft: Draft, block: Block, at: str, hardware: Hardware) -> Draft:
    """The accumulation inside a block: points, columns, rows, then the register tile."""
    pair = block.pair
    consume, accumulate = pair.consume, pair.accumulate
    rows, tiles = tuple(a.extent for a in pair.rows), register_choices(pair, hardware)
    register = knob_name(pair, "register")
    draft = draft.knob(Knob(register, tiles, consume.name), best_register(tiles, pair, rows))
    extents = tuple(a.extent for a in accumulate.reduce)
    unroll = Knob(knob_name(pair, "unroll"), unroll_factors(extents, UNROLL_LIMIT), consume.name)
    draft = draft.knob(unroll, 0)
    vector = pair.axes[pair.vector.name]
    row_axes = [pair.axes[a.name] for a in pair.rows]
    others = [a.name for a in consume.axes if a.name not in (vector, *row_axes)]
    outside = [*(f"{a}.0" for a in others), f"{vector}.0", *(f"{a}.0" for a in row_axes)]
    inner = [*(f"{a}.1" for a in row_axes), f"{vector}.1"]
    steps: list[Step] = [
        ComputeAt(consume.name, block.stage.name, at),
        *(Tile(consume.name, a, (Ref(register, i),)) for i, a in enumerate(row_axes)),
        Tile(consume.name, vector, (Ref(register, len(row_axes)), pair.lanes)),
        Reorder(consume.name, (*outside, *inner, f"{vector}.2")),
        ComputeAt(accumulate.name, consume.name, outside[-1]),
        Annotate(consume.name, tuple(inner), "unroll"),
        Annotate(consume.name, (f"{vector}.2",), "vectorize"),
        *accumulator_steps(pair),
    ]
    draft = draft.loop(*steps).place(consume.name, accumulate.name)
    return draft.loop(*_constant_packs(draft, accumulate))


def _constant_packs(draft: Draft, accumulate: Stage) -> list[Step]:
    """Of constants that are read in one way, and at one place by others."""
    dag, packs = draft.current, list[Step]()
    for access in stage_accesses(accumulate):
        name = access.tensor
        alike = [a for a in stage_accesses(accumulate) if a.tensor == name]
        source = dag.input_by_name.get(name)
        if source is None or not source.constant or access != alike[0] or not read_alike(alike):
            continue
        others = (dag.stage(n) for n in dag.consumers[name] if n != accumulate.name)
        if all(reads_one_place(other, name) for other in others):
            packs.append(Pack(accumulate.name, name))
    return packs


def _spread(draft: Draft, block: Block, spread: Stage, hardware: Hardware) -> Draft:
    """All that leads to the accumulation, per block of rows."""
    at = f"{block.row}.0"
    first = piecewise_producer(draft, spread)
    prefix = common_prefix(spread, first)
    nest = piecewise_nest(spread, prefix, hardware)
    draft = draft.loop(ComputeAt(spread.name, block.stage.name, at), *nest).place(spread.name)
    if first is not None and prefix:
        where = ComputeAt(first.name, spread.name, f"{prefix[-1]}.0")
        draft = draft.loop(where, *piecewise_nest(first, [], hardware)).place(first.name)
        spread = first
    for name in dict.fromkeys(read.tensor for read in spread.reads()):
        producer = draft.current.by_name.get(name)
        if producer is None or not is_elementwise(producer) or name in draft.placed:
            continue
        if single_consumer(draft.current, producer) is spread:
            where = ComputeAt(name, block.stage.name, at)
            draft = draft.loop(where, *vector_steps(producer, hardware)).place(name)
    return draft


def piecewise_producer(draft: Draft, stage: Stage) -> Stage | None:
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        producer = draft.current.by_name.get(name)
        if producer is None or not is_piecewise(producer) or name in draft.placed:
            continue
        if single_consumer(draft.current, producer) is stage:
            return producer
    return None


def common_prefix(stage: Stage, producer: Stage | None) -> list[str]:
    """Axes outside the vectors and pieces that select one slice of the producer."""
    own = piecewise_axes(stage)
    free = [a.name for a in stage.spatial[:-1] if a.name not in own]
    if producer is None:
        return free
    theirs = piecewise_axes(producer)
    wanted = set(free)
    for access in stage_accesses(stage):
        if access.tensor == producer.name:
            direct = {
                index.name
                for axis, index in zip(producer.spatial, access.read.indices, strict=True)
                if isinstance(index, Axis) and axis.name not in theirs
            }
            wanted &= direct
    return [a for a in free if a in wanted]


def piecewise_nest(stage: Stage, prefix: list[str], hardware: Hardware) -> list[Step]:
    """``[prefix][rest][vector.0][pieces, unrolled][lanes]``."""
    own = piecewise_axes(stage)
    vector = stage.spatial[-1]
    lanes = lanes_for(vector.extent, hardware.lanes(dtype_bytes_of(stage)))
    pieces = [f"{a.name}.0" for a in stage.spatial if a.name in own]
    rest = [a.name for a in stage.spatial[:-1] if a.name not in own and a.name not in prefix]
    outer = [f"{name}.0" for name in (*prefix, *rest)]
    return [
        Tile(stage.name, vector.name, (lanes,)),
        Reorder(stage.name, (*outer, f"{vector.name}.0", *pieces, f"{vector.name}.1")),
        Annotate(stage.name, tuple(pieces), "unroll"),
        Annotate(stage.name, (f"{vector.name}.1",), "vectorize"),
    ]
