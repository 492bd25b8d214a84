"""Channel shuffles move down the network until the weights of a convolution absorb them.

A shuffle (reshape, transpose, reshape) is an order of channels. Elementwise operators and depthwise
convolutions do not mind it, their constants follow; every other convolution reads its channels in
any order. Runs after the conversion to channels last, before ``convolutions.py`` splits groups.
"""

# imports TVM
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from ansor_lite.graph.expressions import (
    Lookup,
    constant,
    movement_of,
    operator,
    shape_of,
    static_shape,
    stored,
)
from ansor_lite.graph.fold import rewrite_main
from ansor_lite.graph.simplify import BINARY, UNARY

CONVOLUTIONS = {"relax.nn.conv1d": "NWC", "relax.nn.conv2d": "NHWC", "relax.nn.conv3d": "NDHWC"}


@dataclass(frozen=True)
class Shuffle:
    """``source`` with its last dimension cut into ``pieces`` and these transposed by ``axes``."""

    source: Any
    pieces: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def order(self) -> NDArray[np.int64]:
        """Channel ``c`` of the result is channel ``order[c]`` of the source."""
        channels: NDArray[np.int64] = np.arange(prod(self.pieces)).reshape(self.pieces)
        return np.transpose(channels, self.axes).ravel()

    @property
    def places(self) -> NDArray[np.int64]:
        """Channel ``k`` of the source is channel ``places[k]`` of the result."""
        return np.argsort(self.order)


def shuffle_of(lookup: Lookup, value: Any) -> Shuffle | None:
    """The shuffle of the last dimension that ``value`` is, if it is one."""
    found = movement_of(lookup, value)
    if found is None or found[2] == 0:
        return None
    source, movement, _ = found
    shape = static_shape(source)
    if shape is None or shape != movement.shape or movement.is_view:
        return None
    outer, count = 0, 1
    while count < prod(shape[:-1]):
        count *= movement.atoms[outer]
        outer += 1
    if count != prod(shape[:-1]) or movement.order[:outer] != tuple(range(outer)):
        return None
    axes = tuple(a - outer for a in movement.order[outer:])
    return Shuffle(source, movement.atoms[outer:], axes)


def sink_shuffles(module: tvm.IRModule) -> tvm.IRModule:
    """``main`` with shuffles behind what can be computed before them, or gone."""
    return rewrite_main(module, _Sink(module))


@relax.expr_functor.mutator
class _Sink(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = operator(call)
        if name in UNARY:
            return self._elementwise(call, 0)
        if name in BINARY:
            side = 1 if constant(call.args[0]) is not None else 0
            return self._elementwise(call, side)
        if str(getattr(call.attrs, "data_layout", "")) == CONVOLUTIONS.get(name):
            return self._convolution(call)
        return call

    def _elementwise(self, call: Any, side: int) -> Any:
        shuffle = shuffle_of(self.lookup_binding, call.args[side])
        if shuffle is None or static_shape(call) != static_shape(call.args[side]):
            return call
        operands = list(call.args)
        operands[side] = shuffle.source
        for i, operand in enumerate(operands):
            value = constant(operand)
            if i == side or value is None or value.size == 1:
                continue
            if value.shape[-1] > 1:
                operands[i] = stored(value[..., shuffle.places])
        if not all(i == side or constant(o) is not None for i, o in enumerate(operands)):
            return call
        return self._shuffled(relax.Call(call.op, operands, call.attrs, call.ty_args), shuffle)

    def _convolution(self, call: Any) -> Any:
        shuffle = shuffle_of(self.lookup_binding, call.args[0])
        weight = constant(call.args[1])
        if shuffle is None or weight is None or str(call.attrs.kernel_layout)[-2:] != "IO":
            return call
        groups, places = int(call.attrs.groups), shuffle.places
        if groups == 1:
            weight = stored(weight[..., places, :])
            return relax.Call(call.op, [shuffle.source, weight], call.attrs, call.ty_args)
        if weight.shape[-2] == 1 and weight.shape[-1] == groups:
            weight = stored(weight[..., places])
            moved = relax.Call(call.op, [shuffle.source, weight], call.attrs, call.ty_args)
            return self._shuffled(moved, shuffle)
        return call

    def _shuffled(self, value: Any, shuffle: Shuffle) -> Any:
        """``shuffle`` of another value with the same channels."""
        value = self._emit(value)
        *outer, channels = shape_of(value)
        rank = len(outer)
        split = self._emit(relax.op.reshape(value, [*outer, *shuffle.pieces]))
        axes = [*range(rank), *(rank + a for a in shuffle.axes)]
        turned = self._emit(relax.op.permute_dims(split, axes))
        return relax.op.reshape(turned, [*outer, channels])

    def _emit(self, value: Any) -> Any:
        return self.builder_.emit(self.builder_.normalize(value))


@dataclass(frozen=True)
class Runs:
    """Channels of groups in a source: run ``a`` of group ``g`` starts at ``a * stride + g * m``.

    ``rows[g, a, i]``: which of the group's input channels element ``i`` of that run is.
    """

    source: Any
    rows: NDArray[np.int64]


def runs_of(shuffle: Shuffle, groups: int) -> Runs | None:
    """How every group reads its channels before the shuffle, if all do so in the same pattern."""
    channels = shuffle.order.size
    depth = channels // groups
    first = np.sort(shuffle.order[:depth])
    count = 1 + int(np.count_nonzero(np.diff(first) != 1))
    if depth % count:
        return None
    expected = np.arange(channels).reshape(count, groups, depth // count).swapaxes(0, 1)
    group, row = np.divmod(shuffle.places[expected], depth)
    if not np.array_equal(group, np.broadcast_to(np.arange(groups)[:, None, None], group.shape)):
        return None
    return Runs(shuffle.source, row)
