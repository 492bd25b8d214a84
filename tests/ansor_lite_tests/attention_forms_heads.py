"""Forms of attention: heads, projections, rotary embeddings, decoding, single operators.

Read ``attention_forms.py`` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attention_forms import FORBIDDEN, KEPT, PADDING
from attention_graphs import (
    BATCH,
    DEPTH,
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

# ------------------------------------------------------------------ heads


def shared(repeat: Callable[[Graph, str], str], groups: int = 2) -> Form:
    """Some query heads read one head of keys and values."""
    g = Graph()
    q, k, v = heads_first(g, groups=groups)
    k, v = repeat(g, k), repeat(g, v)
    scores = scores_of(g, q, k)
    return g.form(g.MatMul(softmax(g, scores), v), of_inputs(g))


@form
def grouped_by_expanding() -> Form:
    """``repeat_kv`` of transformers."""

    def repeat(g: Graph, x: str) -> str:
        wide = g.Unsqueeze(x, g.constant([2], np.int64))
        shape = g.constant([BATCH, 2, HEADS // 2, TOKENS, DEPTH], np.int64)
        return g.shaped(g.Expand(wide, shape), BATCH, HEADS, TOKENS, DEPTH)

    return shared(repeat)


@form
def grouped_by_tiling() -> Form:
    def repeat(g: Graph, x: str) -> str:
        wide = g.Unsqueeze(x, g.constant([2], np.int64))
        tiled = g.Tile(wide, g.constant([1, 1, HEADS // 2, 1, 1], np.int64))
        return g.shaped(tiled, BATCH, HEADS, TOKENS, DEPTH)

    return shared(repeat)


@form
def grouped_by_gathering() -> Form:
    """``repeat_interleave``."""
    return shared(lambda g, x: g.Gather(x, g.constant([0, 0, 1, 1], np.int64), axis=1))


@form
def grouped_in_five_dimensions() -> Form:
    g = Graph()
    q, k, v = heads_first(g, groups=2)
    q = g.shaped(q, BATCH, 2, HEADS // 2, TOKENS, DEPTH)
    k, v = (g.shaped(x, BATCH, 2, 1, TOKENS, DEPTH) for x in (k, v))
    scores = scaled(g, g.MatMul(q, g.turned(k, 0, 1, 2, 4, 3)))
    found = g.MatMul(softmax(g, scores), v)
    return g.form(g.shaped(found, BATCH, HEADS, TOKENS, DEPTH), of_inputs(g))


@form
def one_head_of_keys() -> Form:
    return shared(lambda g, x: x, groups=1)


@form
def one_head() -> Form:
    g = Graph()
    q, k, v = (g.input(n, normal(BATCH, TOKENS, DEPTH, seed=i)) for i, n in enumerate("qkv"))
    scores = scaled(g, g.MatMul(q, g.turned(k, 0, 2, 1)))
    return g.form(g.MatMul(softmax(g, scores), v), attended(*g.feeds.values()))


@form
def heads_in_the_batch() -> Form:
    """``bmm``: [batch * heads, tokens, depth]."""
    g = Graph()
    q, k, v = heads_first(g)
    rows = [g.shaped(x, BATCH * HEADS, TOKENS, DEPTH) for x in (q, k, v)]
    scores = scaled(g, g.MatMul(rows[0], g.turned(rows[1], 0, 2, 1)))
    found = g.MatMul(softmax(g, scores), rows[2])
    return g.form(g.shaped(found, BATCH, HEADS, TOKENS, DEPTH), of_inputs(g))


@form
def einsum() -> Form:
    g = Graph()
    shape = (BATCH, TOKENS, HEADS, DEPTH)
    q, k, v = (g.input(n, normal(*shape, seed=i)) for i, n in enumerate("qkv"))
    scores = scaled(g, g.Einsum(q, k, equation="bqhd,bkhd->bhqk"))
    found = g.Einsum(softmax(g, scores), v, equation="bhqk,bkhd->bqhd")
    expected = attended(*(x.swapaxes(1, 2) for x in g.feeds.values())).swapaxes(1, 2)
    return g.form(found, expected)


# ------------------------------------------------------------------ projections

FEATURES = HEADS * DEPTH


def split(x: Array) -> Array:
    return x.reshape(*x.shape[:2], HEADS, DEPTH).swapaxes(1, 2)


def joined(x: Array) -> Array:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def projected(g: Graph, x: str, seed: int, factor: float = 1) -> str:
    weight = normal(FEATURES, FEATURES, seed=seed) / 8 * factor
    bias = normal(FEATURES, seed=seed) * factor
    flat = g.Add(g.MatMul(x, g.constant(weight)), g.constant(bias))
    return g.turned(g.shaped(flat, 0, -1, HEADS, DEPTH), 0, 2, 1, 3)


def projection(x: Array, seed: int) -> Array:
    weight = (normal(FEATURES, FEATURES, seed=seed) / 8).astype(np.float64)
    return split(x @ weight + normal(FEATURES, seed=seed))


def tokens(count: int = TOKENS, seed: int = 0) -> Array:
    return normal(BATCH, count, FEATURES, seed=seed)


def with_projections(
    make: Callable[[Graph, str], Sequence[str]], scale: Callable[[Graph, str], str] = scaled
) -> Form:
    g = Graph()
    q, k, v = make(g, g.input("x", tokens()))
    shares = softmax(g, scale(g, g.MatMul(q, g.turned(k, 0, 1, 3, 2))))
    found = g.shaped(g.turned(g.MatMul(shares, v), 0, 2, 1, 3), 0, 0, FEATURES)
    heads = [projection(g.feeds["x"], seed) for seed in range(3)]
    return g.form(found, joined(attended(*heads)))


@form
def projections_of_one_input() -> Form:
    return with_projections(lambda g, x: [projected(g, x, seed) for seed in range(3)])


@form
def scale_in_the_weights() -> Form:
    def make(g: Graph, x: str) -> list[str]:
        return [projected(g, x, 0, SCALE), projected(g, x, 1), projected(g, x, 2)]

    return with_projections(make, lambda g, s: s)


@form
def scale_behind_the_projection() -> Form:
    """Whisper: queries are scaled before heads are split off."""

    def make(g: Graph, x: str) -> list[str]:
        flat = g.Add(
            g.MatMul(x, g.constant(normal(FEATURES, FEATURES) / 8)), g.constant(normal(FEATURES))
        )
        q = g.shaped(g.Mul(flat, g.constant(SCALE)), 0, 0, HEADS, DEPTH)
        return [g.turned(q, 0, 2, 1, 3), projected(g, x, 1), projected(g, x, 2)]

    return with_projections(make, lambda g, s: s)


def merged(g: Graph, x: str) -> str:
    weight = np.concatenate([normal(FEATURES, FEATURES, seed=s) / 8 for s in range(3)], 1)
    bias = np.concatenate([normal(FEATURES, seed=s) for s in range(3)])
    return g.Add(g.MatMul(x, g.constant(weight)), g.constant(bias))


@form
def merged_projections_split() -> Form:
    """GPT-2."""

    def make(g: Graph, x: str) -> list[str]:
        sizes = g.constant([FEATURES] * 3, np.int64)
        parts = g.Split(merged(g, x), sizes, results=3, axis=2)
        return [g.turned(g.shaped(p, 0, 0, HEADS, DEPTH), 0, 2, 1, 3) for p in parts]

    return with_projections(make)


@form
def merged_projections_gathered() -> Form:
    """timm's vision transformers: [batch, tokens, 3, heads, depth]."""

    def make(g: Graph, x: str) -> list[str]:
        whole = g.turned(g.shaped(merged(g, x), BATCH, TOKENS, 3, HEADS, DEPTH), 2, 0, 3, 1, 4)
        return [g.Gather(whole, g.constant(i, np.int64), axis=0) for i in range(3)]

    return with_projections(make)


@form
def multihead_attention_of_pytorch() -> Form:
    """``nn.MultiheadAttention`` of the newer exporter: tokens first, heads in the batch."""
    g = Graph()
    x = g.turned(g.input("x", tokens()), 1, 0, 2)
    apart = g.shaped(merged(g, x), TOKENS, BATCH, 3, FEATURES)
    first = g.turned(g.Unsqueeze(apart, g.constant([0], np.int64)), 3, 1, 2, 0, 4)
    whole = g.Squeeze(first, g.constant([3], np.int64))
    flat = [g.Gather(whole, g.constant(i, np.int64), axis=0) for i in range(3)]
    q, k, v = (g.turned(g.shaped(p, TOKENS, BATCH * HEADS, DEPTH), 1, 0, 2) for p in flat)
    scores = g.MatMul(g.Mul(q, g.constant(SCALE)), g.turned(k, 0, 2, 1))
    found = g.turned(g.MatMul(softmax(g, scores), v), 1, 0, 2)
    heads = [projection(g.feeds["x"], seed) for seed in range(3)]
    expected = joined(attended(*heads)).swapaxes(0, 1)
    return g.form(g.shaped(found, TOKENS, BATCH, FEATURES), expected)


@form
def cross_attention() -> Form:
    g = Graph()
    x, memory = g.input("x", tokens()), g.input("memory", tokens(27, seed=1))
    q, k, v = projected(g, x, 0), projected(g, memory, 1), projected(g, memory, 2)
    shares = softmax(g, scores_of(g, q, k))
    found = g.shaped(g.turned(g.MatMul(shares, v), 0, 2, 1, 3), 0, 0, FEATURES)
    keys, values = (projection(g.feeds["memory"], seed) for seed in (1, 2))
    return g.form(found, joined(attended(projection(g.feeds["x"], 0), keys, values)))


# ------------------------------------------------------------------ rotary embeddings, decoding

ANGLES = np.arange(TOKENS)[:, None] * 10.0 ** -np.linspace(0, 3, DEPTH // 2)


def rotation(x: Array, interleaved: bool) -> Array:
    pairs = x.reshape(*x.shape[:-1], -1, 2) if interleaved else np.stack(np.split(x, 2, -1), -1)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * ANGLES)
    parts = [turned.real, turned.imag]
    return np.stack(parts, -1).reshape(x.shape) if interleaved else np.concatenate(parts, -1)


def rotated(turn: Callable[[Graph, str], str], interleaved: bool = False, opset: int = 20) -> Form:
    g = Graph(opset)
    q, k, v = heads_first(g)
    q, k = turn(g, q), turn(g, k)
    scores = scores_of(g, q, k)
    turned = [rotation(g.feeds[n].astype(np.float64), interleaved) for n in "qk"]
    return g.form(g.MatMul(softmax(g, scores), v), attended(*turned, g.feeds["v"]))


@form
def rotary_by_halves() -> Form:
    """``rotate_half`` of transformers."""

    def turn(g: Graph, x: str) -> str:
        wide = np.concatenate([ANGLES, ANGLES], -1)
        first, second = g.cut(x, 3, 0, DEPTH // 2), g.cut(x, 3, DEPTH // 2, 2**31 - 1)
        other = g.Concat(g.Neg(second), first, axis=-1)
        whole = g.Mul(x, g.constant(np.cos(wide)))
        return g.Add(whole, g.Mul(other, g.constant(np.sin(wide))))

    return rotated(turn)


@form
def rotary_interleaved() -> Form:
    def turn(g: Graph, x: str) -> str:
        a, b = g.cut(x, 3, 0, DEPTH, 2), g.cut(x, 3, 1, DEPTH, 2)
        cos, sin = g.constant(np.cos(ANGLES)), g.constant(np.sin(ANGLES))
        real = g.Sub(g.Mul(a, cos), g.Mul(b, sin))
        imaginary = g.Add(g.Mul(a, sin), g.Mul(b, cos))
        last = g.constant([-1], np.int64)
        pair = g.Concat(g.Unsqueeze(real, last), g.Unsqueeze(imaginary, last), axis=-1)
        return g.shaped(pair, BATCH, HEADS, TOKENS, DEPTH)

    return rotated(turn, interleaved=True)


@form
def rotary_embedding_of_onnx() -> Form:
    def turn(g: Graph, x: str) -> str:
        places = g.constant(np.tile(np.arange(TOKENS), (BATCH, 1)), np.int64)
        caches = g.constant(np.cos(ANGLES)), g.constant(np.sin(ANGLES))
        return g.RotaryEmbedding(x, *caches, places)

    return rotated(turn, opset=23)


@form
def decoding() -> Form:
    """One query; its key and value join those of a cache."""
    g = Graph()
    q = g.input("q", normal(BATCH, HEADS, 1, DEPTH))
    new = [g.input(n, normal(BATCH, HEADS, 1, DEPTH, seed=i)) for i, n in enumerate(("k1", "v1"))]
    old = [g.input(n, normal(BATCH, HEADS, 40, DEPTH, seed=i)) for i, n in enumerate(("k0", "v0"))]
    k, v = (g.Concat(a, b, axis=2) for a, b in zip(old, new, strict=True))
    scores = scores_of(g, q, k)
    f = g.feeds
    keys, values = (np.concatenate([f[f"{n}0"], f[f"{n}1"]], 2) for n in "kv")
    return g.form(g.MatMul(softmax(g, scores), v), attended(f["q"], keys, values))


@form
def decoding_from_a_cache_of_few_heads() -> Form:
    g = Graph(23)
    q, k, v = heads_first(g, heads=8, groups=2, queries=1, keys=41)
    return g.form(g.Attention(q, k, v), of_inputs(g))


# ------------------------------------------------------------------ single operators


def operator(groups: int = HEADS, bias: Any = 0, mask: Array | None = None, **given: Any) -> Form:
    g = Graph(23)
    q, k, v = heads_first(g, groups=groups)
    operands = [q, k, v] + ([g.input("mask", mask)] if mask is not None else [])
    return g.form(g.Attention(*operands, **given), of_inputs(g, bias))


@form
def attention_of_onnx() -> Form:
    return operator()


@form
def causal_attention_of_onnx() -> Form:
    return operator(bias=FORBIDDEN, is_causal=1)


@form
def grouped_attention_of_onnx() -> Form:
    return operator(groups=2, bias=FORBIDDEN, is_causal=1)


@form
def masked_attention_of_onnx() -> Form:
    return operator(bias=PADDING, mask=KEPT[:, None, None])


@form
def causal_attention_of_onnx_with_padding_in_front() -> Form:
    kept = KEPT[:, None, None, ::-1].copy()
    bias = FORBIDDEN + np.where(kept, 0, -np.inf)
    return operator(bias=bias, mask=kept, is_causal=1)


@form
def flat_attention_of_onnx() -> Form:
    g = Graph(23)
    q, k, v = (g.input(n, tokens(seed=i)) for i, n in enumerate("qkv"))
    found = g.Attention(q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)
    return g.form(found, joined(attended(*(split(x) for x in g.feeds.values()))))


@form
def multi_head_attention_of_onnxruntime() -> Form:
    g = Graph()
    q, k, v = (g.input(n, tokens(seed=i)) for i, n in enumerate("qkv"))
    mask = g.input("mask", KEPT.astype(np.int32))
    bias = g.constant(normal(3 * FEATURES))
    found = g.MultiHeadAttention(
        q, k, v, bias, mask, domain="com.microsoft", num_heads=HEADS, mask_filter_value=LOWEST
    )
    parts = np.split(normal(3 * FEATURES).astype(np.float64), 3)
    heads = [split(g.feeds[n] + part) for n, part in zip("qkv", parts, strict=True)]
    return g.form(found, joined(attended(*heads, PADDING)))


@form
def attention_of_onnxruntime() -> Form:
    g = Graph()
    x = g.input("x", tokens())
    weight = np.concatenate([normal(FEATURES, FEATURES, seed=s) / 8 for s in range(3)], 1)
    bias = np.concatenate([normal(FEATURES, seed=s) for s in range(3)])
    operands = x, g.constant(weight), g.constant(bias)
    found = g.Attention(*operands, domain="com.microsoft", num_heads=HEADS, unidirectional=1)
    heads = [projection(g.feeds["x"], seed) for seed in range(3)]
    return g.form(found, joined(attended(*heads, FORBIDDEN)))


@form
def grouped_decoding_of_onnxruntime() -> Form:
    """``GroupQueryAttention`` behind a cache that is as long as the tokens so far."""
    g, groups, before = Graph(), 2, 40
    q = g.input("q", normal(1, 1, HEADS * DEPTH))
    new = [g.input(n, normal(1, 1, groups * DEPTH, seed=i)) for i, n in enumerate(("k1", "v1"))]
    old = [g.input(n, normal(1, groups, before, DEPTH, seed=i)) for i, n in enumerate(("k0", "v0"))]
    counts = [g.constant(value, np.int32) for value in ([before], before + 1)]
    found, *_ = g.GroupQueryAttention(
        q, *new, *old, *counts, domain="com.microsoft", num_heads=HEADS, kv_num_heads=groups,
        results=3,
    )  # fmt: skip
    f = g.feeds
    added = {n: f[f"{n}1"].reshape(1, groups, 1, DEPTH) for n in "kv"}
    keys, values = (np.concatenate([f[f"{n}0"], added[n]], 2) for n in "kv")
    repeated = (np.repeat(x, HEADS // groups, 1) for x in (keys, values))
    return g.form(found, joined(attended(f["q"].reshape(1, HEADS, 1, DEPTH), *repeated)))
