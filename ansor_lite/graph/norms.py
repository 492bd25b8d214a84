"""Norms over groups of channels as stages: one program, whatever stands around it.

TVM's own takes the variance as the mean of the squares less the square of the mean, which cancels
where the mean is large. Runs after the conversion to channels last; ``passes.py`` has the order.
"""

# imports TVM
from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from ansor_lite import norm_layers
from ansor_lite.graph.expressions import numbers, operator, shape_of, static_shape
from ansor_lite.graph.fold import rewrite_main
from ansor_lite.layers import FLOAT, Layer
from schedules.to_tir import to_tir

GROUP_NORM = "relax.nn.group_norm"


def norms_to_stages(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with group norms as calls of ``norm_layers.py``'s stages."""
    return rewrite_main(module, _Norms(module))


@relax.expr_functor.mutator
class _Norms(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        return self._stages(call) if operator(call) == GROUP_NORM and _is_plain(call) else call

    def _stages(self, call: Any) -> Any:
        last = int(call.attrs.channel_axis) % len(shape_of(call)) != 1
        n, *others = shape_of(call)
        *sizes, c = others if last else (*others[1:], others[0])
        layer = Layer("group_norm", constant_weights=True)
        named = {f"x{i}": size for i, size in enumerate(sizes)}
        groups, epsilon = int(call.attrs.num_groups), float(call.attrs.epsilon)
        norm_layers.group_norm(layer, n, named, c, groups, epsilon, last)
        function = to_tir(layer.finish().dag).without_attr("global_symbol")
        variable = self.builder_.add_func(function, "group_norm")
        return relax.call_tir(variable, list(call.args), relax.TensorType(shape_of(call), FLOAT))


def _is_plain(call: Any) -> bool:
    """Float32, all of the image, with the channels in front of it or behind."""
    shape = static_shape(call)
    if shape is None or str(call.ty.dtype) != FLOAT or len(shape) < 3 or 0 in shape:
        return False
    channel, rank = int(call.attrs.channel_axis) % len(shape), len(shape)
    axes = sorted(axis % rank for axis in numbers(call.attrs.axes))
    return channel in (1, rank - 1) and axes == [a for a in range(1, rank) if a != channel]
