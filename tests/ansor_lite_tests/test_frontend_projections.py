"""Projections keep the shape of what they read; small ones of one value are one product."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import Graph, normal
from test_attention_forms import products_of
from test_frontend_scales import check

from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import plan_network

FEATURES, HEADS = 12, 3


def gemm(g, x, *, bias=True, transposed=False, **attributes):
    shape = (8, FEATURES) if transposed else (FEATURES, 8)
    operands = [g.constant(normal(*shape)), *([g.constant(normal(8))] if bias else [])]
    return g.Gemm(x, *operands, transB=int(transposed), **attributes)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_flattened_product_takes_the_tokens_as_they_are(bias, transposed):
    g = Graph()
    x = g.shaped(g.input("x", normal(2, 5, FEATURES)), 10, FEATURES)
    left = check(g, g.Relu(g.shaped(gemm(g, x, bias=bias, transposed=transposed), 2, 5, 8)))
    assert left == {"MatMul": 1, "Relu": 1} | ({"Add": 1} if bias else {})


def test_heads_are_joined_and_tokens_parted_by_one_view():
    g = Graph()
    x = g.turned(g.input("x", normal(2, HEADS, 5, 4)), 0, 2, 1, 3)
    left = check(g, g.Relu(g.shaped(gemm(g, g.shaped(x, 10, FEATURES)), 2, 5, 8)))
    assert left == {"Transpose": 1, "Reshape": 1, "MatMul": 1, "Add": 1, "Relu": 1}


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}])
def test_a_scaled_gemm_stays(attributes):
    g = Graph()
    x = g.shaped(g.input("x", normal(2, 5, FEATURES)), 10, FEATURES)
    assert check(g, g.Relu(g.shaped(gemm(g, x, **attributes), 2, 5, 8)))["Gemm"] == 1


def test_a_gemm_whose_columns_are_parted_stays():
    g = Graph()
    x = g.shaped(g.input("x", normal(2, 5, FEATURES)), 10, FEATURES)
    assert check(g, g.Relu(g.shaped(gemm(g, x), 2, 5, 2, 4)))["Gemm"] == 1


# ------------------------------------------------------------------ joined


def heads(g, x, seed, *, bias=True, width=FEATURES):
    flat = g.MatMul(x, g.constant(normal(width, width, seed=seed) / 8))
    flat = g.Add(flat, g.constant(normal(width, seed=seed))) if bias else flat
    return g.turned(g.shaped(flat, 0, 0, HEADS, -1), 0, 2, 1, 3)


def attended(g, q, k, v):
    shares = g.Softmax(g.MatMul(q, g.turned(k, 0, 1, 3, 2)), axis=-1)
    return g.MatMul(shares, v)


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_small_projections_of_one_value_are_one(biases):
    g = Graph()
    x = g.input("x", normal(2, 5, FEATURES))
    q, k, v = (heads(g, x, seed, bias=bias) for seed, bias in enumerate(biases))
    left = check(g, attended(g, q, k, v))
    assert left["MatMul"] == 3 and left["Slice"] == 3 and left["Add"] == any(biases)


def test_keys_and_values_of_another_value_are_one():
    g = Graph()
    x, memory = g.input("x", normal(2, 5, FEATURES)), g.input("m", normal(2, 7, FEATURES))
    left = check(g, attended(g, heads(g, x, 0), heads(g, memory, 1), heads(g, memory, 2)))
    assert left["MatMul"] == 4 and left["Slice"] == 2


def test_attention_reads_the_slices_where_they_lie():
    g = Graph()
    x = g.input("x", normal(2, 5, FEATURES))
    made = g.form(attended(g, *(heads(g, x, seed) for seed in range(3))), np.zeros((2, 3, 5, 4)))
    counts = products_of(plan_network(import_network(made.model)))
    assert sorted(counts.values()) == [1, 2]


def test_large_projections_stay_apart():
    g = Graph()
    x = g.input("x", normal(2, 64, 384))
    q, k, v = (heads(g, x, seed, width=384) for seed in range(3))
    assert check(g, attended(g, q, k, v))["Slice"] == 0


def test_projections_that_are_rotated_stay_apart():
    g = Graph()
    x = g.input("x", normal(2, 5, FEATURES))
    q, k, v = (heads(g, x, seed) for seed in range(3))
    left = check(g, attended(g, g.Mul(q, g.constant(normal(5, 4))), g.Neg(k), v))
    assert left["MatMul"] == 5


def test_a_projection_that_others_read_stays_apart():
    g = Graph()
    x = g.input("x", normal(2, 5, FEATURES))
    q, k, v = (heads(g, x, seed) for seed in range(3))
    assert check(g, g.Add(attended(g, q, k, v), g.Add(q, g.Add(k, v))))["Slice"] == 0
