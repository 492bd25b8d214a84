"""Builds the stages of a layer: readable expressions over named axes, padding, epilogues.

``workloads.py`` says which layers there are; this is what they are written with. Everything ends in
``schedules.dag`` values, and TVM is not involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import pi, prod, sqrt
from numbers import Integral
from typing import TypeAlias

from ansor_lite.errors import InputError
from ansor_lite.phases import Phases, phases
from ansor_lite.tasks import Task
from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read

FLOAT = "float32"
LOWEST = -3.4028234663852886e38

Sizes: TypeAlias = int | Sequence[int]
"""One number for every spatial dimension, or one per dimension."""

Index: TypeAlias = str | int | Expr
"""The name of an axis, a position, or an index expression."""


def number(value: float) -> Const:
    return Const(float(value), FLOAT)


def add(a: Expr, b: Expr) -> Call:
    return Call("add", (a, b), FLOAT)


def mul(a: Expr, b: Expr) -> Call:
    return Call("mul", (a, b), FLOAT)


def div(a: Expr, b: Expr) -> Call:
    return Call("div", (a, b), FLOAT)


def index(value: Index) -> Expr:
    if isinstance(value, str):
        return Axis(value)
    return Const(value, INDEX_DTYPE) if isinstance(value, int) else value


def plus(a: Index, b: Index) -> Expr:
    """``a + b`` on indices; adding 0 changes nothing."""
    if b == 0:
        return index(a)
    if isinstance(b, int) and b < 0:
        return Call("sub", (index(a), index(-b)), INDEX_DTYPE)
    return Call("add", (index(a), index(b)), INDEX_DTYPE)


def times(a: Index, factor: int) -> Expr:
    return index(a) if factor == 1 else Call("mul", (index(a), index(factor)), INDEX_DTYPE)


def at_most(a: Index, b: Index) -> Call:
    return Call("le", (index(a), index(b)), "bool")


def below(a: Index, b: Index) -> Call:
    return Call("lt", (index(a), index(b)), "bool")


def select_all(conditions: Sequence[Expr], yes: Expr, no: Expr) -> Expr:
    """``yes`` where every condition holds."""
    if not conditions:
        return yes
    both = reduce(lambda a, b: Call("and", (a, b), "bool"), conditions)
    return Call("select", (both, yes, no), FLOAT)


def _gelu(x: Expr) -> Expr:
    return mul(
        mul(x, number(0.5)), add(Call("erf", (mul(x, number(sqrt(0.5))),), FLOAT), number(1))
    )


def _gelu_tanh(x: Expr) -> Expr:
    """The approximation of Hendrycks and Gimpel, 2016."""
    curve = add(x, mul(number(0.044715), mul(mul(x, x), x)))
    tanh = Call("tanh", (mul(number(sqrt(2 / pi)), curve),), FLOAT)
    return mul(mul(number(0.5), x), add(number(1), tanh))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": lambda x: Call("max", (x, number(0)), FLOAT),
    "relu6": lambda x: Call("min", (Call("max", (x, number(0)), FLOAT), number(6)), FLOAT),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "sigmoid": lambda x: Call("sigmoid", (x,), FLOAT),
    "silu": lambda x: mul(x, Call("sigmoid", (x,), FLOAT)),
    "tanh": lambda x: Call("tanh", (x,), FLOAT),
}


def activated(name: str, x: Expr) -> Expr:
    """One of :data:`ACTIVATIONS` of ``x``; raises :class:`InputError` when there is none."""
    if name not in ACTIVATIONS:
        raise InputError(f"no activation {name!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](x)


class Access:
    """A tensor that is read by calling it with axis names or index expressions."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *indices: Index) -> Read:
        return Read(self.name, tuple(index(i) for i in indices), FLOAT)


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a convolution, by where they stand.

    ``data`` and ``result``: axes by name; ``weight``: extents; ``summed``: axes of the input
    channels of one output; ``read`` and ``taken``: where the data and the weights are read.
    """

    data: Mapping[str, int]
    result: Mapping[str, int]
    weight: tuple[int, ...]
    read: tuple[Index, ...]
    taken: tuple[Index, ...]
    summed: Mapping[str, int]


class Layer:
    """Collects inputs and stages; the last stage is the output."""

    def __init__(self, kind: str, constant_weights: bool, sizes: str = "") -> None:
        self.kind = kind
        self.constant_weights = constant_weights
        self.sizes = sizes
        self.inputs: list[Tensor] = []
        self.stages: list[Stage] = []
        self.channel_axes = 1  # trailing axes of the result that a bias has too

    def axes(self, **extents: int) -> tuple[IterAxis, ...]:
        return self._axes(SPATIAL, extents)

    def reduced(self, **extents: int) -> tuple[IterAxis, ...]:
        return self._axes(REDUCE, extents)

    def _axes(self, kind: str, extents: Mapping[str, int]) -> tuple[IterAxis, ...]:
        for name, extent in extents.items():
            if extent < 1:
                raise InputError(f"{self.kind}: extent {extent} of {name!r} is not positive")
        return tuple(IterAxis(name, extent, kind) for name, extent in extents.items())

    def input(self, name: str, *shape: int, constant: bool = False) -> Access:
        if any(not isinstance(extent, Integral) or extent < 1 for extent in shape):
            raise InputError(f"{self.kind}: {name} has shape {list(shape)}")
        self.inputs.append(Tensor(name, shape, FLOAT, constant))
        return Access(name)

    def weight(self, name: str, *shape: int) -> Access:
        return self.input(name, *shape, constant=self.constant_weights)

    def stage(
        self, name: str, axes: Sequence[IterAxis], body: Expr, combiner: str | None = None
    ) -> Access:
        self.stages.append(Stage(name, tuple(axes), body, FLOAT, combiner))
        return Access(name)

    def finish(
        self, bias: bool = False, activation: str | None = None, residual: bool = False
    ) -> Task:
        """The task, its last stage followed by the wanted epilogues."""
        words = [self.kind, self.sizes]
        if bias:
            channels = self.stages[-1].spatial[-self.channel_axes :]
            shape, names = [a.extent for a in channels], [a.name for a in channels]
            added = self.weight("bias", *shape)(*names)
            self._elementwise("biased", lambda x: add(x, added))
            words.append("bias")
        if residual:
            last = self.stages[-1]
            other = self.input("residual", *last.shape)(*(a.name for a in last.spatial))
            self._elementwise("joined", lambda x: add(x, other))
            words.append("residual")
        if activation is not None:
            self._elementwise(activation, lambda x: activated(activation, x))
            words.append(activation)
        dag = ComputeDAG(tuple(self.inputs), tuple(self.stages), (self.stages[-1].name,))
        return Task(" ".join(w for w in words if w), dag)

    def _elementwise(self, name: str, change: Callable[[Expr], Expr]) -> None:
        axes = self.stages[-1].spatial
        value = Access(self.stages[-1].name)(*(a.name for a in axes))
        self.stage(name, axes, change(value))

    # -- compositions ----------------------------------------------------------------------------

    def convolution(
        self,
        n: int,
        sizes: Mapping[str, int],
        ci: int,
        co: int,
        kernel: Sizes,
        stride: Sizes,
        padding: Sizes,
        dilation: Sizes,
        groups: int,
    ) -> None:
        """``sizes``: spatial dimensions by name; output axes are ``n``, these, and ``co``.

        Several groups of several channels have an axis of their own, ``group``: in the data before
        the channels, in the weights ``[kernel..., group, ci / groups, co / groups]``. One channel a
        group is depthwise: weights ``[kernel..., 1, co]``.
        """
        k, s, p, d = (self.each(x, sizes) for x in (kernel, stride, padding, dilation))
        self.describe({"n": n, **sizes, "ci": ci, "co": co}, k=k, s=s, p=p, d=d, groups=(groups,))
        margins = tuple(zip(p, p, strict=True))
        self.sum_windows(n, sizes, self.channels(ci, co, groups), k, s, margins, d)

    def sum_windows(
        self,
        n: int,
        sizes: Mapping[str, int],
        channels: Channels,
        kernel: Sequence[int],
        stride: Sequence[int],
        margins: Sequence[tuple[int, int]],
        dilation: Sequence[int],
    ) -> None:
        source = self.data(n, sizes, channels, margins)
        weight = self.weight("weight", *kernel, *channels.weight)
        window, where = self.windows(sizes, kernel, stride, margins, dilation)
        taps = {f"k{name}": size for name, size in zip(sizes, kernel, strict=True)}
        self.accumulate(
            "conv",
            self.axes(n=n, **window, **channels.result),
            taps | dict(channels.summed),
            mul(
                source("n", *where, *channels.read),
                weight(*(t if size > 1 else 0 for t, size in taps.items()), *channels.taken),
            ),
        )

    def transposed_convolution(
        self,
        n: int,
        sizes: Mapping[str, int],
        ci: int,
        co: int,
        kernel: Sizes,
        stride: Sizes,
        padding: Sizes,
        output_padding: Sizes = 0,
        groups: int = 1,
    ) -> None:
        """Phase by phase (``phases.py``), so that no zero is multiplied between two inputs.

        Output axes: ``n``; for every dimension blocks and, of more than one phase, ``r<name>``;
        channels. Row-major, that is ``[n, (size - 1) * stride - 2 * padding + kernel +
        output_padding, ..., co]`` where the phases come out even. Weights as
        :func:`ansor_lite.phases.phase_weights` has them, channels as in :meth:`convolution`.
        """
        k, s, p, extra = (self.each(x, sizes) for x in (kernel, stride, padding, output_padding))
        self.describe(
            {"n": n, **sizes, "ci": ci, "co": co}, k=k, s=s, p=p, op=extra, groups=(groups,)
        )
        dimensions = []
        for name, size, k_, s_, p_, e in zip(sizes, sizes.values(), k, s, p, extra, strict=True):
            extent = (size - 1) * s_ - 2 * p_ + k_ + e
            if extent < 1:
                raise InputError(f"{self.kind}: padding {p_} leaves nothing of {name}={size}")
            dimensions.append(phases(size, k_, s_, p_, extent))
        self.sum_phases(n, sizes, self.channels(ci, co, groups), dimensions)

    def sum_phases(
        self,
        n: int,
        sizes: Mapping[str, int],
        channels: Channels,
        dimensions: Sequence[Phases],
    ) -> None:
        margins = [
            (max(0, d.before), max(0, d.reach - d.before - size))
            for d, size in zip(dimensions, sizes.values(), strict=True)
        ]
        source = self.data(n, sizes, channels, margins)
        shape = [extent for d in dimensions for extent in (d.count, d.window)]
        weight = self.weight("weight", *shape, *channels.weight)
        spatial: dict[str, int] = {}
        reduced: dict[str, int] = {}
        where, taken = [], []
        for name, d in zip(sizes, dimensions, strict=True):
            phase, tap = f"r{name}", f"k{name}"
            spatial |= {name: d.blocks} | ({phase: d.count} if d.count > 1 else {})
            reduced[tap] = d.window
            start = plus(plus(name, phase if d.shift else 0), tap if d.window > 1 else 0)
            where.append(plus(start, max(0, -d.before)))
            taken += [phase if d.count > 1 else 0, tap if d.window > 1 else 0]
        self.accumulate(
            "conv",
            self.axes(n=n, **spatial, **channels.result),
            reduced | dict(channels.summed),
            mul(source("n", *where, *channels.read), weight(*taken, *channels.taken)),
        )

    def pool(
        self,
        n: int,
        sizes: Mapping[str, int],
        c: int,
        kernel: Sizes,
        stride: Sizes,
        padding: Sizes,
        kind: str,
    ) -> None:
        k, s, p = (self.each(x, sizes) for x in (kernel, stride, padding))
        self.describe({"n": n, **sizes, "c": c}, k=k, s=s, p=p)
        margins = tuple(zip(p, p, strict=True))
        data = self.input("data", n, *sizes.values(), c)
        fill = LOWEST if kind == "max" else 0.0
        source = self.padded(data, n, sizes, {"c": c}, margins, fill)
        window, where = self.windows(sizes, k, s, margins, (1,) * len(k))
        axes = self.axes(n=n, **window, c=c)
        taps = {f"k{name}": size for name, size in zip(sizes, k, strict=True)}
        combiner = "max" if kind == "max" else "sum"
        pooled = self.accumulate("pooled", axes, taps, source("n", *where, "c"), combiner)
        if kind == "avg":
            mean = div(pooled("n", *sizes, "c"), number(prod(k)))
            self.stage("mean", axes, mean)

    def softmax(self, x: Access, outer: tuple[IterAxis, ...], columns: int) -> Access:
        """Softmax of ``x[outer..., j]`` over ``j``; axes ``outer`` and ``j`` of the result."""
        names = [a.name for a in outer]
        square = (*outer, *self.axes(j=columns))
        over = {"j": columns}
        column: Index = "j" if columns > 1 else 0
        peak = self.accumulate("peak", outer, over, x(*names, column), "max")
        shifted = Call("sub", (x(*names, "j"), peak(*names)), FLOAT)
        powers = self.stage("powers", square, Call("exp", (shifted,), FLOAT))
        total = self.accumulate("total", outer, over, powers(*names, column))
        return self.stage("shares", square, div(powers(*names, "j"), total(*names)))

    def mean(self, x: Access, n: int, sizes: Mapping[str, int], c: int) -> Access:
        """The mean of ``x[n, sizes..., c]`` over the dimensions ``sizes``: axes ``n``, ``c``."""
        axes = self.axes(n=n, c=c)
        total = self.accumulate("total", axes, sizes, self.pixel(x, sizes))
        return self.stage("mean", axes, div(total("n", "c"), number(prod(sizes.values()))))

    def pixel(self, x: Access, sizes: Mapping[str, int]) -> Read:
        """``x[n, sizes..., c]`` where dimensions of extent 1 have no axis."""
        return x("n", *(name if size > 1 else 0 for name, size in sizes.items()), "c")

    def dense(self, name: str, x: Access, n: int, ci: int, co: int, activation: str) -> Access:
        """``activation(x W + b)`` of ``x[n, ci]``: axes ``n``, ``c``."""
        weight, bias = self.weight(f"{name}_weight", ci, co), self.weight(f"{name}_bias", co)
        axes, inner = self.axes(n=n, c=co), "ci" if ci > 1 else 0
        product = mul(x("n", inner), weight(inner, "c"))
        summed = self.accumulate(f"{name}_sum", axes, {"ci": ci}, product)
        value = activated(activation, add(summed("n", "c"), bias("c")))
        return self.stage(name, axes, value)

    # -- pieces of them --------------------------------------------------------------------------

    def accumulate(
        self,
        name: str,
        axes: tuple[IterAxis, ...],
        over: Mapping[str, int],
        body: Expr,
        combiner: str = "sum",
    ) -> Access:
        """A reduction over the axes ``over`` that are longer than 1."""
        reduced = self.reduced(**{axis: extent for axis, extent in over.items() if extent > 1})
        return self.stage(name, (*axes, *reduced), body, combiner if reduced else None)

    def channels(self, ci: int, co: int, groups: int, runs: int = 1) -> Channels:
        """``runs``: the channels of a group are that many runs, in the data ``[run, group, c]``."""
        if groups < 1 or ci % groups or co % groups:
            raise InputError(f"{self.kind}: {groups} groups do not divide {ci} and {co} channels")
        depth, width = ci // groups, co // groups
        inner: Index = "ci" if depth > runs else 0
        if groups == 1:
            return Channels({"c": ci}, {"co": co}, (ci, co), (inner,), (inner, "co"), {"ci": ci})
        if depth == width == 1:
            return Channels({"c": ci}, {"co": co}, (1, co), ("co",), (0, "co"), {})
        self.channel_axes = 2
        run = {"run": runs} if runs > 1 else {}
        return Channels(
            run | {"group": groups, "c": depth // runs},
            {"group": groups, "co": width},
            (groups, *run.values(), depth // runs, width),
            (*run, "group", inner),
            ("group", *run, inner, "co"),
            run | {"ci": depth // runs},
        )

    def data(
        self,
        n: int,
        sizes: Mapping[str, int],
        channels: Channels,
        margins: Sequence[tuple[int, int]],
    ) -> Access:
        data = self.input("data", n, *sizes.values(), *channels.data.values())
        return self.padded(data, n, sizes, channels.data, margins, 0.0)

    def padded(
        self,
        data: Access,
        n: int,
        sizes: Mapping[str, int],
        channels: Mapping[str, int],
        margins: Sequence[tuple[int, int]],
        value: float,
    ) -> Access:
        """``data`` with ``margins`` of ``value`` before and after every spatial dimension."""
        if not any(any(margin) for margin in margins):
            return data
        widths, inside = {}, []
        conditions: list[Expr] = []
        for (name, extent), (before, after) in zip(sizes.items(), margins, strict=True):
            widths[name] = before + extent + after
            inside.append(plus(name, -before))
            conditions += [at_most(before, name)] if before else []
            conditions += [below(name, before + extent)] if after else []
        body = select_all(conditions, data("n", *inside, *channels), number(value))
        return self.stage("padded", self.axes(n=n, **widths, **channels), body)

    def windows(
        self,
        sizes: Mapping[str, int],
        kernel: Sequence[int],
        stride: Sequence[int],
        margins: Sequence[tuple[int, int]],
        dilation: Sequence[int],
    ) -> tuple[dict[str, int], list[Expr]]:
        """Output extent by dimension, and where in the (padded) input a tap ``k<name>`` reads."""
        extents, where = {}, []
        columns = zip(sizes.items(), kernel, stride, margins, dilation, strict=True)
        for (name, extent), k, s, margin, d in columns:
            extents[name] = (extent + sum(margin) - d * (k - 1) - 1) // s + 1
            if extents[name] < 1:
                raise InputError(f"{self.kind}: a window of {k} does not fit into {name}={extent}")
            where.append(plus(times(name, s), times(f"k{name}", d) if k > 1 else 0))
        return extents, where

    def each(self, value: Sizes, sizes: Mapping[str, int]) -> tuple[int, ...]:
        values = (value,) * len(sizes) if isinstance(value, int) else tuple(value)
        if len(values) != len(sizes):
            raise InputError(
                f"{self.kind}: {list(values)} is not one number for each of {list(sizes)}"
            )
        return values

    def describe(self, extents: Mapping[str, int], **settings: tuple[int, ...]) -> None:
        """Fills the readable size: ``n1 h56 w56 ci64 co64 k3 s1 p1``; checks that all are legal."""
        least = {"p": 0, "op": 0}
        for name, values in settings.items():
            if min(values) < least.get(name, 1):
                raise InputError(f"{self.kind}: {SETTINGS[name]} {list(values)} is too small")
        words = [f"{name}{value}" for name, value in extents.items()]
        for name, values in settings.items():
            if name in ("d", "groups") and set(values) in ({1}, {extents.get("ci")}):
                continue
            if name == "op" and not any(values):
                continue
            words.append(
                name + "x".join(str(v) for v in (values[:1] if len({*values}) == 1 else values))
            )
        self.sizes = " ".join(words)


SETTINGS = {
    "k": "kernel",
    "s": "stride",
    "p": "padding",
    "op": "output padding",
    "d": "dilation",
    "groups": "groups",
}
