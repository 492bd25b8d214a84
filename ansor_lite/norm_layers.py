"""Stages of norms over groups of channels, for a task by hand and for networks.

Separate from ``layers.py``, which has what layers are made of, and from ``workloads.py``, which
says which there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ansor_lite.layers import FLOAT, Index, Layer, add, div, mul, number, plus
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr


def group_norm(
    layer: Layer,
    n: int,
    sizes: Mapping[str, int],
    c: int,
    groups: int,
    epsilon: float,
    channels_last: bool = True,
) -> None:
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` of ``x: [n, sizes..., c]``.

    Or ``[n, c, sizes...]``; mean and variance of a group of channels of one image, which
    ``groups`` divides. Sums are taken channel by channel first. The variance is that of what is
    left without the mean: as the mean of squares less the square of the mean it would cancel.
    """
    shape = (n, *sizes.values(), c) if channels_last else (n, c, *sizes.values())
    x, gamma, beta = layer.input("x", *shape), layer.weight("gamma", c), layer.weight("beta", c)

    def pixel(*places: Index) -> Expr:
        return x("n", *places, "c") if channels_last else x("n", "c", *places)

    summed = pixel(*(name if size > 1 else 0 for name, size in sizes.items()))
    mean = layer.stage(
        "mean", layer.axes(n=n, c=c), _average(layer, "sum", summed, n, sizes, c, groups)
    )
    centred = Call("sub", (summed, mean("n", "c")), FLOAT)
    square = _average(layer, "square", mul(centred, centred), n, sizes, c, groups)
    factor = mul(Call("rsqrt", (add(square, number(epsilon)),), FLOAT), gamma("c"))
    scale = layer.stage("scale", layer.axes(n=n, c=c), factor)
    centred = Call("sub", (pixel(*sizes), mean("n", "c")), FLOAT)
    order = {"n": n, **sizes, "c": c} if channels_last else {"n": n, "c": c, **sizes}
    layer.stage("normed", layer.axes(**order), add(mul(centred, scale("n", "c")), beta("c")))


def _average(
    layer: Layer, name: str, value: Expr, n: int, sizes: Mapping[str, int], c: int, groups: int
) -> Expr:
    """Of ``value`` over the group of a channel: axes ``n``, ``c``."""
    columns = layer.accumulate(f"{name}_columns", layer.axes(n=n, c=c), sizes, value)
    total, size = columns, c // groups
    if size > 1:
        axes = (*layer.axes(n=n, g=groups), *layer.reduced(k=size))
        first = Call("mul", (Axis("g"), Const(size, INDEX_DTYPE)), INDEX_DTYPE)
        total = layer.stage(f"{name}_total", axes, columns("n", plus(first, "k")), "sum")
    group = Call("floordiv", (Axis("c"), Const(size, INDEX_DTYPE)), INDEX_DTYPE)
    count = number(prod(sizes.values()) * size)
    return div(total("n", group if size > 1 else "c"), count)
