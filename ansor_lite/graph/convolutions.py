"""Convolutions in the form that tiles best: groups and phases as axes of their own.

A group that is an axis makes every index affine; a transposed convolution by phases multiplies no
inserted zeros. Both are ``layers.py``'s stages with a reshape behind, which is a view. Runs after
the conversion to channels last; ``passes.py`` has the order.
"""

# imports TVM
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from ansor_lite.graph.expressions import (
    constant,
    numbers,
    operator,
    shape_of,
    static_shape,
    stored,
)
from ansor_lite.graph.fold import rewrite_main
from ansor_lite.graph.shuffles import Runs, runs_of, shuffle_of
from ansor_lite.layers import Layer
from ansor_lite.phases import in_channels, phase_weights, phases
from schedules.to_tir import to_tir

# Operator -> its names of the spatial dimensions, and layouts of channels first.
ORDINARY = {
    "relax.nn.conv1d": ("w", "NCW", "NWC"),
    "relax.nn.conv2d": ("hw", "NCHW", "NHWC"),
    "relax.nn.conv3d": ("dhw", "NCDHW", "NDHWC"),
}
TRANSPOSED = {f"{name}_transpose": layouts for name, layouts in ORDINARY.items()}
FLOAT = "float32"
# With fewer, the phases of the last dimension stand beside each other in a vector.
FEW_CHANNELS = 4


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
    static = static_shape(call.args[0]) is not None and static_shape(call) is not None
    same = str(call.ty.dtype) == str(call.args[0].ty.dtype) == FLOAT
    plain = set(numbers(call.attrs.dilation)) == {1}
    return static and same and plain and constant(call.args[1]) is not None


def split_channels(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with grouped and transposed convolutions as calls of ``layers.py``'s stages."""
    return rewrite_main(module, _Split(module))


@relax.expr_functor.mutator
class _Split(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = operator(call)
        if name in ORDINARY and _is_grouped(call):
            return self._grouped(call, ORDINARY[name][0])
        if name in TRANSPOSED and str(call.attrs.data_layout) == TRANSPOSED[name][2]:
            return self._phased(call, TRANSPOSED[name][0])
        return call

    def _grouped(self, call: Any, names: str) -> Any:
        runs = self._runs(call)
        data = call.args[0] if runs is None else runs.source
        n, *sizes, ci = shape_of(data)
        *kernel, depth, co = shape_of(call.args[1])
        layer = Layer(_short(call), constant_weights=True)
        count = 1 if runs is None else runs.rows.shape[1]
        channels = layer.channels(ci, co, ci // depth, count)
        attrs = call.attrs
        layer.sum_windows(
            n,
            dict(zip(names, sizes, strict=True)),
            channels,
            kernel,
            numbers(attrs.strides),
            tuple(zip(*_margins(call, len(sizes)), strict=True)),
            numbers(attrs.dilation),
        )
        weight = self._by_group(call.args[1], ci // depth)
        if runs is not None:
            weight = _by_run(constant(call.args[1]), runs)
        return self._result(call, data, layer, weight, shape_of(call))

    def _runs(self, call: Any) -> Runs | None:
        """Where the data is shuffled channels whose groups can be read before the shuffle."""
        if constant(call.args[1]) is None:
            return None
        shuffle = shuffle_of(self.lookup_binding, call.args[0])
        groups = shape_of(call.args[0])[-1] // shape_of(call.args[1])[-2]
        return None if shuffle is None else runs_of(shuffle, groups)

    def _by_group(self, weight: Any, groups: int) -> Any:
        """``[kernel..., ci / groups, co]`` as ``[kernel..., group, ci / groups, co / groups]``."""
        *kernel, depth, co = shape_of(weight)
        rank = len(kernel)
        split = self._emit(relax.op.reshape(weight, [*kernel, depth, groups, co // groups]))
        order = [*range(rank), rank + 1, rank, rank + 2]
        return self._emit(relax.op.permute_dims(split, order))

    def _phased(self, call: Any, names: str) -> Any:
        n, *sizes, ci = shape_of(call.args[0])
        value = constant(call.args[1])
        assert value is not None  # else ``channels_last`` had left the layout
        *kernel, _, width = value.shape
        groups = int(call.attrs.groups)
        before, _ = _margins(call, len(sizes))
        extents = shape_of(call)[1:-1]
        columns = zip(sizes, kernel, numbers(call.attrs.strides), before, extents, strict=True)
        dimensions = [phases(*column) for column in columns]
        weight = phase_weights(value, dimensions)
        shape = [n, *(d.blocks * d.count for d in dimensions), width * groups]
        last = dimensions[-1]
        if groups == 1 and last.count > 1 and width < FEW_CHANNELS:
            shape[-1] = FEW_CHANNELS
            weight, dimensions[-1] = in_channels(weight, last, FEW_CHANNELS)
        layer = Layer(_short(call), constant_weights=True)
        channels = layer.channels(ci, weight.shape[-1] * groups, groups)
        layer.sum_phases(n, dict(zip(names, sizes, strict=True)), channels, dimensions)
        weight = weight.reshape(*weight.shape[:-2], *channels.weight)
        whole = self._result(call, call.args[0], layer, stored(weight), shape)
        if tuple(shape) == shape_of(call):
            return whole
        starts = [0, *(d.start for d in dimensions[:-1]), last.start, 0]
        ends = [a + e for a, e in zip(starts, shape_of(call), strict=True)]
        return relax.op.strided_slice(self._emit(whole), list(range(len(shape))), starts, ends)

    def _result(
        self, call: Any, data: Any, layer: Layer, weight: Any, result: Sequence[int]
    ) -> Any:
        """The stages of ``layer`` called on ``data``, in the shape ``result``."""
        dag = layer.finish().dag
        if shape_of(data) != dag.inputs[0].shape:
            data = self._emit(relax.op.reshape(data, dag.inputs[0].shape))
        function = to_tir(dag).without_attr("global_symbol")
        variable = self.builder_.add_func(function, _short(call))
        shape = dag.shape_of(dag.outputs[0])
        found = relax.call_tir(variable, [data, weight], relax.TensorType(shape, FLOAT))
        return relax.op.reshape(self._emit(found), result)

    def _emit(self, value: Any) -> Any:
        return self.builder_.emit(self.builder_.normalize(value))


def _by_run(weight: NDArray[Any], runs: Runs) -> Any:
    """The same for data in runs: ``[kernel..., group, run, c, co / groups]``."""
    groups = runs.rows.shape[0]
    *kernel, depth, co = weight.shape
    split = weight.reshape(*kernel, depth, groups, co // groups)
    parts = [split[..., rows, g, :] for g, rows in enumerate(runs.rows)]
    stacked = np.stack(parts, axis=len(kernel))
    if runs.rows.shape[1] == 1:
        stacked = stacked.squeeze(len(kernel) + 1)
    return stored(stacked)


def _is_grouped(call: Any) -> bool:
    """Channels last, several groups, and not one channel a group."""
    layout = ORDINARY[call.op.name][2]
    if int(call.attrs.groups) == 1 or str(call.attrs.data_layout) != layout:
        return False
    shapes = [static_shape(call.args[0]), static_shape(call.args[1]), static_shape(call)]
    if None in shapes or str(call.ty.dtype) != FLOAT:
        return False
    return shape_of(call.args[1])[-2] > 1 or shape_of(call)[-1] > int(call.attrs.groups)


def _short(call: Any) -> str:
    return str(call.op.name).removeprefix("relax.nn.")


def _margins(call: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    padding = numbers(call.attrs.padding)
    return padding[:rank], padding[rank:]
