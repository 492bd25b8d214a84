"""Rules that rewrite the DAG: inline, cache write, split reduction. They run before all others.

Each is ``rule(draft, stage, hardware) -> drafts | None``; ``None`` means "not me".
"""

from __future__ import annotations

from math import prod

from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.guards import skips_padding
from schedules.hardware import Hardware
from schedules.plan import stage_accesses
from schedules.reciprocals import shared_divisor
from schedules.rewrites import apply_rewrites
from schedules.steps import CacheWrite, Inline, Reciprocal, SplitReduction, SplitWindow
from schedules.windows import window_along
from search_space.analysis import (
    all_affine,
    dtype_bytes_of,
    elementwise_map,
    has_data_reuse,
    has_math,
    is_contiguous_along,
    is_elementwise,
    is_guarded,
    is_piecewise,
    is_plain_copy,
    moves_with,
    single_consumer,
    vector_axis,
)
from search_space.draft import Draft

# Accumulator vectors of a split reduction: one for short rows, more hide latency in long ones.
LANE_VECTORS = (1, 4)
# Blocks of a reduction for every thread, the first that leaves no remainder.
BLOCKS = (4, 8, 2)
# Below this many iterations, one thread is done before another one is awake.
BLOCKS_WORK = 40_000


def rule_inline(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Ansor's rule 2: substitute a stage that is cheap to repeat into those that read it."""
    dag = draft.current
    if not is_elementwise(stage) or stage.name in dag.outputs or stage.name in draft.placed:
        return None
    if is_piecewise(stage):
        return None
    consumers = [dag.stage(name) for name in dag.consumers[stage.name]]
    if not consumers or not all(_may_inline(dag, stage, c) for c in consumers):
        return None
    if (len(consumers) > 1 and has_math(stage)) or _is_last_in_place(dag, stage):
        return None
    return (draft.rewrite(Inline(stage.name)),)


def _is_last_in_place(dag: ComputeDAG, stage: Stage) -> bool:
    """It takes over the tiles of an accumulating stage, and no consumer could in its stead."""
    producers = [dag.by_name[r.tensor] for r in stage.reads() if r.tensor in dag.by_name]
    if not any(
        has_data_reuse(p)
        and single_consumer(dag, p) is stage
        and elementwise_map(p, stage) is not None
        for p in producers
    ):
        return False
    consumer = single_consumer(dag, stage)
    return consumer is None or elementwise_map(stage, consumer) is None


def _may_inline(dag: ComputeDAG, stage: Stage, consumer: Stage) -> bool:
    if is_piecewise(consumer) and not is_plain_copy(stage):
        return False
    if is_elementwise(consumer):
        return not (_repeats(stage, consumer) and _is_costly(dag, stage))
    if not has_data_reuse(consumer):
        return not is_guarded(stage) or _is_read_through(dag, stage)
    merged = _merged_alone(dag, stage) if is_plain_copy(stage) else None
    return merged is not None and all_affine(merged)


def _is_costly(dag: ComputeDAG, stage: Stage) -> bool:
    """It has a transcendental function, or will have once what it reads is inlined."""
    sources = [dag.by_name[r.tensor] for r in stage.reads() if r.tensor in dag.by_name]
    return has_math(stage) or any(
        is_elementwise(s)
        and has_math(s)
        and single_consumer(dag, s) is stage
        and not _repeats(s, stage)
        for s in sources
    )


def _is_read_through(dag: ComputeDAG, stage: Stage) -> bool:
    """The reduction that reads ``stage`` can skip what it adds around a tensor."""
    merged = _merged_alone(dag, stage)
    return merged is not None and skips_padding(merged) and all_affine(merged)


def _merged_alone(dag: ComputeDAG, stage: Stage) -> Stage | None:
    """The only stage that reads ``stage``, with it inlined."""
    consumer = single_consumer(dag, stage)
    if consumer is None:
        return None
    return apply_rewrites(dag, (Inline(stage.name),)).stage(consumer.name)


def _repeats(stage: Stage, consumer: Stage) -> bool:
    """``consumer`` reads an element of ``stage`` more than once, as a broadcast does."""
    reads = [r for r in consumer.reads() if r.tensor == stage.name]
    if len(reads) > 1:
        return True
    size = 1
    for axis in consumer.axes:
        size *= axis.extent
    elements = 1
    for extent in stage.shape:
        elements *= extent
    return size > elements


def rule_reciprocal(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Divide once for all elements that share a divisor, which take up a vector at least.

    A stage that takes over the tiles of an accumulating one divides seldom beside that.
    """
    vector = vector_axis(stage, 2)
    if vector is None or vector.extent < hardware.lanes(dtype_bytes_of(stage)):
        return None
    divisor = shared_divisor(stage, vector.name)
    sources = [draft.current.by_name.get(read.tensor) for read in stage.reads()]
    if divisor is None or f"{stage.name}.inverse" in draft.current.by_name:
        return None
    if any(s is not None and has_data_reuse(s) for s in sources):
        return None
    return (draft.rewrite(Reciprocal(stage.name, vector.name)),)


def rule_cache_write(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Ansor's rule 5: an accumulating stage without an elementwise consumer gets a copy stage."""
    if not has_data_reuse(stage) or stage.name.endswith(".acc"):
        return None
    consumer = single_consumer(draft.current, stage)
    if consumer is not None and elementwise_map(stage, consumer) is not None:
        return None
    return (draft.rewrite(CacheWrite(stage.name)),)


def rule_split_lanes(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Ansor's rule 6 (rfactor) for vectors: a reduction along contiguous memory keeps lanes."""
    if stage.combiner is None or has_data_reuse(stage) or stage.name.endswith(".lanes"):
        return None
    axis = stage.reduce[-1]
    lanes = hardware.lanes(dtype_bytes_of(stage))
    if _is_partial(axis) or axis.extent < 2 * lanes or not _reads_along(stage, axis.name):
        return None
    branches = []
    for vectors in LANE_VECTORS:
        if axis.extent >= 2 * vectors * lanes:
            step = SplitReduction(stage.name, axis.name, vectors * lanes)
            branches.append(draft.rewrite(step, label=f"lanes{vectors}"))
    return tuple(branches) or None


def rule_split_window(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Windows that overlap are reduced by columns first, which neighbours share; or they are not.

    What can be inlined into the stage comes first.
    """
    if stage.combiner is None or has_data_reuse(stage) or stage.name in draft.settled:
        return None
    sources = [draft.current.by_name.get(read.tensor) for read in stage.reads()]
    if any(s is not None and rule_inline(draft, s, hardware) for s in sources):
        return None
    taps = prod(a.extent for a in stage.reduce)
    vector = vector_axis(stage, 2)
    for axis in reversed(stage.reduce):
        window = window_along(stage, axis.name)
        if window is None or window.axis == vector or not window.saves(taps // axis.extent):
            continue
        plain = draft.settle(stage.name)
        return (draft.rewrite(SplitWindow(stage.name, axis.name), label="columns"), plain)
    return None


def _is_partial(axis: IterAxis) -> bool:
    """The axis counts partial results of a reduction that is split already."""
    return axis.name.endswith((".lane", ".block"))


def _reads_along(stage: Stage, axis: str) -> bool:
    accesses = [a for a in stage_accesses(stage) if moves_with(a, axis)]
    return bool(accesses) and all(is_contiguous_along(a, axis) for a in accesses)


def rule_split_blocks(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Ansor's rule 6 (rfactor) for threads: few results of a long reduction, in blocks."""
    if stage.combiner is None or hardware.threads == 1 or "." in stage.name:
        return None
    outputs = prod(stage.shape)
    axis = max(stage.reduce, key=lambda a: a.extent)
    if _is_partial(axis) or outputs >= 4 * hardware.threads:
        return None
    if prod(a.extent for a in stage.axes) < BLOCKS_WORK:
        return None
    parts = next((p for p in BLOCKS if axis.extent % (p * hardware.threads) == 0), BLOCKS[0])
    step = SplitReduction(stage.name, axis.name, parts * hardware.threads, False)
    return (draft.rewrite(step, label="blocks"),)
