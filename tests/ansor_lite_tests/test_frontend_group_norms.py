"""Norms over groups of channels are one task, however they are written, and lose no digits."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import Graph, normal
from small_models import relative_error

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.frontend.onnx_rewrites import simplify
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native

N, C, SIZES, GROUPS, EPSILON = 2, 12, (5, 6), 3, 1e-5
SCALE, SHIFT = normal(C, seed=1), normal(C, seed=2)


def mean(g, x, *axes):
    if g.opset < 18:
        return g.ReduceMean(x, axes=axes, keepdims=1)
    return g.ReduceMean(x, g.constant(axes, np.int64), keepdims=1)


def normed(g, x, *axes):
    centred = g.Sub(x, mean(g, x, *axes))
    squares = mean(g, g.Mul(centred, centred), *axes)
    return g.Mul(centred, g.Reciprocal(g.Sqrt(g.Add(squares, g.constant(EPSILON)))))


def by_channel(g, x, shape=(C, 1, 1)):
    return g.Add(g.Mul(x, g.constant(SCALE.reshape(shape))), g.constant(SHIFT.reshape(shape)))


def of_instances(g, x):
    """PyTorch's exporter."""
    scale, shift = g.constant(np.ones(GROUPS)), g.constant(np.zeros(GROUPS))
    groups = g.shaped(x, 0, GROUPS, -1)
    result = g.InstanceNormalization(groups, scale, shift, epsilon=EPSILON)
    return by_channel(g, g.shaped(result, N, C, *SIZES))


def of_means(g, x):
    result = normed(g, g.shaped(x, N, GROUPS, -1), 2)
    return by_channel(g, g.shaped(result, N, C, *SIZES), (1, C, 1, 1))


def of_means_over_all_axes(g, x):
    result = normed(g, g.shaped(x, N, GROUPS, C // GROUPS, *SIZES), -3, -2, -1)
    return by_channel(g, g.shaped(result, N, C, *SIZES))


def of_the_operator(g, x):
    scale, shift = g.constant(SCALE), g.constant(SHIFT)
    return g.GroupNormalization(x, scale, shift, epsilon=EPSILON, num_groups=GROUPS)


FORMS = {of_instances: (13, 20), of_means: (13, 20), of_means_over_all_axes: (17, 20)}
CASES = [(form, opset) for form, opsets in FORMS.items() for opset in opsets]


def groups_of(x, groups=GROUPS):
    """Each at mean 0 and variance 1, in float64."""
    rows = x.astype(np.float64).reshape(len(x), groups, -1)
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + EPSILON)
    return rows.reshape(x.shape)


def affine(x):
    return x * SCALE.reshape(C, 1, 1) + SHIFT.reshape(C, 1, 1)


def names_after_check(g, result, expected, tolerance=1e-6):
    """Tasks of the graph, whose values are compared."""
    form = g.form(result, expected)
    graph = plan_network(import_network(form.model))
    found = compile_graph(graph, lambda task: None, native(2)).run(form.feeds)["y"]
    assert relative_error(found, expected) < tolerance
    assert not graph.opaque
    return [task.name.split(" ")[0] for task in graph.tasks]


@pytest.mark.parametrize(("form", "opset"), [*CASES, (of_the_operator, 21)])
def test_a_group_norm_is_one_task(form, opset):
    g = Graph(opset)
    x = g.input("x", normal(N, C, *SIZES))
    expected = affine(groups_of(g.feeds["x"]))
    assert names_after_check(g, form(g, x), expected) == ["group_norm"]


@pytest.mark.parametrize(("form", "opset"), [*CASES, (of_the_operator, 21)])
def test_between_convolutions_it_takes_the_activation_and_no_copy(form, opset):
    g = Graph(opset)
    x = g.input("x", normal(N, C, *SIZES))
    identity = g.constant(np.eye(C).reshape(C, C, 1, 1))
    y = form(g, g.Conv(x, identity))
    exact = affine(groups_of(g.feeds["x"]))
    silu = g.Conv(g.Mul(y, g.Sigmoid(y)), identity)
    names = names_after_check(g, silu, exact / (1 + np.exp(-exact)))
    assert [n for n in names if "norm" in n] == ["group_norm_sigmoid_multiply"]
    assert sum("transpose" in n for n in names) <= 2  # the network's input and output


def test_a_large_mean_does_not_cancel():
    g = Graph(21)
    x = g.input("x", normal(N, C, *SIZES) + np.float32(1000))
    names_after_check(g, of_the_operator(g, x), affine(groups_of(g.feeds["x"])), 1e-4)


def test_the_operator_once_had_a_scale_for_each_group():
    g = Graph(18)
    x = g.input("x", normal(N, C, *SIZES))
    scale, shift = (normal(GROUPS, seed=n) for n in (1, 2))
    y = g.GroupNormalization(
        x, g.constant(scale), g.constant(shift), epsilon=EPSILON, num_groups=GROUPS
    )
    wide = [np.repeat(v, C // GROUPS).reshape(C, 1, 1) for v in (scale, shift)]
    expected = groups_of(g.feeds["x"]) * wide[0] + wide[1]
    assert names_after_check(g, y, expected) == ["group_norm"]


def test_an_instance_norm_is_one_group_a_channel():
    g = Graph()
    x = g.input("x", normal(N, C, *SIZES))
    y = g.InstanceNormalization(x, g.constant(SCALE), g.constant(SHIFT), epsilon=EPSILON)
    expected = affine(groups_of(g.feeds["x"], C))
    assert names_after_check(g, y, expected) == ["group_norm"]


def twice_read(g, x):
    result = normed(g, g.shaped(x, N, GROUPS, -1), 2)
    return by_channel(g, g.Add(g.shaped(result, N, C, *SIZES), g.shaped(result, N, C, *SIZES)))


def groups_across_images(g, x):
    result = normed(g, g.shaped(x, 1, N * GROUPS, -1), 2)
    return by_channel(g, g.shaped(result, N, C, *SIZES))


def with_another_shape_behind(g, x):
    return g.shaped(normed(g, g.shaped(x, N, GROUPS, -1), 2), N, C, SIZES[1], SIZES[0])


@pytest.mark.parametrize("form", [twice_read, groups_across_images, with_another_shape_behind])
def test_what_is_no_group_norm_stays(form):
    g = Graph()
    made = g.form(form(g, g.input("x", normal(N, C, *SIZES))), np.zeros((N, C, *SIZES)))
    assert "GroupNormalization" not in {node.op_type for node in simplify(made.model).nodes}


def test_a_scale_along_an_image_stays_behind():
    g = Graph()
    x = g.input("x", normal(N, C, *SIZES))
    y = g.shaped(normed(g, g.shaped(x, N, GROUPS, -1), 2), N, C, *SIZES)
    along = normal(SIZES[1])
    expected = groups_of(g.feeds["x"]) * along
    assert names_after_check(g, g.Mul(y, g.constant(along)), expected) == ["group_norm_multiply"]
