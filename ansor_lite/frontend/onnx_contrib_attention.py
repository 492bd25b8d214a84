"""Attention as onnxruntime's optimizer writes it (``com.microsoft``), as primitive operators.

Its ``Attention`` projects its input itself and is another operator than that of ONNX. Forms that
share one buffer with the caller (caches of fixed size, beams) are refused.
Read ``onnx_attention.py`` first.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np

from ansor_lite.frontend.onnx_attention import (
    Scores,
    attend,
    causal_bias,
    join_heads,
    mask_bias,
    rotate,
    split_heads,
)
from ansor_lite.frontend.onnx_emit import Emitter


def contrib_attention(emit: Emitter) -> bool:
    """``Attention``: input, weights, bias, mask, past, attention bias."""
    x, weights, bias, mask, past, added = (emit.input(i) for i in range(6))
    heads = int(emit.attribute("num_heads"))
    if emit.attribute("do_rotary", 0) or emit.input(6):
        return False
    merged = emit("MatMul", x, weights)
    merged = emit("Add", merged, bias) if bias else merged
    width = emit.shape(weights)[1]
    sizes = emit.attribute("qkv_hidden_sizes", None) or [width // 3] * 3
    stops = np.cumsum([0, *sizes]).tolist()
    parts = [emit.slice(merged, -1, a, b) for a, b in pairwise(stops)]
    q, k, v = (split_heads(emit, part, heads) for part in parts)
    before = 0
    if past:  # [2, batch, heads, tokens, depth]
        before = emit.shape(past)[3]
        shape = list(emit.shape(past))[1:]
        kept = [emit.reshape(emit.slice(past, 0, i, i + 1), shape) for i in range(2)]
        k, v = (emit("Concat", old, x, axis=2) for old, x in zip(kept, (k, v), strict=True))
    if emit.wants(1):
        pair = [emit.reshape(part, [1, *emit.shape(part)]) for part in (k, v)]
        emit.finish(emit("Concat", *pair, axis=0), 1)
    return _attended(emit, q, k, v, mask, added, before)


def multi_head_attention(emit: Emitter) -> bool:
    """``MultiHeadAttention``: query, key, value, bias, padding mask, bias of scores, past."""
    q, k, v, bias, mask, added, past, past_value = (emit.input(i) for i in range(8))
    heads = int(emit.attribute("num_heads"))
    if emit.input(8) or emit.input(9) or not k or emit.wants(3):
        return False
    if not v or any(len(emit.shape(x)) != 3 for x in (q, k, v)):
        return _with_separate_heads(emit, heads)
    q, k, v = (split_heads(emit, x, heads) for x in _biased(emit, q, k, v, bias))
    before = 0
    if past:
        before = emit.shape(past)[2]
        k, v = emit("Concat", past, k, axis=2), emit("Concat", past_value, v, axis=2)
    for index, value in ((1, k), (2, v)):
        if emit.wants(index):
            emit.finish(value, index)
    return _attended(emit, q, k, v, mask, added, before)


def _biased(emit: Emitter, q: str, k: str, v: str, bias: str) -> tuple[str, str, str]:
    """One bias for the three of them, in a row."""
    if not bias:
        return q, k, v
    stops = np.cumsum([0, *(emit.shape(x)[2] for x in (q, k, v))]).tolist()
    parts = [emit.slice(bias, 0, a, b) for a, b in pairwise(stops)]
    a, b, c = (emit("Add", x, part) for x, part in zip((q, k, v), parts, strict=True))
    return a, b, c


def _with_separate_heads(emit: Emitter, heads: int) -> bool:
    """Keys and values of cross attention: [batch, heads, tokens, depth]; nothing of the past."""
    q, k, v, bias, mask, added, past = (emit.input(i) for i in range(7))
    cross = v and len(emit.shape(q)) == 3 and len(emit.shape(k)) == len(emit.shape(v)) == 4
    if not cross or bias or past or emit.wants(1):
        return False
    return _attended(emit, split_heads(emit, q, heads), k, v, mask, added, 0)


def _attended(emit: Emitter, q: str, k: str, v: str, mask: str, added: str, before: int) -> bool:
    fill = float(emit.attribute("mask_filter_value", -10000.0))
    biases = [added] if added else []
    if mask:
        bias = _padding_bias(emit, mask, emit.shape(q)[0], emit.shape(k)[2], fill)
        if bias is None:
            return False
        biases.append(bias)
    if emit.attribute("unidirectional", 0):
        shape = emit.shape(q)[2], emit.shape(k)[2]
        biases.append(emit.constant(causal_bias(*shape, before, emit.dtype(q)), emit.dtype(q)))
    scale = float(emit.attribute("scale", 0) or 1 / sqrt(emit.shape(q)[3]))
    emit.finish(join_heads(emit, attend(emit, q, k, v, Scores(scale, biases)).output))
    return True


def _padding_bias(emit: Emitter, mask: str, batch: int, keys: int, fill: float) -> str | None:
    """``mask``: which keys count, [batch, keys] or [batch, queries, keys], or how many: [batch]."""
    shape, dtype = emit.shape(mask), emit.dtype(emit.input(0))
    if shape == (batch,):
        lengths = emit.cast(mask, np.dtype(np.int64))
        column = emit.reshape(lengths, [batch, 1, 1, 1])
        allowed = emit("Less", emit.constant(np.arange(keys)), column)
        return mask_bias(emit, allowed, dtype, fill)
    if len(shape) not in (2, 3) or shape[-1] != keys:
        return None
    inner = shape[1] if len(shape) == 3 else 1
    return mask_bias(emit, emit.reshape(mask, [shape[0], 1, inner, keys]), dtype, fill)


def group_query_attention(emit: Emitter) -> bool:
    """``GroupQueryAttention``, causal, over a prompt or behind keys and values from before.

    In a prompt, padding lies behind the tokens that count, where the causal mask hides it from
    them. The past must be without: as many tokens as the operator is told, in every row.
    """
    q, k, v, past, past_value = (emit.input(i) for i in range(5))
    heads, groups = int(emit.attribute("num_heads")), int(emit.attribute("kv_num_heads"))
    if any(emit.input(i) for i in range(9, 16)) or not _is_plain(emit):
        return False
    if not k:
        depth = emit.shape(q)[2] // (heads + 2 * groups)
        stops = [0, heads * depth, (heads + groups) * depth, (heads + 2 * groups) * depth]
        q, k, v = (emit.slice(q, -1, a, b) for a, b in pairwise(stops))
    q, k, v = (
        split_heads(emit, q, heads),
        split_heads(emit, k, groups),
        split_heads(emit, v, groups),
    )
    tokens, depth = emit.shape(q)[2:]
    before = emit.shape(past)[2] if past else 0
    if past and not _is_as_long(emit, before + tokens):
        return False
    if emit.attribute("do_rotary", 0):
        cos, sin = (emit.slice(emit.input(i), 0, before, before + tokens) for i in (7, 8))
        turned = 2 * emit.shape(cos)[1]
        interleaved = bool(emit.attribute("rotary_interleaved", 0))
        q, k = (rotate(emit, x, cos, sin, turned, interleaved) for x in (q, k))
    if past:
        k, v = emit("Concat", past, k, axis=2), emit("Concat", past_value, v, axis=2)
    for index, value in ((1, k), (2, v)):
        if emit.wants(index):
            emit.finish(value, index)
    causal = causal_bias(tokens, before + tokens, before, emit.dtype(q))
    bias = emit.constant(causal, emit.dtype(q))
    scale = float(emit.attribute("scale", 0) or 1 / sqrt(depth))
    between = Scores(scale, [bias], float(emit.attribute("softcap", 0)))
    emit.finish(join_heads(emit, attend(emit, q, k, v, between).output))
    return True


def _is_as_long(emit: Emitter, tokens: int) -> bool:
    """All rows are known to have that many tokens; of a single one, the longest is told."""
    lengths, longest = (emit.graph.constant(emit.input(i)) for i in (5, 6))
    if longest is None or int(longest.reshape(())) != tokens:
        return False
    if lengths is None:
        return emit.shape(emit.input(0))[0] == 1
    return bool((lengths == tokens - 1).all())


def _is_plain(emit: Emitter) -> bool:
    refused = ("smooth_softmax", "qk_output", "kv_cache_bit_width", "sliding_window_cache")
    windowed = int(emit.attribute("local_window_size", -1)) > 0
    unusual = any(int(emit.attribute(name, 0)) > 0 for name in refused)
    return not (windowed or unusual) and bool(emit.attribute("causal", 1)) and not emit.wants(3)
