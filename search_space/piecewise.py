"""Rules for piecewise stages: a few values of an axis, an expression of its own for each.

Minimal filtering leaves such stages around its products (``schedules/minimal_filtering.py``). They
share operands between the pieces, so the pieces are unrolled inside the vector loop and the
operands stay in registers. Separate from ``rows.py`` because what is unrolled decides all else.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from schedules.dag import ComputeDAG, Stage
from schedules.hardware import Hardware
from schedules.minimal_filtering import Slide, sliding
from schedules.steps import (
    Annotate,
    ComputeAt,
    Inline,
    MinimalFiltering,
    SplitAxis,
)
from search_space.analysis import (
    elementwise_map,
    is_piecewise,
    single_consumer,
)
from search_space.blocks import (
    block_branches,
    common_prefix,
    piecewise_nest,
    piecewise_producer,
)
from search_space.draft import Draft
from search_space.rows import enough_axes

# Points of one tile and axis, few or many: with more, rounding errors grow and registers run out.
POINTS = ((3, 4), (5, 6))
MOST_SLIDES = 2
# A rewrite that saves less of the multiplications than this cannot pay for its additions.
WORTHWHILE = 0.75


def rule_minimal_filtering(
    draft: Draft, stage: Stage, hardware: Hardware
) -> tuple[Draft, ...] | None:
    """Sum sliding products as they stand, or with fewer multiplications."""
    if stage.name.removesuffix(".acc") in draft.settled:
        return None
    found = sliding(draft.current, stage)
    if found is None:
        return None
    taps = found.slides[-1].tap.extent
    slides = tuple(s for s in found.slides if s.tap.extent == taps)[-MOST_SLIDES:]
    branches = []
    for choice in POINTS:
        points = min(choice, key=lambda p: _share(slides, p, max(1, p - taps + 1)))
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
    chain = chain_to_output(filtered.current, stage.name)
    if chain is None or any(s.axis.extent % step.outputs for s in slides):
        return filtered
    last = chain[-1]
    inlined = [Inline(f"{stage.name}.gather{len(slides) - 1}"), *(Inline(n) for n in chain[:-1])]
    axes = axes_of_output(filtered, chain, step.axes)
    splits = [SplitAxis(last, axis, step.outputs) for axis in axes]
    return filtered.rewrite(*inlined, *splits)


def chain_to_output(dag: ComputeDAG, name: str) -> list[str] | None:
    """Stages from ``name`` to an output, each read by the next one only and in place."""
    chain = [name]
    while chain[-1] not in dag.outputs:
        stage = dag.stage(chain[-1])
        consumer = single_consumer(dag, stage)
        if consumer is None or elementwise_map(stage, consumer) is None:
            return None
        chain.append(consumer.name)
    return chain if not dag.consumers[chain[-1]] else None


def axes_of_output(draft: Draft, chain: list[str], axes: tuple[str, ...]) -> list[str]:
    """What ``axes`` of the first stage are called at the end of ``chain``."""
    names = list(axes)
    for before, after in pairwise(chain):
        mapping = elementwise_map(draft.current.stage(before), draft.current.stage(after))
        assert mapping is not None
        names = [mapping[n] for n in names]
    return names


def rule_piecewise(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """The pieces unrolled inside the vectors; a piecewise producer is computed per tile.

    Where the pieces gather the results of an accumulation, that one is a nest of its own, or
    computed block by block, or so with all that leads to it (see ``blocks.py``).
    """
    if not is_piecewise(stage):
        return None
    return (_apart(draft, stage, hardware), *block_branches(draft, stage, hardware))


def _apart(draft: Draft, stage: Stage, hardware: Hardware) -> Draft:
    producer = piecewise_producer(draft, stage)
    prefix = common_prefix(stage, producer)
    draft = draft.loop(*piecewise_nest(stage, prefix, hardware)).place(stage.name)
    parallel = enough_axes(stage, prefix, hardware)
    draft = draft.loop(Annotate(stage.name, tuple(f"{a}.0" for a in parallel), "parallel"))
    if producer is None or not prefix:
        return draft
    at = ComputeAt(producer.name, stage.name, f"{prefix[-1]}.0")
    inner = piecewise_nest(producer, [], hardware)
    return draft.loop(at, *inner).place(producer.name)
