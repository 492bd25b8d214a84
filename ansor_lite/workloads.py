"""Ready-made tasks: common layers with their usual epilogues, and any function as a task.

A layer here is a few stages over axes, the same that the import of a network yields; nothing
downstream knows its name. Activations are float32, channels last; weights ``[kernel..., ci, co]``
and constant unless told otherwise. Separate from ``tasks.py``: that one describes, this one makes.
"""

# imports TVM (``from_primfunc`` and ``from_te`` only, when they are called)

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from ansor_lite import norm_layers
from ansor_lite.attention_layers import (
    LAYOUTS,
    attend,
    attend_windows,
    each_size,
    grouped,
    joined,
    spans,
)
from ansor_lite.errors import InputError
from ansor_lite.layers import FLOAT, Layer, Sizes, activated, add, div, mul, number
from ansor_lite.tasks import Task
from schedules.expr import Call

if TYPE_CHECKING:
    from typing_extensions import Unpack

# ------------------------------------------------------------------ convolutions


class Epilogue(TypedDict, total=False):
    """What follows a convolution: its bias, a tensor to add, then an activation.

    ``activation``: a key of :data:`ansor_lite.layers.ACTIVATIONS`, or ``None``.
    """

    bias: bool
    activation: str | None
    residual: bool
    constant_weights: bool


def _finish(
    layer: Layer,
    *,
    bias: bool = True,
    activation: str | None = "relu",
    residual: bool = False,
    constant_weights: bool = True,
) -> Task:
    assert layer.constant_weights == constant_weights
    return layer.finish(bias, activation, residual)


def _layer(kind: str, epilogue: Epilogue) -> Layer:
    return Layer(kind, epilogue.get("constant_weights", True))


def conv1d(
    n: int,
    w: int,
    ci: int,
    co: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """``[n, w, ci] -> [n, w', co]``; see :func:`conv2d`."""
    layer = _layer("conv1d", epilogue)
    layer.convolution(n, {"w": w}, ci, co, kernel, stride, padding, dilation, groups)
    return _finish(layer, **epilogue)


def conv2d(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """``[n, h, w, ci] -> [n, h', w', co]``, plus bias, plus a residual tensor, then activation.

    Several groups of several channels have an axis of their own: ``[n, h, w, group, ci / groups]``,
    see :meth:`ansor_lite.layers.Layer.convolution`. :class:`Epilogue` lists the keywords; ReLU
    follows and a bias is there unless told otherwise. Raises :class:`InputError` for sizes that do
    not fit together.
    """
    layer = _layer("conv2d", epilogue)
    layer.convolution(n, {"h": h, "w": w}, ci, co, kernel, stride, padding, dilation, groups)
    return _finish(layer, **epilogue)


def conv3d(
    n: int,
    d: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """``[n, d, h, w, ci] -> [n, d', h', w', co]``; see :func:`conv2d`."""
    layer = _layer("conv3d", epilogue)
    sizes = {"d": d, "h": h, "w": w}
    layer.convolution(n, sizes, ci, co, kernel, stride, padding, dilation, groups)
    return _finish(layer, **epilogue)


def depthwise_conv2d(
    n: int,
    h: int,
    w: int,
    c: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """``[n, h, w, c] -> [n, h', w', c]``, every channel by itself; weights ``[kh, kw, 1, c]``."""
    layer = _layer("depthwise_conv2d", epilogue)
    layer.convolution(n, {"h": h, "w": w}, c, c, kernel, stride, padding, dilation, c)
    return _finish(layer, **epilogue)


def conv1d_transpose(
    n: int,
    w: int,
    ci: int,
    co: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """See :func:`conv2d_transpose`."""
    layer = _layer("conv1d_transpose", epilogue)
    layer.transposed_convolution(
        n, {"w": w}, ci, co, kernel, stride, padding, output_padding, groups
    )
    return _finish(layer, **epilogue)


def conv2d_transpose(
    n: int,
    h: int,
    w: int,
    ci: int,
    co: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    **epilogue: Unpack[Epilogue],
) -> Task:
    """``[n, h, w, ci] -> [n, (h - 1) * stride - 2 * padding + kernel + output_padding, ..., co]``.

    By phases: the result is ``[n, h', stride, w', stride, co]`` and the weights are
    ``ansor_lite.phases.phase_weights`` of ``[kernel..., ci, co]``.
    """
    layer = _layer("conv2d_transpose", epilogue)
    sizes = {"h": h, "w": w}
    layer.transposed_convolution(n, sizes, ci, co, kernel, stride, padding, output_padding, groups)
    return _finish(layer, **epilogue)


def squeeze_and_excite(n: int, h: int, w: int, c: int, squeezed: int) -> Task:
    """``x * sigmoid(W2 silu(W1 mean(x) + b1) + b2)``, the mean over ``h`` and ``w`` of each image.

    Hu et al., CVPR 2018, with the activations of EfficientNet.
    """
    layer = Layer("squeeze_and_excite", True, f"n{n} h{h} w{w} c{c} squeezed{squeezed}")
    x = layer.input("x", n, h, w, c)
    mean = layer.mean(x, n, {"h": h, "w": w}, c)
    narrow = layer.dense("narrow", mean, n, c, squeezed, "silu")
    gate = layer.dense("wide", narrow, n, squeezed, c, "sigmoid")
    layer.stage(
        "scaled", layer.axes(n=n, h=h, w=w, c=c), mul(x("n", "h", "w", "c"), gate("n", "c"))
    )
    return layer.finish()


# ------------------------------------------------------------------ products


def matmul(
    m: int,
    n: int,
    k: int,
    *,
    bias: bool = False,
    activation: str | None = None,
    residual: bool = False,
    constant_weights: bool = True,
) -> Task:
    """``[m, k] x [k, n] -> [m, n]``; the second operand is the weight."""
    layer = Layer("matmul", constant_weights, f"m{m} n{n} k{k}")
    a, b = layer.input("a", m, k), layer.weight("b", k, n)
    axes = (*layer.axes(i=m, j=n), *layer.reduced(k=k))
    layer.stage("matmul", axes, mul(a("i", "k"), b("k", "j")), "sum")
    return layer.finish(bias, activation, residual)


def gated_matmul(
    m: int, n: int, k: int, *, activation: str = "silu", constant_weights: bool = True
) -> Task:
    """``activation(x W1) * (x W2)`` for ``x [m, k]`` (Shazeer, 2020: SwiGLU with ``silu``)."""
    layer = Layer("gated_matmul", constant_weights, f"m{m} n{n} k{k} {activation}")
    a = layer.input("a", m, k)("i", "k")
    weights = [layer.weight(name, k, n)("k", "j") for name in ("b", "c")]
    axes = (*layer.axes(i=m, j=n), *layer.reduced(k=k))
    gate, value = (
        layer.stage(name, axes, mul(a, weight), "sum")("i", "j")
        for name, weight in zip(("gate", "value"), weights, strict=True)
    )
    layer.stage("gated", layer.axes(i=m, j=n), mul(activated(activation, gate), value))
    return layer.finish()


def batch_matmul(
    b: int,
    m: int,
    n: int,
    k: int,
    *,
    transpose_b: bool = False,
    bias: bool = False,
    activation: str | None = None,
    residual: bool = False,
    constant_weights: bool = False,
) -> Task:
    """``[b, m, k] x [b, k, n] -> [b, m, n]``, or ``[b, n, k]`` with ``transpose_b``."""
    layer = Layer("batch_matmul", constant_weights, f"b{b} m{m} n{n} k{k}")
    left = layer.input("a", b, m, k)
    right = layer.weight("b", b, *((n, k) if transpose_b else (k, n)))
    axes = (*layer.axes(batch=b, i=m, j=n), *layer.reduced(k=k))
    other = right("batch", "j", "k") if transpose_b else right("batch", "k", "j")
    layer.stage("matmul", axes, mul(left("batch", "i", "k"), other), "sum")
    return layer.finish(bias, activation, residual)


def attention(
    heads: int,
    queries: Sizes,
    keys: Sizes | None = None,
    depth: int = 64,
    *,
    batch: int = 1,
    causal: bool = False,
    kv_heads: int | None = None,
    layout: str = "bhsd",
    window: Sizes | None = None,
    dilation: Sizes | None = None,
) -> Task:
    """``softmax(q k^T / sqrt(depth)) v`` on ``[batch, heads, queries | keys, depth]``.

    ``keys``: as many as queries unless told otherwise. ``causal``: query ``i`` sees keys up to
    ``i + keys - queries``. ``kv_heads``: heads of ``k`` and ``v``, each for ``heads / kv_heads``
    neighbouring heads of ``q``, which are two axes of the result. ``layout="bshd"``: all tensors
    are ``[batch, queries | keys, heads, depth]``.

    ``window``: neighbourhood attention. Tokens are a row (``queries=4096, window=127``) or an image
    (``queries=(56, 56), window=(7, 7)``), and every query sees exactly ``window`` keys along each
    axis: those around it, ``dilation`` apart; near a border the window is shifted by multiples of
    the dilation until it is inside (:class:`ansor_lite.attention_layers.Span`). What is outside
    of a window takes no part in its result, and memory grows with queries times window. An axis
    that a dilation divides is two axes of the result: ``position = step * dilation + phase``. So
    are the steps of the last axis where neighbours share keys: ``step = group * neighbours + nth``
    (:func:`ansor_lite.attention_layers.grouping`). Elements stand in the order of positions.

    Raises :class:`InputError` for heads that do not come in equal groups, for an unknown layout,
    and for windows that are even, do not fit, or are asked for with other keys or a causal mask.
    """
    groups = grouped("attention", heads, kv_heads)
    if layout not in LAYOUTS:
        raise InputError(f"attention: no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    sizes, others = each_size(queries), each_size(queries if keys is None else keys)
    words = [f"b{batch} heads{heads}", *([f"over{kv_heads}"] if groups.group > 1 else [])]
    words += [f"q{joined(sizes)}", f"k{joined(others)}", f"d{depth}"]
    layer = Layer("attention", False)
    if window is None:
        if len(sizes) != 1 or len(others) != 1 or dilation is not None:
            raise InputError("attention: several axes and a dilation are for windows only")
        attend(layer, groups, batch, *sizes, *others, depth, layout, causal)
    else:
        if causal or sizes != others:
            raise InputError("attention: a window is around a query: no mask, no other keys")
        over = spans(
            "attention", sizes, each_size(window), each_size(1 if dilation is None else dilation)
        )
        attend_windows(layer, groups, batch, over, depth, layout)
        words.append(" ".join(f"w{s.window}x{s.dilation}" for s in over))
    words += ["causal"] * causal + [layout] * (layout != "bhsd")
    layer.sizes = " ".join(words)
    return layer.finish()


# ------------------------------------------------------------------ rows and windows


def softmax(rows: int, columns: int) -> Task:
    """Softmax over the columns of ``[rows, columns]``."""
    layer = Layer("softmax", False, f"rows{rows} columns{columns}")
    x = layer.input("x", rows, columns)
    layer.softmax(x, layer.axes(i=rows), columns)
    return layer.finish()


def norm(b: int, m: int, n: int) -> Task:
    """``sqrt(sum of squares)`` of each ``[m, n]`` matrix (NRM of the Ansor paper, section 7.1)."""
    layer = Layer("norm", False, f"b{b} m{m} n{n}")
    x = layer.input("x", b, m, n)("b", "i", "j")
    axes = (*layer.axes(b=b), *layer.reduced(i=m, j=n))
    squares = layer.stage("squares", axes, mul(x, x), "sum")
    layer.stage("norm", layer.axes(b=b), Call("sqrt", (squares("b"),), FLOAT))
    return layer.finish()


def layer_norm(rows: int, columns: int, *, epsilon: float = 1e-5) -> Task:
    """Rows of ``[rows, columns]`` to mean 0 and variance 1, then scaled and shifted by column."""
    layer = Layer("layer_norm", True, f"rows{rows} columns{columns}")
    x = layer.input("x", rows, columns)("i", "j")
    gamma, beta = layer.weight("gamma", columns), layer.weight("beta", columns)
    row, both = layer.axes(i=rows), layer.axes(i=rows, j=columns)
    over = (*row, *layer.reduced(j=columns))
    count = number(columns)
    mean = layer.stage("mean", row, div(layer.stage("total", over, x, "sum")("i"), count))
    centred = Call("sub", (x, mean("i")), FLOAT)
    squares = layer.stage("squares", over, mul(centred, centred), "sum")
    variance = add(div(squares("i"), count), number(epsilon))
    factor = layer.stage("factor", row, Call("rsqrt", (variance,), FLOAT))
    layer.stage("normed", both, add(mul(mul(centred, factor("i")), gamma("j")), beta("j")))
    return layer.finish()


def rms_norm(rows: int, columns: int, *, epsilon: float = 1e-6) -> Task:
    """Rows of ``[rows, columns]`` to a mean square of 1, then scaled by column."""
    layer = Layer("rms_norm", True, f"rows{rows} columns{columns}")
    x, gamma = layer.input("x", rows, columns)("i", "j"), layer.weight("gamma", columns)
    row = layer.axes(i=rows)
    squares = layer.stage("squares", (*row, *layer.reduced(j=columns)), mul(x, x), "sum")
    average = add(div(squares("i"), number(columns)), number(epsilon))
    factor = layer.stage("factor", row, Call("rsqrt", (average,), FLOAT))
    layer.stage("normed", layer.axes(i=rows, j=columns), mul(mul(x, factor("i")), gamma("j")))
    return layer.finish()


def group_norm(n: int, h: int, w: int, c: int, groups: int, *, epsilon: float = 1e-5) -> Task:
    """Groups of channels of every image of ``[n, h, w, c]`` to mean 0 and variance 1.

    Then scaled and shifted by channel. One group is a layer norm of images, ``c`` groups are an
    instance norm. Sums are taken channel by channel first, along which memory is contiguous.
    Raises :class:`InputError` when ``groups`` do not divide the channels.
    """
    if groups < 1 or c % groups:
        raise InputError(f"group_norm: {groups} groups do not divide {c} channels")
    layer = Layer("group_norm", True, f"n{n} h{h} w{w} c{c} groups{groups}")
    norm_layers.group_norm(layer, n, {"h": h, "w": w}, c, groups, epsilon)
    return layer.finish()


def pool2d(
    n: int,
    h: int,
    w: int,
    c: int,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    *,
    kind: str = "max",
) -> Task:
    """Maximum or average (``kind="avg"``, padding counted) over windows of ``[n, h, w, c]``."""
    if kind not in ("max", "avg"):
        raise InputError(f"pooling is 'max' or 'avg', not {kind!r}")
    layer = Layer(f"{kind}_pool2d", False)
    layer.pool(n, {"h": h, "w": w}, c, kernel, stride, padding, kind)
    return layer.finish()


def global_pool2d(n: int, h: int, w: int, c: int, *, kind: str = "avg") -> Task:
    """Maximum or average over every image of ``[n, h, w, c]``; the result is ``[n, c]``."""
    if kind not in ("max", "avg"):
        raise InputError(f"pooling is 'max' or 'avg', not {kind!r}")
    layer = Layer(f"global_{kind}_pool2d", False, f"n{n} h{h} w{w} c{c}")
    x = layer.input("x", n, h, w, c)
    if kind == "avg":
        layer.mean(x, n, {"h": h, "w": w}, c)
    else:
        over = {"h": h, "w": w}
        layer.accumulate("most", layer.axes(n=n, c=c), over, layer.pixel(x, over), "max")
    return layer.finish()


def resize2d(n: int, h: int, w: int, c: int, scale: int = 2) -> Task:
    """Every pixel of ``[n, h, w, c]`` ``scale`` times along both dimensions (nearest).

    The result is ``[n, h, scale, w, scale, c]``, the larger image row by row.
    """
    layer = Layer("resize2d", False, f"n{n} h{h} w{w} c{c} scale{scale}")
    x = layer.input("x", n, h, w, c)
    axes = layer.axes(n=n, h=h, rh=scale, w=w, rw=scale, c=c)
    layer.stage("resized", axes, x("n", "h", "w", "c"))
    return layer.finish()


# ------------------------------------------------------------------ any function


def from_primfunc(func: Any, *, name: str = "task", constants: Collection[int] = ()) -> Task:
    """A task of a ``tvm.tirx.PrimFunc``; ``constants`` are positions of weight parameters.

    Raises :class:`schedules.errors.UnsupportedProgram` when it is no compute DAG.
    """
    from schedules.from_tir import from_tir

    return Task(name, from_tir(func, constants))


def from_te(tensors: Sequence[Any], *, name: str = "task", constants: Collection[int] = ()) -> Task:
    """A task of TE tensors, inputs first, then outputs; see :func:`from_primfunc`."""
    from tvm import te

    return from_primfunc(te.create_prim_func(list(tensors)), name=name, constants=constants)
