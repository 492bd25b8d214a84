"""What nobody reads is not computed, as far back as nothing else needs the whole."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import Graph, normal
from onnx.reference import ReferenceEvaluator

from ansor_lite.frontend.onnx_rewrites import simplify
from ansor_lite.frontend.onnx_shapes import static_shapes


def check(g, result):
    """The operators that are left with the shapes of their results; the values stay."""
    model = g.form(result, np.zeros(())).model
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = simplify(model)
    before, found = (ReferenceEvaluator(m).run(None, g.feeds)[0] for m in (model, graph.to_model()))
    np.testing.assert_allclose(found, before, rtol=1e-5, atol=1e-5)
    shapes = static_shapes(graph)
    return [(n.op_type, shapes[n.output[0]]) for n in graph.nodes if n.op_type != "Identity"]


def first(g, x, axis=1):
    return g.cut(x, axis, 0, 1)


def norm(g, x, features=6):
    scale, bias = g.constant(normal(features)), g.constant(normal(features, seed=1))
    return g.LayerNormalization(x, scale, bias, axis=-1)


def dense(g, x, seed=0, features=6):
    return g.MatMul(x, g.constant(normal(features, features, seed=seed)))


def test_the_last_layer_is_computed_for_the_token_that_is_read():
    g = Graph()
    x = g.input("x", normal(2, 5, 6))
    hidden = g.Add(x, dense(g, g.Erf(dense(g, norm(g, x)))))
    found = check(g, g.Relu(first(g, norm(g, hidden))))
    assert found[0] == ("Slice", (2, 1, 6)) and [op for op, _ in found].count("Slice") == 1
    assert all(shape == (2, 1, 6) for _, shape in found)


def test_one_query_attends_to_all_keys():
    g = Graph()
    x = g.input("x", normal(2, 5, 6))
    q, k, v = (g.turned(g.shaped(dense(g, x, seed), 2, 5, 3, 2), 0, 2, 1, 3) for seed in range(3))
    shares = g.Softmax(g.MatMul(q, g.turned(k, 0, 1, 3, 2)), axis=-1)
    shares = g.Where(g.IsNaN(shares), g.constant(0), shares)
    found = check(g, first(g, g.shaped(g.turned(g.MatMul(shares, v), 0, 2, 1, 3), 2, 5, 6)))
    assert ("Softmax", (2, 3, 1, 5)) in found
    products = [shape for op, shape in found if op == "MatMul"]
    assert (2, 1, 6) in products and (2, 5, 12) in products  # queries; keys and values


def test_gemm_behind_a_view_computes_the_rows_that_are_read():
    g = Graph()
    x = g.input("x", normal(7, 6))
    bias, added = g.constant(normal(8)), g.constant(normal(7, 8))
    whole = g.Add(g.Gemm(x, g.constant(normal(6, 8)), bias), added)
    found = check(g, g.Relu(first(g, g.Unsqueeze(whole, g.constant([0], np.int64)))))
    assert ("Gemm", (1, 8)) in found


def stays(build):
    g = Graph()
    found = check(g, build(g, g.input("x", normal(2, 6, 6))))
    return [op for op, _ in found].index("Slice") > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda g, x: g.Relu(first(g, dense(g, x), 2)),
        lambda g, x: g.Relu(first(g, g.Softmax(x, axis=1))),
        lambda g, x: g.Relu(first(g, norm(g, x), 2)),
        lambda g, x: g.Relu(g.cut(dense(g, x), 1, 0, 5)),
        lambda g, x: g.Relu(first(g, g.CumSum(x, g.constant(1, np.int64)))),
        lambda g, x: g.Relu(first(g, g.shaped(g.Exp(g.shaped(x, 12, 6)), 3, 4, 6))),
    ],
    ids=["columns", "mixed by softmax", "mixed by a norm", "most of it", "a scan", "a torn view"],
)
def test_slices_stay_where(build):
    assert stays(build)


def test_a_value_that_others_read_is_computed_whole():
    def build(g, x):
        y = dense(g, x)
        return g.Add(first(g, y), y)

    assert stays(build)


def test_two_different_slices_leave_the_value_whole():
    def build(g, x):
        y = dense(g, x)
        return g.Add(first(g, y), g.cut(y, 1, 1, 2))

    assert stays(build)
