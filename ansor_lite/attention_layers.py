"""The stages of attention: dense over all keys, or over a window around every query.

``workloads.attention`` is the call; here is what it is made of. Separate from ``layers.py`` because
heads in groups, layouts and windows concern nothing but attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

from ansor_lite.errors import InputError
from ansor_lite.layers import (
    FLOAT,
    LOWEST,
    Access,
    Index,
    Layer,
    Sizes,
    at_most,
    below,
    div,
    index,
    mul,
    number,
    plus,
    select_all,
    times,
)
from schedules.dag import IterAxis
from schedules.expr import INDEX_DTYPE, Call, Expr

LAYOUTS = ("bhsd", "bshd")
# The window along the last axis is computed in whole vectors of this many keys.
WINDOW_VECTOR = 8
# Elements of 4 kB, at which addresses fall into the same set of a first cache, and of a line.
SET_ELEMENTS, LINE_ELEMENTS = 1024, 16


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads by axes: ``h``, or ``hk`` and ``g`` where several share the keys of one head."""

    kv_heads: int
    group: int

    @property
    def extents(self) -> dict[str, int]:
        if self.group == 1:
            return {"h": self.kv_heads}
        return {"hk": self.kv_heads, "g": self.group}

    @property
    def query(self) -> Expr:
        return index("h") if self.group == 1 else plus(times("hk", self.group), "g")

    @property
    def key(self) -> Expr:
        return index(next(iter(self.extents)))


def grouped(kind: str, heads: int, kv_heads: int | None) -> Heads:
    """Raises :class:`InputError` when the heads do not come in equal groups."""
    kv_heads = heads if kv_heads is None else kv_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise InputError(f"{kind}: {kv_heads} K/V heads do not divide {heads} heads")
    return Heads(kv_heads, heads // kv_heads)


def in_layout(layout: str, head: Index, *positions: Index) -> tuple[Index, ...]:
    """Indices of a token's head: ``[head, position...]`` or ``[position..., head]``."""
    return (head, *positions) if layout == "bhsd" else (*positions, head)


def tensor(
    layer: Layer, name: str, layout: str, batch: int, heads: int, sizes: Sequence[int], depth: int
) -> Access:
    shape = (heads, *sizes) if layout == "bhsd" else (*sizes, heads)
    return layer.input(name, batch, *shape, depth)


def attend(
    layer: Layer, heads: Heads, batch: int, queries: int, keys: int, depth: int, layout: str,
    causal: bool,
) -> None:  # fmt: skip
    """Every query over all keys; ``causal``: query ``i`` up to key ``i + keys - queries``.

    A single query sees all keys either way, so nothing tests for that.
    """
    q = tensor(layer, "q", layout, batch, heads.kv_heads * heads.group, [queries], depth)
    k = tensor(layer, "k", layout, batch, heads.kv_heads, [keys], depth)
    v = tensor(layer, "v", layout, batch, heads.kv_heads, [keys], depth)
    outer = layer.axes(b=batch, **heads.extents, i=queries)
    names = [a.name for a in outer]
    square = (*outer, *layer.axes(j=keys))
    product = mul(
        q("b", *in_layout(layout, heads.query, "i"), "d"),
        k("b", *in_layout(layout, heads.key, "j"), "d"),
    )
    scores = layer.stage("scores", (*square, *layer.reduced(d=depth)), product, "sum")
    value: Expr = mul(scores(*names, "j"), number(1 / sqrt(depth)))
    if causal and queries > 1:
        seen = at_most("j", plus("i", keys - queries))
        value = Call("select", (seen, value, number(LOWEST)), FLOAT)
    scaled = layer.stage("scaled", square, value)
    shares = layer.softmax(scaled, outer, keys)
    weighted = mul(shares(*names, "j"), v("b", *in_layout(layout, heads.key, "j"), "d"))
    axes = (*outer, *layer.axes(d=depth), *layer.reduced(j=keys))
    attended = layer.stage("attended", axes, weighted, "sum")
    if layout == "bshd":
        copied = layer.axes(b=batch, i=queries, **heads.extents, d=depth)
        layer.stage("out", copied, attended(*names, "d"))


# ------------------------------------------------------------------ windows


@dataclass(frozen=True, slots=True)
class Span:
    """The windows along one axis: ``window`` positions, ``dilation`` apart, for every position.

    Positions that are equal modulo the dilation form a phase; a window stays inside its phase. It
    is centred where the phase allows it and shifted where it would leave it, so that it always has
    ``window`` positions: Hassani et al., CVPR 2023, and with dilation Hassani and Shi, 2022.
    ``group`` neighbours in a phase share the keys that are computed for them; see ``grouping``.
    """

    axis: str
    extent: int
    window: int
    dilation: int
    group: int = 1

    @property
    def steps(self) -> int:
        """Positions of the longest phase."""
        return -(-self.extent // self.dilation)

    @property
    def is_split(self) -> bool:
        """Phases of one length are an axis of their own: ``position = step * dilation + phase``."""
        return self.dilation > 1 and self.extent % self.dilation == 0

    @property
    def axes(self) -> dict[str, int]:
        """The positions by axes: steps by groups, and phases where steps are not positions."""
        if not self.is_whole:
            return {self.axis: self.extent}
        members = {f"n{self.axis}": self.group} if self.group > 1 else {}
        phases = {f"f{self.axis}": self.dilation} if self.is_split else {}
        return {self.axis: self.steps // self.group, **members, **phases}

    @property
    def is_whole(self) -> bool:
        """Positions are steps, or phases split them into steps of one number."""
        return self.dilation == 1 or self.is_split

    @property
    def step(self) -> Expr:
        """Where in its phase a position is."""
        if not self.is_whole:
            return _call("floordiv", self.axis, self.dilation)
        return self.leader if self.group == 1 else plus(self.leader, f"n{self.axis}")

    @property
    def leader(self) -> Expr:
        """The step of the first position of a group."""
        return times(self.axis, self.group) if self.is_whole else self.step

    @property
    def position(self) -> Expr:
        if not self.is_whole:
            return index(self.axis)
        return plus(times(self.step, self.dilation), self.phase)

    @property
    def phase(self) -> Index:
        if self.is_split:
            return f"f{self.axis}"
        return 0 if self.dilation == 1 else _call("floormod", self.axis, self.dilation)

    @property
    def centred(self) -> Expr:
        """Where in its phase a group's first window starts, if it may reach beyond the end."""
        return self._centred(self.leader)

    @property
    def first(self) -> Expr:
        """Where in its phase the window of a position starts."""
        return _call("min", self._centred(self.step), self.last)

    def _centred(self, step: Expr) -> Expr:
        return _call("max", plus(step, -(self.window // 2)), 0)

    @property
    def last(self) -> Index:
        """Where in its phase the last window starts."""
        if self.extent % self.dilation == 0:
            return self.steps - self.window
        left = self.extent - self.window * self.dilation + self.dilation - 1
        return _call("floordiv", _call("sub", left, self.phase), self.dilation)

    def key(self, tap: str) -> Expr:
        """The position of one key of the window."""
        step = plus(self.first, tap if self.window > 1 else 0)
        return plus(times(step, self.dilation), self.phase)


def spans(
    kind: str, sizes: Sequence[int], window: Sequence[int], dilation: Sequence[int]
) -> list[Span]:
    """Raises :class:`InputError` for windows that are even or larger than a phase.

    One window or dilation is for every axis.
    """
    if len(sizes) not in (1, 2):
        raise InputError(f"{kind}: windows are along one axis or two, not {len(sizes)}")
    names = ("y", "x")[-len(sizes) :]
    window, dilation = (tuple(x) * len(sizes) if len(x) == 1 else x for x in (window, dilation))
    if not len(window) == len(dilation) == len(sizes):
        raise InputError(f"{kind}: window {[*window]} or dilation {[*dilation]} has other axes")
    found = []
    for name, extent, w, d in zip(names, sizes, window, dilation, strict=True):
        if w < 1 or w % 2 == 0:
            raise InputError(f"{kind}: a window of {w} has no centre; it must be odd")
        if d < 1:
            raise InputError(f"{kind}: dilation {d} is too small")
        if w * d > extent:
            raise InputError(f"{kind}: {w} keys, {d} apart, do not fit into an axis of {extent}")
        found.append(Span(name, extent, w, d))
    return found


@dataclass(frozen=True, slots=True)
class Vectors:
    """The keys that are computed for a group's windows, whole vectors of them: more than count.

    ``first``: where in the phase they start; ``before``: how many of them precede a window;
    ``beyond``: how far they reach behind the end of a phase that has fewer.
    """

    width: int
    first: Expr
    before: Index
    beyond: int

    def inside(self, span: Span) -> list[Expr]:
        """Conditions on ``ox``, which counts them."""
        if self.width == span.window:
            return []
        behind = below("ox", plus(self.before, span.window))
        return [behind] if self.before == 0 else [at_most(self.before, "ox"), behind]


def vector_width(window: int) -> int:
    """Keys in whole vectors for a window."""
    vector = WINDOW_VECTOR if window > WINDOW_VECTOR // 2 else WINDOW_VECTOR // 2
    return -(-window // vector) * vector


def grouping(span: Span) -> Span:
    """With the largest group whose windows fill the vectors that one of them takes anyway.

    Every key that is loaded is used for all of the group then.
    """
    width = vector_width(span.window)
    if not span.is_whole or width > span.steps:
        return span
    sizes = range(1, width - span.window + 2)
    return replace(span, group=max(size for size in sizes if span.steps % size == 0))


def whole_vectors(span: Span) -> Vectors:
    """For a span with its :func:`grouping`."""
    width = vector_width(span.window)
    more = width - span.window
    if not more or span.extent // span.dilation < width:
        return Vectors(width, span.first, 0, more)
    first = _call("min", span.centred, plus(span.last, -more))
    return Vectors(width, first, _call("sub", span.first, first), 0)


def attend_windows(
    layer: Layer, heads: Heads, batch: int, over: Sequence[Span], depth: int, layout: str
) -> None:
    """Every query over the keys of its window."""
    over = (*over[:-1], grouping(over[-1]))
    sizes = [span.extent for span in over]
    positions = {name: extent for span in over for name, extent in span.axes.items()}
    q = tensor(layer, "q", layout, batch, heads.kv_heads * heads.group, sizes, depth)
    k = tensor(layer, "k", layout, batch, heads.kv_heads, sizes, depth)
    v = tensor(layer, "v", layout, batch, heads.kv_heads, sizes, depth)
    across, last = over[:-1], over[-1]
    vectors = whole_vectors(last)
    keys = _keys_along(layer, k, batch, heads, across, last, vectors, depth, layout)
    outer = layer.axes(b=batch, **heads.extents, **positions)
    names = [a.name for a in outer]
    square = (*outer, *layer.axes(**{f"o{s.axis}": s.window for s in across}, ox=vectors.width))
    taps = [a.name for a in square[len(outer) :]]
    product = mul(
        q("b", *in_layout(layout, heads.query, *(s.position for s in over)), "d"),
        keys(
            *("b", heads.key, *(s.key(f"o{s.axis}") for s in across)),
            *([last.phase] if last.dilation > 1 else []),
            *("d", plus(vectors.first, "ox")),
        ),
    )
    scores = layer.stage("scores", (*square, *layer.reduced(d=depth)), product, "sum")
    value: Expr = mul(scores(*names, *taps), number(1 / sqrt(depth)))
    value = select_all(vectors.inside(last), value, number(LOWEST))
    scaled = layer.stage("scaled", square, value)
    shares = softmax_over(layer, scaled, outer, square[len(outer) :])
    weighted = mul(
        shares(*names, *taps[:-1], plus("ox", vectors.before)),
        v("b", *in_layout(layout, heads.key, *(s.key(f"o{s.axis}") for s in over)), "d"),
    )
    placed = layer.axes(b=batch, **_placed(layout, heads, positions), d=depth)
    inside = layer.reduced(**{f"o{s.axis}": s.window for s in over})
    layer.stage("attended", (*placed, *inside), weighted, "sum")


def _placed(layout: str, heads: Heads, positions: dict[str, int]) -> dict[str, int]:
    return heads.extents | positions if layout == "bhsd" else positions | heads.extents


def _keys_along(
    layer: Layer, k: Access, batch: int, heads: Heads, across: Sequence[Span], last: Span,
    vectors: Vectors, depth: int, layout: str,
) -> Access:  # fmt: skip
    """The keys with the last axis behind the depth, by phases, so that a window is contiguous."""
    where: Expr = index("x")
    phases = {}
    if last.dilation > 1:
        phases, where = {"f": last.dilation}, plus(times("x", last.dilation), "f")
    extent = spread(last.steps + vectors.beyond, vectors.width)
    if extent * last.dilation > last.extent:
        where = _call("min", where, last.extent - 1)
    head = next(iter(heads.extents))
    sizes = {s.axis: s.extent for s in across}
    axes = layer.axes(**{"b": batch, head: heads.kv_heads}, **sizes, **phases, d=depth, x=extent)
    return layer.stage("keys", axes, k("b", *in_layout(layout, head, *sizes, where), "d"))


def spread(extent: int, width: int) -> int:
    """``extent``, or a bit more where rows that far apart would use the same sets of a cache.

    A window is ``width`` elements of every one of ``depth`` rows, all of which should stay there.
    """
    if extent < SET_ELEMENTS:
        return extent
    return extent + (width + LINE_ELEMENTS - extent) % SET_ELEMENTS


def softmax_over(
    layer: Layer, x: Access, outer: tuple[IterAxis, ...], inner: tuple[IterAxis, ...]
) -> Access:
    """Softmax over several axes, reduced one after the other so that the last one stays in vectors.

    See :meth:`ansor_lite.layers.Layer.softmax`.
    """
    names, taps = [a.name for a in outer], [a.name for a in inner]
    peak = _reduced(layer, "peak", x, outer, inner, "max")
    shifted = Call("sub", (x(*names, *taps), peak(*names)), FLOAT)
    powers = layer.stage("powers", (*outer, *inner), Call("exp", (shifted,), FLOAT))
    total = _reduced(layer, "total", powers, outer, inner, "sum")
    return layer.stage("shares", (*outer, *inner), div(powers(*names, *taps), total(*names)))


def _reduced(
    layer: Layer, name: str, x: Access, outer: tuple[IterAxis, ...], inner: tuple[IterAxis, ...],
    combiner: str,
) -> Access:  # fmt: skip
    """``x[outer..., inner...]`` over the first of ``inner``, then over the others."""
    first, *others = inner
    kept = (*outer, *others)
    tap: Index = first.name if first.extent > 1 else 0
    reads = [*(a.name for a in outer), tap, *(a.name for a in others)]
    suffix = f"_{first.name}" if others else ""
    over = {first.name: first.extent}
    part = layer.accumulate(name + suffix, kept, over, x(*reads), combiner)
    return _reduced(layer, name, part, outer, tuple(others), combiner) if others else part


def _call(op: str, a: Index, b: Index) -> Expr:
    return Call(op, (index(a), index(b)), INDEX_DTYPE)


def each_size(value: Sizes) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def joined(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
