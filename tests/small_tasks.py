"""Small programs of every kind that rules must handle: layers, and what no list mentions.

``SMALL`` maps a name to a function that makes the DAG. Extents are odd where that is possible:
tiles that do not divide are where loops, regions and footprints go wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import programs

from ansor_lite import workloads as w
from ansor_lite.tasks import Task
from schedules.compose import Part, compose
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Read
from schedules.hardware import Hardware

HARDWARE = Hardware(threads=2)
F = "float32"

ODD = (1, 2, 3, 5, 7, 197)


def _unlisted(name: str, *constants: int, **sizes: int) -> Callable[[], ComputeDAG]:
    make = programs.PROGRAMS[name]
    return lambda: w.from_te(make(**sizes), name=name, constants=constants).dag


def _channels_first_mean() -> ComputeDAG:
    """``[3, 37, 5, 5] -> [3, 37, 1, 1]``: axes of one element stand behind the longest one."""
    spatial = tuple(IterAxis(f"i{n}", extent) for n, extent in enumerate((3, 37, 1, 1)))
    n, c, y, x = (Axis(name) for name in ("i0", "i1", "y", "x"))
    window = (IterAxis("y", 5, REDUCE), IterAxis("x", 5, REDUCE))
    total = Stage("total", (*spatial, *window), Read("data", (n, c, y, x), F), F, "sum")
    zero = Const(0, "int64")
    value = Call("div", (Read("total", (n, c, zero, zero), F), Const(25.0, F)), F)
    stages = (total, Stage("mean", spatial, value, F))
    return ComputeDAG((Tensor("data", (3, 37, 5, 5), F),), stages, ("mean",))


def _sum_of_everything() -> ComputeDAG:
    """``[7, 3] -> []``: no axis is left to cut."""
    axes = (IterAxis("i", 7, REDUCE), IterAxis("j", 3, REDUCE))
    total = Stage("total", axes, Read("data", (Axis("i"), Axis("j")), F), F, "sum")
    half = Call("mul", (Read("total", (), F), Const(0.5, F)), F)
    return ComputeDAG((Tensor("data", (7, 3), F),), (total, Stage("half", (), half, F)), ("half",))


def _two_products() -> ComputeDAG:
    """``tanh(x v) * (max(z, 0) w)``: sums of 23 and of 11, one with a producer of its own."""
    i, j, k, m = (Axis(name) for name in "ijkm")
    rows, columns = IterAxis("i", 13), IterAxis("j", 37)
    least = Call("max", (Read("z", (i, m), F), Const(0.0, F)), F)
    positive = Stage("positive", (rows, IterAxis("m", 11)), least, F)
    first = Call("mul", (Read("x", (i, k), F), Read("v", (k, j), F)), F)
    second = Call("mul", (Read("positive", (i, m), F), Read("w", (m, j), F)), F)
    sums = (
        Stage("first", (rows, columns, IterAxis("k", 23, REDUCE)), first, F, "sum"),
        Stage("second", (rows, columns, IterAxis("m", 11, REDUCE)), second, F, "sum"),
    )
    both = (Call("tanh", (Read("first", (i, j), F),), F), Read("second", (i, j), F))
    product = Stage("product", (rows, columns), Call("mul", both, F), F)
    inputs = (
        *(Tensor("x", (13, 23), F), Tensor("v", (23, 37), F, True)),
        *(Tensor("z", (13, 11), F), Tensor("w", (11, 37), F, True)),
    )
    return ComputeDAG(inputs, (positive, *sums, product), ("product",))


def chain(*tasks: Task) -> ComputeDAG:
    """Tasks one after the other: each reads what the one before it computed."""
    parts, value = [], "x"
    for number, task in enumerate(tasks):
        constants = (f"{number}.{i}" for i in range(1, len(task.dag.inputs)))
        parts.append(Part(task.dag, (value, *constants), f"y{number}"))
        value = f"y{number}"
    return compose(parts).dag


def _inverted_residual(stride: int) -> ComputeDAG:
    size = (9 - 1) // stride + 1
    return chain(
        w.conv2d(1, 9, 9, 5, 35, 1),
        w.depthwise_conv2d(1, 9, 9, 35, 3, stride, 1),
        w.conv2d(1, size, size, 35, 19, 1),
    )


SMALL: dict[str, Callable[[], ComputeDAG]] = {
    "conv2d": lambda: w.conv2d(1, 9, 9, 5, 34, 3, 1, 1).dag,
    "conv2d_strided": lambda: w.conv2d(2, 11, 11, 3, 37, 3, 2, 1).dag,
    "conv2d_pointwise": lambda: w.conv2d(1, 7, 7, 19, 33, 1, residual=True).dag,
    "conv2d_plain": lambda: w.conv2d(1, 9, 7, 5, 35, 3, bias=False, activation=None).dag,
    "conv2d_variable": lambda: w.conv2d(1, 9, 9, 5, 35, 3, 1, 1, constant_weights=False).dag,
    "conv2d_dilated": lambda: w.conv2d(1, 13, 13, 5, 34, 3, 1, 2, dilation=2).dag,
    "conv2d_grouped": lambda: w.conv2d(1, 9, 9, 6, 38, 3, 1, 1, groups=2).dag,
    "depthwise": lambda: w.depthwise_conv2d(1, 11, 11, 35, 3, 1, 1).dag,
    "depthwise_strided": lambda: w.depthwise_conv2d(1, 11, 11, 35, 3, 2, 1).dag,
    "chain_inverted_residual": lambda: _inverted_residual(1),
    "chain_strided": lambda: _inverted_residual(2),
    "chain_panels": lambda: chain(
        w.conv2d(2, 9, 9, 5, 35, 3, 1, 1), w.depthwise_conv2d(2, 9, 9, 35, 3, 1, 1)
    ),
    "chain_matmuls": lambda: chain(w.matmul(13, 37, 23, activation="gelu"), w.matmul(13, 23, 37)),
    "conv1d": lambda: w.conv1d(2, 29, 5, 35, 3, 1, 1).dag,
    "conv3d": lambda: w.conv3d(1, 5, 5, 5, 3, 19, 3, 1, 1).dag,
    "transposed": lambda: w.conv2d_transpose(1, 5, 5, 5, 34, 4, 2, 1).dag,
    "matmul": lambda: w.matmul(13, 37, 23, bias=True, activation="relu").dag,
    "gated_matmul": lambda: w.gated_matmul(13, 37, 23).dag,
    "two_products": _two_products,
    "gated_variable": lambda: w.gated_matmul(13, 37, 23, constant_weights=False).dag,
    "matmul_variable": lambda: w.matmul(13, 37, 23, constant_weights=False).dag,
    "matvec": lambda: w.matmul(1, 197, 23).dag,
    "batch_matmul": lambda: w.batch_matmul(3, 13, 37, 7).dag,
    "batch_matmul_transposed": lambda: w.batch_matmul(3, 13, 37, 7, transpose_b=True).dag,
    "dots": lambda: w.batch_matmul(3, 3, 37, 32, transpose_b=True).dag,
    "attention": lambda: w.attention(2, 13, 17, 19).dag,
    "attention_rows": lambda: w.attention(2, 37, 21, 19).dag,
    "attention_causal": lambda: w.attention(2, 37, 53, 19, causal=True, layout="bshd").dag,
    "windows_1d": lambda: w.attention(2, 37, depth=7, window=17, dilation=2).dag,
    "windows_2d": lambda: w.attention(2, (5, 21), depth=7, window=(3, 5), layout="bshd").dag,
    "softmax": lambda: w.softmax(7, 197).dag,
    "norm": lambda: w.norm(3, 13, 37).dag,
    "layer_norm": lambda: w.layer_norm(7, 197).dag,
    "max_pool": lambda: w.pool2d(1, 11, 11, 35, 3, 2, 1).dag,
    "average_pool": lambda: w.pool2d(1, 11, 11, 35, 3, 2, 0, kind="avg").dag,
    "sum_of_everything": _sum_of_everything,
    "channels_first_mean": _channels_first_mean,
    "capsule_convolution": _unlisted("capsule_convolution", 1, co=19),
    "five_index_einsum": _unlisted("five_index_einsum", c=37),
    "banded_matmul": _unlisted("banded_matmul", rows=29, columns=37),
    "convolution_with_pooling": _unlisted("convolution_with_pooling", 1, co=34),
}

ODD_TASKS: dict[str, Callable[[int], ComputeDAG]] = {
    "conv2d": lambda e: w.conv2d(1, min(e, 7), min(e, 7), min(e, 7), e, 3, 1, 1).dag,
    "depthwise": lambda e: w.depthwise_conv2d(1, min(e, 7), min(e, 7), e, 3, 1, 1).dag,
    "matmul": lambda e: w.matmul(e, e, e).dag,
    "batch_matmul": lambda e: w.batch_matmul(2, e, e, min(e, 7), transpose_b=True).dag,
    "softmax": lambda e: w.softmax(e, e).dag,
    "layer_norm": lambda e: w.layer_norm(e, e).dag,
    "pool": lambda e: w.pool2d(1, min(e, 7), min(e, 7), e, 3, 1, 1).dag,
}
