"""A TensorIR function as a compute DAG: every block becomes one stage.

Accepts what ``te.create_prim_func``, Relax legalisation and FuseTIR make: perfect loop nests whose
blocks write one element per iteration. Whatever a DAG cannot say is refused with a reason, never
approximated. Separate from ``dag.py`` because this direction needs TVM; ``to_tir`` is the inverse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import sym, tirx

from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import UnsupportedProgram
from schedules.expr import INDEX_DTYPE, OPERATIONS, Axis, Call, Const, Expr, Read, affine, walk

Tir: TypeAlias = Any
"""A TVM node (TVM has no type stubs)."""

_ITER_KINDS = {0: SPATIAL, 2: REDUCE}

# Class name of a TVM expression -> operation.
_BINARY = {
    **{name: name.lower() for name in ("Add", "Sub", "Mul", "FloorDiv", "FloorMod", "Min", "Max")},
    **{name: name.lower() for name in ("EQ", "NE", "LT", "LE", "GT", "GE", "And", "Or")},
    "Mod": "truncmod",
}
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_DIVISIONS = ("floordiv", "floormod", "truncdiv", "truncmod")
_COMBINERS = {"Add": "sum", "Mul": "prod", "Max": "max", "Min": "min"}

# TVM intrinsic -> operation, where the names differ.
_INTRINSICS = {"fabs": "abs", "power": "pow", "if_then_else": "select"}


def from_tir(func: tirx.PrimFunc, constant_params: Collection[int] = ()) -> ComputeDAG:
    """The DAG of ``func``; parameters whose position is in ``constant_params`` are weights.

    Parameters that a block writes are outputs, all others inputs, in order. Index expressions that
    are not affine are simplified under the ranges of the axes. Raises :class:`UnsupportedProgram`.
    """
    stores = [
        store for realize, loops in _realized(func.body, ()) for store in _stores(realize, loops)
    ]
    written = {store.buffer for store in stores}
    tensors = _Tensors()
    inputs: list[Tensor] = []
    outputs: list[Tir] = []
    for position, param in enumerate(func.params):
        if not tirx.is_buffer_var(param):
            raise UnsupportedProgram(f"parameter {param.name!r} is no buffer")
        if param in written:
            outputs.append(param)
            continue
        if outputs:
            raise UnsupportedProgram(f"input {param.name!r} stands behind an output")
        name = tensors.add(param, param.name)
        inputs.append(Tensor(name, _shape(param), str(param.dtype), position in constant_params))
    stages = tuple(_stage(store, tensors) for store in stores)
    return ComputeDAG(tuple(inputs), stages, tuple(tensors.name_of[o] for o in outputs))


@dataclass(frozen=True, slots=True)
class _Store:
    """One store of one block: ``buffer[indices] = value``, after ``init`` where it reduces.

    ``bound``: values of the variables that the block binds before it stores.
    """

    block: str
    iters: tuple[Tir, ...]
    buffer: Tir
    indices: tuple[Tir, ...]
    value: Tir
    bound: dict[Tir, Tir]
    init: Tir | None = None

    def refuse(self, reason: str) -> UnsupportedProgram:
        return UnsupportedProgram(f"block {self.block!r} {reason}")


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Names of buffers: identifiers, each different from all before."""

    name_of: dict[Tir, str] = field(default_factory=dict)

    def add(self, buffer: Tir, wanted: str) -> str:
        if buffer in self.name_of:
            raise UnsupportedProgram(f"several blocks write {buffer.name!r}")
        base = re.sub(r"\W", "_", wanted) or "t"
        name, count, taken = base, 0, set(self.name_of.values())
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        self.name_of[buffer] = name
        return name


# ------------------------------------------------------------------ function -> stores of blocks


def _realized(node: Tir, loops: tuple[Tir, ...]) -> Iterator[tuple[Tir, tuple[Tir, ...]]]:
    """Every block with the loops around it, in program order."""
    kind = type(node).__name__
    if kind == "SeqStmt":
        for child in node.seq:
            yield from _realized(child, loops)
    elif kind == "For":
        if int(node.kind) != 0 or node.thread_binding is not None:
            raise UnsupportedProgram(f"loop {node.loop_var.name!r} is scheduled already")
        yield from _realized(node.body, (*loops, node))
    elif kind == "SBlockRealize" and node.block.name_hint == "root" and not loops:
        yield from _realized(node.block.body, loops)
    elif kind == "SBlockRealize":
        yield node, loops
    else:
        raise UnsupportedProgram(f"{kind} outside a block")


def _stores(realize: Tir, loops: tuple[Tir, ...]) -> list[_Store]:
    block = realize.block
    name = str(block.name_hint)
    if block.match_buffers or block.alloc_buffers:
        raise UnsupportedProgram(f"block {name!r} holds buffers of its own")
    _check_bindings(name, realize, loops)
    iters = tuple(block.iter_vars)
    initial = (
        {s.buffer: s for s in _flat(name, iters, block.init)} if block.init is not None else {}
    )
    stores = _flat(name, iters, block.body)
    targets = [s.buffer for s in stores]
    for store in stores:
        if sum(t == store.buffer for t in targets) > 1:
            raise store.refuse("stores twice into one buffer")
        if any(_reads_buffer(store.value, t, store.bound) for t in targets if t != store.buffer):
            raise store.refuse("reduces several values together")
    return [_with_init(store, initial.get(store.buffer)) for store in stores]


def _with_init(store: _Store, init: _Store | None) -> _Store:
    if init is None:
        return store
    if not _same(init.indices, store.indices):
        raise store.refuse("initialises another element than it updates")
    return replace(store, init=init.value)


def _flat(name: str, iters: tuple[Tir, ...], body: Tir) -> list[_Store]:
    bound: dict[Tir, Tir] = {}
    found = []
    for stmt in body.seq if type(body).__name__ == "SeqStmt" else (body,):
        kind = type(stmt).__name__
        if kind == "Bind":
            bound[stmt.var] = stmt.value
        elif kind == "BufferStore":
            found.append(_Store(name, iters, stmt.buffer, tuple(stmt.indices), stmt.value, bound))
        else:
            raise UnsupportedProgram(f"block {name!r} contains {kind}; it must only store")
    return found


def _check_bindings(name: str, realize: Tir, loops: tuple[Tir, ...]) -> None:
    """Refuses blocks that do not run exactly once for every value of their axes."""
    if not _const(realize.predicate):
        raise UnsupportedProgram(f"block {name!r} runs under a predicate")
    iters, values = realize.block.iter_vars, realize.iter_values
    by_var = {loop.loop_var: loop for loop in loops if _const(loop.extent) != 1}
    trivial = True
    for iter_var, value in zip(iters, values, strict=True):
        extent = _extent(name, iter_var)
        loop = by_var.pop(value, None) if type(value).__name__ == "Var" else None
        if loop is None:
            trivial = trivial and extent == 1
        else:
            trivial = trivial and _const(loop.min) == 0 and _const(loop.extent) == extent
    if trivial and not by_var:
        return
    ranges = {loop.loop_var: tvm.ir.Range.from_min_extent(loop.min, loop.extent) for loop in loops}
    if not sym.detect_iter_map(list(values), ranges, check_level="bijective").indices:
        raise UnsupportedProgram(f"block {name!r} has bindings that are no bijection of its loops")
    covered = 1
    for loop in loops:
        covered *= _const(loop.extent) or 0
    for iter_var in iters:
        covered //= _extent(name, iter_var)
    if covered != 1:
        raise UnsupportedProgram(f"block {name!r} has loops that do not cover its axes")


def _extent(name: str, iter_var: Tir) -> int:
    extent = _const(iter_var.dom.extent)
    if extent is None:
        raise UnsupportedProgram(f"block {name!r} has an axis of symbolic extent")
    if int(iter_var.iter_type) not in _ITER_KINDS or _const(iter_var.dom.min) != 0:
        raise UnsupportedProgram(f"block {name!r} has axis {iter_var.var.name!r} of another kind")
    return extent


# ------------------------------------------------------------------ store -> stage


def _stage(store: _Store, tensors: _Tensors) -> Stage:
    names = {i.var: axis for i, axis in zip(store.iters, _axes(store), strict=True)}
    axes = _written_order(store, names)
    combiner, value = _combiner(store, any(a.kind == REDUCE for a in names.values()))
    if not any(a.kind == REDUCE for a in axes):
        combiner = None
    translator = _Translator(store, tensors.name_of, names)
    body = translator.value(value)
    dtype = str(store.buffer.dtype)
    name = tensors.add(store.buffer, store.block)
    return Stage(name, axes, body, dtype, combiner)


def _axes(store: _Store) -> list[IterAxis]:
    axes: list[IterAxis] = []
    for iter_var in store.iters:
        name = re.sub(r"\W", "_", str(iter_var.var.name).removeprefix("v_")) or "i"
        while name in {a.name for a in axes}:
            name += "_"
        kind = _ITER_KINDS[int(iter_var.iter_type)]
        axes.append(IterAxis(name, _extent(store.block, iter_var), kind))
    return axes


def _written_order(store: _Store, names: dict[Tir, IterAxis]) -> tuple[IterAxis, ...]:
    """The axes with the spatial ones in the order of the written dimensions.

    A dimension of extent 1 that no axis writes gets an axis; an axis of extent 1 that writes no
    dimension goes (its value is 0), reduce axes of extent 1 among them.
    """
    spatial = []
    for dimension, (index, extent) in enumerate(
        zip(store.indices, _shape(store.buffer), strict=True)
    ):
        axis = names.get(index) if type(index).__name__ == "Var" else None
        if axis is None and extent == 1 and _const(index) == 0:
            axis = IterAxis(f"unit{dimension}", 1)
        if axis is None or axis in spatial or axis.kind != SPATIAL:
            raise store.refuse(
                f"writes dimension {dimension} of its output at {index}, not at one axis"
            )
        if axis.extent != extent:
            raise store.refuse(
                f"writes {axis.extent} of {extent} elements of dimension {dimension}"
            )
        spatial.append(axis)
    reduce = [a for a in names.values() if a.kind == REDUCE and a.extent > 1]
    lost = [a for a in names.values() if a.kind == SPATIAL and a not in spatial and a.extent > 1]
    if lost:
        raise store.refuse(f"writes the same element for every {lost[0].name!r}")
    return (*spatial, *reduce)


def _combiner(store: _Store, reduces: bool) -> tuple[str | None, Tir]:
    """The combiner and what it combines; ``None`` and the value where nothing is reduced."""
    value = store.value
    while type(value).__name__ == "Var" and value in store.bound:
        value = store.bound[value]
    if store.init is None:
        if reduces or _reads_buffer(value, store.buffer, store.bound):
            raise store.refuse("updates its output without initialising it")
        return None, value
    combiner = _COMBINERS.get(type(value).__name__)
    if combiner is None:
        raise store.refuse(f"reduces with {type(value).__name__}, not sum, prod, max or min")
    own = [_is_element(side, store) for side in (value.a, value.b)]
    rest = value.b if own[0] else value.a
    if not any(own) or _reads_buffer(rest, store.buffer, store.bound):
        raise store.refuse("does not update its output by one combination")
    if not _is_identity(store.init, combiner, str(store.buffer.dtype)):
        raise store.refuse(f"starts a {combiner} at {store.init}")
    return (combiner if reduces else None), rest


def _is_element(node: Tir, store: _Store) -> bool:
    return (
        type(node).__name__ == "TensorLoad"
        and node.source == store.buffer
        and _same(node.indices, store.indices)
    )


def _is_identity(init: Tir, combiner: str, dtype: str) -> bool:
    if type(init).__name__ not in ("IntImm", "FloatImm"):
        return False
    value = init.value
    if combiner in ("sum", "prod"):
        return bool(value == (1 if combiner == "prod" else 0))
    if combiner == "max":
        return bool(value <= tirx.min_value(dtype).value)
    return bool(value >= tirx.max_value(dtype).value)


# ------------------------------------------------------------------ expressions


class _Translator:
    """Expressions of one store. ``value`` keeps dtypes; ``index`` counts in ``INDEX_DTYPE``."""

    def __init__(self, store: _Store, tensors: dict[Tir, str], axes: dict[Tir, IterAxis]) -> None:
        self.store = store
        self.tensors = tensors
        self.axes = axes
        self.bound = dict(store.bound)
        self.written = set(store.indices)
        self.analyzer = sym.Analyzer()
        self.ranges_known = False

    def value(self, node: Tir) -> Expr:
        kind = type(node).__name__
        if kind in _BINARY:
            return self.binary(node, _BINARY[kind])
        match kind:
            case "IntImm" | "FloatImm":
                return _constant(node)
            case "Var":
                return self.variable(node)
            case "TensorLoad":
                return self.read(node)
            case "Cast":
                return Call("cast", (self.value(node.value),), str(node.ty.dtype))
            case "Div":
                op = "div" if str(node.ty.dtype).startswith(("float", "bfloat")) else "truncdiv"
                return Call(op, (self.value(node.a), self.value(node.b)), str(node.ty.dtype))
            case "Not":
                return Call("not", (self.value(node.a),), "bool")
            case "Select":
                return self.select(node.condition, node.true_value, node.false_value)
            case "Let":
                self.bound[node.var] = node.value
                return self.value(node.body)
            case "Call":
                return self.intrinsic(node)
        raise self.store.refuse(f"computes {kind}, which a stage cannot say")

    def binary(self, node: Tir, op: str) -> Expr:
        if op in _COMPARISONS and _is_pure(node.a) and _is_pure(node.b):
            return Call(op, (self.index(node.a), self.index(node.b)), "bool")
        return Call(op, (self.value(node.a), self.value(node.b)), str(node.ty.dtype))

    def variable(self, node: Tir) -> Expr:
        if node in self.bound:
            return self.value(self.bound[node])
        expr = self.axis(node)
        dtype = str(node.ty.dtype)
        if dtype == INDEX_DTYPE or isinstance(expr, Const):
            return expr
        return Call("cast", (expr,), dtype)

    def axis(self, node: Tir) -> Expr:
        axis = self.axes.get(node)
        if axis is None:
            raise self.store.refuse(f"uses {node.name!r}, which is no axis of it")
        if axis.extent == 1 and node not in self.written:
            return Const(0, INDEX_DTYPE)
        return Axis(axis.name)

    def read(self, node: Tir) -> Read:
        name = self.tensors.get(node.source)
        if name is None:
            raise self.store.refuse(f"reads {node.source.name!r}, which nothing has written")
        return Read(name, tuple(self.index(i) for i in node.indices), str(node.ty.dtype))

    def select(self, condition: Tir, yes: Tir, no: Tir) -> Call:
        taken = self.value(yes)
        return Call("select", (self.value(condition), taken, self.value(no)), str(yes.ty.dtype))

    def intrinsic(self, node: Tir) -> Expr:
        full = str(getattr(node.op, "name", node.op))
        name = full.rpartition(".")[2]
        op = _INTRINSICS.get(name, name)
        if op == "likely":
            return self.value(node.args[0])
        if op == "select":
            return self.select(*node.args)
        if op not in OPERATIONS or len(node.args) != OPERATIONS[op][0]:
            raise self.store.refuse(f"calls {full}, which has no counterpart in a stage")
        return Call(op, tuple(self.value(a) for a in node.args), str(node.ty.dtype))

    def index(self, node: Tir) -> Expr:
        """``node`` as an index, simplified under the ranges of the axes unless affine."""
        expr = self.plain_index(node)
        if not any(isinstance(x, Call) and x.op in _DIVISIONS for x in walk(expr)):
            return expr
        if not self.ranges_known:
            self.ranges_known = True
            for var, axis in self.axes.items():
                self.analyzer.bind(var, tvm.ir.Range.from_min_extent(0, axis.extent))
        simpler = self.plain_index(self.analyzer.simplify(node))
        return simpler if affine(simpler) is not None or _size(simpler) < _size(expr) else expr

    def plain_index(self, node: Tir) -> Expr:
        kind = type(node).__name__
        if kind == "Var":
            return self.plain_index(self.bound[node]) if node in self.bound else self.axis(node)
        if kind == "IntImm":
            return Const(int(node.value), INDEX_DTYPE)
        if kind == "Cast" and _is_pure(node.value):
            return self.plain_index(node.value)
        if kind in _BINARY and _BINARY[kind] not in (*_COMPARISONS, "and", "or"):
            return _folded(_BINARY[kind], self.plain_index(node.a), self.plain_index(node.b))
        return self.value(node)


def _folded(op: str, left: Expr, right: Expr) -> Expr:
    """``op`` on two indices without additions of zero, which dropped axes leave behind."""
    zero, one = Const(0, INDEX_DTYPE), Const(1, INDEX_DTYPE)
    match op, left, right:
        case ("add" | "sub", x, y) if y == zero:
            return x
        case ("add", x, y) if x == zero:
            return y
        case ("mul", x, y) if y == one:
            return x
        case ("mul", x, y) if zero in (x, y):
            return zero
    return Call(op, (left, right), INDEX_DTYPE)


def _constant(node: Tir) -> Const:
    dtype = str(node.ty.dtype)
    if dtype == "bool":
        return Const(bool(node.value), dtype)
    return Const(float(node.value) if type(node).__name__ == "FloatImm" else int(node.value), dtype)


def _children(node: Tir) -> list[Tir]:
    kind = type(node).__name__
    if kind in _BINARY or kind == "Div":
        return [node.a, node.b]
    match kind:
        case "TensorLoad":
            return list(node.indices)
        case "Call":
            return list(node.args)
        case "Cast":
            return [node.value]
        case "Not":
            return [node.a]
        case "Select":
            return [node.condition, node.true_value, node.false_value]
        case "Let":
            return [node.value, node.body]
    return []


def _is_pure(node: Tir) -> bool:
    """Whether ``node`` is integer arithmetic on axes and literals alone."""
    kind = type(node).__name__
    if kind not in _BINARY and kind not in ("IntImm", "Var", "Cast"):
        return False
    if not str(node.ty.dtype).startswith("int"):
        return False
    return all(_is_pure(child) for child in _children(node))


def _reads_buffer(node: Tir, buffer: Tir, bound: dict[Tir, Tir]) -> bool:
    kind = type(node).__name__
    if kind == "TensorLoad" and node.source == buffer:
        return True
    if kind == "Var" and node in bound:
        return _reads_buffer(bound[node], buffer, bound)
    return any(_reads_buffer(child, buffer, bound) for child in _children(node))


def _same(left: Collection[Tir], right: Collection[Tir]) -> bool:
    return len(left) == len(right) and all(
        tvm_ffi.structural_equal(a, b) for a, b in zip(left, right, strict=True)
    )


def _shape(buffer: Tir) -> tuple[int, ...]:
    if buffer.strides:
        raise UnsupportedProgram(f"buffer {buffer.name!r} has strides of its own")
    shape = tuple(_const(extent) for extent in buffer.shape)
    if None in shape:
        raise UnsupportedProgram(f"buffer {buffer.name!r} has a symbolic shape")
    return tuple(extent for extent in shape if extent is not None)


def _const(node: Tir) -> int | None:
    if isinstance(node, int):
        return node
    return int(node.value) if type(node).__name__ == "IntImm" else None


def _size(expr: Expr) -> int:
    return sum(1 for _ in walk(expr))
