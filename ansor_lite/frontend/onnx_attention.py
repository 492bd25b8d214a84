"""Attention and rotary embeddings, standard and of ``com.microsoft``, as primitive operators.

Every operator becomes ``softmax(scale q k^T + biases) v`` through :func:`attend`; what it calls
masks, caches and lengths becomes biases and concatenations first. Heads that share keys and values
stay a dimension of their own: [batch, key heads, queries of a key head, tokens, depth].
Read ``onnx_emit.py`` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ansor_lite.frontend.onnx_emit import Emitter
from ansor_lite.frontend.onnx_graph import Array


@dataclass(frozen=True, slots=True)
class Scores:
    """What happens between the products; ``biases`` broadcast to [batch, heads, queries, keys].

    ``guarded``: a bias may be -inf for every key of a query, whose shares then are zeros.
    """

    scale: float
    biases: Sequence[str] = ()
    softcap: float = 0.0
    guarded: bool = False
    precision: int = 0


@dataclass(frozen=True, slots=True)
class Attended:
    """``output`` [batch, heads, queries, depth] and the stages of the scores, before it."""

    output: str
    stages: tuple[str, str, str, str]


def attend(emit: Emitter, q: str, k: str, v: str, between: Scores) -> Attended:
    """Attention of ``q`` [batch, heads, queries, depth] over keys and values of as many heads,
    of one, or of a divisor of them: query head ``h`` reads head ``h // (heads / key heads)``.
    """
    batch, heads, queries, depth = emit.shape(q)
    groups, keys = emit.shape(k)[1:3]
    grouped = groups not in (1, heads)
    if grouped:
        q = emit.reshape(q, [batch, groups, heads // groups, queries, depth])
        k, v = (emit.reshape(x, [batch, groups, 1, keys, emit.shape(x)[3]]) for x in (k, v))
    rank = 5 if grouped else 4
    product = emit("MatMul", q, emit.transpose(k, [*range(rank - 2), rank - 1, rank - 2]))
    scaled = _scaled(emit, product, between.scale)
    capped = _capped(emit, scaled, between.softcap)
    biased = capped
    for bias in between.biases:
        biased = emit("Add", biased, _per_group(emit, bias, groups, heads) if grouped else bias)
    shares = _softmax(emit, biased, between)
    output = emit("MatMul", shares, v)
    stages = (scaled, capped, biased, shares)
    if grouped:
        output = emit.reshape(output, [batch, heads, queries, emit.shape(v)[4]])
        stages = _ungrouped(emit, stages, [batch, heads, queries, keys])
    return Attended(output, stages)


def _ungrouped(
    emit: Emitter, stages: tuple[str, str, str, str], shape: list[int]
) -> tuple[str, str, str, str]:
    if not any(emit.wants(i) for i in range(3, 5)):
        return stages
    a, b, c, d = (emit.reshape(x, shape) for x in stages)
    return a, b, c, d


def _scaled(emit: Emitter, scores: str, scale: float) -> str:
    if scale == 1:
        return scores
    return emit("Mul", scores, emit.constant(scale, emit.dtype(emit.node.input[0])))


def _capped(emit: Emitter, scores: str, softcap: float) -> str:
    if softcap <= 0:
        return scores
    dtype = emit.dtype(scores)
    curve = emit("Tanh", emit("Mul", scores, emit.constant(1 / softcap, dtype)))
    return emit("Mul", curve, emit.constant(softcap, dtype))


def _softmax(emit: Emitter, scores: str, between: Scores) -> str:
    dtype = emit.dtype(scores)
    if between.precision:
        scores = emit("Cast", scores, to=between.precision)
    shares = emit("Softmax", scores, axis=-1)
    if between.guarded:
        zero = emit.constant(0, emit.dtype(scores))
        shares = emit("Where", emit("IsNaN", shares), zero, shares)
    return emit.cast(shares, dtype)


def _per_group(emit: Emitter, bias: str, groups: int, heads: int) -> str:
    """[batch, heads, queries, keys] as [batch, groups, heads / groups, queries, keys]."""
    shape = emit.shape(bias)
    if len(shape) < 3:
        return bias
    split = (1, 1) if shape[-3] == 1 else (groups, heads // groups)
    return emit.reshape(bias, [*shape[:-3], *split, *shape[-2:]])


def split_heads(emit: Emitter, x: str, heads: int) -> str:
    """[batch, tokens, heads * depth] as [batch, heads, tokens, depth]."""
    return emit.transpose(emit.reshape(x, [0, 0, heads, -1]), [0, 2, 1, 3])


def join_heads(emit: Emitter, x: str) -> str:
    """The inverse of :func:`split_heads`."""
    return emit.reshape(emit.transpose(x, [0, 2, 1, 3]), [0, 0, -1])


def causal_bias(queries: int, keys: int, offset: int, dtype: np.dtype[np.generic]) -> Array:
    """0 where key ``j <= i + offset`` for query ``i``, else -inf; a view on ``queries + keys``."""
    ahead = np.arange(queries + keys - 1) - (queries - 1)
    row = np.where(ahead <= offset, 0.0, -np.inf).astype(dtype)
    return np.lib.stride_tricks.sliding_window_view(row, keys)[::-1]


def mask_bias(emit: Emitter, mask: str, dtype: np.dtype[np.generic], fill: float = -np.inf) -> str:
    """0 where ``mask`` holds, else ``fill``."""
    condition = emit.cast(mask, np.dtype(bool))
    return emit("Where", condition, emit.constant(0, dtype), emit.constant(fill, dtype))


# ------------------------------------------------------------------ ONNX


def attention(emit: Emitter) -> bool:
    """``Attention`` since opset 23."""
    q, k, v, mask = (emit.input(i) for i in range(4))
    flat = len(emit.shape(q)) == 3
    if flat:
        q = split_heads(emit, q, int(emit.attribute("q_num_heads")))
        k, v = (split_heads(emit, x, int(emit.attribute("kv_num_heads"))) for x in (k, v))
    past = emit.input(4)
    if past:
        k = emit("Concat", past, k, axis=2)
        v = emit("Concat", emit.input(5), v, axis=2)
    before = emit.shape(past)[2] if past else 0
    biases, guarded = _standard_biases(emit, q, k, mask, before)
    between = Scores(
        float(emit.attribute("scale", 0) or 1 / sqrt(emit.shape(q)[3])),
        biases,
        float(emit.attribute("softcap", 0)),
        guarded,
        int(emit.attribute("softmax_precision", 0)),
    )
    found = attend(emit, q, k, v, between)
    output = join_heads(emit, found.output) if flat else found.output
    stage = found.stages[int(emit.attribute("qk_matmul_output_mode", 0))]
    for index, value in enumerate((output, k, v, stage)):
        if emit.wants(index):
            emit.finish(value, index)
    return True


def _standard_biases(
    emit: Emitter, q: str, k: str, mask: str, before: int
) -> tuple[list[str], bool]:
    """What is added to the scores, and whether it may forbid a query every key."""
    queries, keys, dtype = emit.shape(q)[2], emit.shape(k)[2], emit.dtype(q)
    lengths, biases = emit.input(6), []
    if mask:
        mask = _padded(emit, mask, keys)
        boolean = emit.dtype(mask).kind == "b"
        biases.append(mask_bias(emit, mask, dtype) if boolean else mask)
    if not lengths:
        first, last = _limits(emit)
        if first is not None:
            found = causal_bias(queries, keys, before + first - 1, dtype)
            biases.append(emit.constant(np.where(found == 0, -np.inf, 0), dtype))
        if last is not None:
            biases.append(emit.constant(causal_bias(queries, keys, before + last, dtype), dtype))
    else:
        column = emit.reshape(emit.cast(lengths, np.dtype(np.int64)), [emit.shape(q)[0], 1, 1, 1])
        biases += _length_biases(emit, column, queries, keys, dtype)
    known = all(emit.graph.is_constant(b) for b in biases)
    return biases, _forbids_all(emit, biases) if known else True


def _limits(emit: Emitter) -> tuple[int | None, int | None]:
    """The first and the last key of a query, from the key at its own place; ``None``: no limit."""
    left, right = (int(emit.attribute(f"{side}_window_size", -1)) for side in ("left", "right"))
    ends = [0] * bool(emit.attribute("is_causal", 0)) + [right] * (right >= 0)
    return -left if left >= 0 else None, min(ends, default=None)


def _length_biases(
    emit: Emitter, lengths: str, queries: int, keys: int, dtype: np.dtype[np.generic]
) -> list[str]:
    """Keys up to ``lengths`` [batch, 1, 1, 1] count; the last query is at the last of them."""
    first, last = _limits(emit)
    place = emit("Add", lengths, emit.constant(np.arange(queries)[:, None] - queries))
    numbers, biases = emit.constant(np.arange(keys)), []
    allowed = [emit("Less", numbers, lengths)]
    if last is not None:
        allowed.append(emit("LessOrEqual", numbers, emit("Add", place, emit.constant(last))))
    if first is not None:
        allowed.append(emit("LessOrEqual", emit("Add", place, emit.constant(first)), numbers))
    for condition in allowed:
        biases.append(mask_bias(emit, condition, dtype))
    return biases


def _forbids_all(emit: Emitter, biases: Sequence[str]) -> bool:
    if not biases:
        return False
    total = sum(emit.graph.value(b) for b in biases)
    return bool(np.any(np.all(np.isneginf(total), axis=-1)))


def _padded(emit: Emitter, mask: str, keys: int) -> str:
    """A mask for fewer keys forbids those behind them."""
    shape, dtype = emit.shape(mask), emit.dtype(mask)
    if shape[-1] in (1, keys):
        return mask
    rest = np.full((*shape[:-1], keys - shape[-1]), False if dtype.kind == "b" else -np.inf, dtype)
    return emit("Concat", mask, emit.constant(rest, dtype), axis=-1)


# ------------------------------------------------------------------ rotary embeddings


def rotary_embedding(emit: Emitter) -> bool:
    """``RotaryEmbedding`` since opset 23: [batch, heads, tokens, depth], or flat heads."""
    x, cos, sin, places = (emit.input(i) for i in range(4))
    return _rotated(emit, x, cos, sin, places)


def contrib_rotary_embedding(emit: Emitter) -> bool:
    """Another order of operands; one position alone is that of the first token."""
    x, places, cos, sin = (emit.input(i) for i in range(4))
    if emit.attribute("is_packed_batching", 0) or float(emit.attribute("scale", 1.0)) != 1:
        return False
    tokens = emit.shape(x)[-2]
    if len(emit.shape(places)) == 1:
        dtype = emit.dtype(places)
        places = emit("Add", places, emit.constant(np.arange(tokens)[None], dtype))
    heads = int(emit.attribute("num_heads", 0))
    if len(emit.shape(x)) == 3 and not heads:
        depth = int(emit.attribute("rotary_embedding_dim", 0)) or 2 * emit.shape(cos)[1]
        heads = emit.shape(x)[2] // depth
    return _rotated(emit, x, cos, sin, places, heads)


def _rotated(emit: Emitter, x: str, cos: str, sin: str, places: str, heads: int = 0) -> bool:
    """``cos``, ``sin``: [positions, depth / 2], or [batch, tokens, depth / 2] without places."""
    heads = heads or int(emit.attribute("num_heads", 0))
    flat = len(emit.shape(x)) == 3
    if places:
        cos, sin = emit("Gather", cos, places), emit("Gather", sin, places)
    split = emit.reshape(x, [0, 0, heads, -1]) if flat else x
    shape = list(emit.shape(cos))
    shape.insert(2 if flat else 1, 1)
    cos, sin = emit.reshape(cos, shape), emit.reshape(sin, shape)
    depth = int(emit.attribute("rotary_embedding_dim", 0)) or emit.shape(split)[3]
    result = rotate(emit, split, cos, sin, depth, bool(emit.attribute("interleaved", 0)))
    emit.finish(emit.reshape(result, [0, 0, -1]) if flat else result)
    return True


def rotate(emit: Emitter, x: str, cos: str, sin: str, depth: int, interleaved: bool) -> str:
    """The first ``depth`` numbers of the last dimension of ``x`` turned in pairs."""
    whole = emit.shape(x)
    turned = x if depth == whole[-1] else emit.slice(x, -1, 0, depth)
    step, half = (2, 1) if interleaved else (1, depth // 2)
    stop = depth if interleaved else half
    first = emit.slice(turned, -1, 0, stop, step)
    second = emit.slice(turned, -1, half, depth, step)
    real = emit("Sub", emit("Mul", first, cos), emit("Mul", second, sin))
    imaginary = emit("Add", emit("Mul", first, sin), emit("Mul", second, cos))
    if interleaved:
        pair = [*whole[:-1], depth // 2, 1]
        parts = [emit.reshape(part, pair) for part in (real, imaginary)]
        joined = emit.reshape(emit("Concat", *parts, axis=-1), [*whole[:-1], depth])
    else:
        joined = emit("Concat", real, imaginary, axis=-1)
    if depth == whole[-1]:
        return joined
    return emit("Concat", joined, emit.slice(x, -1, depth, whole[-1]), axis=-1)
