"""What a DAG computes, by NumPy: the reference that needs neither TVM nor a schedule.

``expr.py`` defines the language; this is its interpreter. A stage is evaluated over its whole grid
at once, in pieces where the grid is large. Separate because tests and numeric checks want an
opinion that shares no code with what they check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.dag import REDUCE, ComputeDAG, Stage
from schedules.expr import Axis, Call, Const, Expr, Read

Array = NDArray[Any]
Ranges = dict[str, range]

# Grid points evaluated at once; a float64 temporary of that size takes 16 MB.
_POINTS = 1 << 21

_FOLD: dict[str, tuple[Any, Any]] = {
    "sum": (np.add, np.sum),
    "prod": (np.multiply, np.prod),
    "max": (np.maximum, np.max),
    "min": (np.minimum, np.min),
}


def evaluate(dag: ComputeDAG, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of ``dag`` for the given inputs, by name.

    Sums of floats are accumulated in float64. Raises :class:`ValueError` for a missing input or a
    wrong shape, :class:`IndexError` where an unguarded read leaves its tensor.
    """
    known: dict[str, Array] = {}
    for tensor in dag.inputs:
        if tensor.name not in arrays:
            raise ValueError(f"input {tensor.name!r} is missing")
        array = np.asarray(arrays[tensor.name], dtype=dtype_of(tensor.dtype))
        if array.shape != tensor.shape:
            raise ValueError(f"input {tensor.name!r} has shape {array.shape}, not {tensor.shape}")
        known[tensor.name] = array
    with np.errstate(all="ignore"):
        for stage in dag.stages:
            known[stage.name] = evaluate_stage(stage, known)
    return {name: known[name] for name in dag.outputs}


def evaluate_stage(stage: Stage, tensors: Mapping[str, Array]) -> Array:
    """The tensor that ``stage`` writes."""
    wide = _accumulator(stage)
    result = np.empty(stage.shape, dtype=wide)
    started = np.zeros(stage.shape, dtype=bool)
    for ranges in _pieces(stage, {a.name: range(a.extent) for a in stage.axes}):
        piece = _piece(stage, ranges, tensors, wide)
        where = tuple(slice(ranges[a.name].start, ranges[a.name].stop) for a in stage.spatial)
        if stage.combiner is not None and started[where].all():
            piece = _FOLD[stage.combiner][0](result[where], piece)
        result[where] = piece
        started[where] = True
    return result.astype(dtype_of(stage.dtype), copy=False)


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a dtype name; bfloat16 and float8 come from ``ml_dtypes``."""
    if name.startswith(("bfloat", "float8", "float6", "float4")):
        import ml_dtypes

        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return small
    return np.dtype(name)


def _accumulator(stage: Stage) -> np.dtype[Any]:
    if stage.combiner in ("sum", "prod") and "float" in stage.dtype:
        return np.dtype(np.float64)
    return dtype_of(stage.dtype)


def _pieces(stage: Stage, ranges: Ranges) -> list[Ranges]:
    """``ranges`` cut in halves until a piece is small; reduce axes are cut first."""
    if math.prod(len(r) for r in ranges.values()) <= _POINTS:
        return [ranges]
    axes = sorted(stage.axes, key=lambda a: (a.kind == REDUCE, len(ranges[a.name])), reverse=True)
    name = next(a.name for a in axes if len(ranges[a.name]) > 1)
    whole = ranges[name]
    middle = (whole.start + whole.stop) // 2
    halves = (range(whole.start, middle), range(middle, whole.stop))
    return [piece for half in halves for piece in _pieces(stage, {**ranges, name: half})]


def _piece(
    stage: Stage, ranges: Ranges, tensors: Mapping[str, Array], wide: np.dtype[Any]
) -> Array:
    grid = tuple(len(ranges[a.name]) for a in stage.axes)
    axes = {}
    for position, axis in enumerate(stage.axes):
        shape = [1] * len(grid)
        shape[position] = len(ranges[axis.name])
        axes[axis.name] = np.arange(*_bounds(ranges[axis.name]), dtype=np.int64).reshape(shape)
    cells = _Grid(stage.name, axes, tensors)
    reduced = tuple(i for i, a in enumerate(stage.axes) if a.kind == REDUCE)
    match stage.body:
        case Call("mul", (left, right), _) if stage.combiner == "sum" and wide.kind == "f":
            first = cells.value(left, guarded=False).astype(wide)
            second = cells.value(right, guarded=False).astype(wide)
            return _sum_of_products(first, second, grid, reduced)
    full = np.broadcast_to(cells.value(stage.body, guarded=False), grid)
    if stage.combiner is None:
        return full
    fold = _FOLD[stage.combiner][1]
    return np.asarray(fold(full.astype(wide, copy=False), axis=reduced))


def _sum_of_products(
    left: Array, right: Array, grid: tuple[int, ...], reduced: tuple[int, ...]
) -> Array:
    """``(left * right).sum(reduced)`` without the product over the whole grid."""
    used = [tuple(i for i, n in enumerate(x.shape) if n > 1) for x in (left, right)]
    repeated = math.prod(grid[i] for i in reduced if i not in (*used[0], *used[1]))
    kept = [i for i in range(len(grid)) if i not in reduced]
    present = [i for i in kept if i in (*used[0], *used[1])]
    small = [
        x.reshape([x.shape[i] for i in axes]) for x, axes in zip((left, right), used, strict=True)
    ]
    result = np.einsum(small[0], list(used[0]), small[1], list(used[1]), present, optimize=True)
    shape = [grid[i] if i in present else 1 for i in kept]
    return np.broadcast_to(result.reshape(shape) * repeated, [grid[i] for i in kept])


def _bounds(values: range) -> tuple[int, int]:
    return values.start, values.stop


@dataclass(frozen=True, slots=True)
class _Grid:
    """A piece of a grid: every value is an array that broadcasts to it, one dimension per axis."""

    stage: str
    axes: dict[str, Array]
    tensors: Mapping[str, Array]

    def value(self, expr: Expr, guarded: bool) -> Array:
        match expr:
            case Const(value, dtype):
                return np.full((1,) * len(self.axes), value, dtype=dtype_of(dtype))
            case Axis(name):
                return self.axes[name]
            case Read():
                return self.read(expr, guarded)
            case Call("select", (condition, yes, no), dtype):
                sides = (self.value(yes, True), self.value(no, True))
                return np.where(self.value(condition, guarded), *sides).astype(dtype_of(dtype))
            case Call(op, args, dtype):
                values = [self.value(a, guarded) for a in args]
                return np.asarray(OPERATION[op](*values)).astype(dtype_of(dtype), copy=False)

    def read(self, read: Read, guarded: bool) -> Array:
        tensor = self.tensors[read.tensor]
        if not read.indices:
            return np.full((1,) * len(self.axes), tensor)
        indices = []
        for expr, extent in zip(read.indices, tensor.shape, strict=True):
            index = self.value(expr, guarded)
            if guarded:
                index = np.clip(index, 0, extent - 1)
            elif index.min() < 0 or index.max() >= extent:
                raise IndexError(f"stage {self.stage!r} reads outside {read.tensor!r}")
            indices.append(index)
        return np.asarray(tensor[tuple(indices)])


def _truncdiv(a: Array, b: Array) -> Array:
    return np.asarray(np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b))


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64))).astype(x.dtype)


OPERATION: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "truncdiv": _truncdiv,
    "truncmod": np.fmod,
    "floordiv": np.floor_divide,
    "floormod": np.remainder,
    "min": np.minimum,
    "max": np.maximum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "cast": lambda x: x,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "trunc": np.trunc,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "pow": np.power,
    "erf": _erf,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "fmod": np.fmod,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "bitwise_not": np.bitwise_not,
}
