"""Builds the stages of a layer: readable expressions over named axes, padding, epilogues.

``workloads.py`` says which layers there are; this is what they are written with. Everything ends in
``schedules.dag`` values, and TVM is not involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import prod, sqrt
from typing import TypeAlias

from ansor_lite.errors import InputError
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


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": lambda x: Call("max", (x, number(0)), FLOAT),
    "relu6": lambda x: Call("min", (Call("max", (x, number(0)), FLOAT), number(6)), FLOAT),
    "gelu": _gelu,
    "sigmoid": lambda x: Call("sigmoid", (x,), FLOAT),
    "silu": lambda x: mul(x, Call("sigmoid", (x,), FLOAT)),
    "tanh": lambda x: Call("tanh", (x,), FLOAT),
}


class Access:
    """A tensor that is read by calling it with axis names or index expressions."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *indices: Index) -> Read:
        return Read(self.name, tuple(index(i) for i in indices), FLOAT)


class Layer:
    """Collects inputs and stages; the last stage is the output."""

    def __init__(self, kind: str, constant_weights: bool, sizes: str = "") -> None:
        self.kind = kind
        self.constant_weights = constant_weights
        self.sizes = sizes
        self.inputs: list[Tensor] = []
        self.stages: list[Stage] = []

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
        if min(shape, default=1) < 1:
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
            channel = self.stages[-1].spatial[-1]
            added = self.weight("bias", channel.extent)(channel.name)
            self._elementwise("biased", lambda x: add(x, added))
            words.append("bias")
        if residual:
            last = self.stages[-1]
            other = self.input("residual", *last.shape)(*(a.name for a in last.spatial))
            self._elementwise("joined", lambda x: add(x, other))
            words.append("residual")
        if activation is not None:
            if activation not in ACTIVATIONS:
                raise InputError(
                    f"no activation {activation!r}; there are {', '.join(ACTIVATIONS)}"
                )
            self._elementwise(activation, ACTIVATIONS[activation])
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
        """``sizes``: spatial dimensions by name; output axes are ``n``, these, and ``co``."""
        k, s, p, d = (self.each(x, sizes) for x in (kernel, stride, padding, dilation))
        if groups < 1 or ci % groups or co % groups:
            raise InputError(f"{self.kind}: {groups} groups do not divide {ci} and {co} channels")
        depth, width = ci // groups, co // groups
        self.describe({"n": n, **sizes, "ci": ci, "co": co}, k=k, s=s, p=p, d=d, groups=(groups,))
        data = self.input("data", n, *sizes.values(), ci)
        weight = self.weight("weight", *k, depth, co)
        source = self.padded(data, n, sizes, ci, p, 0.0)
        window, where = self.windows(sizes, k, s, p, d)
        inner: Index = "ci" if depth > 1 else 0
        channel: Index = inner
        if groups > 1:
            group = index("co") if width == 1 else _call("floordiv", index("co"), index(width))
            channel = plus(times(group, depth), inner)
        taps = [f"k{name}" if size > 1 else 0 for name, size in zip(sizes, k, strict=True)]
        self.accumulate(
            "conv",
            self.axes(n=n, **window, co=co),
            {f"k{name}": size for name, size in zip(sizes, k, strict=True)} | {"ci": depth},
            mul(source("n", *where, channel), weight(*taps, inner, "co")),
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
    ) -> None:
        """Pixels spread ``stride`` apart over zeros, then a convolution with the flipped kernel."""
        k, s, p = (self.each(x, sizes) for x in (kernel, stride, padding))
        self.describe({"n": n, **sizes, "ci": ci, "co": co}, k=k, s=s, p=p)
        data = self.input("data", n, *sizes.values(), ci)
        weight = self.weight("weight", *k, ci, co)
        margin = [k_ - 1 - p_ for k_, p_ in zip(k, p, strict=True)]
        if min(margin) < 0:
            raise InputError(f"{self.kind}: padding {p} is not below the kernel {k}")
        source, spread = self.spread(data, n, sizes, ci, s, margin)
        window, where = self.windows(spread, k, *((v,) * len(k) for v in (1, 0, 1)))
        taps = [
            plus(size - 1, times(f"k{name}", -1)) if size > 1 else 0
            for name, size in zip(sizes, k, strict=True)
        ]
        self.accumulate(
            "conv",
            self.axes(n=n, **window, co=co),
            {f"k{name}": size for name, size in zip(sizes, k, strict=True)} | {"ci": ci},
            mul(
                source("n", *where, "ci" if ci > 1 else 0),
                weight(*taps, "ci" if ci > 1 else 0, "co"),
            ),
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
        data = self.input("data", n, *sizes.values(), c)
        source = self.padded(data, n, sizes, c, p, LOWEST if kind == "max" else 0.0)
        window, where = self.windows(sizes, k, s, p, (1,) * len(k))
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

    def padded(
        self,
        data: Access,
        n: int,
        sizes: Mapping[str, int],
        c: int,
        padding: Sequence[int],
        value: float,
    ) -> Access:
        """``data`` with ``padding`` elements of ``value`` on both sides of every dimension."""
        if not any(padding):
            return data
        widths = {name: m + 2 * p for (name, m), p in zip(sizes.items(), padding, strict=True)}
        conditions: list[Expr] = []
        for (name, extent), p in zip(sizes.items(), padding, strict=True):
            if p:
                conditions += [at_most(p, name), below(name, p + extent)]
        inside = [plus(name, -p) for name, p in zip(sizes, padding, strict=True)]
        body = select_all(conditions, data("n", *inside, "c"), number(value))
        return self.stage("padded", self.axes(n=n, **widths, c=c), body)

    def spread(
        self,
        data: Access,
        n: int,
        sizes: Mapping[str, int],
        c: int,
        stride: Sequence[int],
        margin: Sequence[int],
    ) -> tuple[Access, dict[str, int]]:
        """``data`` with ``stride - 1`` zeros between elements and ``margin`` around; its sizes."""
        widths = {}
        conditions: list[Expr] = []
        where: list[Expr] = []
        for (name, extent), s, m in zip(sizes.items(), stride, margin, strict=True):
            span = (extent - 1) * s + 1
            widths[name] = span + 2 * m
            offset = plus(name, -m)
            if m:
                conditions += [at_most(m, name), below(name, m + span)]
            if s > 1:
                rest = _call("floormod", plus(name, -m % s), index(s))
                conditions.append(Call("eq", (rest, index(0)), "bool"))
            where.append(_call("floordiv", offset, index(s)) if s > 1 else offset)
        if not conditions:
            return data, widths
        body = select_all(conditions, data("n", *where, "c"), number(0))
        return self.stage("spread", self.axes(n=n, **widths, c=c), body), widths

    def windows(
        self,
        sizes: Mapping[str, int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> tuple[dict[str, int], list[Expr]]:
        """Output extent by dimension, and where in the (padded) input a tap ``k<name>`` reads."""
        extents, where = {}, []
        columns = zip(sizes.items(), kernel, stride, padding, dilation, strict=True)
        for (name, extent), k, s, p, d in columns:
            extents[name] = (extent + 2 * p - d * (k - 1) - 1) // s + 1
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
        least = {"p": 0}
        for name, values in settings.items():
            if min(values) < least.get(name, 1):
                raise InputError(f"{self.kind}: {SETTINGS[name]} {list(values)} is too small")
        words = [f"{name}{value}" for name, value in extents.items()]
        for name, values in settings.items():
            if name in ("d", "groups") and set(values) in ({1}, {extents.get("ci")}):
                continue
            words.append(
                name + "x".join(str(v) for v in (values[:1] if len({*values}) == 1 else values))
            )
        self.sizes = " ".join(words)


SETTINGS = {"k": "kernel", "s": "stride", "p": "padding", "d": "dilation", "groups": "groups"}


def _call(op: str, a: Expr, b: Expr) -> Call:
    return Call(op, (a, b), INDEX_DTYPE)
