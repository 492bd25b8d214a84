"""Blocks of rows whose summands come by chunks: what one chunk needs is all that is in the cache.

A block of ``row_blocks.py`` keeps all that its rows are summed from; where these are many, that
leaves the cache. ``rule_chunk`` rewrites such sums so that a chunk of summands needs nothing of
the others; ``rule_chunked_rows`` arranges the loops. Read ``row_blocks.py`` first; separate because
there every stage is computed once for a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

from schedules.chunks import Exponentials, exponentials
from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.masks import masks
from schedules.sketch import Knob
from schedules.steps import (
    Annotate,
    Chunk,
    ComputeAt,
    Ref,
    Reorder,
    Step,
    Tile,
)
from search_space.along import Along, inside_blocks
from search_space.analysis import (
    axes_of,
    dtype_bytes_of,
    has_data_reuse,
)
from search_space.chains import Link, tile_steps
from search_space.draft import Draft
from search_space.factors import waste
from search_space.parts import Parts, kept, summed_parts
from search_space.row_blocks import BLOCK_WASTE, USUAL_BLOCK, block_sizes, placed
from search_space.tiling import (
    knob_name,
    lanes_for,
    register_knobs,
    vector_steps,
)

# Rows of a block of a good guess: all that is summed comes to the cache once for every block.
USUAL_ROWS = 192
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
    length = _length(stage, found, hardware)
    if found.powers.spatial[-1].extent < hardware.lanes(dtype_bytes_of(stage)):
        return None
    if not length or found.powers.spatial[-1].name == found.axis or not has_data_reuse(stage):
        return None
    draft = draft.settle(stage.name)
    return draft.rewrite(Chunk(stage.name, axis.name, length), label="chunks"), draft


def _length(stage: Stage, found: Exponentials, hardware: Hardware) -> int:
    """Chunks that are as long as the sums of all of them: less of either is more of the other.

    What the rows of a block need of one takes about half of the cache at most.
    """
    (axis,) = stage.reduce
    read = next(r for r in stage.reads() if r.tensor == found.powers.name)
    sums = prod(a.extent for a in stage.spatial if a.name not in axes_of(read))
    most = hardware.l2_bytes // (2 * USUAL_ROWS * dtype_bytes_of(stage))
    wanted = min(sqrt(axis.extent * sums), most)
    lengths = [n for n in range(SHORTEST, axis.extent // 2 + 1) if axis.extent % n == 0]
    return max(lengths, key=lambda n: (min(n / wanted, wanted / n), n), default=0)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """``total`` adds the parts that ``link`` accumulates, one for every value of ``chunk``.

    ``rows``: the axis that blocks of rows cut, of every stage inside a block; ``inside``: the axes
    that go along with axes of the parts, of every stage computed chunk by chunk.
    """

    total: Stage
    link: Link
    chunk: str
    rows: dict[str, str]
    inside: Along


def rule_chunked_rows(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """``[blocks of rows: parallel] { [chunks] { their stages; the sum of one } the sums of all }``.

    What a chunk leaves for the sums of all is kept for the block.
    """
    found = _chunks(draft, stage, hardware)
    if found is None:
        return None
    consumers = draft.current.consumers
    summed = {name for name in found.inside if not set(consumers[name]) <= found.inside.keys()}
    draft, block = _outer(draft, stage, found, hardware)
    draft, chunk = _parts(draft, found, block, hardware)
    for inner in draft.pending:
        if inner.name not in found.rows or inner.name in draft.placed:
            continue
        current = draft.current.stage(inner.name)
        if inner.name not in found.inside:
            draft = placed(draft, current, block, block, hardware)
        elif inner.name in summed:
            draft = kept(draft, current, chunk, block, found.inside)
            draft = draft.loop(*vector_steps(draft.current.stage(inner.name), hardware))
            accumulator = draft.current.stage(f"{inner.name}.acc")
            draft = placed(draft, accumulator, chunk, block, hardware)
        else:
            axes = found.inside[inner.name].items()
            single = next(own for own, axis in axes if axis == found.chunk)
            draft = placed(draft, current, chunk, block, hardware, single)
            draft = _tile_by_tile(draft, inner)
    return (draft.called("chunked-rows"),)


def _tile_by_tile(draft: Draft, stage: Stage) -> Draft:
    """A good guess has panels of one register tile: blocks of rows seldom hold several of them."""
    name = f"{stage.name}.columns"
    knob = next((k for k in draft.knobs if k.name == name), None)
    return draft if knob is None else draft.narrowed(knob, 0)


def _chunks(draft: Draft, stage: Stage, hardware: Hardware) -> _Chunks | None:
    for parts in summed_parts(draft, stage, hardware):
        found = _of_parts(draft, stage, parts)
        if found is not None:
            return found
    return None


def _of_parts(draft: Draft, stage: Stage, parts: Parts) -> _Chunks | None:
    total, pair, link = parts.total, parts.pair, Link(parts.pair, apart=False)
    if not pair.rows or parts.chunk not in link.outer:
        return None
    own = max(pair.rows, key=lambda axis: axis.extent).name
    row = parts.places.get(pair.axes[own], "")
    if row not in parts.taken:
        return None
    names = (stage.name, total.name, link.stage, pair.accumulate.name)
    axes = (parts.taken[row], row, pair.axes[own], own)
    rows = inside_blocks(draft, dict(zip(names, axes, strict=True)))
    inside = parts.inside(draft, rows)
    alone = inside.keys() <= {link.stage, pair.accumulate.name}
    return None if alone else _Chunks(total, link, parts.chunk, rows, inside)


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
