"""Products of matrices by pairs of summands: additions in the place of multiplications, a rewrite.

``x[a] w[a] + x[b] w[b] = (x[a] + w[b]) (x[b] + w[a]) - x[a] x[b] - w[a] w[b]``: one multiplication
for two, and what is subtracted is a sum per row and a sum per column (A new algorithm for inner
product, IEEE Transactions on Computers C-17, 1968). A processor whose adders work beside its
multipliers takes two thirds of the time when two summands of three come in a pair. Read
``quarters.py`` first. Separate because what is added here is a row to a column: both must be of one
size (Brent, Stanford CS-157, 1970), so rows are divided by their largest element, and so are the
constants, when a network is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedules.constant_products import product_with_constant
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, rebuild, walk
from schedules.steps import PairProducts

# Summands that are multiplied together in one step: a pair, and one as it stands.
GROUP = 3
# Elements of a cache line. Parts of rows that are an odd number of lines long do not meet in the
# same sets of a cache: rows of a power of two, three parts each, would throw each other out.
LINE = 16
# Rows and matrices of zeros are divided by this.
SMALLEST = 1e-30


@dataclass(frozen=True, slots=True)
class Paired:
    """``stage`` sums ``data[rows, sum] * weights[held, sum, column]``; a group divides the sum.

    ``held``: rows that have weights of their own.
    """

    stage: Stage
    data: Read
    weights: Read
    rows: tuple[IterAxis, ...]
    held: tuple[IterAxis, ...]
    column: IterAxis
    sum: IterAxis

    @property
    def groups(self) -> int:
        """Groups of summands; one more holds what belongs to the columns alone."""
        return self.sum.extent // GROUP


def paired(dag: ComputeDAG, stage: Stage) -> Paired | None:
    """How ``stage`` can be computed by pairs, if it multiplies by a constant matrix."""
    found = product_with_constant(dag, stage)
    if found is None or stage.dtype != "float32" or len(stage.reduce) != 1:
        return None
    return _roles(stage, *found)


def _roles(stage: Stage, data: Read, weights: Read) -> Paired | None:
    (summed,) = stage.reduce
    names = [i.name for i in weights.indices if isinstance(i, Axis)]
    moving = [e.name for i in data.indices for e in walk(i) if isinstance(e, Axis)]
    columns = [a for a in stage.spatial if a.name in names and a.name not in moving]
    rows = tuple(a for a in stage.spatial if a not in columns)
    held = tuple(a for a in rows if a.name in names)
    plain = len(weights.indices) == len(names) == len(held) + 2 and summed.name in names
    whole = sorted(moving) == sorted([*(a.name for a in rows), summed.name])
    if not plain or not whole or len(columns) != 1 or rows == held:
        return None
    if Axis(summed.name) not in data.indices or summed.extent % GROUP:
        return None
    return Paired(stage, data, weights, rows, held, columns[0], summed)


def pair_products(dag: ComputeDAG, step: PairProducts) -> ComputeDAG:
    """``s`` by way of ``s.peak``, ``s.inverse``, ``s.cross``, ``s.spread`` and ``s.pairs``.

    The constant of the result holds the groups of its rows (see :func:`constant_pairs`). Errors are
    those of a sum of products of the largest elements of a row and of the constant; a row that
    holds an infinity becomes NaN.
    """
    found = _found(dag, step)
    new = (_peak(found), _inverse(found), _cross(found), _spread(found), _pairs(found))
    result = replace(found.stage, axes=found.stage.spatial, body=_result(found), combiner=None)
    stages: list[Stage] = []
    for old in dag.stages:
        stages.extend((*new, result) if old.name == found.stage.name else (old,))
    inputs = tuple(
        replace(t, shape=_shape(found)) if t.name == found.weights.tensor else t for t in dag.inputs
    )
    return ComputeDAG(inputs, tuple(stages), dag.outputs)


def constant_pairs(dag: ComputeDAG, step: PairProducts) -> ComputeDAG:
    """The program, over constants alone, of the matrix that ``step`` leaves; its only output.

    ``w'[g, c, j]``: row ``c * groups + g``, divided by the largest magnitude of all. In the group
    behind the last one the pair meets zeros: its product is what is to be subtracted from column
    ``j``, and its second factor the divisor. The single one meets what is subtracted from a row.
    """
    found = _found(dag, step)
    source = dag.input_by_name[found.weights.tensor]
    name, dtype, groups = source.name, source.dtype, found.groups
    row, column = (IterAxis("k", found.sum.extent), IterAxis("j", found.column.extent))
    held = tuple(IterAxis(f"h{n}", a.extent) for n, a in enumerate(found.held))
    own = tuple(Axis(a.name) for a in held)

    def weight(k: Expr) -> Read:
        places: dict[str, Expr] = {found.sum.name: k, found.column.name: Axis("j")}
        places |= {a.name: place for a, place in zip(found.held, own, strict=True)}
        indices = (places[i.name] for i in found.weights.indices if isinstance(i, Axis))
        return Read(name, tuple(indices), dtype)

    one = IterAxis("one", 1)
    axes = (one, *(replace(a, kind=REDUCE) for a in (*held, row, column)))
    largest = Stage("largest", axes, Call("abs", (weight(Axis("k")),), dtype), dtype, "max")
    divisor = Call("max", (Read("largest", (_number(0),), dtype), Const(SMALLEST, dtype)), dtype)
    body = Call("div", (weight(Axis("k")), divisor), dtype)
    scaled = Stage("scaled", (*held, row, column), body, dtype)

    def at(part: int) -> Read:
        return Read("scaled", (*own, _plus(Axis("g"), part * groups), Axis("j")), dtype)

    pairs = (*held, column, IterAxis("g", groups, REDUCE))
    crossed = Stage("crossed", pairs, Call("mul", (at(0), at(1)), dtype), dtype, "sum")
    negative = Call("sub", (Const(0.0, dtype), Read("crossed", (*own, Axis("j")), dtype)), dtype)
    product = Call("div", (negative, divisor), dtype)
    last = _picked("c", (product, divisor, Const(1.0, dtype)), dtype)
    inside = Call("lt", (Axis("g"), _number(groups)), "bool")
    place = Call("mul", (Axis("c"), _number(groups)), INDEX_DTYPE)
    row_of = Call("add", (Axis("g"), place), INDEX_DTYPE)
    regular = Read("scaled", (*own, row_of, Axis("j")), dtype)
    body = Call("select", (inside, regular, last), dtype)
    axes = (*held, IterAxis("g", groups + 1), IterAxis("c", GROUP), column)
    output = Stage(f"{name}.pairs", axes, body, dtype)
    return ComputeDAG((source,), (largest, scaled, crossed, output), (output.name,))


def _picked(axis: str, values: tuple[Expr, ...], dtype: str) -> Expr:
    result = values[-1]
    for n, value in reversed(tuple(enumerate(values[:-1]))):
        chosen = Call("eq", (Axis(axis), _number(n)), "bool")
        result = Call("select", (chosen, value, result), dtype)
    return result


def _found(dag: ComputeDAG, step: PairProducts) -> Paired:
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else paired(dag, stage)
    if found is None:
        raise ScheduleError(f"pair_products of {step.stage!r}: it is no product of whole groups")
    return found


def _shape(found: Paired) -> tuple[int, ...]:
    held = (a.extent for a in found.held)
    return (*held, found.groups + 1, GROUP, found.column.extent)


def _group(found: Paired) -> IterAxis:
    return IterAxis(f"{found.sum.name}.group", found.groups + 1)


def _at_rows(found: Paired, what: str) -> Read:
    places = tuple(Axis(a.name) for a in found.rows)
    return Read(f"{found.stage.name}.{what}", places, found.stage.dtype)


def _peak(found: Paired) -> Stage:
    dtype = found.stage.dtype
    axes = (*found.rows, found.sum)
    return Stage(f"{found.stage.name}.peak", axes, Call("abs", (found.data,), dtype), dtype, "max")


def _inverse(found: Paired) -> Stage:
    dtype = found.stage.dtype
    body = Call("div", (Const(1.0, dtype), _scale(found)), dtype)
    return Stage(f"{found.stage.name}.inverse", found.rows, body, dtype)


def _scale(found: Paired) -> Expr:
    dtype = found.stage.dtype
    return Call("max", (_at_rows(found, "peak"), Const(SMALLEST, dtype)), dtype)


def _scaled(found: Paired, place: Expr) -> Expr:
    """The element of a row at ``place`` of the sum, divided by the largest one."""
    data = rebuild(found.data, lambda e: place if e == Axis(found.sum.name) else None)
    return Call("mul", (data, _at_rows(found, "inverse")), found.stage.dtype)


def _cross(found: Paired) -> Stage:
    dtype, group = found.stage.dtype, replace(_group(found), extent=found.groups)
    axes = (*found.rows, replace(group, kind=REDUCE))
    first, second = (_scaled(found, _plus(Axis(group.name), n * found.groups)) for n in (0, 1))
    name = f"{found.stage.name}.cross"
    return Stage(name, axes, Call("mul", (first, second), dtype), dtype, "sum")


def _spread(found: Paired) -> Stage:
    """``[rows, part, group]``: the data divided by the largest of its row.

    Behind the last group one that subtracts the sum of the row, and more that hold its divisor.
    """
    dtype = found.stage.dtype
    lines = -(-(found.groups + 2) // LINE)
    group = replace(_group(found), extent=(lines + 1 - lines % 2) * LINE)
    part = f"{found.sum.name}.part"
    start = Call("mul", (Axis(part), _number(found.groups)), INDEX_DTYPE)
    place = Call("add", (start, Axis(group.name)), INDEX_DTYPE)
    zero = Const(0.0, dtype)
    negative = Call("sub", (zero, _at_rows(found, "cross")), dtype)
    pair = Call("lt", (Axis(part), _number(GROUP - 1)), "bool")
    last = Call("select", (pair, zero, negative), dtype)
    here = Call("lt", (Axis(group.name), _number(found.groups + 1)), "bool")
    behind = Call("select", (here, last, _scale(found)), dtype)
    inside = Call("lt", (Axis(group.name), _number(found.groups)), "bool")
    body = Call("select", (inside, _scaled(found, place), behind), dtype)
    axes = (*found.rows, IterAxis(part, GROUP), group)
    return Stage(f"{found.stage.name}.spread", axes, body, dtype)


def _part(found: Paired, number: int, group: Expr) -> Read:
    places = (*(Axis(a.name) for a in found.rows), _number(number), group)
    return Read(f"{found.stage.name}.spread", places, found.stage.dtype)


def _weight(found: Paired, number: int, group: Expr, column: Expr) -> Read:
    places = (*(Axis(a.name) for a in found.held), group, _number(number), column)
    return Read(found.weights.tensor, places, found.stage.dtype)


def _pairs(found: Paired) -> Stage:
    stage = found.stage
    group, column = replace(_group(found), kind=REDUCE), Axis(found.column.name)
    place = Axis(group.name)
    data = [_part(found, n, place) for n in range(GROUP)]
    weights = [_weight(found, n, place, column) for n in range(GROUP)]
    first = Call("add", (data[0], weights[1]), stage.dtype)
    second = Call("add", (data[1], weights[0]), stage.dtype)
    pair = Call("mul", (first, second), stage.dtype)
    single = Call("mul", (data[2], weights[2]), stage.dtype)
    body = Call("add", (pair, single), stage.dtype)
    return Stage(f"{stage.name}.pairs", (*stage.spatial, group), body, stage.dtype, "sum")


def _result(found: Paired) -> Expr:
    stage, groups = found.stage, found.groups
    sums = Read(f"{stage.name}.pairs", tuple(Axis(a.name) for a in stage.spatial), stage.dtype)
    weight = _weight(found, 1, _number(groups), _number(0))
    # One divisor for all: no axis moves the read, so that the groups may be packed.
    places = (*(_number(0) for _ in found.held), *weight.indices[len(found.held) :])
    divisor = replace(weight, indices=places)
    scale = Call("mul", (_part(found, 0, _number(groups + 1)), divisor), stage.dtype)
    return Call("mul", (sums, scale), stage.dtype)


def _plus(axis: Axis, constant: int) -> Expr:
    return Call("add", (axis, _number(constant)), INDEX_DTYPE) if constant else axis


def _number(value: int) -> Const:
    return Const(value, INDEX_DTYPE)
