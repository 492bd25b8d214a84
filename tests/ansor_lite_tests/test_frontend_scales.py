"""Products with constants go back into constant weights; gathers and masks lose their disguise."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from attention_graphs import Graph, normal
from onnx.reference import ReferenceEvaluator

from ansor_lite.frontend.onnx_rewrites import simplify

HEADS, TOKENS, DEPTH = 3, 5, 4
WIDTH = HEADS * DEPTH


def check(g: Graph, result: str) -> Counter[str]:
    """The operators that are left; the values stay."""
    model = g.form(result, np.zeros(())).model
    model.graph.output[0].type.tensor_type.ClearField("shape")
    after = simplify(model).to_model()
    before, found = (ReferenceEvaluator(m).run(None, g.feeds)[0] for m in (model, after))
    np.testing.assert_allclose(found, before, rtol=1e-5, atol=1e-5)
    return Counter(node.op_type for node in after.graph.node if node.op_type != "Identity")


def tokens(g: Graph, name: str = "x", features: int = 6) -> str:
    return g.input(name, normal(2, TOKENS, features))


def projected(g: Graph, x: str, width: int = WIDTH, *, bias: bool = True) -> str:
    flat = g.MatMul(x, g.constant(normal(6, width)))
    return g.Add(flat, g.constant(normal(width))) if bias else flat


def in_heads(g: Graph, x: str) -> str:
    return g.turned(g.shaped(x, 0, 0, HEADS, -1), 0, 2, 1, 3)


# ------------------------------------------------------------------ scales


@pytest.mark.parametrize("bias", [False, True])
def test_a_factor_goes_through_views_into_weights_and_bias(bias):
    g = Graph()
    q = in_heads(g, projected(g, tokens(g), bias=bias))
    assert not check(g, g.Mul(q, g.constant(0.3)))["Mul"]


def test_a_factor_of_each_feature_is_one_of_columns():
    g = Graph()
    scale = g.constant(normal(WIDTH))
    assert not check(g, g.Mul(scale, projected(g, tokens(g))))["Mul"]


def test_a_factor_of_each_head_is_one_of_columns():
    g = Graph()
    scale = g.constant(normal(HEADS, 1, 1))
    assert not check(g, g.Mul(in_heads(g, projected(g, tokens(g))), scale))["Mul"]


def test_the_scale_of_scores_goes_into_one_of_the_projections():
    g = Graph()
    q, k = in_heads(g, projected(g, tokens(g))), g.input("k", normal(2, HEADS, DEPTH, 7))
    assert not check(g, g.Mul(g.MatMul(q, k), g.constant(0.3)))["Mul"]
    g = Graph()
    q, k = g.input("q", normal(2, HEADS, 7, TOKENS)), in_heads(g, projected(g, tokens(g)))
    assert not check(g, g.Mul(g.MatMul(q, k), g.constant(0.3)))["Mul"]


def test_a_factor_of_a_part_is_one_of_its_columns():
    g = Graph()
    sizes = g.constant([WIDTH] * 3, np.int64)
    parts = g.Split(projected(g, tokens(g), 3 * WIDTH), sizes, results=3, axis=-1)
    q = g.Mul(in_heads(g, parts[1]), g.constant(0.3))
    total = g.Add(g.Add(q, in_heads(g, parts[0])), in_heads(g, parts[2]))
    assert not check(g, total)["Mul"]


def test_a_factor_of_a_gathered_part_is_one_of_its_columns():
    g = Graph()
    apart = g.shaped(projected(g, tokens(g), 3 * WIDTH), 2, TOKENS, 3, HEADS, DEPTH)
    whole = g.turned(apart, 2, 0, 3, 1, 4)
    q, k, v = (g.Gather(whole, g.constant(i, np.int64), axis=0) for i in range(3))
    left = check(g, g.Add(g.Add(g.Mul(q, g.constant(0.3)), k), v))
    assert not left["Mul"] and not left["Gather"] and left["Slice"] == 3


def test_gemm_takes_a_factor_through_a_view():
    for transposed in (0, 1):
        g = Graph()
        weight = g.constant(normal(WIDTH, 6) if transposed else normal(6, WIDTH))
        x = g.input("x", normal(10, 6))
        flat = g.Gemm(x, weight, g.constant(normal(WIDTH)), transB=transposed, alpha=0.5)
        whole = g.shaped(flat, 2, TOKENS, WIDTH)
        assert not check(g, g.Mul(whole, g.constant(normal(WIDTH))))["Mul"]


def test_a_value_with_other_readers_keeps_its_scale():
    g = Graph()
    q = projected(g, tokens(g))
    assert check(g, g.Add(g.Mul(q, g.constant(0.3)), g.Relu(q)))["Mul"] == 1


def test_overlapping_slices_keep_their_scale():
    g = Graph()
    q = projected(g, tokens(g))
    scaled = g.Mul(g.cut(q, -1, 0, 8), g.constant(0.3))
    assert check(g, g.Add(scaled, g.cut(q, -1, 4, 12)))["Mul"] == 1


def test_a_factor_of_each_token_stays():
    g = Graph()
    scale = g.constant(normal(TOKENS, 1))
    assert check(g, g.Mul(projected(g, tokens(g)), scale))["Mul"] == 1


def test_the_scale_of_inputs_stays():
    g = Graph()
    q, k = g.input("q", normal(2, TOKENS, 4)), g.input("k", normal(2, 4, 7))
    assert check(g, g.Mul(g.MatMul(q, k), g.constant(0.3)))["Mul"] == 1


# ------------------------------------------------------------------ gathers


@pytest.mark.parametrize(
    ("indices", "operators"),
    [
        (2, {"Slice": 1, "Reshape": 1}),
        (-1, {"Slice": 1, "Reshape": 1}),
        ([1, 2, 3], {"Slice": 1, "Reshape": 1}),
        ([[0, 2], [4, 6]], {"Slice": 1, "Reshape": 1}),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], {"Reshape": 1}),
        (np.repeat(np.arange(8), 3), {"Reshape": 2, "Expand": 1}),
        (np.tile(np.arange(8), 2), {"Reshape": 2, "Expand": 1}),
        ([3, 2, 1], {"Gather": 1}),
        ([0, 1, 3], {"Gather": 1}),
        ([0, 0], {"Gather": 1}),
    ],
)
def test_gathers_by_constants(indices, operators):
    g = Graph()
    x = g.input("x", normal(2, 8, 3))
    assert check(g, g.Gather(x, g.constant(indices, np.int64), axis=1)) == operators


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_points_that_count_are_a_view(order):
    points = np.stack(np.meshgrid(np.arange(2), np.arange(4), indexing="ij"), -1)
    points = points.transpose(*order, 2).reshape(points.shape[order[0]], 1, -1, 2)
    g = Graph()
    x = g.input("x", normal(2, 4))
    assert not check(g, g.GatherND(x, g.constant(points, np.int64)))["GatherND"]


def test_points_elsewhere_are_gathered():
    g = Graph()
    x = g.input("x", normal(2, 4))
    assert check(g, g.GatherND(x, g.constant([[0, 1], [1, 3]], np.int64)))["GatherND"] == 1


# ------------------------------------------------------------------ masks

CAUSAL = np.tril(np.ones((6, 6), bool))


def joined(given: np.ndarray) -> tuple[Graph, str]:
    g = Graph()
    both = g.And(g.input("given", given), g.constant(CAUSAL, bool))
    bias = g.Where(both, g.constant(0), g.constant(np.finfo(np.float32).min))
    return g, g.Softmax(g.Add(g.input("s", normal(2, 3, 6, 6)), bias), axis=-1)


@pytest.mark.parametrize("shape", [(2, 1, 1, 6), (6,), (2, 3, 6, 6)])
def test_a_causal_mask_is_told_from_padding(shape):
    g, shares = joined(normal(*shape) > -1)
    left = check(g, shares)
    assert not left["And"] and left["Where"] == 2


def test_a_mask_that_enlarges_the_scores_stays_whole():
    g = Graph()
    both = g.And(g.input("given", normal(2, 1, 6, 6) > -1), g.constant(CAUSAL, bool))
    bias = g.Where(both, g.constant(0), g.constant(-1e30))
    assert check(g, g.Softmax(g.Add(g.input("s", normal(6, 6)), bias), axis=-1))["And"] == 1


def fills(mask: np.ndarray) -> float:
    g = Graph()
    s = g.Where(g.constant(mask, bool), g.input("s", normal(2, 6, 6)), g.constant(-1e4))
    model = g.form(g.Softmax(s, axis=-1), np.zeros((2, 6, 6))).model
    after = simplify(model).to_model()
    (where,) = (node for node in after.graph.node if node.op_type == "Where")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in after.graph.initializer}
    return float(values[where.input[2]])


def test_what_a_constant_mask_hides_is_hidden_entirely():
    assert fills(CAUSAL) == np.finfo(np.float32).min


def test_a_row_without_anything_keeps_its_finite_fill():
    assert fills(CAUSAL & (np.arange(6) > 0)) == -1e4
