"""A few rows of sums over long operands: each operand streams through once, chunk by chunk.

``y[i, d] = sum_j exp(x[i, j] - max_j x) * v[j, d]``, ``x[i, j] = sum_k q[i, k] p[j, k]``, with a
few ``i`` and many ``j`` uses an element of ``p`` and of ``v`` so seldom that bringing them from
memory takes longest. ``rule_stream_chunks`` cuts ``j``: a chunk of it needs nothing of the others
(``schedules/chunks.py``), so threads share the chunks (flash decoding: Dao et al., 2023).
``rule_streams`` arranges the loops: all of a chunk in one parallel nest, then a small one for the
sums over chunks. Read ``dots.py`` first; ``chunked_rows.py`` is for many rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

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
    Scope,
    SplitReduction,
    Step,
    Tile,
)
from search_space.along import Along
from search_space.analysis import (
    axes_of,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
)
from search_space.chains import Link, tile_steps
from search_space.dots import (
    MOST_ROWS,
    are_dots,
    dots_at,
    holds_dots,
    rows_besides,
    rows_per_element,
)
from search_space.draft import Draft
from search_space.parts import kept, summed_parts
from search_space.tiling import (
    TilePair,
    best_register,
    knob_name,
    lanes_for,
    register_knobs,
    vector_steps,
)

# Summands of a chunk: the nearest divisors of all of them. Short ones leave more to add up at the
# end, long ones more of their exponentials behind in the caches.
CHUNKS = (512, 1024)
SHORTEST, LONGEST = 64, 2048
# Chunks for every thread, so that none waits long for another.
CHUNKS_PER_THREAD = 4
# Vectors of partial results of a reduction over a chunk: enough to hide the latency of an addition.
LANE_VECTORS = 4


def rule_stream_chunks(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Sum exponentials by chunks where few rows meet long operands, and reduce by vectors."""
    if len(stage.reduce) != 1 or stage.combiner != "sum" or not has_data_reuse(stage):
        return None
    (axis,) = stage.reduce
    found = exponentials(draft.current, stage, axis.name)
    if found is None or stage.name in masks(draft.current):
        return None
    scores = _scores(draft, found)
    if scores is None or not are_dots(draft, scores, hardware):
        return None
    if rows_per_element(stage) > MOST_ROWS:
        return None
    branches = []
    for length in _lengths(stage, hardware):
        steps: list[Step] = [Chunk(stage.name, axis.name, length)]
        lanes = hardware.lanes(dtype_bytes_of(stage))
        wide = lanes * min(LANE_VECTORS, length // (2 * lanes))
        for name in (found.greatest.tensor, *(n for n in found.sums if n != stage.name)):
            (reduced,) = draft.current.stage(name).reduce
            steps.append(SplitReduction(f"{name}.part", reduced.name, wide))
        steps.append(SplitReduction(scores.name, scores.reduce[0].name, lanes))
        branches.append(draft.rewrite(*steps, label=f"stream{length}"))
    return tuple(branches) or None


def _scores(draft: Draft, found: Exponentials) -> Stage | None:
    """The products that the exponents are made of element by element."""
    stage = draft.current.by_name.get(found.values.tensor)
    while stage is not None and not has_data_reuse(stage):
        sources = [draft.current.by_name.get(read.tensor) for read in stage.reads()]
        computed = [s for s in sources if s is not None]
        if len(computed) != 1 or elementwise_map(computed[0], stage) is None:
            return None
        (stage,) = computed
    return stage


def _lengths(stage: Stage, hardware: Hardware) -> list[int]:
    """Lengths of chunks to try; none where the summands cannot be cut evenly, or are in a cache."""
    (axis,) = stage.reduce
    read = max(stage.reads(), key=lambda r: prod(_extents(stage, axes_of(r))))
    if prod(_extents(stage, axes_of(read))) * dtype_bytes_of(stage) <= hardware.l2_bytes:
        return []
    apart = prod(a.extent for a in stage.spatial if a.name in axes_of(read))
    apart //= stage.spatial[-1].extent
    fewest = CHUNKS_PER_THREAD * hardware.threads
    possible = [
        n
        for n in range(SHORTEST, min(axis.extent // 2, LONGEST) + 1)
        if axis.extent % n == 0 and apart * (axis.extent // n) >= fewest
    ]
    nearest = [min(possible, key=lambda n: max(n / c, c / n)) for c in CHUNKS if possible]
    return list(dict.fromkeys(nearest))


def _extents(stage: Stage, axes: set[str]) -> list[int]:
    return [a.extent for a in stage.axes if a.name in axes]


# ------------------------------------------------------------------ the loops


@dataclass(frozen=True)
class _Streams:
    """``total`` adds the parts that ``link`` accumulates, and ``stage`` takes it.

    ``chunk``: the axis of the parts that counts them. ``inside``: of every stage computed chunk by
    chunk, the axes that go along with axes of the parts.
    """

    stage: Stage
    total: Stage
    link: Link
    chunk: str
    inside: Along


def rule_streams(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """``[others, chunks: parallel] { all of a chunk }``, then ``[rows: parallel] { the sums }``."""
    found = _streams(draft, stage, hardware)
    if found is None:
        return None
    draft = _sums(draft, found, hardware)
    draft, parallel = _parts(draft, found, hardware)
    place = (found.link.stage, parallel[-1])
    for inner in draft.pending:
        if inner.name not in found.inside or inner.name in draft.placed:
            continue
        current, along = draft.current.stage(inner.name), found.inside[inner.name]
        readers = {name.removesuffix(".acc") for name in draft.current.consumers[inner.name]}
        if _are_scores(draft, current, hardware):
            single = [a for a, theirs in along.items() if f"{theirs}.0" in parallel]
            draft = dots_at(draft, current, place, hardware, single)
        elif readers <= found.inside.keys():
            draft = draft.loop(ComputeAt(current.name, *place), *vector_steps(current, hardware))
            draft = draft.place(current.name)
        else:
            draft = kept(draft, current, place, (place[0], ""), found.inside)
            accumulator = f"{current.name}.acc"
            draft = draft.loop(ComputeAt(accumulator, *place), Scope(accumulator, "local"))
            draft = draft.place(accumulator)
    return (draft,)


def _streams(draft: Draft, stage: Stage, hardware: Hardware) -> _Streams | None:
    for parts in summed_parts(draft, stage, hardware):
        pair, chunk = parts.pair, parts.chunk
        inside = parts.inside(draft, draft.current.by_name)
        if any(_are_scores(draft, draft.current.stage(n), hardware) for n in inside):
            single = [own for own, axis in pair.axes.items() if axis == chunk]
            link = Link(rows_besides(pair, single), apart=False)
            return _Streams(stage, parts.total, link, chunk, inside)
    return None


def _are_scores(draft: Draft, stage: Stage, hardware: Hardware) -> bool:
    """Sums of products; a mask makes the greatest scores look like such."""
    return stage.combiner != "max" and holds_dots(draft, stage, hardware)


def _sums(draft: Draft, found: _Streams, hardware: Hardware) -> Draft:
    """``[others: parallel] { what the sums need } [vectors.0] { the sum over chunks } [lanes]``."""
    stage, total = found.stage, found.total
    last = stage.spatial[-1]
    lanes = lanes_for(last.extent, hardware.lanes(dtype_bytes_of(stage)))
    outer = [f"{a.name}.0" for a in stage.spatial[:-1]]
    steps: list[Step] = [
        Tile(stage.name, last.name, (lanes,)),
        Reorder(stage.name, (*outer, f"{last.name}.0", f"{last.name}.1")),
        Annotate(stage.name, tuple(outer), "parallel"),
        Annotate(stage.name, (f"{last.name}.1",), "vectorize"),
        ComputeAt(total.name, stage.name, f"{last.name}.0"),
        *vector_steps(total, hardware),
        Scope(total.name, "local"),
    ]
    draft = draft.loop(*steps).place(stage.name, total.name)
    for inner in draft.pending:
        readers = draft.current.consumers[inner.name]
        if inner.name not in found.inside and set(readers) <= draft.placed:
            draft = draft.loop(ComputeAt(inner.name, stage.name, outer[-1])).place(inner.name)
    return draft


def _parts(draft: Draft, found: _Streams, hardware: Hardware) -> tuple[Draft, list[str]]:
    """``[others, chunks: parallel] { } [columns][tiles of rows] { accumulation }``."""
    link, pair = found.link, found.link.pair
    draft = register_knobs(draft, pair, hardware)
    register = knob_name(pair, "register")
    draft = draft.narrowed(Knob(knob_name(pair, "columns"), ((1,),), link.stage), 0)
    tiles = _whole_rows(draft.choices(register), pair)
    best = best_register(tiles, pair, tuple(a.extent for a in pair.rows))
    draft = draft.narrowed(Knob(register, tiles, link.stage), best)
    others = [a for a in link.outer if a != found.chunk]
    parallel = [f"{a}.0" for a in (*others, found.chunk)]
    outside = [*parallel, f"{link.vector}.0", *(f"{a}.0" for a in link.rows)]
    steps: list[Step] = [Tile(link.stage, a, (Ref(register, i),)) for i, a in enumerate(link.rows)]
    steps += tile_steps(link, outside)
    steps.append(Annotate(link.stage, tuple(parallel), "parallel"))
    return draft.loop(*steps).place(link.stage, pair.accumulate.name), parallel


def _whole_rows(tiles: tuple[tuple[int, ...], ...], pair: TilePair) -> tuple[tuple[int, ...], ...]:
    """The tiles as wide as the operand that streams, if any: then it is read in its order."""
    whole = tuple(t for t in tiles if t[-1] * pair.lanes >= pair.vector.extent)
    return whole or tiles
