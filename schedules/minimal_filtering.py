"""Minimal filtering as a rewrite: sliding sums of products with fewer multiplications.

``y[i] = sum_k x[i + k] w[k]`` over tiles of ``m`` results and ``r`` taps costs ``m + r - 1``
multiplications instead of ``m r`` (Arithmetic Complexity of Computations, SIAM CBMS 33, 1980;
nested over two axes: Lavin and Gray, CVPR 2016). Read ``minimal_filtering`` first. Separate from
``rewrites.py`` because it brings its own arithmetic; the stages it leaves are ordinary, but for
*piecewise* axes: few values, one expression for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, reduce
from math import prod

from schedules.constant_products import product_with_constant
from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Affine, Axis, Call, Const, Expr, Read, affine
from schedules.steps import MinimalFiltering

Matrix = tuple[tuple[Fraction, ...], ...]

# Small magnitudes first: the error grows with the powers of the points.
POINTS = tuple(Fraction(p) for p in (0, 1, -1, 2, -2))


@dataclass(frozen=True, slots=True)
class Slide:
    """``axis`` (spatial) and ``tap`` (reduce) enter the data as a sum, in one ``dimension``.

    So does ``phase``, where there is one: a spatial axis that has filters of its own.
    """

    axis: IterAxis
    tap: IterAxis
    dimension: int
    offset: int
    phase: IterAxis | None = None


@dataclass(frozen=True)
class Sliding:
    """A stage that sums ``data * filter`` over taps that slide; ``slides`` in order of ``data``."""

    stage: Stage
    data: Read
    filter: Read
    slides: tuple[Slide, ...]


@cache
def transforms(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """``A [outputs, n]``, ``G [n, taps]``, ``B [n, n]`` with ``n = outputs + taps - 1``.

    ``y = A ((G w) * (B x))`` for ``x [n]``, ``w [taps]`` (Toom and Cook: interpolation at
    :data:`POINTS` and infinity). Raises :class:`ScheduleError` where there are too few points.
    """
    points = POINTS[: outputs + taps - 2]
    if len(points) < outputs + taps - 2:
        raise ScheduleError(f"no filter of {outputs} results and {taps} taps is known")
    last = Fraction(0), Fraction(1)
    gather = [[p**i for p in points] + [last[i == outputs - 1]] for i in range(outputs)]
    scale = [prod((p - q for q in points if q != p), start=Fraction(1)) for p in points]
    spread = [[p**k / f for k in range(taps)] for p, f in zip(points, scale, strict=True)]
    spread.append([last[k == taps - 1] for k in range(taps)])
    split = [[*_monic([q for q in points if q != p]), Fraction(0)] for p in points]
    split.append(_monic(points))
    return _matrix(gather), _matrix(spread), _matrix(split)


def _matrix(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def _monic(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest power first, of the product of ``x - root``."""

    def times(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
        shifted = [Fraction(0), *polynomial]
        return [a - root * b for a, b in zip(shifted, [*polynomial, Fraction(0)], strict=True)]

    return reduce(times, roots, [Fraction(1)])


# ------------------------------------------------------------------ recognising


def sliding(dag: ComputeDAG, stage: Stage) -> Sliding | None:
    """What slides in ``stage``, if it sums plain products of data and a constant filter."""
    found = product_with_constant(dag, stage)
    if found is None:
        return None
    slides = tuple(_slides(stage, *found))
    return Sliding(stage, *found, slides) if slides else None


def _slides(stage: Stage, data: Read, weights: Read) -> list[Slide]:
    found = []
    indices = [affine(i) for i in data.indices]
    for dimension, index in enumerate(indices):
        if index is None or any(c != 1 for _, c in index.terms):
            continue
        axes = [stage.axis(name) for name, _ in index.terms]
        plain = [i.name for i in weights.indices if isinstance(i, Axis)]
        # In this order: what the filter does not move with, what it moves with, what is summed.
        axes.sort(key=lambda a: (a.kind == REDUCE, a.name in plain))
        others = [x for d, x in enumerate(indices) if d != dimension]
        if [a.kind for a in axes] not in ([SPATIAL, REDUCE], [SPATIAL, SPATIAL, REDUCE]):
            continue
        if len(plain) == len(weights.indices) and _only_there(axes, others, plain):
            phase = axes[1] if len(axes) > 2 else None
            found.append(Slide(axes[0], axes[-1], dimension, index.constant, phase))
    return found


def _only_there(axes: list[IterAxis], others: list[Affine | None], plain: list[str]) -> bool:
    """The filter moves with all but the first, and no other dimension of the data with any."""
    if any(x is None or any(x.coefficient(a.name) for a in axes) for x in others):
        return False
    return [plain.count(a.name) for a in axes] == [0, *(1 for _ in axes[1:])]


# ------------------------------------------------------------------ rewriting


@dataclass(frozen=True)
class _Filtered:
    """Names and extents of the tiles of one slide: ``axis = tile * outputs + rest``."""

    slide: Slide
    outputs: int

    @property
    def points(self) -> IterAxis:
        return IterAxis(f"{self.slide.axis.name}.point", self.outputs + self.slide.tap.extent - 1)

    @property
    def tiles(self) -> IterAxis:
        return IterAxis(f"{self.slide.axis.name}.tile", -(-self.slide.axis.extent // self.outputs))

    @property
    def rest(self) -> IterAxis:
        return IterAxis(f"{self.slide.axis.name}.rest", self.outputs)

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        return transforms(self.outputs, self.slide.tap.extent)

    @property
    def leading(self) -> tuple[IterAxis, ...]:
        """Axes of the spread data that the data has not: the points, and the phase if any."""
        return (self.points, self.slide.phase) if self.slide.phase else (self.points,)


def minimal_filtering(dag: ComputeDAG, step: MinimalFiltering) -> ComputeDAG:
    """``s[.., i, ..] = sum x[.., i + k, ..] w[k, ..]`` by tiles of ``step.outputs`` results.

    The constant filter of the result is the transformed one (see :func:`constant_filter`). Stages:
    ``s.spread*`` (the data at the points, an axis each), ``s.products`` (what is left to multiply
    and sum), ``s.gather*`` (back to results) and ``s``, which reads the results tile by tile.
    """
    found, parts = _parts(dag, step)
    stage = found.stage
    spread, data = _spread_stages(dag, found, parts)
    filtered = _filter_tensor(dag, found, parts)
    products = _products(found, parts, data, filtered)
    gather, result = _gather_stages(found, parts, products)
    copy = Stage(stage.name, stage.spatial, result, stage.dtype)
    stages: list[Stage] = []
    for old in dag.stages:
        new = (*spread, products, *gather, copy) if old.name == stage.name else (old,)
        stages.extend(new)
    inputs = tuple(filtered if t.name == filtered.name else t for t in dag.inputs)
    return ComputeDAG(inputs, tuple(stages), dag.outputs)


def constant_filter(dag: ComputeDAG, step: MinimalFiltering) -> ComputeDAG:
    """The program, over constants alone, of the filter that ``step`` leaves; its only output."""
    found, parts = _parts(dag, step)
    source = dag.input_by_name[found.filter.tensor]
    names = [f"d{i}" for i in range(len(source.shape))]
    taps = {part.slide.tap.name: part for part in parts}
    stages: list[Stage] = []
    tensor, axes = source.name, [IterAxis(n, e) for n, e in zip(names, source.shape, strict=True)]
    for dimension, index in enumerate(found.filter.indices):
        assert isinstance(index, Axis)
        if index.name not in taps:
            continue
        part = taps[index.name]
        tap = replace(axes[dimension], name="tap", kind=REDUCE)
        read = [Axis("tap") if d == dimension else Axis(a.name) for d, a in enumerate(axes)]
        axes[dimension] = replace(axes[dimension], extent=part.points.extent)
        weight = _entry(part.matrices[1], axes[dimension].name, "tap", source.dtype)
        body = Call("mul", (weight, Read(tensor, tuple(read), source.dtype)), source.dtype)
        tensor = f"{source.name}.{dimension}"
        stages.append(Stage(tensor, (*axes, tap), body, source.dtype, "sum"))
    return ComputeDAG((source,), tuple(stages), (tensor,))


def _parts(dag: ComputeDAG, step: MinimalFiltering) -> tuple[Sliding, tuple[_Filtered, ...]]:
    what = f"minimal_filtering of {step.stage!r}"
    if step.stage not in dag.by_name:
        raise ScheduleError(f"{what}: there is no such stage")
    found = sliding(dag, dag.by_name[step.stage])
    if found is None:
        raise ScheduleError(f"{what}: it does not slide a constant filter over data")
    by_axis = {s.axis.name: s for s in found.slides}
    if not step.axes or any(a not in by_axis for a in step.axes):
        raise ScheduleError(f"{what}: of {list(step.axes)} only {list(by_axis)} slide")
    parts = tuple(_Filtered(s, step.outputs) for s in found.slides if s.axis.name in step.axes)
    for part in parts:
        transforms(part.outputs, part.slide.tap.extent)
    return found, parts


def _spread_stages(
    dag: ComputeDAG, found: Sliding, parts: tuple[_Filtered, ...]
) -> tuple[list[Stage], Stage]:
    """The data at the points, one slide after the other: all others keep their positions."""
    tensor = found.data.tensor
    shape = dag.shape_of(tensor)
    dtype = found.stage.dtype
    axes = [IterAxis(f"d{i}", e) for i, e in enumerate(shape)]
    points: list[IterAxis] = []
    stages: list[Stage] = []
    for number, part in enumerate(parts):
        d = part.slide.dimension
        size = axes[d].extent
        axes[d] = part.tiles
        places: tuple[Expr, ...] = tuple(Axis(a.name) for a in (*points, *axes))
        element = _element_of_tile(Read(tensor, places, dtype), len(points) + d, part, size)
        pieces = [combination(row, element, dtype) for row in part.matrices[2]]
        points = [*points, *part.leading]
        tensor = f"{found.stage.name}.spread{number}"
        body = piecewise(part.points.name, pieces, dtype)
        stages.append(Stage(tensor, (*points, *axes), body, dtype))
    return stages, stages[-1]


def _element_of_tile(
    read: Read, position: int, part: _Filtered, size: int
) -> Callable[[int], Expr]:
    """Element ``k`` of the data of a tile; zero beyond the end of a last tile that is not full.

    ``read`` names the tile in dimension ``position``, whose extent is ``size``.
    """

    def element(k: int) -> Expr:
        start = k + part.slide.offset
        place = _plus(_times(Axis(part.tiles.name), part.outputs), start)
        if part.slide.phase is not None:
            place = Call("add", (place, Axis(part.slide.phase.name)), INDEX_DTYPE)
            start += part.slide.phase.extent - 1
        indices = (*read.indices[:position], place, *read.indices[position + 1 :])
        value = replace(read, indices=indices)
        if (part.tiles.extent - 1) * part.outputs + start < size:
            return value
        inside = Call("lt", (place, Const(size, INDEX_DTYPE)), "bool")
        return Call("select", (inside, value, Const(0.0, read.dtype)), read.dtype)

    return element


def _filter_tensor(dag: ComputeDAG, found: Sliding, parts: tuple[_Filtered, ...]) -> Tensor:
    source = dag.input_by_name[found.filter.tensor]
    points = {p.slide.tap.name: p.points.extent for p in parts}
    names = [i.name for i in found.filter.indices if isinstance(i, Axis)]
    shape = tuple(points.get(n, e) for n, e in zip(names, source.shape, strict=True))
    return replace(source, shape=shape)


def _products(found: Sliding, parts: tuple[_Filtered, ...], data: Stage, filtered: Tensor) -> Stage:
    stage = found.stage
    by_axis = {p.slide.axis.name: p for p in parts}
    by_tap = {p.slide.tap.name: p for p in parts}
    spatial = [by_axis[a.name].tiles if a.name in by_axis else a for a in stage.spatial]
    reduce_axes = [a for a in stage.reduce if a.name not in by_tap]
    dimensions = {p.slide.dimension: Axis(p.tiles.name) for p in parts}
    place = [dimensions.get(d, i) for d, i in enumerate(found.data.indices)]
    point_axes = [Axis(a.name) for p in parts for a in p.leading]
    weights = [
        Axis(by_tap[i.name].points.name) if isinstance(i, Axis) and i.name in by_tap else i
        for i in found.filter.indices
    ]
    body = Call(
        "mul",
        (
            Read(data.name, (*point_axes, *place), stage.dtype),
            Read(filtered.name, tuple(weights), stage.dtype),
        ),
        stage.dtype,
    )
    axes = (*(p.points for p in parts), *spatial, *reduce_axes)
    combiner = "sum" if reduce_axes else None
    return Stage(f"{stage.name}.products", axes, body, stage.dtype, combiner)


def _gather_stages(
    found: Sliding, parts: tuple[_Filtered, ...], products: Stage
) -> tuple[list[Stage], Expr]:
    """Points to results, the first slide first; at last a read of the results in place."""
    dtype = found.stage.dtype
    tensor, axes = products.name, list(products.spatial)
    stages: list[Stage] = []
    for number, part in enumerate(parts):
        where = next(i for i, a in enumerate(axes) if a.name == part.points.name)
        tile = next(i for i, a in enumerate(axes) if a.name == part.tiles.name)
        names = [Axis(a.name) for a in axes]

        element = _element_at_point(Read(tensor, tuple(names), dtype), where)
        pieces = [combination(row, element, dtype) for row in part.matrices[0]]
        axes = [*axes[:where], *axes[where + 1 : tile + 1], part.rest, *axes[tile + 1 :]]
        tensor = f"{found.stage.name}.gather{number}"
        body = piecewise(part.rest.name, pieces, dtype)
        stages.append(Stage(tensor, tuple(axes), body, dtype))
    values = {
        name: Call(op, (Axis(p.slide.axis.name), Const(p.outputs, INDEX_DTYPE)), INDEX_DTYPE)
        for p in parts
        for name, op in ((p.tiles.name, "floordiv"), (p.rest.name, "floormod"))
    }
    indices = tuple(values.get(a.name, Axis(a.name)) for a in axes)
    return stages, Read(tensor, indices, dtype)


def _element_at_point(read: Read, where: int) -> Callable[[int], Expr]:
    """``read`` at point ``k``, which dimension ``where`` counts."""

    def element(k: int) -> Expr:
        point = Const(k, INDEX_DTYPE)
        return replace(read, indices=(*read.indices[:where], point, *read.indices[where + 1 :]))

    return element


# ------------------------------------------------------------------ expressions


def combination(row: Sequence[Fraction], element: Callable[[int], Expr], dtype: str) -> Expr:
    """``sum(row[k] * element(k))`` without the terms and factors that do nothing."""
    total: Expr | None = None
    # Positive terms first, so that no negation is left over.
    terms = sorted(((k, c) for k, c in enumerate(row) if c), key=lambda t: t[1] < 0)
    for k, coefficient in terms:
        value: Expr = element(k)
        if abs(coefficient) != 1:
            value = Call("mul", (value, Const(float(abs(coefficient)), dtype)), dtype)
        if total is None:
            total = value if coefficient > 0 else Call("sub", (Const(0.0, dtype), value), dtype)
        else:
            total = Call("add" if coefficient > 0 else "sub", (total, value), dtype)
    assert total is not None
    return total


def piecewise(axis: str, pieces: Sequence[Expr], dtype: str) -> Expr:
    """``pieces[i]`` where ``axis == i``."""
    body = pieces[-1]
    for value in range(len(pieces) - 2, -1, -1):
        here = Call("eq", (Axis(axis), Const(value, INDEX_DTYPE)), "bool")
        body = Call("select", (here, pieces[value], body), dtype)
    return body


def _entry(matrix: Matrix, row: str, column: str, dtype: str) -> Expr:
    rows = [piecewise(column, [Const(float(x), dtype) for x in r], dtype) for r in matrix]
    return piecewise(row, rows, dtype)


def _plus(expr: Expr, constant: int) -> Expr:
    return Call("add", (expr, Const(constant, INDEX_DTYPE)), INDEX_DTYPE) if constant else expr


def _times(expr: Expr, factor: int) -> Expr:
    return Call("mul", (expr, Const(factor, INDEX_DTYPE)), INDEX_DTYPE)
