"""Blocks of rows whose summands come by chunks: what one chunk needs is all that is in the cache.

A block of ``row_blocks.py`` keeps all that its rows are summed from; where these are many, that
leaves the cache. ``rule_chunk`` rewrites such sums so that a chunk of summands needs nothing of
the others; ``rule_chunked_rows`` arranges the loops. Read ``row_blocks.py`` first; separate because
there every stage is computed once for a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod, sqrt

from schedules.chunks import Exponentials, exponentials
from schedules.dag import Stage
from schedules.expr import Axis, Read
from schedules.hardware import Hardware
from schedules.masks import masks
from schedules.sketch import Knob
from schedules.steps import (
    Annotate,
    CacheWrite,
    Chunk,
    ComputeAt,
    Ref,
    Reorder,
    Step,
    StoreAt,
    Tile,
)
from search_space.analysis import (
    axes_of,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
    single_consumer,
)
from search_space.chains import Link, tile_steps
from search_space.draft import Draft
from search_space.factors import waste
from search_space.row_blocks import BLOCK_WASTE, USUAL_BLOCK, block_sizes, placed, read_at
from search_space.tiling import (
    TilePair,
    knob_name,
    lanes_for,
    register_knobs,
    tile_pair,
    vector_steps,
)

# Rows of a block of a good guess: all that is summed comes to the cache once for every block.
USUAL_ROWS = 96
# Chunks are not shorter: their register tiles would have no room.
SHORTEST = 64


def rule_chunk(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Sum exponentials by chunks, or all at once, where a block of rows leaves the cache.

    Where a mask ends the rows, they are left alone: chunks do not end early.
    """
    if len(stage.reduce) != 1 or stage.name in draft.settled:
        return None
    (axis,) = stage.reduce
    block = axis.extent * USUAL_BLOCK * dtype_bytes_of(stage)
    found = exponentials(draft.current, stage, axis.name)
    if found is None or block < hardware.l2_bytes or stage.name in masks(draft.current):
        return None
    length = _length(stage, found)
    if found.powers.spatial[-1].extent < hardware.lanes(dtype_bytes_of(stage)):
        return None
    if not length or found.powers.spatial[-1].name == found.axis or not has_data_reuse(stage):
        return None
    draft = draft.settle(stage.name)
    return draft.rewrite(Chunk(stage.name, axis.name, length), label="chunks"), draft


def _length(stage: Stage, found: Exponentials) -> int:
    """Chunks that are as long as the sums of all of them: less of either is more of the other."""
    (axis,) = stage.reduce
    read = next(r for r in stage.reads() if r.tensor == found.powers.name)
    sums = prod(a.extent for a in stage.spatial if a.name not in axes_of(read))
    wanted = sqrt(axis.extent * sums)
    lengths = [n for n in range(SHORTEST, axis.extent // 2 + 1) if axis.extent % n == 0]
    return max(lengths, key=lambda n: (min(n / wanted, wanted / n), n), default=0)


@dataclass(frozen=True)
class _Chunks:
    """``total`` adds the parts that ``link`` accumulates, one for every value of ``chunk``.

    ``rows``: the axis that blocks of rows cut, of every stage inside a block; ``inside``: the axis
    that counts chunks, of every stage computed chunk by chunk.
    """

    total: Stage
    link: Link
    rows: dict[str, str]
    inside: dict[str, str]

    @property
    def chunk(self) -> str:
        return self.inside[self.link.stage]


def rule_chunked_rows(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """``[blocks of rows: parallel] { [chunks] { their stages; the sum of one } the sums of all }``.

    What a chunk leaves for the sums of all is kept for the block.
    """
    found = _chunks(draft, stage, hardware)
    if found is None:
        return None
    consumers = draft.current.consumers
    kept = {name for name in found.inside if not set(consumers[name]) <= found.inside.keys()}
    draft, block = _outer(draft, stage, found, hardware)
    draft, chunk = _parts(draft, found, block, hardware)
    for inner in draft.pending:
        if inner.name not in found.rows or inner.name in draft.placed:
            continue
        current = draft.current.stage(inner.name)
        if inner.name not in found.inside:
            draft = placed(draft, current, block, block, hardware)
        elif inner.name in kept:
            read = any(name in found.inside for name in draft.current.consumers[inner.name])
            along = () if read else _along(current, found.link)
            draft = _kept(draft, current, chunk, block, along, hardware)
        else:
            single = found.inside[inner.name]
            draft = placed(draft, current, chunk, block, hardware, single)
    return (draft.called("chunked-rows"),)


def _chunks(draft: Draft, stage: Stage, hardware: Hardware) -> _Chunks | None:
    for read in stage.reads():
        total = draft.current.by_name.get(read.tensor)
        if total is None or total.combiner != "sum" or len(total.reduce) != 1:
            continue
        mapping = elementwise_map(total, stage)
        if mapping is None or single_consumer(draft.current, total) is not stage:
            continue
        for part in total.reads():
            consume = draft.current.by_name.get(part.tensor)
            pair = None if consume is None else tile_pair(draft, consume, hardware)
            if pair is not None and pair.rows:
                found = _of_parts(draft, stage, total, mapping, part, pair)
                if found is not None:
                    return found
    return None


def _of_parts(
    draft: Draft, stage: Stage, total: Stage, mapping: dict[str, str], part: Read, pair: TilePair
) -> _Chunks | None:
    link = Link(pair, apart=False)
    own = {
        index.name: axis.name
        for axis, index in zip(pair.consume.spatial, part.indices, strict=True)
        if isinstance(index, Axis)
    }
    theirs = {axis: name for name, axis in own.items()}
    row = pair.axes[max(pair.rows, key=lambda axis: axis.extent).name]
    chunk = own.get(total.reduce[0].name)
    if chunk not in link.outer or theirs.get(row) not in mapping:
        return None
    before = {name: axis for axis, name in pair.axes.items()}
    names = (pair.accumulate.name, link.stage)
    rows = {stage.name: mapping[theirs[row]], total.name: theirs[row]}
    rows |= dict(zip(names, (before[row], row), strict=True))
    inside = dict(zip(names, (before[chunk], chunk), strict=True))
    for candidate in draft.pending:
        readers = draft.current.consumers[candidate.name]
        if candidate.name in rows or not readers or not set(readers) <= rows.keys():
            continue
        axis = read_at(draft, candidate, rows)
        if axis is None or candidate.name in draft.current.outputs:
            continue
        rows[candidate.name] = axis
        counted = read_at(draft, candidate, inside)
        if counted is not None:
            inside[candidate.name] = counted
    alone = len(inside) == len(names)
    return None if alone else _Chunks(total, link, rows, _with_readers(draft, rows, inside))


def _with_readers(draft: Draft, rows: dict[str, str], inside: dict[str, str]) -> dict[str, str]:
    """``inside`` with those who read of it nothing but the same chunk."""
    inside = dict(inside)
    for stage in draft.current.stages:
        reads = [read for read in stage.reads() if read.tensor in rows]
        if stage.name not in rows or not reads or not {r.tensor for r in reads} <= inside.keys():
            continue
        sources = [draft.current.stage(read.tensor) for read in reads]
        counts = {
            read.indices[[a.name for a in source.spatial].index(inside[source.name])]
            for read, source in zip(reads, sources, strict=True)
        }
        same = [a.name for a in stage.spatial if counts == {Axis(a.name)}]
        inside |= {stage.name: same[0]} if same else {}
    return inside


def _outer(
    draft: Draft, stage: Stage, found: _Chunks, hardware: Hardware
) -> tuple[Draft, tuple[str, str]]:
    """``[other axes, blocks of rows: parallel] { } [rows] { sum of all } [vectors]``."""
    row, vector = found.rows[stage.name], stage.spatial[-1]
    lanes = hardware.lanes(dtype_bytes_of(stage))
    extent = stage.axis(row).extent
    twice = {size: waste(extent, min(extent, size)) for size in block_sizes(extent, lanes)}
    sizes = [size for size in twice if twice[size] <= BLOCK_WASTE * min(twice.values())]
    usual = min(range(len(sizes)), key=lambda n: abs(sizes[n] - USUAL_ROWS))
    knob = Knob(f"{stage.name}.{row}", tuple((size,) for size in sizes), stage.name)
    draft = draft.knob(knob, usual)
    others = [f"{a.name}.0" for a in stage.spatial if a.name not in (row, vector.name)]
    blocks = [*others, f"{row}.0"]
    steps: list[Step] = [
        Tile(stage.name, row, (Ref(knob.name),)),
        Tile(stage.name, vector.name, (lanes_for(vector.extent, lanes),)),
        Reorder(stage.name, (*blocks, f"{row}.1", f"{vector.name}.0", f"{vector.name}.1")),
        Annotate(stage.name, tuple(blocks), "parallel"),
        Annotate(stage.name, (f"{vector.name}.1",), "vectorize"),
        ComputeAt(found.total.name, stage.name, f"{row}.1"),
        *vector_steps(found.total, hardware),
    ]
    return draft.loop(*steps).place(stage.name, found.total.name), (stage.name, blocks[-1])


def _parts(
    draft: Draft, found: _Chunks, block: tuple[str, str], hardware: Hardware
) -> tuple[Draft, tuple[str, str]]:
    """``[chunks] { } [columns][tiles of rows] { accumulation }``."""
    link, pair = found.link, found.link.pair
    draft = register_knobs(draft, pair, hardware)
    register = knob_name(pair, "register")
    chunk = f"{found.chunk}.0"
    others = [f"{a}.0" for a in link.outer if a != found.chunk]
    outside = [chunk, *others, f"{link.vector}.0", *(f"{a}.0" for a in link.rows)]
    steps: list[Step] = [ComputeAt(link.stage, *block)]
    steps += [Tile(link.stage, a, (Ref(register, i),)) for i, a in enumerate(link.rows)]
    draft = draft.loop(*steps, *tile_steps(link, outside))
    return draft.place(link.stage, pair.accumulate.name), (link.stage, chunk)


def _along(stage: Stage, link: Link) -> tuple[str, ...]:
    """The axes of the parts that those of ``stage`` go along with: both read something alike."""
    for own, theirs in product(stage.reads(), link.pair.accumulate.reads()):
        if own.tensor == theirs.tensor:
            alike = {
                a.name: link.pair.axes.get(b.name, "")
                for a, b in zip(own.indices, theirs.indices, strict=True)
                if isinstance(a, Axis) and isinstance(b, Axis)
            }
            axes = tuple(alike.get(a.name, "") for a in stage.spatial)
            if all(axes):
                return axes
    return ()


def _kept(
    draft: Draft,
    stage: Stage,
    chunk: tuple[str, str],
    block: tuple[str, str],
    along: tuple[str, ...],
    hardware: Hardware,
) -> Draft:
    """``stage`` computed chunk by chunk, in registers, and a copy of all chunks."""
    draft = draft.rewrite(CacheWrite(stage.name))
    accumulator, copy = (draft.current.stage(n) for n in (f"{stage.name}.acc", stage.name))
    steps = (ComputeAt(copy.name, *chunk), StoreAt(copy.name, *block, along))
    draft = draft.loop(*steps, *vector_steps(copy, hardware)).place(copy.name)
    return placed(draft, accumulator, chunk, block, hardware)
