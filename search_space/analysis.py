"""Named predicates over stages: the words that rules are written in."""

from __future__ import annotations

from schedules.dag import ComputeDAG, IterAxis, Stage
from schedules.expr import (
    OPERATIONS,
    Axis,
    Call,
    Const,
    Expr,
    Read,
    affine,
    axes_in,
    picking_axis,
    walk,
)
from schedules.plan import Access, stage_accesses


def has_data_reuse(stage: Stage) -> bool:
    """It reduces, and a read that changes along the reduction is the same for several results.

    Ansor's ``NeedsMultiLevelTiling`` (OSDI'20, section 4.1, rule 3), but for reads that no step of
    the reduction changes: they are held, not used again. Expressions side by side share what they
    read, and loops over them cannot be tiled.
    """
    spatial = {a.name for a in stage.spatial if a.extent > 1} - piecewise_axes(stage)
    reduced = {a.name for a in stage.reduce}
    return any(spatial - axes_of(r) and reduced & axes_of(r) for r in stage.reads())


def has_anchor(dag: ComputeDAG) -> bool:
    """Some stage has data reuse, so that searching its tiles pays."""
    return any(has_data_reuse(stage) for stage in dag.stages)


def axes_of(read: Read) -> set[str]:
    """Axes of the enclosing stage that the element read depends on."""
    return axes_in(read)


def is_elementwise(stage: Stage) -> bool:
    return stage.combiner is None


def is_guarded(stage: Stage) -> bool:
    """Some read stands behind a condition, as zero padding does."""
    return any(access.guarded for access in stage_accesses(stage))


def has_math(stage: Stage) -> bool:
    """The body calls a transcendental function."""
    return any(
        isinstance(n, Call) and OPERATIONS[n.op][1] in ("math", "divmod") and "int" not in n.dtype
        for n in walk(stage.body)
    )


def is_plain_copy(stage: Stage) -> bool:
    """The body is one read: a change of shape, order or dtype at most."""
    body = stage.body
    while isinstance(body, Call) and body.op == "cast":
        body = body.args[0]
    return stage.combiner is None and isinstance(body, Read)


def piecewise_axes(stage: Stage) -> frozenset[str]:
    """Axes whose every value has an expression of its own: ``select(axis == value, ...)``."""
    names = (picking_axis(node) for node in walk(stage.body))
    return frozenset(name for name in names if name is not None)


def is_piecewise(stage: Stage) -> bool:
    return stage.combiner is None and bool(piecewise_axes(stage))


def all_affine(stage: Stage) -> bool:
    return all(None not in access.indices for access in stage_accesses(stage))


def single_consumer(dag: ComputeDAG, stage: Stage) -> Stage | None:
    """The only stage that reads ``stage``, unless it is also an output."""
    consumers = dag.consumers[stage.name]
    if len(consumers) != 1 or stage.name in dag.outputs:
        return None
    return dag.stage(consumers[0])


def elementwise_map(producer: Stage, consumer: Stage) -> dict[str, str] | None:
    """Producer axis -> consumer axis when ``consumer`` reads every element just once in place.

    ``None`` when it reads it otherwise: several reads, sums of axes, repeated or missing axes.
    Axes of extent one may be read at the constant zero and are then left out.
    """
    if consumer.combiner is not None:
        return None
    accesses = [a for a in stage_accesses(consumer) if a.tensor == producer.name]
    if len(accesses) != 1:
        return None
    mapping: dict[str, str] = {}
    for axis, index in zip(producer.spatial, accesses[0].read.indices, strict=True):
        if isinstance(index, Axis) and consumer.axis(index.name).extent == axis.extent:
            mapping[axis.name] = index.name
        elif not (isinstance(index, Const) and axis.extent == 1):
            return None
    used = list(mapping.values())
    missing = [a for a in consumer.axes if a.extent > 1 and a.name not in used]
    return mapping if len(set(used)) == len(used) and not missing else None


def reuse_axes(stage: Stage, vector: str) -> tuple[IterAxis, ...]:
    """Spatial axes along which an operand that moves with ``vector`` is used again."""
    moving = [axes_of(read) for read in stage.reads() if vector in axes_of(read)]
    return tuple(
        a
        for a in stage.spatial
        if a.name != vector and a.extent > 1 and any(a.name not in axes for axes in moving)
    )


def slides(stage: Stage, read: Read, axis: str) -> bool:
    """``axis`` moves what the reduction reads: some index depends on it and on a reduced axis."""
    reduced = {a.name for a in stage.reduce}
    for index in read.indices:
        names = {node.name for node in walk(index) if isinstance(node, Axis)}
        if axis in names and names & reduced:
            return True
    return False


def is_contiguous_along(access: Access, axis: str) -> bool:
    """Neighbours along ``axis`` are neighbours in memory, or the same element."""
    if not access.indices:
        return True
    *outer, last = access.read.indices
    return not any(_depends(i, axis) for i in outer) and _steps_by_one(last, axis)


def _depends(index: Expr, axis: str) -> bool:
    known = affine(index)
    return bool(known.coefficient(axis)) if known is not None else Axis(axis) in walk(index)


def _steps_by_one(index: Expr, axis: str) -> bool:
    """Or not at all; what stands beside ``axis`` may be anything that does not depend on it."""
    known = affine(index)
    if known is not None:
        return known.coefficient(axis) in (0, 1)
    if isinstance(index, Call) and index.op == "add":
        left, right = (_depends(a, axis) for a in index.args)
        return not (left and right) and all(_steps_by_one(a, axis) for a in index.args)
    return not _depends(index, axis)


def moves_with(access: Access, axis: str) -> bool:
    return axis in axes_of(access.read)


def is_separable(access: Access) -> bool:
    """Every index depends on at most one axis, so that packing duplicates nothing."""
    return all(i is not None and len(i.terms) <= 1 for i in access.indices)


def vector_axis(stage: Stage, minimum: int) -> IterAxis | None:
    """The last spatial axis if it has ``minimum`` elements, else the longest one."""
    spatial = [a for a in stage.spatial if a.extent > 1]
    if not spatial:
        return None
    last = stage.spatial[-1]
    return last if last.extent >= minimum else max(spatial, key=lambda a: a.extent)


def dtype_bytes_of(stage: Stage) -> int:
    digits = "".join(c for c in stage.dtype if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1
