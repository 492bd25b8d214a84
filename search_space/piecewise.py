"""Rules for piecewise stages: a few values of an axis, an expression of its own for each.

Minimal filtering leaves such stages around its products (``schedules/minimal_filtering.py``). They
share operands between the pieces, so the pieces are unrolled inside the vector loop and the
operands stay in registers. Separate from ``rows.py`` because what is unrolled decides all else.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from schedules.dag import ComputeDAG, Stage
from schedules.expr import Axis
from schedules.hardware import Hardware
from schedules.minimal_filtering import Slide, sliding
from schedules.plan import stage_accesses
from schedules.steps import (
    Annotate,
    ComputeAt,
    Inline,
    MinimalFiltering,
    Reorder,
    SplitAxis,
    Step,
    Tile,
)
from search_space.analysis import (
    dtype_bytes_of,
    elementwise_map,
    is_piecewise,
    piecewise_axes,
    single_consumer,
)
from search_space.draft import Draft
from search_space.tiling import lanes_for

# Points of one tile and axis: with more, rounding errors grow and registers run out.
POINTS = (4, 6)
MOST_SLIDES = 2
# A rewrite that saves less of the multiplications than this cannot pay for its additions.
WORTHWHILE = 0.75
BLOCKS_PER_THREAD = 8


def rule_minimal_filtering(
    draft: Draft, stage: Stage, hardware: Hardware
) -> tuple[Draft, ...] | None:
    """Sum sliding products as they stand, or with fewer multiplications."""
    if stage.name in draft.settled:
        return None
    found = sliding(draft.current, stage)
    if found is None:
        return None
    taps = found.slides[-1].tap.extent
    slides = tuple(s for s in found.slides if s.tap.extent == taps)[-MOST_SLIDES:]
    branches = []
    for points in POINTS:
        outputs = points - taps + 1
        if outputs > 1 and _share(slides, points, outputs) <= WORTHWHILE:
            step = MinimalFiltering(stage.name, tuple(s.axis.name for s in slides), outputs)
            branches.append(_filtered(draft.settle(stage.name), stage, step, slides))
    return (draft.settle(stage.name), *branches) if branches else None


def _share(slides: tuple[Slide, ...], points: int, outputs: int) -> float:
    """Multiplications that are left, of those of the plain sum."""
    tiles = prod(-(-s.axis.extent // outputs) * points for s in slides)
    return tiles / prod(s.axis.extent * s.tap.extent for s in slides)


def _filtered(
    draft: Draft, stage: Stage, step: MinimalFiltering, slides: tuple[Slide, ...]
) -> Draft:
    """Filtered; where tiles are full and nothing else follows, the output is written by tiles."""
    name = f"filter{step.outputs}"
    products = f"{stage.name}.products"
    filtered = draft.rewrite(step, label=name).settle(products)
    chain = _chain_to_output(filtered.current, stage.name)
    if chain is None or any(s.axis.extent % step.outputs for s in slides):
        return filtered
    last = chain[-1]
    inlined = [Inline(f"{stage.name}.gather{len(slides) - 1}"), *(Inline(n) for n in chain[:-1])]
    splits = [
        SplitAxis(last, axis, step.outputs) for axis in _axes_of_output(filtered, chain, step)
    ]
    return filtered.rewrite(*inlined, *splits)


def _chain_to_output(dag: ComputeDAG, name: str) -> list[str] | None:
    """Stages from ``name`` to an output, each read by the next one only and in place."""
    chain = [name]
    while chain[-1] not in dag.outputs:
        stage = dag.stage(chain[-1])
        consumer = single_consumer(dag, stage)
        if consumer is None or elementwise_map(stage, consumer) is None:
            return None
        chain.append(consumer.name)
    return chain if not dag.consumers[chain[-1]] else None


def _axes_of_output(draft: Draft, chain: list[str], step: MinimalFiltering) -> list[str]:
    """What the axes of ``step`` are called at the end of ``chain``."""
    names = list(step.axes)
    for before, after in pairwise(chain):
        mapping = elementwise_map(draft.current.stage(before), draft.current.stage(after))
        assert mapping is not None
        names = [mapping[n] for n in names]
    return names


def rule_piecewise(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """The pieces unrolled inside the vectors; a piecewise producer is computed per tile."""
    if not is_piecewise(stage):
        return None
    producer = _piecewise_producer(draft, stage)
    prefix = _prefix(stage, producer)
    order = _order(stage, prefix, hardware)
    draft = draft.loop(*order).place(stage.name)
    parallel = _enough(stage, prefix, hardware)
    draft = draft.loop(Annotate(stage.name, tuple(f"{a}.0" for a in parallel), "parallel"))
    if producer is not None and prefix:
        inner = _order(producer, [], hardware)
        draft = draft.loop(ComputeAt(producer.name, stage.name, f"{prefix[-1]}.0"), *inner)
        draft = draft.place(producer.name)
    return (draft,)


def _piecewise_producer(draft: Draft, stage: Stage) -> Stage | None:
    for name in dict.fromkeys(read.tensor for read in stage.reads()):
        producer = draft.current.by_name.get(name)
        if producer is None or not is_piecewise(producer) or name in draft.placed:
            continue
        if single_consumer(draft.current, producer) is stage:
            return producer
    return None


def _prefix(stage: Stage, producer: Stage | None) -> list[str]:
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


def _order(stage: Stage, prefix: list[str], hardware: Hardware) -> list[Step]:
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


def _enough(stage: Stage, names: list[str], hardware: Hardware) -> list[str]:
    """The fewest leading axes that give every thread some blocks."""
    leading: list[str] = []
    work = 1
    for name in names:
        if work >= BLOCKS_PER_THREAD * hardware.threads:
            break
        leading.append(name)
        work *= stage.axis(name).extent
    return leading
