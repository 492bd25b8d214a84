"""Blocks of rows around an accumulation that consumes reductions of another one: all in cache.

``y[i, d] = sum_j f(x[i, j], max_j x[i, j], ...) * v[j, d]``, ``x[i, j] = sum_k q[i, k] p[j, k]``,
is computed by blocks of ``i``: all of ``x`` that a block needs stays in the cache, and nothing of
the size of ``x`` goes to memory. ``rule_divide_late`` brings the program into that form, the rows
in the vector lanes, so that reductions add whole vectors; ``rule_row_blocks`` arranges the loops.
Read ``chains.py`` first; separate because there nothing stands between two accumulations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from schedules.dag import IterAxis, Stage
from schedules.expr import Axis, Read
from schedules.hardware import Hardware
from schedules.late_division import shares
from schedules.masks import masks
from schedules.plan import stage_accesses
from schedules.sketch import Knob
from schedules.steps import (
    Annotate,
    ComputeAt,
    CopyRead,
    DivideLate,
    Limit,
    Permute,
    Ref,
    Reorder,
    Scope,
    Step,
    Tile,
)
from search_space.along import inside_blocks
from search_space.analysis import (
    axes_of,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
    is_contiguous_along,
    is_elementwise,
    is_piecewise,
    moves_with,
)
from search_space.chains import Link, inside_link, tile_steps
from search_space.draft import Draft
from search_space.factors import waste
from search_space.tiling import (
    TilePair,
    knob_name,
    lanes_for,
    other_accumulations,
    register_knobs,
    tile_pair,
    vector_steps,
)

# Vectors of rows that a reduction keeps in registers: enough to hide the latency of an addition.
REDUCED_VECTORS = 4
# Vectors of rows in a block, and how much more than the extent blocks may cover.
BLOCK_VECTORS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
BLOCK_WASTE = 1.2
USUAL_BLOCK = 32


def rule_divide_late(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Divide after the sum, and let the rows of what is summed lie next to each other."""
    if shares(draft.current, stage) is None:
        return None
    late = draft.rewrite(DivideLate(stage.name))
    summed = late.current.stage(f"{stage.name}.undivided")
    return (_rows_in_lanes(late, summed, hardware),)


def _rows_in_lanes(draft: Draft, summed: Stage, hardware: Hardware) -> Draft:
    """The rows innermost in all that leads to the summands, back to an accumulation."""
    lanes = hardware.lanes(dtype_bytes_of(summed))
    for read in summed.reads():
        source = draft.current.by_name.get(read.tensor)
        if source is None or not is_elementwise(source):
            continue
        row = _row_axis(summed, source, read)
        if row is not None and row.extent >= lanes:
            return _permuted(draft, source, row.name)
    return draft


def _row_axis(summed: Stage, source: Stage, read: Read) -> IterAxis | None:
    """The longest axis of ``source`` that other operands of ``summed`` do not have."""
    others = {a for r in summed.reads() if r != read for a in axes_of(r)}
    own = [
        axis
        for axis, index in zip(source.spatial, read.indices, strict=True)
        if isinstance(index, Axis) and index.name not in others
    ]
    reduced = {a.name for a in summed.reduce}
    if not reduced & axes_of(read):
        return None
    return max(own, key=lambda axis: axis.extent, default=None)


def _permuted(draft: Draft, stage: Stage, row: str) -> Draft:
    if stage.name in draft.current.outputs:
        return draft
    order = (*(a.name for a in stage.spatial if a.name != row), row)
    if has_data_reuse(stage) or is_elementwise(stage):
        draft = draft.rewrite(Permute(stage.name, order))
    if has_data_reuse(stage):
        return draft
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        producer = draft.current.by_name.get(name)
        mapping = None if producer is None else elementwise_map(producer, stage)
        if producer is None or mapping is None:
            continue
        rows = [own for own, theirs in mapping.items() if theirs == row]
        if rows and producer.spatial[-1].name != rows[0]:
            draft = _permuted(draft, draft.current.stage(name), rows[0])
    return draft


@dataclass(frozen=True)
class _Block:
    """``link`` has the outer loops; ``rows``: the axis of every stage inside that they cut.

    ``unit``: blocks are multiples of so many rows, which fill vectors.
    """

    link: Link
    row: str
    rows: dict[str, str]
    unit: int


def rule_row_blocks(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Compute all that leads to an accumulation by blocks of its rows, reductions included."""
    block = _block(draft, stage, hardware)
    if block is None:
        return None
    draft, place = _outer(draft, block, hardware)
    for inner in draft.pending:
        if inner.name in block.rows and inner.name not in draft.placed:
            draft = placed(draft, draft.current.stage(inner.name), place, place, hardware)
    limits = [
        Limit(name, mask.axis, mask.row, mask.beyond)
        for name, mask in masks(draft.current).items()
        if block.rows.get(name) == mask.row and name != stage.name
    ]
    return (draft.loop(*limits).called("row-blocks"),)


def _block(draft: Draft, stage: Stage, hardware: Hardware) -> _Block | None:
    pair = tile_pair(draft, stage, hardware)
    if pair is None or not pair.rows or other_accumulations(draft, pair):
        return None
    row = max(pair.rows, key=lambda axis: axis.extent).name
    rows = inside_blocks(draft, {pair.accumulate.name: row, stage.name: pair.axes[row]})
    inside = [draft.current.stage(n) for n in rows if n not in (pair.accumulate.name, stage.name)]
    reduces = any(s.combiner is not None and not has_data_reuse(s) for s in inside)
    products = [s for s in inside if has_data_reuse(s)]
    vectors = all(s.spatial[-1].name == rows[s.name] or _in_vectors(s) for s in products)
    long = prod(axis.extent for axis in pair.rows) >= pair.lanes
    if not (reduces and products and vectors and long) or any(map(is_piecewise, inside)):
        return None
    in_lanes = any(s.spatial[-1].name == rows[s.name] for s in inside)
    others = prod(axis.extent for axis in pair.rows if axis.name != row)
    unit = pair.lanes if in_lanes else max(1, pair.lanes // others)
    return _Block(Link(pair, apart=False), pair.axes[row], rows, unit)


def _in_vectors(stage: Stage) -> bool:
    """Whatever moves with the last axis can be read by vectors."""
    last = stage.spatial[-1].name
    return all(is_contiguous_along(a, last) for a in stage_accesses(stage) if moves_with(a, last))


def _outer(draft: Draft, block: _Block, hardware: Hardware) -> tuple[Draft, tuple[str, str]]:
    """``[outer axes, blocks of rows: parallel] { the rest } [columns][tiles of rows]``."""
    link, pair = block.link, block.link.pair
    draft, size = _block_knobs(draft, block, hardware)
    register = knob_name(pair, "register")
    steps: list[Step] = []
    for n, axis in enumerate(link.rows):
        inner = Ref(register, n)
        steps.append(Tile(link.stage, axis, (inner,) if axis != block.row else (size, inner)))
    others = [axis for axis in link.rows if axis != block.row]
    blocks = [f"{axis}.0" for axis in (*link.outer, *others, block.row)]
    steps.append(Annotate(link.stage, tuple(blocks), "parallel"))
    outside = [*blocks, f"{link.vector}.0", f"{block.row}.1"]
    draft = draft.loop(*steps, *tile_steps(link, outside))
    return draft.place(link.stage, pair.accumulate.name), (link.stage, blocks[-1])


def _block_knobs(draft: Draft, block: _Block, hardware: Hardware) -> tuple[Draft, Ref]:
    """The knobs of the last accumulation; a block is some register tiles: their number.

    Both are one knob, as the blocks should fill the vectors that the other stages make of rows.
    """
    pair = block.link.pair
    draft = register_knobs(draft, pair, hardware)
    name = knob_name(pair, "register")
    at = block.link.rows.index(block.row)
    extent = pair.consume.axis(block.row).extent
    usual = draft.choices(name)[draft.defaults[name]]
    choices = [
        (*tile, -(-size // tile[at]))
        for tile in draft.choices(name)
        for size in block_sizes(extent, block.unit)
    ]
    kept = _least_waste(choices, at, extent, block.unit)
    target = USUAL_BLOCK * block.unit // pair.lanes
    distance = [(c[:-1] != usual, abs(c[-1] * c[at] - target)) for c in kept]
    draft = draft.narrowed(
        Knob(name, tuple(kept), pair.consume.name), distance.index(min(distance))
    )
    return draft, Ref(name, len(usual))


def _least_waste(
    choices: list[tuple[int, ...]], at: int, extent: int, unit: int
) -> list[tuple[int, ...]]:
    """Those whose blocks of ``last * [at]`` rows fill vectors, and compute few rows twice."""
    sizes = {choice: choice[-1] * choice[at] for choice in choices}
    full = [c for c, size in sizes.items() if size % unit == 0 or size >= extent]
    best = min(waste(extent, min(extent, sizes[c])) for c in full)
    return [c for c in full if waste(extent, min(extent, sizes[c])) <= BLOCK_WASTE * best]


def block_sizes(extent: int, lanes: int) -> list[int]:
    sizes = [vectors * lanes for vectors in BLOCK_VECTORS if vectors * lanes < extent]
    return sizes if sizes and extent > sizes[-1] + lanes else [*sizes, extent]


def placed(
    draft: Draft,
    stage: Stage,
    place: tuple[str, str],
    copies: tuple[str, str],
    hardware: Hardware,
    single: str = "",
) -> Draft:
    """``stage`` computed at ``place``: a register tile, a reduction by vectors, or vectors.

    Operands that a register tile wants in another order are copied at ``copies``. Of axis
    ``single`` there is one element.
    """
    pair = tile_pair(draft, stage, hardware)
    if pair is not None:
        rows = tuple(a for a in pair.rows if pair.axes[a.name] != single)
        others = tuple(a for a in pair.rows if a not in rows)
        pair = replace(pair, rows=rows, outer=(*pair.outer, *others))
        draft, _ = inside_link(draft, Link(pair, apart=False), place, hardware)
        return _copied(draft, pair, copies)
    at = ComputeAt(stage.name, *place)
    if stage.combiner is None or has_data_reuse(stage):
        return draft.loop(at, *vector_steps(stage, hardware)).place(stage.name)
    return draft.loop(at, *_reduction_steps(stage, hardware)).place(stage.name)


def _copied(draft: Draft, pair: TilePair, place: tuple[str, str]) -> Draft:
    """An operand that is not contiguous along the vectors is copied so, block by block."""
    stage, vector = pair.accumulate, pair.vector.name
    for access in stage_accesses(stage):
        if not moves_with(access, vector) or is_contiguous_along(access, vector):
            continue
        names = axes_of(access.read)
        alike = [r for r in set(stage.reads()) if axes_of(r) == names]
        if len(alike) > 1 or None in access.indices:
            continue
        reduced = [a.name for a in stage.reduce if a.name in names]
        others = [a.name for a in stage.spatial if a.name in names and a.name != vector]
        draft = draft.rewrite(CopyRead(stage.name, (*others, *reduced, vector)))
        operand = f"{stage.name}.operand"
        return draft.loop(ComputeAt(operand, *place)).place(operand)
    return draft


def _reduction_steps(stage: Stage, hardware: Hardware) -> list[Step]:
    """``[others][vectors.0][reduction][vectors.1 in registers][lanes]``."""
    if not stage.spatial:
        return []
    last = stage.spatial[-1]
    lanes = lanes_for(last.extent, hardware.lanes(dtype_bytes_of(stage)))
    others = [f"{a.name}.0" for a in stage.spatial[:-1]]
    reduce = [f"{a.name}.0" for a in stage.reduce]
    vectors = [f"{last.name}.{level}" for level in range(3)]
    return [
        Tile(stage.name, last.name, (REDUCED_VECTORS, lanes)),
        Reorder(stage.name, (*others, vectors[0], *reduce, *vectors[1:])),
        Annotate(stage.name, (vectors[1],), "unroll"),
        Annotate(stage.name, (vectors[2],), "vectorize"),
        Scope(stage.name, "local"),
    ]
