"""Norms that exporters wrote out become one operator, in models of any opset."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from attention_graphs import Graph, normal
from small_models import relative_error

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.frontend.onnx_rewrites import simplify
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native

FEATURES = 24


def mean(g, x):
    if g.opset < 18:
        return g.ReduceMean(x, axes=[-1], keepdims=1)
    return g.ReduceMean(x, g.constant([2], np.int64), keepdims=1)


def root(g, squares):
    return g.Sqrt(g.Add(mean(g, squares), g.constant(1e-5)))


def scaled(g, x):
    return g.Mul(g.constant(normal(FEATURES)), x)


def layer_norm_of_torch(g, x):
    centred = g.Sub(x, mean(g, x))
    normed = g.Div(centred, root(g, g.Pow(centred, g.constant(2))))
    return g.Add(scaled(g, normed), g.constant(normal(FEATURES, seed=1)))


def layer_norm_with_two_differences(g, x):
    square = g.Sub(x, mean(g, x))
    normed = g.Mul(g.Sub(x, mean(g, x)), g.Reciprocal(root(g, g.Mul(square, square))))
    return g.Add(scaled(g, normed), g.constant(normal(FEATURES, seed=1)))


def layer_norm_without_weights(g, x):
    centred = g.Sub(x, mean(g, x))
    return g.Div(centred, root(g, g.Mul(centred, centred)))


def rms_norm_of_llama(g, x):
    inverse = g.Reciprocal(root(g, g.Pow(x, g.constant(2))))
    return scaled(g, g.Cast(g.Mul(x, inverse), to=1))


def rms_norm_of_t5(g, x):
    return scaled(g, g.Mul(x, g.Div(g.constant(1), root(g, g.Pow(x, g.constant(2))))))


def rms_norm_by_a_power(g, x):
    squares = mean(g, g.Mul(x, x))
    return scaled(g, g.Mul(g.Pow(g.Add(squares, g.constant(1e-5)), g.constant(-0.5)), x))


NORMS = {
    layer_norm_of_torch: "LayerNormalization",
    layer_norm_with_two_differences: "LayerNormalization",
    layer_norm_without_weights: "LayerNormalization",
    rms_norm_of_llama: "RMSNormalization",
    rms_norm_of_t5: "RMSNormalization",
    rms_norm_by_a_power: "RMSNormalization",
}


def form(build, opset):
    g = Graph(opset)
    x = g.input("x", normal(2, 5, FEATURES))
    return g.form(build(g, x), np.zeros((2, 5, FEATURES)))


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("build", NORMS)
def test_a_norm_is_one_operator(build, opset):
    made = form(build, opset)
    kinds = [node.op_type for node in simplify(made.model).nodes]
    assert [kind for kind in kinds if kind in NORMS.values()] == [NORMS[build]]
    assert kinds[-1] == "Identity"
    graph = plan_network(import_network(made.model))
    assert len(graph.tasks) == 1
    module = compile_graph(graph, lambda task: None, native(2))
    session = onnxruntime.InferenceSession(
        made.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, made.feeds)[0]
    assert relative_error(module.run(made.feeds)["y"], expected) < 1e-5


def other_epsilon(g, x):
    return g.Div(x, g.Sqrt(g.Add(mean(g, g.Mul(x, x)), g.constant(normal(2, 1, 1)))))


def other_square(g, x):
    return g.Div(x, root(g, g.Mul(x, g.Relu(x))))


def other_centre(g, x):
    return g.Div(g.Sub(x, mean(g, x)), root(g, g.Mul(x, x)))


def other_power(g, x):
    return g.Div(x, root(g, g.Pow(x, g.constant(4))))


@pytest.mark.parametrize("build", [other_epsilon, other_square, other_centre, other_power])
def test_other_quotients_stay(build):
    kinds = {node.op_type for node in simplify(form(build, 20).model).nodes}
    assert not kinds & set(NORMS.values())


def test_a_scale_of_each_token_stays_behind_the_norm():
    def build(g, x):
        normed = g.Div(x, root(g, g.Mul(x, x)))
        return g.Mul(normed, g.constant(normal(5, 1)))

    kinds = [node.op_type for node in simplify(form(build, 20).model).nodes]
    assert kinds.count("Mul") == 2 and "RMSNormalization" in kinds
