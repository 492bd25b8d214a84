"""Concatenations and slices without a copy: what is joined is computed and read where it belongs.

Works on a module whose kernels are already scheduled. Where the operands of a concatenation are
results of kernels, those kernels write into slices of the result, one after the other, whoever
else reads an operand reads its slice, and the concatenation disappears: a dense block grows in one
buffer. Slices of a tensor are read in place too. Tasks and records know nothing of it.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax import transform
from tvm.s_tir.stmt import SBlock

from ansor_lite.graph.calls import is_kernel_call
from ansor_lite.manifest import SLICE_MARK
from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation of all inputs, in order, along ``axis``."""

    axis: int
    offsets: tuple[int, ...]


def as_concat(dag: ComputeDAG) -> Concat | None:
    """The DAG as a concatenation, or ``None``; decided by what it computes."""
    shapes = [t.shape for t in dag.inputs]
    if len(shapes) < 2 or len(dag.stages) != 1 or dag.stages[0].combiner is not None:
        return None
    result = dag.stages[0].shape
    if any(len(s) != len(result) for s in shapes):
        return None
    axes = [d for d, extent in enumerate(result) if any(s[d] != extent for s in shapes)]
    if len(axes) != 1 or sum(s[axes[0]] for s in shapes) != result[axes[0]]:
        return None
    start = np.cumsum([0, *(np.prod(s) for s in shapes)])
    arrays = {
        t.name: np.arange(start[i], start[i + 1]).reshape(t.shape).astype(t.dtype)
        for i, t in enumerate(dag.inputs)
    }
    expected = np.concatenate(list(arrays.values()), axis=axes[0])
    if not np.array_equal(evaluate(dag, arrays)[dag.outputs[0]], expected):
        return None
    ends = np.cumsum([0, *(s[axes[0]] for s in shapes)])
    return Concat(axes[0], tuple(int(e) for e in ends[:-1]))


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of the only input, from ``offset`` on along ``axis``."""

    axis: int
    offset: int


Join: TypeAlias = Concat | Slice


def as_slice(dag: ComputeDAG) -> Slice | None:
    """The DAG as a slice along one axis, or ``None``; decided by what it computes."""
    if len(dag.inputs) != 1 or len(dag.stages) != 1 or dag.stages[0].combiner is not None:
        return None
    whole, part = dag.inputs[0].shape, dag.stages[0].shape
    if len(whole) != len(part) or dag.inputs[0].dtype != dag.stages[0].dtype:
        return None
    axes = [d for d, extent in enumerate(whole) if extent != part[d]]
    if len(axes) != 1 or part[axes[0]] > whole[axes[0]]:
        return None
    array = np.arange(np.prod(whole)).reshape(whole).astype(dag.inputs[0].dtype)
    found = evaluate(dag, {dag.inputs[0].name: array})[dag.outputs[0]]
    stride = int(np.prod(whole[axes[0] + 1 :]))
    offset = int(found.reshape(-1)[0]) // stride
    expected = np.take(array, range(offset, offset + part[axes[0]]), axes[0], mode="wrap")
    return Slice(axes[0], offset) if np.array_equal(found, expected) else None


def as_join(dag: ComputeDAG) -> Join | None:
    """The DAG as a concatenation or a slice, or ``None``."""
    return as_concat(dag) or as_slice(dag)


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor that lies in another one: in ``root``, from ``offset`` on along ``axis``."""

    root: Any
    axis: int
    offset: int


def elide_joins(module: tvm.IRModule, joins: Mapping[str, Join]) -> tvm.IRModule:
    """The module without those calls of ``joins`` (by function name) that can be avoided."""
    main = module["main"]
    builder = relax.BlockBuilder(module)
    blocks = [
        _Block(builder, block, joins).rewritten()
        if isinstance(block, relax.DataflowBlock)
        else block
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body)
    changed = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    builder.update_func(module.get_global_var("main"), changed)
    return tvm.transform.Sequential(
        [
            transform.Normalize(),
            transform.CanonicalizeBindings(),
            transform.DeadCodeElimination(),
        ]
    )(builder.get())


class _Block:
    """One dataflow block being rewritten; ``values`` maps variables to the calls bound to them.

    ``places`` says what lies where; ``gone`` are the variables whose calls disappear; ``current``
    is the variable that stands for a root at this point: every write in place makes a new one.
    """

    def __init__(
        self, builder: relax.BlockBuilder, block: relax.DataflowBlock, joins: Mapping[str, Join]
    ) -> None:
        self.builder = builder
        self.block = block
        self.joins = joins
        self.values = {b.var: b.value for b in block.bindings}
        self.readers: dict[Any, list[Any]] = {}
        for binding in block.bindings:
            for variable in _variables(binding.value):
                self.readers.setdefault(variable, []).append(binding.value)
        self.places: dict[Any, Place] = {}
        self.gone: set[Any] = set()
        self.current: dict[Any, Any] = {}

    def rewritten(self) -> relax.DataflowBlock:
        # Backwards: what is joined again lies in the largest result.
        for binding in reversed(self.block.bindings):
            if isinstance(join := self._join(binding.value), Concat):
                self._place_parts(binding, join)
        for binding in self.block.bindings:
            if isinstance(join := self._join(binding.value), Slice):
                self._place_slice(binding, join)
        bindings = [new for b in self.block.bindings for new in self._bound(b)]
        return relax.DataflowBlock(bindings)

    def _join(self, value: Any) -> Join | None:
        return self.joins.get(value.args[0].name_hint) if is_kernel_call(value) else None

    def _place_parts(self, binding: relax.VarBinding, concat: Concat) -> None:
        parts = list(binding.value.args[1].fields)
        place = self.places.get(binding.var, Place(binding.var, concat.axis, 0))
        movable = all(self._is_computed_here(p) and self._is_movable(p) for p in parts)
        if not movable or len(set(parts)) != len(parts) or place.axis != concat.axis:
            return
        for part, offset in zip(parts, concat.offsets, strict=True):
            self.places[part] = Place(place.root, place.axis, place.offset + offset)
        self.gone.add(binding.var)

    def _place_slice(self, binding: relax.VarBinding, part: Slice) -> None:
        (whole,) = binding.value.args[1].fields
        place = self.places.get(whole, Place(whole, part.axis, 0))
        if not isinstance(whole, relax.Var) or place.axis != part.axis:
            return
        if self._is_movable(binding.var):
            offset = place.offset + part.offset
            self.places[binding.var] = Place(place.root, place.axis, offset)
            self.gone.add(binding.var)

    def _is_computed_here(self, part: Any) -> bool:
        """The only result of a kernel of this block."""
        call: Any = self.values.get(part)
        return (
            is_kernel_call(call)
            and isinstance(call.ty_args[0], relax.TensorType)
            and _is_scheduled(self.builder.get()[call.args[0]])
        )

    def _is_movable(self, part: Any) -> bool:
        """Nothing but kernels reads it, and it has no other place yet."""
        return (
            isinstance(part, relax.DataflowVar)
            and part not in self.places
            and all(
                is_kernel_call(reader) and _is_scheduled(self.builder.get()[reader.args[0]])
                for reader in self.readers.get(part, ())
            )
        )

    def _bound(self, binding: relax.VarBinding) -> Iterator[relax.VarBinding]:
        """``binding`` on tensors where they lie; nothing for what is not computed any more."""
        place = self.places.get(binding.var)
        if binding.var in self.gone:
            if place is None:
                yield relax.VarBinding(binding.var, self.current[binding.var])
            return
        if not is_kernel_call(binding.value):
            yield binding
            return
        call, args = binding.value, list(binding.value.args[1].fields)
        views = {i: self.places[a] for i, a in enumerate(args) if a in self.places}
        for position, view in views.items():
            args[position] = self.current.get(view.root, view.root)
        if place is None:
            function = self._viewing(call.args[0], views)
            types = call.ty_args[0]
            types = list(types.fields) if isinstance(types, relax.TupleType) else types
            yield relax.VarBinding(binding.var, relax.call_tir(function, relax.Tuple(args), types))
            return
        function = self._viewing(call.args[0], views | {len(args): place})
        target = relax.DataflowVar(binding.var.name, place.root.ty)
        yield relax.VarBinding(target, self._written(function, args, place.root))
        self.current[place.root] = target

    def _written(self, function: Any, args: list[Any], root: Any) -> Any:
        """The call that writes its slice of ``root``, which the first such call allocates."""
        if root not in self.current:
            return relax.call_tir(function, relax.Tuple(args), root.ty)
        args = [*args, self.current[root]]
        return relax.op.call_tir_inplace(function, relax.Tuple(args), len(args) - 1, root.ty)

    def _viewing(self, function: Any, views: Mapping[int, Place]) -> Any:
        """The function with the parameters at some positions slices of larger tensors."""
        if not views:
            return function
        name, changed = function.name_hint + SLICE_MARK, self.builder.get()[function]
        for position, place in views.items():
            shape = [int(e) for e in place.root.ty.shape]
            name += f"_{position}_{place.offset}of{shape[place.axis]}"
            changed = view_slice(changed, position, shape, place.axis, place.offset)
        # Adding the same function again gives the variable it already has.
        return self.builder.add_func(changed, name)


def _variables(value: Any) -> list[Any]:
    if is_kernel_call(value):
        return [a for a in value.args[1].fields if isinstance(a, relax.Var)]
    return list(relax.analysis.free_vars(value))


def _is_scheduled(function: tirx.PrimFunc) -> bool:
    """No block but the outermost: others name the regions that they read and write."""
    blocks: list[Any] = []
    tvm_ffi.structural_walk(function.body, [(SBlock, lambda block: blocks.append(block))])
    return len(blocks) <= 1


def view_slice(
    function: tirx.PrimFunc, position: int, shape: Sequence[int], axis: int, offset: int
) -> tirx.PrimFunc:
    """``function`` with a parameter that is a slice, from ``offset`` on ``axis``, of ``shape``."""
    old = function.params[position]
    new = tirx.decl_buffer(list(shape), old.dtype, name=old.name)

    def moved(indices: Any) -> list[Any]:
        return [i + offset if d == axis else i for d, i in enumerate(indices)]

    def store(node: Any) -> Any:
        if not node.buffer.same_as(old):
            return node
        return tirx.BufferStore(new, node.value, moved(node.indices))

    def load(node: Any) -> Any:
        if not node.source.same_as(old):
            return node
        return new[tuple(moved(node.indices))]

    body = tvm_ffi.structural_map(
        function.body, [(tirx.BufferStore, store), (tvm.ir.TensorLoad, load)]
    )
    params = [new if i == position else p for i, p in enumerate(function.params)]
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)
