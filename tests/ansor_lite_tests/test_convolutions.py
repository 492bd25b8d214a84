"""Groups and phases as axes: the values of the plain definition, and no product too many."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import small_models
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from test_workloads import direct_convolution

from ansor_lite import workloads
from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import Graph, plan_network
from ansor_lite.phases import in_channels, phase_weights, phases
from ansor_lite.target import native
from ansor_lite.tasks import Task
from schedules.evaluate import evaluate
from schedules.plan import stage_accesses

Array = NDArray[Any]
PLAIN = {"bias": False, "activation": None}


def scattered(x: Array, w: Array, stride: int, padding: int, extra: int) -> Array:
    """Every input times the kernel, added where it lands; ``w: [kh, kw, ci, co]``."""
    kh, kw = w.shape[:2]
    sizes = [(m - 1) * stride + k + extra for m, k in zip(x.shape[:2], (kh, kw), strict=True)]
    result = np.zeros((*sizes, w.shape[-1]))
    for i, j in np.ndindex(*x.shape[:2]):
        tap = np.tensordot(x[i, j], w, axes=([0], [2]))
        result[i * stride : i * stride + kh, j * stride : j * stride + kw] += tap
    return result[padding : sizes[0] - padding, padding : sizes[1] - padding]


def products(task: Task) -> int:
    return prod(a.extent for a in task.dag.stage("conv").axes)


@st.composite
def transposed(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    kernel, stride = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    extra = draw(st.integers(0, stride - 1))
    most = ((min(h, w) - 1) * stride + kernel + extra - 1) // 2
    return h, w, kernel, stride, draw(st.integers(0, most)), extra


@settings(max_examples=60, deadline=None)
@given(transposed(), st.sampled_from([1, 2]))
def test_phases_add_up_to_the_transposed_convolution(
    sizes: tuple[int, int, int, int, int, int], groups: int
) -> None:
    h, w, kernel, stride, padding, extra = sizes
    task = workloads.conv2d_transpose(
        1, h, w, 4, 6, kernel, stride, padding, extra, groups, **PLAIN
    )
    rng = np.random.default_rng(1)
    x, weight = (
        rng.standard_normal((h, w, 4)),
        rng.standard_normal((kernel, kernel, 4, 6 // groups)),
    )
    extents = [(m - 1) * stride - 2 * padding + kernel + extra for m in (h, w)]
    dimensions = [
        phases(m, kernel, stride, padding, e) for m, e in zip((h, w), extents, strict=True)
    ]
    shapes = [t.shape for t in task.dag.inputs]
    feeds = {"data": x.reshape(shapes[0])}
    feeds["weight"] = phase_weights(weight, dimensions).reshape(shapes[1])
    (found,) = evaluate(task.dag, feeds).values()
    found = found.reshape([d.blocks * d.count for d in dimensions] + [6])
    found = found[tuple(slice(d.start, d.start + d.extent) for d in dimensions)]
    parts = zip(np.split(x, groups, -1), np.split(weight, groups, -2), strict=True)
    expected = [scattered(a, b, stride, padding, extra) for a, b in parts]
    np.testing.assert_allclose(found, np.concatenate(expected, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(4, 4, 2, 1), (8, 4, 2, 1), (3, 3, 3, 0), (5, 2, 2, 0)],
)
def test_no_zero_is_multiplied(size: int, kernel: int, stride: int, padding: int) -> None:
    task = workloads.conv2d_transpose(1, size, size, 3, 2, kernel, stride, padding, **PLAIN)
    extent = (size - 1) * stride - 2 * padding + kernel
    assert products(task) == (extent * kernel // stride) ** 2 * 3 * 2


@settings(max_examples=30, deadline=None)
@given(transposed(), st.integers(1, 3))
def test_phases_beside_each_other_in_the_channels(
    sizes: tuple[int, int, int, int, int, int], width: int
) -> None:
    _, size, kernel, stride, padding, extra = sizes
    extent = (size - 1) * stride - 2 * padding + kernel + extra
    dimension = phases(size, kernel, stride, padding, extent)
    rng = np.random.default_rng(4)
    x, weight = rng.standard_normal((size, 2)), rng.standard_normal((kernel, 2, width))
    wide, single = in_channels(phase_weights(weight, [dimension]), dimension, 4)
    padded = np.pad(x, ((single.reach + kernel, single.reach + kernel), (0, 0)))
    first = single.reach + kernel - single.before
    found = [
        sum(padded[first + q + d] @ wide[0, d] for d in range(single.window))
        for q in range(single.blocks)
    ]
    values = np.array(found).reshape(-1, 4)
    expected = scattered(x[None], weight[None], stride, 0, extra)[0]
    np.testing.assert_allclose(
        values[dimension.start : dimension.start + extent, :width],
        expected[padding : padding + extent],
        rtol=1e-5,
        atol=1e-5,
    )
    assert not values[:, width:].any()


def test_a_single_input_meets_every_tap_once() -> None:
    task = workloads.conv2d_transpose(1, 1, 1, 8, 16, 4, **PLAIN)
    assert products(task) == 4 * 4 * 8 * 16


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([(2, 4, 6), (4, 8, 4), (3, 3, 6), (2, 2, 8), (5, 5, 5)]),
)
def test_groups_are_convolutions_side_by_side(
    kernel: int, stride: int, padding: int, dilation: int, channels: tuple[int, int, int]
) -> None:
    groups, ci, co = channels
    task = workloads.conv2d(1, 6, 5, ci, co, kernel, stride, padding, dilation, groups, **PLAIN)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 6, 5, ci))
    weight = rng.standard_normal((kernel, kernel, ci // groups, co))
    shapes = [t.shape for t in task.dag.inputs]
    by_group = weight.reshape(kernel, kernel, ci // groups, groups, -1).swapaxes(2, 3)
    feeds = {"data": x.reshape(shapes[0]), "weight": by_group.reshape(shapes[1])}
    (found,) = evaluate(task.dag, feeds).values()
    expected = direct_convolution(x, weight, stride, padding, dilation, groups)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
    assert None not in {i for a in stage_accesses(task.dag.stage("conv")) for i in a.indices}


# ------------------------------------------------------------------ networks


def compiled(nodes: list[Any], shape: tuple[int, ...], constants: dict[str, Array]) -> Graph:
    """The plan of a network, after comparing what it computes with onnxruntime."""
    model = small_models.build(nodes, {"x": (TensorProto.FLOAT, shape)}, ["y"], constants)
    graph = plan_network(import_network(model))
    module = compile_graph(graph, lambda task: None, native(2))
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    expected = small_models.reference(model, {"x": x})
    assert small_models.relative_error(module.run({"x": x})["y"], expected["y"]) < 1e-5
    return graph


def kernels(graph: Graph) -> list[str]:
    return [t.name.partition(" ")[0] for t in graph.tasks for _ in range(t.weight)]


def shapes(graph: Graph) -> set[tuple[int, ...]]:
    """Of all that tasks read."""
    return {tensor.shape for task in graph.tasks for tensor in task.dag.inputs}


def transposed_convolution(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    attributes: dict[str, Any],
    computed: bool = False,
) -> Graph:
    """With a bias and an activation; weights that are ``computed`` depend on the input."""
    mean = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0)]
    nodes = [
        *(mean if computed else ()),
        *([helper.make_node("Mul", ["w", "m"], ["v"])] if computed else ()),
        helper.make_node(
            "ConvTranspose", ["x", "v" if computed else "w", "b"], ["c"], **attributes
        ),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    channels = weight[1] * attributes.get("group", 1)
    constants = {"w": small_models.weight(*weight), "b": small_models.weight(channels)}
    return compiled(nodes, shape, constants)


def test_generator_is_one_kernel_a_layer() -> None:
    node, up = helper.make_node, {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        node("ConvTranspose", ["x", "w0"], ["c0"]),
        node("BatchNormalization", ["c0", "scale", "shift", "mean", "var"], ["b0"]),
        node("Relu", ["b0"], ["a0"]),
        node("ConvTranspose", ["a0", "w1", "mean"], ["c1"], **up),
        node("Relu", ["c1"], ["a1"]),
        node("ConvTranspose", ["a1", "w2"], ["c2"], **up),
        node("Tanh", ["c2"], ["y"]),
    ]
    constants = {"w0": small_models.weight(6, 16, 4, 4), "w1": small_models.weight(16, 16, 4, 4)}
    constants |= {"w2": small_models.weight(16, 3, 4, 4), "scale": np.ones(16, np.float32) * 2}
    constants |= {name: small_models.weight(16, seed=2) for name in ("shift", "mean")}
    constants["var"] = np.ones(16, np.float32)
    graph = compiled(nodes, (1, 6, 1, 1), constants)
    layers = ["conv2d_transpose_add_relu", "conv2d_transpose_add_relu", "conv2d_transpose_tanh"]
    assert kernels(graph) == [*layers, "strided_slice_transpose"]


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((2, 4, 7), (4, 3, 8), {"strides": [4], "pads": [2, 2]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [1, 2], "group": 2, "pads": [0, 1, 1, 0]}),
        ((1, 4, 5, 6), (4, 1, 4, 4), {"strides": [2, 2], "group": 4, "pads": [1, 1, 1, 1]}),
        ((1, 4, 3, 4, 2), (4, 3, 2, 2, 2), {"strides": [2, 2, 2]}),
    ],
    ids=["1d-crop", "output-padding", "groups", "depthwise", "3d"],
)
def test_transposed_convolutions_go_by_phases_with_channels_last(
    shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    graph = transposed_convolution(shape, weight, attributes)
    assert weight not in shapes(graph)
    assert kernels(graph)[0].startswith("transpose")  # the network's input


@pytest.mark.parametrize(
    ("attributes", "computed"),
    [({"dilations": [2, 2], "strides": [2, 2]}, False), ({"strides": [2, 2]}, True)],
    ids=["dilated", "weights-that-are-computed"],
)
def test_what_has_no_phases_keeps_its_channels_first(
    attributes: dict[str, Any], computed: bool
) -> None:
    graph = transposed_convolution((1, 4, 5, 6), (4, 3, 3, 3), attributes, computed)
    assert (4, 3, 3, 3) in shapes(graph)
    assert kernels(graph)[-1] == "conv2d_transpose_add_relu"
    assert not any("transpose" in name.split("_") for name in kernels(graph)[:-1])


def test_grouped_convolutions_hand_over_without_a_copy() -> None:
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": 2}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c0"], **conv),
        helper.make_node("Relu", ["c0"], ["a0"]),
        helper.make_node("Conv", ["a0", "w", "b"], ["c1"], **conv),
        helper.make_node("Add", ["c1", "a0"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    constants = {"w": small_models.weight(8, 4, 3, 3), "b": small_models.weight(8)}
    graph = compiled(nodes, (1, 8, 6, 6), constants)
    layers = ["conv2d_add_relu", "conv2d_add_add_relu"]
    assert kernels(graph) == ["transpose", *layers, "transpose"]


@pytest.mark.parametrize(
    ("channels", "kernel", "last_groups", "copies"),
    [(16, 3, 4, 0), (16, 1, 4, 0), (16, 1, 1, 0), (24, 1, 4, 1)],
    ids=["three-by-three", "one-by-one", "dense", "cut-runs-stay"],
)
def test_a_channel_shuffle_disappears_into_the_weights_behind_it(
    channels: int, kernel: int, last_groups: int, copies: int
) -> None:
    node, groups = helper.make_node, 4
    pads = {"pads": [kernel // 2] * 4}
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], group=groups),
        node("Relu", ["c0"], ["a0"]),
        node("Reshape", ["a0", "split"], ["s0"]),
        node("Transpose", ["s0"], ["t0"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t0", "whole"], ["r0"]),
        node("Conv", ["r0", "w1", "b"], ["c1"], group=channels, pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["a1"]),
        node("Conv", ["a1", "w2", "b"], ["c2"], group=last_groups, **pads),
        node("Relu", ["c2"], ["y"]),
    ]
    constants = {
        "w0": small_models.weight(channels, channels // groups, 1, 1),
        "w1": small_models.weight(channels, 1, 3, 3),
        "w2": small_models.weight(channels, channels // last_groups, kernel, kernel),
        "b": small_models.weight(channels),
        "split": np.array([1, groups, channels // groups, 5, 5]),
        "whole": np.array([1, channels, 5, 5]),
    }
    graph = compiled(nodes, (1, channels, 5, 5), constants)
    assert kernels(graph).count("transpose") == 2 + copies  # the network's input and output
