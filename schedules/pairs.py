"""Products of matrices by pairs of summands: additions in the place of multiplications, a rewrite.

``x[a] w[a] + x[b] w[b] = (x[a] + w[b]) (x[b] + w[a]) - x[a] x[b] - w[a] w[b]``: one multiplication
for two, and what is subtracted is a sum per row and a sum per column (A new algorithm for inner
product, IEEE Transactions on Computers C-17, 1968). A processor whose adders work beside its
multipliers takes two thirds of the time when two summands of three come in a pair. Read
``quarters.py`` first. Separate because what is added here is a row to a column: both must be of one
size (Brent, Stanford CS-157, 1970), so rows are divided by their mean magnitude, and so are the
constants, when a network is compiled.

A row lies between zeros. Its first third are single summands, read backwards, its second one the
first ones of pairs and its last one the second ones: behind the last group, singles and second ones
are zeros, and the first one is what the second one of the first group is. That group has what is
subtracted from a column, and no sum must be a multiple of three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from schedules.constant_products import product_with_constant
from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, rebuild, walk
from schedules.minimal_filtering import piecewise
from schedules.steps import PairProducts

DTYPE = "float32"
# Summands that are multiplied together in one step: one as it stands, and a pair.
GROUP = 3
# Elements of a cache line: the zeros before a row, and what its length is a multiple of.
LINE = 16
# Products of elements of a row add up where all are positive, those of weights hardly.
ROWS_SMALLER = 2
# Rows and matrices of zeros are divided by this.
SMALLEST = 1e-30


@dataclass(frozen=True, slots=True)
class Paired:
    """``stage`` sums ``data[rows, taps, sum] * weights[held, taps, sum, column]``.

    ``held``: rows that have weights of their own; ``taps``: the other axes of the reduction.
    """

    stage: Stage
    data: Read
    weights: Read
    rows: tuple[IterAxis, ...]
    held: tuple[IterAxis, ...]
    taps: tuple[IterAxis, ...]
    sum: IterAxis
    column: IterAxis

    @property
    def groups(self) -> int:
        """Groups of summands; one more holds what belongs to the columns alone."""
        return -(-self.sum.extent // GROUP)

    @property
    def length(self) -> int:
        """Of a row with its zeros: an odd number of lines.

        Rows of a power of two of them would throw each other out of a cache.
        """
        lines = -(-(LINE + GROUP * self.groups + 1) // LINE)
        return (lines + 1 - lines % 2) * LINE


def paired(dag: ComputeDAG, stage: Stage) -> Paired | None:
    """How ``stage`` can be computed by pairs, if it multiplies by a constant matrix."""
    found = product_with_constant(dag, stage)
    return None if found is None or stage.dtype != DTYPE else _roles(stage, *found)


def _roles(stage: Stage, data: Read, weights: Read) -> Paired | None:
    names = [i.name for i in weights.indices if isinstance(i, Axis)]
    moving = [e.name for i in data.indices for e in walk(i) if isinstance(e, Axis)]
    columns = [a for a in stage.spatial if a.name in names and a.name not in moving]
    rows = tuple(a for a in stage.spatial if a not in columns)
    held = tuple(a for a in rows if a.name in names)
    summed = [a for a in stage.reduce if Axis(a.name) in data.indices]
    plain = all(isinstance(i, Axis | Const) for i in weights.indices)
    if len(columns) != 1 or not summed or rows == held or not plain:
        return None
    longest = max(summed, key=lambda a: a.extent)
    if longest.extent < 2 * GROUP:
        return None
    taps = tuple(a for a in stage.reduce if a != longest)
    if not _once(moving, (*rows, *taps, longest)):
        return None
    if not _once(names, (*held, *taps, longest, *columns)):
        return None
    return Paired(stage, data, weights, rows, held, taps, longest, columns[0])


def _once(names: list[str], axes: tuple[IterAxis, ...]) -> bool:
    return sorted(names) == sorted(a.name for a in axes)


def pair_products(dag: ComputeDAG, step: PairProducts) -> ComputeDAG:
    """``s`` by way of ``s.size``, ``s.inverse``, ``s.cross``, ``s.spread`` and ``s.pairs``.

    The constant of the result holds the groups of its rows (see :func:`constant_pairs`). Errors are
    those of a sum as long of products of mean size; a row that holds an infinity becomes NaN.
    """
    found = _found(dag, step)
    before = (_size(found), _inverse(found), _cross(found), _spread(found))
    result = replace(found.stage, axes=found.stage.spatial, body=_result(found), combiner=None)
    new = (*before, _pairs(found), result)
    stages: list[Stage] = []
    for old in dag.stages:
        stages.extend(new if old.name == found.stage.name else (old,))
    inputs = tuple(
        replace(t, shape=_shape(found)) if t.name == found.weights.tensor else t for t in dag.inputs
    )
    return ComputeDAG(inputs, tuple(stages), dag.outputs)


def constant_pairs(dag: ComputeDAG, step: PairProducts) -> ComputeDAG:
    """The program, over constants alone, of the matrix that ``step`` leaves; its only output.

    ``w'[g, c, j]``: for summand ``c`` of group ``g``, a single one, the first or the second one of
    a pair; divided by the mean magnitude of all. Behind the last group: the divisor, that a single
    zero meets; one, for a first one that has one less where it is a second one; and what is
    subtracted from column ``j``, which is added to that first one.
    """
    found = _found(dag, step)
    outer, groups, column = _outer(found), found.groups, found.column
    place, group, part = (f"{found.sum.name}.{what}" for what in ("place", "group", "part"))
    every = tuple(replace(a, kind=REDUCE) for a in (*outer, found.sum, column))
    size = Stage("size", (IterAxis("one", 1), *every), _call("abs", found.weights), DTYPE, "sum")
    divisor = _mean(Read("size", (_number(0),), DTYPE), every)
    weight = rebuild(found.weights, lambda e: Axis(place) if e == Axis(found.sum.name) else None)
    inside = _is("lt", Axis(place), _number(found.sum.extent))
    whole = _select(inside, _call("div", weight, divisor), _real(0))
    less = _select(_is("eq", Axis(place), _number(2 * groups)), _real(1), _real(0))
    axes = (*outer, IterAxis(place, GROUP * groups), column)
    scaled = Stage("scaled", axes, _call("sub", whole, less), DTYPE)
    elements = [
        Read("scaled", (*_axes(outer), index, Axis(column.name)), DTYPE)
        for index in _elements(found, 0)
    ]
    axes = (*outer, column, IterAxis(group, groups, REDUCE))
    crossed = Stage("crossed", axes, _call("mul", *elements[1:]), DTYPE, "sum")
    too_much = Read("crossed", _axes((*outer, column)), DTYPE)
    last = piecewise(part, [divisor, _real(1), _call("sub", _real(0), too_much)], DTYPE)
    inside = _is("lt", Axis(group), _number(groups))
    body = _select(inside, piecewise(part, elements, DTYPE), last)
    axes = (*outer, IterAxis(group, groups + 1), IterAxis(part, GROUP), column)
    name = f"{found.weights.tensor}.pairs"
    stages = (size, scaled, crossed, Stage(name, axes, body, DTYPE))
    return ComputeDAG((dag.input_by_name[found.weights.tensor],), stages, (name,))


def _found(dag: ComputeDAG, step: PairProducts) -> Paired:
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else paired(dag, stage)
    if found is None:
        raise ScheduleError(f"pair_products of {step.stage!r}: it is no product with a constant")
    return found


def _outer(found: Paired) -> tuple[IterAxis, ...]:
    """Axes of the constant that its rows and columns are not."""
    return tuple(replace(a, kind=SPATIAL) for a in (*found.held, *found.taps))


def _shape(found: Paired) -> tuple[int, ...]:
    outer = (a.extent for a in _outer(found))
    return (*outer, found.groups + 1, GROUP, found.column.extent)


def _elements(found: Paired, zeros: int) -> tuple[Expr, ...]:
    """Where the elements of a group are, behind so many zeros: a single one, and two of a pair."""
    group, start = Axis(f"{found.sum.name}.group"), zeros + found.groups
    single = Call("sub", (_number(start - 1), group), INDEX_DTYPE)
    return single, _plus(group, start), _plus(group, start + found.groups)


def _mean(total: Expr, axes: tuple[IterAxis, ...]) -> Expr:
    mean = _call("mul", total, _real(1 / prod(a.extent for a in axes)))
    return _call("max", mean, _real(SMALLEST))


def _size(found: Paired) -> Stage:
    """The sum of the magnitudes of a row."""
    axes = (*found.rows, *found.taps, found.sum)
    return Stage(f"{found.stage.name}.size", axes, _call("abs", found.data), DTYPE, "sum")


def _scale(found: Paired) -> Expr:
    mean = _mean(_at_rows(found, "size"), (*found.taps, found.sum))
    return _call("mul", mean, _real(ROWS_SMALLER))


def _inverse(found: Paired) -> Stage:
    body = _call("div", _real(1), _scale(found))
    return Stage(f"{found.stage.name}.inverse", found.rows, body, DTYPE)


def _scaled(found: Paired, place: Expr) -> Expr:
    """An element of a row, divided by the size of the row."""
    data = rebuild(found.data, lambda e: place if e == Axis(found.sum.name) else None)
    return _call("mul", data, _at_rows(found, "inverse"))


def _cross(found: Paired) -> Stage:
    """What every result of a row has too much: the products of the elements of pairs.

    In whole lines, so that vectors add them up; what stands before the first pair does not count.
    """
    pairs, groups = found.sum.extent - 2 * found.groups, found.groups
    lines = -(-pairs // LINE) * LINE
    before = lines - pairs if lines - pairs <= groups else 0
    group = IterAxis(f"{found.sum.name}.group", before + pairs, REDUCE)
    factors = [_scaled(found, _plus(Axis(group.name), n * groups - before)) for n in (1, 2)]
    counts = _select(_is("lt", Axis(group.name), _number(before)), _real(0), _real(1))
    product = _call("mul", *factors)
    body = _call("mul", product, counts) if before else product
    axes = (*found.rows, *found.taps, group)
    return Stage(f"{found.stage.name}.cross", axes, body, DTYPE, "sum")


def _spread(found: Paired) -> Stage:
    """``[rows, taps, place]``: scaled rows between zeros.

    The first two of the zeros make room for what is to be done to the results.
    """
    place = f"{found.sum.name}.place"
    zeros = [_number(0)] * len(_outer(found))
    indices = (*zeros, _number(found.groups), _number(0), _number(0))
    scale = _call("mul", _scale(found), Read(found.weights.tensor, indices, DTYPE))
    room = _select(_is("lt", Axis(place), _number(1)), _at_rows(found, "cross"), scale)
    outside = _select(_is("lt", Axis(place), _number(2)), room, _real(0))
    begun = _is("le", _number(LINE), Axis(place))
    inside = _is("and", begun, _is("lt", Axis(place), _number(LINE + found.sum.extent)))
    body = _select(inside, _scaled(found, _plus(Axis(place), -LINE)), outside)
    axes = (*found.rows, *_spatial(found.taps), IterAxis(place, found.length))
    return Stage(f"{found.stage.name}.spread", axes, body, DTYPE)


def _pairs(found: Paired) -> Stage:
    stage, group = found.stage, IterAxis(f"{found.sum.name}.group", found.groups + 1, REDUCE)
    single, *pair = (_in_row(found, "spread", index) for index in _elements(found, LINE))
    places, column = _axes((*_outer(found), group)), Axis(found.column.name)
    weights = [
        Read(found.weights.tensor, (*places, _number(n), column), DTYPE) for n in range(GROUP)
    ]
    factors = (_call("add", a, b) for a, b in zip(pair, reversed(weights[1:]), strict=True))
    body = _call("add", _call("mul", *factors), _call("mul", single, weights[0]))
    return Stage(f"{stage.name}.pairs", (*stage.spatial, *found.taps, group), body, DTYPE, "sum")


def _result(found: Paired) -> Expr:
    stage = found.stage
    sums = Read(f"{stage.name}.pairs", _axes(stage.spatial), DTYPE)
    first: dict[Expr, Expr] = {Axis(a.name): _number(0) for a in found.taps}
    cross, scale = (rebuild(_in_row(found, "spread", _number(n)), first.get) for n in (0, 1))
    return _call("mul", _call("sub", sums, cross), scale)


def _at_rows(found: Paired, what: str) -> Read:
    return Read(f"{found.stage.name}.{what}", _axes(found.rows), DTYPE)


def _in_row(found: Paired, what: str, place: Expr) -> Read:
    return Read(f"{found.stage.name}.{what}", (*_axes((*found.rows, *found.taps)), place), DTYPE)


def _spatial(axes: tuple[IterAxis, ...]) -> tuple[IterAxis, ...]:
    return tuple(replace(a, kind=SPATIAL) for a in axes)


def _axes(axes: tuple[IterAxis, ...]) -> tuple[Expr, ...]:
    return tuple(Axis(a.name) for a in axes)


def _select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return Call("select", (condition, yes, no), DTYPE)


def _call(op: str, *args: Expr) -> Expr:
    return Call(op, args, DTYPE)


def _is(op: str, *args: Expr) -> Expr:
    return Call(op, args, "bool")


def _plus(axis: Expr, constant: int) -> Expr:
    return Call("add", (axis, _number(constant)), INDEX_DTYPE) if constant else axis


def _real(value: float) -> Const:
    return Const(float(value), DTYPE)


def _number(value: int) -> Const:
    return Const(value, INDEX_DTYPE)
