"""Products of matrices by quarters: seven instead of eight, as a rewrite.

``y = x w`` with ``x``, ``w`` and ``y`` cut in two along rows, columns and the sum: seven products
of sums of quarters give all four quarters of ``y`` (Strassen, Gaussian elimination is not optimal,
Numerische Mathematik 13, 1969). The sums of a constant ``w`` are made when a network is compiled.
Halves of an odd number of rows or columns share one, which the first half gives to ``y``.
Read ``minimal_filtering.py`` first, whose stages around the products are like these. Separate
because there operands slide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from schedules.constant_products import product_with_constant
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, rebuild, walk
from schedules.minimal_filtering import combination, piecewise
from schedules.output_tiles import tile_and_rest, tile_stride
from schedules.steps import QuarterProducts

PRODUCTS = 7
# Quarters 11, 12, 21, 22 of ``x`` and of ``w`` in each product; products in each quarter of ``y``.
_DATA = (
    (1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0), (-1, 0, 1, 0),
    (0, 1, 0, -1),
)  # fmt: skip
_WEIGHTS = (
    (1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, -1), (-1, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0),
    (0, 0, 1, 1),
)  # fmt: skip
_RESULT = (
    (1, 0, 0, 1, -1, 0, 1), (0, 0, 1, 0, 1, 0, 0), (0, 1, 0, 1, 0, 0, 0), (1, -1, 1, 0, 0, 1, 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quarters:
    """``stage`` sums ``data[row, sum] * weights[sum, column]``; the axis of the sum is even."""

    stage: Stage
    data: Read
    weights: Read
    row: IterAxis
    column: IterAxis
    sum: IterAxis


def quarters(dag: ComputeDAG, stage: Stage) -> Quarters | None:
    """How ``stage`` can be computed by quarters, if it multiplies by a constant matrix."""
    found = product_with_constant(dag, stage)
    return None if found is None or len(stage.reduce) != 1 else _halves(stage, *found)


def _halves(stage: Stage, data: Read, weights: Read) -> Quarters | None:
    (summed,) = stage.reduce
    columns = [a for a in stage.spatial if Axis(a.name) in weights.indices]
    rows = [a for a in stage.spatial if Axis(a.name) in data.indices]
    plain = all(isinstance(i, Axis) for i in weights.indices) and len(weights.indices) == 2
    if not plain or len(columns) != 1 or Axis(summed.name) not in weights.indices:
        return None
    column = columns[0]
    halved = [a for a in rows if a.extent > 1 and _only_once(data, a.name)]
    apart = column not in rows and _only_once(data, summed.name)
    if not halved or not apart or column.extent < 2 or summed.extent % 2:
        return None
    row = max(halved, key=lambda a: (a.extent % 2 == 0, a.extent))
    return Quarters(stage, data, weights, row, column, summed)


def _only_once(read: Read, name: str) -> bool:
    uses = [e for i in read.indices for e in walk(i) if e == Axis(name)]
    return len(uses) == 1 and Axis(name) in read.indices


def quarter_products(dag: ComputeDAG, step: QuarterProducts) -> ComputeDAG:
    """``s`` by way of ``s.spread0`` (sums of quarters of the data), ``s.products``, ``s.gather0``.

    The constant of the result holds the sums of its quarters (see :func:`constant_quarters`).
    """
    found = _found(dag, step)
    stage = found.stage
    spread, products, gather = _spread(found), _products(found), _gather(found)
    copy = Stage(stage.name, stage.spatial, _result(found, gather), stage.dtype)
    stages: list[Stage] = []
    for old in dag.stages:
        stages.extend((spread, products, gather, copy) if old.name == stage.name else (old,))
    inputs = tuple(
        _weights(dag, found) if t.name == found.weights.tensor else t for t in dag.inputs
    )
    return ComputeDAG(inputs, tuple(stages), dag.outputs)


def constant_quarters(dag: ComputeDAG, step: QuarterProducts) -> ComputeDAG:
    """The program, over constants alone, of the matrix that ``step`` leaves; its only output."""
    found = _found(dag, step)
    source = dag.input_by_name[found.weights.tensor]
    dtype = source.dtype
    halves = [IterAxis(f"d{n}", half_of(extent)) for n, extent in enumerate(source.shape)]
    body: Expr | None = None
    for number in range(4):
        sides = {found.sum.name: number // 2, found.column.name: number % 2}
        places = tuple(
            _in_half(half, extent, sides[index.name])
            for half, extent, index in zip(halves, source.shape, found.weights.indices, strict=True)
            if isinstance(index, Axis)
        )
        factors = [Const(float(row[number]), dtype) for row in _WEIGHTS]
        read = Read(source.name, places, dtype)
        term = Call("mul", (piecewise("product", factors, dtype), read), dtype)
        body = term if body is None else Call("add", (body, term), dtype)
    assert body is not None
    axes = (IterAxis("product", PRODUCTS), *halves)
    name = f"{source.name}.quarters"
    return ComputeDAG((source,), (Stage(name, axes, body, dtype),), (name,))


def half_of(extent: int) -> int:
    """Elements of each half; two halves of an odd number share one."""
    return -(-extent // 2)


def _in_half(half: IterAxis, extent: int, side: int) -> Expr:
    place: Expr = Axis(half.name)
    start = tile_stride(extent, half.extent)
    return Call("add", (place, _number(start)), INDEX_DTYPE) if side else place


def _found(dag: ComputeDAG, step: QuarterProducts) -> Quarters:
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else quarters(dag, stage)
    if found is None:
        raise ScheduleError(f"quarter_products of {step.stage!r}: it is no product to halve")
    return found


def _half(axis: IterAxis) -> IterAxis:
    return IterAxis(f"{axis.name}.rest", half_of(axis.extent), axis.kind)


def _side(axis: IterAxis) -> IterAxis:
    return IterAxis(f"{axis.name}.tile", 2)


def _point(found: Quarters) -> IterAxis:
    return IterAxis(f"{found.row.name}.point", PRODUCTS)


def _moved(expr: Expr, axes: Sequence[tuple[IterAxis, int]]) -> Expr:
    """``expr`` with axes replaced by their halves, in the first or in the second one."""
    values: dict[Expr, Expr] = {}
    for axis, side in axes:
        values[Axis(axis.name)] = _in_half(_half(axis), axis.extent, side)
    return rebuild(expr, values.get)


def _spread_axes(found: Quarters) -> list[IterAxis]:
    """Axes that the data moves with, in the order of its dimensions; the halved ones as halves."""
    stage = found.stage
    names = list(
        dict.fromkeys(e.name for i in found.data.indices for e in walk(i) if isinstance(e, Axis))
    )
    halved = (found.row, found.sum)
    return [_half(a) if a in halved else a for a in (stage.axis(name) for name in names)]


def _spread(found: Quarters) -> Stage:
    dtype = found.stage.dtype

    def quarter(number: int) -> Expr:
        return _moved(found.data, ((found.row, number // 2), (found.sum, number % 2)))

    pieces = [_combined(row, quarter, dtype) for row in _DATA]
    axes = [replace(a, kind="spatial") for a in (_point(found), *_spread_axes(found))]
    body = piecewise(_point(found).name, pieces, dtype)
    return Stage(f"{found.stage.name}.spread0", tuple(axes), body, dtype)


def _weights(dag: ComputeDAG, found: Quarters) -> Tensor:
    source = dag.input_by_name[found.weights.tensor]
    return replace(source, shape=(PRODUCTS, *(half_of(e) for e in source.shape)))


def _products(found: Quarters) -> Stage:
    stage, point = found.stage, _point(found)
    halved = (found.row, found.column)
    spatial = [_half(a) if a in halved else a for a in stage.spatial]
    data = tuple(Axis(a.name) for a in (point, *_spread_axes(found)))
    weights = _moved(found.weights, ((found.sum, 0), (found.column, 0)))
    assert isinstance(weights, Read)
    weights = replace(weights, indices=(Axis(point.name), *weights.indices))
    body = Call("mul", (Read(f"{stage.name}.spread0", data, stage.dtype), weights), stage.dtype)
    axes = (point, *spatial, _half(found.sum))
    return Stage(f"{stage.name}.products", axes, body, stage.dtype, "sum")


def _gather(found: Quarters) -> Stage:
    stage = found.stage
    halved = (found.row, found.column)
    axes = [x for a in stage.spatial for x in ((_side(a), _half(a)) if a in halved else (a,))]
    names = [_half(a) if a in halved else a for a in stage.spatial]

    def product(number: int) -> Expr:
        places: tuple[Expr, ...] = (_number(number), *(Axis(a.name) for a in names))
        return Read(f"{stage.name}.products", places, stage.dtype)

    sides = [
        piecewise(
            _side(found.column).name,
            [_combined(_RESULT[2 * down + across], product, stage.dtype) for across in (0, 1)],
            stage.dtype,
        )
        for down in (0, 1)
    ]
    body = piecewise(_side(found.row).name, sides, stage.dtype)
    return Stage(f"{stage.name}.gather0", tuple(axes), body, stage.dtype)


def _result(found: Quarters, gather: Stage) -> Expr:
    indices: list[Expr] = []
    for axis in found.stage.spatial:
        if axis in (found.row, found.column):
            indices += tile_and_rest(Axis(axis.name), axis.extent, half_of(axis.extent))
        else:
            indices.append(Axis(axis.name))
    return Read(gather.name, tuple(indices), gather.dtype)


def _combined(row: Sequence[int], element: Callable[[int], Expr], dtype: str) -> Expr:
    return combination([Fraction(c) for c in row], element, dtype)


def _number(value: int) -> Const:
    return Const(value, INDEX_DTYPE)
