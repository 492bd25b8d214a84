"""Products of a few rows with operands that lie along the sum: vectors of partial sums.

``s[i, j] = sum_k q[i, k] p[j, k]`` with few ``i`` uses an element of ``p`` so seldom that bringing
it into another order costs more than the products. So the lanes of a vector are parts of the sum:
``rule_split_dots`` splits it, and ``rule_dots`` adds the lanes up block by block, before what they
are leaves the cache. Separate from ``tiling.py``, where lanes are results.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import prod

from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.plan import stage_accesses
from schedules.sketch import Knob
from schedules.steps import (
    Annotate,
    CacheWrite,
    ComputeAt,
    Ref,
    Reorder,
    SplitReduction,
    Step,
    Tile,
)
from search_space.analysis import (
    axes_of,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
    is_contiguous_along,
    moves_with,
    reuse_axes,
    single_consumer,
)
from search_space.chains import Link, inside_link
from search_space.draft import Draft
from search_space.tiling import TilePair, knob_name, lanes_for, tile_pair

# Rows that use an element too seldom to pay for its place in another order.
MOST_ROWS = 8
BLOCK_VECTORS = ((1,), (2,), (4,), (8,), (16,))
USUAL_BLOCK = 2


def rule_split_dots(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Partial sums in lanes, or results in lanes, where few rows meet operands along the sum."""
    if stage.name.removesuffix(".acc") in draft.settled or not are_dots(draft, stage, hardware):
        return None
    lanes = hardware.lanes(dtype_bytes_of(stage))
    split = SplitReduction(stage.name, stage.reduce[0].name, lanes)
    return draft.rewrite(split, label="dots"), draft.settle(stage.name)


def are_dots(draft: Draft, stage: Stage, hardware: Hardware) -> bool:
    """Few rows meet operands along the sum, which is some whole vectors long."""
    if stage.combiner != "sum" or len(stage.reduce) != 1:
        return False
    (axis,) = stage.reduce
    lanes = hardware.lanes(dtype_bytes_of(stage))
    if not has_data_reuse(stage) or axis.extent % lanes or axis.extent < 2 * lanes:
        return False
    accesses = stage_accesses(stage)
    along = all(moves_with(a, axis.name) and is_contiguous_along(a, axis.name) for a in accesses)
    inputs = draft.current.input_by_name
    constant = any(a.tensor in inputs and inputs[a.tensor].constant for a in accesses)
    return len(accesses) == 2 and along and not constant and rows_per_element(stage) <= MOST_ROWS


def rows_per_element(stage: Stage) -> int:
    """Results that use an element of the operand with most elements."""
    moving = [axes_of(read) for read in stage.reads()]
    return min(prod(a.extent for a in stage.spatial if a.name not in axes) for axes in moving)


@dataclass(frozen=True)
class _Dots:
    """``stage`` takes ``total``, the sum of the lanes that the stages of ``pair`` accumulate."""

    stage: Stage
    total: Stage
    pair: TilePair


def rule_dots(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """``[outer, blocks of the last axis: parallel] { partial sums; totals } [rest][vectors]``."""
    return (dots_at(draft, stage, None, hardware),) if holds_dots(draft, stage, hardware) else None


def holds_dots(draft: Draft, stage: Stage, hardware: Hardware) -> bool:
    """``stage`` combines the lanes of partial results, or takes what does."""
    if stage.combiner is not None:
        return _partial(draft, stage, hardware) is not None
    return _dots(draft, stage, hardware) is not None


def dots_at(
    draft: Draft,
    stage: Stage,
    place: tuple[str, str] | None,
    hardware: Hardware,
    single: Collection[str] = (),
) -> Draft:
    """The loops of a stage that holds dots: a nest of its own, or at a place inside another.

    ``single``: axes of ``stage``, and so of its partial sums, of which there is one element there.
    """
    if stage.combiner is not None:
        draft = draft.rewrite(CacheWrite(stage.name))
        stage = draft.current.stage(stage.name)
    found = _dots(draft, stage, hardware)
    assert found is not None
    last = stage.spatial[-1]
    lanes = lanes_for(last.extent, hardware.lanes(dtype_bytes_of(stage)))
    block = f"{stage.name}.block"
    outer = [name for name in _shared(found) if name != last.name]
    rest = [a.name for a in stage.spatial[:-1] if a.name not in outer]
    blocks = [f"{name}.0" for name in (*outer, last.name)]
    inside = (stage.name, blocks[-1])
    order = (*blocks, *(f"{name}.0" for name in rest), f"{last.name}.1", f"{last.name}.2")
    steps: list[Step] = [
        Tile(stage.name, last.name, (Ref(block), lanes)),
        Reorder(stage.name, order),
        Annotate(stage.name, (f"{last.name}.2",), "vectorize"),
        ComputeAt(found.total.name, *inside),
    ]
    if place is None:
        steps.append(Annotate(stage.name, tuple(blocks), "parallel"))
        draft = draft.knob(Knob(block, BLOCK_VECTORS, stage.name), USUAL_BLOCK)
    else:
        steps.append(ComputeAt(stage.name, *place))
        draft = draft.knob(Knob(block, BLOCK_VECTORS[:2], stage.name), 0)
    draft = draft.loop(*steps).place(stage.name, found.total.name)
    pair = found.pair if place is None else rows_besides(found.pair, single)
    draft, _ = inside_link(draft, Link(pair, apart=False), inside, hardware)
    return draft if place is None else _one_by_one(draft, pair)


def rows_besides(pair: TilePair, single: Collection[str]) -> TilePair:
    """``pair`` whose rows are all that share an operand, along other axes than ``single``."""
    reused = reuse_axes(pair.accumulate, pair.vector.name)
    rows = tuple(a for a in reused if a.name not in single)
    used = {pair.vector, *rows}
    outer = tuple(a for a in pair.accumulate.spatial if a.extent > 1 and a not in used)
    return replace(pair, rows=rows, outer=outer)


def _one_by_one(draft: Draft, pair: TilePair) -> Draft:
    """A register tile that walks through the longest operand element by element, in order.

    Where rows of it take turns, the processor's prefetchers lose track.
    """
    streamed = max(map(axes_of, pair.accumulate.reads()), key=lambda names: _size(pair, names))
    tile = (*(1 if a.name in streamed else a.extent for a in pair.rows), 1)
    return draft.narrowed(Knob(knob_name(pair, "register"), (tile,), pair.consume.name), 0)


def _size(pair: TilePair, names: set[str]) -> int:
    return prod(a.extent for a in pair.accumulate.axes if a.name in names)


def _dots(draft: Draft, stage: Stage, hardware: Hardware) -> _Dots | None:
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        total = draft.current.by_name.get(name)
        if total is None or total.combiner is None or elementwise_map(total, stage) is None:
            continue
        pair = _partial(draft, total, hardware)
        if pair is not None and single_consumer(draft.current, total) is stage:
            return _Dots(stage, total, pair)
    return None


def _partial(draft: Draft, total: Stage, hardware: Hardware) -> TilePair | None:
    """The accumulation whose lanes ``total`` adds up."""
    if has_data_reuse(total) or len(total.reduce) != 1:
        return None
    names = {read.tensor for read in total.reads()}
    partial = draft.current.by_name.get(names.pop()) if len(names) == 1 else None
    if partial is None or single_consumer(draft.current, partial) is not total:
        return None
    return tile_pair(draft, partial, hardware)


def _shared(found: _Dots) -> list[str]:
    """Axes of ``stage`` that all operands of the products move with, and its last one."""
    accumulate = found.pair.accumulate
    moving = [axes_of(read) for read in accumulate.reads()]
    partial = {a for a in found.pair.axes if all(a in axes for axes in moving)}
    (read,) = found.total.reads()
    names = dict(zip((a.name for a in found.pair.consume.spatial), read.indices, strict=True))
    of_stage = elementwise_map(found.total, found.stage)
    assert of_stage is not None
    shared = {str(getattr(names[found.pair.axes[a]], "name", "")) for a in partial}
    wanted = {of_stage[name] for name in shared if name in of_stage}
    return [a.name for a in found.stage.spatial if a.name in wanted]
