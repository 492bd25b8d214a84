"""Rules for stages without data reuse: parallel outer loops, vectors inside, rows kept in cache."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.expr import Axis, Read
from schedules.hardware import Hardware
from schedules.plan import stage_accesses
from schedules.sketch import Knob
from schedules.steps import Annotate, CacheWrite, ComputeAt, Ref, Reorder, Scope, Step, Tile
from search_space.analysis import (
    dtype_bytes_of,
    has_data_reuse,
    has_math,
    is_piecewise,
    piecewise_axes,
    single_consumer,
    vector_axis,
)
from search_space.draft import Draft
from search_space.factors import register_tiles
from search_space.skewed import LOCAL_BYTES, skewed_rows_nest
from search_space.tiling import (
    ROW_AXES,
    UNROLL_WHOLE,
    lanes_for,
    rows_together,
    tile_pair,
    vector_steps,
)

# Rows at a time: operands that all rows share are loaded once.
ROWS = ((1,), (2,), (4,), (8,))
USUAL_ROWS = 2
VECTORS = ((1,), (2,), (4,), (8,))
BLOCKS_PER_THREAD = 8
# Results of overlapping windows that a good guess accumulates at once.
USUAL_VECTORS = 8
# Below this many iterations, waking the other threads costs more than they save.
PARALLEL_WORK = 8192
# Elements of a cache line, as good as any tile of a copy that transposes.
LINE = 16


def rule_fuse_rows(draft: Draft, stage: Stage, hardware: Hardware) -> tuple[Draft, ...] | None:
    """Compute the producers of ``stage`` row by row inside its outer loops, where rows suffice.

    A second branch leaves every producer a nest of its own, where that might be faster.
    """
    if has_data_reuse(stage):
        return None
    if stage.combiner is not None:
        draft = draft.rewrite(CacheWrite(stage.name)).place(f"{stage.name}.acc")
        stage = draft.current.stage(stage.name)
    group = _row_group(draft, stage, hardware)
    prefix = _common_prefix(draft.current, stage, group)
    rows = prod(stage.axis(name).extent for name in prefix)
    if not group or not prefix or rows < hardware.threads:
        return (_simple_nest(draft, stage, hardware),)
    fused = (
        _fused_rows(draft, stage, hardware, prefix, group),
        *skewed_rows_nest(draft, stage, hardware, prefix, group),
    )
    if _fills_machine(draft.current, stage, group, rows, hardware):
        return fused
    return (*fused, _simple_nest(draft, stage, hardware))


def _fused_rows(
    draft: Draft, stage: Stage, hardware: Hardware, prefix: tuple[str, ...], group: set[str]
) -> Draft:
    """The nest of ``stage`` with all of ``group`` in a few rows of it."""
    rows = prod(stage.axis(name).extent for name in prefix)
    fused = _simple_nest(draft, stage, hardware, prefix, group)
    for producer in reversed(draft.current.stages):
        if producer.name not in group:
            continue
        at = ComputeAt(producer.name, stage.name, f"{prefix[-1]}.0")
        results = prod(producer.shape) // rows
        if _adds_neighbours(producer):
            steps: list[Step] = []
        elif producer.combiner is not None and not has_math(producer):
            steps = rows_together(producer, results, hardware)
        else:
            steps = vector_steps(producer, hardware)
        if producer.combiner is None and has_math(producer) and producer.spatial[-1].extent > 1:
            # Computing is what takes time here: the next rows may come from memory meanwhile.
            steps.append(Annotate(producer.name, (f"{producer.spatial[-1].name}.0",), "prefetch"))
        fused = fused.loop(at, *steps).place(producer.name)
        if prod(producer.shape) // rows * dtype_bytes_of(producer) <= LOCAL_BYTES:
            fused = fused.loop(Scope(producer.name, "local"))
    return fused.called("rows-fused")


def _adds_neighbours(stage: Stage) -> bool:
    """``stage`` reduces what lies side by side."""
    last = stage.reduce[-1].name if stage.reduce else ""
    return bool(last) and all(
        access.indices[-1] is not None and access.indices[-1].coefficient(last) == 1
        for access in stage_accesses(stage)
        if access.indices
    )


def _fills_machine(
    dag: ComputeDAG, stage: Stage, group: set[str], rows: int, hardware: Hardware
) -> bool:
    """Rows for every thread, and a vector or more in each row of every stage that is no number."""
    if rows < BLOCKS_PER_THREAD * hardware.threads:
        return False
    stages = [stage, *(dag.stage(name) for name in group)]
    lengths = [prod(a.extent for a in s.axes) // rows for s in stages]
    return all(n <= 1 or n >= hardware.lanes(4) for n in lengths)


def _row_group(draft: Draft, stage: Stage, hardware: Hardware) -> set[str]:
    """Unplaced stages without data reuse all of whose readers are ``stage`` or in the group.

    A stage that takes over the tiles of an accumulating one stays with that one.
    """
    group: set[str] = set()
    for candidate in draft.pending:
        readers = set(draft.current.consumers[candidate.name])
        inside = readers and readers <= group | {stage.name}
        if not inside or candidate.name in draft.current.outputs or has_data_reuse(candidate):
            continue
        if not is_piecewise(candidate) and tile_pair(draft, candidate, hardware) is None:
            group.add(candidate.name)
    return group


def _common_prefix(dag: ComputeDAG, stage: Stage, group: set[str]) -> tuple[str, ...]:
    """Leading axes of ``stage`` before the vectors that select one slice of every group member."""
    prefix: list[str] = []
    depends = {name: _slices(dag, stage, name, group) for name in group}
    vector = vector_axis(stage, 2)
    for axis in stage.spatial[:-1]:
        if axis == vector:
            break
        if axis.extent > 1 and not all(axis.name in axes for axes in depends.values()):
            break
        prefix.append(axis.name)
    while prefix and stage.axis(prefix[-1]).extent == 1:
        prefix.pop()
    return tuple(prefix)


def _slices(dag: ComputeDAG, stage: Stage, name: str, group: set[str]) -> set[str]:
    """Axes of ``stage`` that axes of ``name`` follow along every chain of reads."""
    found: set[str] | None = None
    for reader_name in dag.consumers[name]:
        reader = dag.stage(reader_name)
        for read in reader.reads():
            if read.tensor != name:
                continue
            direct = {i.name for i in read.indices if isinstance(i, Axis)}
            if reader_name == stage.name:
                axes = direct
            else:
                axes = _through(reader, direct, dag, stage, group)
            found = axes if found is None else found & axes
    return found or set()


def _through(
    reader: Stage, direct: set[str], dag: ComputeDAG, stage: Stage, group: set[str]
) -> set[str]:
    """Axes of ``stage`` reached when ``reader``'s own spatial axes follow them by position."""
    reached: set[str] = set()
    for consumer_name in dag.consumers[reader.name]:
        consumer = dag.stage(consumer_name)
        for read in consumer.reads():
            if read.tensor != reader.name:
                continue
            names = {
                i.name
                for axis, i in zip(reader.spatial, read.indices, strict=True)
                if axis.name in direct and isinstance(i, Axis)
            }
            if consumer_name != stage.name:
                names = _through(consumer, names, dag, stage, group)
            reached |= names
    return reached


def _simple_nest(
    draft: Draft,
    stage: Stage,
    hardware: Hardware,
    outer: tuple[str, ...] = (),
    group: Collection[str] = (),
) -> Draft:
    """Loops ``[outer parallel][vector.0] [vector.1][vector.2 lanes]`` of one elementwise stage.

    A reduction that the stage copies accumulates in registers inside ``vector.0``. Where windows
    overlap along axes, a few of them do so together: ``[vector.0] [h.1][w.1][vector.1] ...``.
    """
    draft = draft.place(stage.name)
    accumulator = draft.current.by_name.get(f"{stage.name}.acc")
    axis = vector_axis(stage, 2)
    if axis is None:
        if accumulator is None or not stage.spatial:
            return draft
        return draft.loop(ComputeAt(accumulator.name, stage.name, f"{stage.spatial[-1].name}.0"))
    lanes = lanes_for(axis.extent, hardware.lanes(dtype_bytes_of(stage)))
    reducing = [] if accumulator is None else _reductions(draft, accumulator)
    sliding = _sliding_axes(stage, reducing, axis)
    choices = _registers(stage, axis, sliding, lanes, hardware)
    knob = Knob(f"{stage.name}.vectors", choices, stage.name)
    names = [a.name for a in stage.spatial if a.name != axis.name]
    picking = {name for each in reducing for name in piecewise_axes(each)}
    apart = [name for name in names if name not in picking]
    leading = list(outer) if outer else enough_axes(stage, apart, hardware)
    blocks = [f"{n}.0" for n in (*leading, *(n for n in names if n not in leading))]
    vector = [f"{axis.name}.{level}" for level in range(3)]
    work = prod(stage.axis(name).extent for name in leading)
    fused = blocks[: len(leading)] if outer or work >= hardware.threads else [*blocks, vector[0]]
    rows = [] if reducing else list(outer[-1:])
    across = [] if rows or reducing else _read_along(stage, axis)
    tile = [*(f"{name}.1" for name in (*sliding, *rows, *across)), vector[1]]
    steps: list[Step] = [Tile(stage.name, axis.name, (Ref(knob.name), lanes))]
    steps += [Tile(stage.name, name, (Ref(knob.name, n),)) for n, name in enumerate(sliding, 1)]
    for name in rows:
        few = tuple(r for r in ROWS if r[0] * hardware.threads <= work)
        draft = draft.knob(Knob(f"{stage.name}.rows", few, stage.name), USUAL_ROWS)
        steps.append(Tile(stage.name, name, (Ref(f"{stage.name}.rows"),)))
    steps += [Tile(stage.name, name, (LINE,)) for name in across]
    steps += [
        Reorder(stage.name, (*blocks, vector[0], *tile, vector[2])),
        Annotate(stage.name, (vector[2],), "vectorize"),
    ]
    together = [stage, *reducing, *(draft.current.stage(name) for name in group)]
    total = sum(prod(a.extent for a in s.axes) for s in together)
    inside = any(isinstance(s, ComputeAt) and s.stage == stage.name for s in draft.loops)
    if total >= PARALLEL_WORK and not inside:
        steps.append(Annotate(stage.name, tuple(fused), "parallel"))
    if reducing or rows:
        steps.append(Annotate(stage.name, tuple(tile), "unroll"))
    for each in reducing:
        steps += _accumulate_at(each, stage, axis.name, sliding, lanes)
    default = min(range(len(choices)), key=lambda n: abs(prod(choices[n]) - USUAL_VECTORS))
    draft = draft.place(*(s.name for s in reducing))
    return draft.knob(knob, default if sliding else 1).loop(*steps)


def _read_along(stage: Stage, vector: IterAxis) -> list[str]:
    """The axis along which a copy reads neighbours, if it writes them along ``vector``.

    A tile of both is transposed in registers, so that whole cache lines are read and written.
    """
    last = stage.body.indices[-1] if isinstance(stage.body, Read) and stage.body.indices else None
    if not isinstance(last, Axis) or last.name == vector.name:
        return []
    return [last.name] if stage.axis(last.name).extent > 1 else []


def _reductions(draft: Draft, accumulator: Stage) -> list[Stage]:
    """``accumulator``, and the reduced columns if its windows are made of nothing else."""
    (first, *rest) = dict.fromkeys(read.tensor for read in accumulator.reads())
    source = draft.current.by_name.get(first)
    if source is None or rest or source.combiner is None or source.name in draft.placed:
        return [accumulator]
    alone = single_consumer(draft.current, source) is accumulator and not has_data_reuse(source)
    return [accumulator, source] if alone and _slides(accumulator) else [accumulator]


def _sliding_axes(stage: Stage, reducing: list[Stage], vector: IterAxis) -> tuple[str, ...]:
    """The last axes of ``stage`` but ``vector`` along which windows overlap, or an expression is
    picked: they share reads."""
    found = (_slides(each) | piecewise_axes(each) for each in reducing)
    sliding = set().union(*found) - {vector.name}
    return tuple(a.name for a in stage.spatial if a.name in sliding and a.extent > 1)[-ROW_AXES:]


def _slides(stage: Stage) -> set[str]:
    extents = {a.name: a.extent for a in stage.reduce}
    sliding = set()
    for access in stage_accesses(stage):
        for index in access.indices:
            terms = () if index is None else index.terms
            window = 1 + sum(abs(c) * (extents[name] - 1) for name, c in terms if name in extents)
            sliding |= {name for name, c in terms if name not in extents and abs(c) < window}
    return sliding


def _registers(
    stage: Stage, axis: IterAxis, sliding: tuple[str, ...], lanes: int, hardware: Hardware
) -> tuple[tuple[int, ...], ...]:
    """``(vectors, *sizes along sliding axes)`` of one register tile."""
    if not sliding:
        return tuple(v for v in VECTORS if v[0] * lanes <= axis.extent)
    rows = tuple(stage.axis(name).extent for name in sliding)
    tiles = register_tiles(
        rows, axis.extent, lanes, hardware.vector_registers, hardware.fma_latency
    )
    return tuple((tile[-1], *tile[:-1]) for tile in tiles)


def _accumulate_at(
    accumulator: Stage, stage: Stage, axis: str, sliding: tuple[str, ...], lanes: int
) -> list[Step]:
    vector = f"{axis}.0"
    tile = [*(f"{name}.0" for name in sliding), vector]
    rest = [f"{a.name}.0" for a in accumulator.spatial if f"{a.name}.0" not in tile]
    reduce = [f"{a.name}.0" for a in accumulator.reduce]
    whole = prod(a.extent for a in accumulator.reduce) <= UNROLL_WHOLE
    return [
        ComputeAt(accumulator.name, stage.name, vector),
        Tile(accumulator.name, axis, (lanes,)),
        Reorder(accumulator.name, (*rest, *reduce, *tile, f"{axis}.1")),
        Annotate(accumulator.name, (*(reduce if whole else ()), *tile), "unroll"),
        Annotate(accumulator.name, (f"{axis}.1",), "vectorize"),
        Scope(accumulator.name, "local"),
    ]


def enough_axes(stage: Stage, names: list[str], hardware: Hardware) -> list[str]:
    """The fewest leading axes that give every thread some blocks; more only cost divisions."""
    leading: list[str] = []
    work = 1
    for name in names:
        if work >= BLOCKS_PER_THREAD * hardware.threads:
            break
        leading.append(name)
        work *= stage.axis(name).extent
    return leading
