"""One expression of a stage as TensorIR: what the statement inside the loops computes.

``emit`` knows nothing of loops or buffers: the caller says what an axis and a read become. Separate
from the loop builder because the unscheduled program (``to_tir``) needs the same translation. See
``math.py`` for the functions that are polynomials here instead of calls into libm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from tvm import tirx

from schedules.errors import UnsupportedProgram
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, walk
from schedules.lower.math import POLYNOMIALS, exp_of_difference

Tir: TypeAlias = Any
"""A TVM expression (TVM has no type stubs)."""

POLYNOMIAL = "polynomial"
LIBM = "libm"

_VECTORISED = POLYNOMIALS | {"exp": tirx.exp}
_AS_FLOAT32 = ("float32", "float16", "bfloat16")
_INDEX_DIVISIONS = ("truncdiv", "truncmod", "floordiv", "floormod")

_BINARY: dict[str, Callable[[Tir, Tir], Tir]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": tirx.div,
    "truncdiv": tirx.truncdiv,
    "truncmod": tirx.truncmod,
    "floordiv": tirx.floordiv,
    "floormod": tirx.floormod,
    "min": tirx.min,
    "max": tirx.max,
    "eq": lambda a, b: tirx.EQ(*_matched(a, b)),
    "ne": lambda a, b: tirx.NE(*_matched(a, b)),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": tirx.And,
    "or": tirx.Or,
    "fmod": lambda a, b: _libm("fmod", a, b),
    "pow": tirx.power,
    "shift_left": tirx.shift_left,
    "shift_right": tirx.shift_right,
    "bitwise_and": tirx.bitwise_and,
    "bitwise_or": tirx.bitwise_or,
    "bitwise_xor": tirx.bitwise_xor,
}

_UNARY: dict[str, Callable[[Tir], Tir]] = {
    "not": tirx.Not,
    "abs": tirx.abs,
    "bitwise_not": tirx.bitwise_not,
} | {
    name: getattr(tirx, name)
    for name in (
        *("floor", "ceil", "round", "trunc", "exp", "log", "sqrt", "rsqrt", "erf", "tanh"),
        *("sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
        *("acosh", "atanh", "isnan", "isinf"),
    )
}


def emit(
    expr: Expr,
    axis: Callable[[str], Tir],
    read: Callable[[Read], Tir],
    math_mode: str = POLYNOMIAL,
    inside: frozenset[Read] = frozenset(),
    maxima: Collection[str] = (),
) -> Tir:
    """``expr`` as a TVM expression; ``axis`` and ``read`` translate the leaves.

    ``inside``: reads that stay in their tensor whatever a condition says. ``maxima``: tensors
    ``m`` whose ``exp(x - m)`` may be off by one factor for all ``x`` beside an element of ``m``
    (``common_factors.py``): they are written with two operands (``exponentials.py``).

    ``math_mode``: ``"polynomial"`` (vectorises) or ``"libm"`` for erf, tanh and sigmoid in float32;
    exp is replaced once there are vectors (``exponentials.py``). A ``select`` stays lazy unless
    both sides may be evaluated. Raises
    :class:`UnsupportedProgram` for an unknown operation.
    """
    emitter = _Emitter(axis, read, math_mode, _unguarded_reads(expr) | inside, maxima)
    return emitter.emit(expr)


class _Emitter:
    def __init__(
        self,
        axis: Callable[[str], Tir],
        read: Callable[[Read], Tir],
        math_mode: str,
        unguarded: frozenset[Read],
        maxima: Collection[str],
    ) -> None:
        self.axis = axis
        self.read = read
        self.math_mode = math_mode
        self.unguarded = unguarded
        self.maxima = maxima

    def emit(self, expr: Expr) -> Tir:
        match expr:
            case Const(value, dtype):
                return tirx.const(value, dtype)
            case Axis(name):
                return self.axis(name)
            case Read():
                return self.read(expr)
            case Call():
                return self.call(expr)

    def call(self, call: Call) -> Tir:
        if call.op == "select":
            return self.select(call)
        if call.op == "pow" and self.math_mode == POLYNOMIAL:
            return self.power(call)
        if below := self.below_maximum(call):
            return exp_of_difference(*(self.emit(a) for a in below))
        args = self.matched_index_constants(call)
        if call.op == "cast":
            return args[0].astype(call.dtype)
        if call.op in _VECTORISED and self.math_mode == POLYNOMIAL and call.dtype in _AS_FLOAT32:
            wide = _VECTORISED[call.op](args[0].astype("float32"))
            return wide.astype(call.dtype)
        if call.op in _BINARY:
            return _BINARY[call.op](*args)
        if call.op in _UNARY:
            return _UNARY[call.op](*args)
        raise UnsupportedProgram(f"no TensorIR for operation {call.op!r}")

    def below_maximum(self, call: Call) -> tuple[Expr, ...]:
        """``x`` and a maximum ``m``, if ``call`` is ``exp(x - m)``."""
        match call:
            case Call("exp", (Call("sub", (_, Read(m)) as operands),), "float32"):
                return operands if m in self.maxima and self.math_mode == POLYNOMIAL else ()
            case _:
                return ()

    def matched_index_constants(self, call: Call) -> list[Tir]:
        """Arguments, where an index constant takes the dtype of the axis beside it."""
        args = [self.emit(a) for a in call.args]
        if len(args) != 2:
            return args
        for i, j in ((0, 1), (1, 0)):
            constant, other = call.args[i], args[j].ty.dtype
            if isinstance(constant, Const) and constant.dtype == INDEX_DTYPE and other == "int32":
                args[i] = _narrowed(constant, args[i])
        return args

    def select(self, call: Call) -> Tir:
        condition, yes, no = (self.emit(a) for a in call.args)
        yes, no = _matched(yes, no)
        if self.harmless(call.args[1], call.args[0]) and self.harmless(call.args[2], call.args[0]):
            return tirx.Select(condition, yes, no)
        return tirx.if_then_else(condition, yes, no)

    def harmless(self, branch: Expr, condition: Expr) -> bool:
        """Whether ``branch`` may be evaluated where ``condition`` sends control elsewhere."""
        by_data = not _tests_axes(condition)
        for node in walk(branch):
            if isinstance(node, Call) and node.op in _INDEX_DIVISIONS:
                if not (isinstance(node.args[1], Const) and node.args[1].value):
                    return False
            elif isinstance(node, Read) and node not in self.unguarded:
                free = by_data and not any(
                    isinstance(i, Read) for x in node.indices for i in walk(x)
                )
                if not free:
                    return False
        return True

    def power(self, call: Call) -> Tir:
        """Small constant exponents without ``powf``, which costs a call per lane."""
        base, exponent = self.emit(call.args[0]), call.args[1]
        value = exponent.value if isinstance(exponent, Const) else None
        if value == 0.5:
            return tirx.sqrt(base)
        if value == -0.5:
            return tirx.rsqrt(base)
        if value in (1, 2, 3, 4):
            name = tirx.Var("base", base.ty.dtype)
            product: Tir = name
            for _ in range(int(value) - 1):
                product = product * name
            return tirx.Let(name, base, product)
        return tirx.power(base, self.emit(exponent))


def _unguarded_reads(expr: Expr) -> frozenset[Read]:
    """Reads that happen whatever the conditions say."""
    found: set[Read] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Read):
            found.add(node)
            stack.extend(node.indices)
        elif isinstance(node, Call):
            stack.extend(node.args[:1] if node.op == "select" else node.args)
    return frozenset(found)


def _tests_axes(condition: Expr) -> bool:
    """Whether an axis decides directly, that is not through the value of a tensor."""
    match condition:
        case Axis():
            return True
        case Call(_, args, _):
            return any(_tests_axes(a) for a in args)
        case _:
            return False


def _narrowed(constant: Const, emitted: Tir) -> Tir:
    fits = -(2**31) <= constant.value < 2**31
    return tirx.const(int(constant.value), "int32") if fits else emitted


def _matched(a: Tir, b: Tir) -> tuple[Tir, Tir]:
    """Both sides in int64 where one is a narrower index."""
    left, right = a.ty.dtype, b.ty.dtype
    if left == right or {str(left), str(right)} != {"int32", "int64"}:
        return a, b
    return a.astype("int64"), b.astype("int64")


def _libm(name: str, *args: Tir) -> Tir:
    """A call of the C library for what TVM cannot lower itself; ``f`` marks single precision."""
    dtype = str(args[0].ty.dtype)
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *args)
