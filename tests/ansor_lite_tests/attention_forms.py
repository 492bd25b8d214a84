"""The forms in which exported graphs hold attention, each as the smallest ONNX graph showing it.

``FORMS`` maps names to functions that build a :class:`Form`: the model, what to feed it and what it
must compute, in float64 and by other means. The forms are those of PyTorch's two exporters, of
transformers, and of onnxruntime's optimizer. Here: what happens between the two products; how
queries, keys and values come about: ``attention_forms_heads.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import onnx
from attention_graphs import (
    BATCH,
    DEPTH,
    FORMS,
    HEADS,
    LOWEST,
    SCALE,
    TOKENS,
    Array,
    Form,
    Graph,
    attended,
    form,
    heads_first,
    normal,
    of_inputs,
    scaled,
    scores_of,
    softmax,
)
from onnx import numpy_helper

__all__ = ["FORMS"]

Between = Callable[[Graph, str], str]


def plain(between: Between, bias: Any = 0, opset: int = 20, scale: float = SCALE) -> Form:
    """Attention on inputs; ``between`` makes the shares of the scores."""
    g = Graph(opset)
    q, k, v = heads_first(g)
    shares = between(g, g.MatMul(q, g.turned(k, 0, 1, 3, 2)))
    return g.form(g.MatMul(shares, v), of_inputs(g, bias, scale))


def masked(bias: Any, build: Callable[[Graph, str], str], opset: int = 20) -> Form:
    return plain(lambda g, s: softmax(g, build(g, scaled(g, s))), bias, opset)


@form
def scale_multiplies() -> Form:
    return plain(lambda g, s: softmax(g, scaled(g, s)))


@form
def scale_divides() -> Form:
    return plain(lambda g, s: softmax(g, g.Div(s, g.constant(sqrt(DEPTH)))))


@form
def no_scale() -> Form:
    return plain(softmax, scale=1)


@form
def scale_is_computed_from_a_shape() -> Form:
    """PyTorch's older exporter."""

    def between(g: Graph, scores: str) -> str:
        last = g.cut(g.Shape("q"), 0, -1, 2**31 - 1)
        return softmax(g, g.Div(scores, g.Sqrt(g.Cast(last, to=onnx.TensorProto.FLOAT))))

    return plain(between)


@form
def scale_multiplies_queries() -> Form:
    g = Graph()
    q, k, v = heads_first(g)
    scores = g.MatMul(g.Mul(q, g.constant(SCALE)), g.turned(k, 0, 1, 3, 2))
    return g.form(g.MatMul(softmax(g, scores), v), of_inputs(g))


@form
def root_of_the_scale_multiplies_both() -> Form:
    """``scaled_dot_product_attention`` of PyTorch's newer exporter."""
    g = Graph()
    q, k, v = heads_first(g)
    root = g.constant([sqrt(SCALE)])
    rows = g.turned(g.shaped(k, -1, TOKENS, DEPTH), 0, 2, 1)
    columns = g.shaped(rows, BATCH, HEADS, DEPTH, TOKENS)
    scores = g.MatMul(g.Mul(q, root), g.Mul(columns, root))
    return g.form(g.MatMul(softmax(g, scores), v), of_inputs(g))


@form
def soft_cap() -> Form:
    g = Graph()
    q, k, v = heads_first(g)
    scores = scores_of(g, q, k)
    capped = g.Mul(g.Tanh(g.Div(scores, g.constant(2))), g.constant(2))
    inputs = [np.asarray(g.feeds[n], np.float64) for n in "qkv"]
    raw = inputs[0] @ np.swapaxes(inputs[1], -1, -2) * SCALE
    shares = np.exp(2 * np.tanh(raw / 2))
    expected = shares / shares.sum(-1, keepdims=True) @ inputs[2]
    return g.form(g.MatMul(softmax(g, capped), v), expected)


# ------------------------------------------------------------------ masks

CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))
FORBIDDEN = np.where(CAUSAL, 0.0, -np.inf)
KEPT = np.arange(TOKENS) < np.array([[TOKENS], [13]])  # [batch, keys]
PADDING = np.where(KEPT, 0.0, -np.inf)[:, None, None]
ALLOWED = normal(TOKENS, TOKENS) > -0.5


@form
def additive_mask_constant() -> Form:
    bias = normal(TOKENS, TOKENS)
    return masked(bias, lambda g, s: g.Add(s, g.constant(bias)))


@form
def additive_mask_input() -> Form:
    bias = normal(BATCH, 1, TOKENS, TOKENS)
    return masked(bias, lambda g, s: g.Add(s, g.input("mask", bias)))


@form
def boolean_mask_constant() -> Form:
    bias = np.where(ALLOWED, 0, -np.inf)
    return masked(bias, lambda g, s: g.Where(g.constant(ALLOWED, bool), s, g.constant(-np.inf)))


@form
def boolean_mask_input() -> Form:
    bias = np.where(ALLOWED, 0, -np.inf)
    return masked(bias, lambda g, s: g.Where(g.input("mask", ALLOWED), s, g.constant(LOWEST)))


@form
def inverted_boolean_mask_input() -> Form:
    """``masked_fill``."""
    bias = np.where(ALLOWED, 0, -np.inf)
    return masked(bias, lambda g, s: g.Where(g.input("mask", ~ALLOWED), g.constant(-np.inf), s))


@form
def boolean_mask_of_a_guarded_softmax() -> Form:
    """PyTorch's exporters: a query that may attend to nothing gets zeros."""
    allowed = ALLOWED.copy()
    allowed[3] = False

    def between(g: Graph, scores: str) -> str:
        zero, least = g.constant(0), g.constant(-np.inf)
        bias = g.Where(g.input("mask", allowed), zero, least)
        shares = softmax(g, g.Add(scaled(g, scores), bias))
        return g.Where(g.IsNaN(shares), zero, shares)

    return plain(between, np.where(allowed, 0, -np.inf))


@form
def guard_without_a_mask() -> Form:
    def between(g: Graph, scores: str) -> str:
        shares = softmax(g, scaled(g, scores))
        return g.Where(g.IsNaN(shares), g.constant(0), shares)

    return plain(between)


@form
def causal_additive() -> Form:
    return masked(FORBIDDEN, lambda g, s: g.Add(s, g.constant(FORBIDDEN)))


@form
def causal_additive_lowest() -> Form:
    bias = np.maximum(FORBIDDEN, LOWEST)[None, None]
    return masked(FORBIDDEN, lambda g, s: g.Add(s, g.constant(bias)))


@form
def causal_boolean() -> Form:
    return masked(FORBIDDEN, lambda g, s: g.Where(g.constant(CAUSAL, bool), s, g.constant(LOWEST)))


@form
def causal_slice_of_a_larger_table() -> Form:
    """GPT-2 before version 5 of transformers."""

    def build(g: Graph, scores: str) -> str:
        table = g.constant(np.tril(np.ones((1, 1, 32, 32), bool)), bool)
        cut = g.cut(g.cut(table, 2, 0, TOKENS), 3, 0, TOKENS)
        return g.Where(cut, scores, g.constant(-1e4))

    return masked(FORBIDDEN, build)


@form
def causal_from_a_triangle() -> Form:
    """``is_causal`` of PyTorch's older exporter."""

    def build(g: Graph, scores: str) -> str:
        rows, columns = g.cut(g.Shape("q"), 0, -2, -1), g.cut(g.Shape("k"), 0, -2, -1)
        ones = g.Expand(g.constant([1.0]), g.Concat(rows, columns, axis=0))
        above = g.Equal(g.Trilu(ones, upper=0), g.constant([0.0]))
        return g.Add(scores, g.Where(above, g.constant([-np.inf]), g.constant([0.0])))

    return masked(FORBIDDEN, build)


@form
def causal_from_ranges() -> Form:
    """transformers: positions of keys and of queries compared."""

    def build(g: Graph, scores: str) -> str:
        one, zero = g.constant(1, np.int64), g.constant(0, np.int64)
        places = g.Range(zero, g.Gather(g.Shape("q"), g.constant(2, np.int64)), one)
        seen = g.LessOrEqual(places, g.Unsqueeze(places, g.constant([1], np.int64)))
        return g.Add(scores, g.Where(seen, g.constant(0), g.constant(LOWEST)))

    return masked(FORBIDDEN, build)


@form
def causal_from_a_running_sum() -> Form:
    def build(g: Graph, scores: str) -> str:
        ones = g.ConstantOfShape(
            g.constant([TOKENS], np.int64),
            value=numpy_helper.from_array(np.ones(1, np.int64), "one"),
        )
        places = g.CumSum(ones, g.constant(0, np.int64))
        ahead = g.Less(g.Unsqueeze(places, g.constant([1], np.int64)), places)
        return g.Where(ahead, g.constant(-np.inf), scores)

    return masked(FORBIDDEN, build)


def padding(g: Graph, dtype: Any = np.int64) -> str:
    """The input that says which keys count, as [batch, 1, 1, keys]."""
    mask = g.input("attention_mask", KEPT.astype(dtype))
    mask = g.Unsqueeze(mask, g.constant([1], np.int64))
    return g.Unsqueeze(mask, g.constant([2], np.int64))


@form
def padding_of_bert() -> Form:
    def build(g: Graph, scores: str) -> str:
        given = g.Cast(padding(g), to=onnx.TensorProto.FLOAT)
        return g.Add(scores, g.Mul(g.Sub(g.constant(1), given), g.constant(LOWEST)))

    return masked(PADDING, build)


@form
def padding_and_causal() -> Form:
    def build(g: Graph, scores: str) -> str:
        given = g.Cast(padding(g), to=onnx.TensorProto.BOOL)
        allowed = g.And(given, g.constant(CAUSAL[None, None], bool))
        return g.Add(scores, g.Where(allowed, g.constant(0), g.constant(LOWEST)))

    return masked(PADDING + FORBIDDEN, build)


@form
def padding_in_front_and_causal() -> Form:
    """The first tokens may attend to nothing: they get zeros."""
    kept = KEPT[:, ::-1].copy()

    def between(g: Graph, scores: str) -> str:
        given = g.shaped(g.input("mask", kept), BATCH, 1, 1, TOKENS)
        allowed = g.And(given, g.constant(CAUSAL[None, None], bool))
        zero = g.constant(0)
        bias = g.Where(allowed, zero, g.constant(-np.inf))
        shares = softmax(g, g.Add(scaled(g, scores), bias))
        return g.Where(g.IsNaN(shares), zero, shares)

    return plain(between, FORBIDDEN + np.where(kept, 0, -np.inf)[:, None, None])


@form
def padding_added_to_a_causal_mask() -> Form:
    def build(g: Graph, scores: str) -> str:
        given = g.Cast(padding(g), to=onnx.TensorProto.FLOAT)
        outside = g.Mul(g.Sub(g.constant(1), given), g.constant(LOWEST))
        return g.Add(g.Add(scores, g.constant(FORBIDDEN)), outside)

    return masked(PADDING + FORBIDDEN, build)


@form
def padding_expanded_to_heads() -> Form:
    """``nn.MultiheadAttention`` with ``key_padding_mask``."""

    def build(g: Graph, scores: str) -> str:
        away = g.input("padding", ~KEPT)
        bias = g.Where(away, g.constant(-np.inf), g.constant(np.zeros(KEPT.shape)))
        wide = g.shaped(bias, BATCH, 1, 1, TOKENS)
        expanded = g.Expand(wide, g.constant([1, HEADS, 1, 1], np.int64))
        return g.Add(scores, expanded)

    return masked(PADDING, build)


# ------------------------------------------------------------------ tables of biases


@form
def table_of_swin() -> Form:
    """Biases by relative position, one table row for each distance."""
    table, index = normal(39, HEADS), np.arange(TOKENS) - np.arange(TOKENS)[:, None] + 19
    bias = table[index].transpose(2, 0, 1)

    def build(g: Graph, scores: str) -> str:
        rows = g.Gather(g.constant(table), g.constant(index.reshape(-1), np.int64))
        square = g.shaped(rows, TOKENS, TOKENS, -1)
        heads = g.Unsqueeze(g.turned(square, 2, 0, 1), g.constant([0], np.int64))
        return g.Add(scores, heads)

    return masked(bias, build)


@form
def table_of_t5() -> Form:
    """Biases by bucket of distances; no scale."""
    table = normal(8, HEADS)
    distance = np.abs(np.arange(TOKENS) - np.arange(TOKENS)[:, None])
    bias = table[np.minimum(distance, 7)].transpose(2, 0, 1)

    def between(g: Graph, scores: str) -> str:
        places = g.Range(*(g.constant(n, np.int64) for n in (0, TOKENS, 1)))
        apart = g.Abs(g.Sub(places, g.Unsqueeze(places, g.constant([1], np.int64))))
        rows = g.Gather(g.constant(table), g.Min(apart, g.constant(7, np.int64)))
        heads = g.Unsqueeze(g.turned(rows, 2, 0, 1), g.constant([0], np.int64))
        return softmax(g, g.Add(scores, heads))

    return plain(between, bias, scale=1)


WINDOW, SIDE = 4, 8


def windows(x: Array) -> Array:
    """[batch, side, side, features] as [batch * windows, tokens of a window, features]."""
    parts = SIDE // WINDOW
    cut = x.reshape(-1, parts, WINDOW, parts, WINDOW, x.shape[-1])
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, x.shape[-1])


@form
def shifted_windows_of_swin() -> Form:
    """Rolled, cut into windows, masked by window, put together and rolled back."""
    features, parts, area = HEADS * DEPTH, SIDE // WINDOW, WINDOW * WINDOW
    region = np.add.outer(np.repeat([0, 1, 2], [4, 2, 2]) * 3, np.repeat([0, 1, 2], [4, 2, 2]))
    inside = windows(region[None, ..., None])[..., 0]
    forbidden = np.where(inside[:, None, :] == inside[:, :, None], 0.0, -100.0)
    table = normal(HEADS, area, area)
    weights = [normal(features, features, seed=i) / 8 for i in range(3)]
    g = Graph()
    x = g.input("x", normal(BATCH, SIDE, SIDE, features))
    rolled = roll(g, roll(g, x, 1, 2), 2, 2)
    cut = g.turned(
        g.shaped(rolled, BATCH, parts, WINDOW, parts, WINDOW, features), 0, 1, 3, 2, 4, 5
    )
    tokens = g.shaped(cut, -1, area, features)
    q, k, v = (
        g.turned(g.shaped(g.MatMul(tokens, g.constant(w)), -1, area, HEADS, DEPTH), 0, 2, 1, 3)
        for w in weights
    )
    scores = g.Add(scores_of(g, q, k), g.constant(table))
    split = g.shaped(scores, BATCH, parts**2, HEADS, area, area)
    hidden = g.Add(split, g.constant(forbidden[None, :, None]))
    shares = softmax(g, g.shaped(hidden, -1, HEADS, area, area))
    joined = g.shaped(g.turned(g.MatMul(shares, v), 0, 2, 1, 3), -1, area, features)
    whole = g.turned(
        g.shaped(joined, BATCH, parts, parts, WINDOW, WINDOW, features), 0, 1, 3, 2, 4, 5
    )
    back = g.shaped(whole, BATCH, SIDE, SIDE, features)
    inputs = windows(np.roll(g.feeds["x"].astype(np.float64), (-2, -2), (1, 2)))
    heads = [(inputs @ w).reshape(-1, area, HEADS, DEPTH).swapaxes(1, 2) for w in weights]
    bias = np.tile(forbidden, (BATCH, 1, 1))[:, None] + table
    found = attended(*heads, bias).swapaxes(1, 2)
    image = found.reshape(BATCH, parts, parts, WINDOW, WINDOW, features).swapaxes(2, 3)
    expected = np.roll(image.reshape(BATCH, SIDE, SIDE, features), (2, 2), (1, 2))
    return g.form(roll(g, roll(g, back, 1, -2), 2, -2), expected)


def roll(g: Graph, x: str, axis: int, shift: int) -> str:
    """What lies ``shift`` further comes to the front, as exporters write ``torch.roll``."""
    middle = shift % SIDE
    return g.Concat(g.cut(x, axis, middle, SIDE), g.cut(x, axis, 0, middle), axis=axis)


# ------------------------------------------------------------------ softmax


def divided(g: Graph, scores: str, axes: str) -> str:
    exponentials = g.Exp(scores)
    return g.Div(exponentials, g.ReduceSum(exponentials, axes, keepdims=1))


@form
def softmax_in_parts() -> Form:
    def between(g: Graph, scores: str) -> str:
        axes, scores = g.constant([-1], np.int64), scaled(g, scores)
        return divided(g, g.Sub(scores, g.ReduceMax(scores, axes, keepdims=1)), axes)

    return plain(between)


@form
def softmax_without_maximum() -> Form:
    return plain(lambda g, s: divided(g, scaled(g, s), g.constant([-1], np.int64)))


@form
def softmax_of_opset_12() -> Form:
    return plain(lambda g, s: g.Softmax(scaled(g, s), axis=3), opset=12)


@form
def softmax_over_rows() -> Form:
    """Scores with a row for each key."""
    g = Graph()
    q, k, v = heads_first(g)
    scores = scaled(g, g.MatMul(k, g.turned(q, 0, 1, 3, 2)))
    shares = g.turned(g.Softmax(scores, axis=2), 0, 1, 3, 2)
    return g.form(g.MatMul(shares, v), of_inputs(g))


@form
def nothing_between() -> Form:
    """Operators that do nothing at inference."""

    def between(g: Graph, scores: str) -> str:
        whole = g.Cast(g.Identity(scaled(g, scores)), to=onnx.TensorProto.FLOAT)
        return g.Cast(g.Dropout(softmax(g, whole)), to=onnx.TensorProto.FLOAT)

    return plain(between)
