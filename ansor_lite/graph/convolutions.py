"""Convolutions in the form that tiles best: groups and phases as axes of their own.

A group that is an axis makes every index affine; a transposed convolution by phases multiplies no
inserted zeros. Both are ``layers.py``'s stages with a reshape behind, which is a view. Runs after
the conversion to channels last; ``passes.py`` has the order.
"""

# imports TVM
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ansor_lite.graph.fold import rewrite_main
from ansor_lite.layers import Layer
from ansor_lite.phases import Phases, phase_weights, phases
from schedules.to_tir import to_tir

# Operator -> its names of the spatial dimensions, and layouts of channels first.
ORDINARY = {
    "relax.nn.conv1d": ("w", "NCW", "NWC"),
    "relax.nn.conv2d": ("hw", "NCHW", "NHWC"),
    "relax.nn.conv3d": ("dhw", "NCDHW", "NDHWC"),
}
TRANSPOSED = {f"{name}_transpose": layouts for name, layouts in ORDINARY.items()}
FLOAT = "float32"


def channels_last(call: Any) -> dict[str, list[str]]:
    """Layouts of data and weights for ``ConvertLayout``; nothing for what should stay.

    Transposed convolutions with dilation, of another type than float32 or with weights that are not
    constant stay: they keep TVM's stages over inserted zeros.
    """
    name = call.op.name
    found = ORDINARY.get(name) or TRANSPOSED.get(name)
    if found is None or str(call.attrs.data_layout) != found[1]:
        return {}
    if name in TRANSPOSED and not _has_phases(call):
        return {}
    return {name: [found[2], f"{found[2][1:-1]}IO"]}


def _has_phases(call: Any) -> bool:
    static = _shape(call.args[0]) is not None and _shape(call) is not None
    same = str(call.ty.dtype) == str(call.args[0].ty.dtype) == FLOAT
    plain = set(_numbers(call.attrs.dilation)) == {1}
    return static and same and plain and _constant(call.args[1]) is not None


def split_channels(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with grouped and transposed convolutions as calls of ``layers.py``'s stages."""
    return rewrite_main(module, _Split(module))


@relax.expr_functor.mutator
class _Split(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        name = call.op.name
        if name in ORDINARY and _is_grouped(call):
            return self._grouped(call, ORDINARY[name][0])
        if name in TRANSPOSED and str(call.attrs.data_layout) == TRANSPOSED[name][2]:
            return self._phased(call, TRANSPOSED[name][0])
        return call

    def _grouped(self, call: Any, names: str) -> Any:
        n, *sizes, ci = _extents(call.args[0])
        *kernel, depth, co = _extents(call.args[1])
        groups = ci // depth
        layer = Layer(_short(call), constant_weights=True)
        before, after = _margins(call, len(sizes))
        attrs = call.attrs
        layer.sum_windows(
            n,
            dict(zip(names, sizes, strict=True)),
            layer.channels(ci, co, groups),
            kernel,
            _numbers(attrs.strides),
            tuple(zip(before, after, strict=True)),
            _numbers(attrs.dilation),
        )
        split = relax.op.reshape(call.args[1], [*kernel, depth, groups, co // groups])
        rank = len(kernel)
        order = [*range(rank), rank + 1, rank, rank + 2]
        weight = self._emit(relax.op.permute_dims(self._emit(split), order))
        return self._result(call, layer, weight)

    def _phased(self, call: Any, names: str) -> Any:
        n, *sizes, ci = _extents(call.args[0])
        value = _constant(call.args[1])
        assert value is not None  # else ``channels_last`` had left the layout
        *kernel, _, width = value.shape
        groups = int(call.attrs.groups)
        before, _ = _margins(call, len(sizes))
        extents = _extents(call)[1:-1]
        columns = zip(sizes, kernel, _numbers(call.attrs.strides), before, extents, strict=True)
        dimensions = [phases(*column) for column in columns]
        layer = Layer(_short(call), constant_weights=True)
        channels = layer.channels(ci, width * groups, groups)
        layer.sum_phases(n, dict(zip(names, sizes, strict=True)), channels, dimensions)
        weight = phase_weights(value, dimensions)
        weight = weight.reshape(*weight.shape[:-2], *channels.weight)
        whole = self._result(call, layer, relax.const(np.ascontiguousarray(weight)), dimensions)
        if all(d.is_whole for d in dimensions):
            return whole
        axes = list(range(1, len(sizes) + 1))
        starts, ends = [d.start for d in dimensions], [d.start + d.extent for d in dimensions]
        return relax.op.strided_slice(self._emit(whole), axes, starts, ends)

    def _result(
        self, call: Any, layer: Layer, weight: Any, dimensions: list[Phases] | None = None
    ) -> Any:
        """The stages of ``layer`` called on the data of ``call``, in the shape of its result."""
        dag = layer.finish().dag
        data = call.args[0]
        if _extents(data) != dag.inputs[0].shape:
            data = self._emit(relax.op.reshape(data, dag.inputs[0].shape))
        function = to_tir(dag).without_attr("global_symbol")
        variable = self.builder_.add_func(function, _short(call))
        shape = dag.shape_of(dag.outputs[0])
        found = relax.call_tir(variable, [data, weight], relax.TensorType(shape, FLOAT))
        n, *extents, co = _extents(call)
        if dimensions is not None:
            extents = [d.blocks * d.count for d in dimensions]
        assert prod(shape) == prod((n, *extents, co))
        return relax.op.reshape(self._emit(found), [n, *extents, co])

    def _emit(self, value: Any) -> Any:
        return self.builder_.emit(self.builder_.normalize(value))


def _is_grouped(call: Any) -> bool:
    """Channels last, several groups, and not one channel a group."""
    layout = ORDINARY[call.op.name][2]
    if int(call.attrs.groups) == 1 or str(call.attrs.data_layout) != layout:
        return False
    shapes = [_shape(call.args[0]), _shape(call.args[1]), _shape(call)]
    if None in shapes or str(call.ty.dtype) != FLOAT:
        return False
    return _extents(call.args[1])[-2] > 1 or _extents(call)[-1] > int(call.attrs.groups)


def _short(call: Any) -> str:
    return str(call.op.name).removeprefix("relax.nn.")


def _margins(call: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    padding = _numbers(call.attrs.padding)
    return padding[:rank], padding[rank:]


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def _constant(value: Any) -> Any:
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def _extents(value: Any) -> tuple[int, ...]:
    shape = _shape(value)
    assert shape is not None
    return shape


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    if not all(isinstance(e, tvm.tirx.IntImm) for e in shape.values):
        return None
    return _numbers(shape.values)
