"""Transpositions move behind elementwise operators, where others cancel or absorb them.

Read ``simplify.py`` first: it makes chains of movements one, this file brings them together. An
exporter that writes some layers channels-first and others channels-last leaves transpositions on
both operands of a residual sum; behind the sum, one is left, and the next layer reads through it.
"""

# imports TVM
from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from ansor_lite.graph.expressions import stored
from ansor_lite.graph.fold import rewrite_main
from ansor_lite.graph.simplify import BINARY, UNARY

TRANSPOSE = "relax.permute_dims"

# The source of a transposition and its axes.
Transposed = tuple[Any, list[int]]


def sink_transposes(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with every transposition behind the elementwise operators that alone read it.

    Two operands that are transposed alike move whoever else reads them. Runs before layouts are
    chosen.
    """
    return rewrite_main(module, _Sink(module))


@relax.expr_functor.mutator
class _Sink(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__(module)
        self.uses = _uses(module["main"])

    def visit_call_(self, call: Any) -> Any:
        alone = [self.uses[a] == 1 for a in call.args]
        call = self.visit_expr_post_order(call)
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name in UNARY and alone[0]:
            return self._moved(call, [self._transposed(call.args[0])])
        if name in BINARY:
            return self._after_binary(call, alone)
        return call

    def _after_binary(self, call: Any, alone: list[bool]) -> Any:
        sources = [self._transposed(a) for a in call.args]
        for side, source in enumerate(sources):
            constant = call.args[1 - side]
            if source is None or not alone[side] or not _same_shape(call.args[side], call):
                continue
            if isinstance(constant, tvm.ir.GenericConst):
                sources[1 - side] = _untransposed(constant, source[1])
                break
        return self._moved(call, sources)

    def _moved(self, call: Any, sources: list[Transposed | None]) -> Any:
        """``call`` on ``sources``, all transposed by the same axes, or as it was."""
        found = [s for s in sources if s is not None]
        if len(found) < len(sources) or any(axes != found[0][1] for _, axes in found):
            return call
        inner = relax.Call(call.op, [s[0] for s in found], call.attrs, call.ty_args)
        return relax.op.permute_dims(self.builder_.emit(inner), found[0][1])

    def _transposed(self, value: Any) -> Transposed | None:
        """``(source, axes)`` of the transposition that computes ``value``, if one does."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if not isinstance(bound, relax.Call) or getattr(bound.op, "name", "") != TRANSPOSE:
            return None
        axes = bound.attrs.axes
        rank = value.ty.ndim
        return bound.args[0], [int(a) for a in axes] if axes else list(reversed(range(rank)))


def _untransposed(constant: Any, axes: list[int]) -> Transposed | None:
    """``constant`` such that transposed by ``axes`` it broadcasts as before."""
    value = np.from_dlpack(constant.value)
    if value.ndim > len(axes):
        return None
    full = value.reshape((1,) * (len(axes) - value.ndim) + value.shape)
    return stored(np.transpose(full, np.argsort(axes))), axes


def _same_shape(value: Any, other: Any) -> bool:
    return bool(tvm_ffi.structural_equal(value.ty.shape, other.ty.shape))


def _uses(main: relax.Function) -> Counter[Any]:
    """How often each variable is read."""
    found: Counter[Any] = Counter()

    def visit(expr: Any) -> None:
        if isinstance(expr, (relax.Call, relax.Tuple)):
            fields = expr.args if isinstance(expr, relax.Call) else expr.fields
            found.update(a for a in fields if isinstance(a, relax.Var))

    relax.analysis.post_order_visit(main, visit)
    return found
