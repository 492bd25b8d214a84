"""Multi-level tiling with a fused consumer: the rule for stages with data reuse.

The loops are Ansor's "SSRSRS" with the last spatial level fixed to a register tile:
``[S0 parallel][S1] consumer tile { [R0][R1 unrolled][register tile] }`` (OSDI'20, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.expr import Call
from schedules.footprint import terms_of
from schedules.guards import skips_padding
from schedules.hardware import Hardware
from schedules.plan import read_alike, reads_one_place, stage_accesses
from schedules.sketch import Knob
from schedules.steps import Annotate, ComputeAt, Inline, Pack, Ref, Reorder, Scope, Step, Tile
from search_space.analysis import (
    all_affine,
    axes_of,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
    is_contiguous_along,
    is_elementwise,
    is_guarded,
    is_piecewise,
    is_separable,
    moves_with,
    reuse_axes,
    single_consumer,
    slides,
    vector_axis,
)
from search_space.draft import Draft
from search_space.factors import (
    multiples,
    register_tiles,
    unroll_factors,
    usual_multiple,
    waste,
)

# Unrolled steps share operands that then fill registers; more than a few spill the accumulators.
UNROLL_LIMIT = 4
# A reduction this short is worth unrolling whole: nothing is left of its loops.
UNROLL_WHOLE = 9
ROW_AXES = 2
# A window of 7x7 uses an element so often: too little work to hide a copy behind it.
FEW_USES = 64
UNROLLED_VECTORS = 4
# What additions to rows keep in registers beside their accumulators, and what their tiles may waste
# more than the best one.
OTHER_REGISTERS = 5
MOST_WASTE = 1.1
# Register tiles of an outer tile, along rows and along the vector, that a good guess takes.
USUAL_ROW_TILES = 4
USUAL_COLUMN_TILES = 3
# How often an element is used where computing takes about as long as bringing it from memory. Less
# often, memory is busy anyway and hints are in its way; more often, there is time enough.
AHEAD_USES = range(6, 33)


@dataclass(frozen=True)
class TilePair:
    """An accumulating stage, the stage that consumes it in place, and the roles of its axes."""

    accumulate: Stage
    consume: Stage
    axes: dict[str, str]  # axis of ``accumulate`` -> axis of ``consume``
    vector: IterAxis
    rows: tuple[IterAxis, ...]  # innermost last; part of the register tile
    outer: tuple[IterAxis, ...]  # the other spatial axes of extent > 1
    lanes: int


def tile_pair(draft: Draft, stage: Stage, hardware: Hardware) -> TilePair | None:
    """The pair that ``stage`` ends, if it consumes a stage with data reuse in place."""
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        producer = draft.current.by_name.get(name)
        if producer is None or not has_data_reuse(producer):
            continue
        mapping = elementwise_map(producer, stage)
        if mapping is None or single_consumer(draft.current, producer) is not stage:
            continue
        lanes = hardware.lanes(dtype_bytes_of(producer))
        axis = _vector_of(producer, stage, mapping, lanes)
        if axis is None:
            return None
        lanes = lanes_for(axis.extent, lanes)
        rows = reuse_axes(producer, axis.name)[-ROW_AXES:]
        if prod(a.extent for a in (axis, *rows)) < hardware.fma_latency * lanes:
            rows = (*rows, *_others(producer, (axis, *rows)))[:ROW_AXES]
        used = {axis.name, *(a.name for a in rows)}
        outer = tuple(a for a in producer.spatial if a.extent > 1 and a.name not in used)
        return TilePair(producer, stage, mapping, axis, rows, outer, lanes)
    return None


def _others(stage: Stage, used: tuple[IterAxis, ...]) -> tuple[IterAxis, ...]:
    """Axes of sums to have beside each other: they hide the latency of an addition.

    The last axis along which some operand is used again; else those along which windows slide;
    else the longest one.
    """
    others = [a for a in stage.spatial if a.extent > 1 and a not in used]
    shared = [a for a in others if any(a.name not in axes_of(r) for r in stage.reads())]
    sliding = [a for a in others if all(slides(stage, r, a.name) for r in stage.reads())]
    longest = max(reversed(others), key=lambda a: a.extent, default=None)
    return tuple(shared[-1:] or sliding[-ROW_AXES:] or ([] if longest is None else [longest]))


def _vector_of(
    producer: Stage, consumer: Stage, mapping: dict[str, str], lanes: int
) -> IterAxis | None:
    wanted = vector_axis(consumer, max(2, lanes // 4))
    inverse = {v: k for k, v in mapping.items()}
    if wanted is None or wanted.name not in inverse:
        return None
    return producer.axis(inverse[wanted.name])


def rule_tile_with_consumer(
    draft: Draft, stage: Stage, hardware: Hardware
) -> tuple[Draft, ...] | None:
    """Tile a stage with data reuse and its consumer: a branch per loop order and place."""
    pair = tile_pair(draft, stage, hardware)
    if pair is None:
        return None
    absorbed = without_padding(draft, pair.accumulate)
    branches: list[Draft] = []
    if absorbed is not None:
        same = absorbed.current.stage(stage.name)
        branches += rule_tile_with_consumer(absorbed, same, hardware) or ()
        if not _uses_often(draft.current, pair.accumulate):
            return tuple(branches)
    draft = _knobs(draft, pair, hardware)
    others = other_accumulations(draft, pair)
    for order in ("rows", "columns") if pair.rows else ("rows",):
        drafts = _packed(_tiled(draft, pair, order), pair)
        for other in others:
            drafts = [p for d in drafts for p in _packed(_beside(d, other, order), other)]
        for packed in _fetched_ahead(drafts, [pair, *others], hardware):
            branches += _with_producers(packed, pair, order, hardware, absorbed is None)
    return tuple(branches)


def other_accumulations(draft: Draft, pair: TilePair) -> list[TilePair]:
    """The other accumulations that the consumer reads in place, with its axes in the same roles."""
    found = []
    for name in dict.fromkeys(read.tensor for read in pair.consume.reads()):
        stage = draft.current.by_name.get(name)
        if stage is None or stage is pair.accumulate or not has_data_reuse(stage):
            continue
        axes = elementwise_map(stage, pair.consume)
        if axes is None or single_consumer(draft.current, stage) is not pair.consume:
            continue
        back = {theirs: stage.axis(own) for own, theirs in axes.items()}
        rows, outer = (
            tuple(back[pair.axes[a.name]] for a in group) for group in (pair.rows, pair.outer)
        )
        vector = back[pair.axes[pair.vector.name]]
        other = replace(pair, accumulate=stage, axes=axes, vector=vector, rows=rows, outer=outer)
        found.append(other)
    return found


def _beside(draft: Draft, other: TilePair, order: str) -> Draft:
    """With ``other`` accumulated right after the first, where the consumer has its tile.

    Each has all registers in turn: the tile of the first waits on the stack for so long.
    """
    unroll = f"{knob_name(other, 'unroll')}.{other.accumulate.name}"
    draft = draft.knob(Knob(unroll, _unroll_choices(other), other.consume.name), 0)
    name = other.accumulate.name
    place = ComputeAt(name, other.consume.name, _middle(other, order)[-1])
    return draft.loop(place, *accumulator_steps(other, unroll)).place(name)


def without_padding(draft: Draft, stage: Stage) -> Draft | None:
    """With the padding in front of an accumulating stage read through, where nothing is added.

    Its conditions are decided outside the inner loops, and no padded copy is written.
    """
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        padding = draft.current.by_name.get(name)
        if padding is None or not is_guarded(padding) or not is_elementwise(padding):
            continue
        if single_consumer(draft.current, padding) is not stage or name in draft.placed:
            continue
        absorbed = draft.rewrite(Inline(name), label="unpadded")
        merged = absorbed.current.stage(stage.name)
        if skips_padding(merged) and all_affine(merged):
            return absorbed
    return None


def _uses_often(dag: ComputeDAG, stage: Stage) -> bool:
    """What ``stage`` reads of other stages is used often enough to pay for a padded copy."""
    iterations = prod(a.extent for a in stage.axes)
    sizes = [prod(dag.shape_of(r.tensor)) for r in stage.reads() if r.tensor in dag.by_name]
    return iterations > FEW_USES * max(sizes)


def knob_name(pair: TilePair, what: str) -> str:
    return f"{pair.consume.name}.{what}"


def _knobs(draft: Draft, pair: TilePair, hardware: Hardware) -> Draft:
    draft = register_knobs(draft, pair, hardware)
    group = pair.consume.name
    register = knob_name(pair, "register")
    tiles = draft.choices(register)
    smallest = [min(t[i] for t in tiles) for i in range(len(pair.rows))]
    usual = tiles[draft.defaults[register]]
    for axis, least, tile in zip(pair.rows, smallest, usual, strict=False):
        choices = multiples(axis.extent, least)
        default = usual_multiple(choices, axis.extent, tile, USUAL_ROW_TILES)
        draft = draft.knob(Knob(knob_name(pair, axis.name), choices, group), default)
    for axis in pair.outer:
        draft = draft.knob(Knob(knob_name(pair, axis.name), multiples(axis.extent), group), 0)
    return draft


def register_knobs(draft: Draft, pair: TilePair, hardware: Hardware) -> Draft:
    """The knobs ``register`` (rows, vectors), ``columns`` (of tiles) and ``unroll`` of a pair."""
    rows, tiles = tuple(a.extent for a in pair.rows), register_choices(pair, hardware)
    group = pair.consume.name
    best = best_register(tiles, pair, rows)
    draft = draft.knob(Knob(knob_name(pair, "register"), tiles, group), best)
    columns = multiples(pair.vector.extent, min(t[-1] for t in tiles) * pair.lanes)
    width = tiles[best][-1] * pair.lanes
    default = usual_multiple(columns, pair.vector.extent, width, USUAL_COLUMN_TILES)
    draft = draft.knob(Knob(knob_name(pair, "columns"), columns, group), default)
    return draft.knob(Knob(knob_name(pair, "unroll"), _unroll_choices(pair), group), 0)


def register_choices(pair: TilePair, hardware: Hardware) -> tuple[tuple[int, ...], ...]:
    """Tiles (rows, vectors) of the accumulators that the registers hold."""
    rows = tuple(a.extent for a in pair.rows)
    tiles = register_tiles(
        rows, pair.vector.extent, pair.lanes, hardware.vector_registers, hardware.fma_latency
    )
    return (_tall(pair, tiles, hardware) or tiles) if _adds_to_rows(pair.accumulate) else tiles


def _adds_to_rows(stage: Stage) -> bool:
    """Products of sums: what is added to an operand is used once, not by several vectors."""
    products = (t for t in terms_of(stage.body) if isinstance(t, Call) and t.op == "mul")
    return any(isinstance(a, Call) and a.op == "add" for t in products for a in t.args)


def _tall(
    pair: TilePair, tiles: tuple[tuple[int, ...], ...], hardware: Hardware
) -> tuple[tuple[int, ...], ...]:
    """Tiles one vector wide: additions read the elements of rows from memory, no register holds
    them. Beside each multiplication there is an addition whose latency is to be hidden, too, and
    beside the accumulators there are constants and sums. Many such tiles waste next to nothing."""
    most = hardware.vector_registers - OTHER_REGISTERS
    tall = [t for t in tiles if t[-1] == 1 and 2 * hardware.fma_latency <= prod(t) <= most]
    lost = [
        prod(waste(a.extent, size) for a, size in zip(pair.rows, t, strict=False)) for t in tall
    ]
    least = min(lost, default=1.0)
    return tuple(t for t, loss in zip(tall, lost, strict=True) if loss <= MOST_WASTE * least)


def _unroll_choices(pair: TilePair) -> tuple[tuple[int, ...], ...]:
    extents = tuple(a.extent for a in pair.accumulate.reduce)
    whole = prod(extents) <= UNROLL_WHOLE
    return unroll_factors(extents, UNROLL_WHOLE if whole else UNROLL_LIMIT)


def best_register(tiles: tuple[tuple[int, ...], ...], pair: TilePair, rows: tuple[int, ...]) -> int:
    def loss(tile: tuple[int, ...]) -> float:
        accumulators = tile[-1]
        lost = waste(pair.vector.extent, tile[-1] * pair.lanes)
        for extent, size in zip(rows, tile, strict=False):
            accumulators *= size
            lost *= waste(extent, size)
        # Vectors, which bring more bytes each, and single elements for the rows.
        loads = 2 * tile[-1] + accumulators / tile[-1]
        return lost * (1 + loads / accumulators)

    return min(range(len(tiles)), key=lambda i: loss(tiles[i]))


def _levels(pair: TilePair) -> tuple[list[str], list[str], list[str]]:
    """Consumer axes by role: outer, rows, vector."""
    return (
        [pair.axes[a.name] for a in pair.outer],
        [pair.axes[a.name] for a in pair.rows],
        [pair.axes[pair.vector.name]],
    )


def _middle(pair: TilePair, order: str) -> list[str]:
    """The serial loops of the consumer over register tiles."""
    outer, rows, vector = _levels(pair)
    middle = [*outer, *rows, *vector] if order == "rows" else [*outer, *vector, *rows]
    return [f"{a}.1" for a in middle]


def _tiled(draft: Draft, pair: TilePair, order: str) -> Draft:
    outer, rows, vector = _levels(pair)
    register = knob_name(pair, "register")
    consume, accumulate = pair.consume.name, pair.accumulate.name
    by_axis = {v: k for k, v in pair.axes.items()}
    steps: list[Step] = [Tile(consume, a, (Ref(knob_name(pair, by_axis[a])),)) for a in outer]
    for i, axis in enumerate(rows):
        steps.append(Tile(consume, axis, (Ref(knob_name(pair, by_axis[axis])), Ref(register, i))))
    columns = Ref(knob_name(pair, "columns"))
    steps.append(Tile(consume, vector[0], (columns, Ref(register, len(rows)), pair.lanes)))
    unit = [a.name for a in pair.consume.axes if a.name not in (*outer, *rows, *vector)]
    first = [f"{a}.0" for a in (*outer, *vector, *rows)]
    second = _middle(pair, order)
    inner = [*(f"{a}.2" for a in rows), f"{vector[0]}.2", f"{vector[0]}.3"]
    steps += [
        Reorder(consume, (*first, *(f"{a}.0" for a in unit), *second, *inner)),
        ComputeAt(accumulate, consume, second[-1]),
        Annotate(consume, tuple(first), "parallel"),
        Annotate(consume, tuple(inner[:-1]), "unroll"),
        Annotate(consume, (inner[-1],), "vectorize"),
        *accumulator_steps(pair),
    ]
    return draft.loop(*steps).place(consume, accumulate).called(order)


def accumulator_steps(pair: TilePair, unroll: str = "") -> list[Step]:
    """The loops of the accumulation; ``unroll``: its knob, if it is not that of the pair."""
    name = pair.accumulate.name
    reduce = pair.accumulate.reduce
    unroll = unroll or knob_name(pair, "unroll")
    steps: list[Step] = [Tile(name, axis.name, (Ref(unroll, i),)) for i, axis in enumerate(reduce)]
    steps.append(Tile(name, pair.vector.name, (pair.lanes,)))
    register = [f"{a.name}.0" for a in pair.rows] + [f"{pair.vector.name}.0"]
    lane = f"{pair.vector.name}.1"
    rest = [
        f"{a.name}.0"
        for a in pair.accumulate.spatial
        if f"{a.name}.0" not in register and a.name != pair.vector.name
    ]
    outer = [f"{a.name}.0" for a in reduce]
    unrolled = [f"{a.name}.1" for a in reduce]
    steps += [
        Reorder(name, (*rest, *outer, *unrolled, *register, lane)),
        Annotate(name, (*unrolled, *register), "unroll"),
        Annotate(name, (lane,), "vectorize"),
        Scope(name, "local"),
    ]
    return steps


def _packed(draft: Draft, pair: TilePair) -> list[Draft]:
    """Constant operands that move with the vector are packed once; others where it must be."""
    dag = draft.current
    inputs = dag.input_by_name
    places: list[tuple[str, tuple[str, str] | None]] = [("", None)]
    for access in stage_accesses(pair.accumulate):
        name = access.tensor
        if not moves_with(access, pair.vector.name) or not is_separable(access):
            continue
        alike = [a for a in stage_accesses(pair.accumulate) if a.tensor == name]
        constant = name in inputs and inputs[name].constant
        if len(alike) > 1 and not (constant and access == alike[0] and read_alike(alike)):
            continue
        others = [dag.stage(n) for n in dag.consumers[name] if n != pair.accumulate.name]
        if constant and all(reads_one_place(other, name) for other in others):
            draft = draft.loop(Pack(pair.accumulate.name, name))
        elif len(alike) == 1 and not is_contiguous_along(access, pair.vector.name):
            block = (pair.consume.name, _last_parallel(pair))
            places = [("pack-block", block), ("pack-root", None)]
            return [
                draft.loop(Pack(pair.accumulate.name, name, at)).called(label)
                for label, at in places
                if at is not None or (name in inputs and not constant)
            ]
    return [draft]


def _fetched_ahead(drafts: list[Draft], pairs: list[TilePair], hardware: Hardware) -> list[Draft]:
    """Without and with hints for large packed constants whose elements are used a few times."""
    draft = drafts[0]
    inputs = draft.current.input_by_name
    packed = {(s.stage, s.tensor) for s in draft.loops if isinstance(s, Pack) and s.at is None}
    steps = []
    for stage in (pair.accumulate for pair in pairs):
        large = [
            tensor
            for reader, tensor in packed
            if reader == stage.name
            and inputs[tensor].constant
            and prod(inputs[tensor].shape) * dtype_bytes_of(stage) > hardware.l2_bytes
            and prod(a.extent for a in stage.axes) // prod(inputs[tensor].shape) in AHEAD_USES
        ]
        if large and stage.reduce:
            steps.append(Annotate(stage.name, (f"{stage.reduce[-1].name}.0",), "prefetch"))
    return [*drafts, *(d.loop(*steps).called("ahead") for d in drafts if steps)]


def _last_parallel(pair: TilePair) -> str:
    outer, rows, vector = _levels(pair)
    return f"{[*outer, *vector, *rows][-1]}.0"


def _with_producers(
    draft: Draft, pair: TilePair, order: str, hardware: Hardware, by_row: bool
) -> list[Draft]:
    """Where elementwise producers of the pair are computed: at the root, per block, per row.

    ``by_row``: not for padding that can be read through, which is never slower.
    """
    rows = _rows_of_both(draft, pair)
    if rows is not None:
        return [draft.loop(ComputeAt(rows.name, pair.consume.name, _last_parallel(pair)))]
    producers = [
        dag_stage
        for dag_stage in draft.pending
        if is_elementwise(dag_stage)
        and not is_piecewise(dag_stage)
        and single_consumer(draft.current, dag_stage) is pair.accumulate
    ]
    if not producers:
        return [draft]
    consume = pair.consume.name
    branches = [draft.called("producer-root")]
    points = [("producer-block", _last_parallel(pair))]
    if by_row and order == "rows" and pair.rows:
        points.append(("producer-row", f"{pair.axes[pair.rows[-1].name]}.1"))
    for label, loop in points:
        branch = draft.called(label)
        for producer in producers:
            branch = branch.loop(ComputeAt(producer.name, consume, loop))
            branch = branch.loop(*vector_steps(producer, hardware)).place(producer.name)
        branches.append(branch)
    return branches


def _rows_of_both(draft: Draft, pair: TilePair) -> Stage | None:
    """The elementwise stage whose rows the accumulation reads, and the consumer what they say of
    its results. Rows of a block stay in the cache so; their own loops come later."""
    vector, both = pair.axes[pair.vector.name], {pair.accumulate.name, pair.consume.name}
    moving = {a.tensor for a in stage_accesses(pair.consume) if moves_with(a, vector)}
    for stage in draft.pending:
        if not is_elementwise(stage) or stage.name in (*moving, *draft.current.outputs):
            continue
        if set(draft.current.consumers[stage.name]) == both:
            return stage
    return None


def vector_steps(stage: Stage, hardware: Hardware) -> list[Step]:
    """Vectorise the last axis of a stage that is computed inside another.

    A reduction over a few vectors keeps them all in registers; over many, one vector at a time.
    """
    if not stage.spatial or stage.spatial[-1].extent < 2:
        return []
    last = stage.spatial[-1]
    lanes = lanes_for(last.extent, hardware.lanes(dtype_bytes_of(stage)))
    order = [f"{a.name}.0" for a in stage.spatial]
    reduce = [f"{a.name}.0" for a in stage.reduce]
    steps: list[Step] = [Tile(stage.name, last.name, (lanes,))]
    if reduce and last.extent % lanes == 0 and last.extent <= UNROLLED_VECTORS * lanes:
        steps.append(Reorder(stage.name, (*order[:-1], *reduce, order[-1], f"{last.name}.1")))
        steps.append(Annotate(stage.name, (order[-1],), "unroll"))
    else:
        steps.append(Reorder(stage.name, (*order, *reduce, f"{last.name}.1")))
    return [*steps, Annotate(stage.name, (f"{last.name}.1",), "vectorize")]


def rows_together(stage: Stage, results: int, hardware: Hardware) -> list[Step]:
    """``vector_steps`` of a reduction in a few rows at a time, where a row has ``results``.

    Rows that keep all results in registers take turns in one loop: no addition waits for the one
    before, nor a row for the sum of the lanes of another.
    """
    last = stage.spatial[-1]
    lanes = lanes_for(last.extent, hardware.lanes(dtype_bytes_of(stage)))
    if last.extent % lanes or results > 2 * UNROLLED_VECTORS * lanes:
        return vector_steps(stage, hardware)
    order = [f"{a.name}.0" for a in stage.spatial]
    reduce = [f"{a.name}.0" for a in stage.reduce]
    return [
        Tile(stage.name, last.name, (lanes,)),
        Reorder(stage.name, (*reduce, *order, f"{last.name}.1")),
        Annotate(stage.name, tuple(order), "unroll"),
        Annotate(stage.name, (f"{last.name}.1",), "vectorize"),
    ]


def lanes_for(extent: int, lanes: int) -> int:
    """The widest vector, halved until the axis fills it."""
    while lanes > extent:
        lanes //= 2
    return lanes
