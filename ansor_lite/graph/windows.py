"""Pooling along one axis as a sum of shifted slices, which shares a kernel with its neighbours.

Local response normalisation averages squares over neighbouring channels. As a pooling operator it
is a kernel between two others, with three passes over the data; padded once and added slice by
slice, it is elementwise, and squares, sums and the division behind them are one pass.
"""

# imports TVM
from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import relax

from ansor_lite.graph.fold import rewrite_main

POOLING = frozenset(f"relax.nn.avg_pool{d}d" for d in (1, 2, 3))
SQUEEZE = "relax.squeeze"
UNIT_VIEWS = frozenset({"relax.reshape", "relax.expand_dims"})
# More reads than this per element cost more than another pass over the data.
MAX_WINDOW = 9


def windows_to_sums(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with averages over a window of the innermost axis written as sums of slices."""
    return rewrite_main(module, _Windows(module))


@relax.expr_functor.mutator
class _Windows(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == SQUEEZE:
            return relax.op.reshape(call.args[0], call.ty.shape)  # known to ``simplify``
        if name not in POOLING or (window := _innermost_window(call)) is None:
            return call
        source = self._without_units(call.args[0])
        rank = source.ty.ndim
        outer = [0] * (2 * rank - 2)
        padded = self.builder_.emit(relax.op.nn.pad(source, [*outer, *window[1:]]))
        total: Any = None
        for start in range(window[0]):
            extent = int(source.ty.shape[-1])
            part = relax.op.strided_slice(padded, [rank - 1], [start], [start + extent])
            total = part if total is None else relax.op.add(total, part)
            total = self.builder_.emit(total)
        mean = relax.op.multiply(total, relax.const(1 / window[0], str(call.ty.dtype)))
        return relax.op.reshape(self.builder_.emit(mean), call.ty.shape)

    def _without_units(self, value: Any) -> Any:
        """What ``value`` is a view of that only adds unit dimensions before the innermost one."""
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if not isinstance(bound, relax.Call) or getattr(bound.op, "name", "") not in UNIT_VIEWS:
            return value
        before, after = ([int(e) for e in v.ty.shape] for v in (bound.args[0], value))
        same = [e for e in before if e != 1] == [e for e in after if e != 1]
        return bound.args[0] if same and before[-1] == after[-1] else value


def _innermost_window(call: Any) -> tuple[int, int, int] | None:
    """Length of a window of the innermost axis alone, and the padding on both sides of it."""
    attrs, layout = call.attrs, str(call.attrs.layout)
    sizes, padding = ([int(v) for v in values] for values in (attrs.pool_size, attrs.padding))
    dimensions = [d for d in "DHW" if d in layout]  # the order of sizes, whatever the layout
    if layout[-1] not in dimensions or str(attrs.out_layout) != layout:
        return None
    at = dimensions.index(layout[-1])
    window = (sizes[at], padding[at], padding[at + len(sizes)])
    moves = prod(int(s) for s in (*attrs.strides, *attrs.dilation)) != 1
    if moves or prod(sizes) != window[0] or sum(padding) != sum(window[1:]):
        return None
    counted = attrs.count_include_pad or sum(padding) == 0
    keeps = sum(window[1:]) == window[0] - 1
    return window if counted and keeps and 1 < window[0] <= MAX_WINDOW else None
