"""Concatenations without a copy: what is concatenated is computed where it belongs.

Works on a module whose kernels are already scheduled. Where every operand of a concatenation is the
result of a kernel that nothing else reads, those kernels write into slices of the result, one after
the other, and the concatenation disappears. Tasks and records know nothing of it.
"""

# imports TVM
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax import transform

from ansor_lite.graph.plan import is_kernel_call
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


def elide_concats(module: tvm.IRModule, concats: Mapping[str, Concat]) -> tvm.IRModule:
    """The module without those calls of ``concats`` (by function name) that can be avoided."""
    main = module["main"]
    builder = relax.BlockBuilder(module)
    blocks = [
        _Block(builder, block, concats).rewritten()
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
    """One dataflow block being rewritten; ``values`` maps variables to the calls bound to them."""

    def __init__(
        self, builder: relax.BlockBuilder, block: relax.DataflowBlock, concats: Mapping[str, Concat]
    ) -> None:
        self.builder = builder
        self.block = block
        self.concats = concats
        self.values = {b.var: b.value for b in block.bindings}
        self.uses = Counter(v for b in block.bindings for v in _variables(b.value))
        self.replaced: dict[Any, relax.VarBinding] = {}

    def rewritten(self) -> relax.DataflowBlock:
        for binding in self.block.bindings:
            call = binding.value
            if is_kernel_call(call) and call.args[0].name_hint in self.concats:
                self._elide(binding, self.concats[call.args[0].name_hint])
        bindings = [self.replaced.get(b.var, b) for b in self.block.bindings]
        return relax.DataflowBlock(bindings)

    def _elide(self, binding: relax.VarBinding, concat: Concat) -> None:
        parts = list(binding.value.args[1].fields)
        if not all(self._is_movable(p) for p in parts) or len(set(parts)) != len(parts):
            return
        order = {b.var: i for i, b in enumerate(self.block.bindings)}
        offset = dict(zip(parts, concat.offsets, strict=True))
        result: Any = None
        for part in sorted(parts, key=order.__getitem__):
            call = self._sliced_call(self.values[part], binding.var.ty, concat.axis, offset[part])
            target = relax.DataflowVar(part.name, binding.var.ty)
            if result is not None:
                call = _in_place(call, result)
            self.replaced[part] = relax.VarBinding(target, call)
            result = target
        self.replaced[binding.var] = relax.VarBinding(binding.var, result)

    def _is_movable(self, part: Any) -> bool:
        """A kernel's only result, read by nothing but the concatenation, not moved before."""
        call = self.values.get(part)
        return (
            isinstance(part, relax.DataflowVar)
            and call is not None
            and is_kernel_call(call)
            and call.args[0].name_hint not in self.concats
            and isinstance(call.ty_args[0], relax.TensorType)
            and self.uses[part] == 1
            and part not in self.replaced
        )

    def _sliced_call(self, call: Any, whole: Any, axis: int, offset: int) -> Any:
        name = f"{call.args[0].name_hint}{SLICE_MARK}{offset}of{int(whole.shape[axis])}"
        shape = [int(e) for e in whole.shape]
        function = write_slice(self.builder.get()[call.args[0]], shape, axis, offset)
        # Adding the same function again gives the variable it already has.
        return relax.call_tir(self.builder.add_func(function, name), call.args[1], whole)


def _variables(value: Any) -> list[Any]:
    if is_kernel_call(value):
        return [a for a in value.args[1].fields if isinstance(a, relax.Var)]
    return list(relax.analysis.free_vars(value))


def _in_place(call: Any, result: Any) -> Any:
    args = [*call.args[1].fields, result]
    return relax.op.call_tir_inplace(
        call.args[0], relax.Tuple(args), len(args) - 1, call.ty_args[0]
    )


def write_slice(function: tirx.PrimFunc, shape: list[int], axis: int, offset: int) -> tirx.PrimFunc:
    """``function`` with its last parameter a slice, from ``offset`` on ``axis``, of ``shape``."""
    old = function.params[-1]
    new = tirx.decl_buffer(shape, old.dtype, name=old.name)

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
    return tirx.PrimFunc([*function.params[:-1], new], body, function.ret_type, function.attrs)
