"""Layers that the importer lacks become operators that it knows: same values as the references."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ansor_lite.errors import ModelError
from ansor_lite.frontend.importer import import_network
from ansor_lite.frontend.onnx_graph import OnnxGraph
from ansor_lite.frontend.onnx_norms import norms_to_operators
from ansor_lite.frontend.onnx_rewrites import LOWERED, REWRITES

CONTRIB = "com.microsoft"
# Rows of the table that leave what the importer takes as it is.
KEPT = {"LayerNormalization"}


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def integers(*shape, below):
    return np.random.default_rng(shape).integers(0, below, shape)


def one_node(op, inputs, results=("y",), domain="", opset=23, constants=(), **attributes):
    """A model of one node and what it is fed; an operand that is ``None`` is left out."""
    names = [name if value is not None else "" for name, value in inputs.items()]
    node = helper.make_node(op, names, list(results), name="n", domain=domain, **attributes)
    fed = {n: v for n, v in inputs.items() if v is not None and n not in constants}
    kinds = {r: TensorProto.INT32 if r == "lengths" else TensorProto.FLOAT for r in results if r}
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in fed.items()
        ],
        [helper.make_tensor_value_info(r, kind, None) for r, kind in kinds.items()],
        [numpy_helper.from_array(inputs[n], n) for n in constants],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), fed


def expected(model, fed, by_onnx):
    if by_onnx:
        return ReferenceEvaluator(model).run(None, fed)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, fed)


def lowered(model):
    """The graph before norms become operators that its opset may not have."""
    graph = OnnxGraph.of(model)
    for rewrite in REWRITES:
        if rewrite is not norms_to_operators:
            rewrite(graph)
    return graph


def check(op, inputs, *, by_onnx=None, **arguments):
    """The node is gone, what is in its place computes the same, and the importer takes it."""
    model, fed = one_node(op, inputs, **arguments)
    by_onnx = not arguments.get("domain") if by_onnx is None else by_onnx
    graph = lowered(model)
    left = {(n.domain, n.op_type) for n in graph.nodes} & set(LOWERED)
    assert not {op for _, op in left} - KEPT
    with np.errstate(invalid="ignore"):  # the softmax of a row of -inf
        found = ReferenceEvaluator(graph.to_model()).run(None, fed)
    for value, wanted in zip(found, expected(model, fed, by_onnx), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=2e-5)
    import_network(model)


def refused(op, inputs, **arguments):
    with pytest.raises(ModelError, match=op):
        import_network(one_node(op, inputs, **arguments)[0])


# ------------------------------------------------------------------ norms and activations


X = {"x": normal(2, 5, 8)}
GAMMA, BETA, BIAS = normal(8, seed=1), normal(8, seed=2), normal(8, seed=3)
SKIP = X | {"skip": normal(2, 5, 8, seed=4)}


@pytest.mark.parametrize(("axis", "shape"), [(-1, (8,)), (1, (5, 8)), (2, (8,))])
def test_layer_norm_with_its_statistics(axis, shape):
    inputs = X | {"scale": normal(*shape), "bias": normal(*shape, seed=1)}
    check("LayerNormalization", inputs, results=("y", "mean", "inverse"), axis=axis)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_norm(axis):
    scale = normal(*X["x"].shape[axis:])
    check("RMSNormalization", X | {"scale": scale}, axis=axis, epsilon=1e-4)


def test_simplified_layer_norm():
    inputs = X | {"scale": GAMMA}
    check("SimplifiedLayerNormalization", inputs, results=("y", "inverse"), by_onnx=False, opset=17)


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_skip_layer_norm(bias, opset):
    inputs = SKIP | {"gamma": GAMMA, "beta": BETA, "bias": bias}
    check(
        "SkipLayerNormalization",
        inputs,
        results=("y", "", "", "sum"),
        domain=CONTRIB,
        opset=opset,
        epsilon=1e-5,
    )


@pytest.mark.parametrize("bias", [None, BIAS])
def test_skip_simplified_layer_norm(bias):
    inputs = SKIP | {"gamma": GAMMA, "bias": bias}
    results = ("y", "", "", "sum")
    check("SkipSimplifiedLayerNormalization", inputs, results=results, domain=CONTRIB, opset=17)


@pytest.mark.parametrize("segments", [True, False])
def test_embed_layer_norm(segments):
    inputs = {
        "ids": integers(2, 5, below=11).astype(np.int32),
        "segments": integers(2, 5, below=2).astype(np.int32) if segments else None,
        "words": normal(11, 8),
        "positions": normal(7, 8),
        "kinds": normal(2, 8) if segments else None,
        "gamma": GAMMA,
        "beta": BETA,
        "mask": np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32),
    }
    results = ("y", "lengths", "sum")
    check("EmbedLayerNormalization", inputs, results=results, domain=CONTRIB, opset=17)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    check("Gelu", X, approximate=approximate)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Gelu", X, {}),
        ("BiasGelu", X | {"b": BIAS}, {}),
        ("FastGelu", X, {}),
        ("FastGelu", X | {"b": BIAS}, {}),
        ("QuickGelu", X, {"alpha": 1.5}),
    ],
)
def test_activations_of_optimized_graphs(op, inputs, attributes):
    check(op, inputs, domain=CONTRIB, opset=17, **attributes)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish(alpha):
    check("Swish", X, opset=24, alpha=alpha)


@pytest.mark.parametrize(("left", "right"), [(0, 1), (1, 0), (1, 1)])
def test_fused_matmul(left, right):
    a = normal(2, 3, 4, 5) if not left else normal(2, 3, 5, 4)
    b = normal(2, 3, 5, 6) if not right else normal(2, 3, 6, 5)
    arguments = {"transA": left, "transB": right, "alpha": 0.5}
    check("FusedMatMul", {"a": a, "b": b}, domain=CONTRIB, opset=17, **arguments)


@pytest.mark.parametrize(("rows", "turned"), [(1, 0), (1, 1)])
def test_fused_matmul_with_rows_before_the_batch(rows, turned):
    a = normal(5, 2, 3, 4) if turned else normal(4, 2, 3, 5)
    arguments = {"transBatchA": rows, "transA": turned}
    inputs = {"a": a, "b": normal(2, 3, 5, 6)}
    check("FusedMatMul", inputs, domain=CONTRIB, opset=17, **arguments)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_of_fractions_and_of_indices_from_the_end(axis):
    inputs = {
        "ids": np.array([[0, 3, -1], [-4, 2, 7]]),
        "depth": np.array(4),
        "values": np.array([0.25, 1.5], np.float32),
    }
    check("OneHot", inputs, constants=("depth",), axis=axis)


def test_one_hot_of_numbers_with_a_point():
    ids, values = np.array([0, 3, 2], np.float32), np.array([0.5, 1], np.float32)
    inputs = {"ids": ids, "depth": np.array(4), "values": values}
    check("OneHot", inputs, constants=("depth",))


def test_one_hot_of_a_computed_depth_is_refused():
    inputs = {"ids": np.array([1, 2]), "depth": np.array(4), "values": normal(2)}
    refused("OneHot", inputs)


# ------------------------------------------------------------------ attention


def qkv(heads=4, groups=4, queries=5, keys=7, depth=6, width=6):
    return {
        "q": normal(2, heads, queries, depth),
        "k": normal(2, groups, keys, depth, seed=1),
        "v": normal(2, groups, keys, width, seed=2),
    }


def flat(heads=4, groups=4, **sizes):
    joined = {n: x.transpose(0, 2, 1, 3) for n, x in qkv(heads, groups, **sizes).items()}
    return {n: x.reshape(*x.shape[:2], -1) for n, x in joined.items()}


@pytest.mark.parametrize(
    "attributes",
    [{}, {"scale": 0.3}, {"softcap": 2.0}, {"is_causal": 1}, {"is_causal": 1, "softcap": 2.0}],
)
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_attention(groups, attributes):
    check("Attention", qkv(groups=groups), **attributes)
    heads = {"q_num_heads": 4, "kv_num_heads": groups}
    check("Attention", flat(groups=groups, width=3), **heads, **attributes)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 7), (2, 1, 5, 7), (2, 4, 5, 7)])
@pytest.mark.parametrize("groups", [4, 2])
def test_masks_of_attention(groups, shape, boolean, causal):
    mask = normal(*shape) > 0 if boolean else normal(*shape)
    check("Attention", qkv(groups=groups) | {"mask": mask}, is_causal=causal)


@pytest.mark.parametrize("groups", [4, 2])
def test_padding_of_keys(groups):
    check("Attention", qkv(groups=groups) | {"mask": normal(2, 1, 1, 7) > -1})


def test_a_query_without_keys_attends_to_nothing():
    mask = np.ones((5, 7), bool)
    mask[2] = False
    for constants in ((), ("mask",)):
        check("Attention", qkv() | {"mask": mask}, constants=constants)


@pytest.mark.parametrize("lengths", [None, np.array([6, 7])])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(("left", "right"), [(2, -1), (-1, 1), (1, 2), (0, 0)])
def test_attention_over_a_window(left, right, causal, lengths):
    inputs = qkv() | {"mask": None, "k0": None, "v0": None, "lengths_in": lengths}
    windows = {"left_window_size": left, "right_window_size": right}
    check("Attention", inputs, opset=25, is_causal=causal, **windows)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_scores_of_attention_are_results_too(mode):
    inputs = qkv(groups=2) | {"mask": normal(5, 7)}
    results = ("y", "", "", "scores")
    softcap = 3.0 if mode else 0.0  # onnx's reference caps the scores of mode 0, too
    check("Attention", inputs, results=results, qk_matmul_output_mode=mode, softcap=softcap)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("groups", [4, 2])
def test_attention_behind_a_cache(groups, causal):
    past = {"mask": None, "k0": normal(2, groups, 3, 6), "v0": normal(2, groups, 3, 6, seed=1)}
    results = ("y", "present_key", "present_value")
    check("Attention", qkv(groups=groups) | past, results=results, is_causal=causal)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_over_a_padded_cache(causal):
    lengths = {"mask": None, "k0": None, "v0": None, "lengths_in": np.array([6, 7])}
    check("Attention", qkv() | lengths, opset=24, is_causal=causal)


def test_a_short_mask_forbids_the_keys_behind_it():
    for mask in (normal(5, 4), normal(5, 4) > -1):
        check("Attention", qkv() | {"mask": mask}, opset=24)


@pytest.mark.parametrize("partial", [0, 4])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary_embedding(rank, placed, interleaved, partial):
    half = (partial or 8) // 2
    cache = (9, half) if placed else (2, 5, half)
    inputs = {
        "x": normal(2, 3, 5, 8) if rank == 4 else normal(2, 5, 24),
        "cos": normal(*cache, seed=1),
        "sin": normal(*cache, seed=2),
        "places": integers(2, 5, below=9) if placed else None,
    }
    arguments = {"num_heads": 3} if rank == 3 else {}
    arguments |= {"interleaved": interleaved, "rotary_embedding_dim": partial}
    check("RotaryEmbedding", inputs, **arguments)


# ------------------------------------------------------------------ com.microsoft


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("places", [np.array([2]), integers(2, 5, below=9)])
def test_rotary_embedding_of_optimized_graphs(places, interleaved):
    inputs = {"x": normal(2, 5, 24), "places": places}
    inputs |= {"cos": normal(9, 4, seed=1), "sin": normal(9, 4, seed=2)}
    check("RotaryEmbedding", inputs, domain=CONTRIB, opset=17, interleaved=interleaved)


MASKS = {
    "none": None,
    "keys": np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32),
    "lengths": np.array([3, 5], np.int32),
    "queries": (normal(2, 5, 5) > -0.5).astype(np.int32),
}


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_that_projects_its_input(mask, causal):
    inputs = X | {"w": normal(8, 24), "b": normal(24), "mask": MASKS[mask]}
    arguments = {"domain": CONTRIB, "opset": 17, "num_heads": 2, "unidirectional": causal}
    check("Attention", inputs, **arguments)


def test_attention_that_projects_its_input_behind_a_cache():
    inputs = X | {"w": normal(8, 24), "b": normal(24), "mask": None, "past": normal(2, 2, 2, 3, 4)}
    arguments = {"domain": CONTRIB, "opset": 17, "num_heads": 2, "unidirectional": 1}
    check("Attention", inputs, results=("y", "present"), **arguments)


def three(queries=5, keys=7):
    names = {"q": queries, "k": keys, "v": keys}
    return {n: normal(2, tokens, 24, seed=i) for i, (n, tokens) in enumerate(names.items())}


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"bias": normal(72)},
        {"bias": None, "mask": np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)},
        {"bias": None, "mask": None, "added": normal(2, 4, 5, 7)},
    ],
)
def test_multi_head_attention(others):
    arguments = {"domain": CONTRIB, "opset": 17, "num_heads": 4}
    check("MultiHeadAttention", three() | others, **arguments)


def test_multi_head_attention_behind_a_cache():
    past = {"bias": None, "mask": None, "added": None}
    past |= {"k0": normal(2, 4, 3, 6), "v0": normal(2, 4, 3, 6, seed=1)}
    results = ("y", "present_key", "present_value")
    arguments = {"domain": CONTRIB, "opset": 17, "num_heads": 4, "results": results}
    check("MultiHeadAttention", three(keys=5) | past, **arguments, unidirectional=1)


def grouped(packed):
    counts = {"lengths_in": np.array([4, 4], np.int32), "total": np.array(5, np.int32)}
    whole = {"q": normal(2, 5, 4 * 16 + 4 * 16), "k": None, "v": None}
    apart = {"q": normal(2, 5, 64), "k": normal(2, 5, 32), "v": normal(2, 5, 32, seed=1)}
    return (whole if packed else apart) | {"k0": None, "v0": None} | counts


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_group_query_attention_over_a_prompt(packed, rotary):
    inputs = grouped(packed)
    if rotary:
        inputs |= {"cos": normal(9, 8), "sin": normal(9, 8, seed=1)}
    arguments = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": rotary}
    arguments |= {"domain": CONTRIB, "opset": 17}
    results = ("y", "present_key", "present_value")
    check("GroupQueryAttention", inputs, results=results, **arguments)


def behind(past, lengths, total, batch=2, tokens=1):
    """One or more new tokens behind ``past`` ones."""
    x = {n: normal(batch, tokens, w, seed=w) for n, w in (("q", 64), ("k", 32))}
    x |= {"v": normal(batch, tokens, 32, seed=1)}
    x |= {f"{n}0": normal(batch, 2, past, 16, seed=i) for i, n in enumerate("kv")}
    return x | {"lengths_in": np.array(lengths, np.int32), "total": np.array(total, np.int32)}


GROUPED = {"num_heads": 4, "kv_num_heads": 2, "domain": CONTRIB, "opset": 17}
GROUPED |= {"results": ("y", "present_key", "present_value")}


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("constants", [("total",), ("total", "lengths_in")])
def test_group_query_attention_behind_a_cache(constants, rotary):
    batch = len(constants)
    inputs = behind(6, [6] * batch, 7, batch)
    if rotary:
        inputs |= {"cos": normal(9, 8), "sin": normal(9, 8, seed=1)}
    check("GroupQueryAttention", inputs, constants=constants, do_rotary=rotary, **GROUPED)


def test_several_tokens_behind_a_cache():
    check("GroupQueryAttention", behind(6, [8], 9, 1, tokens=3), constants=("total",), **GROUPED)


@pytest.mark.parametrize(
    ("constants", "lengths", "total"),
    [
        (("lengths_in",), [6, 6], 7),
        (("total",), [6, 6], 7),
        (("total", "lengths_in"), [6, 4], 7),
        (("total", "lengths_in"), [4, 4], 5),
    ],
    ids=["length-unknown", "padding-unknown", "padded", "cache-of-fixed-size"],
)
def test_group_query_attention_is_refused_behind(constants, lengths, total):
    refused("GroupQueryAttention", behind(6, lengths, total), constants=constants, **GROUPED)


def test_group_query_attention_over_a_window_is_refused():
    arguments = {"num_heads": 4, "kv_num_heads": 2, "local_window_size": 3}
    results = ("y", "present_key", "present_value")
    refused("GroupQueryAttention", grouped(False), domain=CONTRIB, results=results, **arguments)
