"""A DAG in which every index is a sum of axes: axes that others divide are split everywhere.

A view (another shape for the same memory) reads with quotients and remainders of its axes. Where
``i // c`` or ``i % c`` is read, ``i`` becomes two axes, in its stage, in the tensor's dimensions
and in all who read it, until nothing is divided. Read ``dag.py`` first. Separate because it is
algebra on indices; ``merge_copies.py`` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from schedules.dag import SPATIAL, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import UnsupportedProgram
from schedules.expr import INDEX_DTYPE, Affine, Axis, Call, Const, Expr, Read, affine, rebuild

Extents = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Split an axis of a stage, or a dimension of an input, into ``extent // factor, factor``."""

    tensor: str
    axis: str | int
    factor: int


class _NotAffine(Exception):
    """An index is no sum of axes; it becomes one when ``axis`` is split at ``factor``."""

    def __init__(self, axis: str = "", factor: int = 0) -> None:
        self.axis, self.factor = axis, factor


def reshape_dag(before: tuple[int, ...], after: tuple[int, ...], dtype: str) -> ComputeDAG:
    """The view of a tensor with another shape, as one stage."""
    axes = tuple(IterAxis(f"i{n}", extent) for n, extent in enumerate(after))
    position = sum_of(
        Affine(tuple((a.name, prod(after[n + 1 :])) for n, a in enumerate(axes)), 0), axes
    )
    indices = []
    for dimension, extent in enumerate(before):
        index = _divided("floordiv", position, prod(before[dimension + 1 :]))
        indices.append(_divided("floormod", index, extent) if dimension else index)
    tensor = Tensor("x", before, dtype)
    stage = Stage("view", axes, Read("x", tuple(indices), dtype), dtype)
    return ComputeDAG((tensor,), (stage,), ("view",))


def split_axes(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` with affine indices; inputs and outputs may have other shapes of the same memory.

    Indices that depend on data stay as they are. Raises :class:`UnsupportedProgram` where no split
    makes an index a sum.
    """
    dag = _simplified(dag)
    while (cut := _needed(dag) or _hidden(dag)) is not None:
        dag = _simplified(_split(dag, cut))
    return dag


def drop_units(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` without axes and dimensions of extent 1."""
    shapes = {name: dag.shape_of(name) for name in dag.consumers}

    def dropped(stage: Stage) -> Stage:
        units = {a.name for a in stage.axes if a.extent == 1}

        def change(node: Expr) -> Expr | None:
            if isinstance(node, Axis):
                return Const(0, INDEX_DTYPE) if node.name in units else None
            if not isinstance(node, Read):
                return None
            pairs = zip(node.indices, shapes[node.tensor], strict=True)
            return replace(node, indices=tuple(i for i, extent in pairs if extent > 1))

        axes = tuple(a for a in stage.axes if a.name not in units)
        reduces = any(a.kind != SPATIAL for a in axes)
        body, combiner = rebuild(stage.body, change), stage.combiner if reduces else None
        return replace(stage, axes=axes, body=body, combiner=combiner)

    inputs = (replace(t, shape=tuple(e for e in t.shape if e > 1)) for t in dag.inputs)
    return _simplified(replace(dag, inputs=tuple(inputs), stages=tuple(map(dropped, dag.stages))))


# ------------------------------------------------------------------ finding cuts


def _needed(dag: ComputeDAG) -> _Cut | None:
    """A split that some quotient or remainder asks for."""
    for stage in dag.stages:
        for _, index in _indices(stage):
            try:
                _affine(index, _extents(stage))
            except _NotAffine as reason:
                if not reason.axis:
                    what = f"stage {stage.name!r} reads at a quotient that is no sum of axes"
                    raise UnsupportedProgram(what) from reason
                return _Cut(stage.name, reason.axis, reason.factor)
    return None


def _hidden(dag: ComputeDAG) -> _Cut | None:
    """A split of a dimension that is read as if it were several: at ``i * c + j``, ``j < c``."""
    for tensor, readers in dag.consumers.items():
        spatial = [] if tensor in dag.input_by_name else dag.stage(tensor).spatial
        for dimension, extent in enumerate(dag.shape_of(tensor)):
            reads = [
                (read.indices[dimension], _extents(dag.stage(name)))
                for name in readers
                for read in dag.stage(name).reads()
                if read.tensor == tensor
            ]
            factor = _common_factor(reads, extent)
            if factor:
                return _Cut(tensor, spatial[dimension].name if spatial else dimension, factor)
    return None


def _common_factor(reads: Sequence[tuple[Expr, Extents]], extent: int) -> int:
    """Where a dimension can be split, for some read and with all of them; 0 if nowhere."""
    for index, extents in reads:
        for factor in _places(index, extents):
            inside = 1 < factor < extent and extent % factor == 0
            if inside and all(_divides(i, e, factor) for i, e in reads):
                return factor
    return 0


def _places(index: Expr, extents: Extents) -> Iterator[int]:
    """Numbers that part the terms of an index into multiples and what is less, largest first."""
    form = affine(index)
    if form is None:
        return
    span = 1 + sum(c * (extents[name] - 1) for name, c in form.terms)
    if form.terms and form.constant:
        yield span
    yield from sorted({c for _, c in form.terms if c > 1}, reverse=True)


def _divides(index: Expr, extents: Extents, factor: int) -> bool:
    """Whether the index splits at ``factor``, perhaps after its only axis."""
    try:
        _quotient(affine(index), extents, factor)
    except _NotAffine as reason:
        return bool(reason.axis)
    return True


# ------------------------------------------------------------------ splitting


def _split(dag: ComputeDAG, cut: _Cut) -> ComputeDAG:
    if isinstance(cut.axis, int):
        shapes = (_split_shape(t, cut) if t.name == cut.tensor else t for t in dag.inputs)
        return _split_reads(replace(dag, inputs=tuple(shapes)), cut.tensor, cut.axis, cut.factor)
    stage = dag.stage(cut.tensor)
    names = [a.name for a in stage.spatial]
    changed = _split_stage(stage, cut.axis, cut.factor)
    dag = replace(dag, stages=tuple(changed if s is stage else s for s in dag.stages))
    if cut.axis not in names:
        return dag
    return _split_reads(dag, cut.tensor, names.index(cut.axis), cut.factor)


def _split_shape(tensor: Tensor, cut: _Cut) -> Tensor:
    assert isinstance(cut.axis, int)
    before, extent, *after = tensor.shape[: cut.axis], *tensor.shape[cut.axis :]
    shape = (*before, extent // cut.factor, cut.factor, *after)
    return replace(tensor, shape=shape)


def _split_stage(stage: Stage, name: str, factor: int) -> Stage:
    kind = stage.axis(name).kind
    high, low = (_unused(stage, name, suffix) for suffix in ("a", "b"))
    whole = sum_of(Affine(((high, factor), (low, 1)), 0))

    def change(node: Expr) -> Expr | None:
        return whole if node == Axis(name) else None

    axes: list[IterAxis] = []
    for axis in stage.axes:
        halves = (IterAxis(high, axis.extent // factor, kind), IterAxis(low, factor, kind))
        axes += halves if axis.name == name else (axis,)
    return replace(stage, axes=tuple(axes), body=rebuild(stage.body, change))


def _unused(stage: Stage, name: str, suffix: str) -> str:
    taken = {a.name for a in stage.axes}
    wanted = f"{name}{suffix}"
    while wanted in taken:
        wanted += suffix
    return wanted


def _split_reads(dag: ComputeDAG, tensor: str, dimension: int, factor: int) -> ComputeDAG:
    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor != tensor:
            return None
        index = node.indices[dimension]
        halves = (_divided("floordiv", index, factor), _divided("floormod", index, factor))
        indices = (*node.indices[:dimension], *halves, *node.indices[dimension + 1 :])
        return replace(node, indices=indices)

    stages = (replace(s, body=rebuild(s.body, change)) for s in dag.stages)
    return replace(dag, stages=tuple(stages))


# ------------------------------------------------------------------ indices


def _simplified(dag: ComputeDAG) -> ComputeDAG:
    """Indices that are sums of axes, written as such."""

    def simple(stage: Stage) -> Stage:
        extents = _extents(stage)

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read):
                return None
            return replace(node, indices=tuple(_as_sum(i, extents) for i in node.indices))

        return replace(stage, body=rebuild(stage.body, change))

    return replace(dag, stages=tuple(map(simple, dag.stages)))


def _as_sum(index: Expr, extents: Extents) -> Expr:
    try:
        form = _affine(index, extents)
    except _NotAffine:
        return index
    return index if form is None else sum_of(form)


def _indices(stage: Stage) -> Iterator[tuple[Read, Expr]]:
    return ((read, index) for read in stage.reads() for index in read.indices)


def _extents(stage: Stage) -> dict[str, int]:
    return {axis.name: axis.extent for axis in stage.axes}


def _affine(expr: Expr, extents: Extents) -> Affine | None:
    """``expr`` as a sum, its quotients taken; ``None`` where it depends on data.

    Raises :class:`_NotAffine` with the split that brings it nearer to one.
    """
    plain = affine(expr)
    if plain is not None or not isinstance(expr, Call):
        return plain
    if expr.op == "cast":
        return _affine(expr.args[0], extents)
    parts = [_affine(arg, extents) for arg in expr.args]
    if any(part is None for part in parts):
        return None
    left, right = parts if len(parts) == 2 else (None, None)
    if left is None or right is None:
        raise _NotAffine
    if expr.op in ("floordiv", "floormod") and not right.terms and right.constant > 0:
        halves = _quotient(left, extents, right.constant)
        return halves[0] if expr.op == "floordiv" else halves[1]
    form = affine(Call(expr.op, (sum_of(left), sum_of(right)), INDEX_DTYPE))
    if form is None:
        raise _NotAffine
    return form


def _quotient(form: Affine | None, extents: Extents, factor: int) -> tuple[Affine, Affine]:
    """Quotient and remainder of a sum by ``factor``."""
    if form is None:
        raise _NotAffine
    high = tuple((name, c // factor) for name, c in form.terms if c % factor == 0)
    low = tuple((name, c) for name, c in form.terms if c % factor)
    rest = form.constant % factor
    least = rest + sum(min(0, c * (extents[name] - 1)) for name, c in low)
    most = rest + sum(max(0, c * (extents[name] - 1)) for name, c in low)
    if least >= 0 and most < factor:
        return Affine(high, form.constant // factor), Affine(low, rest)
    for name, c in low:
        inside = factor // c if c > 0 and factor % c == 0 else 0
        if 1 < inside < extents[name] and extents[name] % inside == 0:
            raise _NotAffine(name, inside)
    raise _NotAffine


def sum_of(form: Affine, axes: tuple[IterAxis, ...] = ()) -> Expr:
    """The expression of a sum, largest coefficient first; unit axes are as good as 0."""
    found: Expr | None = None
    units = {a.name for a in axes if a.extent == 1}
    for name, coefficient in sorted(form.terms, key=lambda term: -term[1]):
        if name in units:
            continue
        term: Expr = Axis(name)
        if coefficient != 1:
            term = Call("mul", (term, Const(coefficient, INDEX_DTYPE)), INDEX_DTYPE)
        found = term if found is None else Call("add", (found, term), INDEX_DTYPE)
    constant = Const(form.constant, INDEX_DTYPE)
    if found is None:
        return constant
    return Call("add", (found, constant), INDEX_DTYPE) if form.constant else found


def _divided(op: str, index: Expr, by: int) -> Expr:
    return Call(op, (index, Const(by, INDEX_DTYPE)), INDEX_DTYPE)
