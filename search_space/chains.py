"""Chains of accumulations block by block: what one stage leaves is used while it is in the cache.

The last accumulation of a chain has the outer loops. Inside a block of its rows every stage before
it is computed with the register tiles of ``tiling.py``: all its columns where the next one adds
over them, panels of columns where the next one keeps them apart, whose blocks of rows may then be
longer and overlap less. Read ``tiling.py`` first; separate because that one knows a single
accumulation.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.dag import Stage
from schedules.hardware import Hardware
from schedules.plan import stage_accesses
from schedules.sketch import Knob
from schedules.steps import Annotate, ComputeAt, Pack, Ref, Reorder, Step, Tile
from search_space.analysis import moves_with, single_consumer
from search_space.draft import Draft
from search_space.factors import multiples
from search_space.tiling import (
    TilePair,
    accumulator_steps,
    knob_name,
    other_accumulations,
    register_knobs,
    tile_pair,
    without_padding,
)


@dataclass(frozen=True)
class Link:
    """One accumulation of a chain. ``apart``: the one before it is needed panel by panel."""

    pair: TilePair
    apart: bool

    @property
    def stage(self) -> str:
        return self.pair.consume.name

    def axes(self, names: tuple[str, ...]) -> list[str]:
        """Axes of the accumulation as those of the stage that consumes it."""
        return [self.pair.axes[name] for name in names]

    @property
    def rows(self) -> list[str]:
        return self.axes(tuple(a.name for a in self.pair.rows))

    @property
    def outer(self) -> list[str]:
        return self.axes(tuple(a.name for a in self.pair.outer))

    @property
    def vector(self) -> str:
        return self.pair.axes[self.pair.vector.name]


def rule_chain(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Tile a chain of stages with data reuse, the last of which ``stage`` consumes."""
    draft = _padding_read_through(draft, stage, hardware)
    links = _links(draft, draft.current.stage(stage.name), hardware)
    if len(links) < 2:
        return None
    draft, place = _last(draft, links[0], hardware)
    for link in links[1:]:
        draft, place = inside_link(draft, link, place, hardware)
    return (draft.called("chain"),)


def _padding_read_through(draft: Draft, stage: Stage, hardware: Hardware) -> Draft:
    before: Stage | None = stage
    while before is not None:
        pair = tile_pair(draft, before, hardware)
        if pair is None:
            break
        draft = without_padding(draft, pair.accumulate) or draft
        before = _before(draft, draft.current.stage(pair.accumulate.name))
    return draft


def _links(draft: Draft, stage: Stage, hardware: Hardware) -> list[Link]:
    """The chain that ends at ``stage``, its last accumulation first."""
    links: list[Link] = []
    before: Stage | None = stage
    while before is not None:
        pair = tile_pair(draft, before, hardware)
        if pair is None or not pair.rows or other_accumulations(draft, pair):
            break
        before = _before(draft, pair.accumulate)
        links.append(Link(pair, before is not None and _is_apart(pair, before)))
    return links


def _before(draft: Draft, accumulate: Stage) -> Stage | None:
    """The computed tensor that an accumulation reads and nothing else does."""
    for name in dict.fromkeys(read.tensor for read in accumulate.reads()):
        stage = draft.current.by_name.get(name)
        if stage is not None and single_consumer(draft.current, stage) is accumulate:
            return stage
    return None


def _is_apart(pair: TilePair, before: Stage) -> bool:
    """A panel of columns reads a panel of ``before``."""
    column = pair.vector.name
    accesses = [a for a in stage_accesses(pair.accumulate) if a.tensor == before.name]
    return all(any(i is not None and i.coefficient(column) for i in a.indices) for a in accesses)


def _last(draft: Draft, link: Link, hardware: Hardware) -> tuple[Draft, tuple[str, str]]:
    """``[blocks, parallel] { stages before } [tiles]``: the draft, and where the stages go."""
    pair = link.pair
    draft = register_knobs(draft, pair, hardware)
    blocked = (*pair.outer, pair.rows[0])
    sizes = [Ref(knob_name(pair, axis.name)) for axis in blocked]
    for axis, size in zip(blocked, sizes, strict=True):
        draft = draft.knob(Knob(size.knob, multiples(axis.extent), link.stage), 2)
    first, *others = link.rows
    register = knob_name(pair, "register")
    steps: list[Step] = [
        Tile(link.stage, a, (size,)) for a, size in zip(link.outer, sizes, strict=False)
    ]
    steps.append(Tile(link.stage, first, (sizes[-1], Ref(register, 0))))
    steps += [Tile(link.stage, a, (Ref(register, i),)) for i, a in enumerate(others, 1)]
    panel = f"{link.vector}.0"
    blocks = [f"{a}.0" for a in (*link.outer, first)] + [panel] * link.apart
    middle = [panel] * (not link.apart) + [f"{a}.1" for a in (*link.outer, first)]
    middle += [f"{a}.0" for a in others]
    steps.append(Annotate(link.stage, tuple(blocks), "parallel"))
    draft = draft.loop(*steps, *tile_steps(link, [*blocks, *middle]))
    draft = draft.place(link.stage, pair.accumulate.name)
    return draft.loop(*_packs(draft, pair)), (link.stage, blocks[-1])


def inside_link(
    draft: Draft, link: Link, place: tuple[str, str], hardware: Hardware
) -> tuple[Draft, tuple[str, str]]:
    """A link computed at ``place``: the draft, and where the stages before it go."""
    pair = link.pair
    draft = register_knobs(draft, pair, hardware)
    register = knob_name(pair, "register")
    panel = f"{link.vector}.0"
    outside = [panel, *(f"{a}.0" for a in (*link.outer, *link.rows))]
    steps: list[Step] = [ComputeAt(link.stage, *place)]
    steps += [Tile(link.stage, a, (Ref(register, i),)) for i, a in enumerate(link.rows)]
    draft = draft.loop(*steps, *tile_steps(link, outside))
    draft = draft.place(link.stage, pair.accumulate.name)
    return draft.loop(*_packs(draft, pair)), (link.stage, panel) if link.apart else place


def tile_steps(link: Link, outside: list[str]) -> list[Step]:
    """``[outside][columns of a panel] { accumulation } [register tile]``."""
    pair, stage, vector = link.pair, link.stage, link.vector
    register = knob_name(pair, "register")
    columns = (Ref(knob_name(pair, "columns")), Ref(register, len(pair.rows)), pair.lanes)
    used = {vector, *link.rows, *link.outer}
    unit = [f"{a.name}.0" for a in pair.consume.axes if a.name not in used]
    # The innermost level of a row is its register tile, however many levels there are outside.
    levels = {a: sum(loop.rsplit(".", 1)[0] == a for loop in outside) for a in link.rows}
    tile = [*(f"{a}.{levels[a]}" for a in link.rows), f"{vector}.2"]
    lane = f"{vector}.3"
    return [
        Tile(stage, vector, columns),
        Reorder(stage, (*outside, *unit, f"{vector}.1", *tile, lane)),
        ComputeAt(pair.accumulate.name, stage, f"{vector}.1"),
        Annotate(stage, tuple(tile), "unroll"),
        Annotate(stage, (lane,), "vectorize"),
        *accumulator_steps(pair),
    ]


def _packs(draft: Draft, pair: TilePair) -> list[Step]:
    """Constant operands that move with the vector are stored in the order of the loops."""
    inputs = draft.current.input_by_name
    reads = [a for a in stage_accesses(pair.accumulate) if a.tensor in inputs]
    return [
        Pack(pair.accumulate.name, a.tensor)
        for a in reads
        if inputs[a.tensor].constant
        and moves_with(a, pair.vector.name)
        and draft.current.consumers[a.tensor] == (pair.accumulate.name,)
        and sum(b.tensor == a.tensor for b in reads) == 1
    ]
